package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxSurplus is how many connections beyond MaxConns are taken to be told so. More are closed unheard.
const maxSurplus = 64

// clientConn is a client's connection, of which the proxy knows until it is closed. A write that the client takes nothing
// of for StallTimeout fails.
type clientConn struct {
	limitedConn
	p       *Proxy
	rw      net.Conn // itself, or TLS over it
	tls     bool
	peer    string // address without port
	surplus bool   // beyond MaxConns
	closed  atomic.Bool
	raw     syscall.RawConn // nil where the system has no way to look

	// What follows is the front's.
	br        *bufio.Reader
	lost      atomic.Bool // the client has gone
	tunnelled bool
	minor     int   // version of the request that is answered
	body      *body // of that request
	last      bool  // the connection ends with this answer
	unread    bool  // something of the request may have been left unread

	buffer  *[32 << 10]byte // of out, mostly
	out     []byte          // what of the answer has not been sent
	err     error           // of sending it
	chunked bool
}

// accept takes connections until the listener ends, and serves them.
func (p *Proxy) accept(l net.Listener, conf *tls.Config) error {
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			var passing interface{ Temporary() bool } // no descriptors are left, or a client went away meanwhile
			if !errors.As(err, &passing) || !passing.Temporary() {
				return err
			}
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			p.o.Log.Warn("the proxy cannot take a connection", "error", err, "again_in", wait)
			time.Sleep(wait)
			continue
		}
		wait = 0
		p.take(c, conf)
	}
}

func (p *Proxy) take(conn net.Conn, conf *tls.Config) {
	c := &clientConn{limitedConn: limitedConn{Conn: conn}, p: p, tls: conf != nil, peer: withoutPort(conn.RemoteAddr().String())}
	c.rw = c
	if s, ok := conn.(syscall.Conn); ok && canPeek {
		c.raw, _ = s.SyscallConn()
	}
	open := p.open.Add(1)
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	c.surplus = open > int64(p.o.MaxConns)
	if open > int64(p.o.MaxConns)+maxSurplus {
		_ = c.Close()
		return
	}
	go c.serve(conf)
}

// serve finds out what a new connection speaks.
func (c *clientConn) serve(conf *tls.Config) {
	until := time.Now().Add(c.p.o.HeaderTimeout)
	if conf == nil {
		c.serveHTTP1(until)
		return
	}
	t := tls.Server(c, conf)
	c.rw = t
	_ = c.SetDeadline(until)
	if err := t.Handshake(); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
			_, _ = io.WriteString(c, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks https, and was asked by http.\n")
		}
		_ = c.Close()
		return
	}
	switch t.ConnectionState().NegotiatedProtocol {
	case "", "http/1.1":
		c.serveHTTP1(until)
	case "h2":
		_ = c.SetDeadline(time.Time{})
		if c.surplus || !c.p.serveHTTP2(t) {
			_ = t.Close()
		}
	default: // such as a certificate authority's, which has seen what it wanted to
		_ = t.Close()
	}
}

// looksLikeHTTP says whether five bytes are the begin of a request in HTTP/1.
func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

func (c *clientConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(c.p.o.StallTimeout))
	return c.limitedConn.Write(b)
}

func (c *clientConn) Close() error {
	err := c.Conn.Close()
	if !c.closed.Swap(true) {
		p := c.p
		p.open.Add(-1)
		p.mu.Lock()
		delete(p.conns, c)
		p.settle()
		p.mu.Unlock()
	}
	return err
}

// settle finds out, with p.mu held, whether a proxy that ends has no connection left, and takes no more.
func (p *Proxy) settle() {
	if p.ending.Load() && len(p.conns) == 0 && len(p.listeners) == 0 && !isClosed(p.noConns) {
		close(p.noConns)
	}
}

// parkAfter is how long an idle connection keeps what it needs to be quick: less if there are many.
func (p *Proxy) parkAfter() time.Duration {
	if p.open.Load() > 1_000 {
		return 200 * time.Millisecond
	}
	return 5 * time.Second
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
