// Package engine is the durable shell round the ci machine: the one door through which the state of a run changes.
// It triggers runs, leases their jobs to runners, takes what the runners tell, and lets others follow the records and
// logs. Each decision of ci and its records are one transaction; what is to be done next (jobs to lease, timers, lost
// leases, concurrency groups) is derived from what is stored, so a restart finds the same work.
//
// It executes nothing and sees no sandbox. Secrets are resolved when a job is leased, put into the task and nowhere
// else.
package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// LeaseFor is how long a lease lasts without being renewed, unless Options says otherwise.
const LeaseFor = 30 * time.Second

// maxTries bounds how often an update whose run was changed meanwhile is made again.
const maxTries = 100

// Options are what an Engine is told of its surroundings. The zero value works: no secrets, no tokens.
type Options struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Secrets gives the secrets of a repository, with those of an environment if it is not empty. A job in a called
	// workflow gets of them what the calls pass.
	Secrets func(ctx context.Context, repository, environment string) (map[string]string, error)
	// Vars gives the variables of an environment of a repository, which a job for it has over those of its run. Nil is none.
	Vars func(ctx context.Context, repository, environment string) (map[string]string, error)
	// Token makes github.token for a task, with the permissions that the task has.
	Token func(ctx context.Context, t *ci.Task) (string, error)
	// LeaseFor is how long a lease lasts without being renewed; LeaseFor if zero.
	LeaseFor time.Duration
	// FirstRun is the ID of the first run of a store that has none yet; 1 if zero.
	FirstRun ci.RunID
	// Name is what this server is called among those that share its store; needed only there.
	Name string
	// Log gets what Work can not tell anybody else; slog.Default if nil.
	Log *slog.Logger
}

// Engine runs workflows on a store. It may be used by any number of goroutines. One process has one Engine for one
// store; several processes may share a store that is Shared (see peers).
type Engine struct {
	store *store.Store
	blobs blob.Store
	opt   Options

	mu   sync.Mutex
	runs map[ci.RunID]*entry // those that are not completed, and those in use

	jobs dispatch // what may be leased, and who waits for it
	desk desk     // what Work has to look after
	logs watchers // who follows which run's logs

	peers peers // who shares the store
	found int64 // the last record before New looked for work
}

// New makes an engine on a store and finds the work that is stored in it. Leases that runners held are good for
// another whole period: who lived through the restart renews them, the others are lost when it is over.
func New(ctx context.Context, st *store.Store, blobs blob.Store, opt Options) (*Engine, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.LeaseFor <= 0 {
		opt.LeaseFor = LeaseFor
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	e := &Engine{store: st, blobs: blobs, opt: opt, runs: map[ci.RunID]*entry{}}
	e.jobs.init()
	e.desk.init()
	e.peers.init()
	if opt.FirstRun > 1 {
		if err := st.NumberFrom(ctx, opt.FirstRun); err != nil {
			return nil, err
		}
	}
	var err error
	if e.found, err = st.LastRecord(ctx); err != nil {
		return nil, fmt.Errorf("find stored work: %w", err)
	}
	active, err := st.Active(ctx)
	if err != nil {
		return nil, fmt.Errorf("find stored work: %w", err)
	}
	for _, id := range active {
		x, err := e.entry(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("find stored work: %w", err)
		}
		e.release(x)
	}
	return e, nil
}

// now is the time as it is stored.
func (e *Engine) now() time.Time { return e.opt.Now().UTC().Round(0) }

// Trigger begins a run of a plan and gives its ID. The run's number and ID are new, and in its github context.
func (e *Engine) Trigger(ctx context.Context, plan *ci.Plan) (ci.RunID, error) {
	type outcome struct {
		id  ci.RunID
		err error
	}
	ended := make(chan outcome, 1)
	now := e.now()
	begin := func(id ci.RunID, plan *ci.Plan) (store.Save, error) {
		run, events := ci.New(id, plan, now)
		return store.Save{Run: run, Events: events, Claims: run.Claims()}, nil
	}
	e.store.Create(plan, begin, func(s store.Save, err error) {
		if err == nil {
			e.adopt(s.Run)
		}
		ended <- outcome{runID(s.Run), err}
	})
	select {
	case o := <-ended:
		if o.err != nil {
			return 0, fmt.Errorf("trigger %s: %w", plan.Workflow, o.err)
		}
		return o.id, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("trigger %s: %w", plan.Workflow, context.Cause(ctx))
	}
}

func runID(r *ci.Run) ci.RunID {
	if r == nil {
		return 0
	}
	return r.ID
}

// Run gives a run as it is stored, with its plan. The error wraps store.ErrNotFound if there is none.
func (e *Engine) Run(ctx context.Context, id ci.RunID) (*ci.Run, error) { return e.store.Run(ctx, id) }

// Attempt gives an earlier attempt of a run, as it ended.
func (e *Engine) Attempt(ctx context.Context, r *ci.Run, n int) (*ci.Run, error) {
	past := &ci.Run{Plan: r.Plan}
	for after := int64(0); ; {
		page, err := e.store.Events(ctx, r.ID, after, tailPage)
		if err != nil {
			return nil, err
		}
		for _, record := range page {
			if record.Event.Type == ci.EventRunRerun && past.Attempt == n {
				return past, nil
			}
			past.Apply(record.Event)
			after = record.Seq
		}
		if len(page) == 0 {
			return past, nil
		}
	}
}

// Runs lists runs, the newest first.
func (e *Engine) Runs(ctx context.Context, f store.Filter) ([]store.Summary, error) {
	return e.store.Runs(ctx, f)
}

// Cancel cancels a run for a user. With force, not even always() steps run. Cancelling a completed run is ci.ErrStale.
func (e *Engine) Cancel(ctx context.Context, id ci.RunID, by string, force bool) error {
	return e.Update(ctx, id, ci.Cancel{By: by, Force: force})
}

// Update gives an input to a run: it loads the run, decides, saves what changed with its records, and wakes those who
// wait for it. When it returns nil the change is durable. The error wraps what ci.Decide says (ci.ErrStale,
// ci.ErrUnknownJob), store.ErrNotFound, or what kept the store from saving; then nothing was changed, except that after
// the end of ctx the change may still be made.
func (e *Engine) Update(ctx context.Context, id ci.RunID, in ci.Input) error {
	return e.update(ctx, id, nil, in)
}

// update gives inputs to a run, one after the other and all or none, and calls then, if there is one, with the run as
// they leave it. then must not keep the run.
func (e *Engine) update(ctx context.Context, id ci.RunID, then func(*ci.Run) error, inputs ...ci.Input) error {
	for try := 1; ; try++ {
		x, err := e.entry(ctx, id)
		if err != nil {
			return err
		}
		saved, refusal := e.decide(x, then, inputs)
		err = saved.wait(ctx)
		e.release(x)
		outdated := errors.Is(err, store.ErrConflict) || errors.Is(refusal, errOutdated)
		if outdated && ctx.Err() == nil && try < maxTries {
			continue
		}
		if err == nil {
			err = refusal
		}
		if err != nil {
			return fmt.Errorf("run %d: %w", id, err)
		}
		return nil
	}
}

// newLease makes the name of a lease.
func newLease() ci.LeaseID { return ci.LeaseID(rand.Text()) }

// Abandon declares lost what a runner holds, of which its caller knows that it does not run any more.
func (e *Engine) Abandon(ctx context.Context, runner, reason string) error {
	active, err := e.store.Active(ctx)
	if err != nil {
		return err
	}
	for _, id := range active {
		r, err := e.Run(ctx, id)
		if err != nil {
			return err
		}
		for _, j := range r.Jobs {
			if j.Lease == "" || j.Runner != runner {
				continue
			}
			if err := e.Update(ctx, id, ci.Lost{Job: j.ID, Lease: j.Lease, Reason: reason}); err != nil && !overtaken(err) {
				return err
			}
		}
	}
	return nil
}
