package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// measureEcho: the least that a run can be.
func measureEcho(ctx context.Context, b *bench) error {
	r, err := b.workflow(ctx, "echo", onPush("hello", "", "run: echo hello"))
	if err != nil {
		return err
	}
	got, err := b.interleave(ctx, b.ours("auto", r), b.ours("none", r, "--sandbox", "none"), b.acts(r), b.plain("bash", r.dir, "echo hello"))
	if err != nil {
		return err
	}
	auto, none, act, bash := got[0], got[1], got[2], got[3]
	b.faster("one echo, in a machine of its own", auto, act, "act", 5)
	b.atMost("one echo, in a machine of its own", auto, "bash "+millis(bash.wall), 40*time.Millisecond)
	b.faster("one echo, --sandbox none", none, act, "act", 10)
	return nil
}

// measureSteps: what a step costs over the process that it is.
func measureSteps(ctx context.Context, b *bench) error {
	const count = 200
	steps := make([]string, count)
	for i := range steps {
		steps[i] = fmt.Sprintf("run: echo %d", i)
	}
	many, err := b.workflow(ctx, "steps", onPush("many", "", steps...))
	if err != nil {
		return err
	}
	one, err := b.workflow(ctx, "step", onPush("one", "", steps[0]))
	if err != nil {
		return err
	}
	spawns := contestant{name: "bash", run: func(ctx context.Context) (sample, error) {
		var all sample
		for range count - 1 {
			s, err := b.spawn(ctx, many.dir, nil, "bash", "-e", "-c", "echo 1")
			if err != nil {
				return sample{}, err
			}
			all.wall += s.wall
		}
		return all, nil
	}}
	got, err := b.interleave(ctx, b.ours("200 steps", many), b.ours("one step", one), b.acts(many), spawns)
	if err != nil {
		return err
	}
	ours, least, act, bash := got[0], got[1], got[2], got[3]
	b.over("one step of 200", sample{wall: ours.wall - least.wall}, bash, count-1, "bash -e", time.Millisecond)
	b.faster("200 steps", ours, act, "act", 2.5)
	return nil
}

// measureMatrix: many jobs at once. Against act the cells do next to nothing, so that what a job costs shows;
// against xargs they do a tenth of a second's work, as the smallest of real jobs would.
func measureMatrix(ctx context.Context, b *bench) error {
	const count = 50
	const work = "head -c 20000000 /dev/zero | sha256sum"
	cells := make([]string, count)
	for i := range cells {
		cells[i] = fmt.Sprint(i)
	}
	head := "    strategy:\n      matrix:\n        n: [" + strings.Join(cells, ", ") + "]\n"
	light, err := b.workflow(ctx, "cells", onPush("cell", head, "run: echo ${{ matrix.n }}"))
	if err != nil {
		return err
	}
	heavy, err := b.workflow(ctx, "work", onPush("work", head, "run: "+work))
	if err != nil {
		return err
	}
	cores := max(runtime.NumCPU(), 2)
	parallel := fmt.Sprint(cores)
	xargs := fmt.Sprintf("seq %d | xargs -P %d -I N bash -e -c '%s'", count, cores, work)
	got, err := b.interleave(ctx,
		b.ours("light", light, "--parallel", parallel), b.acts(light, "--concurrent-jobs", parallel),
		b.ours("heavy", heavy, "--parallel", parallel), b.plain("xargs", heavy.dir, xargs),
	)
	if err != nil {
		return err
	}
	b.faster("matrix of 50, an echo each", got[0], got[1], "act", 5)
	b.within("matrix of 50, "+millis(got[3].wall*time.Duration(cores)/count)+" of work each", got[2], got[3], "xargs -P "+parallel, 1.5)
	return nil
}
