package config

import (
	"math"
	"regexp"
	"strconv"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"go.yaml.in/yaml/v4"
)

// checkImage says what is wrong with the reference of an image.
func checkImage(text string) error {
	_, err := reference.ParseNormalizedNamed(text)
	return err
}

// Bounds of limits: below the least nothing starts, and above the most the number is a slip.
const (
	leastMemory    = 16 << 20
	mostMemory     = 1 << 50
	leastCPUs      = 0.01
	mostCPUs       = 4096
	leastProcesses = 8
	mostProcesses  = 1 << 22
)

var memoryText = regexp.MustCompile(`(?i)^[0-9]+(\.[0-9]+)?\s*(b|[kmgt](i?b)?)?$`)

// memory reads 512MiB, 4g or a number of bytes. As with Docker's --memory every unit is a power of 1024.
func (r *reader) memory(n *yaml.Node) int64 {
	if !r.scalar(n, "a size such as 4GiB or 512MiB") {
		return 0
	}
	size, err := units.RAMInBytes(n.Value)
	if err != nil || !memoryText.MatchString(n.Value) {
		r.mistake(n, "'%s' is no size: write one such as 4GiB or 512MiB", n.Value)
		return 0
	}
	if size < leastMemory || size > mostMemory {
		r.mistake(n, "'%s' is not between 16MiB and 1024TiB", n.Value)
		return 0
	}
	return size
}

func (r *reader) cpus(n *yaml.Node) float64 {
	if !r.scalar(n, "a number of cores such as 2 or 0.5") {
		return 0
	}
	c, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || math.IsNaN(c) {
		r.mistake(n, "'%s' is no number of cores: write one such as 2 or 0.5", n.Value)
		return 0
	}
	if c < leastCPUs || c > mostCPUs {
		r.mistake(n, "'%s' is not between %v and %v cores", n.Value, leastCPUs, mostCPUs)
		return 0
	}
	return c
}

func (r *reader) processes(n *yaml.Node) int {
	if !r.scalar(n, "a number of processes such as 4096") {
		return 0
	}
	c, err := strconv.Atoi(n.Value)
	if err != nil {
		r.mistake(n, "'%s' is no number of processes: write one such as 4096", n.Value)
		return 0
	}
	if c < leastProcesses || c > mostProcesses {
		r.mistake(n, "'%s' is not between %d and %d processes", n.Value, leastProcesses, mostProcesses)
		return 0
	}
	return c
}
