package cd

import (
	"slices"
	"time"
)

// EventType says what happened. The words are stored for ever.
type EventType string

// The types of events.
const (
	EventBegan    EventType = "began"    // Release, Plan
	EventMoved    EventType = "moved"    // Phase, Outcome, By
	EventObserved EventType = "observed" // Service, Instance
	EventWanted   EventType = "wanted"   // Service, Instances; Release if it is another one that asks
	EventUp       EventType = "up"       // Service
	EventIll      EventType = "ill"      // too few instances are healthy
	EventWell     EventType = "well"     // enough are again
	EventHooked   EventType = "hooked"   // Service
	EventScaling  EventType = "scaling"  // Service, Instances, Settled: the release before is to run so many
	EventScaled   EventType = "scaled"   // Service, Release: it was told
	EventUnscaled EventType = "unscaled" // Service, Release, Until: it could not be told, and is told again then
	EventTraffic  EventType = "traffic"  // Weight, Mirrored, Step, Iterations
	EventGate     EventType = "gate"     // Gate: it waits
	EventOpened   EventType = "opened"   // By, Gate (its kind): it waits no more
	EventPaused   EventType = "paused"   // By
	EventResumed  EventType = "resumed"  // By
	EventDue      EventType = "due"      // Until: when it looks next
	EventLook     EventType = "look"     // Look: it looks
	EventAnswered EventType = "answered" // Done
	EventChecked  EventType = "checked"  // Checked, Until
	EventNote     EventType = "note"     // Text says it, in the words of Flagger's events where it behaves like it
	EventNotified EventType = "notified" // Notice: a webhook of type event was told
	EventPrepared EventType = "prepared" // pre-rollout webhooks have passed
	EventRemoved  EventType = "removed"  // By: nothing is to serve in its environment
)

// Event is one change of a release, as it is stored in the log that audit and live views read. Text is its line of the
// timeline. Which other fields it has is said where its type is declared.
type Event struct {
	Type    EventType `json:"type"`
	At      time.Time `json:"at"`
	Text    string    `json:"text"` // a sentence for people: what happened and why
	Warning bool      `json:"warning,omitempty"`
	By      string    `json:"by,omitempty"`

	Release    ReleaseID `json:"release,omitempty"`
	Plan       *Plan     `json:"plan,omitempty"`
	Phase      Phase     `json:"phase,omitempty"`
	Outcome    Phase     `json:"outcome,omitempty"`
	Service    string    `json:"service,omitempty"`
	Instance   *Instance `json:"instance,omitempty"`
	Instances  int       `json:"instances,omitempty"`
	Settled    bool      `json:"settled,omitempty"`
	Until      time.Time `json:"until,omitzero"`
	Weight     int       `json:"weight,omitempty"`
	Mirrored   bool      `json:"mirrored,omitempty"`
	Step       int       `json:"step,omitempty"`
	Iterations int       `json:"iterations,omitempty"`
	Gate       *Gate     `json:"gate,omitempty"`
	Look       *Look     `json:"look,omitempty"`
	Done       *Done     `json:"done,omitempty"`
	Checked    *Checked  `json:"checked,omitempty"`
	Notice     *Notice   `json:"notice,omitempty"`
}

// Checked is what a look has come to: the counters as they are now and the checks with what they were judged by.
type Checked struct {
	Iterations   int        `json:"iterations,omitempty"`
	FailedChecks int        `json:"failed_checks,omitempty"`
	Errors       int        `json:"errors,omitempty"`
	NoData       int        `json:"no_data,omitempty"`
	Checks       []Check    `json:"checks,omitempty"`
	Evidence     []Evidence `json:"evidence,omitempty"`
	Sampled      time.Time  `json:"sampled,omitzero"`
	Undecided    time.Time  `json:"undecided,omitzero"`
	Flagger      *Flagger   `json:"flagger,omitempty"`
}

// Apply changes the release by an event that Decide or New gave, in their order. Nothing else changes a release. Applying
// all events of a release to an empty one gives the same release again.
func (r *Release) Apply(e Event) {
	r.Version++
	switch e.Type {
	case EventBegan:
		r.begin(e)
	case EventMoved:
		r.move(e)
	case EventIll:
		r.Ill = e.At
	case EventWell:
		r.Ill = time.Time{}
	case EventTraffic:
		r.Weight, r.Mirrored, r.Step, r.Stepped, r.Confirmed = e.Weight, e.Mirrored, e.Step, e.At, nil
		r.Iterations, r.Evidence = e.Iterations, stepped(r.Evidence)
		r.tells(e)
		if r.Flagger != nil && e.By != "" { // as if somebody had edited the routes, which Flagger goes on from
			f := *r.Flagger
			f.Route, f.Mirrored = e.Weight, false
			r.Flagger = &f
		}
	case EventGate:
		r.Gate, r.Reason = e.Gate, e.Gate.Reason
	case EventOpened:
		r.open(e)
	case EventPaused:
		r.Paused, r.By = true, e.By
	case EventResumed:
		r.Paused, r.By, r.Progress, r.Stepped = false, e.By, e.At, e.At
		if r.Gate != nil && r.Gate.Kind == gatePaused {
			r.Gate, r.Reason = nil, ""
		}
	case EventDue:
		r.Due = e.Until
	case EventLook:
		r.Look, r.Looks, r.Due = e.Look, e.Look.N, time.Time{}
	case EventAnswered:
		look := *r.Look
		look.Answers = append(slices.Clip(look.Answers), *e.Done)
		r.Look = &look
	case EventChecked:
		r.check(e)
	case EventPrepared:
		r.Prepared = true
	case EventRemoved:
		r.Removed, r.Parts = true, slices.Clone(r.Parts)
		for i := range r.Parts { // what was before is nobody's to bring back
			r.Parts[i].Before = Scale{Told: true, Seq: r.Parts[i].Before.Seq}
		}
	case EventNotified:
		r.Notices = slices.DeleteFunc(slices.Clone(r.Notices), func(n Notice) bool { return n.N == e.Notice.N && n.Hook == e.Notice.Hook })
	default:
		r.applyToPart(e)
	}
	r.notify(e)
}

func (r *Release) begin(e Event) {
	r.ID, r.Plan, r.Phase, r.Since, r.Began, r.Progress = e.Release, e.Plan, Gated, e.At, e.At, e.At
	r.Parts = make([]Part, len(e.Plan.Services))
	for i, s := range e.Plan.Services {
		r.Parts[i] = Part{Service: s.Name, Before: Scale{Instances: s.BeforeInstances, Running: s.BeforeInstances, Told: true}}
	}
	if r.exact() {
		r.Flagger = &Flagger{Phase: flaggerInitialized}
	}
}

func (r *Release) move(e Event) {
	r.Phase, r.Since, r.Progress = e.Phase, e.At, e.At
	if r.Outcome != e.Phase {
		r.Reason = e.Text
	}
	if e.By != "" {
		r.By = e.By
	}
	switch e.Phase {
	case Watching, Live:
		if r.Promoted.IsZero() {
			r.Promoted, r.Ended, r.Restarts = e.At, e.At, r.restarts()
			r.Sampled, r.Evidence = e.At, nil
		}
		r.Gate, r.Paused, r.Due, r.Look = nil, false, time.Time{}, nil
		r.flagger(flaggerSucceeded)
	case Reverting:
		r.flagger(flaggerFailed)
		r.Outcome, r.Ended = e.Outcome, e.At
		r.Gate, r.Paused, r.Due, r.Look, r.Ill = nil, false, time.Time{}, nil, time.Time{}
	}
	if e.Phase.Over() {
		r.Gate, r.Paused, r.Due, r.Look, r.Ill = nil, false, time.Time{}, nil, time.Time{}
	}
}

// flagger sets the phase that a Canary has when its release is decided.
func (r *Release) flagger(phase string) {
	if r.Flagger != nil && r.Flagger.Phase != phase {
		r.Flagger = &Flagger{Phase: phase}
	}
}

func (r *Release) open(e Event) {
	kind := r.Gate.Kind
	r.Gate, r.Reason, r.Progress = nil, "", e.At
	if e.By != "" {
		r.By = e.By
		r.Confirmed = append(slices.Clip(r.Confirmed), kind)
	}
	if kind == gateInconclusive {
		r.Undecided = time.Time{}
	}
}

func (r *Release) check(e Event) {
	c := e.Checked
	r.Iterations, r.FailedChecks, r.Errors, r.NoData = c.Iterations, c.FailedChecks, c.Errors, c.NoData
	r.Checks, r.Evidence, r.Sampled, r.Undecided, r.Flagger = c.Checks, c.Evidence, c.Sampled, c.Undecided, c.Flagger
	r.Look, r.Due = nil, e.Until
	r.tells(e)
}

// tells makes an event the reason why the release is where it is, while traffic moves and nobody is waited for.
func (r *Release) tells(e Event) {
	if r.Gate == nil && (r.Phase == Shifting || r.Phase == Promoting) {
		r.Reason = e.Text
	}
}

// applyToPart changes one part of the release, never in place.
func (r *Release) applyToPart(e Event) {
	at := slices.IndexFunc(r.Parts, func(p Part) bool { return p.Service == e.Service })
	if at < 0 {
		return
	}
	r.Parts = slices.Clone(r.Parts)
	p := &r.Parts[at]
	switch e.Type {
	case EventObserved:
		p.Instances = observed(p.Instances, *e.Instance)
	case EventWanted:
		p.Want, p.Up, r.Progress = e.Instances, min(p.Up, e.Instances), e.At
		p.ScaledBy = max(p.ScaledBy, e.Release)
	case EventUp:
		p.Up, r.Progress = p.Want, e.At
	case EventHooked:
		p.Hooked, r.Progress = true, e.At
	case EventScaling:
		failures := p.Before.Failures
		if e.Instances != p.Before.Instances {
			failures = 0
		}
		p.Before = Scale{Instances: e.Instances, Running: min(p.Before.Running, e.Instances), Settled: e.Settled, Seq: p.Before.Seq + 1, Failures: failures}
	case EventScaled:
		p.Before.Told, p.Before.Running, p.Before.Failures = true, p.Before.Instances, 0
	case EventUnscaled:
		p.Before.Failures, p.Before.Retry = p.Before.Failures+1, e.Until
	}
}

// observed puts an instance among those that are known, by its index; one that is Stopped is forgotten.
func observed(have []Instance, in Instance) []Instance {
	at, found := slices.BinarySearchFunc(have, in.Index, func(i Instance, index int) int { return i.Index - index })
	switch {
	case in.State == Stopped && found:
		return slices.Delete(slices.Clone(have), at, at+1)
	case in.State == Stopped:
		return have
	case found:
		out := slices.Clone(have)
		out[at] = in
		return out
	}
	return slices.Insert(slices.Clone(have), at, in)
}

// maxNotices bounds what waits to be told to webhooks of type event: they get no more than the latest.
const maxNotices = 100

// notify notes what webhooks of type event are to hear of: of one that behaves like Flagger, Flagger's events.
func (r *Release) notify(e Event) {
	if r.Plan.Strategy.Analysis == nil || !e.told() || r.Flagger != nil && e.Type != EventNote {
		return
	}
	for i, w := range r.Plan.Strategy.Analysis.Webhooks {
		if w.Type != hookEvent {
			continue
		}
		n := Notice{N: r.Version, Hook: i, At: e.At, Text: e.Text, Warning: e.Warning, Phase: r.flaggerPhase()}
		r.Notices = append(slices.Clip(r.Notices), n)
		if over := len(r.Notices) - maxNotices; over > 0 {
			r.Notices = r.Notices[over:]
		}
	}
}

// told reports whether the event is one that people and webhooks hear of.
func (e Event) told() bool {
	switch e.Type {
	case EventNote, EventMoved, EventGate, EventOpened, EventPaused, EventResumed:
		return true
	}
	return false
}
