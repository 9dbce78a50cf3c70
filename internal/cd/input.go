package cd

import "time"

// Input is a fact from outside: see Release.Decide.
type Input interface{ input() }

// Observed says what became of an instance. The same said again changes nothing. One that is not wanted any more and has
// ended is Stopped, and forgotten.
type Observed struct {
	Service  string
	Instance Instance
}

// Done is the answer to a Task of Next.
type Done struct {
	Task TaskID
	// Error is why it could not be done or asked at all, empty if it was.
	Error string
	// OK is the outcome: of a hook its success, of a webhook that it answered 200 to 202.
	OK      bool
	Message string // for people: the last lines of a hook's output, a webhook's answer
	// Value is a query's; nil for no value, NaN included. Query is how it was asked, with all resolved.
	Value *float64
	Query string
	// Samples are what a TaskSample measured, by service.
	Samples map[string]Sample
}

// Sample is what the proxy measured of both sides since a time: of the new revision and of the one that serves.
type Sample struct {
	New, Old Traffics
	From, To time.Time
}

// Traffics counts requests and how long they took.
type Traffics struct {
	Requests int64 `json:"requests"`
	Errors   int64 `json:"errors"` // answered 5xx, or not at all
	// Latency counts requests by Buckets of the proxy: the upper bounds are in Bounds (milliseconds), the last is infinite.
	Latency []int64   `json:"latency,omitempty"`
	Bounds  []float64 `json:"bounds,omitempty"`
}

// Tick says that the time At has come, whatever the clock says: see Release.Deadline.
type Tick struct{ At time.Time }

// Scaled is asked by another release, By, of the same environment: it serves in this one's place, wholly (Instances 0) or
// partly, or gives the place back. The release that is scaled to nothing is Retired; scaled again it is Live.
type Scaled struct {
	Service   string
	Instances int
	By        ReleaseID
}

// Replaced says that release By begins while this one is not done: this one gives way.
type Replaced struct{ By ReleaseID }

// Approve opens the gate that the release waits at, or, with Reject, ends the release.
type Approve struct {
	By      string
	Reject  bool
	Comment string
}

// Promote goes on to promotion without waiting for what is left of the steps. Force does so even though checks fail.
type Promote struct {
	By    string
	Force bool
}

// Abort takes a release back that is not Live yet.
type Abort struct{ By, Reason string }

// Rollback takes a release back that serves, at once and without analysis, while the one before is warm (Watching). Of a
// Live one it is ErrRefused: a new release restores the older revision.
type Rollback struct{ By, Reason string }

// Removed says that the environment is to have nothing any more, for By asks so: what serves stops, and what is under way is
// taken back without anything in its place. It is told to all releases of the environment at once.
type Removed struct{ By, Reason string }

// Pause holds the release where it is; Resume lets it go on.
type Pause struct{ By string }
type Resume struct{ By string }

// SetWeight sets how much of the traffic the new revisions take, percent, and pauses the release there.
type SetWeight struct {
	By     string
	Weight int
}

func (Observed) input()  {}
func (Done) input()      {}
func (Tick) input()      {}
func (Scaled) input()    {}
func (Replaced) input()  {}
func (Approve) input()   {}
func (Promote) input()   {}
func (Abort) input()     {}
func (Rollback) input()  {}
func (Removed) input()   {}
func (Pause) input()     {}
func (Resume) input()    {}
func (SetWeight) input() {}

// TaskID names a task within a release: it is different for each that is asked.
type TaskID string

// TaskKind is a kind of task.
type TaskKind string

// The kinds of tasks.
const (
	TaskHook    TaskKind = "hook"    // run Service's hook once
	TaskWebhook TaskKind = "webhook" // POST Payload to Webhook.URL
	TaskQuery   TaskKind = "query"   // ask Metric of its source, for Service
	TaskSample  TaskKind = "sample"  // what the proxy measured since From, all services
	TaskScale   TaskKind = "scale"   // tell release Release to run Instances of Service (Scaled)
)

// Task is something to be asked or done once, whose answer is a Done. A task that was done and whose answer was lost is
// done again.
type Task struct {
	ID        TaskID
	Kind      TaskKind
	Service   string
	Release   ReleaseID
	Instances int
	Webhook   *Webhook
	Payload   map[string]any // of a webhook
	Metric    *Metric
	From      time.Time
	// Settled, of a scale, says when it is done: not when the release was told, but when it has brought about what it wants.
	// What is too many has ended and been forgotten, what was missing is healthy.
	Settled bool
}

// Share is how the traffic of one service is divided now.
type Share struct {
	Service string
	// New and Old are the releases whose healthy instances take it; Old is zero if nothing served before.
	New, Old ReleaseID
	// Weight is New's part, percent; all of the rest is Old's.
	Weight       int
	Mirrored     bool    // New gets a copy of what Old answers, MirrorWeight percent of it (0: all)
	Match        []Match // only what matches goes to New, all of it; Weight is 0
	Affinity     *Affinity
	MirrorWeight int
	// TestHosts lead to New alone.
	TestHosts []string
}
