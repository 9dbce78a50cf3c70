package cd

import "time"

// Phase is where a release is. The words are stored and shown.
type Phase string

// The phases of a release, in the order in which it goes through them.
const (
	Gated      Phase = "gated"      // waits for reviewers before anything starts
	Preparing  Phase = "preparing"  // hooks run
	Launching  Phase = "starting"   // instances start, until all are healthy
	Ready      Phase = "ready"      // the new fleet is ready and waits to take traffic
	Shifting   Phase = "shifting"   // takes part of the traffic, or none yet: is analysed
	Promoting  Phase = "promoting"  // is being made what serves
	Watching   Phase = "watching"   // serves; the old one is warm, metrics are watched, one command takes it back
	Live       Phase = "live"       // serves, and the one before is gone
	Reverting  Phase = "reverting"  // the old one serves again, the new one is being taken away
	Retired    Phase = "retired"    // served, and another one does now
	Failed     Phase = "failed"     // taken back by itself; Reason says why
	Aborted    Phase = "aborted"    // taken back because somebody asked for it, or stopped at a gate
	Superseded Phase = "superseded" // another release began before it was done
)

// Over reports whether nothing of the release runs any more.
func (p Phase) Over() bool {
	switch p {
	case Retired, Failed, Aborted, Superseded:
		return true
	}
	return false
}

// Release is the state of one release. Everything in it is stored; only Apply changes it.
type Release struct {
	ID     ReleaseID `json:"id"`
	Plan   *Plan     `json:"plan"`
	Phase  Phase     `json:"phase"`
	Reason string    `json:"reason,omitempty"` // why it waits, or why it ended so: a sentence for people
	Since  time.Time `json:"since"`            // when Phase became what it is
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended,omitzero"` // when its outcome was known: promoted, or taken back

	Parts []Part `json:"parts"` // one for each service of the plan, in its order
	// Weight is how much of the traffic the new revisions take, percent; Mirrored says that they get a copy instead.
	Weight   int  `json:"weight"`
	Mirrored bool `json:"mirrored,omitempty"`
	// Gate is what it waits for, nil for nothing but its own work.
	Gate   *Gate  `json:"gate,omitempty"`
	Paused bool   `json:"paused,omitempty"` // by somebody: nothing moves on but what keeps users served
	By     string `json:"by,omitempty"`     // who promoted, aborted, paused it last

	// The analysis: counters as Flagger has them, those of the native mode apart.
	Iterations   int `json:"iterations,omitempty"`
	FailedChecks int `json:"failed_checks,omitempty"`
	Errors       int `json:"errors,omitempty"`  // checks that could not be made
	NoData       int `json:"no_data,omitempty"` // checks without data
	// Checks are the last results, one for each metric and webhook that was asked.
	Checks []Check `json:"checks,omitempty"`

	Removed  bool      `json:"removed,omitempty"`  // its environment was: nothing serves in its place
	Outcome  Phase     `json:"outcome,omitempty"`  // what one that is reverting becomes
	Promoted time.Time `json:"promoted,omitzero"`  // when it was made what serves
	Restarts int       `json:"restarts,omitempty"` // of its instances, when it was promoted
	// Progress is when it last came nearer to its goal: the deadlines of hooks and of starting count from there.
	Progress time.Time `json:"progress,omitzero"`
	Ill      time.Time `json:"ill,omitzero"`     // since when too few of its instances are healthy, though all were
	Step     int       `json:"step,omitempty"`   // steps of the traffic taken, batches of rolling
	Stepped  time.Time `json:"stepped,omitzero"` // when Weight became what it is
	// Due is when it looks next at its checks; zero while it looks (Look) or has none.
	Due       time.Time  `json:"due,omitzero"`
	Look      *Look      `json:"look,omitempty"`
	Looks     int        `json:"looks,omitempty"`     // how many were begun: they number tasks
	Sampled   time.Time  `json:"sampled,omitzero"`    // how far the traffic has been measured
	Undecided time.Time  `json:"undecided,omitzero"`  // since when checks say neither yes nor no
	Evidence  []Evidence `json:"evidence,omitempty"`  // what the traffic has shown so far, for each service
	Prepared  bool       `json:"prepared,omitempty"`  // pre-rollout webhooks have passed
	Confirmed []string   `json:"confirmed,omitempty"` // webhook gates that somebody opened, until the next step
	Flagger   *Flagger   `json:"flagger,omitempty"`   // of the exact mode
	// Notices are the events that webhooks of type event are still to hear of.
	Notices []Notice `json:"notices,omitempty"`

	Version int64 `json:"version"` // counts the events applied; the store checks it when it saves
}

// Part is one service of a release.
type Part struct {
	Service string `json:"service"`
	// Want is how many instances are to run; the machine brings that about and tells of it by Observed.
	Want      int        `json:"want"`
	Instances []Instance `json:"instances,omitempty"`
	Hooked    bool       `json:"hooked,omitempty"` // its hook has run
	Up        int        `json:"up,omitempty"`     // how many have been healthy at one time
	// ScaledBy is the latest release that asked this one for instances: an earlier one is not listened to any more.
	ScaledBy ReleaseID `json:"scaled_by,omitempty"`
	// Before is what the release that served before is told to run.
	Before Scale `json:"before"`
}

// Scale is what another release is told to run of a service.
type Scale struct {
	Instances int  `json:"instances"`
	Running   int  `json:"running"`           // how many of them run for sure: those that are still to start do not count
	Told      bool `json:"told"`              // it was told, and it is so if Settled
	Settled   bool `json:"settled,omitempty"` // see Task.Settled
	Seq       int  `json:"seq,omitempty"`     // numbers what was asked: an answer to an earlier one is stale
	Failures  int  `json:"failures,omitempty"`
	// Retry is when it is told again after a failure.
	Retry time.Time `json:"retry,omitzero"`
}

// LookKind says what a look is at.
type LookKind string

// The kinds of looks.
const (
	LookStart    LookKind = "start"    // whether it may start: confirm-rollout
	LookAnalysis LookKind = "analysis" // whether the next step may be taken
	LookTick     LookKind = "tick"     // one tick of Flagger's loop
	LookWatch    LookKind = "watch"    // whether what serves is well
	LookPost     LookKind = "post"     // post-rollout webhooks
)

// Look is one look at the checks: what it needs to know is asked (Next), and it is decided when all is answered.
type Look struct {
	N       int       `json:"n"`
	Kind    LookKind  `json:"kind"`
	At      time.Time `json:"at"`
	Answers []Done    `json:"answers,omitempty"`
}

// Notice is an event that webhooks of type event are told of.
type Notice struct {
	N       int64     `json:"n"`    // Version of the release at the event
	Hook    int       `json:"hook"` // index of the webhook
	At      time.Time `json:"at"`
	Text    string    `json:"text"`
	Warning bool      `json:"warning,omitempty"`
	Phase   string    `json:"phase"` // of a Canary
}

// Flagger is the part of a Canary's status and of its routes that Release does not have, in Flagger's words.
type Flagger struct {
	Phase    string `json:"phase"`  // Initialized, Waiting, Progressing, WaitingPromotion, Promoting, Finalising, Succeeded, Failed
	Weight   int    `json:"weight"` // status.canaryWeight
	Route    int    `json:"route"`  // the canary's weight in the routes; the rest is the primary's
	Mirrored bool   `json:"mirrored,omitempty"`
}

// Verdict is what a check says.
type Verdict string

// The verdicts.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive" // too few requests, no data, a source that does not answer
)

// Check is one check of an analysis, with all that it was judged by.
type Check struct {
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Query   string    `json:"query,omitempty"` // resolved, as it was asked
	Value   *float64  `json:"value,omitempty"` // nil without one
	Old     *float64  `json:"old,omitempty"`   // of the old revision, where they are compared
	Sample  int64     `json:"sample,omitempty"`
	Limit   string    `json:"limit,omitempty"` // "at least 99", "at most 500 ms", "no worse than before (e-value below 20)"
	Verdict Verdict   `json:"verdict"`
	Reason  string    `json:"reason,omitempty"`
}
