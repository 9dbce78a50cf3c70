// Package cd decides what a release does next: health, recreate, rolling, blue-green, canary, analysis, gates, promotion,
// abort and rollback.
//
// It is pure: no clock, no disk, no network. A Release is a value, the snapshot that is stored. Decide turns an input (a
// fact from outside) into events, Apply is the only thing that changes a Release. What is to be done is always derived
// from the stored Release, so after a crash the same work is found again: Part.Want says how many instances run, Shares how
// traffic is divided, Next what is asked and not yet answered, Deadline when time alone moves it on, Waits what people are
// told about it. It never holds a secret: of secrets it knows names and versions.
//
// Checks are made by looks. A look is a pure function of the release and of the answers so far: what it asks and has no
// answer to is what Next gives, and its outcome counts when all is answered. There is one for the native analysis
// (native.go, judge.go) and one that is Flagger's loop (exact.go).
//
// A release owns the instances of its revisions from their start to their end, also when a later release serves in their
// place: that one asks for them to be kept, scaled and stopped (Scaled), and this one does it.
package cd

import (
	"errors"
	"time"
)

// ReleaseID names a release.
type ReleaseID int64

var (
	// ErrStale is returned by Decide when the release has moved past the input.
	ErrStale = errors.New("the release has moved past this input")
	// ErrRefused is returned by Decide, wrapped with why, for what a user asks and may not have now: promoting what has
	// failed, a weight while nothing takes traffic.
	ErrRefused = errors.New("not allowed now")
)

// Plan is all that a release needs to know, fixed when it begins; nothing is left to fetch. It holds no secrets.
type Plan struct {
	Repository  string    `json:"repository"`  // owner/name
	Environment string    `json:"environment"` // name, in the case it was made with
	Ref         string    `json:"ref,omitempty"`
	SHA         string    `json:"sha,omitempty"`
	By          string    `json:"by"`                   // login of who began it
	Reason      string    `json:"reason,omitempty"`     // why, for a rollback: what went wrong
	Restores    ReleaseID `json:"restores,omitempty"`   // the older release whose revisions are taken back; then nothing is analysed
	Deployment  int64     `json:"deployment,omitempty"` // GitHub's deployment that it carries out
	Run         int64     `json:"run,omitempty"`        // the workflow run that asked for it
	// Services are released together, as a group, in this order: each starts when the one before is healthy, traffic moves
	// for all of them at once, and they are promoted and reverted together.
	Services []Service `json:"services"`
	// Whole says that the environment has these services and no others: once the release is live, what earlier ones still run
	// of others is stopped.
	Whole    bool     `json:"whole,omitempty"`
	Strategy Strategy `json:"strategy"`
	// RunsOn are labels of the machines that it runs on, and Machines those that had them when it began, sorted: instance i of
	// each service runs on Machines[i modulo their number]. Both empty is the server's own machine.
	RunsOn   []string `json:"runs_on,omitempty"`
	Machines []string `json:"machines,omitempty"`
	// Gate, if not nil, is passed before anything starts: the environment's reviewers.
	Gate *Gate `json:"gate,omitempty"`
	// Watch is the window after promotion in which the release is taken back by itself.
	Watch Watch `json:"watch"`
}

// Machine is the name of the machine that an instance runs on; empty is the server's own.
func (p *Plan) Machine(index int) string {
	if len(p.Machines) == 0 || index < 0 {
		return ""
	}
	return p.Machines[index%len(p.Machines)]
}

// Service is one service of a release and what it becomes.
type Service struct {
	Name     string   `json:"name"`
	Revision Revision `json:"revision"`
	// Before is the release that serves when this one begins; zero if none does.
	Before ReleaseID `json:"before,omitempty"`
	// BeforeInstances is how many instances that one runs.
	BeforeInstances int `json:"before_instances,omitempty"`
	Instances       int `json:"instances"`
	// Unrouted is of a service without a port: it takes no traffic, and is not judged by any.
	Unrouted bool   `json:"unrouted,omitempty"`
	Health   Health `json:"health"`
	// Hook is run once before the instances start, in a machine like theirs; empty is none. A migration.
	Hook        []string      `json:"hook,omitempty"`
	HookTimeout time.Duration `json:"hook_timeout,omitempty"`
}

// Revision is everything that makes an instance what it is: two instances of one revision are the same.
type Revision struct {
	// ID is the hash of all that follows, hexadecimal, shown by its first twelve digits.
	ID string `json:"id"`
	// Image is a reference with a digest, or empty; Artifact is the digest of files that were handed in, or empty. Image and
	// Artifact empty is a command of the machine's own tools.
	Image    string            `json:"image,omitempty"`
	Artifact string            `json:"artifact,omitempty"`
	Command  []string          `json:"command,omitempty"` // empty is the image's own
	Dir      string            `json:"dir,omitempty"`     // the working directory below the artifact's root
	Port     int               `json:"port"`              // where it listens, in its own network; PORT in its environment; 0 is nowhere
	Env      map[string]string `json:"env,omitempty"`
	// Secrets are the environment variables that are secrets, with the version of each: which value it is, never the value.
	Secrets map[string]string `json:"secrets,omitempty"`
	Memory  int64             `json:"memory,omitempty"` // bytes; 0 is unlimited
	CPUs    float64           `json:"cpus,omitempty"`
	// Grace is how long an instance may take to end after SIGTERM.
	Grace time.Duration `json:"grace,omitempty"`
}

// Health says how an instance is asked whether it is well.
type Health struct {
	Path     string        `json:"path,omitempty"` // asked by GET, 2xx and 3xx are well; empty: that the port is open
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"` // of one answer
	// Retries is how many answers may be bad before an instance counts as ill. Of one that starts: how often it is asked
	// before its start has failed.
	Retries int `json:"retries"`
}

// State is where an instance is.
type State string

// The states of instances.
const (
	Starting State = "starting" // not yet well for the first time
	Healthy  State = "healthy"
	Ill      State = "ill"    // was healthy, answers badly now
	Exited   State = "exited" // its process has ended; it is started again after a pause
	Stopped  State = "stopped"
)

// Instance is one process or container of a service, as its machine told last.
type Instance struct {
	Index int   `json:"index"` // from 0
	State State `json:"state"`
	// Addr is where the proxy reaches it: host:port, or unix:PATH of the socket that hands out connections.
	Addr     string    `json:"addr,omitempty"`
	Restarts int       `json:"restarts,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it is not healthy: the last bad answer, how it ended, its last lines
	Since    time.Time `json:"since,omitzero"`
}

// Gate is what somebody, or time, has to open. All waits for people are of this kind.
type Gate struct {
	Kind string        `json:"kind"`           // review, ready, paused, inconclusive, or a webhook's name
	Who  []string      `json:"who,omitempty"`  // logins; empty is everyone with the right to release
	Not  []string      `json:"not,omitempty"`  // logins that may not: who began it
	Wait time.Duration `json:"wait,omitempty"` // until it times out; 0 is for ever
	// OnTimeout is what happens then.
	OnTimeout Timeout `json:"on_timeout,omitempty"`
	Reason    string  `json:"reason,omitempty"` // a sentence for people: what it waits for

	Since    time.Time `json:"since,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
}

// Timeout is what becomes of a gate that nobody opened in time.
type Timeout string

// What happens at a gate's deadline.
const (
	Continue Timeout = "continue"
	Stop     Timeout = "stop" // the release ends as aborted, what it started is taken away; so without a word
	Revert   Timeout = "rollback"
)
