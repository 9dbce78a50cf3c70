package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// errOutdated says that an entry was given up while somebody held it: take it anew.
var errOutdated = errors.New("the entry was given up")

// entry is a run in memory. Its state may be ahead of what is stored by the saves that are under way: so many
// decisions on one run share a commit. If a save fails, those after it fail too, for their version does not fit, and the
// entry is given up: the next one is loaded from the store. Nobody hears of a decision before it is stored.
//
// A run has at most one entry that is used. It is made before the run is read from the store and stays while somebody
// uses it, so its state is never older than what was acknowledged to anyone.
type entry struct {
	id     ci.RunID
	loaded chan struct{} // closed when run, or err, is set
	err    error

	users     int  // guarded by Engine.mu: callers and saves under way
	completed bool // guarded by Engine.mu: as stored; then it goes when nobody uses it

	pending atomic.Int64 // saves under way
	givenUp atomic.Bool

	mu     sync.Mutex
	run    *ci.Run
	claims []ci.Claim
	last   *saving // the newest save, nil if there was none
}

// saving is a save under way.
type saving struct {
	ended chan struct{}
	err   error // set before ended is closed
}

// wait waits for a save to end and gives its error. There is nothing to wait for in a nil one.
func (s *saving) wait(ctx context.Context) error {
	if s == nil {
		return nil
	}
	select {
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// entry gives a run's entry, loading the run if it is not in memory. The caller releases it.
func (e *Engine) entry(ctx context.Context, id ci.RunID) (*entry, error) {
	for {
		x, mine := e.hold(id)
		if mine {
			e.load(ctx, x)
		}
		select {
		case <-x.loaded:
		case <-ctx.Done():
			e.release(x)
			return nil, context.Cause(ctx)
		}
		if x.err == nil {
			return x, nil
		}
		e.release(x)
		if mine || ctx.Err() != nil || !isContextError(x.err) {
			return nil, x.err
		}
		// It was the loader's context that ended, not ours.
	}
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// hold finds a run's entry or makes one for the caller to load.
func (e *Engine) hold(id ci.RunID) (x *entry, fresh bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x = e.runs[id]
	if x == nil {
		x = &entry{id: id, loaded: make(chan struct{})}
		e.runs[id] = x
		fresh = true
	}
	x.users++
	return x, fresh
}

// release ends the use of an entry.
func (e *Engine) release(x *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x.users--
	if x.users == 0 && x.completed && e.runs[x.id] == x {
		delete(e.runs, x.id)
	}
}

// forget takes an entry out of memory, whoever holds it.
func (e *Engine) forget(x *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs[x.id] == x {
		delete(e.runs, x.id)
	}
}

func (e *Engine) load(ctx context.Context, x *entry) {
	defer close(x.loaded)
	x.run, x.err = e.store.Run(ctx, x.id)
	if x.err != nil {
		e.forget(x)
		return
	}
	x.claims = x.run.Claims()
	e.publish(x, e.derive(x.run))
}

// adopt takes a run that was just created and stored.
func (e *Engine) adopt(run *ci.Run) {
	x := &entry{id: run.ID, loaded: make(chan struct{}), users: 1, run: run, claims: run.Claims()}
	close(x.loaded)
	e.mu.Lock()
	e.runs[run.ID] = x
	e.mu.Unlock()
	e.publish(x, e.derive(run))
	e.release(x)
}

// decide gives inputs to a run, one after the other; at the first that is refused it stops, and what came before
// stands. It hands what changed to the store and gives the save to wait for before anything is said about the outcome:
// a refusal, too, rests on changes that may still be under way.
func (e *Engine) decide(x *entry, then func(*ci.Run) error, inputs []ci.Input) (*saving, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.givenUp.Load() {
		return x.last, errOutdated
	}
	now, from := e.now(), x.run.Version
	var before []*ci.Job
	var events []ci.Event
	var refusal error
	for _, in := range inputs {
		more, err := x.run.Decide(in, now)
		if err != nil {
			refusal = err
			break
		}
		if len(events) == 0 && len(more) > 0 {
			before = slices.Clone(x.run.Jobs)
		}
		for _, ev := range more {
			x.run.Apply(ev)
		}
		events = append(events, more...)
	}
	if len(events) > 0 {
		e.save(x, from, before, events)
	}
	if refusal == nil && then != nil {
		refusal = then(x.run)
	}
	return x.last, refusal
}

// save hands the state of a run to the store. The caller holds x.mu.
func (e *Engine) save(x *entry, from int64, before []*ci.Job, events []ci.Event) {
	claims := x.run.Claims()
	step := store.Save{Run: x.run, From: from, Before: before, Events: events, Claims: claims, ClaimsChanged: !slices.Equal(claims, x.claims)}
	found := e.derive(x.run)
	s := &saving{ended: make(chan struct{})}
	x.claims, x.last = claims, s
	x.pending.Add(1)
	e.mu.Lock()
	x.users++
	e.mu.Unlock()
	e.store.Save(step, func(err error) {
		if s.err = err; err == nil {
			e.publish(x, found)
		} else {
			x.givenUp.Store(true)
		}
		if x.pending.Add(-1) == 0 && x.givenUp.Load() {
			e.forget(x)
			if e.store.Shared() {
				e.peers.outdated(x.id, 0) // it may be that nobody else asks for the run here
			}
		}
		e.release(x)
		close(s.ended)
	})
}

// publish tells everyone concerned what a run asks for, now that it is stored. For one run it is called in the order of
// its versions.
func (e *Engine) publish(x *entry, f finding) {
	e.mu.Lock()
	x.completed = f.completed
	e.mu.Unlock()
	e.desk.put(f, e.opt.Now(), e.opt.LeaseFor)
	e.jobs.put(f.run, f.ready)
	e.logs.wake(f.run)
}
