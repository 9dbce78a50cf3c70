package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// runLimit bounds one run of one contestant.
const runLimit = 10 * time.Minute

// contestant is one side of a comparison.
type contestant struct {
	name   string
	before func() error // not measured; may be nil
	run    func(context.Context) (sample, error)
}

// sample is what was measured of one run, or the medians of several.
type sample struct {
	wall time.Duration
	rss  int64 // bytes, the peak of the largest process
}

// interleave runs the contestants in turn: once to warm up, then b.runs times, and gives their medians in order.
func (b *bench) interleave(ctx context.Context, contestants ...contestant) ([]sample, error) {
	all := make([][]sample, len(contestants))
	for round := range b.runs + 1 {
		for i, c := range contestants {
			s, err := c.once(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				all[i] = append(all[i], s)
			}
		}
	}
	medians := make([]sample, len(contestants))
	for i, samples := range all {
		medians[i] = median(samples)
	}
	return medians, nil
}

func (c contestant) once(ctx context.Context) (sample, error) {
	if c.before != nil {
		if err := c.before(); err != nil {
			return sample{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	return c.run(ctx)
}

func median(samples []sample) sample {
	var walls []time.Duration
	var peaks []int64
	for _, s := range samples {
		walls, peaks = append(walls, s.wall), append(peaks, s.rss)
	}
	slices.Sort(walls)
	slices.Sort(peaks)
	return sample{walls[len(walls)/2], peaks[len(peaks)/2]}
}

// command is a contestant that is one process, its output going nowhere.
func (b *bench) command(name, dir string, args ...string) contestant {
	return contestant{name: name, run: func(ctx context.Context) (sample, error) {
		return b.spawn(ctx, dir, nil, args...)
	}}
}

// ours is `penstock run` in a repository.
func (b *bench) ours(name string, r repository, args ...string) contestant {
	return b.command(name, r.dir, append([]string{b.penstock, "run"}, args...)...)
}

// acts is act in host mode in a repository.
func (b *bench) acts(r repository, args ...string) contestant {
	return b.command("act", r.dir, append([]string{b.act, "push", "-P", "ubuntu-latest=-self-hosted"}, args...)...)
}

// plain is a Bash script as a process of its own.
func (b *bench) plain(name, dir, script string) contestant {
	return b.command(name, dir, "bash", "-e", "-c", script)
}

// spawn runs a process to its end. Its standard output goes to stdout, or nowhere; what it wrote is part of the
// error if it fails.
func (b *bench) spawn(ctx context.Context, dir string, stdout *bytes.Buffer, args ...string) (sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"XDG_CACHE_HOME="+filepath.Join(b.dir, "cache"),
		"XDG_CONFIG_HOME="+filepath.Join(b.dir, "config"),
	)
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if stdout != nil {
		cmd.Stdout = stdout
	}
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		return sample{}, fmt.Errorf("%v: %w\n%s", args, err, tail(stderr.Bytes()))
	}
	s := sample{wall: wall}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.rss = int64(usage.Maxrss)
		if runtime.GOOS == "linux" {
			s.rss *= 1024 // Linux counts in kibibytes, others in bytes
		}
	}
	return s, nil
}

func tail(p []byte) []byte {
	const most = 2000
	return p[max(0, len(p)-most):]
}

// step is a contestant that is one step of a job: how long it took by `penstock run --json`.
func (b *bench) step(name string, r repository, step string, args ...string) contestant {
	args = append([]string{b.penstock, "run", "--json"}, args...)
	return contestant{name: name, run: func(ctx context.Context) (sample, error) {
		var out bytes.Buffer
		if _, err := b.spawn(ctx, r.dir, &out, args...); err != nil {
			return sample{}, fmt.Errorf("%w\n%s", err, tail(out.Bytes()))
		}
		wall, ok := stepTime(out.Bytes(), step)
		if !ok {
			return sample{}, fmt.Errorf("no step %q in the events:\n%s", step, tail(out.Bytes()))
		}
		return sample{wall: wall}, nil
	}}
}

// stepTime finds how long a step took in a stream of JSON events, wherever in an event steps are told.
func stepTime(events []byte, name string) (wall time.Duration, found bool) {
	for line := range bytes.Lines(events) {
		var event any
		if json.Unmarshal(line, &event) == nil {
			walk(event, func(o map[string]any) {
				if o["name"] != name {
					return
				}
				started, err1 := time.Parse(time.RFC3339Nano, fmt.Sprint(o["started"]))
				completed, err2 := time.Parse(time.RFC3339Nano, fmt.Sprint(o["completed"]))
				if err1 == nil && err2 == nil {
					wall, found = completed.Sub(started), true
				}
			})
		}
	}
	return wall, found
}

// walk calls visit for each object in a JSON value.
func walk(value any, visit func(map[string]any)) {
	switch v := value.(type) {
	case map[string]any:
		visit(v)
		for _, member := range v {
			walk(member, visit)
		}
	case []any:
		for _, item := range v {
			walk(item, visit)
		}
	}
}
