package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// Throughput measures the machine and the store without any process: it triggers runs of a plan and lets so many
// runners lease, start and finish each of their jobs, which do nothing and succeed. It gives the number of jobs and the
// time from the first trigger until the last run is stored as completed. The engine must have no other work.
func (e *Engine) Throughput(ctx context.Context, plan *ci.Plan, runs, runners int) (jobs int, took time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	after, err := e.store.LastRecord(ctx)
	if err != nil {
		return 0, 0, err
	}
	var done atomic.Int64
	var all sync.WaitGroup
	leasing, stop := context.WithCancel(ctx)
	defer stop()
	for n := range runners {
		all.Go(func() {
			for {
				task, err := e.Lease(leasing, ci.Runner{Name: fmt.Sprint("runner ", n)})
				if err == nil {
					if err = e.succeed(ctx, task); err == nil {
						done.Add(1)
						continue
					}
				}
				if leasing.Err() == nil {
					cancel(err)
				}
				return
			}
		})
	}
	var left atomic.Int64
	left.Store(int64(runs))
	for range runners {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := e.Trigger(ctx, plan); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	completed := 0
	for r, err := range e.Tail(ctx, after) {
		if err != nil {
			cancel(err)
			break
		}
		if r.Event.Type == ci.EventRunCompleted {
			if completed++; completed == runs {
				break
			}
		}
	}
	took = time.Since(began)
	stop()
	all.Wait()
	if ctx.Err() != nil {
		return 0, 0, context.Cause(ctx)
	}
	list, err := e.Runs(ctx, store.Filter{Status: string(ci.Success), Limit: runs})
	if err == nil && len(list) != runs {
		err = fmt.Errorf("%d of %d runs succeeded", len(list), runs)
	}
	return int(done.Load()), took, err
}

// succeed starts and finishes a job.
func (e *Engine) succeed(ctx context.Context, t *ci.Task) error {
	l := ci.Lease{Run: t.Run, Job: t.Job, ID: t.Lease}
	if err := e.Report(ctx, l, ci.Report{}); err != nil {
		return err
	}
	return e.Finish(ctx, l, ci.Result{Conclusion: ci.Success})
}
