package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// upstream is a connection to a backend, which one request uses at a time, by the goroutine that serves it. There is none
// that reads ahead: what has come on an idle connection is looked for before it is used again (see quiet).
type upstream struct {
	limitedConn
	br     *bufio.Reader
	reused bool
	since  time.Time // when it became idle

	headLeft int       // bytes that heads of the answer may still have
	answered bool      // a byte of the answer has come
	waits    *exchange // which hears once that nothing has come for a while
	res      response

	raw     syscall.RawConn
	look    func(fd uintptr) bool
	quietly bool // what look found
	abort   func()
}

func newUpstream(c net.Conn) *upstream {
	u := &upstream{limitedConn: limitedConn{Conn: c}}
	if s, ok := c.(syscall.Conn); ok && canPeek {
		u.raw, _ = s.SyscallConn()
	}
	u.look = u.lookAt
	u.abort = func() { _ = c.Close() }
	u.br = bufio.NewReaderSize(u, readerSize)
	return u
}

// Read is for br.
func (u *upstream) Read(b []byte) (int, error) {
	n, err := u.limitedConn.Read(b)
	if n == 0 && u.waits != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		x := u.waits
		u.waits = nil
		x.waitsLong(u)
		n, err = u.limitedConn.Read(b)
	}
	u.answered = u.answered || n > 0
	return n, err
}

// begin readies the connection for a request.
func (u *upstream) begin() {
	u.headLeft, u.answered, u.waits = maxResponseHead, false, nil
}

// connect gives a connection for a request: an idle one if there is one that may be used. A request that may not be sent
// twice gets none that the backend is likely to close at this moment.
func (b *backend) connect(ctx context.Context, now time.Time, repeatable bool) (*upstream, error) {
	oldest := upstreamIdle
	if !repeatable {
		oldest = time.Second
	}
	if u := b.take(now.Add(-oldest)); u != nil {
		u.reused = true
		return u, nil
	}
	return b.connectAnew(ctx)
}

func (b *backend) connectAnew(ctx context.Context) (*upstream, error) {
	c, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	return newUpstream(c), nil
}

// quiet says whether nothing has come on an idle connection: no end, no error, and no byte that the next request would
// take for its answer.
func (u *upstream) quiet() bool {
	if u.raw == nil {
		return true
	}
	for {
		u.quietly = false
		err := u.raw.Read(u.look)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || u.read.passed(u.Conn.SetReadDeadline) {
			return err == nil && u.quietly
		}
	}
}

// lookAt is a method so that it is made into a function once for a connection.
func (u *upstream) lookAt(fd uintptr) bool {
	_, err := peek(fd)
	u.quietly = errWouldBlock(err)
	return true // whatever it said: do not wait
}
