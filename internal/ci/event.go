package ci

import (
	"maps"
	"slices"
	"time"
)

// EventType says what happened. The words are stored forever.
type EventType string

const (
	EventRunCreated   EventType = "run_created"   // Run, Attempt, Name, Claim, Annotations
	EventRunGranted   EventType = "run_granted"   // the run holds its concurrency group
	EventRunStatus    EventType = "run_status"    // Status, Reason
	EventRunStopping  EventType = "run_stopping"  // Stop, By, Reason
	EventRunCompleted EventType = "run_completed" // Conclusion, Reason
	EventRunRerun     EventType = "run_rerun"     // Attempt, By, Claim, Reset, Dropped, Reopened, Resume, Annotations
	EventJobsAdded    EventType = "jobs_added"    // After (the matrix or call they belong to), Jobs, KeepGoing, MaxParallel
	EventJobReady     EventType = "job_ready"     // Jobs: the one job as it is now that its needs are done
	EventJobMoved     EventType = "job_moved"     // Status, Waits, Reason, Until, Claims, Gate
	EventJobGranted   EventType = "job_granted"   // Key: the concurrency group that it holds now
	EventJobReviewed  EventType = "job_reviewed"  // By, Comment: approved; a rejection completes the job
	EventJobLeased    EventType = "job_leased"    // Lease, Runner, Until
	EventJobRenewed   EventType = "job_renewed"   // Until
	EventJobStarted   EventType = "job_started"   // Until
	EventJobReported  EventType = "job_reported"  // Steps, Annotations
	EventJobRequeued  EventType = "job_requeued"  // Reason: its lease was lost before it started
	EventJobStopping  EventType = "job_stopping"  // Stop, Reason, Until
	EventJobOutputs   EventType = "job_outputs"   // Outputs: what a matrix has so far
	EventJobCompleted EventType = "job_completed" // Conclusion, Tolerated, Reason, Outputs, EnvironmentURL, Steps, Annotations, RunAnnotations
)

// Event is one change of a run, as it is stored in the log that audit and live views read. Which fields it has is said
// where its type is declared. An event with a Job changes that job and fields of the run itself; one without may change
// everything.
type Event struct {
	Type EventType `json:"type"`
	At   time.Time `json:"at"`
	Job  JobID     `json:"job,omitempty"`

	Run            RunID             `json:"run,omitempty"`
	Attempt        int               `json:"attempt,omitempty"`
	Name           string            `json:"name,omitempty"`
	Status         Status            `json:"status,omitempty"`
	Conclusion     Conclusion        `json:"conclusion,omitempty"`
	Tolerated      bool              `json:"tolerated,omitempty"`
	Reason         string            `json:"reason,omitempty"`
	By             string            `json:"by,omitempty"`
	Comment        string            `json:"comment,omitempty"`
	Waits          Wait              `json:"waits,omitempty"`
	Stop           Signal            `json:"stop,omitempty"`
	Until          time.Time         `json:"until,omitzero"`
	Lease          LeaseID           `json:"lease,omitempty"`
	Runner         string            `json:"runner,omitempty"`
	Key            string            `json:"key,omitempty"`
	Claim          *Claim            `json:"claim,omitempty"`
	Claims         []Claim           `json:"claims,omitempty"`
	Gate           *Gate             `json:"gate,omitempty"`
	Outputs        map[string]string `json:"outputs,omitempty"`
	EnvironmentURL string            `json:"environment_url,omitempty"`
	Steps          []Step            `json:"steps,omitempty"`
	Annotations    []Annotation      `json:"annotations,omitempty"`
	RunAnnotations []Annotation      `json:"run_annotations,omitempty"`
	After          JobID             `json:"after,omitempty"`
	Jobs           []*Job            `json:"jobs,omitempty"`
	KeepGoing      bool              `json:"keep_going,omitempty"`
	MaxParallel    int               `json:"max_parallel,omitempty"`
	Reset          []JobID           `json:"reset,omitempty"`    // run again from the start
	Dropped        []JobID           `json:"dropped,omitempty"`  // made anew when their matrix or call runs again
	Reopened       []JobID           `json:"reopened,omitempty"` // matrices and calls of which a part runs again
	Resume         map[JobID]Resume  `json:"resume,omitempty"`
}

// Settles reports whether the event's job has completed by it.
func (e Event) Settles() bool { return e.Type == EventJobCompleted }

// Apply changes the run by an event that Decide or New gave, in their order. Nothing else changes a run. Applying all
// events of a run to an empty one that has its Plan gives the same run again.
func (r *Run) Apply(e Event) {
	r.Version++
	if !r.index.built() {
		r.index.build(r.Jobs)
	}
	if e.Job == "" {
		r.applyToRun(e)
		return
	}
	at := r.index.find(r.Jobs, e.Job)
	if at < 0 {
		return
	}
	j := *r.Jobs[at]
	before := j.Status
	r.applyToJob(&j, e)
	if j.Status != before {
		j.Since = e.At
	}
	r.Jobs[at] = &j
}

func (r *Run) applyToRun(e Event) {
	switch e.Type {
	case EventRunCreated:
		r.ID, r.Attempt, r.Name, r.Created = e.Run, e.Attempt, e.Name, e.At
		r.Claim, r.Annotations = e.Claim, e.Annotations
		r.Status = Queued
	case EventRunGranted:
		claim := *r.Claim
		claim.Held = true
		r.Claim = &claim
	case EventRunStatus:
		r.Status, r.Reason = e.Status, e.Reason
	case EventRunStopping:
		r.Stop, r.CancelledBy, r.Reason = e.Stop, e.By, e.Reason
	case EventRunCompleted:
		r.Status, r.Conclusion, r.Reason, r.Completed = Completed, e.Conclusion, e.Reason, e.At
	case EventJobsAdded:
		r.add(e)
	case EventRunRerun:
		r.applyRerun(e)
	}
}

// add puts jobs behind the matrix or call that they belong to, or at the end.
func (r *Run) add(e Event) {
	at := len(r.Jobs)
	if e.After != "" {
		at = r.place(e.After) + 1
		owner := *r.Jobs[at-1]
		owner.Status, owner.Waits, owner.Reason = InProgress, "", ""
		owner.Since, owner.Started = e.At, e.At
		owner.Expanded = !owner.Call || len(e.Jobs) > 0 && e.Jobs[0].Parent == owner.Parent
		owner.KeepGoing, owner.MaxParallel = e.KeepGoing, e.MaxParallel
		r.Jobs[at-1] = &owner
	}
	r.Jobs = slices.Insert(r.Jobs, at, e.Jobs...)
	r.index.insert(r.Jobs, at, e.Jobs)
}

func (r *Run) applyToJob(j *Job, e Event) {
	switch e.Type {
	case EventJobReady:
		*j = *e.Jobs[0]
	case EventJobMoved:
		j.Status, j.Waits, j.Reason, j.Deadline, j.Claims, j.Gate = e.Status, e.Waits, e.Reason, e.Until, e.Claims, e.Gate
	case EventJobGranted:
		j.Claims = slices.Clone(j.Claims)
		for i := range j.Claims {
			if j.Claims[i].Key == e.Key {
				j.Claims[i].Held = true
			}
		}
	case EventJobReviewed:
		gate := *j.Gate
		gate.Approved, gate.Comment = e.By, e.Comment
		j.Gate = &gate
	case EventJobLeased:
		j.Status, j.Lease, j.Runner, j.Deadline, j.Reason = InProgress, e.Lease, e.Runner, e.Until, ""
		if r.Started.IsZero() {
			r.Started = e.At
		}
	case EventJobRenewed:
		j.Deadline = e.Until
	case EventJobStarted:
		j.Started, j.Deadline = e.At, e.Until
	case EventJobReported:
		j.Steps = mergeSteps(j.Steps, e.Steps)
		j.Annotations = limited(j.Annotations, e.Annotations, maxJobAnnotations)
	case EventJobRequeued:
		j.Status, j.Reason, j.Lease, j.Runner, j.Deadline = Queued, e.Reason, "", "", time.Time{}
		j.Losses++
	case EventJobStopping:
		j.Stop, j.Reason, j.Deadline = e.Stop, e.Reason, e.Until
	case EventJobOutputs:
		j.Outputs = e.Outputs
	case EventJobCompleted:
		r.applyCompleted(j, e)
	}
}

func (r *Run) applyCompleted(j *Job, e Event) {
	j.Status, j.Conclusion, j.Tolerated, j.Reason, j.Completed = Completed, e.Conclusion, e.Tolerated, e.Reason, e.At
	j.Lease, j.Waits, j.Deadline = "", "", time.Time{}
	if e.Outputs != nil {
		j.Outputs = e.Outputs
		r.OutputBytes += outputSize(e.Outputs)
	}
	if e.EnvironmentURL != "" {
		j.EnvironmentURL = e.EnvironmentURL
	}
	if e.Steps != nil {
		j.Steps = e.Steps
	}
	j.Annotations = limited(j.Annotations, e.Annotations, maxJobAnnotations)
	r.Annotations = limited(r.Annotations, e.RunAnnotations, maxRunAnnotations)
}

// mergeSteps gives the steps with those that changed in their places, by number.
func mergeSteps(have, changed []Step) []Step {
	if len(changed) == 0 {
		return have
	}
	out := slices.Clone(have)
	for _, s := range changed {
		at, found := slices.BinarySearchFunc(out, s.Number, func(t Step, n int) int { return t.Number - n })
		switch {
		case found:
			out[at] = s
		case len(out) < maxSteps:
			out = slices.Insert(out, at, s)
		}
	}
	return out
}

// limited appends without writing to have, as far as the limit allows.
func limited(have, more []Annotation, limit int) []Annotation {
	more = more[:max(min(len(more), limit-len(have)), 0)]
	if len(more) == 0 {
		return have
	}
	return append(slices.Clip(have), more...)
}

func outputSize(outputs map[string]string) int {
	n := 0
	for k, v := range outputs {
		n += len(k) + len(v)
	}
	return n
}

// mergeOutputs gives outputs in which values that are not empty replace those before them.
func mergeOutputs(have, more map[string]string) map[string]string {
	if len(more) == 0 {
		return have
	}
	out := maps.Clone(have)
	if out == nil {
		out = make(map[string]string, len(more))
	}
	for k, v := range more {
		if _, known := out[k]; v != "" || !known {
			out[k] = v
		}
	}
	return out
}
