package cd

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func canaryPlan() *Plan {
	return &Plan{
		Environment: "prod",
		Services:    []Service{{Name: "web", Before: 6, BeforeInstances: 1, Instances: 1}},
		Strategy: Strategy{Kind: Canary, Analysis: &Analysis{
			Interval: 10 * time.Second, StepWeight: 10, MinSample: 5, Metrics: []Metric{{Name: "custom", Query: "up", Max: pointer(5.0)}},
		}},
	}
}

// shifting is a release at its first weight that looks at its checks.
func shifting(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t, 7, canaryPlan(), epoch)
	if err := m.tell(Observed{Service: "web", Instance: Instance{State: Healthy}}); err != nil {
		t.Fatal(err)
	}
	m.now = m.r.Deadline()
	if err := m.tell(Tick{m.now}); err != nil || m.r.Weight != 10 || len(m.r.Next()) != 2 {
		t.Fatalf("%v: %s", err, mustJSON(t, m.r))
	}
	return m
}

func (m *machine) task(kind TaskKind) Task {
	m.t.Helper()
	for _, t := range m.r.Next() {
		if t.Kind == kind {
			return t
		}
	}
	m.t.Fatalf("no task is a %s: %v", kind, m.r.Next())
	return Task{}
}

// What is measured comes from elsewhere: what can not be is no measurement, and fails nothing.
func TestMalformedAnswers(t *testing.T) {
	huge := make([]int64, maxBuckets+1)
	for name, sample := range map[string]Sample{
		"negative":          {New: Traffics{Requests: -1}},
		"more errors":       {New: Traffics{Requests: 1, Errors: 2}},
		"too many":          {Old: Traffics{Requests: maxCount + 1}},
		"too many buckets":  {New: Traffics{Latency: huge, Bounds: make([]float64, maxBuckets)}},
		"buckets unbounded": {New: Traffics{Latency: []int64{1}, Bounds: []float64{1, 2}}},
		"bounds unsorted":   {New: Traffics{Latency: []int64{1, 2, 3}, Bounds: []float64{2, 1}}},
		"bound not finite":  {New: Traffics{Latency: []int64{1, 2}, Bounds: []float64{math.Inf(1)}}},
		"backwards":         {From: epoch, To: epoch.Add(-time.Second)},
	} {
		m := shifting(t)
		if err := m.tell(Done{Task: m.task(TaskSample).ID, OK: true, Samples: map[string]Sample{"web": sample}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := m.tell(Done{Task: m.task(TaskQuery).ID, OK: true, Value: pointer(1.0)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.r.Phase != Shifting || m.r.Weight != 20 && m.r.Undecided.IsZero() {
			t.Errorf("%s: %s", name, mustJSON(t, m.r))
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1)} {
		m := shifting(t)
		if err := m.tell(Done{Task: m.task(TaskQuery).ID, OK: true, Value: &v}); err != nil {
			t.Fatal(err)
		}
		if err := m.tell(Done{Task: m.task(TaskSample).ID, OK: true, Samples: map[string]Sample{"web": {New: Traffics{Requests: 9}, Old: Traffics{Requests: 9}, To: m.now}}}); err != nil {
			t.Fatal(err)
		}
		if m.r.Weight != 10 || m.r.Undecided.IsZero() || m.r.FailedChecks != 0 {
			t.Errorf("%v: %s", v, mustJSON(t, m.r))
		}
	}
}

// What others say is stored, so it is bounded.
func TestTextsAreBounded(t *testing.T) {
	m := newMachine(t, 7, canaryPlan(), epoch)
	long := strings.Repeat("x", 1<<20) + "the last line \xff"
	if err := m.tell(Observed{Service: "web", Instance: Instance{State: Exited, Reason: long}}); err != nil {
		t.Fatal(err)
	}
	if got := m.r.Parts[0].Instances[0].Reason; len(got) > maxText || !strings.HasSuffix(got, "the last line �") {
		t.Errorf("the reason has %d bytes and ends with %q", len(got), got[max(0, len(got)-20):])
	}
	if err := m.tell(Abort{By: "bob", Reason: long}); err != nil || len(m.r.Reason) > 2*maxText {
		t.Errorf("%v: the reason has %d bytes", err, len(m.r.Reason))
	}
}

func TestStaleInputs(t *testing.T) {
	m := shifting(t)
	old := m.task(TaskQuery).ID
	for _, in := range []Input{Done{Task: old, Value: pointer(1.0)}, Done{Task: m.task(TaskSample).ID, Error: "down"}} {
		if err := m.tell(in); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range []Input{
		Done{Task: old, Value: pointer(1.0)}, Done{Task: "nothing"}, Observed{Service: "none"}, Scaled{Service: "web", By: 8},
		Observed{Service: "web", Instance: Instance{Index: -1}}, Observed{Service: "web", Instance: Instance{Index: maxIndex}},
	} {
		if err := m.tell(in); !errors.Is(err, ErrStale) {
			t.Errorf("%#v: %v, want ErrStale", in, err)
		}
	}
}

func TestBefore(t *testing.T) {
	release := func(id ReleaseID, p Phase, services ...Service) *Release {
		return &Release{ID: id, Phase: p, Plan: &Plan{Services: services}}
	}
	web, api := Service{Name: "web", Instances: 2}, Service{Name: "api"}
	all := []*Release{release(1, Retired, web, api), release(2, Live, web), release(3, Reverting, web), release(4, Failed, web), release(5, Shifting, api)}
	for _, c := range []struct {
		service string
		id      ReleaseID
		n       int
	}{{"web", 2, 2}, {"api", 1, 1}, {"db", 0, 0}} {
		if id, n := Before(all, c.service); id != c.id || n != c.n {
			t.Errorf("%s: release %d with %d, want %d with %d", c.service, id, n, c.id, c.n)
		}
	}
}
