package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

// Active is a release of which something runs or is to be done, as it is stored.
type Active = store.Release

// Carrier brings about what releases want and does what they ask.
type Carrier interface {
	// Carry is given all releases of this server that are active, the oldest first, at the start and whenever one of them
	// has changed: it makes the proxy's table so, and then the instances. It returns once the table is in force, and does not
	// wait for instances: what becomes of them is told by Releases.Update. Of those that a release has and that are neither
	// wanted nor there, it tells that they are cd.Stopped: their end may have been missed. After an error it is tried again.
	// There is one call at a time.
	Carry(ctx context.Context, releases []Active) error
	// Do does a task (hook, webhook, query, sample) of a release and gives its answer. An error says that there is none:
	// then it is tried again. ctx ends when the answer is not wanted any more.
	Do(ctx context.Context, r *cd.Release, t cd.Task) (cd.Done, error)
}

// Work carries the releases of this server through, until ctx ends: it tells the carrier what is to be, has done what is
// asked, and tells releases when their time has come. All of it is derived from what is stored, so after a crash the same
// is found again; what was done and whose answer was lost is done again. There is one Work for one Releases.
//
// Scaling is its own task: another release is scaled once the carrier has acknowledged the state that asks for it, with the
// table that goes with it, and only if it is asked for still; that it was scaled and the answer are one transaction.
func (e *Releases) Work(ctx context.Context, carrier Carrier) error {
	w := &releaseWork{Releases: e, carrier: carrier, errands: map[errand]context.CancelFunc{}, clocks: map[cd.ReleaseID]*releaseClock{}, news: make(chan struct{})}
	w.all.Go(func() { w.carry(ctx) })
	w.run(ctx)
	w.all.Wait()
	return nil
}

// releaseWork is what Work has in its hands. What is not guarded by mu is run's alone.
type releaseWork struct {
	*Releases
	carrier Carrier
	all     sync.WaitGroup

	errands map[errand]context.CancelFunc // those under way, and those done that the releases ask for as read last
	clocks  map[cd.ReleaseID]*releaseClock

	mu      sync.Mutex
	active  []Active      // as read last
	read    int64         // how often active has changed
	carried int64         // the read that the carrier has acknowledged
	news    chan struct{} // closed when one of these changes
}

// errand is a task of a release.
type errand struct {
	release cd.ReleaseID
	task    cd.TaskID
}

// releaseClock says when a release has its next Tick.
type releaseClock struct {
	deadline time.Time
	comes    time.Time // the deadline by the clock that only goes forward
	version  int64
	ticked   int64 // the version that had its Tick at this deadline
	trial    trial
}

// run reads the releases whenever there are new records, and looks after them.
func (w *releaseWork) run(ctx context.Context) {
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	var reading trial
	for ctx.Err() == nil {
		news := w.store.ReleasesChanged()
		if !reading.at.After(w.opt.Now()) {
			err := w.look(ctx)
			if err == nil {
				err = w.drop(ctx)
			}
			if err == nil {
				reading = trial{}
			} else if ctx.Err() == nil {
				w.opt.Log.Error("the releases could not be looked after, it is tried again", "error", err)
				reading = reading.after(w.opt.Now())
			}
		}
		next := w.tick(ctx)
		if reading.failures > 0 && (next.IsZero() || reading.at.Before(next)) {
			next = reading.at
		}
		alarm.Stop()
		if !next.IsZero() {
			alarm.Reset(next.Sub(w.opt.Now()))
		}
		select {
		case <-ctx.Done():
		case <-alarm.C:
		case <-news:
		}
	}
}

// look reads the releases of this server and, if they have changed, sees what they ask for.
func (w *releaseWork) look(ctx context.Context) error {
	f := store.ReleaseFilter{Active: true, Limit: maxActive}
	if w.store.Shared() {
		f.Server = w.opt.Name
	}
	active, err := w.store.Releases(ctx, f)
	if err != nil {
		return err
	}
	slices.Reverse(active)
	w.mu.Lock()
	same := w.read > 0 && slices.EqualFunc(active, w.active, func(a, b Active) bool { return a.ID == b.ID && a.Version == b.Version })
	if !same {
		w.active = active
		w.read++
		w.ring()
	}
	read := w.read
	w.mu.Unlock()
	if !same {
		w.setClocks(active)
		w.sendOut(ctx, active, read)
	}
	return nil
}

// drop has what earlier releases still run of services that their environment has no more stopped: those that are not in the
// latest one that is live and whole. None takes their place, so nobody else would.
func (w *releaseWork) drop(ctx context.Context) error {
	latest := map[store.Place]Active{}
	for _, r := range w.active { // the oldest first
		if r.Phase == cd.Live && r.Plan.Whole {
			latest[placeOf(r)] = r
		}
	}
	for _, r := range w.active {
		whole := latest[placeOf(r)]
		if r.Phase != cd.Live || whole.Release == nil || whole.ID <= r.ID {
			continue
		}
		for _, p := range r.Parts {
			if p.Want == 0 || serviceOf(whole.Plan, p.Service) != nil {
				continue
			}
			if err := w.Update(ctx, r.ID, cd.Scaled{Service: p.Service, By: whole.ID}); err != nil && !errors.Is(err, cd.ErrStale) {
				return err
			}
		}
	}
	return nil
}

func placeOf(r Active) store.Place {
	return store.Place{Repository: strings.ToLower(r.Plan.Repository), Environment: strings.ToLower(r.Plan.Environment)}
}

// ring wakes those in await. The caller holds mu.
func (w *releaseWork) ring() {
	close(w.news)
	w.news = make(chan struct{})
}

// await waits until something holds, with mu held, or ctx ends; then it gives false.
func (w *releaseWork) await(ctx context.Context, holds func() bool) bool {
	for {
		w.mu.Lock()
		ok, news := holds(), w.news
		w.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-news:
		case <-ctx.Done():
			return false
		}
	}
}

// carry tells the carrier of each state, the newest if there have been several, until ctx ends.
func (w *releaseWork) carry(ctx context.Context) {
	var told int64 // the read that was tried last
	var failed trial
	for {
		waiting, cancel := ctx, context.CancelFunc(func() {})
		if failed.failures > 0 {
			waiting, cancel = context.WithTimeout(ctx, failed.at.Sub(w.opt.Now()))
		}
		w.await(waiting, func() bool { return w.read > told })
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		active := w.active
		told = w.read
		w.mu.Unlock()
		if err := w.carrier.Carry(ctx, active); err != nil {
			if ctx.Err() == nil {
				w.opt.Log.Error("the releases could not be carried out, it is tried again", "error", err)
			}
			failed = failed.after(w.opt.Now())
			continue
		}
		failed = trial{}
		w.mu.Lock()
		w.carried = told
		w.ring()
		w.mu.Unlock()
		w.inForce(active)
	}
}

// setClocks takes the deadlines of the releases.
func (w *releaseWork) setClocks(active []Active) {
	now, stored := w.opt.Now(), w.now()
	clocks := make(map[cd.ReleaseID]*releaseClock, len(active))
	for _, r := range active {
		deadline := r.Deadline()
		if deadline.IsZero() {
			continue
		}
		c := w.clocks[r.ID]
		if c == nil || !c.deadline.Equal(deadline) {
			c = &releaseClock{deadline: deadline, comes: now.Add(deadline.Sub(stored)), ticked: -1}
		}
		c.version = r.Version
		clocks[r.ID] = c
	}
	w.clocks = clocks
	w.holdClock(slices.ContainsFunc(active, func(r Active) bool { return r.Phase != cd.Live && !r.Phase.Over() }))
}

// tick tells the releases whose time has come, and gives when it comes for the next one; zero if for none.
func (w *releaseWork) tick(ctx context.Context) (next time.Time) {
	for id, c := range w.clocks {
		if c.ticked == c.version {
			continue
		}
		now := w.opt.Now()
		due := c.comes
		if due.Before(c.trial.at) {
			due = c.trial.at
		}
		if !due.After(now) {
			err := w.Update(ctx, id, cd.Tick{At: c.deadline})
			if err == nil || errors.Is(err, cd.ErrStale) {
				c.ticked = c.version
				continue
			}
			if ctx.Err() != nil {
				return next
			}
			w.opt.Log.Error("a release could not be told the time, it is tried again", "release", id, "error", err)
			c.trial = c.trial.after(w.opt.Now())
			due = c.trial.at
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// sendOut begins the tasks that are newly asked for, and ends those that are not any more.
func (w *releaseWork) sendOut(ctx context.Context, active []Active, read int64) {
	asked := map[errand]bool{}
	for _, r := range active {
		for _, t := range r.Next() {
			x := errand{r.ID, t.ID}
			asked[x] = true
			if w.errands[x] != nil {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			w.errands[x] = cancel
			w.all.Go(func() {
				if t.Kind == cd.TaskScale {
					w.scale(ctx, x, read)
				} else {
					w.perform(ctx, r.Release, t)
				}
			})
		}
	}
	for x, cancel := range w.errands {
		if !asked[x] {
			cancel()
			delete(w.errands, x)
		}
	}
}

// perform has a task done and gives its answer to the release. Each is tried until it goes well: the task is not done
// again because its answer could not be stored.
func (w *releaseWork) perform(ctx context.Context, r *cd.Release, t cd.Task) {
	var done cd.Done
	if !w.insist(ctx, r.ID, t, func() (err error) { done, err = w.carrier.Do(ctx, r, t); return err }) {
		return
	}
	done.Task = t.ID
	done.Error, done.Message, done.Query = lastOf(done.Error), lastOf(done.Message), lastOf(done.Query)
	w.insist(ctx, r.ID, t, func() error { return w.Update(ctx, r.ID, done) })
}

// maxAnswer bounds each text of an answer, bytes.
const maxAnswer = 16 << 10

func lastOf(text string) string {
	return strings.ToValidUTF8(text[max(0, len(text)-maxAnswer):], "")
}

// insist does something for a task until it goes well or does not matter any more, with pauses. It reports whether it
// went well.
func (w *releaseWork) insist(ctx context.Context, id cd.ReleaseID, t cd.Task, do func() error) bool {
	var failed trial
	for {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil || errors.Is(err, cd.ErrStale) {
			return false
		}
		w.opt.Log.Error("a task of a release failed, it is tried again", "release", id, "task", t.Kind, "error", err)
		failed = failed.after(w.opt.Now())
		pause(ctx, failed.at.Sub(w.opt.Now()))
	}
}

// scale scales another release once the state that asks for it, which was read as read, is carried.
func (w *releaseWork) scale(ctx context.Context, x errand, read int64) {
	if !w.await(ctx, func() bool { return w.carried >= read }) {
		return
	}
	for {
		news := w.store.ReleasesChanged()
		answered := false
		ok := w.insist(ctx, x.release, cd.Task{Kind: cd.TaskScale}, func() (err error) {
			answered, err = w.tryScale(ctx, x)
			return err
		})
		if !ok || answered {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

// tryScale tells a release how many instances it is to run and answers the one that asks, if the answer is known: both or
// none. It reports whether there is nothing to answer any more. Told again, a release that knows it changes nothing.
func (w *releaseWork) tryScale(ctx context.Context, x errand) (bool, error) {
	now, answered := w.now(), false
	err := w.store.DecideReleases(ctx, now, func(tx *store.ReleaseTx) error {
		answered = true
		by, err := tx.Release(x.release)
		if err != nil {
			return err
		}
		t, asked := taskOf(by, x.task)
		if !asked {
			return nil
		}
		done := cd.Done{Task: t.ID, OK: true}
		of, err := tx.Release(t.Release)
		if err == nil {
			err = decide(tx, of, cd.Scaled{Service: t.Service, Instances: t.Instances, By: by.ID}, now)
		}
		switch {
		case err == nil || errors.Is(err, cd.ErrStale):
			if t.Settled && !isScaled(of, t.Service, t.Instances, by.ID) {
				answered = false
				return nil
			}
		case errors.Is(err, cd.ErrRefused), errors.Is(err, store.ErrNotFound):
			done = cd.Done{Task: t.ID, Error: err.Error()}
		default:
			return err
		}
		return decide(tx, by, done, now)
	})
	if err != nil {
		return false, fmt.Errorf("release %d: %w", x.release, err)
	}
	return answered, nil
}

func taskOf(r *cd.Release, id cd.TaskID) (cd.Task, bool) {
	for _, t := range r.Next() {
		if t.ID == id {
			return t, true
		}
	}
	return cd.Task{}, false
}

// isScaled reports whether a service of a release runs so many healthy instances, and no other ones. If a later release than
// by has told it how many, there is nothing to wait for any more: that one counts.
func isScaled(r *cd.Release, service string, instances int, by cd.ReleaseID) bool {
	for _, p := range r.Parts {
		if p.Service == service && p.ScaledBy <= by {
			return len(p.Instances) == instances && !slices.ContainsFunc(p.Instances, func(i cd.Instance) bool { return i.State != cd.Healthy })
		}
	}
	return true
}
