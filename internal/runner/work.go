package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
)

const (
	// firstPause and lastPause bound the time between tries to reach a queue that does not answer.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
	// patience is how long a queue may fail to take the log, or after the end of Work the result, of a job.
	patience = 30 * time.Second
)

// Executor executes jobs. *job.Executor does it in sandboxes; others are for measuring the machine without any.
type Executor interface {
	// Run executes a task and gives how it ended. The end of ctx cancels the job: with the cause job.ErrCancel its
	// always() steps still run, with any other nothing runs any more. To a job that is being cancelled already the
	// latter is told by Killed() <-chan struct{}, which rep has besides.
	Run(ctx context.Context, t *ci.Task, rep job.Reporter) ci.Result
}

// Work leases tasks from q and executes them with x, at most slots at once. When ctx ends it leases no more, waits for
// the jobs that run, and returns nil. It returns an error if it can not begin, or if the queue will give it nothing any
// more.
func Work(ctx context.Context, q Queue, who Runner, slots int, x Executor) error {
	if slots < 1 {
		return fmt.Errorf("a runner needs at least one slot, not %d", slots)
	}
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, slots)
	pause := firstPause
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		task, err := q.Lease(ctx, who)
		if err != nil {
			<-free
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, ErrRemoved) {
				return err
			}
			slog.Warn("no task can be leased, trying again", "error", err)
			sleep(ctx, about(pause))
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		running.Go(func() {
			defer func() { <-free }()
			execute(context.WithoutCancel(ctx), ctx, q, x, task)
		})
	}
}

// execute carries out one task, from telling that it starts to telling how it ended. stop ends when the runner is to
// stop; ctx does not.
func execute(ctx, stop context.Context, q Queue, x Executor, t *ci.Task) {
	lease := Lease{Run: t.Run, Job: t.Job, ID: t.Lease}
	// Until the queue knows that the job has started it may give it to another runner: nothing runs before.
	if err := retry(ctx, stop, func() error { return q.Report(ctx, lease, ci.Report{}) }); err != nil {
		slog.Warn("a job was not begun", "run", t.Run, "job", t.Job, "error", err)
		return
	}
	jobCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	j := &ending{cancel: cancel, killed: make(chan struct{})}
	keepCtx, release := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { keepAlive(keepCtx, q, lease, j) })
	d := startDelivery(ctx, q, lease, j)
	res := run(jobCtx, x, t, d)
	d.end(&res)
	err := retry(ctx, stop, func() error { return q.Finish(ctx, lease, res) })
	if errors.Is(err, ErrRefused) {
		small := ci.Result{Conclusion: ci.Failure, Reason: fmt.Sprintf("The job ended as %s, but the server did not take its result: %v.", res.Conclusion, err)}
		err = retry(ctx, stop, func() error { return q.Finish(ctx, lease, small) })
	}
	release()
	keeping.Wait()
	if err != nil {
		slog.Warn("the result of a job was not taken", "run", t.Run, "job", t.Job, "conclusion", res.Conclusion, "error", err)
	}
}

// keepAlive renews a lease until ctx ends, and ends the job if the queue wants it or the lease is lost.
func keepAlive(ctx context.Context, q Queue, l Lease, j *ending) {
	pause := firstPause
	for ctx.Err() == nil {
		signal, err := q.Renew(ctx, l)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ci.ErrStale) || errors.Is(err, ErrRemoved):
			j.kill(errLost)
			return
		case err != nil:
			sleep(ctx, about(pause))
			pause = min(2*pause, lastPause)
			continue
		case signal == Cancel:
			j.cancel(job.ErrCancel)
		case signal == Kill:
			j.kill(job.ErrKill)
		}
		pause = firstPause
	}
}

// ending is how a job is told to end.
type ending struct {
	cancel context.CancelCauseFunc
	once   sync.Once
	killed chan struct{} // closed when nothing may run any more
}

// kill ends everything in the job, for a reason.
func (j *ending) kill(cause error) {
	j.cancel(cause) // first: whoever hears that the job is killed may ask why
	j.once.Do(func() { close(j.killed) })
}

// run executes a task. A panic fails this job and no other.
func run(ctx context.Context, x Executor, t *ci.Task, rep job.Reporter) (res ci.Result) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("a job ended in a panic", "run", t.Run, "job", t.Job, "panic", p, "stack", string(debug.Stack()))
			res = ci.Result{Conclusion: ci.Failure, Reason: fmt.Sprintf("Penstock itself failed in this job: %v", p)}
		}
	}()
	return x.Run(ctx, t, rep)
}

// errLost is the cause with which a job ends whose lease is lost: another runner may have it.
var errLost = errors.New("the lease on the job is lost")

// retry calls f until it succeeds or another try is of no use. Once stop has ended it is not tried for longer than patience.
func retry(ctx, stop context.Context, f func() error) error {
	var deadline time.Time
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := f()
		if err == nil || final(err) {
			return err
		}
		if stop.Err() != nil && deadline.IsZero() {
			deadline = time.Now().Add(patience)
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return err
		}
		sleep(ctx, about(pause))
	}
}

// about is a pause of half as long to as long: many runners that a server has lost do not come back all at once.
func about(pause time.Duration) time.Duration { return pause/2 + rand.N(pause/2) }

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
