package deploy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/proxy"
)

// instance is what one goroutine brings about: that an instance runs, or that it does not.
type instance struct {
	h      *Host
	id     instanceID
	tended bool // has its goroutine; Host.mu guards it
	wake   chan struct{}

	mu   sync.Mutex
	want *Wanted            // nil is nothing
	home *home              // nil if there is none
	call context.CancelFunc // ends what is under way for another want; nil if nothing is

	last     cd.Instance // was told last
	rebooted bool        // it ended with its machine, and what was told before counts until it is known how it is again
	restarts int         // of keepers that are no more, and of failed starts
	failures int         // in a row, to get it going
}

func newInstance(h *Host, id instanceID, d *home) *instance {
	i := &instance{h: h, id: id, home: d, wake: make(chan struct{}, 1)}
	if d != nil {
		i.restarts = d.spec.Restarts
	}
	return i
}

// set says what is wanted from now on.
func (i *instance) set(w *Wanted) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if reflect.DeepEqual(i.want, w) {
		return
	}
	if i.call != nil && (w == nil || w.Revision.ID != i.want.Revision.ID) {
		i.call()
	}
	i.want = w
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

func (i *instance) wanted() *Wanted {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.want
}

func (i *instance) homeNow() *home {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.home
}

func (i *instance) setHome(d *home) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.home = d
}

// onlyFor gives a context that ends when something other than w is wanted.
func (i *instance) onlyFor(ctx context.Context, w *Wanted) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.want == nil || i.want.Revision.ID != w.Revision.ID {
		cancel()
	}
	i.call = cancel
	return ctx, func() {
		i.mu.Lock()
		i.call = nil
		i.mu.Unlock()
		cancel()
	}
}

// fits says whether what is there is what is wanted.
func (i *instance) fits(w *Wanted) bool {
	d := i.homeNow()
	return d == nil || w != nil && d.spec.Program.Revision.ID == w.Revision.ID && d.spec.Listen == i.h.o.Listen
}

// tell tells of a change, unless that is what was told last.
func (i *instance) tell(now cd.Instance) {
	if i.rebooted && now.State == cd.Starting {
		return
	}
	i.rebooted = false
	now.Index, now.Since = i.id.index, i.last.Since
	if now == i.last {
		return
	}
	if now.State != i.last.State || now.Restarts != i.last.Restarts {
		now.Since = time.Now()
	}
	i.last = now
	i.h.telling.tell(i.id, now)
	if now.State != cd.Starting { // what started needs the processors no more
		i.h.refill()
	}
}

// run brings about what is wanted until ctx ends, or until the instance has ended and is wanted no more.
func (i *instance) run(ctx context.Context) {
	for ctx.Err() == nil {
		w := i.wanted()
		var err error
		switch {
		case !i.fits(w):
			err = i.stop(ctx)
		case w == nil:
			i.tell(cd.Instance{State: cd.Stopped})
			if i.h.forget(i) {
				i.h.cleanUp()
				return
			}
		case !alive(i.homeDir()):
			err = i.start(ctx, w)
		default:
			err = i.tend(ctx)
		}
		if err != nil && ctx.Err() == nil {
			i.failed(ctx, w, err)
		}
	}
}

func (i *instance) homeDir() string {
	if d := i.homeNow(); d != nil {
		return d.dir
	}
	return ""
}

// failed tells why an instance could not be got going, or ended, and waits before it is tried again or something else is
// wanted.
func (i *instance) failed(ctx context.Context, w *Wanted, err error) {
	if i.fits(w) {
		i.restarts++
		i.tell(cd.Instance{State: cd.Exited, Restarts: i.restarts, Reason: clip(err.Error(), maxReason)})
	} else { // whether it runs matters to nobody any more
		i.h.o.Log("%s %d of release %d: %v", i.id.service, i.id.index, i.id.release, err)
	}
	wait := time.After(min(firstPause<<min(i.failures, 10), lastPause))
	i.failures++
	for i.wanted() == w {
		select {
		case <-ctx.Done():
			return
		case <-i.wake:
		case <-wait:
			return
		}
	}
}

// start starts the keeper of an instance that has none.
func (i *instance) start(ctx context.Context, w *Wanted) error {
	ctx, done := i.onlyFor(ctx, w)
	defer done()
	d := i.homeNow()
	if d != nil { // its keeper has gone; what the keeper knew counts
		if err := i.h.endLeft(d); err != nil {
			return err
		}
		var s status
		if readJSON(filepath.Join(d.dir, stateFile), &s) == nil {
			i.restarts = max(i.restarts, s.Restarts)
		}
		switch {
		case i.last.State == cd.Exited: // it was told
		case i.last.State == "" && d.spec.Boot != "" && d.spec.Boot != i.h.o.boot: // all instances ended, which says nothing of any
			i.rebooted = true
			i.h.o.Log("%s %d of release %d ended with its machine and is started again", i.id.service, i.id.index, i.id.release)
		default: // it ended while nobody looked
			i.restarts++
			i.tell(cd.Instance{State: cd.Exited, Restarts: i.restarts, Reason: keeperFailed(d.dir).Error()})
		}
	} else {
		i.tell(cd.Instance{State: cd.Starting, Restarts: i.restarts})
	}
	p, err := i.h.prepare(ctx, w.Revision, io.Discard)
	if err != nil {
		return err
	}
	secrets, err := i.h.secrets(ctx, *w)
	if err != nil {
		return err
	}
	return i.begin(ctx, orders{instanceSpec{
		Release: w.Release, Service: w.Service, Index: i.id.index, Repository: w.Repository, Environment: w.Environment,
		Program: *p, Plain: i.h.plain(), Listen: i.h.o.Listen, LogFile: i.h.o.logFile, Restarts: i.restarts, Boot: i.h.o.boot,
	}, secrets})
}

// begin gives a keeper its orders: one for the home that is there, or with a home.
func (i *instance) begin(ctx context.Context, o orders) (err error) {
	var r *recruit
	d := i.homeNow()
	if d != nil {
		r, err = i.h.launch(d.dir)
	} else {
		r, err = i.h.recruit()
	}
	if err != nil {
		return err
	}
	made := &home{r.dir, o.Spec}
	if err := i.h.describe(made); err != nil {
		r.dismiss()
		if d == nil {
			err = errors.Join(err, i.h.discard(made, false))
		}
		return err
	}
	i.setHome(made)
	return r.begin(ctx, o)
}

// drainLimit is how long an instance is kept for what is under way to it.
const drainLimit = 30 * time.Second

// stop ends an instance: once nothing is under way to it any more its program is asked to end.
func (i *instance) stop(ctx context.Context) error {
	d := i.homeNow()
	if alive(d.dir) && i.h.o.Drained != nil {
		var s status
		asking, cancel := context.WithTimeout(ctx, haltWait)
		err := d.ask(asking, request{Op: "watch"}, &s)
		cancel()
		if addr := d.addr(s); err == nil && addr != "" && !i.drain(ctx, addr) {
			return nil // it is wanted again
		}
	}
	if err := i.h.halt(ctx, d); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if err := i.h.discard(d, true); err != nil {
		return err
	}
	i.setHome(nil) // only now: its logs are found before and after
	i.restarts, i.failures = 0, 0
	return nil
}

// drain waits until nothing is under way to an address, or for long enough. It gives false if the instance is wanted after
// all.
func (i *instance) drain(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	done := make(chan struct{})
	go func() { // ends with ctx at the latest
		defer close(done)
		if err := i.h.o.Drained(ctx, addr); err != nil && ctx.Err() == nil {
			i.h.o.Log("wait for what is under way to %s: %v", addr, err)
		}
	}()
	for {
		select {
		case <-done:
			return !i.fits(i.wanted())
		case <-i.wake:
			if i.fits(i.wanted()) {
				cancel()
				<-done
				return false
			}
		}
	}
}

// tend looks after an instance whose keeper lives, until that has changed or something else is wanted.
func (i *instance) tend(ctx context.Context) error {
	d := i.homeNow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, done, err := i.watch(ctx, d)
	if err != nil || in == nil {
		return err
	}
	defer done()
	t := &tending{i: i, d: d, answers: make(chan answer, 1)}
	statuses := make(chan status)
	go func() { // ends with the connection
		defer close(statuses)
		for {
			var s status
			if in.Decode(&s) != nil {
				return
			}
			select {
			case statuses <- s:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { // so that nothing is asked when we have gone
		cancel()
		t.asking.Wait()
	}()
	first := time.After(keeperWait)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-first:
			if t.status.Phase == "" {
				return errors.Join(errNoAnswer, killKeeper(d.dir))
			}
		case <-i.wake:
			if w := i.wanted(); w == nil || !i.fits(w) {
				return nil
			}
		case s, ok := <-statuses:
			if !ok {
				return i.gone(ctx, d, t.status)
			}
			t.hear(ctx, s)
		case a := <-t.answers:
			t.answered(ctx, a)
		case <-t.timer():
			t.ask(ctx)
		}
	}
}

// stoppedOutside is why an instance ended that this target did not end: its system is being stopped, or an earlier target
// had wanted it no more.
const stoppedOutside = "it was stopped from outside"

// gone is when the connection to a keeper has ended: it says why, if the keeper has ended too.
func (i *instance) gone(ctx context.Context, d *home, last status) error {
	for began := time.Now(); alive(d.dir) && time.Since(began) < haltWait; {
		if last.Phase != ended || pause(ctx, 5*time.Millisecond) != nil {
			return nil
		}
	}
	if err := i.h.endLeft(d); err != nil {
		return err
	}
	if last.Phase == ended {
		return errors.New(stoppedOutside)
	}
	return keeperFailed(d.dir)
}

var errNoAnswer = errors.New("its keeper does not answer, and is killed")

// watch connects to a keeper, which may not yet listen. It gives none if the keeper has gone meanwhile.
func (i *instance) watch(ctx context.Context, d *home) (*json.Decoder, func(), error) {
	for began := time.Now(); ; {
		in, done, err := d.call(ctx, request{Op: "watch"})
		if err == nil {
			return in, done, nil
		}
		if !alive(d.dir) {
			return nil, nil, keeperFailed(d.dir)
		}
		if time.Since(began) > keeperWait {
			return nil, nil, errors.Join(errNoAnswer, err, killKeeper(d.dir))
		}
		if pause(ctx, 5*time.Millisecond) != nil {
			return nil, nil, nil
		}
	}
}

// tending is how an instance is looked after.
type tending struct {
	i       *instance
	d       *home
	status  status
	patient *patient // nil while the program does not run
	asking  sync.WaitGroup
	answers chan answer
	next    *time.Timer // nil while nothing is to be asked
	told    time.Time   // when it was last told why it is not healthy
}

// answer is what a start of a program said.
type answer struct {
	start int
	err   error
}

func (t *tending) timer() <-chan time.Time {
	if t.next == nil {
		return nil
	}
	return t.next.C
}

// hear takes in what the keeper says.
func (t *tending) hear(ctx context.Context, s status) {
	before := t.status
	t.status = s
	t.i.restarts = max(t.i.restarts, s.Restarts)
	if s.Start != before.Start || s.Phase != running {
		t.patient, t.next = nil, nil
	}
	switch s.Phase {
	case opening:
		t.tell(cd.Starting, s.Reason)
	case running:
		if t.patient != nil {
			return
		}
		t.i.failures = 0
		t.patient = &patient{health: t.health(), began: s.Began, state: cd.Starting}
		reason := ""
		if n := s.Note; n != nil && n.Start == s.Start {
			t.patient.state, t.patient.well, t.patient.ill, reason = n.State, n.Well, time.Now(), n.Reason // as was told: if it is not so any more, that shows
		}
		t.tell(t.patient.state, reason)
		t.next = time.NewTimer(0)
	case pausing:
		t.tell(cd.Exited, s.Reason)
	case stopping, ended:
		t.tell(cd.Exited, stoppedOutside)
	}
}

func (t *tending) health() cd.Health {
	if w := t.i.wanted(); w != nil {
		return withDefaults(w.Health)
	}
	return withDefaults(cd.Health{})
}

func (t *tending) tell(s cd.State, reason string) {
	t.i.tell(cd.Instance{State: s, Addr: t.d.addr(t.status), Restarts: t.i.restarts, Reason: reason})
}

// ask asks the program; the answer comes later.
func (t *tending) ask(ctx context.Context) {
	t.next = nil
	if t.patient == nil {
		return
	}
	t.patient.health = t.health()
	start, addr := t.status.Start, t.d.own(t.status)
	if t.d.spec.Program.Revision.Port == 0 { // it can not be asked: that it goes on running is its health
		if left := steady*t.patient.health.Interval - time.Since(t.status.Began); left > 0 {
			t.next = time.NewTimer(left)
			return
		}
		t.answered(ctx, answer{start, nil})
		return
	}
	c := checker{t.patient.health, func(ctx context.Context) (net.Conn, error) { return proxy.Dial(ctx, addr) }}
	t.asking.Go(func() {
		a := answer{start, c.ask(ctx)}
		select {
		case t.answers <- a:
		case <-ctx.Done():
		}
	})
}

// answered takes an answer in.
func (t *tending) answered(ctx context.Context, a answer) {
	p := t.patient
	if p == nil || a.start != t.status.Start || ctx.Err() != nil {
		return
	}
	now := time.Now()
	was := p.state
	p.hear(a.err, now)
	switch {
	case p.state != was:
		reason := t.explain(ctx, a.err)
		t.note(ctx, &noted{t.status.Start, p.state, p.well, reason})
		t.tell(p.state, reason)
	case p.state != cd.Healthy && now.Sub(t.told) >= tellEvery && now.Sub(p.began) >= tellFirst:
		t.told = now
		t.tell(p.state, t.explain(ctx, a.err))
	}
	if w := t.i.wanted(); w != nil && w.Revive && p.hopeless(now) {
		p.ill = now // it takes its time to end
		t.revive(ctx, t.explain(ctx, a.err))
	}
	t.next = time.NewTimer(p.pause(now))
}

// revive has the program started again.
func (t *tending) revive(ctx context.Context, reason string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	t.i.h.o.Log("%s %d of release %d is ill and is started again: %s", t.i.id.service, t.i.id.index, t.i.id.release, reason)
	if err := t.d.ask(ctx, request{Op: "restart", Start: t.status.Start, Reason: reason}, &status{}); err != nil && ctx.Err() == nil {
		t.i.h.o.Log("start %s %d of release %d again: %v", t.i.id.service, t.i.id.index, t.i.id.release, err)
	}
}

// How long an instance may be starting before it is told why it is not healthy, and how often that is told anew.
const (
	tellFirst = time.Second
	tellEvery = 5 * time.Second
)

// note has the keeper remember how the instance is.
func (t *tending) note(ctx context.Context, n *noted) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := t.d.ask(ctx, request{Op: "note", Note: n}, &status{}); err != nil && ctx.Err() == nil {
		t.i.h.o.Log("note that %s %d of release %d is %s: %v", t.i.id.service, t.i.id.index, t.i.id.release, n.State, err)
	}
}

// explain says why an instance is not healthy.
func (t *tending) explain(ctx context.Context, err error) string {
	if err == nil {
		return ""
	}
	var closed errClosed
	if !errors.As(err, &closed) {
		return err.Error()
	}
	port := t.i.wantedPort()
	text := fmt.Sprintf("nothing listens on port %d", port)
	if t.patient.state == cd.Ill {
		text += fmt.Sprintf(", after %d tries", t.patient.asked)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var ports []int
	if t.d.ask(ctx, request{Op: "ports"}, &ports) != nil || len(ports) == 0 {
		return text
	}
	for _, p := range ports {
		if p == port {
			return fmt.Sprintf("port %d takes no connections: %v", port, cmp.Or(errors.Unwrap(closed.cause), closed.cause))
		}
	}
	return fmt.Sprintf("%s; it listens on %s", text, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]"))
}

func (i *instance) wantedPort() int {
	if w := i.wanted(); w != nil {
		return w.Revision.Port
	}
	return 0
}
