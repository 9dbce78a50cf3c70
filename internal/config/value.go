package config

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
func (r *reader) memory(n *yaml.Node) int64 { return r.size(n, leastMemory, mostMemory) }

func (r *reader) size(n *yaml.Node, least, most int64) int64 {
	if !r.scalar(n, "a size such as 4GiB or 512MiB") {
		return 0
	}
	size, err := units.RAMInBytes(n.Value)
	if err != nil || !memoryText.MatchString(n.Value) {
		r.mistake(n, "'%s' is no size: write one such as 4GiB or 512MiB", n.Value)
		return 0
	}
	if size < least || size > most {
		r.mistake(n, "'%s' is not between %s and %s", n.Value, sizeText(least), sizeText(most))
		return 0
	}
	return size
}

// sizeText is a size in the largest unit in which it is whole.
func sizeText(size int64) string {
	unit := 0
	for size >= 1024 && size%1024 == 0 && unit < 4 {
		size, unit = size/1024, unit+1
	}
	return strconv.FormatInt(size, 10) + []string{"B", "KiB", "MiB", "GiB", "TiB"}[unit]
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

// integer reads a whole number; what names what is expected, with an example.
func (r *reader) integer(n *yaml.Node, what string, least, most int) int {
	if !r.scalar(n, what) {
		return least
	}
	c, err := strconv.Atoi(n.Value)
	if err != nil || n.ShortTag() != "!!int" {
		r.mistake(n, "'%.40s' is not %s", n.Value, what)
		return least
	}
	if c < least || c > most {
		r.mistake(n, "'%s' is not between %d and %d", n.Value, least, most)
		return least
	}
	return c
}

// number reads a number that is one: neither infinite nor NaN.
func (r *reader) number(n *yaml.Node) (float64, bool) {
	if !r.scalar(n, "a number") {
		return 0, false
	}
	x, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) || n.ShortTag() != "!!int" && n.ShortTag() != "!!float" {
		r.mistake(n, "'%.40s' is no number", n.Value)
		return 0, false
	}
	return x, true
}

// between is a number within bounds.
func (r *reader) between(n *yaml.Node, least, most float64) float64 {
	x, ok := r.number(n)
	if ok && (x < least || x > most) {
		r.mistake(n, "'%s' is not between %v and %v", n.Value, least, most)
		return least
	}
	return x
}

func (r *reader) boolean(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		r.mistake(n, "true or false was expected")
		return false
	}
	b, _ := strconv.ParseBool(n.Value)
	return b
}

// duration reads 30s, 5m or 1h30m within bounds.
func (r *reader) duration(n *yaml.Node, least, most time.Duration) time.Duration {
	if !r.scalar(n, "a time such as 30s or 5m") {
		return least
	}
	d, err := time.ParseDuration(n.Value)
	switch {
	case err != nil && n.ShortTag() == "!!int":
		r.mistake(n, "'%s' has no unit: write a time such as %ss or %sm", n.Value, n.Value, n.Value)
	case err != nil:
		r.mistake(n, "'%.40s' is no time: write one such as 30s, 5m or 1h30m", n.Value)
	case d < least || d > most:
		r.mistake(n, "'%s' is not between %s and %s", n.Value, durationText(least), durationText(most))
	default:
		return d
	}
	return least
}

// durationText is a duration without the zeros that its String has at the end: 5m rather than 5m0s.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = text[:len(text)-2]
	}
	if strings.HasSuffix(text, "h0m") {
		text = text[:len(text)-2]
	}
	return text
}

// word reads one of some words.
func (r *reader) word(n *yaml.Node, known ...string) string {
	if !r.scalar(n, "one of "+strings.Join(known, ", ")) {
		return ""
	}
	if !slices.Contains(known, n.Value) {
		r.mistake(n, "'%.40s' is none of %s%s", n.Value, strings.Join(known, ", "), didYouMean(n.Value, known))
		return ""
	}
	return n.Value
}
