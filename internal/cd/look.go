package cd

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"time"
)

// The types of webhooks.
const (
	hookConfirmRollout   = "confirm-rollout"
	hookPre              = "pre-rollout"
	hookRollout          = "rollout"
	hookConfirmIncrease  = "confirm-traffic-increase"
	hookConfirmPromotion = "confirm-promotion"
	hookPost             = "post-rollout"
	hookRollback         = "rollback"
	hookEvent            = "event"
)

func (w Webhook) kind() string {
	if w.Type == "" {
		return hookRollout
	}
	return w.Type
}

// hooks are the webhooks of a type, by their index.
func (r *Release) hooks(kind string) []int {
	var out []int
	if r.Plan.Strategy.Kind != Canary || !r.analysed() {
		return nil
	}
	for i, w := range r.analysis().Webhooks {
		if w.kind() == kind {
			out = append(out, i)
		}
	}
	return out
}

func (r *Release) asksHooks(kind string) bool { return len(r.hooks(kind)) > 0 }

// asking looks answers up, and collects what is still to be asked.
type asking struct {
	r    *Release
	asks []Task
	// inOrder asks one thing at a time: what comes after may not be asked at all.
	inOrder bool
}

// ask gives the answer to a task, or asks it; key tells it from others of its look. When something is not answered the whole
// outcome of a look is void, and it is looked again when it is.
func (a *asking) ask(key string, t Task) (Done, bool) {
	t.ID = TaskID(fmt.Sprintf("%d/%s", a.r.Look.N, key))
	for _, d := range a.r.Look.Answers {
		if d.Task == t.ID {
			return d, true
		}
	}
	if !a.inOrder || len(a.asks) == 0 {
		a.asks = append(a.asks, t)
	}
	return Done{}, false
}

// webhook asks one of the analysis' webhooks.
func (a *asking) webhook(i int, phase string) (Done, bool) {
	w := a.r.analysis().Webhooks[i]
	payload := a.r.payload(phase)
	if w.Metadata != nil {
		payload["metadata"] = maps.Clone(w.Metadata)
	}
	return a.ask(fmt.Sprintf("webhook/%d", i), Task{Kind: TaskWebhook, Webhook: &w, Payload: payload})
}

// yes reports whether a webhook's answer is one.
func (in Done) yes() bool { return in.Error == "" && in.OK }

// payload is what Flagger posts to webhooks.
func (r *Release) payload(phase string) map[string]any {
	checksum := ""
	for i, s := range r.Plan.Services {
		if i > 0 {
			checksum += "-"
		}
		checksum += s.Revision.ID
	}
	return map[string]any{"name": r.name(), "namespace": r.Plan.Environment, "phase": phase, "checksum": checksum}
}

// flaggerPhase is where the release is in Flagger's words.
func (r *Release) flaggerPhase() string {
	if r.Flagger != nil {
		return r.Flagger.Phase
	}
	switch r.Phase {
	case Gated:
		return flaggerWaiting
	case Promoting:
		return flaggerPromoting
	case Watching, Live, Retired:
		return flaggerSucceeded
	case Reverting, Failed, Aborted, Superseded:
		return flaggerFailed
	}
	return flaggerProgressing
}

// look begins to look at the checks.
func (d *decision) look(kind LookKind) {
	d.emit(Event{Type: EventLook, Look: &Look{N: d.r.Looks + 1, Kind: kind, At: d.now}, Text: fmt.Sprintf("Looks at its checks (%s)", kind)})
}

// lookAsks are the tasks of the look under way.
func (r *Release) lookAsks() []Task {
	switch r.Look.Kind {
	case LookTick:
		return r.tick().asks
	case LookAnalysis:
		return r.analyse().asks
	case LookWatch:
		return r.watchLook().asks
	case LookStart:
		return r.confirm(hookConfirmRollout, flaggerWaiting).asks
	case LookPost:
		return r.post().asks
	}
	return nil
}

// looked decides what the look under way has come to, and reports whether it has come to something. One that is not answered
// holds up nothing else.
func (d *decision) looked() bool {
	before := len(d.events)
	if d.r.Look != nil {
		d.decideLook()
	}
	return len(d.events) > before
}

// decideLook decides what the look under way has come to, if all is answered.
func (d *decision) decideLook() {
	if len(d.r.lookAsks()) > 0 {
		return
	}
	switch d.r.Look.Kind {
	case LookTick:
		d.ticked()
	case LookAnalysis:
		d.analysed()
	case LookWatch:
		d.watched()
	case LookStart:
		d.confirmed()
	case LookPost:
		d.posted()
	}
}

// checked are the counters and checks as they are.
func (r *Release) checked() *Checked {
	return &Checked{
		Iterations: r.Iterations, FailedChecks: r.FailedChecks, Errors: r.Errors, NoData: r.NoData,
		Checks: r.Checks, Evidence: r.Evidence, Sampled: r.Sampled, Undecided: r.Undecided, Flagger: r.Flagger,
	}
}

// conclude ends the look.
func (d *decision) conclude(c *Checked, next time.Time, warning bool, format string, args ...any) {
	d.emit(Event{Type: EventChecked, Checked: c, Until: next, Warning: warning, Text: fmt.Sprintf(format, args...)})
}

// nextLook is when it looks again: an interval after it began to, at once if that is over.
func (r *Release) nextLook(now time.Time) time.Time {
	next := r.Look.At.Add(r.analysis().interval())
	if next.Before(now) {
		return now
	}
	return next
}

// confirming is what gates that are webhooks say.
type confirming struct {
	asking
	closed refusal // of the one that says no
}

// refusal is a webhook that does not let a release go on, and what it said.
type refusal struct{ name, said string }

// confirm asks gates of a kind in their order, but for those that somebody opened; the first that says no is the last.
func (r *Release) confirm(kind, phase string) *confirming {
	c := &confirming{asking: asking{r: r, inOrder: true}}
	c.all(kind, phase)
	return c
}

func (c *confirming) all(kind, phase string) {
	for _, i := range c.r.hooks(kind) {
		name := c.r.analysis().Webhooks[i].Name
		if c.r.confirmed(name) {
			continue
		}
		if in, ok := c.webhook(i, phase); ok && !in.yes() {
			c.closed = refusal{name, in.said()}
			return
		}
	}
}

// confirmed decides whether the release may start.
func (d *decision) confirmed() {
	r := d.r
	c := r.confirm(hookConfirmRollout, flaggerWaiting)
	next := r.nextLook(d.now)
	if c.closed.name == "" {
		d.conclude(r.checked(), time.Time{}, false, "May start")
		d.start()
		return
	}
	d.conclude(r.checked(), next, false, "%s does not let it start yet", c.closed.name)
	d.closed(c.closed, "start")
}

// closed waits at a gate that is a webhook. Its reason is what the webhook said last.
func (d *decision) closed(by refusal, what string) {
	reason := fmt.Sprintf("The webhook %s does not let it %s yet", by.name, what)
	if said, _, _ := strings.Cut(by.said, "\n"); said != "" {
		reason += ": " + said
	}
	switch g := d.r.Gate; {
	case g == nil || g.Kind != by.name && g.Kind != gatePaused:
		d.gate(Gate{Kind: by.name, Reason: reason})
	case g.Kind == by.name && g.Reason != reason:
		again := *g
		again.Reason = reason
		d.emit(Event{Type: EventGate, Gate: &again, Text: reason})
	}
}

// posting are the webhooks after a release.
type posting struct {
	asking
	told []Event
}

func (r *Release) post() *posting {
	p := &posting{asking: asking{r: r, inOrder: true}}
	for _, i := range r.hooks(hookPost) {
		in, ok := p.webhook(i, r.flaggerPhase())
		if !ok {
			return p
		}
		name := r.analysis().Webhooks[i].Name
		if !in.yes() {
			p.told = append(p.told, Event{Type: EventNote, Warning: true, Text: fmt.Sprintf("Post-rollout hook %s failed %s", name, in.said())})
			return p
		}
		p.told = append(p.told, Event{Type: EventNote, Text: fmt.Sprintf("Post-rollout check %s passed", name)})
	}
	return p
}

// said is what came with an answer, why says why it is not yes.
func (in Done) said() string { return cmp.Or(in.Error, in.Message) }
func (in Done) why() string  { return cmp.Or(in.said(), "without a word") }

func (d *decision) posted() {
	p := d.r.post()
	for _, e := range p.told {
		d.emit(e)
	}
	d.conclude(d.r.checked(), time.Time{}, false, "Post-rollout webhooks are asked")
	d.completed()
}
