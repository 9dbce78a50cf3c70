package cd

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (p *Plan) names() string {
	var names []string
	for _, s := range p.Services {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func (s Service) instances() int { return max(s.Instances, 1) }

// name is what Flagger's events call the release: the first of its services.
func (r *Release) name() string {
	if len(r.Plan.Services) == 0 {
		return ""
	}
	return r.Plan.Services[0].Name
}

func (r *Release) part(service string) *Part {
	for i := range r.Parts {
		if r.Parts[i].Service == service {
			return &r.Parts[i]
		}
	}
	return nil
}

func (r *Release) service(name string) *Service {
	if r.Plan == nil {
		return nil
	}
	for i := range r.Plan.Services {
		if r.Plan.Services[i].Name == name {
			return &r.Plan.Services[i]
		}
	}
	return nil
}

// hasBefore reports whether something serves in the place that the release takes.
func (r *Release) hasBefore() bool {
	return slices.ContainsFunc(r.Plan.Services, func(s Service) bool { return s.Before != 0 })
}

// analysed reports whether the release goes by its strategy: the first of an environment and one that restores do not.
func (r *Release) analysed() bool { return r.hasBefore() && r.Plan.Restores == 0 }

// exact reports whether the release behaves like Flagger, tick for tick.
func (r *Release) exact() bool {
	s := r.Plan.Strategy
	return s.Kind == Canary && s.Analysis != nil && s.Analysis.Exact && r.analysed()
}

func (r *Release) recreates() bool { return r.Plan.Strategy.Kind == Recreate && r.hasBefore() }
func (r *Release) rolls() bool     { return r.Plan.Strategy.Kind == Rolling && r.analysed() }

// fleets are the settings of blue-green.
func (r *Release) fleets() Fleets {
	if f := r.Plan.Strategy.BlueGreen; f != nil {
		return *f
	}
	return Fleets{RollbackOnFailure: true, RollbackOnAlarm: true}
}

// analysis is the plan's, or one that looks every minute.
func (r *Release) analysis() Analysis {
	if a := r.Plan.Strategy.Analysis; a != nil {
		return *a
	}
	return Analysis{}
}

// interval is that between two looks: Flagger's default is a minute, and it takes no less than ten seconds.
func (a Analysis) interval() time.Duration {
	switch {
	case a.Interval <= 0:
		return time.Minute
	case a.Exact:
		return max(a.Interval, 10*time.Second)
	}
	return a.Interval
}

func (a Analysis) threshold() int { return max(a.Threshold, 1) }

// matching reports whether the release is an A/B test.
func (r *Release) matching() bool {
	a := r.analysis()
	return r.Plan.Strategy.Kind == Canary && len(a.Match) > 0 && a.Iterations > 0
}

// confirmed reports whether somebody opened a gate since the last step.
func (r *Release) confirmed(gate string) bool { return slices.Contains(r.Confirmed, gate) }

// healthyOf is how many of a part's instances are healthy, and how many of those that have been have to be.
func (r *Release) healthyOf(i int) (healthy, need int) {
	p := r.Parts[i]
	for _, in := range p.Instances {
		if in.State == Healthy && in.Index < p.Want {
			healthy++
		}
	}
	return healthy, r.needOf(min(p.Up, p.Want))
}

// needOf is how many of some instances have to be healthy: one at least, if there are any.
func (r *Release) needOf(n int) int { return max(r.ready(n), min(n, 1)) }

// ready is canaryReadyThreshold's part of some instances, rounded as Flagger does.
func (r *Release) ready(n int) int {
	return int(float32(n) * (float32(r.readyPercent()) / 100))
}

func (r *Release) readyPercent() int {
	if p := r.analysis().CanaryReadyThreshold; p > 0 && p < 100 {
		return p
	}
	return 100
}

// ailing is a part that was up and has too few healthy instances, one without any first; nil for none.
func (r *Release) ailing() (bad *Part, healthy, need int) {
	for i := range r.Parts {
		h, n := r.healthyOf(i)
		if h < n && (bad == nil || h == 0 && healthy > 0) {
			bad, healthy, need = &r.Parts[i], h, n
		}
	}
	return bad, healthy, need
}

// because says why the first instance of a part that is not healthy is not, behind a colon; nothing if that is not known.
func (p *Part) because() string {
	for _, in := range p.Instances {
		if in.Index < p.Want && in.State != Healthy && in.Reason != "" {
			return ": " + in.Reason
		}
	}
	return ""
}

// restarts counts those of all instances.
func (r *Release) restarts() int {
	n := 0
	for _, p := range r.Parts {
		for _, in := range p.Instances {
			n += in.Restarts
		}
	}
	return n
}

// Next gives the tasks that are asked and not yet answered. The same release gives the same tasks.
func (r *Release) Next() []Task {
	var out []Task
	if r.Plan == nil {
		return nil
	}
	if at := r.hook(); at >= 0 {
		out = append(out, Task{ID: TaskID("hook/" + r.Parts[at].Service), Kind: TaskHook, Service: r.Parts[at].Service})
	}
	for i, p := range r.Parts {
		if b := p.Before; !b.Told && b.Retry.IsZero() {
			out = append(out, Task{
				ID: TaskID(fmt.Sprintf("scale/%s/%d", p.Service, b.Seq)), Kind: TaskScale, Service: p.Service,
				Release: r.Plan.Services[i].Before, Instances: b.Instances, Settled: b.Settled,
			})
		}
	}
	if r.Look != nil {
		out = append(out, r.lookAsks()...)
	}
	for _, n := range r.Notices {
		out = append(out, r.noticeTask(n))
	}
	return out
}

func (n Notice) task() TaskID { return TaskID(fmt.Sprintf("event/%d/%d", n.N, n.Hook)) }

// notice is what a task tells a webhook of type event.
func (r *Release) notice(id TaskID) (Notice, bool) {
	for _, n := range r.Notices {
		if n.task() == id {
			return n, true
		}
	}
	return Notice{}, false
}

func (r *Release) noticeTask(n Notice) Task {
	w := r.analysis().Webhooks[n.Hook]
	kind := "Normal"
	if n.Warning {
		kind = "Warning"
	}
	meta := map[string]any{}
	for k, v := range w.Metadata {
		meta[k] = v
	}
	meta["eventMessage"], meta["eventType"], meta["timestamp"] = n.Text, kind, fmt.Sprint(n.At.UnixMilli())
	payload := r.payload(n.Phase)
	payload["metadata"] = meta
	return Task{ID: n.task(), Kind: TaskWebhook, Webhook: &w, Payload: payload}
}

// Shares says how traffic is divided now, for each service that the release serves; empty when it serves none. Where two
// releases have a share of a service, that of the later one counts. A revision without a healthy instance takes nothing
// while the one before is there.
func (r *Release) Shares() []Share {
	switch r.Phase {
	case Ready, Shifting, Promoting, Watching, Live:
	case Reverting:
		if r.Weight == 0 || r.Plan.Strategy.Kind == Recreate {
			return nil
		}
	default:
		return nil
	}
	weight := r.Weight
	for i, p := range r.Parts {
		if healthy, _ := r.healthyOf(i); healthy == 0 && p.Want > 0 && r.warm(i) && r.Phase != Live {
			weight = 0
		}
	}
	var out []Share
	for i, s := range r.Plan.Services {
		if r.Parts[i].Want == 0 {
			continue
		}
		share := Share{Service: s.Name, New: r.ID, Weight: weight}
		switch {
		case r.Phase == Live || s.Before == 0 && r.Phase != Ready:
			share.Weight = 100
		case r.warm(i):
			share.Old = s.Before
		}
		if r.Phase != Live && r.Phase != Watching {
			r.shareByRules(&share)
		}
		out = append(out, share)
	}
	return out
}

// warm reports whether what served before a part is still there, if not all of it.
func (r *Release) warm(i int) bool {
	return r.Plan.Services[i].Before != 0 && r.Parts[i].Before.Running > 0
}

// shareByRules adds what is not told by a weight.
func (r *Release) shareByRules(share *Share) {
	s := r.Plan.Strategy
	if s.Kind == BlueGreen {
		share.TestHosts = r.fleets().TestHosts
	}
	if s.Kind != Canary || s.Analysis == nil || share.Old == 0 {
		return
	}
	share.Affinity = s.Analysis.Affinity
	if r.Mirrored && share.Weight == 0 {
		share.Mirrored, share.MirrorWeight = true, s.Analysis.MirrorWeight
	}
	if r.matching() && r.Phase == Shifting && share.Weight > 0 {
		share.Match, share.Weight = s.Analysis.Match, 0
	}
}

// Deadline is when time alone moves the release on, by a Tick; zero for never.
func (r *Release) Deadline() time.Time {
	var first time.Time
	add := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if r.Plan == nil {
		return first
	}
	for _, p := range r.Parts {
		add(p.Before.Retry)
	}
	if r.Phase.Over() || r.Phase == Live || r.Phase == Reverting {
		return first
	}
	for _, t := range []time.Time{r.gateDeadline(), r.hookDeadline(), r.startDeadline(), r.illDeadline(), r.stepDue(), r.watchEnds(), r.undecidedDeadline(), r.lookDue()} {
		add(t)
	}
	return first
}

// lookDue is when it looks next at its checks.
func (r *Release) lookDue() time.Time {
	if r.Look != nil || r.Paused && (r.exact() && r.Phase != Watching || r.Phase == Gated) || r.Phase == Gated && r.Gate != nil && r.Gate.Kind == gateReview {
		return time.Time{}
	}
	return r.Due
}

// Waits says for people what the release waits for, since when and until when, and who can move it on; empty if it is over.
func (r *Release) Waits() string {
	if r.Plan == nil || r.Phase.Over() {
		return ""
	}
	what, since, who := r.waits()
	if what == "" {
		return ""
	}
	text := what + ", since " + since.UTC().Format(time.RFC3339)
	due := r.Deadline()
	if r.Gate != nil {
		due = r.gateDeadline()
	}
	if !due.IsZero() {
		text += ", until " + due.UTC().Format(time.RFC3339)
	}
	return text + "; " + who
}

func (r *Release) waits() (what string, since time.Time, who string) {
	if g := r.Gate; g != nil {
		who = "everybody with the right to release can open it"
		if len(g.Who) > 0 {
			who = strings.Join(g.Who, ", ") + " can open it"
		}
		return g.Reason, g.Since, who
	}
	abort := "abort takes it back"
	if b := r.waitsForBefore(); b != "" {
		return b, r.Since, "it is told again until it answers"
	}
	switch r.Phase {
	case Gated:
		return "Asks whether it may start", r.Since, abort
	case Preparing:
		if at := r.hook(); at >= 0 {
			return "Waits for the hook of " + r.Parts[at].Service, r.Progress, abort
		}
	case Launching:
		if at := r.starting(); at >= 0 {
			healthy, _ := r.healthyOf(at)
			return fmt.Sprintf("Waits for %s: %d of %d instances are healthy%s", r.Parts[at].Service, healthy, r.Parts[at].Want, r.Parts[at].because()), r.Progress, abort
		}
	case Shifting, Promoting:
		what := fmt.Sprintf("Weight %d", r.Weight)
		if p, healthy, need := r.ailing(); p != nil {
			return fmt.Sprintf("Held at weight %d: %d of %d instances of %s are healthy%s", r.Weight, healthy, need, p.Service, p.because()), r.Ill, abort
		}
		if !r.Undecided.IsZero() {
			return what + ": the checks say neither yes nor no", r.Undecided, "promote goes on, " + abort
		}
		return what, r.Stepped, "promote goes on, " + abort
	case Watching:
		if r.keepsAlive() {
			return "Serves; the revision before stays until the next release", r.Promoted, "rollback takes it back at once"
		}
		if r.cold() {
			return "Serves and is watched", r.Promoted, "rollback starts the revision before again and takes it back"
		}
		return "Serves and is watched; the revision before is warm", r.Promoted, "rollback takes it back at once"
	case Reverting:
		return "Is being taken away: " + r.Reason, r.Since, "its machine tells when it is gone"
	case Live:
		if p, healthy, need := r.ailing(); p != nil {
			return fmt.Sprintf("Serves with %d of %d instances of %s%s", healthy, need, p.Service, p.because()), r.Ill, "a release of another revision replaces it"
		}
		return "", time.Time{}, ""
	}
	return "Works", r.Since, abort
}

// waitsForBefore says which release has not yet done what it was told, if this one waits for it.
func (r *Release) waitsForBefore() string {
	for i, p := range r.Parts {
		if b := p.Before; !b.Told && b.Settled {
			return fmt.Sprintf("Waits for release %d to run %s of %s", r.Plan.Services[i].Before, plural(b.Instances, "instance"), p.Service)
		}
	}
	return ""
}
