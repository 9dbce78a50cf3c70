package deploy

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// endMarked kills what runs with a mark in its environment: programs of machines that are not isolated, whose keeper was
// killed.
func endMarked(mark string) error {
	pause := time.Millisecond
	for range 10 {
		names, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		found := false
		for _, n := range names {
			pid, err := strconv.Atoi(n.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			environ, err := os.ReadFile("/proc/" + n.Name() + "/environ")
			if err == nil && bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+mark+"\x00")) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !found {
			return nil
		}
		time.Sleep(pause)
		pause *= 2
	}
	return errors.New("a program that was left behind could not be ended")
}
