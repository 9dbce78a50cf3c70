package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// ownerView is this boot and the process ids' namespace.
func ownerView() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + ":" + space
}

// processStart is when a process was started, in ticks since the boot; empty if there is none.
func processStart(pid int) string {
	field := processStat(pid)
	if len(field) < 20 {
		return ""
	}
	return field[19]
}

// processStat gives what /proc/PID/stat has after the name: state, parent, group, session and so on.
func processStat(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
}
