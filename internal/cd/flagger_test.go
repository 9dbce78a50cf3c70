package cd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"
)

// flaggerRows are rows of Flagger's own controller: its advanceCanary ran on the fake clients of its own tests
// (pkg/controller, newDeploymentFixture, provider istio), against a server that answered its webhooks and Prometheus queries
// as each tick says. Want is what status, routes and events were after the tick; the first tick is the one that finds the
// new revision. The named scenarios were written by hand, the random ones by a seeded generator.
type flaggerRows struct {
	Flagger   string            `json:"flagger"` // its version
	Scenarios []flaggerScenario `json:"scenarios"`
}

type flaggerScenario struct {
	Name     string `json:"name"`
	Analysis struct {
		Threshold           int   `json:"threshold"`
		MaxWeight           int   `json:"max_weight"`
		StepWeight          int   `json:"step_weight"`
		StepWeights         []int `json:"step_weights"`
		StepWeightPromotion int   `json:"step_weight_promotion"`
		Iterations          int   `json:"iterations"`
		Mirror              bool  `json:"mirror"`
		Match               bool  `json:"match"`
		ReadyThreshold      int   `json:"ready_threshold"`
		SkipAnalysis        bool  `json:"skip_analysis"`
		Suspend             bool  `json:"suspend"`
		Deadline            int   `json:"deadline"` // seconds
		Metrics             []struct {
			Name      string   `json:"name"`
			Min       *float64 `json:"min"`
			Max       *float64 `json:"max"`
			Threshold float64  `json:"threshold"`
			Query     bool     `json:"query"`
			Template  bool     `json:"template"`
		} `json:"metrics"`
		Webhooks []struct {
			Name string `json:"name"`
			Type string `json:"type"`
		} `json:"webhooks"`
	} `json:"analysis"`
	Instances int           `json:"instances"`
	Ticks     []flaggerTick `json:"ticks"`
}

type flaggerTick struct {
	Ready    int               `json:"ready"`    // instances
	Revision bool              `json:"revision"` // another revision came
	No       []string          `json:"no"`       // webhooks that say no
	Values   map[string]string `json:"values"`   // of metrics; "" is none, "!" is an error, 100 where it is not said
	Want     flaggerRow        `json:"want"`
}

type flaggerRow struct {
	Phase        string   `json:"phase"`
	Weight       int      `json:"weight"`
	Iterations   int      `json:"iterations"`
	FailedChecks int      `json:"failed_checks"`
	Route        int      `json:"route"`
	Mirrored     bool     `json:"mirrored"`
	Events       []string `json:"events"`
}

// TestFlagger holds the exact mode to Flagger, tick for tick.
func TestFlagger(t *testing.T) {
	data, err := os.ReadFile("testdata/flagger.json")
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("found for istio metric"), []byte("found for penstock metric")) // the provider's name
	var rows flaggerRows
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	ticks := 0
	for _, s := range rows.Scenarios {
		t.Run(s.Name, func(t *testing.T) { s.play(t) })
		ticks += len(s.Ticks)
	}
	if rows.Flagger != "1.44.0" || len(rows.Scenarios) < 100 || ticks < 1000 {
		t.Errorf("only %d ticks of %d scenarios of Flagger %s", ticks, len(rows.Scenarios), rows.Flagger)
	}
}

func (s *flaggerScenario) plan() *Plan {
	from := s.Analysis
	a := &Analysis{
		Exact: true, Interval: time.Minute, Threshold: from.Threshold, MaxWeight: from.MaxWeight, StepWeight: from.StepWeight,
		StepWeights: from.StepWeights, StepWeightPromotion: from.StepWeightPromotion, Iterations: from.Iterations, Mirror: from.Mirror,
		CanaryReadyThreshold: from.ReadyThreshold, SkipAnalysis: from.SkipAnalysis, Suspend: from.Suspend,
		ProgressDeadline: time.Duration(from.Deadline) * time.Second,
	}
	if from.Match {
		a.Match = []Match{{Headers: map[string]StringMatch{"x-user-type": {Exact: "test"}}}}
	}
	for _, m := range from.Metrics {
		metric := Metric{Name: m.Name, Min: m.Min, Max: m.Max, Threshold: m.Threshold, Template: m.Template}
		if m.Query || m.Template {
			metric.Query = "q_" + m.Name
		}
		a.Metrics = append(a.Metrics, metric)
	}
	for _, w := range from.Webhooks {
		a.Webhooks = append(a.Webhooks, Webhook{Name: w.Name, Type: w.Type})
	}
	return &Plan{
		Environment: "default", Strategy: Strategy{Kind: Canary, Analysis: a},
		Services: []Service{{Name: "podinfo", Before: 6, BeforeInstances: s.Instances, Instances: s.Instances}},
	}
}

func (s *flaggerScenario) play(t *testing.T) {
	m := newMachine(t, 7, s.plan(), epoch)
	seen := map[int]bool{} // instances that were healthy
	from := 0
	for i, tick := range s.Ticks {
		m.now = epoch.Add(time.Duration(i) * time.Minute)
		if tick.Revision {
			from = len(m.events)
			if err := m.tell(Replaced{By: 8}); err != nil {
				t.Fatal(err)
			}
			if got := notes(m.events[from:]); !reflect.DeepEqual(got, tick.Want.Events) {
				t.Fatalf("tick %d: events %q, want %q", i, got, tick.Want.Events)
			}
			if m.r.Phase != Reverting || m.r.Outcome != Superseded || len(m.r.Shares()) > 0 {
				t.Fatalf("tick %d: %s", i, mustJSON(t, m.r))
			}
			m, seen = newMachine(t, 8, s.plan(), m.now), map[int]bool{}
			s.answer(m, tick)
			from = len(m.events)
			continue
		}
		if i > 0 {
			m.now = m.now.Add(-time.Second)
			s.observe(m, tick, seen)
			m.now = m.now.Add(time.Second)
			if err := m.tell(Tick{m.now}); err != nil {
				t.Fatal(err)
			}
		}
		s.answer(m, tick)
		got := flaggerRow{m.r.Flagger.Phase, m.r.Flagger.Weight, m.r.Iterations, m.r.FailedChecks, m.r.Flagger.Route, m.r.Flagger.Mirrored, notes(m.events[from:])}
		if !reflect.DeepEqual(got, tick.Want) {
			t.Fatalf("tick %d\n got %s\nwant %s", i, mustJSON(t, got), mustJSON(t, tick.Want))
		}
		from = len(m.events)
		s.compareOurs(t, m.r)
	}
}

// compareOurs sees that the release is where its row says.
func (s *flaggerScenario) compareOurs(t *testing.T, r *Release) {
	t.Helper()
	want := map[string][]Phase{
		flaggerInitialized: {Gated}, flaggerWaiting: {Gated}, flaggerProgressing: {Launching, Shifting}, flaggerWaitingPromotion: {Shifting},
		flaggerPromoting: {Promoting}, flaggerFinalising: {Promoting}, flaggerSucceeded: {Live}, flaggerFailed: {Reverting, Failed},
	}[r.Flagger.Phase]
	if !slices.Contains(want, r.Phase) {
		t.Fatalf("Flagger is %s, the release is %s", r.Flagger.Phase, r.Phase)
	}
	if r.Phase == Shifting && (r.Weight != r.Flagger.Route || r.Mirrored != r.Flagger.Mirrored) {
		t.Fatalf("weight %d, route %d", r.Weight, r.Flagger.Route)
	}
	if r.Phase == Live && (len(r.Shares()) != 1 || r.Shares()[0].Weight != 100) {
		t.Fatalf("shares %v", r.Shares())
	}
}

func notes(events []Event) []string {
	var out []string
	for _, e := range events {
		if e.Type == EventNote {
			kind := "Normal: "
			if e.Warning {
				kind = "Warning: "
			}
			out = append(out, kind+e.Text)
		}
	}
	return out
}

// observe tells how many instances are healthy.
func (s *flaggerScenario) observe(m *machine, tick flaggerTick, seen map[int]bool) {
	for i := range m.r.Parts[0].Want {
		in := Instance{Index: i, State: Starting}
		switch {
		case i < tick.Ready:
			in.State, seen[i] = Healthy, true
		case seen[i]:
			in.State = Ill
		}
		if err := m.tell(Observed{Service: "podinfo", Instance: in}); err != nil {
			m.t.Fatal(err)
		}
	}
}

// answer answers what is asked, until nothing is.
func (s *flaggerScenario) answer(m *machine, tick flaggerTick) {
	for {
		tasks := m.r.Next()
		if len(tasks) == 0 {
			return
		}
		if err := m.tell(tick.answer(tasks[0])); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (tick flaggerTick) answer(t Task) Done {
	in := Done{Task: t.ID, OK: true}
	switch t.Kind {
	case TaskWebhook:
		if slices.Contains(tick.No, t.Webhook.Name) {
			in.OK, in.Message = false, "closed"
		}
	case TaskQuery:
		text, ok := tick.Values[t.Metric.Name]
		switch {
		case !ok:
			in.Value = pointer(100.0)
		case text == "!":
			in.Error = "error response: Status 503 Service Unavailable: down"
			if t.Metric.Query == "" {
				in.Error = "running query failed: " + in.Error
			}
		case text != "" && text != "NaN":
			in.Value = new(float64)
			if _, err := fmt.Sscan(text, in.Value); err != nil {
				panic(err)
			}
		}
	}
	return in
}
