package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/store"
)

// jobsPerRun is a first job, a matrix that needs it, and a last job that needs the matrix.
const jobsPerRun = 100

// measureJobs: the machine and the store alone. Runners that do nothing lease, start and finish jobs,
// while each decision is a transaction.
func measureJobs(ctx context.Context, b *bench) error {
	jobs := b.size(10_000, 1_000)
	plan, err := manyJobs()
	if err != nil {
		return err
	}
	slow := *b
	slow.runs = min(b.runs, 3)
	round := 0
	contest := func(name string, url func() string) contestant {
		return contestant{name: name, run: func(ctx context.Context) (sample, error) {
			round++
			return b.carry(ctx, url(), plan, jobs)
		}}
	}
	got, err := slow.interleave(ctx,
		contest("memory", func() string { return "sqlite::memory:" }),
		contest("disk", func() string { return "sqlite:" + filepath.Join(b.dir, fmt.Sprintf("jobs-%d.db", round)) }),
	)
	if err != nil {
		return err
	}
	perSecond := func(s sample) float64 { return float64(jobs) / s.wall.Seconds() }
	const wanted = 2000
	for i, where := range []string{"in memory", "on disk"} {
		speed := perSecond(got[i])
		b.rows = append(b.rows, row{
			fmt.Sprintf("%d jobs through machine and store %s", jobs, where), fmt.Sprintf("%.0f jobs/s", speed), "",
			fmt.Sprintf("%.1fx the target", speed/wanted), fmt.Sprintf("at least %d jobs/s", wanted), speed >= wanted,
		})
	}
	return nil
}

func manyJobs() (*ci.Plan, error) {
	cells := make([]string, jobsPerRun-2)
	for i := range cells {
		cells[i] = fmt.Sprint(i)
	}
	text := fmt.Sprintf(`on: push
jobs:
  first:
    runs-on: ubuntu-latest
    outputs:
      cells: ${{ steps.list.outputs.cells }}
    steps: [{id: list, run: echo}]
  middle:
    needs: first
    runs-on: ubuntu-latest
    strategy:
      matrix:
        n: [%s]
    steps: [{run: echo}]
  last:
    needs: middle
    runs-on: ubuntu-latest
    steps: [{run: echo}]
`, strings.Join(cells, ", "))
	root := ci.File{Path: ".github/workflows/many.yml", Text: text}
	return ci.NewPlan(root, nil, ci.Plan{
		Workflow: root.Path, Event: "push", Repository: "bench/many",
		GitHub: expr.Object(), Inputs: expr.Object(), Vars: expr.Object(),
	})
}

// carry brings a number of jobs through an engine on a new store and gives how long that took.
func (b *bench) carry(ctx context.Context, url string, plan *ci.Plan, jobs int) (sample, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	st, err := store.Open(ctx, url)
	if err != nil {
		return sample{}, err
	}
	defer st.Close()
	blobs, err := os.MkdirTemp(b.dir, "blobs-")
	if err != nil {
		return sample{}, err
	}
	logs, err := blob.Open(blobs)
	if err != nil {
		return sample{}, err
	}
	e, err := engine.New(ctx, st, logs, engine.Options{})
	if err != nil {
		return sample{}, err
	}

	var working sync.WaitGroup
	working.Go(func() {
		if err := e.Work(ctx); err != nil && ctx.Err() == nil {
			stop(err)
		}
	})
	done, took, err := e.Throughput(ctx, plan, jobs/jobsPerRun, 64)
	stop(nil)
	working.Wait()
	if err == nil && done != jobs {
		err = fmt.Errorf("%d jobs of %d were done", done, jobs)
	}
	return sample{wall: took}, err
}
