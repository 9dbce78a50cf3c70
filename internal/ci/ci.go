// Package ci decides what a workflow run does next: needs, if, matrices, fail-fast, concurrency, environments,
// reusable workflows, cancel and re-run.
//
// It is pure: no clock, no disk, no network. A Run is a value, the snapshot that is stored. Decide turns an input
// (a fact from outside) into events, Apply is the only thing that changes a Run, Ready says what a runner may
// start. After a crash the same work is found again, since it is always derived from the stored Run. It never holds a
// secret: of secrets it knows the names and how calls pass them on (Task.Pass).
package ci

import (
	"errors"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// RunID names a run: github.run_id.
type RunID int64

// JobID names a job within a run: the job's ID, behind the calls that led to it, with the index of its matrix cell:
// "build", "test/3", "deploy:build/0".
type JobID string

// Status is where a run, job or step is. The words are those of GitHub's API.
type Status string

const (
	Pending    Status = "pending"     // needs are not done, or a concurrency group is taken
	Waiting    Status = "waiting"     // for a gate: reviewers, wait timer
	Queued     Status = "queued"      // a runner may take it
	InProgress Status = "in_progress" // leased or running
	Completed  Status = "completed"
)

// Conclusion is how a completed run, job or step ended; empty until then.
type Conclusion string

const (
	Success   Conclusion = "success"
	Failure   Conclusion = "failure"
	Cancelled Conclusion = "cancelled"
	Skipped   Conclusion = "skipped"
)

// Wait is what a pending or waiting job waits for, and so how far it has come: its needs first, then a place among
// its matrix, then its concurrency groups, then the gate of its environment.
type Wait string

const (
	WaitNeeds  Wait = "needs"        // other jobs, or the run's own concurrency group
	WaitSlot   Wait = "max-parallel" // a place among the cells that may run at a time
	WaitGroup  Wait = "concurrency"  // a concurrency group
	WaitReview Wait = "environment"  // reviewers or the wait timer of an environment
)

var (
	// ErrStale is returned by Decide when the run has moved past the input: an old lease, a finished job.
	ErrStale = errors.New("the run has moved past this input")
	// ErrUnknownJob is returned by Decide for an input that names no job of the run.
	ErrUnknownJob = errors.New("no such job in this run")
	// ErrRefused is returned by Decide, wrapped with why, for what a user asks and may not have: a review by somebody who
	// is no reviewer, a re-run with nothing to run again.
	ErrRefused = errors.New("not allowed")
)

// Plan is all that a run needs to know, fixed when it is triggered; nothing is left to fetch. It holds no secrets.
type Plan struct {
	// Workflow is the Path of the root file in Files.
	Workflow string `json:"workflow"`
	// Files are the root workflow and every reusable workflow it calls, however deep.
	Files []File `json:"files"`
	// Event is the event's name: push, workflow_dispatch, ...
	Event string `json:"event"`
	// Repository is owner/name.
	Repository string `json:"repository"`
	// GitHub is the github context without token and job-specific fields: event, ref, sha, actor, run_id, ...
	GitHub expr.Value `json:"github"`
	// Inputs is the inputs context of the root workflow, typed.
	Inputs expr.Value `json:"inputs"`
	// Vars is the vars context of repository and organisation.
	Vars expr.Value `json:"vars"`
	// Environments are the gates of the environments that exist, by lower-case name.
	Environments map[string]Environment `json:"environments,omitempty"`
	// Only restricts the run to these root jobs and what they need (penstock run -j); empty is all.
	Only []string `json:"only,omitempty"`
	// Cells restricts matrices to the cells that have these values (penstock run --matrix key:value).
	Cells map[string][]string `json:"cells,omitempty"`
	// Mistakes are why the files can not run: such a run fails as it begins, and has no jobs.
	Mistakes []Annotation `json:"mistakes,omitempty"`

	parsed *files // filled by NewPlan and UnmarshalJSON, never changed
}

// File is one workflow file of a plan.
type File struct {
	// Uses is how callers name it, empty for the root: ./.github/workflows/x.yml as resolved against the file that
	// calls (local calls of a remote workflow become owner/repo/path@sha).
	Uses string `json:"uses,omitempty"`
	Path string `json:"path"`
	Text string `json:"text"`
}

// Environment is the gate of a deployment environment as it was when the run was triggered.
type Environment struct {
	Name              string        `json:"name"`
	Reviewers         []string      `json:"reviewers,omitempty"` // logins; one is enough
	PreventSelfReview bool          `json:"prevent_self_review,omitempty"`
	Wait              time.Duration `json:"wait,omitempty"`
	Branches          []string      `json:"branches,omitempty"` // ref patterns that may deploy; empty is any
}

// Run is the state of one workflow run. Everything in it is stored; only Apply changes it.
type Run struct {
	ID          RunID        `json:"id"`
	Attempt     int          `json:"attempt"` // from 1
	Name        string       `json:"name"`    // run-name, evaluated
	Status      Status       `json:"status"`
	Conclusion  Conclusion   `json:"conclusion,omitempty"`
	Reason      string       `json:"reason,omitempty"` // why it waits, or why it ended so
	Created     time.Time    `json:"created"`
	Started     time.Time    `json:"started,omitzero"`
	Completed   time.Time    `json:"completed,omitzero"`
	CancelledBy string       `json:"cancelled_by,omitempty"` // who asked; empty: nobody
	RerunBy     string       `json:"rerun_by,omitempty"`     // who asked for this attempt; empty for the first
	Jobs        []*Job       `json:"jobs"`                   // in the order they appear
	Annotations []Annotation `json:"annotations,omitempty"`  // on the run itself: a bad matrix, a bad runs-on
	Stop        Signal       `json:"stop,omitempty"`         // somebody asked for its end
	Claim       *Claim       `json:"claim,omitempty"`        // the concurrency group of the workflow
	OutputBytes int          `json:"output_bytes,omitempty"` // size of all outputs of its jobs
	// Plan is stored beside the run, once, and set by the store when it loads.
	Plan *Plan `json:"-"`
	// Version counts the events applied; the store checks it when it saves.
	Version int64 `json:"version"`

	index index
}

// Job is the state of one job of a run: a job with steps, a matrix (whose cells carry its ID before a slash), or a call
// of a reusable workflow (whose children carry its ID before a colon). Only jobs with steps are leased. A Job is never
// changed in place: Apply puts a new one in its place.
type Job struct {
	ID             JobID             `json:"id"`
	Def            string            `json:"def"`                // ID in its workflow file
	File           string            `json:"file,omitempty"`     // Uses of its file; empty is the root
	Parent         JobID             `json:"parent,omitempty"`   // the call it belongs to
	Name           string            `json:"name"`               // as shown: "test (3.10, unit)", "deploy / build"
	Call           bool              `json:"call,omitempty"`     // a call of a reusable workflow
	Expanded       bool              `json:"expanded,omitempty"` // a matrix: its cells run, it ends with them as their sum
	Cell           int               `json:"cell"`               // index of the matrix cell
	Cells          int               `json:"cells"`              // strategy.job-total
	Matrix         expr.Value        `json:"matrix,omitzero"`
	Needs          []JobID           `json:"needs,omitempty"`  // as the file has them: a matrix, not its cells
	Labels         []string          `json:"labels,omitempty"` // runs-on
	Group          string            `json:"group,omitempty"`  // runs-on.group
	Status         Status            `json:"status"`
	Conclusion     Conclusion        `json:"conclusion,omitempty"`
	Tolerated      bool              `json:"tolerated,omitempty"` // failed, and continue-on-error lets the run pass
	Reason         string            `json:"reason,omitempty"`    // why it is not running, or why it ended so; a sentence for people
	Since          time.Time         `json:"since,omitzero"`      // when Status became what it is
	Deadline       time.Time         `json:"deadline,omitzero"`   // when a wait or the lease ends by itself
	Environment    string            `json:"environment,omitempty"`
	EnvironmentURL string            `json:"environment_url,omitempty"`
	Outputs        map[string]string `json:"outputs,omitempty"`
	Started        time.Time         `json:"started,omitzero"`
	Completed      time.Time         `json:"completed,omitzero"`
	Lease          LeaseID           `json:"lease,omitempty"`
	Runner         string            `json:"runner,omitempty"`
	Steps          []Step            `json:"steps,omitempty"`
	Annotations    []Annotation      `json:"annotations,omitempty"`
	Attempt        int               `json:"attempt"` // the run attempt that ran it: an earlier one if a re-run took it over
	Waits          Wait              `json:"waits,omitempty"`
	Stop           Signal            `json:"stop,omitempty"`   // its runner is to end it
	Losses         int               `json:"losses,omitempty"` // how often its lease was lost before it started

	ContinueOnError bool          `json:"continue_on_error,omitempty"`
	Timeout         time.Duration `json:"timeout,omitempty"`        // zero: DefaultTimeout
	CancelTimeout   time.Duration `json:"cancel_timeout,omitempty"` // zero: DefaultCancelTimeout
	KeepGoing       bool          `json:"keep_going,omitempty"`     // of a matrix: fail-fast is false
	MaxParallel     int           `json:"max_parallel,omitempty"`   // of a matrix: zero is no limit
	Inputs          expr.Value    `json:"inputs,omitzero"`          // of a call: the inputs context of what it calls
	Claims          []Claim       `json:"claims,omitempty"`         // concurrency groups, in the order it takes them
	Gate            *Gate         `json:"gate,omitempty"`
	Resume          *Resume       `json:"resume,omitempty"` // where a re-run goes on
}

const (
	// DefaultTimeout bounds a job that sets no timeout-minutes.
	DefaultTimeout = 360 * time.Minute
	// DefaultCancelTimeout bounds what a cancelled job may still do.
	DefaultCancelTimeout = 5 * time.Minute
)

// Claim is a run's or job's wish for a concurrency group, or its hold on it. Claims can be compared with ==.
type Claim struct {
	Key              string    `json:"key"`             // lower case: groups ignore case
	Owner            JobID     `json:"owner,omitempty"` // empty is the run itself
	Held             bool      `json:"held,omitempty"`
	CancelInProgress bool      `json:"cancel_in_progress,omitempty"`
	Queue            string    `json:"queue,omitempty"` // "max": waits behind others that wait rather than replace them
	Since            time.Time `json:"since,omitzero"`  // when it was wanted; zero: not yet
}

// Gate is a job's way through the protection of its environment.
type Gate struct {
	Opened   time.Time `json:"opened"`             // when the job came to it
	Until    time.Time `json:"until,omitzero"`     // when the wait timer is over
	Expires  time.Time `json:"expires,omitzero"`   // when it fails for want of a review; zero: needs none
	Approved string    `json:"approved,omitempty"` // who approved
	Comment  string    `json:"comment,omitempty"`
}

// LeaseID is a runner's hold on a job: random, never reused.
type LeaseID string

// Step is the state of one step as its runner reports it.
type Step struct {
	Number     int        `json:"number"`       // from 1: "Set up job" is 1
	ID         string     `json:"id,omitempty"` // context name
	Name       string     `json:"name"`
	Phase      string     `json:"phase,omitempty"` // pre, main, post
	Status     Status     `json:"status"`
	Outcome    Conclusion `json:"outcome,omitempty"`    // before continue-on-error
	Conclusion Conclusion `json:"conclusion,omitempty"` // after it
	Started    time.Time  `json:"started,omitzero"`
	Completed  time.Time  `json:"completed,omitzero"`
	LogStart   int64      `json:"log_start"` // offsets in the job's log, bytes
	LogEnd     int64      `json:"log_end,omitempty"`
	// Snapshot is the disk as it was before the step (a layer.ID), where the sandbox has layers.
	Snapshot string `json:"snapshot,omitempty"`
	Summary  string `json:"summary,omitempty"` // GITHUB_STEP_SUMMARY, Markdown
}

// Annotation is an error, warning or notice of a step, a file in the repository being optional.
type Annotation struct {
	Level     string `json:"level"` // error, warning, notice
	Message   string `json:"message"`
	Title     string `json:"title,omitempty"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	EndLine   int    `json:"end_line,omitempty"`
	Column    int    `json:"col,omitempty"`
	EndColumn int    `json:"end_column,omitempty"`
	Step      int    `json:"step,omitempty"` // Step.Number
}

// Task is a job handed to a runner: a complete copy that shares nothing with the Run.
type Task struct {
	Run        RunID    `json:"run"`
	Attempt    int      `json:"attempt"`
	Job        JobID    `json:"job"`
	Lease      LeaseID  `json:"lease"`
	Name       string   `json:"name"`
	Repository string   `json:"repository"`
	Labels     []string `json:"labels"`
	Group      string   `json:"group,omitempty"`
	// File is the workflow file and Def the ID of the job in it: the runner parses it to get the steps.
	File File   `json:"file"`
	Def  string `json:"def"`
	// Contexts, complete but for what only the runner knows (runner, job, steps, env).
	GitHub   expr.Value `json:"github"`
	Inputs   expr.Value `json:"inputs"`
	Vars     expr.Value `json:"vars"` // with the environment's
	Needs    expr.Value `json:"needs"`
	Strategy expr.Value `json:"strategy"`
	Matrix   expr.Value `json:"matrix"`
	// Secrets are resolved by the engine at the lease, never stored with the run. Token is github.token.
	Secrets map[string]string `json:"secrets,omitempty"`
	Token   string            `json:"token,omitempty"`
	// Environment is the evaluated name, empty for none.
	Environment string `json:"environment,omitempty"`
	// Timeout bounds the job; it is cancelled when it runs out. CancelTimeout bounds what always() steps may take after.
	Timeout       time.Duration `json:"timeout"`
	CancelTimeout time.Duration `json:"cancel_timeout"`
	// Permissions of the token by scope; scopes not in it have none. Nil: the workflow does not say, the default holds.
	Permissions map[string]string `json:"permissions,omitempty"`
	// Resume starts the job at a step with the disk and state it had then; nil starts fresh.
	Resume *Resume `json:"resume,omitempty"`

	workflow *workflow.Workflow // File, parsed; nil once the task has travelled
	passes   []pass             // the calls that lead to the job, outermost first
}

// Resume says where a job goes on.
type Resume struct {
	Step     int    `json:"step"`     // Step.Number to start at
	Snapshot string `json:"snapshot"` // layer.ID of the disk before that step
	State    string `json:"state"`    // what the job room saved with it: env, outputs, results of earlier steps (JSON, no secrets)
	Steps    []Step `json:"steps"`    // the steps before it, as they were
	Runner   string `json:"runner"`   // the only runner that has the disk
}

// Report is what a runner tells while a job runs: the steps that changed since the last report.
type Report struct {
	Steps       []Step       `json:"steps,omitempty"`
	Annotations []Annotation `json:"annotations,omitempty"`
}

// Result is what a runner tells when a job has ended.
type Result struct {
	Conclusion     Conclusion        `json:"conclusion"`
	Reason         string            `json:"reason,omitempty"` // for people, when it is not plain: "no space left on device"
	Outputs        map[string]string `json:"outputs,omitempty"`
	EnvironmentURL string            `json:"environment_url,omitempty"`
	Steps          []Step            `json:"steps,omitempty"`       // all of them, final
	Annotations    []Annotation      `json:"annotations,omitempty"` // those not yet reported
}
