package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// trackingListener gives connections that the proxy knows of until they are closed.
type trackingListener struct {
	net.Listener
	p *Proxy
}

func (l *trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &clientConn{Conn: c, p: l.p}
	l.p.mu.Lock()
	l.p.conns[tracked] = struct{}{}
	l.p.mu.Unlock()
	return tracked, nil
}

// clientConn is a client's connection. A write that the client takes nothing of for StallTimeout fails.
type clientConn struct {
	net.Conn
	p      *Proxy
	until  atomic.Int64 // the write deadline, in nanoseconds of the Unix epoch; 0 is none
	closed sync.Once
	ended  chan struct{} // made for those that wait for the end; under p.mu
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
	c.until.Store(0)
	return c.Conn.SetDeadline(t)
}

func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.until.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite is for net/http, which lets a client read an early answer before the connection is reset.
func (c *clientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

func (c *clientConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(func() {
		p := c.p
		p.mu.Lock()
		delete(p.conns, c)
		if len(p.conns) == 0 && p.ending.Load() && !isClosed(p.noConns) {
			close(p.noConns)
		}
		if c.ended != nil {
			close(c.ended)
		}
		p.mu.Unlock()
	})
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
