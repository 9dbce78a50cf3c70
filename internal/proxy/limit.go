package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// limitedConn is a connection whose deadlines may be set for each message at no cost. The timers below are moved only if
// they would fire too late; when they fire too early they are set again, and whoever reads or writes does not notice.
type limitedConn struct {
	net.Conn
	read, write limit
}

func (c *limitedConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || c.read.passed(c.Conn.SetReadDeadline) {
			return n, err
		}
	}
}

func (c *limitedConn) Write(b []byte) (total int, err error) {
	for {
		n, err := c.Conn.Write(b[total:])
		total += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || c.write.passed(c.Conn.SetWriteDeadline) {
			return total, err
		}
	}
}

func (c *limitedConn) SetReadDeadline(t time.Time) error {
	return c.read.move(t, c.Conn.SetReadDeadline)
}

func (c *limitedConn) SetWriteDeadline(t time.Time) error {
	return c.write.move(t, c.Conn.SetWriteDeadline)
}

func (c *limitedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite is TCP's.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// limit is the deadline of one direction.
type limit struct {
	mu    sync.Mutex
	due   time.Time // when to give up; zero is never
	armed time.Time // when the timer fires, or fired; zero is never
}

func (l *limit) move(due time.Time, set func(time.Time) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = due
	if due.IsZero() || !l.armed.IsZero() && !due.Before(l.armed) {
		return nil
	}
	l.armed = due
	return set(due)
}

// passed says, when the timer has fired, whether it is time to give up. If not, the timer is set again.
func (l *limit) passed(set func(time.Time) error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.due.IsZero() && !time.Now().Before(l.due) {
		return true
	}
	l.armed = l.due
	return set(l.due) != nil
}
