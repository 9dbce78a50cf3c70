package engine

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// dispatch brings jobs that are ready together with runners that wait, the job that is queued longest first, the
// runner that waits longest first.
type dispatch struct {
	mu      sync.Mutex
	shelves map[string]*shelf // by what a runner must have
	runs    map[ci.RunID]map[ci.JobID]*offer
	waiting []*waiter // in the order in which they came
}

// offer is a job that may be leased.
type offer struct {
	run      ci.RunID
	job      ci.JobID
	labels   []string // lower case, sorted
	group    string   // lower case
	runner   string   // the only one that can run it; "" for any
	since    time.Time
	position int // in the run

	// Guarded by dispatch.mu.
	wanted bool // the run, as stored, has the job ready
	handed bool // a lease of it is being tried
}

// shelf holds the offers that ask for the same labels, group and runner.
type shelf struct {
	labels []string
	group  string
	runner string
	offers offerHeap
}

// waiter is a runner that waits. It gets one offer.
type waiter struct {
	name   string
	labels map[string]bool // lower case; empty takes all
	group  string
	got    chan *offer // holds one
}

func (d *dispatch) init() {
	d.shelves = map[string]*shelf{}
	d.runs = map[ci.RunID]map[ci.JobID]*offer{}
}

// put says which jobs of a run are ready now. Offers that were put before and are still good are kept.
func (d *dispatch) put(run ci.RunID, ready []readyJob) {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.runs[run]
	if known == nil {
		if len(ready) == 0 {
			return
		}
		known = map[ci.JobID]*offer{}
		d.runs[run] = known
	}
	for _, o := range known {
		o.wanted = false
	}
	fresh := false
	for _, r := range ready {
		if old := known[r.ID]; old != nil {
			old.wanted = true
			continue
		}
		o := newOffer(run, r)
		o.wanted = true
		known[o.job] = o
		d.shelve(o)
		fresh = true
	}
	for job, o := range known {
		if !o.wanted && !o.handed { // it stays on its shelf until somebody comes by
			delete(known, job)
		}
	}
	if len(known) == 0 {
		delete(d.runs, run)
	}
	if fresh {
		d.serve()
	}
}

// next waits for an offer that a runner can take. The caller says with leased or release what became of it.
func (d *dispatch) next(ctx context.Context, r ci.Runner) (*offer, error) {
	w := newWaiter(r)
	d.mu.Lock()
	if o := d.find(w); o != nil {
		o.handed = true
		d.mu.Unlock()
		return o, nil
	}
	d.waiting = append(d.waiting, w)
	d.mu.Unlock()
	select {
	case o := <-w.got:
		return o, nil
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = slices.DeleteFunc(d.waiting, func(other *waiter) bool { return other == w })
	select {
	case o := <-w.got:
		d.putBack(o)
	default:
	}
	return nil, context.Cause(ctx)
}

// release ends the try to lease an offer. It is offered again if the run, as stored, still has the job ready.
func (d *dispatch) release(o *offer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.putBack(o)
}

func (d *dispatch) putBack(o *offer) {
	o.handed = false
	if o.wanted {
		d.shelve(o)
		d.serve()
		return
	}
	known := d.runs[o.run]
	delete(known, o.job)
	if len(known) == 0 {
		delete(d.runs, o.run)
	}
}

// serve gives offers to those who wait, as long as there is one for somebody.
func (d *dispatch) serve() {
	d.waiting = slices.DeleteFunc(d.waiting, func(w *waiter) bool {
		o := d.find(w)
		if o == nil {
			return false
		}
		o.handed = true
		w.got <- o
		return true
	})
}

// find takes the oldest offer for a runner off its shelf, nil if there is none.
func (d *dispatch) find(w *waiter) *offer {
	var best *shelf
	for key, s := range d.shelves {
		for len(s.offers) > 0 && !s.offers[0].wanted {
			heap.Pop(&s.offers)
		}
		if len(s.offers) == 0 {
			delete(d.shelves, key)
			continue
		}
		if s.fits(w) && (best == nil || s.offers[0].compare(best.offers[0]) < 0) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	return heap.Pop(&best.offers).(*offer)
}

func (d *dispatch) shelve(o *offer) {
	key := strings.Join(o.labels, "\x00") + "\x01" + o.group + "\x01" + o.runner
	s := d.shelves[key]
	if s == nil {
		s = &shelf{labels: o.labels, group: o.group, runner: o.runner}
		d.shelves[key] = s
	}
	heap.Push(&s.offers, o)
}

// fits reports whether a runner has all labels, and is of the group and of the name if one is asked for. Labels and groups do
// not mind case.
func (s *shelf) fits(w *waiter) bool {
	if len(w.labels) == 0 {
		return true
	}
	if s.group != "" && s.group != w.group || s.runner != "" && s.runner != w.name {
		return false
	}
	for _, l := range s.labels {
		if !w.labels[l] {
			return false
		}
	}
	return true
}

func newWaiter(r ci.Runner) *waiter {
	w := &waiter{name: r.Name, labels: map[string]bool{}, group: strings.ToLower(r.Group), got: make(chan *offer, 1)}
	for _, l := range r.Labels {
		w.labels[strings.ToLower(l)] = true
	}
	return w
}

func newOffer(run ci.RunID, r readyJob) *offer {
	o := &offer{run: run, job: r.ID, group: strings.ToLower(r.Group), since: r.Since, position: r.position}
	for _, l := range r.Labels {
		o.labels = append(o.labels, strings.ToLower(l))
	}
	if r.Resume != nil {
		o.runner = r.Resume.Runner
	}
	slices.Sort(o.labels)
	o.labels = slices.Compact(o.labels)
	return o
}

// compare orders offers: queued longest, then the older run, then the place in the run.
func (o *offer) compare(other *offer) int {
	return cmp.Or(o.since.Compare(other.since), cmp.Compare(o.run, other.run), cmp.Compare(o.position, other.position))
}

// offerHeap has the offer that comes first on top. An offer that has become unwanted stays until it is on top.
type offerHeap []*offer

func (h offerHeap) Len() int           { return len(h) }
func (h offerHeap) Less(i, k int) bool { return h[i].compare(h[k]) < 0 }
func (h offerHeap) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h *offerHeap) Push(v any)        { *h = append(*h, v.(*offer)) }
func (h *offerHeap) Pop() any {
	old := *h
	o := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return o
}
