package cd

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// defaultProgress is how long a start may take without coming nearer to its end.
	defaultProgress = 10 * time.Minute
	// defaultHookTimeout bounds a hook that sets no limit: CodeDeploy's hour.
	defaultHookTimeout = time.Hour
	// illLimit is how long some instances, but not all, may be ill before the release is taken back.
	illLimit = time.Minute
	// maxExits is how often an instance may end before it was healthy once: it has failed to start then.
	maxExits = 3
	// firstRetry and lastRetry bound the pause before another release is told again what it did not take.
	firstRetry, lastRetry = time.Second, time.Minute
	// maxText bounds what others say, as it is stored: the end of it counts.
	maxText = 4 << 10
	// maxIndex bounds the indices of instances.
	maxIndex = 10000
)

// The kinds of gates that are not named after a webhook.
const (
	gateReview       = "review"
	gateReady        = "ready"
	gatePaused       = "paused"
	gateInconclusive = "inconclusive"
)

// New begins a release. Its plan is not to be changed any more.
func New(id ReleaseID, plan *Plan, now time.Time) (*Release, []Event) {
	d := &decision{r: &Release{}, now: now}
	text := fmt.Sprintf("Release %d of %s to %s begins", id, plan.names(), plan.Environment)
	if plan.By != "" {
		text += ", asked for by " + plan.By
	}
	if plan.Restores != 0 {
		text = fmt.Sprintf("Release %d of %s to %s begins: it restores release %d", id, plan.names(), plan.Environment, plan.Restores)
	}
	if plan.Reason != "" {
		text += ": " + plan.Reason
	}
	d.emit(Event{Type: EventBegan, Release: id, Plan: plan, By: plan.By, Text: text})
	if plan.Gate != nil {
		d.gate(*plan.Gate)
	}
	if a := d.r.analysis(); a.Suspend && !a.Exact && d.r.analysed() {
		d.hold(plan.By, "Suspended by its analysis")
	}
	d.settle()
	return d.r, d.events
}

// Decide says what follows from an input: the events to apply, none if it changes nothing. The release stays as it is.
// Errors are ErrStale, and ErrRefused wrapped with why.
func (r *Release) Decide(in Input, now time.Time) ([]Event, error) {
	fork := *r
	d := &decision{r: &fork, now: now}
	if t, ok := in.(Tick); ok && t.At.After(now) {
		d.now = t.At
	}
	if err := d.take(in); err != nil {
		return nil, err
	}
	d.settle()
	return d.events, nil
}

// decision is one Decide: a fork of the release that is ahead of it by the events so far.
type decision struct {
	r      *Release
	now    time.Time
	events []Event
}

func (d *decision) emit(e Event) {
	e.At = d.now
	d.r.Apply(e)
	d.events = append(d.events, e)
}

func (d *decision) note(format string, args ...any) {
	d.emit(Event{Type: EventNote, Text: fmt.Sprintf(format, args...)})
}

func (d *decision) move(to Phase, format string, args ...any) {
	d.emit(Event{Type: EventMoved, Phase: to, Text: fmt.Sprintf(format, args...)})
}

// settle decides what follows until nothing does.
func (d *decision) settle() {
	for {
		before := len(d.events)
		d.step()
		if len(d.events) == before {
			return
		}
	}
}

// step decides one thing that follows from where the release is, if any does.
func (d *decision) step() {
	r := d.r
	before := len(d.events)
	for _, do := range []func(){d.health, d.gates, d.retry} {
		if do(); len(d.events) > before {
			return
		}
	}
	switch r.Phase {
	case Gated:
		d.gated()
	case Preparing:
		d.prepare()
	case Launching:
		d.launch()
	case Ready:
		d.ready()
	case Shifting, Promoting:
		d.shift()
	case Watching:
		d.watching()
	case Live:
		d.serve()
	case Reverting:
		d.reverting()
	}
	if len(d.events) == before {
		d.ticks()
	}
}

// take decides what an input itself does.
func (d *decision) take(in Input) error {
	switch in := in.(type) {
	case Tick:
		return nil
	case Observed:
		return d.observe(in)
	case Done:
		return d.done(in)
	case Scaled:
		return d.scaled(in)
	}
	if d.r.Phase.Over() {
		return ErrStale
	}
	switch in := in.(type) {
	case Replaced:
		return d.replaced(in)
	case Approve:
		return d.approve(in)
	case Promote:
		return d.promote(in)
	case Abort:
		return d.abort(in.By, in.Reason, "Aborted")
	case Rollback:
		return d.abort(in.By, in.Reason, "Rolled back")
	case Removed:
		return d.removed(in)
	case Pause:
		return d.pause(in.By)
	case Resume:
		return d.resume(in.By)
	case SetWeight:
		return d.setWeight(in)
	}
	return fmt.Errorf("%w: unknown input %T", ErrRefused, in)
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// tail is the end of a text, as much as is stored.
func tail(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[len(s)-maxText:], "")
	}
	return s
}

func (d *decision) observe(in Observed) error {
	p := d.r.part(in.Service)
	i := in.Instance
	if p == nil || i.Index < 0 || i.Index >= maxIndex {
		return ErrStale
	}
	i.Reason = tail(i.Reason)
	at := slices.IndexFunc(p.Instances, func(have Instance) bool { return have.Index == i.Index })
	if at < 0 && i.State == Stopped || at >= 0 && p.Instances[at] == i {
		return nil
	}
	verb := "is"
	if i.State == Exited {
		verb = "has"
	}
	text := fmt.Sprintf("%s %d %s %s", in.Service, i.Index, verb, i.State)
	if i.Reason != "" && i.State != Healthy && i.State != Stopped {
		text += ": " + i.Reason
	}
	d.emit(Event{Type: EventObserved, Service: in.Service, Instance: &i, Warning: i.State == Ill || i.State == Exited, Text: text})
	return nil
}

// done takes the answer to a task that is asked.
func (d *decision) done(in Done) error {
	tasks := d.r.Next()
	at := slices.IndexFunc(tasks, func(t Task) bool { return t.ID == in.Task })
	if at < 0 {
		return ErrStale
	}
	in.Error, in.Message, in.Query = tail(in.Error), tail(in.Message), tail(in.Query)
	switch {
	case in.Value != nil && math.IsNaN(*in.Value):
		in.Value = nil
	case in.Value != nil && math.IsInf(*in.Value, 0):
		in.Value, in.Error = nil, "the value is infinite"
	}
	t := tasks[at]
	n, notice := d.r.notice(t.ID)
	switch {
	case t.Kind == TaskHook:
		d.hooked(t.Service, in)
	case t.Kind == TaskScale:
		d.told(t, in)
	case notice && in.yes():
		d.emit(Event{Type: EventNotified, Notice: &n, Text: "Event webhook told: " + n.Text})
	case notice:
		d.emit(Event{Type: EventNotified, Notice: &n, Text: "Event webhook failed: " + in.why()})
	default:
		if !in.sound() {
			in.Samples, in.Error = nil, "the measurement is malformed"
		}
		d.emit(Event{Type: EventAnswered, Done: &in, Text: t.answered(in)})
	}
	return nil
}

// answered says what the answer to a task of a look was.
func (t Task) answered(in Done) string {
	what := string(t.Kind)
	switch {
	case t.Webhook != nil:
		what = "webhook " + t.Webhook.Name
	case t.Metric != nil:
		what = "metric " + t.Metric.Name + " of " + t.Service
	}
	switch {
	case in.Error != "":
		return what + " could not be asked: " + in.Error
	case in.Value != nil:
		return fmt.Sprintf("%s is %v", what, *in.Value)
	case t.Kind == TaskWebhook && in.OK:
		return what + " says yes"
	case t.Kind == TaskWebhook:
		return what + " says no: " + in.Message
	case t.Kind == TaskQuery:
		return what + " has no value"
	}
	return what + " is answered"
}

// Reviews and what else people ask for.

func (d *decision) approve(in Approve) error {
	g := d.r.Gate
	if g == nil {
		return refused("the release waits for nobody")
	}
	if slices.ContainsFunc(g.Not, func(login string) bool { return strings.EqualFold(login, in.By) }) {
		return refused("%s began the release and may not approve it", in.By)
	}
	if len(g.Who) > 0 && !slices.ContainsFunc(g.Who, func(login string) bool { return strings.EqualFold(login, in.By) }) {
		return refused("only %s may approve it", strings.Join(g.Who, ", "))
	}
	comment := ""
	if in.Comment != "" {
		comment = ": " + tail(in.Comment)
	}
	if in.Reject {
		d.takeBack(Aborted, in.By, "%s rejected it%s", in.By, comment)
		return nil
	}
	if g.Kind == gatePaused {
		return d.resume(in.By)
	}
	d.opened(in.By, fmt.Sprintf("%s approved it%s", in.By, comment))
	return nil
}

// opened opens the gate and decides what was waiting behind it.
func (d *decision) opened(by, text string) {
	kind := d.r.Gate.Kind
	d.emit(Event{Type: EventOpened, Gate: d.r.Gate, By: by, Text: text})
	switch {
	case kind == gateInconclusive && !d.r.Paused && by != "":
		d.advance()
	case kind != gateReview && kind != gateReady && by != "" && d.r.Look == nil:
		d.emit(Event{Type: EventDue, Until: d.now, Text: "Looks again at once"})
	}
}

func (d *decision) promote(in Promote) error {
	r := d.r
	switch r.Phase {
	case Ready, Shifting, Promoting:
	case Watching, Live:
		return refused("it is promoted")
	default:
		return refused("it is %s: only a release that is ready can be promoted", r.Phase)
	}
	if p, healthy, need := r.ailing(); p != nil {
		return refused("only %d of %d instances of %s are healthy", healthy, need, p.Service)
	}
	if !in.Force {
		if r.FailedChecks > 0 {
			return refused("its last check failed: force it to promote nevertheless")
		}
		for _, c := range r.Checks {
			if c.Verdict == Fail {
				return refused("the check %s fails: force it to promote nevertheless", c.Name)
			}
		}
	}
	if r.Plan.Strategy.Kind == Rolling {
		return refused("rolling goes on by itself")
	}
	if r.Paused {
		d.emit(Event{Type: EventResumed, By: in.By, Text: in.By + " promotes it"})
	}
	if r.Gate != nil {
		d.emit(Event{Type: EventOpened, Gate: r.Gate, By: in.By, Text: in.By + " promotes it"})
	}
	d.note("%s promotes it before its steps are done", in.By)
	if r.Phase == Ready {
		d.move(Shifting, "Takes traffic")
	}
	d.promoted()
	return nil
}

func (d *decision) abort(by, reason, how string) error {
	switch d.r.Phase {
	case Live:
		return refused("it is live and the one before is gone: release the older revision again")
	case Reverting:
		return ErrStale
	}
	if reason = tail(reason); reason != "" {
		reason = ": " + reason
	}
	d.takeBack(Aborted, by, "%s by %s%s", how, by, reason)
	return nil
}

func (d *decision) pause(by string) error {
	switch {
	case d.r.Paused:
		return refused("it is paused already")
	case d.r.Phase == Live, d.r.Phase == Reverting:
		return refused("it is %s: there is nothing to hold", d.r.Phase)
	}
	d.hold(by, fmt.Sprintf("Paused by %s", by))
	return nil
}

// hold pauses the release.
func (d *decision) hold(by, why string) {
	d.emit(Event{Type: EventPaused, By: by, Text: why})
}

func (d *decision) resume(by string) error {
	if !d.r.Paused {
		return refused("it is not paused")
	}
	d.emit(Event{Type: EventResumed, By: by, Text: fmt.Sprintf("Resumed by %s", by)})
	return nil
}

func (d *decision) setWeight(in SetWeight) error {
	r := d.r
	kind := r.Plan.Strategy.Kind
	switch {
	case in.Weight < 0 || in.Weight > 100:
		return refused("a weight is 0 to 100 percent, not %d", in.Weight)
	case kind != Canary && kind != BlueGreen:
		return refused("traffic has no weight in strategy %s", kind)
	case r.matching():
		return refused("an A/B test has no weight: what matches goes to the new revision")
	case r.Phase != Ready && r.Phase != Shifting:
		return refused("it is %s: traffic has no weight now", r.Phase)
	}
	if p, healthy, need := r.ailing(); p != nil && in.Weight > r.Weight {
		return refused("only %d of %d instances of %s are healthy", healthy, need, p.Service)
	}
	if r.Phase == Ready {
		if r.Gate != nil {
			return refused("it waits at a gate: %s", r.Gate.Reason)
		}
		d.move(Shifting, "Takes traffic")
	}
	d.emit(Event{Type: EventTraffic, By: in.By, Weight: in.Weight, Step: r.Step, Iterations: r.Iterations, Text: fmt.Sprintf("%s set the weight to %d", in.By, in.Weight)})
	if !r.Paused {
		d.hold(in.By, fmt.Sprintf("Paused at weight %d by %s", in.Weight, in.By))
	}
	return nil
}

// traffic divides the traffic.
func (d *decision) traffic(weight int, mirrored bool, step int, text string) {
	d.emit(Event{Type: EventTraffic, Weight: weight, Mirrored: mirrored, Step: step, Iterations: d.r.Iterations, Text: text})
}

// gate makes the release wait.
func (d *decision) gate(g Gate) {
	g.Since = d.now
	if g.Wait > 0 {
		g.Deadline = d.now.Add(g.Wait)
	}
	if g.Reason == "" {
		g.Reason = "Waits for a review"
	}
	d.emit(Event{Type: EventGate, Gate: &g, Text: g.Reason})
}

// gates looks at the gate that the release waits at.
func (d *decision) gates() {
	r := d.r
	if r.Phase.Over() || r.Phase == Live || r.Phase == Reverting {
		return
	}
	g := r.Gate
	if g == nil {
		if r.Paused {
			d.gate(Gate{Kind: gatePaused, Reason: r.pausedReason()})
		}
		return
	}
	if due := r.gateDeadline(); due.IsZero() || due.After(d.now) {
		return
	}
	late := fmt.Sprintf("Nobody opened the gate %s within %s", g.Kind, g.Wait)
	switch g.OnTimeout {
	case Continue:
		d.opened("", late+": goes on")
	case Revert:
		d.takeBack(Failed, "", "%s: taken back", late)
	default:
		d.takeBack(Aborted, "", "%s: stopped", late)
	}
}

func (r *Release) pausedReason() string {
	if r.By == "" {
		return "Paused: somebody has to resume, promote or abort it"
	}
	return fmt.Sprintf("Paused by %s: somebody has to resume, promote or abort it", r.By)
}

// gateDeadline is when the gate gives up: never while the release is paused.
func (r *Release) gateDeadline() time.Time {
	if r.Gate == nil || r.Paused {
		return time.Time{}
	}
	return r.Gate.Deadline
}
