package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// The front speaks HTTP/1 with clients: it reads requests off their connections, one after another, and writes answers.
// All of a request is done by the goroutine of its connection, and mostly by one read and one write on either side.

const (
	// watchAfter is how long a backend may be silent before anybody looks whether the client is still there.
	watchAfter = 50 * time.Millisecond
	// lingerTime is how long a client may go on sending when its connection ends before it has said all, so that it reads
	// its answer before it hears of a reset.
	lingerTime = 500 * time.Millisecond
)

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readerSize) }}

// serveHTTP1 carries requests until the connection ends, is put aside, or speaks something else. until is when the next
// has to begin.
func (c *clientConn) serveHTTP1(until time.Time) {
	for now := time.Now(); c.begins(now, until) && c.carry(); until = now.Add(c.p.o.IdleTimeout) {
		now = time.Now()
	}
}

// clientReader is what requests are read from, and where it is seen that the client has gone.
type clientReader struct{ c *clientConn }

func (r clientReader) Read(b []byte) (int, error) {
	n, err := r.c.rw.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		r.c.lost.Store(true)
	}
	return n, err
}

// begins waits for the first byte of a request. It is false if the connection has ended or is put aside.
func (c *clientConn) begins(now, until time.Time) bool {
	if c.br == nil {
		c.br = readers.Get().(*bufio.Reader)
		c.br.Reset(clientReader{c})
	}
	if c.br.Buffered() > 0 {
		return true
	}
	soon := now.Add(c.p.parkAfter())
	if c.raw == nil || until.Before(soon) {
		soon = until
	}
	_ = c.SetReadDeadline(soon)
	_, err := c.br.Peek(1)
	if err == nil {
		return true
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(until) {
		c.release()
		go c.park(until)
		return false
	}
	c.end()
	return false
}

// park waits for the next request without what is needed to read one, on a stack that has not grown.
func (c *clientConn) park(until time.Time) {
	c.p.parked.Add(1)
	_ = c.SetReadDeadline(until)
	for {
		err := c.raw.Read(func(fd uintptr) bool {
			_, err := peek(fd)
			return !errWouldBlock(err)
		})
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.read.passed(c.Conn.SetReadDeadline) {
			c.p.parked.Add(-1)
			c.end()
			return
		}
	}
	c.p.parked.Add(-1)
	c.serveHTTP1(until)
}

// release gives back what is needed to read requests.
func (c *clientConn) release() {
	if c.br != nil {
		c.br.Reset(nil)
		readers.Put(c.br)
		c.br = nil
	}
}

// carry reads a request and answers it. It is false if the connection is no longer for HTTP/1.
func (c *clientConn) carry() bool {
	began := time.Now()
	_ = c.SetReadDeadline(began.Add(c.p.o.HeaderTimeout))
	head, err := c.readHead()
	refused := err
	switch {
	case err == nil:
	case errors.Is(err, errHeadTooLarge):
		refused = &badRequest{http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too large"}
	case errors.Is(err, errBareLF):
		refused = bad("a line of the request's head ends in a bare LF")
	default: // it went away, or is too slow
		c.end()
		return false
	}
	if head == "PRI * HTTP/2.0\r\n" && !c.tls {
		c.toHTTP2()
		return false
	}
	x := exchanges.Get().(*exchange)
	x.p, x.w, x.ctx, x.began = c.p, c, context.Background(), began
	x.r.tls, x.r.client = c.tls, c.peer
	x.r.major, x.r.minor = 1, 1 // until it says so itself
	if refused == nil {
		refused = x.r.parse(head)
	}
	if c.surplus && refused == nil {
		refused = &badRequest{http.StatusServiceUnavailable, "this proxy has as many connections as it can hold"}
	}
	x.r.closes = x.r.closes || refused != nil
	c.last, c.minor, c.body = false, x.r.minor, &x.r.in
	x.r.readFrom(c.br)
	whole := x.run(refused)
	c.unread = c.unread || refused != nil
	if whole { // sent only now, so that who has an answer finds it counted, and its backend free
		whole = c.flush() == nil
	}
	c.freeOut()
	switch {
	case !whole:
		c.cut()
		return false
	case c.tunnelled:
		c.end()
		return false
	case c.last:
		c.linger()
		return false
	}
	return true
}

// readHead reads the head of a request, after an empty line that some clients send after a body (RFC 9112, section 2.2).
func (c *clientConn) readHead() (string, error) {
	if b, _ := c.br.Peek(1); b[0] == '\r' {
		b, err := c.br.Peek(2)
		if err != nil {
			return "", err
		}
		if b[1] == '\n' {
			_, _ = c.br.Discard(2)
		}
	}
	left := c.p.o.MaxHeader
	return readBlock(c.br, &left, true)
}

// toHTTP2 hands over a connection whose first line is the preface of HTTP/2.
func (c *clientConn) toHTTP2() {
	rest, _ := c.br.Peek(c.br.Buffered())
	begun := append([]byte("PRI * HTTP/2.0\r\n\r\n"), rest...)
	c.release()
	// The read deadline stays, for the rest of the preface; then net/http clears it.
	if c.surplus || !c.p.serveHTTP2(&begunConn{Conn: c, begun: begun}) {
		_ = c.Close()
	}
}

// end closes the connection when nothing is under way.
func (c *clientConn) end() {
	_ = c.rw.Close()
	c.release()
}

// cut closes the connection in the midst of an answer. TLS says nothing more, so that the client sees that it was cut.
func (c *clientConn) cut() {
	_ = c.Close()
	c.release()
}

// linger closes the connection after an answer, and lets the client read that if it is still sending.
func (c *clientConn) linger() {
	if unread := c.br.Buffered() > 0 || c.unread; unread {
		if t, ok := c.rw.(*tls.Conn); ok {
			_ = t.CloseWrite()
		}
		if c.CloseWrite() == nil {
			_ = c.SetReadDeadline(time.Now().Add(lingerTime))
			_, _ = io.Copy(io.Discard, &c.limitedConn)
		}
	}
	c.end()
}

// onGone calls f if the client goes away before stop is called, which is false if it has. A client that has sent more
// already, the next request, is taken to be there; of one whose body is not there yet, whoever reads that finds out.
func (c *clientConn) onGone(f func()) (stop func() bool) {
	if c.br.Buffered() > 0 || !c.body.ended() {
		return func() bool { return true }
	}
	_ = c.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, _ = c.br.Peek(1); c.lost.Load() {
			f()
		}
	}()
	return func() bool {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-done
		return !c.lost.Load()
	}
}

func (c *clientConn) gone() bool { return c.lost.Load() }

// begin is client's. The head is sent with what follows it, unless it is an interim one.
func (c *clientConn) begin(a *reply) error {
	if c.out == nil {
		c.buffer = buffers.Get().(*[32 << 10]byte)
		c.out = c.buffer[:0]
	}
	b := append(c.out, "HTTP/1."...)
	b = append(b, byte('0'+c.minor), ' ')
	b = appendInt(b, int64(a.status))
	b = append(b, ' ')
	b = append(b, http.StatusText(a.status)...)
	b = append(b, "\r\n"...)
	dated := false
	for i := range a.header {
		f := &a.header[i]
		dated = dated || f.name == "Date"
		b = appendField(b, f.name, f.value)
	}
	if a.status < 200 && a.status != http.StatusSwitchingProtocols {
		c.out = append(b, "\r\n"...)
		return c.flush()
	}
	if !dated {
		b = append(b, "Date: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	c.chunked, c.last, c.unread = false, a.closes, a.unread
	switch {
	case a.length >= 0 && bodyFollows(a.status) && (len(a.announced) == 0 || c.minor == 0): // trailers need chunks
		b = append(b, "Content-Length: "...)
		b = appendInt(b, a.length)
		b = append(b, "\r\n"...)
	case a.body && c.minor > 0:
		c.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for _, name := range a.announced {
			b = appendField(b, "Trailer", name)
		}
	case a.body:
		c.last = true // its end is the connection's
	}
	if c.last {
		b = append(b, "Connection: close\r\n"...)
	}
	c.out = append(b, "\r\n"...)
	return nil
}

// chunkFront and chunkBack are what a chunk has round its data.
const (
	chunkFront = len("7fff\r\n")
	chunkBack  = len("\r\n")
)

// room is client's.
func (c *clientConn) room() []byte {
	const least = 4 << 10
	if cap(c.out)-len(c.out) < least {
		_ = c.flush() // sent or end gives the error
	}
	free := c.out[len(c.out):cap(c.out)]
	if c.chunked {
		return free[chunkFront : len(free)-chunkBack]
	}
	return free
}

// sent is client's.
func (c *clientConn) sent(n int) error {
	if n > 0 && c.chunked {
		front := appendHex(c.out, n)
		to := front[:len(front)+n]
		if gap := len(c.out) + chunkFront - len(front); gap > 0 {
			copy(to[len(front):], c.out[len(front)+gap:len(front)+gap+n])
		}
		c.out = append(to, "\r\n"...)
	} else {
		c.out = c.out[:len(c.out)+n]
	}
	return c.err
}

// flush is client's.
func (c *clientConn) flush() error {
	if c.err == nil && len(c.out) > 0 {
		_, c.err = c.rw.Write(c.out)
	}
	c.out = c.out[:0]
	return c.err
}

// done is client's. What it leaves unsent is sent when the request has been counted.
func (c *clientConn) done(trailer header) error {
	if c.chunked {
		c.out = append(c.out, "0\r\n"...)
		for _, f := range trailer {
			c.out = appendField(c.out, f.name, f.value)
		}
		c.out = append(c.out, "\r\n"...)
	}
	return c.err
}

func (c *clientConn) freeOut() {
	if c.buffer != nil {
		buffers.Put(c.buffer)
	}
	c.buffer, c.out = nil, nil
}
