package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// upstream is a connection to a backend, which one request uses at a time, by the goroutine that serves it. There is none
// that reads ahead: what has come on an idle connection is looked for before it is used again (see quiet).
type upstream struct {
	net.Conn
	br     *bufio.Reader
	reused bool
	since  time.Time // when it became idle

	headLeft int  // bytes that the head of an answer may still have; negative while a body is read
	answered bool // a byte of the answer has come

	res    http.Response // what is read of the answer
	header http.Header
	body   upstreamBody

	trailing bool // what is read follows chunks

	raw     syscall.RawConn
	look    func(fd uintptr) bool
	quietly bool // what look found
	abort   func()
}

var errHeadTooLarge = errors.New("the head of its answer is too large")

func newUpstream(c net.Conn) *upstream {
	u := &upstream{Conn: c, header: http.Header{}}
	if s, ok := c.(syscall.Conn); ok && canPeek {
		u.raw, _ = s.SyscallConn()
	}
	u.look = u.lookAt
	u.abort = func() { _ = c.Close() }
	u.br = bufio.NewReaderSize(u, 4<<10)
	return u
}

// Read is for br.
func (u *upstream) Read(b []byte) (int, error) {
	if u.headLeft >= 0 {
		if u.headLeft == 0 {
			return 0, errHeadTooLarge
		}
		b = b[:min(len(b), u.headLeft)]
	}
	n, err := u.Conn.Read(b)
	if n > 0 {
		u.answered = true
		if u.headLeft >= 0 {
			u.headLeft -= n
		}
	}
	return n, err
}

// begin readies the connection for a request.
func (u *upstream) begin() {
	u.headLeft, u.answered, u.trailing = maxResponseHead, false, false
}

// connect gives a connection for a request: an idle one if there is one that may be used. A request that may not be sent
// twice gets none that the backend is likely to close at this moment.
func (b *backend) connect(ctx context.Context, repeatable bool) (*upstream, error) {
	oldest := upstreamIdle
	if !repeatable {
		oldest = time.Second
	}
	if u := b.take(time.Now().Add(-oldest)); u != nil {
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
	u.quietly = false
	return u.raw.Read(u.look) == nil && u.quietly
}

// lookAt is a method so that it is made into a function once for a connection.
func (u *upstream) lookAt(fd uintptr) bool {
	_, err := peek(fd)
	u.quietly = errWouldBlock(err)
	return true // whatever it said: do not wait
}
