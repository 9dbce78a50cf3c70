package cd

import (
	"fmt"
	"time"
)

// health keeps users served: a release whose instances are ill is taken back.
func (d *decision) health() {
	r := d.r
	if !r.guarded() && r.Phase != Live {
		return
	}
	p, healthy, need := r.ailing()
	switch {
	case p != nil && r.Ill.IsZero():
		d.emit(Event{Type: EventIll, Warning: true, Text: fmt.Sprintf("Only %d of %d instances of %s are healthy%s", healthy, need, p.Service, p.because())})
	case p == nil && !r.Ill.IsZero():
		d.emit(Event{Type: EventWell, Text: "Enough instances are healthy again"})
	}
	// Flagger halts and waits for its progress deadline; users are served by what served before meanwhile (Shares).
	if r.Phase == Live || r.exact() && r.Phase != Watching {
		return
	}
	if p != nil && healthy == 0 {
		d.fault("No instance of %s is healthy%s", p.Service, p.because())
		return
	}
	if due := r.illDeadline(); !due.IsZero() && !due.After(d.now) {
		d.fault("Only %d of %d instances of %s have been healthy for %s%s", healthy, need, p.Service, illLimit, p.because())
		return
	}
	if limit := r.Plan.Watch.Restarts; r.Phase == Watching && limit > 0 && r.restarts()-r.Restarts > limit {
		d.fault("Its instances were restarted %d times since it was promoted, more than %d", r.restarts()-r.Restarts, limit)
		return
	}
	if r.Phase != Watching {
		if _, why := r.faulty(); why != "" {
			d.fault("%s", why)
		}
	}
}

// guarded reports whether the release has been up, and illness takes it back.
func (r *Release) guarded() bool {
	switch r.Phase {
	case Ready, Shifting, Promoting, Watching:
		return true
	}
	return false
}

// illDeadline is when some instances have been ill for too long.
func (r *Release) illDeadline() time.Time {
	if r.Ill.IsZero() || !r.guarded() || r.exact() && r.Phase != Watching || r.Paused && !r.Plan.Strategy.onFailure() {
		return time.Time{}
	}
	return r.Ill.Add(illLimit)
}

// fault takes the release back because something is wrong with it, or holds it where that is asked for.
func (d *decision) fault(format string, args ...any) {
	d.back(d.r.Plan.Strategy.onFailure(), format, args...)
}

// alarm does so because of what was measured.
func (d *decision) alarm(format string, args ...any) {
	d.back(d.r.Plan.Strategy.onAlarm(), format, args...)
}

func (d *decision) back(rollback bool, format string, args ...any) {
	r := d.r
	if rollback || r.Phase == Preparing || r.Phase == Launching || r.Phase == Gated {
		d.takeBack(Failed, "", format, args...)
		return
	}
	if !r.Paused {
		d.hold("", fmt.Sprintf(format, args...)+": held, since its rollback is switched off")
	}
}

func (s Strategy) onFailure() bool {
	return s.BlueGreen == nil || s.Kind != BlueGreen || s.BlueGreen.RollbackOnFailure
}
func (s Strategy) onAlarm() bool {
	return s.BlueGreen == nil || s.Kind != BlueGreen || s.BlueGreen.RollbackOnAlarm
}

// takeBack begins to take the release back: what served before serves again, at once where it is warm.
func (d *decision) takeBack(outcome Phase, by, format string, args ...any) {
	r := d.r
	text := fmt.Sprintf(format, args...)
	cold, began := r.cold(), r.Phase != Gated
	d.emit(Event{Type: EventMoved, Phase: Reverting, Outcome: outcome, By: by, Warning: outcome == Failed, Text: text})
	if !cold && (r.Weight != 0 || r.Mirrored) {
		d.traffic(0, false, r.Step, "Routing all traffic back to what served before")
	}
	if began && outcome != Superseded {
		d.postHooks()
	}
}

// cold reports whether something that served before has been scaled away, so that it has to start again.
func (r *Release) cold() bool {
	for i, p := range r.Parts {
		if s := r.Plan.Services[i]; s.Before != 0 && p.Before.Running < s.BeforeInstances {
			return true
		}
	}
	return false
}

// reverting brings back what served before, then takes the new revision away. Of recreate, the other way round: the two can
// not run at once. There is no way out but retry.
func (d *decision) reverting() {
	r := d.r
	if d.looked() {
		return
	}
	if r.Plan.Strategy.Kind == Recreate && r.cold() {
		if d.want(0) && r.gone() && d.scaleBefore(1, 1, true) {
			d.ended()
		}
		return
	}
	if !d.scaleBefore(1, 1, true) {
		return
	}
	if r.Weight != 0 || r.Mirrored {
		text := "Routing all traffic back to what served before"
		if r.Removed {
			text = "Takes no traffic any more"
		}
		d.traffic(0, false, r.Step, text)
		return
	}
	if d.want(0) && r.gone() {
		d.ended()
	}
}

func (d *decision) ended() {
	if d.r.Look != nil {
		return // webhooks are still to hear of it
	}
	d.emit(Event{Type: EventMoved, Phase: d.r.Outcome, Text: "Nothing of it runs any more"})
}

// want makes all parts want a number of instances and reports whether they did already.
func (d *decision) want(n int) bool {
	for i := range d.r.Parts {
		if !d.wantPart(i, n) {
			return false
		}
	}
	return true
}

func (d *decision) wantPart(i, n int) bool {
	p := d.r.Parts[i]
	if p.Want == n {
		return true
	}
	text := fmt.Sprintf("Stops %s", p.Service)
	if n > 0 {
		text = fmt.Sprintf("Wants %s of %s", plural(n, "instance"), p.Service)
	}
	d.emit(Event{Type: EventWanted, Service: p.Service, Instances: n, Text: text})
	return false
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// gone reports whether nothing of the release runs.
func (r *Release) gone() bool {
	for _, p := range r.Parts {
		if p.Want > 0 || len(p.Instances) > 0 {
			return false
		}
	}
	return true
}

// scaleBefore tells what served before to run num/den of what it ran, rounded up, and reports whether it was told so: with
// settled, whether it is so.
func (d *decision) scaleBefore(num, den int, settled bool) bool {
	r := d.r
	if r.Removed {
		return true
	}
	all := true
	for i, s := range r.Plan.Services {
		if s.Before == 0 {
			continue
		}
		n := (s.BeforeInstances*num + den - 1) / den
		b := r.Parts[i].Before
		if b.Instances != n || settled && !b.Told && !b.Settled {
			text := fmt.Sprintf("Release %d is to run %s of %s", s.Before, plural(n, "instance"), s.Name)
			d.emit(Event{Type: EventScaling, Service: s.Name, Release: s.Before, Instances: n, Settled: settled, Text: text})
			b = r.Parts[i].Before
		}
		all = all && b.Told
	}
	return all
}

// told takes the answer of the release that served before.
func (d *decision) told(t Task, in Done) {
	runs := fmt.Sprintf("run %s of %s", plural(t.Instances, "instance"), t.Service)
	if in.yes() {
		d.emit(Event{Type: EventScaled, Service: t.Service, Release: t.Release, Text: fmt.Sprintf("Release %d was told to %s", t.Release, runs)})
		return
	}
	pause := min(firstRetry<<min(d.r.part(t.Service).Before.Failures, 6), lastRetry)
	d.emit(Event{Type: EventUnscaled, Service: t.Service, Release: t.Release, Warning: true, Until: d.now.Add(pause),
		Text: fmt.Sprintf("Release %d could not be told to %s, tries again in %s: %s", t.Release, runs, pause, in.why())})
}

// retry tells again what was not taken.
func (d *decision) retry() {
	for _, p := range d.r.Parts {
		if b := p.Before; !b.Retry.IsZero() && !b.Retry.After(d.now) {
			before := d.r.service(p.Service).Before
			d.emit(Event{Type: EventScaling, Service: p.Service, Release: before, Instances: b.Instances, Settled: b.Settled, Text: fmt.Sprintf("Tells release %d again", before)})
			return
		}
	}
}

// scaled is what a later release asks of this one.
func (d *decision) scaled(in Scaled) error {
	r := d.r
	p := r.part(in.Service)
	switch {
	case p == nil || r.Removed || in.Instances < 0 || in.Instances > maxIndex:
		return ErrStale
	case r.Phase == Watching:
		d.settled(in.By)
	case r.Phase != Live && r.Phase != Retired:
		return ErrStale
	}
	// An earlier release may still be giving the place back that a later one has taken: it is not listened to.
	if p = r.part(in.Service); in.By < p.ScaledBy || in.By == p.ScaledBy && p.Want == in.Instances {
		return nil
	}
	d.emit(Event{Type: EventWanted, Service: in.Service, Instances: in.Instances, Release: in.By,
		Text: fmt.Sprintf("Release %d asks for %s of %s", in.By, plural(in.Instances, "instance"), in.Service)})
	serves := false
	for _, p := range r.Parts {
		serves = serves || p.Want > 0
	}
	switch {
	case !serves && r.Phase == Live:
		d.move(Retired, "Release %d serves in its place", in.By)
	case serves && r.Phase == Retired:
		d.move(Live, "Release %d gave the place back", in.By)
	}
	return nil
}

// removed stops what serves, and takes back what does not yet.
func (d *decision) removed(in Removed) error {
	r := d.r
	if r.Removed {
		return nil
	}
	text := fmt.Sprintf("%s removed what is released to %s", in.By, r.Plan.Environment)
	if reason := tail(in.Reason); reason != "" {
		text += ": " + reason
	}
	d.emit(Event{Type: EventRemoved, By: in.By, Text: fmt.Sprintf("%s is removed: nothing comes in its place", r.Plan.Environment)})
	switch r.Phase {
	case Reverting:
	case Watching, Live:
		for i := range r.Parts {
			d.wantPart(i, 0)
		}
		d.emit(Event{Type: EventMoved, Phase: Retired, By: in.By, Text: text})
	default:
		d.takeBack(Aborted, in.By, "%s", text)
	}
	return nil
}

// settled ends the window after promotion because a later release begins.
func (d *decision) settled(by ReleaseID) {
	d.move(Live, "Serves; release %d begins", by)
	d.scaleBefore(0, 1, false)
}

func (d *decision) replaced(in Replaced) error {
	r := d.r
	switch r.Phase {
	case Live:
		return ErrStale
	case Watching:
		d.settled(in.By)
		return nil
	case Reverting:
		return nil
	}
	if r.Phase == Promoting && r.exact() && r.Ill.IsZero() {
		// What has passed the analysis is promoted before Flagger looks at another revision. Here that takes no time.
		d.promoted()
		if r.Phase == Watching {
			d.settled(in.By)
		}
		return nil
	}
	if f := r.Flagger; f != nil && (f.Phase == flaggerProgressing || f.Phase == flaggerWaitingPromotion) {
		d.note("New revision detected! Restarting analysis for %s.%s", r.name(), r.Plan.Environment)
	}
	d.takeBack(Superseded, "", "Release %d begins before this one is done", in.By)
	return nil
}

// promoted makes the new revisions what serves. Nothing is started again for it.
func (d *decision) promoted() {
	r := d.r
	if r.Weight != 100 || r.Mirrored {
		d.traffic(100, false, r.Step, "Routing all traffic to the new revision")
	}
	if !r.hasBefore() || r.Plan.Restores != 0 {
		d.live("Serves")
		return
	}
	if window := r.window(); window > 0 {
		stays := ", the revision before stays as it is"
		if r.cold() {
			stays = ""
		}
		d.move(Watching, "Promoted: watched for %s%s", window, stays)
	} else if r.keepsAlive() {
		d.move(Watching, "Promoted: the revision before stays until the next release")
	} else {
		d.live("Promoted")
		return
	}
	d.postHooks()
}

func (d *decision) live(text string) {
	post := d.r.Promoted.IsZero()
	d.move(Live, "%s", text)
	d.scaleBefore(0, 1, false)
	if post {
		d.postHooks()
	}
}

// serve is what one that serves still does: post-rollout webhooks, and what a later release asks for.
func (d *decision) serve() {
	if d.r.Look != nil {
		d.decideLook()
		return
	}
	for i := range d.r.Parts {
		d.up(i)
	}
}

func (d *decision) postHooks() {
	if d.r.asksHooks(hookPost) {
		d.look(LookPost)
	}
}

// window is how long the one before stays warm.
func (r *Release) window() time.Duration {
	w := r.Plan.Watch.For
	if f := r.Plan.Strategy.BlueGreen; f != nil && r.Plan.Strategy.Kind == BlueGreen {
		w = max(w, f.TerminationWait)
	}
	return w
}

func (r *Release) keepsAlive() bool {
	f := r.Plan.Strategy.BlueGreen
	return f != nil && r.Plan.Strategy.Kind == BlueGreen && f.KeepAlive
}

// watchEnds is when the one before is let go.
func (r *Release) watchEnds() time.Time {
	if r.Phase != Watching || r.Paused || !r.Ill.IsZero() || r.keepsAlive() || r.Look != nil && r.Look.Kind == LookPost {
		return time.Time{}
	}
	return r.Promoted.Add(r.window())
}

func (d *decision) watching() {
	r := d.r
	if d.looked() {
		return
	}
	if due := r.watchEnds(); !due.IsZero() && !due.After(d.now) {
		d.live("The window after promotion is over")
		return
	}
	d.watchLooks()
}

// watchedUntil is until when a promoted release is watched; zero is for as long as traffic moves.
func (r *Release) watchedUntil() time.Time {
	if r.Phase == Watching {
		return r.Promoted.Add(r.Plan.Watch.For)
	}
	return time.Time{}
}

// watchLooks looks at what is measured.
func (d *decision) watchLooks() {
	r := d.r
	until := r.watchedUntil()
	w := r.Plan.Watch
	if w.Errors <= 0 && w.Latency <= 0 {
		return
	}
	if r.Look != nil {
		return
	}
	if r.Due.IsZero() {
		if next := d.now.Add(w.interval()); until.IsZero() || !next.After(until) {
			d.emit(Event{Type: EventDue, Until: next, Text: fmt.Sprintf("Looks at errors and latency every %s", w.interval())})
		}
		return
	}
	if !r.Due.After(d.now) {
		d.look(LookWatch)
	}
}

// maxWatchLooks is about how often a watch looks that does not say when.
const maxWatchLooks = 360

// interval is that between two looks of a watch: ten seconds, and of long ones so much that there are not too many.
func (w Watch) interval() time.Duration {
	if w.Interval > 0 {
		return w.Interval
	}
	return max(10*time.Second, w.For/maxWatchLooks)
}
