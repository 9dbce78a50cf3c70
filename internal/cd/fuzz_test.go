package cd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// FuzzMachine gives inputs in any order to releases of generated plans: nothing panics, replay and JSON give the same
// release, nothing is stuck, and when all that is asked is answered the release ends or is live.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(40) {
		data := make([]byte, 200)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { playRandom(t, data) })
}

// TestMachineRandom is the fuzz test on a fixed number of inputs that no corpus knows.
func TestMachineRandom(t *testing.T) {
	n := 200
	if testing.Short() {
		n = 40
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), uint64(time.Now().UnixNano())))
		data := make([]byte, 80+r.IntN(400))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("input: %q", data)
				}
			}()
			playRandom(t, data)
		})
	}
}

func playRandom(t *testing.T, data []byte) {
	if len(data) > 1000 {
		data = data[:1000]
	}
	p := &player{source: source{data: data}}
	p.m = newMachine(t, 7, p.plan(), epoch)
	for !p.empty() {
		p.act()
	}
	p.drain()
}

// source gives choices out of fuzz data; when it is empty, always the first.
type source struct {
	data []byte
}

func (s *source) empty() bool { return len(s.data) == 0 }

func (s *source) pick(n int) int {
	if len(s.data) == 0 || n <= 1 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

func (s *source) chance(n int) bool { return s.pick(n) == 1 }

func pickOf[T any](s *source, in ...T) T { return in[s.pick(len(in))] }

// plan generates a plan.
func (s *source) plan() *Plan {
	p := &Plan{
		Repository: "acme/shop", Environment: "prod", By: "alice",
		Watch: Watch{For: pickOf(s, 0, time.Minute, time.Hour), Errors: pickOf(s, 0.0, 5), Latency: pickOf(s, 0, time.Second), Restarts: s.pick(3), Interval: pickOf(s, 0, 5*time.Second)},
	}
	for i := range 1 + s.pick(3) {
		service := Service{Name: fmt.Sprintf("s%d", i), Instances: s.pick(5), Revision: Revision{ID: "abc"}}
		if !s.chance(5) {
			service.Before, service.BeforeInstances = 6, 1+s.pick(4)
		}
		if s.chance(4) {
			service.Hook, service.HookTimeout = []string{"migrate"}, pickOf(s, 0, time.Minute)
		}
		p.Services = append(p.Services, service)
	}
	if s.chance(4) {
		p.Gate = &Gate{Kind: gateReview, Who: pickOf(s, nil, []string{"bob"}), Not: pickOf(s, nil, []string{"alice"}), Wait: pickOf(s, 0, time.Hour), OnTimeout: pickOf(s, Continue, Stop, Revert)}
	}
	if s.chance(6) {
		p.Restores = 3
	}
	p.Strategy = s.strategy()
	return p
}

func (s *source) strategy() Strategy {
	st := Strategy{Kind: pickOf(s, Canary, Recreate, Rolling, BlueGreen, Canary, Canary)}
	switch st.Kind {
	case Rolling:
		st.Rolling = pickOf(s, nil, &RollingSet{Batch: 2})
	case BlueGreen:
		if !s.chance(4) {
			st.BlueGreen = &Fleets{
				TerminationWait: pickOf(s, 0, time.Hour), KeepAlive: s.chance(4), ReadyStop: s.chance(3), ReadyWait: pickOf(s, 0, time.Hour),
				TestHosts: pickOf(s, nil, []string{"test.localhost"}), RollbackOnFailure: !s.chance(4), RollbackOnAlarm: !s.chance(4),
				Traffic: Traffic{Type: pickOf(s, "all-at-once", "canary", "linear"), Percent: pickOf(s, 10.0, 33.3, 0.1), Interval: time.Minute},
			}
		}
	case Canary:
		st.Analysis = s.analysis()
	}
	return st
}

func (s *source) analysis() *Analysis {
	a := &Analysis{
		Exact: s.chance(2), Interval: pickOf(s, 0, time.Second, time.Minute), Threshold: s.pick(4), Mirror: s.chance(4),
		Metrics: []Metric{{Name: metricSuccess, Min: pointer(99.0)}}, MinSample: s.pick(3), NoData: pickOf(s, "", Pass, Fail),
		InconclusiveWait: pickOf(s, 0, time.Hour), CanaryReadyThreshold: pickOf(s, 0, 50), ProgressDeadline: pickOf(s, 0, time.Minute),
		StepWeightPromotion: pickOf(s, 0, 30), SkipAnalysis: s.chance(8), Suspend: s.chance(12),
	}
	switch s.pick(4) {
	case 0:
		a.StepWeight, a.MaxWeight = 20, 50
	case 1:
		a.StepWeights = []int{1, 10, 80}
	case 2:
		a.Iterations = 2
	case 3:
		a.Iterations, a.Match = 3, []Match{{Headers: map[string]StringMatch{"x-test": {Exact: "1"}}}}
	}
	if s.chance(2) {
		a.Metrics = append(a.Metrics, Metric{Name: metricDuration, Max: pointer(500.0)}, Metric{Name: "custom", Query: "up", Threshold: 5, Template: s.chance(2)})
	}
	for _, kind := range []string{hookConfirmRollout, hookPre, "", hookConfirmIncrease, hookConfirmPromotion, hookPost, hookRollback, hookEvent} {
		if s.chance(4) {
			a.Webhooks = append(a.Webhooks, Webhook{Name: "w-" + kind, Type: kind, URL: "http://localhost/"})
		}
	}
	return a
}

func pointer[T any](v T) *T { return &v }

// player generates a plan and plays it.
type player struct {
	source
	m    *machine
	said []Input // everything that was once said, to be said again too late
}

func (p *player) say(in Input) error {
	p.said = append(p.said, in)
	return p.m.tell(in)
}

// act gives one input.
func (p *player) act() {
	m := p.m
	m.now = m.now.Add(pickOf(&p.source, 0, 0, time.Second, time.Minute, -time.Minute, 10*time.Minute))
	by := pickOf(&p.source, "alice", "bob")
	switch p.pick(16) {
	case 0, 1, 2, 3:
		_ = p.say(Observed{Service: pickOf(&p.source, "s0", "s1", "s2", "none"), Instance: p.instance()})
	case 4, 5, 6:
		p.answer()
	case 7:
		if due := m.r.Deadline(); !due.IsZero() {
			_ = p.say(Tick{due})
		}
	case 8:
		_ = p.say(Scaled{Service: pickOf(&p.source, "s0", "s1"), Instances: p.pick(3), By: 8})
	case 9:
		if p.chance(3) {
			_ = p.say(pickOf[Input](&p.source, Replaced{By: 8}, Abort{By: by, Reason: "no"}, Rollback{By: by}, Removed{By: by, Reason: "no"}))
		}
	case 10:
		_ = p.say(Approve{By: by, Reject: p.chance(5), Comment: pickOf(&p.source, "", "fine")})
	case 11:
		_ = p.say(Promote{By: by, Force: p.chance(2)})
	case 12:
		_ = p.say(pickOf[Input](&p.source, Pause{By: by}, Resume{By: by}, SetWeight{By: by, Weight: p.pick(120) - 10}))
	case 13:
		if len(p.said) > 0 {
			_ = m.tell(p.said[p.pick(len(p.said))])
		}
	case 14, 15:
		p.heal()
	}
}

func (p *player) instance() Instance {
	in := Instance{Index: p.pick(4), State: pickOf(&p.source, Healthy, Starting, Ill, Exited, Stopped), Restarts: p.pick(4)}
	if in.State != Healthy {
		in.Reason = pickOf(&p.source, "", "exit status 1")
	}
	return in
}

// heal makes one of the instances that are wanted healthy, or one that is not stopped.
func (p *player) heal() bool {
	for _, part := range p.m.r.Parts {
		have := map[int]State{}
		for _, i := range part.Instances {
			have[i.Index] = i.State
		}
		for i := range part.Want {
			if have[i] != Healthy {
				_ = p.m.tell(Observed{Service: part.Service, Instance: Instance{Index: i, State: Healthy}})
				return true
			}
		}
		for i := range have {
			if i >= part.Want {
				_ = p.m.tell(Observed{Service: part.Service, Instance: Instance{Index: i, State: Stopped}})
				return true
			}
		}
	}
	return false
}

// answer answers one task.
func (p *player) answer() bool {
	tasks := p.m.r.Next()
	if len(tasks) == 0 {
		return false
	}
	t := tasks[p.pick(len(tasks))]
	in := Done{Task: t.ID, OK: !p.chance(4), Message: "m", Query: "q"}
	if p.chance(8) {
		in.Error = "it is down"
	}
	switch t.Kind {
	case TaskQuery:
		if !p.chance(6) {
			in.Value = pointer(pickOf(&p.source, 100.0, 1, 50, 1e9))
		}
	case TaskSample:
		in.Samples = p.samples()
	}
	if err := p.say(in); err != nil {
		p.m.t.Fatalf("the answer to %s: %v", t.ID, err)
	}
	return true
}

func (p *player) samples() map[string]Sample {
	out := map[string]Sample{}
	for _, part := range p.m.r.Parts {
		if p.chance(6) {
			continue
		}
		s := Sample{New: p.traffics(), Old: p.traffics(), From: p.m.now.Add(-time.Second), To: p.m.now}
		out[part.Service] = s
	}
	return out
}

func (p *player) traffics() Traffics {
	t := Traffics{Requests: int64(pickOf(&p.source, 100, 0, 10, 100000)), Bounds: []float64{10, 100}, Latency: []int64{int64(p.pick(200)), int64(p.pick(200)), int64(p.pick(20))}}
	if p.chance(4) {
		t.Errors = int64(p.pick(int(min(t.Requests, 100)) + 1))
	}
	if p.chance(20) {
		t.Requests = -1
	}
	return t
}

// drain answers everything until the release is over or live, and nothing is left to do.
func (p *player) drain() {
	m := p.m
	for range 10000 {
		r := m.r
		switch {
		case p.heal():
		case p.answer():
		case r.Phase.Over(), r.Phase == Live:
			return
		case r.Paused:
			p.must(Resume{By: "bob"})
		case r.Gate != nil:
			p.must(Approve{By: "bob"})
		case r.Phase == Watching && r.keepsAlive():
			p.must(Replaced{By: 8})
		case r.Plan.Strategy.Analysis != nil && r.Plan.Strategy.Analysis.Suspend && r.exact():
			p.must(Abort{By: "bob"})
		default:
			due := r.Deadline()
			if due.IsZero() {
				m.t.Fatalf("stuck: %s", mustJSON(m.t, r))
			}
			if due.After(m.now) {
				m.now = due
			}
			before := r.Version
			if p.must(Tick{due}); m.r.Version == before {
				m.t.Fatalf("a deadline at %s does nothing: %s", due, mustJSON(m.t, r))
			}
		}
	}
	m.t.Fatalf("does not end: %s", mustJSON(m.t, m.r))
}

func (p *player) must(in Input) {
	p.m.t.Helper()
	if err := p.m.tell(in); err != nil {
		p.m.t.Fatalf("%#v: %v\n%s", in, err, mustJSON(p.m.t, p.m.r))
	}
}
