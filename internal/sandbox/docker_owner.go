//go:build unix

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dockerOwner says which process this is, so that another on this host can tell whether it is still there: host name,
// what is common to the processes that can see it, process id, start time.
func dockerOwner() string {
	return strings.Join([]string{ownerHost(), ownerView(), fmt.Sprint(os.Getpid()), processStart(os.Getpid())}, "/")
}

func ownerHost() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(name, "/", "_")
}

// ownerIsGone says whether a process of this host has ended. Of what it can not see it says no.
func ownerIsGone(owner string) bool {
	part := strings.Split(owner, "/")
	if len(part) != 4 || part[0] == "" || part[0] != ownerHost() {
		return false
	}
	boot, space, _ := strings.Cut(part[1], ":")
	hereBoot, hereSpace, _ := strings.Cut(ownerView(), ":")
	if boot != hereBoot {
		return true // this host was started again since
	}
	if space != hereSpace {
		return false
	}
	var pid int
	if _, err := fmt.Sscan(part[2], &pid); err != nil || pid <= 0 {
		return false
	}
	if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	start := processStart(pid)
	return start != "" && start != part[3]
}
