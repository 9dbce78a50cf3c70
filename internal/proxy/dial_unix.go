//go:build unix

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// receive takes the one message of a socket that hands out connections.
func receive(c *net.UnixConn) (net.Conn, error) {
	var text [256]byte
	var rights [128]byte
	n, nrights, flags, _, err := c.ReadMsgUnix(text[:], rights[:])
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var fds []int
	messages, err := syscall.ParseSocketControlMessage(rights[:nrights])
	for _, m := range messages {
		if more, err := syscall.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	closeAll := func() {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}
	switch {
	case n == 0:
		err = errors.New("it closed the connection without a word")
	case text[0] == 1:
		err = refused(text[1:n], c)
	case err != nil || flags&syscall.MSG_CTRUNC != 0 || text[0] != 0 || n != 1 || len(fds) != 1:
		err = fmt.Errorf("it sent %d bytes and %d descriptors: one of each, and a zero byte, are a connection", n, len(fds))
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	return net.FileConn(f)
}

// canPeek says whether the system lets us look at what has come on a connection.
const canPeek = true

// peek looks at what has come on a connection: nothing yet if errWouldBlock says so of the error.
func peek(fd uintptr) (int, error) {
	var one [1]byte
	n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n, err
}

func errWouldBlock(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }

// maxDescriptors is how many files and connections the process may have open.
func maxDescriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur == 0 || limit.Cur > 1<<20 {
		return 1 << 20
	}
	return int(limit.Cur)
}
