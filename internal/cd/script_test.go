package cd

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the scripts in testdata print into them")

// TestScripts runs testdata/*.txt: lines of commands; what one prints stands below it behind "> ", the timeline of what it
// brought about first, but for what was seen, asked and answered. Before "new" commands make the plan:
//
//	service NAME [instances=N] [before=RELEASE:N] [hook] [unrouted]
//	strategy KIND [KEY=VALUE...], analysis [KEY=VALUE...], metric NAME [KEY=VALUE...], webhook NAME [TYPE]
//	watch [KEY=VALUE...], gate [KEY=VALUE...], restores RELEASE
//	new
//
// After it they are inputs, and questions:
//
//	up SERVICE           all that is wanted is healthy, what is not is stopped
//	see SERVICE INDEX STATE [restarts=N] [REASON...]
//	do TASK yes|no|error|VALUE [TEXT...]    TASK is the start of an ID
//	sample SERVICE=NEW/ERRORS/SLOW,OLD/ERRORS/SLOW...    answers the sample that is asked
//	tick DURATION, due   time goes on, to the deadline
//	approve BY [reject], promote BY [force], abort BY [REASON...], rollback BY, pause BY, resume BY, weight BY N, removed BY
//	replaced RELEASE, scaled SERVICE N RELEASE
//	show, next, shares, waits, checks
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { runScript(t, path) })
	}
}

type script struct {
	t    *testing.T
	plan Plan
	m    *machine
	told int // events that were printed
	out  strings.Builder
}

func runScript(t *testing.T, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, plan: Plan{Environment: "prod", By: "alice"}}
	var got strings.Builder
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		got.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		s.out.Reset()
		s.command(words[0], words[1:])
		s.timeline()
		for printed := range strings.Lines(s.out.String()) {
			got.WriteString("> " + printed)
		}
	}
	if got.String() == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s prints\n%s\nnot\n%s", path, got.String(), data)
	}
	if err := os.WriteFile(path, []byte(got.String()), 0o666); err != nil {
		t.Fatal(err)
	}
}

func (s *script) print(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// timeline prints the events since it did so last.
func (s *script) timeline() {
	if s.m == nil {
		return
	}
	for _, e := range s.m.events[s.told:] {
		switch e.Type {
		case EventObserved, EventAnswered, EventLook, EventDue, EventNotified:
			continue
		}
		mark := ""
		if e.Warning {
			mark = "! "
		}
		s.print("%s%s", mark, e.Text)
	}
	s.told = len(s.m.events)
}

// options splits words KEY=VALUE; a word alone is KEY=true.
type options map[string]string

func optionsOf(words []string) options {
	out := options{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			v = "true"
		}
		out[k] = v
	}
	return out
}

func (s *script) number(text string) int {
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) float(text string) *float64 {
	if text == "" {
		return nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return &v
}

func (s *script) duration(text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func (s *script) command(name string, args []string) {
	if s.m == nil {
		s.setUp(name, args)
		return
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	rest := func(i int) string { return strings.Join(args[min(i, len(args)):], " ") }
	m := s.m
	switch name {
	case "up":
		s.up(arg(0))
	case "see":
		in := Instance{Index: s.number(arg(1)), State: State(arg(2)), Reason: rest(3)}
		if n, ok := strings.CutPrefix(arg(3), "restarts="); ok {
			in.Restarts, in.Reason = s.number(n), rest(4)
		}
		s.tell(Observed{Service: arg(0), Instance: in})
	case "do":
		s.do(arg(0), arg(1), rest(2))
	case "sample":
		s.sample(args)
	case "tick":
		m.now = m.now.Add(s.duration(arg(0)))
		s.tell(Tick{m.now})
	case "due":
		due := m.r.Deadline()
		if due.IsZero() {
			s.t.Fatal("there is no deadline")
		}
		s.print("after %s", due.Sub(m.now))
		m.now = due
		s.tell(Tick{due})
	case "approve":
		s.tell(Approve{By: arg(0), Reject: arg(1) == "reject"})
	case "promote":
		s.tell(Promote{By: arg(0), Force: arg(1) == "force"})
	case "abort":
		s.tell(Abort{By: arg(0), Reason: rest(1)})
	case "rollback":
		s.tell(Rollback{By: arg(0), Reason: rest(1)})
	case "removed":
		s.tell(Removed{By: arg(0)})
	case "pause":
		s.tell(Pause{By: arg(0)})
	case "resume":
		s.tell(Resume{By: arg(0)})
	case "weight":
		s.tell(SetWeight{By: arg(0), Weight: s.number(arg(1))})
	case "replaced":
		s.tell(Replaced{By: ReleaseID(s.number(arg(0)))})
	case "scaled":
		s.tell(Scaled{Service: arg(0), Instances: s.number(arg(1)), By: ReleaseID(s.number(arg(2)))})
	default:
		s.show(name)
	}
}

func (s *script) tell(in Input) {
	if err := s.m.tell(in); err != nil {
		s.print("%v", err)
	}
}

func (s *script) setUp(name string, args []string) {
	o := optionsOf(args)
	switch name {
	case "service":
		service := Service{Name: args[0], Instances: max(s.number(o["instances"]), 1), Unrouted: o["unrouted"] != "", Revision: Revision{ID: "abc"}}
		if before, n, ok := strings.Cut(o["before"], ":"); ok {
			service.Before, service.BeforeInstances = ReleaseID(s.number(before)), s.number(n)
		}
		if o["hook"] != "" {
			service.Hook = []string{"migrate"}
		}
		s.plan.Services = append(s.plan.Services, service)
	case "strategy":
		s.strategy(Kind(args[0]), o)
	case "analysis":
		a := &Analysis{
			Exact: o["exact"] != "", Interval: s.duration(o["interval"]), Threshold: s.number(o["threshold"]), MaxWeight: s.number(o["max"]),
			StepWeight: s.number(o["step"]), StepWeightPromotion: s.number(o["promotion"]), Iterations: s.number(o["iterations"]),
			Mirror: o["mirror"] != "", Suspend: o["suspend"] != "", SkipAnalysis: o["skip"] != "", MinSample: s.number(o["min-sample"]), InconclusiveWait: s.duration(o["inconclusive"]), NoData: Verdict(o["no-data"]),
		}
		for _, w := range list(o["steps"]) {
			a.StepWeights = append(a.StepWeights, s.number(w))
		}
		if o["match"] != "" {
			a.Match = []Match{{Headers: map[string]StringMatch{"x-test": {Exact: "1"}}}}
		}
		s.plan.Strategy = Strategy{Kind: Canary, Analysis: a}
	case "metric":
		m := Metric{Name: args[0], Min: s.float(o["min"]), Max: s.float(o["max"]), Query: o["query"]}
		s.plan.Strategy.Analysis.Metrics = append(s.plan.Strategy.Analysis.Metrics, m)
	case "webhook":
		w := Webhook{Name: args[0]}
		if len(args) > 1 {
			w.Type = args[1]
		}
		s.plan.Strategy.Analysis.Webhooks = append(s.plan.Strategy.Analysis.Webhooks, w)
	case "watch":
		s.plan.Watch = Watch{For: s.duration(o["for"]), Latency: s.duration(o["latency"]), Restarts: s.number(o["restarts"]), MinSample: s.number(o["min-sample"])}
		if e := s.float(o["errors"]); e != nil {
			s.plan.Watch.Errors = *e
		}
	case "gate":
		s.plan.Gate = &Gate{Kind: gateReview, Who: list(o["who"]), Not: list(o["not"]), Wait: s.duration(o["wait"]), OnTimeout: Timeout(o["timeout"]), Reason: "Waits for a review of production"}
	case "restores":
		s.plan.Restores = ReleaseID(s.number(args[0]))
	case "new":
		s.m = newMachine(s.t, 7, &s.plan, epoch)
	default:
		s.t.Fatalf("unknown command %s before new", name)
	}
}

func (s *script) strategy(kind Kind, o options) {
	s.plan.Strategy = Strategy{Kind: kind}
	switch kind {
	case Rolling:
		s.plan.Strategy.Rolling = &RollingSet{Batch: s.number(o["batch"])}
	case BlueGreen:
		f := &Fleets{
			TerminationWait: s.duration(o["termination"]), KeepAlive: o["keep-alive"] != "", ReadyStop: o["ready-stop"] != "", ReadyWait: s.duration(o["ready-wait"]),
			TestHosts: list(o["test"]), RollbackOnFailure: o["rollback"] != "no", RollbackOnAlarm: o["rollback"] != "no",
			Traffic: Traffic{Type: o["traffic"], Interval: s.duration(o["interval"])},
		}
		if p := s.float(o["percent"]); p != nil {
			f.Traffic.Percent = *p
		}
		s.plan.Strategy.BlueGreen = f
	}
}

// up makes the machine bring about what is wanted of a service.
func (s *script) up(service string) {
	p := *s.m.r.part(service)
	for i := range p.Want {
		s.tell(Observed{Service: service, Instance: Instance{Index: i, State: Healthy}})
	}
	for _, in := range p.Instances {
		if in.Index >= p.Want {
			s.tell(Observed{Service: service, Instance: Instance{Index: in.Index, State: Stopped}})
		}
	}
}

// task is the task whose ID starts so, without the number of the look.
func (s *script) task(start string) Task {
	for _, t := range s.m.r.Next() {
		id := string(t.ID)
		if _, rest, ok := strings.Cut(id, "/"); strings.HasPrefix(id, start) || ok && strings.HasPrefix(rest, start) || t.Webhook != nil && t.Webhook.Name == start {
			return t
		}
	}
	s.t.Fatalf("nothing asks %s:\n%s", start, s.next())
	return Task{}
}

func (s *script) do(start, answer, text string) {
	in := Done{Task: s.task(start).ID, Message: text, Query: "q"}
	switch answer {
	case "yes":
		in.OK = true
	case "no":
	case "error":
		in.Error = text
	case "none":
		in.OK = true
	default:
		in.OK, in.Value = true, s.float(answer)
	}
	s.tell(in)
}

func (s *script) sample(args []string) {
	t := s.task("sample")
	in := Done{Task: t.ID, OK: true, Samples: map[string]Sample{}}
	counts := func(text string) Traffics {
		words := append(strings.Split(text, "/"), "", "")
		c := Traffics{Requests: int64(s.number(words[0])), Errors: int64(s.number(words[1]))}
		if words[2] != "" { // one bucket of what is fast, one of what is slow
			slow := int64(s.number(words[2]))
			c.Bounds, c.Latency = []float64{100, 500, 1000}, []int64{c.Requests - slow, 0, slow, 0}
		}
		return c
	}
	for _, a := range args {
		service, both, _ := strings.Cut(a, "=")
		now, old, _ := strings.Cut(both, ",")
		in.Samples[service] = Sample{New: counts(now), Old: counts(old), From: t.From, To: s.m.now}
	}
	s.tell(in)
}

func (s *script) next() string {
	var b strings.Builder
	for _, t := range s.m.r.Next() {
		fmt.Fprintf(&b, "%s", t.ID)
		switch t.Kind {
		case TaskScale:
			fmt.Fprintf(&b, ": release %d runs %d, settled %v", t.Release, t.Instances, t.Settled)
		case TaskWebhook:
			fmt.Fprintf(&b, ": %s, phase %v", t.Webhook.Name, t.Payload["phase"])
		case TaskQuery:
			fmt.Fprintf(&b, ": %s", t.Metric.Name)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (s *script) show(name string) {
	r := s.m.r
	switch name {
	case "show":
		s.print("%s, weight %d: %s", r.Phase, r.Weight, r.Reason)
		for i, p := range r.Parts {
			healthy, _ := r.healthyOf(i)
			s.print("%s: %d of %d healthy, before %d", p.Service, healthy, p.Want, p.Before.Instances)
		}
	case "next":
		s.out.WriteString(s.next())
	case "shares":
		for _, h := range r.Shares() {
			text := fmt.Sprintf("%s: %d %% to release %d", h.Service, h.Weight, h.New)
			if h.Old != 0 {
				text += fmt.Sprintf(", else release %d", h.Old)
			}
			if h.Mirrored {
				text += ", mirrored"
			}
			if len(h.Match) > 0 {
				text += ", by match"
			}
			if len(h.TestHosts) > 0 {
				text += ", test hosts " + strings.Join(h.TestHosts, " ")
			}
			s.print("%s", text)
		}
	case "waits":
		s.print("%s", r.Waits())
	case "checks":
		for _, c := range r.Checks {
			value := "no value"
			if c.Value != nil {
				value = fmt.Sprintf("%.4g", *c.Value)
			}
			if c.Old != nil {
				value += fmt.Sprintf(" (before %.4g)", *c.Old)
			}
			s.print("%s: %s, of %d, %s: %s %s", c.Name, value, c.Sample, c.Limit, c.Verdict, c.Reason)
		}
	default:
		known := []string{"show", "next", "shares", "waits", "checks"}
		s.t.Fatalf("unknown command %s: want an input or one of %s", name, strings.Join(slices.Sorted(slices.Values(known)), ", "))
	}
}
