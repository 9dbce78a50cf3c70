package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// retryAfter and maxRetry bound the pause before Work tries again what failed.
	retryAfter = time.Second
	maxRetry   = time.Minute
)

// Work does what no caller does: it tells runs when their timers are due, declares leases lost that nobody renews,
// decides who gets a concurrency group, and keeps up with the servers that share the store. It works until ctx ends.
// There is one Work for one Engine.
func (e *Engine) Work(ctx context.Context) error {
	if e.store.Shared() {
		var shared sync.WaitGroup
		defer shared.Wait()
		shared.Go(func() { e.follow(ctx, e.found) })
		shared.Go(func() { e.beat(ctx) })
	}
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for ctx.Err() == nil {
		now := e.opt.Now()
		chores, groups, next := e.desk.due(now, e.loss)
		for _, c := range chores {
			e.do(ctx, c)
		}
		for _, g := range groups {
			e.desk.settled(g, e.settle(ctx, g), e.opt.Now())
		}
		alarm.Stop()
		if !next.IsZero() {
			alarm.Reset(next.Sub(now))
		}
		select {
		case <-ctx.Done():
		case <-alarm.C:
		case <-e.desk.wake:
		}
	}
	return nil
}

// loss is the input for a lease that ran out, nil if it is to be looked at again later.
func (e *Engine) loss(h *holding, now time.Time) ci.Input {
	if e.store.Shared() && !e.peers.silent(h.teller, now, e.opt.LeaseFor) {
		return nil
	}
	return ci.Lost{Job: h.job, Lease: h.id, Reason: "The runner was not heard of for " + e.opt.LeaseFor.String() + "."}
}

func (e *Engine) do(ctx context.Context, c chore) {
	err := e.Update(ctx, c.run, c.input)
	if err == nil || ctx.Err() != nil || overtaken(err) {
		return
	}
	e.opt.Log.Error("a run could not be looked after, it is tried again", "run", c.run, "error", err)
	e.desk.failed(c.run, e.opt.Now())
}

// overtaken reports whether an input came too late to matter.
func overtaken(err error) bool {
	return errors.Is(err, ci.ErrStale) || errors.Is(err, ci.ErrUnknownJob) || errors.Is(err, store.ErrNotFound)
}

// settle decides about a concurrency group by what is stored of it. It reports whether all went well.
func (e *Engine) settle(ctx context.Context, g group) bool {
	claims, err := e.store.Claims(ctx, g.repository, g.name)
	if err == nil {
		for _, v := range arbitrate(claims) {
			if err = e.Update(ctx, v.run, v.input); err != nil && !overtaken(err) {
				break
			}
			err = nil
		}
	}
	if err == nil || ctx.Err() != nil {
		return true
	}
	if e.store.Shared() && errors.Is(err, store.ErrHeld) {
		return false // another server was quicker
	}
	e.opt.Log.Error("a concurrency group could not be looked after, it is tried again", "group", g.name, "error", err)
	return false
}
