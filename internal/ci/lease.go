package ci

// Runner says what a runner offers.
type Runner struct {
	Name   string   `json:"name"`
	Labels []string `json:"labels"` // runs-on matches them without case; empty takes every job
	Group  string   `json:"group,omitempty"`
}

// Lease names a hold on a job.
type Lease struct {
	Run RunID   `json:"run"`
	Job JobID   `json:"job"`
	ID  LeaseID `json:"id"`
}

// Signal is what is wanted of a running job.
type Signal string

const (
	SignalNone   Signal = ""
	SignalCancel Signal = "cancel" // always() steps still run
	SignalKill   Signal = "kill"   // nothing runs any more
)
