package ci

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// epoch is when test runs begin.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machine drives a run as an engine does and checks after each input what must always hold.
type machine struct {
	t      testing.TB
	plan   *Plan
	run    *Run
	replay *Run // the events applied one by one to an empty run
	now    time.Time
	leases int
	ran    map[string]int  // attempt and job: how often it was started
	grants map[string]bool // attempt, owner and key: given
}

func newMachine(t testing.TB, plan *Plan) *machine {
	t.Helper()
	m := &machine{t: t, plan: plan, now: epoch, replay: &Run{Plan: plan}, ran: map[string]int{}, grants: map[string]bool{}}
	run, events := New(7, plan, m.now)
	m.run = run
	for _, e := range events {
		m.replay.Apply(roundTrip(t, e))
	}
	m.check()
	return m
}

// tell gives an input to the run.
func (m *machine) tell(in Input) error {
	m.t.Helper()
	before := mustJSON(m.t, m.run)
	events, err := m.run.Decide(in, m.now)
	if after := mustJSON(m.t, m.run); before != after {
		m.t.Fatalf("Decide(%#v) changed the run\nfrom %s\nto   %s", in, before, after)
	}
	if err != nil {
		if len(events) > 0 {
			m.t.Fatalf("Decide(%#v) gave events and the error %v", in, err)
		}
		if !errors.Is(err, ErrStale) && !errors.Is(err, ErrUnknownJob) && !errors.Is(err, ErrRefused) {
			m.t.Fatalf("Decide(%#v): unknown error %v", in, err)
		}
		return err
	}
	for _, e := range events {
		m.applyOne(e)
	}
	m.check()
	return nil
}

// applyOne applies an event to the run and its replay and sees that it changes no more than it says.
func (m *machine) applyOne(e Event) {
	m.t.Helper()
	before := slices.Clone(m.run.Jobs)
	if e.Type == EventJobStarted {
		key := fmt.Sprintf("%d %s", m.run.Attempt, e.Job)
		if m.ran[key]++; m.ran[key] > 1 {
			m.t.Fatalf("%s was started twice in attempt %d", e.Job, m.run.Attempt)
		}
	}
	if e.Type == EventJobGranted {
		m.grants[m.grant(e.Job, e.Key)] = true
	}
	m.run.Apply(e)
	m.replay.Apply(roundTrip(m.t, e))
	if e.Job == "" {
		return
	}
	if len(before) != len(m.run.Jobs) {
		m.t.Fatalf("%s names a job and changes their number", e.Type)
	}
	for i, j := range m.run.Jobs {
		if j != before[i] && j.ID != e.Job {
			m.t.Fatalf("%s of %s changed %s", e.Type, e.Job, j.ID)
		}
	}
}

// grant names a concurrency group given to a job in this attempt.
func (m *machine) grant(owner JobID, key string) string {
	return fmt.Sprintf("%d %s %s", m.run.Attempt, owner, key)
}

func roundTrip(t testing.TB, e Event) Event {
	t.Helper()
	var out Event
	if err := json.Unmarshal([]byte(mustJSON(t, e)), &out); err != nil {
		t.Fatal(err)
	}
	return out
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
	t, r := m.t, m.run
	t.Helper()
	text := mustJSON(t, r)
	if got := mustJSON(t, m.replay); got != text {
		t.Fatalf("replay differs\n got %s\nwant %s", got, text)
	}
	loaded := &Run{}
	if err := json.Unmarshal([]byte(text), loaded); err != nil {
		t.Fatal(err)
	}
	if got := mustJSON(t, loaded); got != text {
		t.Fatalf("JSON does not round trip\n got %s\nwant %s", got, text)
	}
	loaded.Plan = m.plan
	same(t, "Ready", loaded.Ready(), r.Ready())
	same(t, "Claims", loaded.Claims(), r.Claims())
	seen := map[JobID]bool{}
	for _, j := range r.Jobs {
		if seen[j.ID] {
			t.Fatalf("two jobs %s", j.ID)
		}
		seen[j.ID] = true
		same(t, "Job of the loaded run", loaded.Job(j.ID).ID, j.ID)
		m.checkJob(j)
	}
	m.checkRun()
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func (m *machine) checkJob(j *Job) {
	t, r := m.t, m.run
	t.Helper()
	bad := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s: %s\n%s", j.ID, fmt.Sprintf(format, args...), mustJSON(t, j))
	}
	if (j.Status == Completed) != (j.Conclusion != "") {
		bad("status and conclusion disagree")
	}
	if j.Name == "" {
		bad("no name")
	}
	if (j.Lease != "") && j.Status != InProgress {
		bad("leased, not in progress")
	}
	waits := j.Waits != ""
	if waits != (j.Status == Pending || j.Status == Waiting) {
		bad("waits for %q", j.Waits)
	}
	if j.Status == Queued && (!r.granted() || j.Call || j.Expanded) {
		bad("must not be queued")
	}
	if j.Status == Queued || j.Status == InProgress {
		for _, c := range j.Claims {
			if !c.Held || !m.grants[m.grant(j.ID, c.Key)] {
				bad("runs without its concurrency group")
			}
		}
	}
	if j.Status != Completed && j.Attempt != r.Attempt {
		bad("of an earlier attempt")
	}
	if j.Status == Pending && j.Waits != WaitNeeds && j.Reason == "" && r.granted() {
		bad("waits without a reason")
	}
	if j.Expanded {
		m.checkMatrix(j)
	}
	if j.container() && j.Status != Completed && allCompleted(r.parts(j)) {
		bad("its parts are done, it is not")
	}
}

func (m *machine) checkMatrix(j *Job) {
	m.t.Helper()
	running := 0
	parts := m.run.parts(j)
	for _, k := range parts {
		if k.Status == Queued || k.Status == InProgress || k.Status == Waiting {
			running++
		}
	}
	if j.MaxParallel > 0 && running > j.MaxParallel {
		m.t.Fatalf("%s: %d of at most %d run", j.ID, running, j.MaxParallel)
	}
	if len(parts) == 0 {
		m.t.Fatalf("%s: a matrix without cells", j.ID)
	}
}

func (m *machine) checkRun() {
	t, r := m.t, m.run
	t.Helper()
	if (r.Status == Completed) != (r.Conclusion != "") {
		t.Fatalf("run: status %s, conclusion %q", r.Status, r.Conclusion)
	}
	if done := allCompleted(r.Jobs); done != (r.Status == Completed) {
		t.Fatalf("run: %s, jobs done: %v", r.Status, done)
	}
	if r.Started.IsZero() && slices.ContainsFunc(r.Jobs, func(j *Job) bool { return j.Lease != "" }) {
		t.Fatal("a job is leased in a run that has not started")
	}
	if r.Status == Completed && (len(r.Ready()) > 0 || len(r.Claims()) > 0) {
		t.Fatal("a completed run wants something")
	}
	if all := r.Deadlines(); len(all) > 0 && r.Status == Completed {
		t.Fatalf("a completed run has deadlines at %s", all)
	}
	if (r.Status == Pending || r.Status == Waiting) && r.Reason == "" && r.Stop == "" && !r.granted() {
		t.Fatalf("run: %s without a reason", r.Status)
	}
}

// due are the deadlines that have come, or the time itself, at which nothing is due.
func (m *machine) due() []time.Time {
	all := slices.DeleteFunc(m.run.Deadlines(), func(at time.Time) bool { return at.After(m.now) })
	if len(all) == 0 {
		return []time.Time{m.now}
	}
	return all
}

// lease leases a queued job.
func (m *machine) lease(id JobID) error {
	m.t.Helper()
	m.leases++
	return m.tell(Leased{Job: id, Lease: LeaseID(fmt.Sprintf("l%d", m.leases)), Runner: "r", Until: m.now.Add(time.Minute)})
}

// leaseOf is the lease on a job, an old one if it has none.
func (m *machine) leaseOf(id JobID) LeaseID {
	if j := m.run.Job(id); j != nil && j.Lease != "" {
		return j.Lease
	}
	return "l0"
}

func unmarshal(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
}
