//go:build unix

package sandbox

import (
	"testing"
	"time"
)

// quick is a ladder for tests.
var quick = Ladder{Interrupt: 150 * time.Millisecond, Terminate: 150 * time.Millisecond}

func TestNone(t *testing.T) {
	n := NewNone(t.TempDir())
	n.Ladder = quick
	suite{provider: n}.run(t)
}
