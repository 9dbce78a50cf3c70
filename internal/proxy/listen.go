package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// trackingListener gives connections that the proxy knows of until they are closed.
type trackingListener struct {
	net.Listener
	p     *Proxy
	clear bool // without TLS
}

func (l *trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := newClientConn(c, l.p, l.clear)
	l.p.open.Add(1)
	l.p.mu.Lock()
	l.p.conns[tracked] = struct{}{}
	l.p.mu.Unlock()
	return tracked, nil
}

// clientConn is a client's connection. A write that the client takes nothing of for StallTimeout fails.
//
// Where it carries HTTP/1.1 in the clear, it does two things at less cost than net/http. It watches whether the client is
// still there only when an answer takes its time, rather than from the begin of each request in a goroutine of its own
// (see watch). And it waits for the next request without holding net/http's buffers and stack, when that takes long (see
// park).
type clientConn struct {
	net.Conn
	p      *Proxy
	until  atomic.Int64 // the write deadline, in nanoseconds of the Unix epoch; 0 is none
	closed atomic.Bool
	ended  chan struct{} // made for those that wait for the end; under p.mu

	raw        syscall.RawConn // nil with TLS, and where the system has no way to look
	idle       atomic.Bool     // net/http waits for the next request, and nothing of it has come
	idleUntil  time.Time       // the read deadline that net/http has set while idle
	parks      atomic.Bool     // the next Close is net/http's giving up on that
	reads      atomic.Bool     // net/http's own watching is let through
	limited    atomic.Bool     // there is a read deadline
	watcher    *time.Timer
	watching   bool
	watched    chan struct{} // has a value when the watcher has run
	onGone     func()
	gone       atomic.Bool
	unwatching func() bool // unwatch, made into a function once
}

// watchAfter is how long an answer may take before anybody looks whether its client is still there.
const watchAfter = 50 * time.Millisecond

func newClientConn(c net.Conn, p *Proxy, clear bool) *clientConn {
	tracked := &clientConn{Conn: c, p: p}
	if s, ok := c.(syscall.Conn); ok && clear && canPeek {
		tracked.raw, _ = s.SyscallConn()
	}
	return tracked
}

type clientConnKey struct{}

// connContext lets a request find its connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*clientConn); ok && c.raw != nil {
		return context.WithValue(ctx, clientConnKey{}, c)
	}
	return ctx
}

// connState hears what net/http does with a connection.
func connState(c net.Conn, s http.ConnState) {
	if c, ok := c.(*clientConn); ok && c.raw != nil && s != http.StateClosed { // it may have been parked then, and be served again
		c.reads.Store(s == http.StateHijacked)
		c.idle.Store(s == http.StateIdle)
	}
}

func (c *clientConn) Read(b []byte) (int, error) {
	if len(b) == 1 && c.raw != nil && !c.reads.Load() {
		// net/http reads one byte to see whether the client is still there while a request is served. That it has seen
		// nothing is all the same to it; see watch.
		return 0, nil
	}
	n, err := c.Conn.Read(b)
	if c.idle.Load() {
		if n > 0 {
			c.idle.Store(false)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			c.parks.Store(time.Now().Before(c.idleUntil))
		}
	}
	return n, err
}

func (c *clientConn) Write(b []byte) (int, error) {
	// The deadline is moved when half of it has gone by, not for each write.
	stall, now := c.p.o.StallTimeout, time.Now()
	if c.until.Load()-now.UnixNano() < int64(stall/2) {
		until := now.Add(stall)
		if err := c.Conn.SetWriteDeadline(until); err != nil {
			return 0, err
		}
		c.until.Store(until.UnixNano())
	}
	return c.Conn.Write(b)
}

func (c *clientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *clientConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() && !c.limited.Load() {
		return nil
	}
	if c.idle.Load() {
		c.idleUntil = t
		if soon := time.Now().Add(c.p.parkAfter()); soon.Before(t) {
			t = soon
		}
	}
	c.limited.Store(!t.IsZero())
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline takes nothing for none: Write sees to that.
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// watch calls gone if the client goes away before unwatch, though not in the first moment. A client that has sent more
// already, the next request, is taken to be there.
func (c *clientConn) watch(gone func()) (stop func() bool) {
	c.onGone, c.watching = gone, true
	if c.watcher == nil {
		c.watched = make(chan struct{}, 1)
		c.unwatching = c.unwatch
		c.watcher = time.AfterFunc(watchAfter, c.look)
	} else {
		c.watcher.Reset(watchAfter)
	}
	return c.unwatching
}

// unwatch ends a watch, if there is one. It is false if the client has gone.
func (c *clientConn) unwatch() bool {
	if c.watching && !c.watcher.Stop() {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-c.watched
		_ = c.SetReadDeadline(time.Time{})
	}
	c.watching = false
	return !c.gone.Load()
}

func (c *clientConn) look() {
	err := c.raw.Read(func(fd uintptr) bool {
		n, err := peek(fd)
		if errWouldBlock(err) {
			return false
		}
		if n == 0 || err != nil {
			c.gone.Store(true)
		}
		return true
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone.Store(true)
	}
	if c.gone.Load() {
		c.onGone()
	}
	c.watched <- struct{}{}
}

// parkAfter is how long an idle connection keeps what it needs to be quick: less if there are many.
func (p *Proxy) parkAfter() time.Duration {
	if p.open.Load() > 1_000 {
		return 200 * time.Millisecond
	}
	return 5 * time.Second
}

// park waits for the next request, and then gives the connection to net/http as a new one. It ends with the connection,
// which Stop waits for.
func (c *clientConn) park() {
	c.idle.Store(false)
	_ = c.SetReadDeadline(c.idleUntil)
	err := c.raw.Read(func(fd uintptr) bool {
		_, err := peek(fd)
		return !errWouldBlock(err)
	})
	if err != nil || !c.p.again.hand(c) {
		_ = c.Close()
	}
}

// CloseWrite is for net/http, which lets a client read an early answer before the connection is reset.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Close closes the connection, unless net/http has only waited long enough.
func (c *clientConn) Close() error {
	if c.parks.Swap(false) {
		go c.park()
		return nil
	}
	err := c.Conn.Close()
	if !c.closed.Swap(true) {
		p := c.p
		p.open.Add(-1)
		p.mu.Lock()
		delete(p.conns, c)
		if len(p.conns) == 0 && p.ending.Load() && !isClosed(p.noConns) {
			close(p.noConns)
		}
		if c.ended != nil {
			close(c.ended)
		}
		p.mu.Unlock()
	}
	return err
}

// wait waits until the connection is closed.
func (c *clientConn) wait() {
	c.p.mu.Lock()
	if _, open := c.p.conns[c]; !open {
		c.p.mu.Unlock()
		return
	}
	if c.ended == nil {
		c.ended = make(chan struct{})
	}
	ended := c.ended
	c.p.mu.Unlock()
	<-ended
}

// serveTLSHTTP2 hands a connection that chose HTTP/2 to the server for it, and returns when it ends, as net/http closes it
// then.
func (p *Proxy) serveTLSHTTP2(_ *http.Server, c *tls.Conn, _ http.Handler) {
	if p.serveHTTP2(c) {
		c.NetConn().(*clientConn).wait()
	}
}

// serveClearHTTP2 takes over a connection whose first request line is the preface of HTTP/2.
func (p *Proxy) serveClearHTTP2(w http.ResponseWriter) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	rest, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	begun := append([]byte("PRI * HTTP/2.0\r\n\r\n"), rest...)
	_ = c.SetReadDeadline(time.Now().Add(p.o.HeaderTimeout)) // for the rest of the preface; then net/http clears it
	if !p.serveHTTP2(&begunConn{Conn: c, begun: begun}) {
		_ = c.Close()
	}
}

// http2Server serves the connections that it is handed.
type http2Server struct {
	*http.Server
	handed *handedListener
}

func (p *Proxy) serveHTTP2(c net.Conn) bool { return p.http2.handed.hand(c) || p.late.handed.hand(c) }

// begunConn is a connection of which something has been read already.
type begunConn struct {
	net.Conn
	begun []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.begun) > 0 {
		n := copy(b, c.begun)
		c.begun = c.begun[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// handedListener gives the connections that it is handed.
type handedListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedListener() *handedListener {
	return &handedListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *handedListener) hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *handedListener) Addr() net.Addr { return &net.TCPAddr{} }
