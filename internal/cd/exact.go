package cd

import (
	"fmt"
	"time"
)

// Flagger's phases, and its texts, are those of version 1.44.0: pkg/controller/scheduler.go, scheduler_hooks.go and
// scheduler_metrics.go are followed line by line, also where they are known to be awkward (docs/canary.md says where).
const (
	flaggerInitialized      = "Initialized"
	flaggerWaiting          = "Waiting"
	flaggerProgressing      = "Progressing"
	flaggerWaitingPromotion = "WaitingPromotion"
	flaggerPromoting        = "Promoting"
	flaggerFinalising       = "Finalising"
	flaggerSucceeded        = "Succeeded"
	flaggerFailed           = "Failed"
)

// does is what a tick does to the release, apart from its status.
type does string

const (
	scalesUp does = "scales up"
	fails    does = "fails"
	succeeds does = "succeeds"
)

// ticking is one tick of Flagger's loop: a pure function of the release and of the answers. Its outcome counts when all that
// it asked is answered; until then it is thrown away.
type ticking struct {
	asking
	f          Flagger
	iterations int
	failed     int
	events     []Event
	checks     []Check
	does       does
	reason     string  // why it fails
	closed     refusal // of the webhook that does not let it go on
	all        bool    // the new revision takes all of the traffic: it is promoted
}

// tick runs the tick under way.
func (r *Release) tick() *ticking {
	t := &ticking{asking: asking{r: r, inOrder: true}, f: *r.Flagger, iterations: r.Iterations, failed: r.FailedChecks}
	t.run()
	return t
}

func (t *ticking) info(format string, args ...any) {
	t.events = append(t.events, Event{Type: EventNote, Text: fmt.Sprintf(format, args...)})
}

func (t *ticking) warn(format string, args ...any) {
	t.events = append(t.events, Event{Type: EventNote, Warning: true, Text: fmt.Sprintf(format, args...)})
}

// canary is how events call it: name.namespace.
func (t *ticking) canary() string { return t.r.name() + "." + t.r.Plan.Environment }

// setPhase is setStatusPhase of pkg/canary/status.go.
func (t *ticking) setPhase(phase string) {
	t.f.Phase = phase
	if phase != flaggerProgressing && phase != flaggerWaiting && phase != flaggerPromoting {
		t.f.Weight, t.iterations = 0, 0
		if phase == flaggerWaitingPromotion {
			t.iterations = t.r.analysis().Iterations - 1
		}
	}
}

func (t *ticking) routes(canary int, mirrored bool) { t.f.Route, t.f.Mirrored = canary, mirrored }

// run is advanceCanary.
func (t *ticking) run() {
	a := t.r.analysis()
	if a.Suspend {
		t.info("skipping canary run as object is suspended")
		return
	}
	if t.f.Phase == flaggerInitialized || t.f.Phase == flaggerWaiting {
		if !t.confirmRollout() {
			return
		}
		t.info("New revision detected! Scaling up %s", t.canary())
		t.f.Phase, t.f.Weight, t.iterations, t.failed = flaggerProgressing, 0, 0, 0
		t.does = scalesUp
		return
	}
	if why, retriable := t.canaryReady(); why != "" {
		t.warn("%s", why)
		if !retriable {
			t.rollback(why)
		}
		return
	}
	if a.SkipAnalysis {
		t.routes(0, false)
		t.info("Copying %s template spec to %s-primary.%s", t.canary(), t.r.name(), t.r.Plan.Environment)
		t.setPhase(flaggerSucceeded)
		t.all, t.does = true, succeeds
		return
	}
	switch t.f.Phase {
	case flaggerPromoting:
		t.promotionShift()
		return
	case flaggerFinalising:
		t.setPhase(flaggerSucceeded)
		t.all, t.does = true, succeeds
		return
	case flaggerProgressing, flaggerWaitingPromotion:
	default:
		return
	}
	if t.rollbackHooks() {
		t.warn("Rolling back %s manual webhook invoked", t.canary())
		t.rollback("A rollback webhook asks for it")
		return
	}
	if t.failed >= a.threshold() {
		t.rollback(fmt.Sprintf("%d failed checks, the last: %s", t.failed, t.r.lastFailure()))
		return
	}
	if t.f.Route == 0 && t.iterations == 0 && !(a.Mirror && t.f.Mirrored) {
		t.info("Starting canary analysis for %s", t.canary())
		if !t.preRollout() {
			t.failed++
			return
		}
	} else if !t.analysis() {
		t.failed++
		return
	}
	t.strategy()
}

// canaryReady is IsCanaryReady: why it is not, and whether that may still change.
func (t *ticking) canaryReady() (why string, retriable bool) {
	r := t.r
	started := r.Phase == Shifting || r.Phase == Promoting
	for i, p := range r.Parts {
		healthy, _ := r.healthyOf(i)
		total := r.Plan.Services[i].instances()
		if started && healthy >= r.needOf(total) {
			continue
		}
		since := r.Progress
		if !r.Ill.IsZero() {
			since = r.Ill
		}
		late := since.Add(r.progressLimit()).Before(r.Look.At)
		return fmt.Sprintf("canary deployment %s.%s not ready: waiting for rollout to finish: %d of %d (readyThreshold %d%%) updated replicas are available",
			p.Service, r.Plan.Environment, healthy, r.ready(total), r.readyPercent()), !late
	}
	return "", true
}

// rollback is rollback of scheduler.go; post-rollout webhooks are asked after it.
func (t *ticking) rollback(reason string) {
	t.reason = reason
	if t.failed >= t.r.analysis().threshold() {
		t.warn("Rolling back %s failed checks threshold reached %v", t.canary(), t.failed)
	}
	t.routes(0, false)
	t.warn("Canary failed! Scaling down %s", t.canary())
	t.f.Phase, t.f.Weight, t.iterations, t.failed = flaggerFailed, 0, 0, 0
	t.does = fails
}

func (t *ticking) confirmRollout() bool {
	for _, i := range t.r.hooks(hookConfirmRollout) {
		name := t.r.analysis().Webhooks[i].Name
		if in, _ := t.webhook(i, t.f.Phase); !in.yes() && !t.r.confirmed(name) {
			t.closed = refusal{name, in.said()}
			if t.f.Phase != flaggerWaiting {
				t.setPhase(flaggerWaiting)
				t.warn("Halt %s advancement waiting for approval %s", t.canary(), name)
			}
			return false
		}
		t.info("Confirm-rollout check %s passed", name)
	}
	return true
}

func (t *ticking) rollbackHooks() bool {
	for _, i := range t.r.hooks(hookRollback) {
		name := t.r.analysis().Webhooks[i].Name
		if in, _ := t.webhook(i, t.f.Phase); in.yes() {
			t.warn("Rollback check %s passed", name)
			return true
		}
		t.info("Rollback hook %s not signaling a rollback", name)
	}
	return false
}

func (t *ticking) preRollout() bool {
	for _, i := range t.r.hooks(hookPre) {
		w := t.r.analysis().Webhooks[i]
		in, _ := t.webhook(i, flaggerProgressing)
		t.hooked(w, in)
		if !in.yes() {
			t.warn("Halt %s advancement pre-rollout check %s failed %s", t.canary(), w.Name, in.said())
			return false
		}
		t.info("Pre-rollout check %s passed", w.Name)
	}
	return true
}

func (t *ticking) hooked(w Webhook, in Done) {
	c := Check{Name: w.Name, At: t.r.Look.At, Verdict: Pass, Limit: "answers 200 to 202"}
	if !in.yes() {
		c.Verdict, c.Reason = Fail, in.said()
	}
	t.checks = append(t.checks, c)
}

func (t *ticking) confirmIncrease() bool {
	for _, i := range t.r.hooks(hookConfirmIncrease) {
		name := t.r.analysis().Webhooks[i].Name
		if in, _ := t.webhook(i, flaggerProgressing); !in.yes() && !t.r.confirmed(name) {
			t.closed = refusal{name, in.said()}
			t.warn("Halt %s advancement waiting for traffic increase approval %s", t.canary(), name)
			return false
		}
		t.info("Confirm-traffic-increase check %s passed", name)
	}
	return true
}

func (t *ticking) confirmPromotion() bool {
	for _, i := range t.r.hooks(hookConfirmPromotion) {
		name := t.r.analysis().Webhooks[i].Name
		if in, _ := t.webhook(i, flaggerProgressing); !in.yes() && !t.r.confirmed(name) {
			t.closed = refusal{name, in.said()}
			if t.f.Phase != flaggerWaitingPromotion {
				t.setPhase(flaggerWaitingPromotion)
				t.warn("Halt %s advancement waiting for promotion approval %s", t.canary(), name)
			} else {
				t.iterations = t.r.analysis().Iterations - 1
			}
			return false
		}
		t.info("Confirm-promotion check %s passed", name)
	}
	return true
}

// analysis is runAnalysis.
func (t *ticking) analysis() bool {
	for _, i := range t.r.hooks(hookRollout) {
		w := t.r.analysis().Webhooks[i]
		in, _ := t.webhook(i, flaggerProgressing)
		t.hooked(w, in)
		if !in.yes() {
			t.warn("Halt %s advancement external check %s failed %s", t.canary(), w.Name, in.said())
			return false
		}
	}
	// The built-in ones and those with a query of their own come first in Flagger; those of templates, which have been
	// resolved into queries, after them.
	for _, template := range []bool{false, true} {
		for i, m := range t.r.analysis().Metrics {
			if late := m.Template || m.Query == "" && m.Name != metricSuccess && m.Name != metricDuration; late != template {
				continue
			}
			if !m.Template && template {
				t.warn("Metric query failed for no usable metrics template and query were configured")
				return false
			}
			for _, s := range t.r.Plan.Services {
				if s.Before != 0 && !(s.Unrouted && m.counted()) && !t.metric(i, m, s) {
					return false
				}
			}
		}
	}
	return true
}

// metric is one check of runBuiltinMetricChecks or runMetricChecks.
func (t *ticking) metric(i int, m Metric, s Service) bool {
	in, ok := t.ask(fmt.Sprintf("query/%s/%d", s.Name, i), Task{Kind: TaskQuery, Service: s.Name, Metric: &m})
	if !ok {
		return false
	}
	c := Check{Name: m.Name, At: t.r.Look.At, Query: in.Query, Value: in.Value, Limit: m.limit(), Verdict: Pass}
	before := len(t.events)
	switch {
	case in.Error != "":
		t.queryFailed(m, in.Error)
	case in.Value == nil:
		t.noValues(m, s)
	case m.Name == metricSuccess && m.Query == "":
		t.compare(m, "success rate", fmt.Sprintf("%.2f%%", *in.Value), "%", *in.Value)
	case m.Name == metricDuration && m.Query == "":
		t.compareDuration(m, *in.Value)
	default:
		t.compare(m, m.Name, fmt.Sprintf("%.2f", *in.Value), "", *in.Value)
	}
	passed := len(t.events) == before
	if !passed {
		c.Verdict, c.Reason = Fail, t.events[len(t.events)-1].Text
	}
	t.checks = append(t.checks, c)
	return passed
}

func (t *ticking) queryFailed(m Metric, failure string) {
	switch {
	case m.Template:
		t.warn("Metric query failed for %s: %s", m.Name, failure)
	case m.Query != "":
		t.warn("Prometheus query failed for %s: %s", m.Name, failure)
	default:
		t.warn("Prometheus query failed: %s", failure)
	}
}

func (t *ticking) noValues(m Metric, s Service) {
	switch {
	case m.Template:
		t.warn("Halt advancement no values found for custom metric: %s: no values found", m.Name)
	case m.Query != "":
		t.warn("Halt advancement no values found for metric: %s", m.Name)
	case m.Name == metricSuccess:
		t.warn("Halt advancement no values found for penstock metric %s probably %s.%s is not receiving traffic: running query failed: no values found", m.Name, s.Name, t.r.Plan.Environment)
	default:
		t.warn("Halt advancement no values found for penstock metric %s probably %s.%s is not receiving traffic", m.Name, s.Name, t.r.Plan.Environment)
	}
}

// compare halts if a value is outside its bounds.
func (t *ticking) compare(m Metric, what, value, unit string, v float64) {
	least, most := m.bounds()
	switch {
	case least != nil && v < *least:
		t.warn("Halt %s advancement %s %s < %v%s", t.canary(), what, value, *least, unit)
	case most != nil && v > *most:
		t.warn("Halt %s advancement %s %s > %v%s", t.canary(), what, value, *most, unit)
	}
}

// compareDuration counts whole milliseconds, of value and limits.
func (t *ticking) compareDuration(m Metric, v float64) {
	least, most := m.bounds()
	value := time.Duration(int64(v)) * time.Millisecond
	switch {
	case least != nil && value < time.Duration(*least)*time.Millisecond:
		t.warn("Halt %s advancement request duration %v < %v", t.canary(), value, time.Duration(*least)*time.Millisecond)
	case most != nil && value > time.Duration(*most)*time.Millisecond:
		t.warn("Halt %s advancement request duration %v > %v", t.canary(), value, time.Duration(*most)*time.Millisecond)
	}
}

// strategy takes the step of the canary's strategy.
func (t *ticking) strategy() {
	a := t.r.analysis()
	switch {
	case a.Iterations > 0 && len(a.Match) > 0:
		t.abTest()
	case a.Iterations > 0:
		t.blueGreen()
	default:
		if t.nextStep() <= 0 {
			return
		}
		if !t.f.Mirrored && t.f.Phase != flaggerWaitingPromotion && !t.confirmIncrease() {
			return
		}
		t.progressive()
	}
}

// nextStep is nextStepWeight.
func (t *ticking) nextStep() int {
	a, now := t.r.analysis(), t.f.Route
	if a.StepWeight > 0 || len(a.StepWeights) == 0 {
		return a.StepWeight
	}
	most := 100 - now
	if most == 0 {
		return 1
	}
	if now == 0 {
		return min(most, a.StepWeights[0])
	}
	for i, w := range a.StepWeights[:len(a.StepWeights)-1] {
		if w == now {
			return min(most, a.StepWeights[i+1]-now)
		}
	}
	return most
}

// progressive is runCanary.
func (t *ticking) progressive() {
	a := t.r.analysis()
	if t.f.Route >= a.maxWeight() {
		if t.confirmPromotion() {
			t.copies()
		}
		return
	}
	step := t.nextStep()
	switch {
	case a.Mirror && t.f.Route == 0 && !t.f.Mirrored:
		t.routes(0, true)
	case a.Mirror && t.f.Route == 0:
		t.routes(step, false)
	default:
		t.routes(min(t.f.Route+step, 100), t.f.Mirrored)
	}
	t.f.Weight = t.f.Route
	t.info("Advance %s canary weight %v", t.canary(), t.f.Route)
}

// abTest is runAB.
func (t *ticking) abTest() {
	n := t.r.analysis().Iterations
	if n > t.iterations {
		t.routes(100, false)
		t.iterations++
		t.info("Advance %s canary iteration %v/%v", t.canary(), t.iterations, n)
		return
	}
	if t.confirmPromotion() && n == t.iterations {
		t.copies()
	}
}

// blueGreen is runBlueGreen.
func (t *ticking) blueGreen() {
	a := t.r.analysis()
	if a.Iterations > t.iterations {
		if a.Mirror && !t.f.Mirrored {
			t.routes(0, true)
		}
		t.iterations++
		t.info("Advance %s canary iteration %v/%v", t.canary(), t.iterations, a.Iterations)
		return
	}
	if !t.confirmPromotion() {
		return
	}
	if a.Iterations == t.iterations {
		if a.Mirror {
			t.info("Stop traffic mirroring and route all traffic to canary")
		} else {
			t.info("Routing all traffic to canary")
		}
		t.routes(100, false)
		t.iterations++
		return
	}
	t.copies()
}

// copies is the start of promotion. Here nothing is copied: the new revision itself becomes what serves.
func (t *ticking) copies() {
	t.info("Copying %s template spec to %s-primary.%s", t.canary(), t.r.name(), t.r.Plan.Environment)
	t.setPhase(flaggerPromoting)
}

// promotionShift is runPromotionTrafficShift.
func (t *ticking) promotionShift() {
	t.all = true
	step := t.r.analysis().StepWeightPromotion
	if step == 0 {
		t.info("Routing all traffic to primary")
		t.routes(0, false)
		t.setPhase(flaggerFinalising)
		return
	}
	if t.f.Route == 0 {
		return
	}
	t.routes(max(t.f.Route-step, 0), false)
	t.info("Advance %s primary weight %v", t.canary(), 100-t.f.Route)
	if t.f.Route == 0 {
		t.setPhase(flaggerFinalising)
	} else {
		t.f.Weight = t.f.Route
	}
}

// ticked decides what a tick has come to.
func (d *decision) ticked() {
	r := d.r
	t := r.tick()
	for _, e := range t.events {
		d.emit(e)
	}
	if r.Gate != nil && t.closed.name == "" {
		d.emit(Event{Type: EventOpened, Gate: r.Gate, Text: "May go on"})
	}
	c := r.checked()
	c.Flagger, c.Iterations, c.FailedChecks = &t.f, t.iterations, t.failed
	if t.checks != nil {
		c.Checks = t.checks
	}
	text := fmt.Sprintf("Tick: %s, weight %d, iterations %d, failed checks %d", t.f.Phase, t.f.Weight, t.iterations, t.failed)
	d.conclude(c, r.nextLook(d.now), false, "%s", text)
	weight, mirrored := t.f.Route, t.f.Mirrored
	if t.all {
		weight, mirrored = 100, false
	}
	if t.does != fails && (weight != r.Weight || mirrored != r.Mirrored) {
		d.traffic(weight, mirrored, r.Step+1, fmt.Sprintf("Weight %d", weight))
	}
	switch {
	case t.does == scalesUp:
		d.start()
	case t.does == fails:
		d.takeBack(Failed, "", "%s", t.reason)
	case t.does == succeeds:
		d.promoted()
		if r.Look == nil {
			d.completed()
		}
	case t.f.Phase == flaggerPromoting && r.Phase != Promoting:
		d.move(Promoting, "Is being promoted")
	case t.f.Phase == flaggerWaiting:
		d.closed(t.closed, "start")
	case t.closed.name != "" && t.f.Phase == flaggerWaitingPromotion:
		d.closed(t.closed, "be promoted")
	case t.closed.name != "":
		d.closed(t.closed, "take more traffic")
	}
}

// lastFailure is what the last check that failed said.
func (r *Release) lastFailure() string {
	for _, c := range r.Checks {
		if c.Verdict == Fail {
			return c.Reason
		}
	}
	return "it is not known any more"
}

// completed says the last word of a promotion, after its post-rollout webhooks.
func (d *decision) completed() {
	r := d.r
	if !r.exact() || r.Flagger.Phase != flaggerSucceeded {
		return
	}
	name := r.name() + "." + r.Plan.Environment
	if r.analysis().SkipAnalysis {
		d.note("Promotion completed! Canary analysis was skipped for %s", name)
		return
	}
	d.note("Promotion completed! Scaling down %s", name)
}
