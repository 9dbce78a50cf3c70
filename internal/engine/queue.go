package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

// Lease waits until there is a job for a runner and leases it: the job whose labels the runner has that is queued
// longest. A runner without labels takes every job. The task has the secrets and the token of the job; when Lease
// returns, the lease is stored, and it is lost if it is not renewed in time.
func (e *Engine) Lease(ctx context.Context, r ci.Runner) (*ci.Task, error) {
	for {
		o, err := e.jobs.next(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		task, err := e.lease(ctx, o, r)
		e.jobs.release(o)
		if err == nil {
			if err = e.unseal(ctx, task); err == nil {
				return task, nil
			}
			err = e.refuse(ctx, task, err)
		}
		if err != nil && !overtaken(err) {
			return nil, fmt.Errorf("lease: %w", err)
		}
	}
}

// lease stores a lease on an offer and gives its task. That is not given up half-way: a lease that nobody knows of
// would block the job until it is lost.
func (e *Engine) lease(ctx context.Context, o *offer, r ci.Runner) (*ci.Task, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var task *ci.Task
	in := ci.Leased{Job: o.job, Lease: newLease(), Runner: r.Name, Until: e.now().Add(e.opt.LeaseFor)}
	take := func(run *ci.Run) (err error) {
		task, err = run.Task(o.job)
		return err
	}
	if err := e.update(context.WithoutCancel(ctx), o.run, take, in); err != nil {
		return nil, err
	}
	return task, nil
}

// unseal puts the token and the secrets that reach the job into a task.
func (e *Engine) unseal(ctx context.Context, t *ci.Task) (err error) {
	if e.opt.Token != nil {
		if t.Token, err = e.opt.Token(ctx, t); err != nil {
			return fmt.Errorf("make the token: %w", err)
		}
	}
	var all map[string]string
	if e.opt.Secrets != nil {
		if all, err = e.opt.Secrets(ctx, t.Repository, t.Environment); err != nil {
			return fmt.Errorf("resolve the secrets: %w", err)
		}
	}
	if t.Environment != "" && e.opt.Vars != nil {
		vars, err := e.opt.Vars(ctx, t.Repository, t.Environment)
		if err != nil {
			return fmt.Errorf("find the variables of %s: %w", t.Environment, err)
		}
		for name, value := range vars {
			t.Vars = t.Vars.With(name, expr.String(value))
		}
	}
	t.Secrets, err = t.Pass(all, t.Token)
	return err
}

// Waiting is how many runners wait for a job here.
func (e *Engine) Waiting() int {
	e.jobs.mu.Lock()
	defer e.jobs.mu.Unlock()
	return len(e.jobs.waiting)
}

// Leased gives the task of a lease that holds, without secrets and token. The error wraps ci.ErrStale if it does not hold.
func (e *Engine) Leased(ctx context.Context, l ci.Lease) (*ci.Task, error) {
	if !e.Holds(l) {
		return nil, fmt.Errorf("lease on %s of run %d: %w", l.Job, l.Run, ci.ErrStale)
	}
	r, err := e.Run(ctx, l.Run)
	if err != nil {
		return nil, err
	}
	t, err := r.Task(l.Job)
	if err == nil && t.Lease != l.ID {
		err = ci.ErrStale
	}
	return t, err
}

// Holds reports whether a lease has not ended.
func (e *Engine) Holds(l ci.Lease) bool {
	_, ok := e.desk.attempt(l)
	return ok
}

// Holder gives the name of the runner that has a lease, false if the lease has ended.
func (e *Engine) Holder(l ci.Lease) (runner string, ok bool) {
	_, runner, ok = e.desk.holder(l)
	return runner, ok
}

// refuse fails a job whose task could not be completed.
func (e *Engine) refuse(ctx context.Context, t *ci.Task, why error) error {
	res := ci.Result{Conclusion: ci.Failure, Reason: why.Error()}
	return e.Update(context.WithoutCancel(ctx), t.Run, ci.Finished{Job: t.Job, Lease: t.Lease, Result: res})
}

// Renew keeps a lease alive and tells what is wanted of the job. It returns as soon as there is a signal that the
// runner has not heard, else after a third of the lease. ci.ErrStale says that the lease has ended.
func (e *Engine) Renew(ctx context.Context, l ci.Lease) (ci.Signal, error) {
	patience := time.NewTimer(e.opt.LeaseFor / 3)
	defer patience.Stop()
	for {
		signal, fresh, news, ok := e.desk.renew(l, e.opt.Now(), e.opt.LeaseFor)
		if !ok {
			return "", fmt.Errorf("renew the lease on %s of run %d: %w", l.Job, l.Run, ci.ErrStale)
		}
		if fresh {
			return signal, nil
		}
		select {
		case <-news:
		case <-patience.C:
			return signal, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Report stores what the steps of a job are doing. The first one, which may be empty, says that the job has started:
// a runner sends it before it executes anything, for until then a lost lease gives the job to another.
func (e *Engine) Report(ctx context.Context, l ci.Lease, r ci.Report) error {
	inputs := []ci.Input{ci.Started{Job: l.Job, Lease: l.ID}}
	if len(r.Steps)+len(r.Annotations) > 0 {
		inputs = append(inputs, ci.Reported{Job: l.Job, Lease: l.ID, Report: r})
	}
	return e.update(ctx, l.Run, nil, inputs...)
}

// Append adds bytes to the log of a job at an offset. Bytes that are there already are ignored; a gap is a
// *blob.GapError. ci.ErrStale says that the lease has ended.
func (e *Engine) Append(ctx context.Context, l ci.Lease, offset int64, p []byte) error {
	attempt, ok := e.desk.attempt(l)
	if !ok {
		return fmt.Errorf("append to the log of %s of run %d: %w", l.Job, l.Run, ci.ErrStale)
	}
	if err := e.blobs.Append(LogKey(l.Run, attempt, l.Job), offset, p, e.now()); err != nil {
		return err
	}
	e.logs.wake(l.Run)
	return nil
}

// Finish stores how a job ended and ends its lease. Where the result outlives the process, the log is on the disk before.
func (e *Engine) Finish(ctx context.Context, l ci.Lease, res ci.Result) error {
	attempt, ok := e.desk.attempt(l)
	if !ok {
		return fmt.Errorf("finish %s of run %d: %w", l.Job, l.Run, ci.ErrStale)
	}
	end := e.blobs.Release
	if e.store.Durable() {
		end = e.blobs.Seal
	}
	if err := end(LogKey(l.Run, attempt, l.Job)); err != nil {
		return err
	}
	return e.Update(ctx, l.Run, ci.Finished{Job: l.Job, Lease: l.ID, Result: res})
}
