package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// group bounds what processes use together: a control group of the kernel, in version 2 or in both hierarchies of
// version 1 that it takes.
type group struct{ dirs []string }

// cgroupRoot is where the kernel's control groups are.
const cgroupRoot = "/sys/fs/cgroup"

// cpuPeriod is the time over which a share of processors is measured: the kernel's default.
const cpuPeriod = 100 * time.Millisecond

// errNoLimits is wrapped when the kernel or this user's rights allow no limits of memory and processors.
var errNoLimits = errors.New("memory and processors can not be limited here")

// newGroup makes a group with limits; nil if there are none.
func newGroup(name string, l Limits) (g *group, err error) {
	if l.Memory <= 0 && l.CPUs <= 0 {
		return nil, nil
	}
	g = &group{}
	defer func() {
		if err != nil {
			g.remove()
			g, err = nil, fmt.Errorf("%w: %w", errNoLimits, err)
		}
	}()
	if _, err := os.Stat(cgroupRoot + "/cgroup.controllers"); err == nil {
		return g, g.makeUnified(name, l)
	}
	return g, g.makeEach(name, l)
}

// makeUnified makes a group of version 2, below one of our own at the root.
func (g *group) makeUnified(name string, l Limits) error {
	ours := cgroupRoot + "/penstock"
	if err := os.Mkdir(ours, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, dir := range []string{cgroupRoot, ours} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+memory +cpu"), 0); err != nil {
			return err
		}
	}
	dir, err := g.make(ours, name)
	if err != nil {
		return err
	}
	if l.Memory > 0 {
		if err := write(dir, "memory.max", l.Memory); err != nil {
			return err
		}
		_ = write(dir, "memory.swap.max", 0) // not every kernel counts it
	}
	if l.CPUs > 0 {
		return os.WriteFile(dir+"/cpu.max", fmt.Appendf(nil, "%d %d", int64(l.CPUs*float64(cpuPeriod.Microseconds())), cpuPeriod.Microseconds()), 0)
	}
	return nil
}

// makeEach makes groups of version 1: one for memory, one for processors.
func (g *group) makeEach(name string, l Limits) error {
	if l.Memory > 0 {
		dir, err := g.make(cgroupRoot+"/memory/penstock", name)
		if err != nil {
			return err
		}
		if err := write(dir, "memory.limit_in_bytes", l.Memory); err != nil {
			return err
		}
		_ = write(dir, "memory.memsw.limit_in_bytes", l.Memory) // not every kernel counts it
	}
	if l.CPUs <= 0 {
		return nil
	}
	dir, err := g.make(cgroupRoot+"/cpu/penstock", name)
	if err != nil {
		return err
	}
	return errors.Join(write(dir, "cpu.cfs_period_us", cpuPeriod.Microseconds()), write(dir, "cpu.cfs_quota_us", int64(l.CPUs*float64(cpuPeriod.Microseconds()))))
}

// groupAge is how old a group may be that has no process yet: it is being made.
const groupAge = time.Minute

// sweepGroups takes the groups below a root of the kernel's away that were left by who was killed. The kernel removes none that has
// processes.
func sweepGroups(root string, now time.Time) {
	for _, of := range []string{"", "memory", "cpu"} {
		parent := filepath.Join(root, of, "penstock")
		entries, _ := os.ReadDir(parent) // there may be none
		for _, e := range entries {
			if info, err := e.Info(); err == nil && e.IsDir() && now.Sub(info.ModTime()) > groupAge {
				_ = os.Remove(filepath.Join(parent, e.Name())) // what is in use stays
			}
		}
	}
}

func (g *group) make(parent, name string) (string, error) {
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	g.dirs = append(g.dirs, dir)
	return dir, nil
}

func write(dir, file string, n int64) error {
	return os.WriteFile(filepath.Join(dir, file), strconv.AppendInt(nil, n, 10), 0)
}

// add puts a process into the group, and all that it will start.
func (g *group) add(pid int) error {
	if g == nil {
		return nil
	}
	for _, dir := range g.dirs {
		if err := write(dir, "cgroup.procs", int64(pid)); err != nil {
			return err
		}
	}
	return nil
}

// killed is how many of the group's processes were ended for want of memory.
func (g *group) killed() int {
	if g == nil {
		return 0
	}
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				if name, n, _ := strings.Cut(strings.TrimSpace(line), " "); name == "oom_kill" {
					count, _ := strconv.Atoi(n)
					return count
				}
			}
		}
	}
	return 0
}

// remove takes the group away once its processes have ended, which the kernel may take a moment to see.
func (g *group) remove() {
	if g == nil {
		return
	}
	for _, dir := range g.dirs {
		for wait := time.Millisecond; os.Remove(dir) != nil && wait < 100*time.Millisecond; wait *= 2 {
			time.Sleep(wait)
		}
	}
}
