package sandbox

import "time"

// Ladder is how a command that is to stop is stopped.
type Ladder struct {
	Interrupt time.Duration // from SIGINT to SIGTERM
	Terminate time.Duration // from SIGTERM to SIGKILL for it and all its descendants
}

// github is the ladder of GitHub's runner (actions/runner ProcessInvoker).
var github = Ladder{Interrupt: 7500 * time.Millisecond, Terminate: 2500 * time.Millisecond}

// past is a deadline that ends reads and writes at once.
var past = time.Unix(1, 0)
