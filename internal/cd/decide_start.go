package cd

import (
	"fmt"
	"math"
	"time"
)

// gated starts the release when nothing is in its way any more.
func (d *decision) gated() {
	r := d.r
	switch {
	case r.Gate != nil && r.Gate.Kind == gateReview, r.Paused:
	case r.exact(): // the first tick says when
	case r.asksHooks(hookConfirmRollout):
		d.looks(LookStart)
	default:
		d.start()
	}
}

func (d *decision) start() {
	if d.r.Gate != nil {
		d.emit(Event{Type: EventOpened, Gate: d.r.Gate, Text: "May start"})
	}
	d.move(Preparing, "Starts")
}

// looks looks at the checks when that is due; the first time at once.
func (d *decision) looks(kind LookKind) {
	r := d.r
	switch {
	case r.Look != nil:
		d.decideLook()
	case r.Due.IsZero(), !r.Due.After(d.now):
		d.look(kind)
	}
}

// prepare runs hooks, one after the other. A release that restores has none to run: they have been run for its revision.
func (d *decision) prepare() {
	r := d.r
	at := r.hook()
	if at < 0 {
		d.move(Launching, "Starts %s", r.Plan.names())
		return
	}
	if due := r.hookDeadline(); !due.After(d.now) {
		d.takeBack(Failed, "", "The hook of %s did not end within %s", r.Parts[at].Service, r.hookTimeout(at))
	}
}

// ticks looks at the checks of a release that behaves like Flagger, after all that follows from its instances.
func (d *decision) ticks() {
	r := d.r
	if !r.exact() || r.Paused {
		return
	}
	switch r.Phase {
	case Gated:
		if r.Gate != nil && r.Gate.Kind == gateReview {
			return
		}
	case Preparing, Launching, Shifting, Promoting:
	default:
		return
	}
	d.looks(LookTick)
}

// hook is the part whose hook is to run next, -1 for none.
func (r *Release) hook() int {
	if r.Phase != Preparing || r.Plan.Restores != 0 {
		return -1
	}
	for i, s := range r.Plan.Services {
		if len(s.Hook) > 0 && !r.Parts[i].Hooked {
			return i
		}
	}
	return -1
}

func (r *Release) hookTimeout(at int) time.Duration {
	if t := r.Plan.Services[at].HookTimeout; t > 0 {
		return t
	}
	return defaultHookTimeout
}

func (r *Release) hookDeadline() time.Time {
	if at := r.hook(); at >= 0 {
		return r.Progress.Add(r.hookTimeout(at))
	}
	return time.Time{}
}

func (d *decision) hooked(service string, in Done) {
	switch {
	case in.Error != "":
		d.takeBack(Failed, "", "The hook of %s could not be run: %s", service, in.Error)
	case !in.OK:
		d.takeBack(Failed, "", "The hook of %s failed: %s", service, in.why())
	default:
		d.emit(Event{Type: EventHooked, Service: service, Text: fmt.Sprintf("The hook of %s has run", service)})
	}
}

// launch starts the services, each when the one before is healthy.
func (d *decision) launch() {
	r := d.r
	if r.recreates() && !d.scaleBefore(0, 1, true) {
		return
	}
	if !d.bringUp(1) || r.Paused {
		return
	}
	switch {
	case !r.analysed(), r.recreates(), r.Plan.Strategy.Kind == Canary && r.analysis().SkipAnalysis && !r.exact():
		d.promoted()
	case r.Plan.Strategy.Kind == BlueGreen && r.fleets().ReadyStop:
		d.move(Ready, "The new fleet is ready")
	default:
		d.move(Shifting, "The new instances are healthy")
	}
}

// bringUp wants as many instances as a step of rolling asks for, else all, service by service, and reports whether all are
// up. What can not start takes the release back.
func (d *decision) bringUp(step int) bool {
	r := d.r
	for i := range r.Parts {
		if !d.wantPart(i, r.wanted(i, step)) {
			return false
		}
		p := r.Parts[i]
		if r.isUp(i) {
			continue
		}
		if d.up(i) {
			return false
		}
		if r.exact() {
			return false // the ticks tell whether it takes too long
		}
		if _, why := r.faulty(); why != "" {
			d.fault("%s", why)
		} else if due := r.startDeadline(); !due.After(d.now) {
			d.fault("%s did not come up within %s%s", p.Service, r.progressLimit(), p.because())
		}
		return false
	}
	return true
}

// isUp reports whether a part has come up. While the release starts, it has to be so still: nothing of it serves yet.
func (r *Release) isUp(i int) bool {
	p := r.Parts[i]
	healthy, _ := r.healthyOf(i)
	return p.Want > 0 && p.Up >= p.Want && (r.Phase != Launching || healthy >= r.needOf(p.Want))
}

// up notes that a part has come up, if it has.
func (d *decision) up(i int) bool {
	p := d.r.Parts[i]
	healthy, _ := d.r.healthyOf(i)
	if p.Up >= p.Want || healthy < d.r.needOf(p.Want) {
		return false
	}
	d.emit(Event{Type: EventUp, Service: p.Service, Text: fmt.Sprintf("%s is up: %d of %s healthy", p.Service, healthy, plural(p.Want, "instance"))})
	return true
}

// wanted is how many instances of a part a step of rolling asks for; other strategies have one step.
func (r *Release) wanted(i, step int) int {
	n := r.Plan.Services[i].instances()
	if r.rolls() {
		n = min(n, step*r.batch())
	}
	return n
}

// starting is the part that is being started, -1 for none.
func (r *Release) starting() int {
	if r.Phase != Launching && !(r.Phase == Shifting && r.rolls() && !r.Paused) {
		return -1
	}
	if r.recreates() {
		for _, p := range r.Parts {
			if p.Before.Instances > 0 || !p.Before.Told {
				return -1
			}
		}
	}
	for i := range r.Parts {
		if !r.isUp(i) {
			return i
		}
	}
	return -1
}

// startDeadline is when starting takes too long.
func (r *Release) startDeadline() time.Time {
	if r.starting() < 0 || r.exact() {
		return time.Time{}
	}
	return r.Progress.Add(r.progressLimit())
}

func (r *Release) progressLimit() time.Duration {
	if a := r.Plan.Strategy.Analysis; a != nil && a.ProgressDeadline > 0 {
		return a.ProgressDeadline
	}
	return defaultProgress
}

// faulty is an instance that has ended too often, or whose health was asked for in vain, before its service was up, and what is
// wrong with it.
func (r *Release) faulty() (*Part, string) {
	for i := range r.Parts {
		p := &r.Parts[i]
		for _, in := range p.Instances {
			if in.Index >= p.Want {
				continue
			}
			if in.State == Ill && in.Index >= p.Up {
				why := fmt.Sprintf("%s %d does not get healthy", p.Service, in.Index)
				if in.Reason != "" {
					why += ": " + in.Reason
				}
				return p, why
			}
			exits := in.Restarts
			if in.State == Exited {
				exits++
			}
			if exits < maxExits || in.State == Healthy {
				continue
			}
			why := fmt.Sprintf("%s %d ended %d times", p.Service, in.Index, exits)
			if p.Up == 0 {
				why = fmt.Sprintf("%s %d does not start: it ended %d times", p.Service, in.Index, exits)
			}
			if in.Reason != "" {
				why += ": " + in.Reason
			}
			return p, why
		}
	}
	return nil, ""
}

// ready waits for somebody when the new fleet is ready, if that is asked for.
func (d *decision) ready() {
	r := d.r
	f := r.fleets()
	switch {
	case r.Gate != nil || r.Paused:
	case !r.confirmed(gateReady):
		d.gate(Gate{Kind: gateReady, Wait: f.ReadyWait, OnTimeout: Stop, Reason: "The new fleet is ready and takes traffic when somebody approves"})
	default:
		d.move(Shifting, "Takes traffic")
	}
}

// shift moves traffic to the new revisions.
func (d *decision) shift() {
	r := d.r
	switch r.Plan.Strategy.Kind {
	case Canary:
		if !r.exact() { // there the ticks do it
			d.undecided()
			d.looks(LookAnalysis)
		}
	case Rolling:
		d.roll()
	default:
		d.shiftByTime()
	}
}

// roll takes the next batch: it starts beside what serves, takes its part of the traffic, then as many of the old stop.
func (d *decision) roll() {
	r := d.r
	if d.looked() {
		return
	}
	steps := r.batches()
	if !r.Paused && d.bringUp(r.Step+1) && r.Ill.IsZero() {
		next := r.Step + 1
		d.traffic(100*next/steps, false, next, fmt.Sprintf("Batch %d of %d takes traffic", next, steps))
		d.scaleBefore(steps-next, steps, false)
		if next >= steps {
			d.promoted()
		}
		return
	}
	d.watchLooks()
}

// batches is how many batches a rolling release has.
func (r *Release) batches() int {
	n := 1
	for _, s := range r.Plan.Services {
		n = max(n, (s.instances()+r.batch()-1)/r.batch())
	}
	return n
}

func (r *Release) batch() int {
	if s := r.Plan.Strategy.Rolling; s != nil && s.Batch > 0 {
		return s.Batch
	}
	return 1
}

// shiftByTime moves traffic as CodeDeploy does: at once, in two steps, or by equal steps.
func (d *decision) shiftByTime() {
	r := d.r
	if d.looked() {
		return
	}
	if due := r.stepDue(); !due.IsZero() && !due.After(d.now) {
		weight := r.fleets().Traffic.weight(r.Weight)
		if weight >= 100 {
			d.promoted()
			return
		}
		d.traffic(weight, false, r.Step+1, fmt.Sprintf("Weight %d", weight))
		return
	}
	d.watchLooks()
}

// stepDue is when time alone takes the next step of the traffic.
func (r *Release) stepDue() time.Time {
	if r.Paused || r.Gate != nil || !r.Ill.IsZero() {
		return time.Time{}
	}
	if r.Phase != Shifting || r.Plan.Strategy.Kind != BlueGreen {
		return time.Time{}
	}
	if r.Weight == 0 {
		return r.Since
	}
	return r.Stepped.Add(r.fleets().Traffic.Interval)
}

// weight is the one after a weight.
func (t Traffic) weight(now int) int {
	percent := int(math.Round(min(max(t.Percent, 1), 100)))
	switch {
	case t.Type == "canary" && now < percent:
		return percent
	case t.Type == "linear":
		return min(now+percent, 100)
	}
	return 100
}
