// Package workflow reads workflow and action files as GitHub reads them, into immutable values that keep their
// positions, and says which events start them.
//
// It is pure: text in, values and findings out. It runs nothing, reads no disk and evaluates an expression only
// when the caller brings the contexts (Node.Eval). A Workflow may be shared by any number of goroutines.
package workflow

import "github.com/penstock-ci/penstock/internal/expr"

// Pos is a place in a file, both counted from 1. The zero Pos is nowhere.
type Pos struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// Workflow is one workflow file.
type Workflow struct {
	Path   string // as the caller named it: .github/workflows/ci.yml
	Source []byte // the text it was read from; callers must not write

	Name        string // empty if the file has none: GitHub then shows Path
	RunName     *Node
	On          Triggers
	Permissions *Permissions // nil: not given
	Env         *Node        // mapping, or an expression that gives one
	Defaults    *Defaults
	Concurrency *Node  // string, or mapping of group, cancel-in-progress, queue
	Jobs        []*Job // in file order
	Warnings    []Finding
}

// Job finds a job by its ID, which GitHub compares without case; nil if there is none.
func (w *Workflow) Job(id string) *Job { return findJob(w.Jobs, id) }

// Job is one entry of `jobs:`. Uses is set for a call of a reusable workflow, Steps otherwise.
type Job struct {
	Pos
	ID              string
	Name            *Node
	Needs           []Name
	If              *Condition // never nil: success() where the file says nothing
	Strategy        *Strategy  // nil: one cell
	RunsOn          *Node      // string, sequence, or mapping of group and labels
	Permissions     *Permissions
	Environment     *Node // string, or mapping of name, url, deployment
	Concurrency     *Node
	Outputs         *Node // mapping
	Env             *Node
	Defaults        *Defaults
	Container       *Node
	Services        *Node
	Snapshot        *Node
	TimeoutMinutes  *Node // number
	CancelTimeout   *Node // cancel-timeout-minutes
	ContinueOnError *Node
	Steps           []*Step

	Uses           string // ./.github/workflows/x.yml or owner/repo/.github/workflows/x.yml@ref
	UsesPos        Pos
	With           *Node // mapping: inputs of the call
	Secrets        *Node // mapping: secrets of the call
	InheritSecrets bool
}

// Name is an identifier at a position.
type Name struct {
	Pos
	Text string
}

// Strategy is `strategy:`. Each node may be an expression that is known only when the job gets ready.
type Strategy struct {
	Pos
	Matrix      *Node // mapping, or an expression that gives one; nil if the strategy has none
	FailFast    *Node
	MaxParallel *Node
}

// Defaults is `defaults: run:`.
type Defaults struct {
	Shell            *Node
	WorkingDirectory *Node
}

// Step is one entry of `steps:`, of a job or a composite action. Exactly one of Uses, Run, Wait, WaitAll, Cancel
// and Parallel says what kind it is.
type Step struct {
	Pos
	ID               string // as written; empty if the file gives none
	ContextName      string // ID, or the name GitHub makes up for it: __run, __actions_checkout, __run_2
	Name             *Node
	If               *Condition // never nil
	Env              *Node
	ContinueOnError  *Node
	TimeoutMinutes   *Node
	Run              *Node
	Shell            *Node
	WorkingDirectory *Node
	Uses             string
	UsesPos          Pos
	With             *Node
	Background       bool

	Wait     []Name // IDs of background steps
	WaitAll  bool
	Cancel   *Name
	Parallel []*Step
}

// Condition is an `if:` as it is evaluated: success() && (...) is already put round it where GitHub does so.
type Condition struct {
	Pos
	Source string     // as written; empty if the file says nothing
	Expr   *expr.Expr // what decides
}

// Permissions is `permissions:`; scopes not in Scopes have Default.
type Permissions struct {
	Pos
	Default string            // "read", "write" or "none": read-all, write-all, or none once any scope is named
	Scopes  map[string]string // contents: read, id-token: write, ...
}

// Triggers is `on:`, in file order.
type Triggers []Trigger

// Trigger is one event of `on:` with its filters. Absent filters are nil.
type Trigger struct {
	Pos
	Event           string
	Types           []string
	Branches        []string
	BranchesIgnore  []string
	Tags            []string
	TagsIgnore      []string
	Paths           []string
	PathsIgnore     []string
	Workflows       []string   // workflow_run
	Schedules       []Schedule // schedule
	Inputs          []Input    // workflow_dispatch and workflow_call
	Secrets         []Secret   // workflow_call
	Outputs         []Output   // workflow_call
	Versions, Names []string   // image_version
}

// Find gives the trigger for an event, nil if the workflow does not have it.
func (t Triggers) Find(event string) *Trigger {
	for i := range t {
		if t[i].Event == event {
			return &t[i]
		}
	}
	return nil
}

// Schedule is one `schedule:` entry.
type Schedule struct {
	Pos
	Cron     string // five fields
	Timezone string // IANA name; empty is UTC
}

// Input is an input of workflow_dispatch or workflow_call.
type Input struct {
	Pos
	Name        string
	Description string
	Type        string // string, boolean, number, choice, environment
	Required    bool
	Default     *Node // nil: none
	Options     []string
	Deprecation string
}

// Secret is a secret that workflow_call declares.
type Secret struct {
	Pos
	Name        string
	Description string
	Required    bool
}

// Output is an output that workflow_call declares.
type Output struct {
	Pos
	Name        string
	Description string
	Value       *Node
}

// Action is an action.yml.
type Action struct {
	Path        string
	Name        string
	Description string
	Author      string
	Inputs      []ActionInput
	Outputs     []ActionOutput
	Runs        Runs
	Warnings    []Finding
}

// ActionInput is one of an action's `inputs:`.
type ActionInput struct {
	Pos
	Name        string
	Description string
	Required    bool
	Default     *Node // nil: none; may use ${{ github.* }}
	Deprecation string
}

// ActionOutput is one of an action's `outputs:`. Value is set in composite actions only.
type ActionOutput struct {
	Pos
	Name        string
	Description string
	Value       *Node
}

// Runs is an action's `runs:`.
type Runs struct {
	Pos
	Using string // composite, docker, node12, node16, node20, node24

	Main, Pre, Post string     // JavaScript: files relative to the action
	PreIf, PostIf   *Condition // nil: always()

	Image                                     string // docker: docker://..., or a Dockerfile relative to the action
	Entrypoint, PreEntrypoint, PostEntrypoint string
	Args                                      *Node
	Env                                       *Node

	Steps []*Step // composite
}

// Finding is a mistake or a warning at a place in a file.
type Finding struct {
	Pos
	Path     string
	Message  string
	Severity string // "error" or "warning"
}

// String is GitHub's form: ci.yml (Line: 12, Col: 9): message.
func (f Finding) String() string { return formatFinding(f) }

// Errors is every mistake of a file, in order; it is the error that ParseWorkflow and ParseAction return.
type Errors []Finding

func (e Errors) Error() string { return formatErrors(e) }
