package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/image"
)

// FleetOptions are what a fleet is told of its surroundings.
type FleetOptions struct {
	Options
	// Images is where machines get images from that no registry has; nil is nowhere.
	Images *image.Store
	// Joined gives the names of the machines that there may be; others have been removed. Nil: all may be there.
	Joined func(ctx context.Context) (map[string]bool, error)
	// Log is told what a person may want to know and nobody waits for.
	Log func(format string, args ...any)

	lease time.Duration // 0 takes the usual
}

// Fleet is a target of several machines: one of its own, and those that connect (Serve), by their names. A machine that is away is
// waited for as long as its lease; then what it runs is told as ill, and what is not wanted of it as stopped, for nobody could
// tell. When it is back it gets what is wanted then, and tells everything again.
type Fleet struct {
	own     Target
	o       FleetOptions
	ctx     context.Context
	end     context.CancelFunc
	working sync.WaitGroup
	telling *teller
	began   time.Time

	mu       sync.Mutex
	machines map[string]*remote
	ownIDs   map[instanceID]bool // what own is to know of
	ensured  bool                // Ensure was called: until then nobody is told to run nothing
	closed   bool
}

// NewFleet makes a fleet round a target of its own, which it closes.
func NewFleet(own Target, o FleetOptions) *Fleet {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.lease == 0 {
		o.lease = leaseWait
	}
	f := &Fleet{own: own, o: o, telling: newTeller(o.Seen), began: time.Now(), machines: map[string]*remote{}}
	f.ctx, f.end = context.WithCancel(context.Background())
	f.working.Go(func() { f.telling.run(f.ctx) })
	if o.Joined != nil {
		f.working.Go(f.watchJoined)
	}
	return f
}

// remote is a machine as the fleet knows it.
type remote struct {
	f    *Fleet
	name string

	mu      sync.Mutex
	wanted  []Wanted
	version int64                      // of wanted
	changed chan struct{}              // closed when wanted changes
	hooks   []*Wanted                  // those under way
	last    map[instanceID]cd.Instance // of what is wanted, or was and has not ended
	early   map[instanceID]cd.Instance // what the session told of others: they may be wanted before the machine hears that they are not
	session *session                   // nil while it is away
	news    chan struct{}              // closed when session changes
	heard   time.Time                  // last, while it is away
	lease   *time.Timer                // while it is away
	lost    string                     // why it is given up; empty while it is not
	removed bool
}

// machine finds a machine, or makes one that is away.
func (f *Fleet) machine(name string) *remote {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machineNow(name)
}

// machineNow is machine for who holds mu.
func (f *Fleet) machineNow(name string) *remote {
	r := f.machines[name]
	if r == nil {
		r = &remote{f: f, name: name, changed: make(chan struct{}), news: make(chan struct{}), last: map[instanceID]cd.Instance{}, early: map[instanceID]cd.Instance{}, heard: f.began}
		f.machines[name] = r
		if f.ensured {
			r.set(nil) // else it would have been there
		}
		r.mu.Lock()
		r.waitForIt()
		r.mu.Unlock()
	}
	return r
}

// Ensure implements Target.
func (f *Fleet) Ensure(wanted []Wanted) {
	var own []Wanted
	ownIDs, parts := map[instanceID]bool{}, map[string][]Wanted{}
	for _, w := range wanted {
		if len(w.Machines) == 0 {
			own = append(own, w)
			for _, id := range slices.Concat(w.instances(), w.left()) {
				ownIDs[id] = true
			}
		}
		for at, name := range w.Machines {
			part := w
			part.Part, part.Parts = at, len(w.Machines)
			parts[name] = append(parts[name], part)
		}
	}
	if f.own != nil {
		f.own.Ensure(own)
	}
	f.mu.Lock() // a machine that connects meanwhile is told nothing else
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.ensured, f.ownIDs = true, ownIDs
	for name := range parts {
		f.machineNow(name)
	}
	for name, r := range f.machines {
		r.set(parts[name])
	}
}

// set says what is wanted of a machine from now on.
func (r *remote) set(list []Wanted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var slim []Wanted
	for _, w := range list {
		var left []cd.Instance
		for _, i := range w.Known {
			id := instanceID{w.Release, w.Service, i.Index}
			if !w.has(i.Index) {
				continue
			}
			if _, told := r.last[id]; !told {
				r.last[id] = i
			}
			if i.Index >= w.Instances {
				left = append(left, cd.Instance{Index: i.Index})
			}
		}
		for _, id := range w.instances() {
			if _, told := r.last[id]; !told {
				r.last[id] = cd.Instance{Index: id.index}
			}
		}
		w.Known = left
		slim = append(slim, w)
	}
	if r.version > 0 && reflect.DeepEqual(slim, r.wanted) {
		return
	}
	r.wanted = slim
	for id, now := range r.early {
		if _, its := r.last[id]; its {
			delete(r.early, id)
			r.tell(id, now)
		}
	}
	r.version++
	close(r.changed)
	r.changed = make(chan struct{})
	if r.lost != "" {
		r.giveUp()
	}
}

// wants reports whether an instance is wanted. The caller holds mu.
func (r *remote) wants(id instanceID) bool {
	return slices.ContainsFunc(r.wanted, func(w Wanted) bool { return slices.Contains(w.instances(), id) })
}

// waitForIt gives a machine its lease to come back. The caller holds mu.
func (r *remote) waitForIt() {
	if r.lease != nil {
		r.lease.Stop()
	}
	r.lease = time.AfterFunc(time.Until(r.heard.Add(r.f.o.lease)), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.session != nil || r.lost != "" || r.f.ctx.Err() != nil {
			return
		}
		r.lost = fmt.Sprintf("machine %s has not been heard of since %s", r.name, r.heard.UTC().Format(time.DateTime+" MST"))
		if len(r.last) > 0 {
			r.f.o.Log("%s: what it runs is taken for ill", r.lost)
		}
		r.giveUp()
		r.ring()
	})
}

// giveUp tells what nobody else can of a machine that is lost: what is wanted is ill, for it may still serve, and has ended if the
// machine was removed; what is not wanted is nobody's any more. The caller holds mu.
func (r *remote) giveUp() {
	for id, last := range r.last {
		now := cd.Instance{Index: id.index, State: cd.Ill, Addr: last.Addr, Restarts: last.Restarts, Reason: r.lost}
		switch {
		case !r.wants(id):
			now = cd.Instance{Index: id.index, State: cd.Stopped}
		case r.removed:
			now.State, now.Addr = cd.Exited, ""
		}
		r.tell(id, now)
	}
}

// tell has something told of an instance. The caller holds mu.
func (r *remote) tell(id instanceID, now cd.Instance) {
	last := r.last[id]
	if now.Since.IsZero() {
		now.Since = last.Since
	}
	if now == last {
		return
	}
	if now.State != last.State || now.Restarts != last.Restarts || now.Since.After(time.Now()) {
		now.Since = time.Now().UTC()
	}
	if now.State == cd.Stopped && !r.wants(id) {
		delete(r.last, id)
	} else {
		r.last[id] = now
	}
	r.f.telling.tell(id, now)
}

// seen takes in what a machine tells of an instance in a session.
func (r *remote) seen(s *session, id instanceID, now cd.Instance) error {
	if err := checkAddr(now.Addr, s.offer.Address); err != nil {
		r.f.o.Log("machine %s: %v", r.name, err)
		return err
	}
	now.Since = now.Since.UTC().Round(0)
	others := now.State == cd.Stopped && r.f.anothers(r, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, its := r.last[id]
	switch {
	case r.session != s:
	case its || now.State == cd.Stopped && !others:
		delete(r.early, id)
		r.tell(id, now)
	case now.State == cd.Stopped:
		delete(r.early, id)
	case len(r.early) < maxEarly:
		r.early[id] = now
	}
	return nil
}

// anothers says whether an instance is on another machine than r.
func (f *Fleet) anothers(r *remote, id instanceID) bool {
	f.mu.Lock()
	machines := slices.Collect(maps.Values(f.machines))
	own := f.ownIDs[id]
	f.mu.Unlock()
	return own || slices.ContainsFunc(machines, func(other *remote) bool {
		if other == r {
			return false
		}
		other.mu.Lock()
		defer other.mu.Unlock()
		_, has := other.last[id]
		return has
	})
}

// ring wakes who waits for another session. The caller holds mu.
func (r *remote) ring() {
	close(r.news)
	r.news = make(chan struct{})
}

// begin makes a session the one of its machine. One that is there ends: a machine that has lost its connection may know it first.
func (r *remote) begin(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session != nil {
		r.session.end(errors.New("the machine has connected again"))
	}
	if r.lease != nil {
		r.lease.Stop()
	}
	if r.lost != "" {
		r.f.o.Log("machine %s is back", r.name)
	}
	r.session, r.lost, r.removed = s, "", false
	clear(r.early)
	r.ring()
}

// over ends the time of a session.
func (r *remote) over(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session != s {
		return
	}
	r.session, r.heard = nil, s.conn.heard()
	r.ring()
	r.waitForIt()
}

// current waits for a session of a machine, as long as it is not given up.
func (r *remote) current(ctx context.Context) (*session, error) {
	for {
		r.mu.Lock()
		s, lost, news := r.session, r.lost, r.news
		r.mu.Unlock()
		switch {
		case s != nil:
			return s, nil
		case lost != "":
			return nil, errors.New(lost)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Connected gives the names of the machines that are connected now.
func (f *Fleet) Connected() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]bool{}
	for name, r := range f.machines {
		r.mu.Lock()
		if r.session != nil {
			all[name] = true
		}
		r.mu.Unlock()
	}
	return all
}

// joinedEvery is how often it is asked which machines have been removed.
const joinedEvery = 2 * time.Second

// watchJoined ends the connections of machines that have been removed, and gives them up at once.
func (f *Fleet) watchJoined() {
	for pause(f.ctx, joinedEvery) == nil {
		f.mu.Lock()
		machines := slices.Collect(maps.Values(f.machines))
		f.mu.Unlock()
		if len(machines) == 0 {
			continue
		}
		joined, err := f.o.Joined(f.ctx)
		if err != nil {
			if f.ctx.Err() == nil {
				f.o.Log("ask which machines there are: %v", err)
			}
			continue
		}
		for _, r := range machines {
			if !joined[r.name] {
				r.remove()
			}
		}
	}
}

// remove gives a machine up that was removed. One of which nothing is known any more is forgotten.
func (r *remote) remove() {
	r.mu.Lock()
	if !r.removed {
		r.removed, r.lost = true, fmt.Sprintf("machine %s was removed", r.name)
		if r.session != nil {
			r.session.end(errors.New(r.lost))
			r.session = nil
		}
		r.giveUp()
		r.ring()
	}
	idle := len(r.last) == 0 && len(r.wanted) == 0
	r.mu.Unlock()
	if !idle {
		return
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == nil && len(r.last) == 0 && len(r.wanted) == 0 {
		delete(r.f.machines, r.name)
	}
}

// Run implements Target: on the first machine.
func (f *Fleet) Run(ctx context.Context, w Wanted, command []string, output io.Writer) error {
	if len(w.Machines) == 0 {
		return f.own.Run(ctx, w, command, output)
	}
	r := f.machine(w.Machines[0])
	s, err := r.current(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.hooks = append(r.hooks, &w)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.hooks = slices.DeleteFunc(r.hooks, func(x *Wanted) bool { return x == &w })
		r.mu.Unlock()
	}()
	return s.run(ctx, w, command, output)
}

// Logs implements Target.
func (f *Fleet) Logs(ctx context.Context, w Wanted, index int, lines int, follow bool, out io.Writer) error {
	if len(w.Machines) == 0 {
		return f.own.Logs(ctx, w, index, lines, follow, out)
	}
	if index < 0 {
		return fmt.Errorf("there is no instance %d", index)
	}
	s, err := f.machine(w.Machines[index%len(w.Machines)]).current(ctx)
	if err != nil {
		return err
	}
	return s.logs(ctx, w, index, lines, follow, out)
}

// Close implements Target.
func (f *Fleet) Close() error {
	f.mu.Lock()
	f.closed = true
	for _, r := range f.machines {
		r.mu.Lock()
		if r.lease != nil {
			r.lease.Stop()
		}
		r.mu.Unlock()
	}
	f.mu.Unlock()
	f.end()
	f.working.Wait()
	if f.own == nil {
		return nil
	}
	return f.own.Close()
}

// asks says whether a machine may ask for something of a revision: it was told to run it.
func (r *remote) asks(is func(Wanted) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.wanted, func(w Wanted) bool { return len(w.instances()) > 0 && is(w) }) ||
		slices.ContainsFunc(r.hooks, func(w *Wanted) bool { return is(*w) })
}

// reaches says whether an address is that of an instance of a machine.
func (r *remote) reaches(addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(slices.Collect(maps.Values(r.last)), func(i cd.Instance) bool { return i.Addr == addr })
}

// Offer is what a machine offers that connects.
type Offer struct {
	Name string
	// Address is where the proxy reaches the instances of the machine.
	Address netip.Addr
}
