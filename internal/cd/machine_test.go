package cd

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// epoch is when test releases begin.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machine drives a release as an engine does and checks after each input what must always hold.
type machine struct {
	t      testing.TB
	r      *Release
	replay *Release // the events applied one by one to an empty release
	now    time.Time
	events []Event
}

func newMachine(t testing.TB, id ReleaseID, plan *Plan, now time.Time) *machine {
	t.Helper()
	m := &machine{t: t, now: now, replay: &Release{}}
	r, events := New(id, plan, now)
	m.r = r
	for _, e := range events {
		m.note(e)
	}
	m.check()
	return m
}

func (m *machine) note(e Event) {
	m.t.Helper()
	if e.Text == "" || e.Type == "" || e.At.IsZero() {
		m.t.Fatalf("event says nothing: %s", mustJSON(m.t, e))
	}
	if (e.Plan != nil) != (e.Type == EventBegan) {
		m.t.Fatalf("%s carries a plan: %v", e.Type, e.Plan != nil)
	}
	m.replay.Apply(roundTrip(m.t, e))
	m.events = append(m.events, e)
}

// tell gives an input to the release.
func (m *machine) tell(in Input) error {
	m.t.Helper()
	before := mustJSON(m.t, m.r)
	events, err := m.r.Decide(in, m.now)
	if after := mustJSON(m.t, m.r); before != after {
		m.t.Fatalf("Decide(%#v) changed the release\nfrom %s\nto   %s", in, before, after)
	}
	if err != nil {
		if len(events) > 0 {
			m.t.Fatalf("Decide(%#v) gave events and the error %v", in, err)
		}
		if !errors.Is(err, ErrStale) && !errors.Is(err, ErrRefused) {
			m.t.Fatalf("Decide(%#v): unknown error %v", in, err)
		}
		return err
	}
	for _, e := range events {
		m.r.Apply(e)
		m.note(e)
	}
	m.check()
	return nil
}

func roundTrip(t testing.TB, e Event) Event {
	t.Helper()
	var out Event
	unmarshal(t, mustJSON(t, e), &out)
	return out
}

func unmarshal(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// check sees that what must always hold does.
func (m *machine) check() {
	t, r := m.t, m.r
	t.Helper()
	text := mustJSON(t, r)
	if got := mustJSON(t, m.replay); got != text {
		t.Fatalf("replay differs\n got %s\nwant %s", got, text)
	}
	loaded := &Release{}
	unmarshal(t, text, loaded)
	if got := mustJSON(t, loaded); got != text {
		t.Fatalf("JSON does not round trip\n got %s\nwant %s", got, text)
	}
	if got, want := mustJSON(t, loaded.Next()), mustJSON(t, r.Next()); got != want {
		t.Fatalf("Next of the loaded release: got %s, want %s", got, want)
	}
	if got, want := loaded.Shares(), r.Shares(); !reflect.DeepEqual(got, want) {
		t.Fatalf("Shares of the loaded release: got %v, want %v", got, want)
	}
	if again, _ := r.Decide(Tick{}, m.now); len(again) > 0 {
		t.Fatalf("more follows by itself: %s", mustJSON(t, again))
	}
	checkRelease(t, r)
}

// checkRelease sees what must hold of every release.
func checkRelease(t testing.TB, r *Release) {
	t.Helper()
	bad := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), mustJSON(t, r))
	}
	seen := map[TaskID]bool{}
	for _, task := range r.Next() {
		if task.ID == "" || seen[task.ID] {
			bad("task %q is asked twice", task.ID)
		}
		seen[task.ID] = true
	}
	if r.Weight < 0 || r.Weight > 100 {
		bad("weight %d", r.Weight)
	}
	for _, s := range r.Shares() {
		if s.Weight < 0 || s.Weight > 100 || s.New != r.ID || s.Old == r.ID {
			bad("share %+v", s)
		}
	}
	if r.Phase.Over() && (len(r.Shares()) > 0 || r.Gate != nil || r.Paused || !r.Due.IsZero()) {
		bad("it is over and goes on")
	}
	for _, p := range r.Parts {
		if r.Phase.Over() && (p.Want > 0 || r.Phase != Retired && r.Outcome != r.Phase) {
			bad("it ended as %s, not as %s, or runs on", r.Phase, r.Outcome)
		}
	}
	if (r.Phase.Over() || r.Phase == Live || r.Phase == Watching || r.Phase == Reverting) == r.Ended.IsZero() {
		bad("ended at %s", r.Ended)
	}
	if !r.Phase.Over() && r.Phase != Live && r.Waits() == "" {
		bad("it waits without saying so")
	}
	if r.Gate != nil && (r.Gate.Since.IsZero() || r.Gate.Reason == "") {
		bad("the gate does not say why")
	}
	if r.stuck() {
		bad("it is stuck: %s", r.Waits())
	}
}

// stuck reports whether nothing can move the release on: no task, no time, no gate, no machine that still has to bring about
// what is wanted.
func (r *Release) stuck() bool {
	if r.Phase.Over() || r.Phase == Live || r.Gate != nil || r.keepsAlive() && r.Phase == Watching {
		return false
	}
	for _, p := range r.Parts {
		if healthy, _ := r.healthyOf(0); len(p.Instances) != p.Want || healthy != p.Want {
			return false
		}
	}
	return len(r.Next()) == 0 && r.Deadline().IsZero()
}
