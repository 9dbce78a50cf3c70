package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ownerView is nothing: the time of the boot moves with the clock here, and start times tell processes apart.
func ownerView() string { return "" }

// processStart is when a process was started, in seconds and microseconds; empty if there is none.
func processStart(pid int) string {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d.%d", info.Proc.P_starttime.Sec, info.Proc.P_starttime.Usec)
}
