package agent

import (
	"math"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Names under which this binary becomes one of the two processes. They are what ps shows.
const (
	NameAgent  = "penstock-machine"
	NameWarden = "penstock-warden"
	nameIDs    = "penstock-ids" // waits to be killed
)

// control is the descriptor of the socket that a process of this package is started with.
const control = 3

func init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case NameAgent:
		setName(NameAgent)
		debug.SetGCPercent(400)
		os.Exit(runAgent(os.Args[1:]))
	case nameIDs:
		for {
			_ = unix.Pause()
		}
	case NameWarden:
		setName(NameWarden)
		debug.SetGCPercent(400)
		os.Exit(runWarden(os.Args[1:]))
	}
}

// closeOnExec keeps the process's files from its children, also those that it was itself given by mistake.
func closeOnExec() error {
	return unix.CloseRange(control, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
}

// setName makes ps show a process's role; /proc/self/exe is what it would show. Initialization runs on the main thread.
func setName(name string) {
	b := [16]byte{}
	copy(b[:15], name)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
