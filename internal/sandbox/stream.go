//go:build unix

package sandbox

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// outputGrace is how long descendants that keep a command's output open are waited for after it has ended.
const outputGrace = 200 * time.Millisecond

// pipeSize lets a command run ahead of who reads its output.
const pipeSize = 256 << 10

func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // values that can not be compared are different
	return a == b
}

// copier passes output on.
type copier struct {
	from *os.File
	to   io.Writer
	done chan struct{}
	err  error // of to; valid when done is closed
}

func (c *copier) run() {
	defer close(c.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := c.from.Read(buf)
		if n > 0 && c.err == nil {
			_, c.err = c.to.Write(buf[:n]) // after an error the rest is read and dropped, so that the command goes on
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.rest(buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// rest takes what is in the pipe, which does not block, and no more than fits into it: descendants of the command may
// go on writing.
func (c *copier) rest(buf []byte) {
	raw, err := c.from.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for left := pipeSize; left > 0; {
			n, err := retryRead(int(fd), buf[:min(left, len(buf))])
			if err != nil || n <= 0 {
				return
			}
			left -= n
			if c.err == nil {
				_, c.err = c.to.Write(buf[:n])
			}
		}
	})
}

func retryRead(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func (c *copier) drain() error {
	select {
	case <-c.done:
		return c.err
	case <-time.After(outputGrace):
	}
	_ = c.from.SetReadDeadline(time.Now()) // pipes take deadlines
	<-c.done
	return c.err
}
