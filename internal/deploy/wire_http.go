package deploy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// http2Alone is HTTP/2 in the clear: what is below may be TLS.
func http2Alone() *http.Protocols {
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return p
}

// clientOf makes a connection one over which this side asks.
func clientOf(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	t := &http.Transport{
		Protocols: http2Alone(), MaxResponseHeaderBytes: maxAsk,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: idleWait, PingTimeout: pingWait, WriteByteTimeout: idleWait + pingWait,
			MaxReceiveBufferPerStream: maxUnread, // of the connection it is much more: who reads a log slowly keeps nobody waiting
		},
	}
	return t.NewClientConn(ctx, "http", "machine:80")
}

// serveConn answers what is asked over a connection, until it ends or ctx does.
func serveConn(ctx context.Context, conn net.Conn, h http.Handler) error {
	l := &listenerOf{Conn: conn, ended: make(chan struct{})}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	s := &http.Server{
		Handler: h, Protocols: http2Alone(), ReadHeaderTimeout: sayWait, MaxHeaderBytes: maxAsk,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: idleWait, PingTimeout: pingWait, WriteByteTimeout: idleWait + pingWait,
			MaxConcurrentStreams: 2 * (maxAsks + maxReaders), MaxReceiveBufferPerConnection: 3 << 20, MaxReceiveBufferPerStream: maxUnread,
		},
	}
	return s.Serve(l)
}

// listenerOf is a listener of one connection, and that connection: both end together.
type listenerOf struct {
	net.Conn
	once, end sync.Once
	ended     chan struct{}
}

// Accept implements net.Listener.
func (l *listenerOf) Accept() (net.Conn, error) {
	first := false
	if l.once.Do(func() { first = true }); first {
		return l, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}

// Addr implements net.Listener.
func (l *listenerOf) Addr() net.Addr { return l.LocalAddr() }

// Close implements net.Listener and net.Conn.
func (l *listenerOf) Close() error {
	err := l.Conn.Close()
	l.end.Do(func() { close(l.ended) })
	return err
}
