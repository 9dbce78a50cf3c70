package cd

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var rollouts = flag.Int("rollouts", 1500, "how many releases TestSimulation plays")

// TestSimulation plays releases one after the other in environments of their own, each a seed, with instances that die at
// their start, at half of the traffic, after promotion, or whose health flaps, with answers that are late or lost, servers
// that crash, and people who pause, abort, promote, roll back, remove all and begin the next release while one is under way. It holds
// that
//
//   - no share leads to a revision without a healthy instance while the one before has one (world.served);
//   - what served before is told to run less only when at least as many as before, or as the new release runs, are healthy
//     without what it takes away; but for recreate, and where a later release or a person takes over (world.before);
//   - a release that recreates starts when nothing runs any more of what it comes in the place of (world.alone);
//   - somebody serves at every moment: where nothing healthy does, what serves alone was well and fails by itself
//     (world.served);
//   - what was removed runs no more, and is not brought back (world.ended);
//   - when people and faults leave it alone, every release ends: over or live, one serves, nothing else runs (world.end).
func TestSimulation(t *testing.T) {
	outcomes := map[Phase]int{}
	n := 0
	for seed := uint64(0); n < *rollouts; seed++ {
		w := &world{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 5)), now: epoch, outcomes: outcomes}
		n += w.play()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d releases: %v", n, outcomes)
	for _, p := range []Phase{Live, Retired, Failed, Aborted, Superseded} {
		if outcomes[p] < n/100 {
			t.Errorf("only %d of %d releases ended as %s", outcomes[p], n, p)
		}
	}
}

// world is one environment: its releases, the machine that runs their instances, the server that asks them what to do.
type world struct {
	t        *testing.T
	seed     uint64
	r        *rand.Rand
	now      time.Time
	releases []*simRelease
	outcomes map[Phase]int
	removed  int  // how many releases there were when all was removed last
	calm     bool // no faults and no people any more
	log      []string
}

type simRelease struct {
	*Release
	behaviour string
	machines  []map[int]*simInstance // by part, by index: what really runs
	flying    map[TaskID]time.Time   // tasks under way, and when they are answered
}

type simInstance struct {
	in    Instance
	told  bool      // the server knows
	ready time.Time // when it changes next
}

// chance is true one time in n, never when all is calm.
func (w *world) chance(n int) bool { return !w.calm && w.r.IntN(n) == 0 }

func (w *world) play() int {
	count := 2 + w.r.IntN(5)
	services := 1 + w.r.IntN(2)
	w.begin(services)
	for len(w.releases) < count {
		for range 20 + w.r.IntN(200) {
			w.step()
			if w.t.Failed() {
				return len(w.releases)
			}
		}
		if w.chance(8) {
			w.remove()
		}
		w.begin(services)
	}
	for range 20 + w.r.IntN(300) {
		w.step()
		if w.t.Failed() {
			return len(w.releases)
		}
	}
	w.end()
	for _, r := range w.releases {
		w.outcomes[r.Phase]++
	}
	return len(w.releases)
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	text := ""
	for _, l := range w.log[max(0, len(w.log)-60):] {
		text += l + "\n"
	}
	for _, r := range w.releases {
		text += fmt.Sprintf("release %d, %s, %s: %s, %v\n", r.ID, r.Plan.Strategy.Kind, r.behaviour, r.Phase, mustJSON(w.t, r.Parts))
	}
	w.t.Errorf("%s: %s\n%s", w.now.Format(time.TimeOnly), fmt.Sprintf(format, args...), text)
}

// remove removes all that is released, and holds that nothing of it is wanted or shared out any more.
func (w *world) remove() {
	w.removed = len(w.releases)
	for _, r := range w.releases {
		w.tell(r, Removed{By: "bob"})
	}
	for range w.r.IntN(20) {
		w.step()
	}
}

// serving is the release in whose place the next one comes: the last that was promoted and not taken back, also where one
// that is being taken back has still to give it the place.
func (w *world) serving(service string) (ReleaseID, int) {
	for _, r := range slices.Backward(w.releases[w.removed:]) {
		if s := r.service(service); s != nil && (r.Phase == Live || r.Phase == Watching || r.Phase == Retired) {
			return r.ID, s.instances()
		}
	}
	return 0, 0
}

func (w *world) begin(services int) {
	id := ReleaseID(len(w.releases) + 1)
	s := &source{}
	for range 200 {
		s.data = append(s.data, byte(w.r.Uint32()))
	}
	p := &Plan{Environment: "prod", By: "alice", Strategy: s.strategy(), Watch: Watch{For: pickOf(s, 0, 5*time.Minute), Errors: 5, Restarts: 5, Interval: 10 * time.Second, MinSample: 20}}
	if a := p.Strategy.Analysis; a != nil {
		a.Interval, a.MinSample, a.InconclusiveWait, a.Suspend, a.NoData = pickOf(s, 10*time.Second, time.Minute), 10, 10*time.Minute, false, ""
	}
	if s.chance(5) {
		p.Gate = &Gate{Kind: gateReview, Wait: time.Hour, OnTimeout: pickOf(s, Continue, Stop)}
	}
	if s.chance(10) && id > 2 {
		p.Restores = id - 2
	}
	for i := range services {
		service := Service{Name: fmt.Sprintf("s%d", i), Instances: 1 + s.pick(4), Revision: Revision{ID: "abc"}}
		service.Before, service.BeforeInstances = w.serving(service.Name)
		if s.chance(5) {
			service.Hook, service.HookTimeout = []string{"migrate"}, 5*time.Minute
		}
		p.Services = append(p.Services, service)
	}
	for _, r := range w.releases {
		if !r.Phase.Over() && r.Phase != Live {
			w.tell(r, Replaced{By: id})
		}
	}
	behaviour := pickOf(s, "good", "good", "good", "dies at start", "dies at half", "dies after promotion", "flaps", "fails requests", "slow", "never up")
	if int(id) == w.removed+1 {
		behaviour = "good"
	}
	release, events := New(id, p, w.now)
	r := &simRelease{Release: release, behaviour: behaviour, flying: map[TaskID]time.Time{}}
	for range p.Services {
		r.machines = append(r.machines, map[int]*simInstance{})
	}
	w.releases = append(w.releases, r)
	for _, e := range events {
		w.log = append(w.log, fmt.Sprintf("%s %d %s (%s, %s)", w.now.Format(time.TimeOnly), id, e.Text, p.Strategy.Kind, behaviour))
	}
}

func (w *world) tell(r *simRelease, in Input) error {
	events, err := r.Decide(in, w.now)
	if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrRefused) {
		w.fail("release %d: %#v: %v", r.ID, in, err)
	}
	for _, e := range events {
		w.log = append(w.log, fmt.Sprintf("%s %d [%s] %s", w.now.Format(time.TimeOnly), r.ID, e.Type, e.Text))
		w.before(r, e, in)
		r.Apply(e)
	}
	if len(events) > 0 {
		checkRelease(w.t, r.Release)
	}
	return err
}

// before holds that nothing that served is given up before there is as much in its place.
func (w *world) before(r *simRelease, e Event, in Input) {
	if r.Plan.Strategy.Kind == Recreate {
		w.alone(r, e)
		return
	}
	if e.Type != EventScaling {
		return
	}
	if _, ok := in.(Replaced); ok {
		return
	}
	if _, ok := in.(Scaled); ok {
		return
	}
	for i, p := range r.Parts {
		s := r.Plan.Services[i]
		if p.Service != e.Service || e.Instances >= p.Before.Instances {
			continue
		}
		healthy, _ := r.healthyOf(i)
		if least := min(r.needOf(s.instances()), s.BeforeInstances); healthy+e.Instances < least {
			w.fail("release %d gives up what served: %d healthy and %d of before, of %d", r.ID, healthy, e.Instances, least)
		}
	}
}

// alone holds that a release that recreates starts when nothing runs any more of what it comes in the place of.
func (w *world) alone(r *simRelease, e Event) {
	s := r.service(e.Service)
	if e.Type != EventWanted || e.Instances == 0 || e.Release != 0 || s.Before == 0 {
		return
	}
	b := w.releases[s.Before-1]
	for at, p := range b.Parts {
		if p.Service == s.Name && p.ScaledBy == r.ID && len(b.machines[at]) > 0 {
			w.fail("release %d starts %s beside %d instances of release %d", r.ID, s.Name, len(b.machines[at]), b.ID)
		}
	}
}

// step is one moment: time goes on, the machine, the server and people do something.
func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.r.IntN(4000)) * time.Millisecond)
	if w.chance(15) {
		w.now = w.now.Add(time.Duration(w.r.IntN(120)) * time.Second)
	}
	if w.chance(60) {
		w.crash()
	}
	for _, r := range w.releases {
		w.run(r)
		w.answer(r)
		if due := r.Deadline(); !due.IsZero() && !due.After(w.now) && !w.chance(4) {
			before := r.Version
			if w.tell(r, Tick{due}); r.Version == before {
				w.fail("release %d: a deadline at %s does nothing: %s", r.ID, due, mustJSON(w.t, r.Release))
			}
		}
	}
	if w.chance(25) {
		w.person()
	}
	w.served()
}

// crash loses all that is under way; releases are loaded again, and the machine tells all that it has.
func (w *world) crash() {
	w.log = append(w.log, w.now.Format(time.TimeOnly)+" the server crashes")
	for _, r := range w.releases {
		loaded := &Release{}
		unmarshal(w.t, mustJSON(w.t, r.Release), loaded)
		r.Release = loaded
		r.flying = map[TaskID]time.Time{}
		for _, m := range r.machines {
			for _, i := range m {
				i.told = false
			}
		}
	}
}

// run is the machine: it brings about what is wanted, and tells.
func (w *world) run(r *simRelease) {
	for at, p := range r.Parts {
		m := r.machines[at]
		for i := range p.Want {
			if m[i] == nil {
				m[i] = &simInstance{in: Instance{Index: i, State: Starting, Since: w.now}, ready: w.now.Add(time.Duration(1+w.r.IntN(20)) * time.Second)}
			}
		}
		for i := range len(m) + 4 { // by index, so that a seed is always played the same
			in := m[i]
			if in == nil {
				continue
			}
			if i >= p.Want && in.in.State != Stopped {
				if w.r.IntN(3) == 0 {
					in.in.State, in.told = Stopped, false
				}
			} else {
				w.live(r, in)
			}
			if !in.told && !w.chance(3) {
				if w.tell(r, Observed{Service: p.Service, Instance: in.in}); in.in.State == Stopped {
					delete(m, i)
					continue
				}
				in.told = true
			}
		}
	}
}

// live changes an instance as its release behaves.
func (w *world) live(r *simRelease, in *simInstance) {
	to := func(s State, reason string) {
		if in.in.State == Exited && s == Starting {
			in.in.Restarts++
		}
		in.in.State, in.in.Reason, in.in.Since, in.told = s, reason, w.now, false
		in.ready = w.now.Add(time.Duration(1+w.r.IntN(20)) * time.Second)
	}
	behaviour := r.behaviour
	if w.calm && r.Phase == Live {
		behaviour = "good" // what serves alone when all is left alone gets well
	}
	dies := false
	switch behaviour {
	case "dies at start":
		dies = true
	case "dies at half":
		dies = r.Weight >= 50
	case "dies after promotion":
		dies = !r.Promoted.IsZero() && w.now.After(r.Promoted.Add(time.Minute))
	}
	switch in.in.State {
	case Healthy:
		switch {
		case dies && w.r.IntN(4) == 0:
			to(Exited, "exit status 1")
		case behaviour == "flaps" && w.r.IntN(30) == 0:
			to(Ill, "status 503")
		}
	case Ill:
		if w.r.IntN(5) == 0 || behaviour == "good" {
			to(Healthy, "")
		}
	case Exited:
		if !w.now.Before(in.ready) {
			to(Starting, "")
		}
	case Starting:
		if w.now.Before(in.ready) || behaviour == "never up" || behaviour == "slow" && w.r.IntN(8) > 0 {
			return
		}
		if dies {
			to(Exited, "exit status 1")
		} else {
			to(Healthy, "")
		}
	}
}

// answer is the server: tasks take a while, and some answers are lost.
func (w *world) answer(r *simRelease) {
	for _, t := range r.Next() {
		at, flying := r.flying[t.ID]
		if !flying {
			r.flying[t.ID] = w.now.Add(time.Duration(w.r.IntN(5000)) * time.Millisecond)
			continue
		}
		if at.After(w.now) {
			continue
		}
		done, ready := w.do(r, t)
		if !ready {
			continue
		}
		delete(r.flying, t.ID)
		if w.chance(12) {
			continue // it was done, and the answer is lost
		}
		if err := w.tell(r, done); err != nil {
			w.fail("release %d: the answer to %s: %v", r.ID, t.ID, err)
		}
		return // what is asked next may differ
	}
}

func (w *world) do(r *simRelease, t Task) (Done, bool) {
	in := Done{Task: t.ID, OK: true}
	if w.chance(20) {
		in.Error = "it can not be reached"
		return in, true
	}
	switch t.Kind {
	case TaskHook:
		in.OK = !w.chance(20)
	case TaskScale:
		return w.scale(r, t)
	case TaskWebhook:
		in.OK = t.Webhook.Type != hookRollback && !w.chance(8)
		if t.Webhook.Type == hookRollback && w.chance(40) {
			in.OK = true
		}
	case TaskQuery:
		if w.chance(10) {
			return in, true
		}
		in.Value = pointer(100.0)
		if t.Metric.Name != metricSuccess {
			in.Value = pointer(1.0)
		}
		if r.behaviour == "fails requests" {
			in.Value = pointer(50.0)
		}
	case TaskSample:
		in.Samples = map[string]Sample{}
		for _, p := range r.Parts {
			in.Samples[p.Service] = w.sample(r, t.From)
		}
	}
	return in, true
}

func (w *world) sample(r *simRelease, from time.Time) Sample {
	n := int64(20 * w.now.Sub(from) / time.Second)
	if w.chance(5) {
		n = 0
	}
	s := Sample{From: from, To: w.now, New: Traffics{Requests: n * int64(r.Weight) / 100}, Old: Traffics{Requests: n * int64(100-r.Weight) / 100}}
	if r.Mirrored {
		s.New.Requests = n
	}
	if r.behaviour == "fails requests" {
		s.New.Errors = s.New.Requests / 3
	}
	return s
}

// scale tells another release what to run; a settled one is answered when that has brought about what it wants.
func (w *world) scale(r *simRelease, t Task) (Done, bool) {
	in := Done{Task: t.ID, OK: true}
	b := w.releases[t.Release-1]
	if err := w.tell(b, Scaled{Service: t.Service, Instances: t.Instances, By: r.ID}); err != nil {
		in.OK, in.Message = false, err.Error()
		return in, true
	}
	p := b.part(t.Service)
	healthy := 0
	for _, i := range p.Instances {
		if i.State == Healthy && i.Index < p.Want {
			healthy++
		}
	}
	return in, !t.Settled || healthy == p.Want && len(p.Instances) == p.Want
}

// person does something that people do.
func (w *world) person() {
	r := w.releases[len(w.releases)-1]
	_ = w.tell(r, []Input{
		Approve{By: "bob"}, Approve{By: "bob"}, Approve{By: "bob"}, Approve{By: "bob", Reject: w.r.IntN(4) == 0},
		Pause{By: "bob"}, Resume{By: "bob"}, Resume{By: "bob"}, Promote{By: "bob", Force: w.r.IntN(2) == 0},
		SetWeight{By: "bob", Weight: w.r.IntN(101)},
		[]Input{Abort{By: "bob"}, Rollback{By: "bob"}, Resume{By: "bob"}, Resume{By: "bob"}}[w.r.IntN(4)],
	}[w.r.IntN(10)])
}

// healthyOf counts the healthy instances of a service that the server knows of.
func (r *simRelease) healthyIn(service string) int {
	n := 0
	for i, p := range r.Parts {
		if p.Service == service {
			n, _ = r.Release.healthyOf(i)
		}
	}
	return n
}

// served holds that users are served wherever that can be.
func (w *world) served() {
	shares := map[string]Share{} // the latest of each service
	for _, r := range w.releases {
		for _, s := range r.Shares() {
			shares[s.Service] = s
		}
	}
	if w.removed == len(w.releases) {
		return
	}
	first := w.releases[w.removed]
	for _, p := range first.Parts {
		s, ok := shares[p.Service]
		if !ok {
			if first.Promoted.IsZero() || w.recreates() {
				continue
			}
			w.fail("nobody serves %s", p.Service)
			continue
		}
		now := w.releases[s.New-1].healthyIn(p.Service)
		before := 0
		if s.Old != 0 {
			before = w.releases[s.Old-1].healthyIn(p.Service)
		}
		if s.Weight > 0 && now == 0 && before > 0 {
			w.fail("%d %% of %s go to release %d, which has no healthy instance, and release %d has %d", s.Weight, p.Service, s.New, s.Old, before)
		}
		// What serves alone may fail, and then nobody is served; but it must be there, and have been well.
		alone := w.releases[s.New-1]
		if s.Old != 0 {
			alone = w.releases[s.Old-1]
		}
		if q := alone.part(p.Service); now+before == 0 && !w.recreates() && (q.Want == 0 || q.Up == 0) {
			w.fail("nothing healthy serves %s: %+v", p.Service, s)
		}
	}
}

// recreates reports whether an outage is what was asked for.
func (w *world) recreates() bool {
	for _, r := range w.releases[w.removed:] {
		if r.Plan.Strategy.Kind == Recreate && (!r.Phase.Over() || r.Phase == Retired) {
			return true
		}
	}
	return false
}

// end leaves all alone and sees that all ends.
func (w *world) end() {
	w.calm = true
	for range 20000 {
		busy := false
		for _, r := range w.releases {
			switch {
			case r.Paused && r.By == "":
				w.tell(r, Abort{By: "bob"}) // it holds itself, since its rollback is switched off
			case r.Paused:
				w.tell(r, Resume{By: "bob"})
			case r.Gate != nil && r.Gate.Deadline.IsZero():
				w.tell(r, Approve{By: "bob"})
			case r.Phase == Watching && r.keepsAlive():
				w.tell(r, Replaced{By: ReleaseID(len(w.releases) + 1)})
			}
			quiet := r.Phase.Over() || r.Phase == Live
			busy = busy || !quiet || len(r.Next()) > 0
			for at, p := range r.Parts {
				busy = busy || len(r.machines[at]) != len(p.Instances) || len(p.Instances) != p.Want
				healthy, _ := r.healthyOf(at)
				busy = busy || healthy != p.Want
			}
		}
		if !busy {
			w.ended()
			return
		}
		w.step()
		if w.t.Failed() {
			return
		}
		if w.r.IntN(3) == 0 {
			w.now = w.now.Add(time.Minute)
		}
	}
	for _, r := range w.releases {
		if !r.Phase.Over() {
			w.fail("release %d does not end: %s: %s", r.ID, r.Phase, r.Waits())
		}
	}
	w.fail("it does not end")
}

func (w *world) ended() {
	first := w.releases[w.removed]
	for _, p := range first.Parts {
		serve := 0
		for _, r := range w.releases {
			if q := r.part(p.Service); q.Want > 0 {
				serve++
			}
		}
		if serve != 1 && !first.Promoted.IsZero() {
			w.fail("%d releases serve %s", serve, p.Service)
		}
	}
}
