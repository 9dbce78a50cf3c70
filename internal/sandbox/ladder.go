package sandbox

import "time"

// Ladder is how a command that is to stop is stopped: it gets SIGINT, SIGTERM, and in the end SIGKILL with all its
// descendants. A signal without a time to follow it is not sent.
type Ladder struct {
	Interrupt time.Duration // from SIGINT to what is next
	Terminate time.Duration // from SIGTERM to SIGKILL
}

// github is the ladder of GitHub's runner (actions/runner ProcessInvoker).
var github = Ladder{Interrupt: 7500 * time.Millisecond, Terminate: 2500 * time.Millisecond}

// past is a deadline that ends reads and writes at once.
var past = time.Unix(1, 0)
