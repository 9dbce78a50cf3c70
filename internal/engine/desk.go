package engine

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// never is the time of a trial that is not planned.
var never = time.Unix(1<<40, 0)

// desk is what Work has to look after: when which run needs something, which leases run out, which concurrency groups
// have changed. All of it follows from what is stored.
type desk struct {
	mu     sync.Mutex
	files  map[ci.RunID]*file
	timers fileHeap
	groups map[group]trial // to be looked at
	wake   chan struct{}   // holds one: something is due earlier than Work knows
}

// group is a concurrency group.
type group struct{ repository, name string }

// trial is when something is tried, again if it has failed.
type trial struct {
	at       time.Time // not before
	failures int       // in a row
}

// after is the next trial after a failure: the pause grows.
func (t trial) after(now time.Time) trial {
	return trial{at: now.Add(min(retryAfter<<min(t.failures, 6), maxRetry)), failures: t.failures + 1}
}

// file is what the desk has on a run.
type file struct {
	run        ci.RunID
	version    int64
	repository string
	deadlines  []deadline
	holdings   map[ci.JobID]*holding
	claims     []ci.Claim
	trial      trial

	due   time.Time // when to look at it
	index int       // in timers, -1 if it is not there
}

// deadline is when a Tick has something to do.
type deadline struct {
	at     time.Time // as the run has it
	comes  time.Time // by the clock that only goes forward, from when it was heard of
	ticked bool
}

// holding is a lease on a job.
type holding struct {
	job     ci.JobID
	id      ci.LeaseID
	runner  string
	attempt int
	version int64 // of the run that last had it
	signal  ci.Signal
	until   time.Time     // when it is lost; by the clock that only goes forward, as are all times of the desk but deadline.at
	renewed time.Time     // when its runner renewed it here last; zero if it never did
	teller  string        // the server that told of it last, empty if it was this one
	told    ci.Signal     // what its runner has heard
	news    chan struct{} // closed when there is a new signal, or the lease has ended
}

func (d *desk) init() {
	d.files = map[ci.RunID]*file{}
	d.groups = map[group]trial{}
	d.wake = make(chan struct{}, 1)
}

// put takes what a run asks for now. New leases are good for a period.
func (d *desk) put(f finding, now time.Time, period time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.files[f.run]
	if c == nil {
		if f.completed && len(f.claims) == 0 {
			return
		}
		c = &file{run: f.run, repository: f.repository, index: -1, holdings: map[ci.JobID]*holding{}}
		d.files[f.run] = c
	}
	c.putDeadlines(f.deadlines, now)
	if f.version != c.version {
		c.version, c.trial = f.version, trial{}
	}
	c.putHoldings(f, now.Add(period))
	d.putClaims(c, f.claims)
	d.schedule(c)
	if f.completed && len(c.claims) == 0 && len(c.holdings) == 0 {
		delete(d.files, f.run)
	}
}

func (c *file) putDeadlines(all []time.Time, now time.Time) {
	old := c.deadlines
	c.deadlines = make([]deadline, 0, len(all))
	for _, at := range all {
		d := deadline{at: at, comes: now.Add(at.Sub(now.Round(0)))}
		if i, known := slices.BinarySearchFunc(old, at, func(d deadline, at time.Time) int { return d.at.Compare(at) }); known {
			d = old[i]
		}
		c.deadlines = append(c.deadlines, d)
	}
}

func (c *file) putHoldings(f finding, until time.Time) {
	for _, j := range f.leased {
		h := c.holdings[j.ID]
		if h == nil || h.id != j.Lease {
			if h != nil {
				close(h.news)
			}
			h = &holding{job: j.ID, id: j.Lease, runner: j.Runner, attempt: f.attempt, signal: ci.Signal(j.Stop), until: until, news: make(chan struct{})}
			c.holdings[j.ID] = h
		}
		if h.signal != ci.Signal(j.Stop) {
			h.signal = ci.Signal(j.Stop)
			close(h.news)
			h.news = make(chan struct{})
		}
		h.version = f.version
	}
	for id, h := range c.holdings {
		if h.version != f.version {
			close(h.news)
			delete(c.holdings, id)
		}
	}
}

// putClaims marks the groups of all claims that came, changed or went.
func (d *desk) putClaims(c *file, claims []ci.Claim) {
	changed := false
	old := map[ci.Claim]bool{}
	for _, claim := range c.claims {
		old[claim] = true
	}
	for _, claim := range claims {
		if old[claim] {
			delete(old, claim)
			continue
		}
		d.groups[group{c.repository, claim.Key}] = trial{}
		changed = true
	}
	for claim := range old {
		d.groups[group{c.repository, claim.Key}] = trial{}
		changed = true
	}
	c.claims = claims
	if changed {
		d.ring()
	}
}

// schedule sets when a run has to be looked at.
func (d *desk) schedule(c *file) {
	due := time.Time{}
	earlier := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
		}
	}
	for _, d := range c.deadlines {
		if !d.ticked {
			earlier(d.comes)
		}
	}
	for _, h := range c.holdings {
		earlier(h.until)
	}
	if !due.IsZero() && due.Before(c.trial.at) {
		due = c.trial.at
	}
	c.due = due
	switch {
	case due.IsZero() && c.index >= 0:
		heap.Remove(&d.timers, c.index)
	case due.IsZero():
	case c.index >= 0:
		heap.Fix(&d.timers, c.index)
	default:
		heap.Push(&d.timers, c)
	}
	if c.index == 0 {
		d.ring()
	}
}

// ring wakes Work.
func (d *desk) ring() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// chore is one thing that Work has to do for a run.
type chore struct {
	run   ci.RunID
	input ci.Input
}

// due gives what has to be done at a time, the groups to look at, and when to ask again (zero: when woken).
func (d *desk) due(now time.Time, lost func(*holding, time.Time) ci.Input) (chores []chore, groups []group, next time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.timers) > 0 && !d.timers[0].due.After(now) {
		c := d.timers[0]
		for _, h := range c.holdings {
			if h.until.After(now) {
				continue
			}
			if loss := lost(h, now); loss != nil {
				chores = append(chores, chore{c.run, loss})
			}
			h.until = now.Add(retryAfter) // it goes when the loss is stored
		}
		for i := range c.deadlines {
			if d := &c.deadlines[i]; !d.ticked && !d.comes.After(now) {
				chores = append(chores, chore{c.run, ci.Tick{At: d.at}})
				d.ticked = true
			}
		}
		c.trial.at = time.Time{}
		d.schedule(c)
	}
	if len(d.timers) > 0 {
		next = d.timers[0].due
	}
	for g, t := range d.groups {
		switch {
		case !t.at.After(now):
			groups = append(groups, g)
			d.groups[g] = trial{at: never, failures: t.failures} // its failures are known until it went well
		case t.at != never && (next.IsZero() || t.at.Before(next)):
			next = t.at
		}
	}
	return chores, groups, next
}

// failed says that something for a run could not be done: it is tried again after a pause.
func (d *desk) failed(run ci.RunID, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.files[run]; c != nil {
		c.trial = c.trial.after(now)
		for i := range c.deadlines {
			c.deadlines[i].ticked = false
		}
		d.schedule(c)
	}
}

// settled says how the look at a group went: a failure is tried again after a pause.
func (d *desk) settled(g group, ok bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, known := d.groups[g]
	switch {
	case !known || t.at != never: // it has changed meanwhile and is looked at anyhow
	case ok:
		delete(d.groups, g)
	default:
		d.groups[g] = t.after(now)
		d.ring()
	}
}

// renew makes a lease good for another period. It gives the signal for the job, whether its runner has not heard it yet, and a
// channel that is closed when there is news. ok is false if the lease has ended.
func (d *desk) renew(l ci.Lease, now time.Time, period time.Duration) (signal ci.Signal, fresh bool, news <-chan struct{}, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.files[l.Run]
	if c == nil {
		return "", false, nil, false
	}
	h := c.holdings[l.Job]
	if h == nil || h.id != l.ID {
		return "", false, nil, false
	}
	h.until, h.renewed, h.teller = now.Add(period), now, ""
	d.schedule(c)
	fresh = h.signal != h.told
	h.told = h.signal
	return h.signal, fresh, h.news, true
}

// heard gives the leases that were renewed here after a time.
func (d *desk) heard(since time.Time) []ci.LeaseID {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []ci.LeaseID{}
	for _, c := range d.files {
		for _, h := range c.holdings {
			if h.renewed.After(since) {
				list = append(list, h.id)
			}
		}
	}
	return list
}

// told makes the leases of which another server has heard good until a time, but for those that were renewed here after since.
func (d *desk) told(teller string, leases []ci.LeaseID, until, since time.Time) {
	told := map[ci.LeaseID]bool{}
	for _, id := range leases {
		told[id] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.files {
		for _, h := range c.holdings {
			if told[h.id] && !h.renewed.After(since) {
				h.until, h.teller = until, teller
			}
		}
		d.schedule(c)
	}
}

// extend makes all leases good until a time at least.
func (d *desk) extend(until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.files {
		for _, h := range c.holdings {
			if h.until.Before(until) {
				h.until = until
			}
		}
		d.schedule(c)
	}
}

// attempt gives the run attempt of a lease, ok false if the lease has ended.
func (d *desk) attempt(l ci.Lease) (attempt int, ok bool) {
	attempt, _, ok = d.holder(l)
	return attempt, ok
}

// holder gives the run attempt of a lease and its runner, ok false if the lease has ended.
func (d *desk) holder(l ci.Lease) (attempt int, runner string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.files[l.Run]; c != nil {
		if h := c.holdings[l.Job]; h != nil && h.id == l.ID {
			return h.attempt, h.runner, true
		}
	}
	return 0, "", false
}

// fileHeap has the file that is due first on top.
type fileHeap []*file

func (h fileHeap) Len() int           { return len(h) }
func (h fileHeap) Less(i, k int) bool { return h[i].due.Before(h[k].due) }
func (h fileHeap) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i, k
}
func (h *fileHeap) Push(v any) {
	c := v.(*file)
	c.index = len(*h)
	*h = append(*h, c)
}
func (h *fileHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	c.index = -1
	return c
}
