package store

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitSilence lets a connection fail whose peer acknowledges nothing for peerTimeout. Without it a write to a machine
// that is gone waits for a quarter of an hour.
func limitSilence(network, _ string, c syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
	}); failed != nil {
		return failed
	}
	return err
}
