package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Clients that send or read next to nothing lose the connection; slow ones that go on are served.
func TestSlowClients(t *testing.T) {
	drip := func(every time.Duration, bytes int) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
			for sent := 0; sent < 2_000_000; sent += bytes {
				time.Sleep(every)
				if _, err := c.Write(make([]byte, bytes)); err != nil {
					return
				}
			}
		}
	}
	swallow := func(w http.ResponseWriter, r *http.Request) error {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil && n != 2_000_000 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	tell := func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write(make([]byte, 4<<20))
		return err
	}
	sip := func(every time.Duration, bytes int) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			for p := make([]byte, bytes); ; time.Sleep(every) {
				if _, err := io.ReadFull(c, p); err != nil {
					return
				}
			}
		}
	}
	for name, c := range map[string]struct {
		client func(net.Conn)
		serve  func(http.ResponseWriter, *http.Request) error
		cut    bool
		within time.Duration
	}{
		"a byte a second":              {drip(time.Second, 1), swallow, true, time.Minute},
		"a byte a minute":              {drip(time.Minute, 1), swallow, true, time.Minute},
		"slow but steady":              {drip(2*time.Second, 10_000), swallow, false, time.Hour},
		"the server is busy meanwhile": {drip(time.Millisecond, 10_000), func(w http.ResponseWriter, r *http.Request) error { time.Sleep(time.Hour); return swallow(w, r) }, false, 2 * time.Hour},
		"reads nothing":                {sip(time.Hour, 1), tell, true, time.Minute},
		"reads a little":               {sip(time.Second, 1000), tell, true, time.Minute},
		"reads slowly":                 {sip(time.Second, 20_000), tell, false, time.Hour},
		"works long before it answers": {sip(0, 20_000), func(w http.ResponseWriter, r *http.Request) error { time.Sleep(time.Hour); return tell(w, r) }, false, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				began, ended := time.Now(), make(chan error, 1)
				web := NewHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w, r = hurried(w, r)
					ended <- c.serve(w, r)
				}))
				l := &oneConn{conn: there, closed: make(chan struct{})}
				var all sync.WaitGroup
				all.Go(func() { _ = web.Serve(l) })
				all.Go(func() { c.client(here); _ = here.Close() })
				err := <-ended
				if took := time.Since(began); took > c.within {
					t.Errorf("it took %v", took)
				}
				if cut := errors.Is(err, os.ErrDeadlineExceeded); cut != c.cut || !cut && err != nil {
					t.Errorf("ended by %v", err)
				}
				_ = here.Close()
				_ = web.Shutdown(context.Background())
				all.Wait()
			})
		})
	}
}

// TestSlowHeads: who sends the head of a request slowly, without an end, or none at all loses the connection.
func TestSlowHeads(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		every time.Duration
	}{
		"a byte a second":    {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: b\r\n", 100), time.Second},
		"nothing":            {"", 0},
		"a head without end": {"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: b\r\n", 100_000), 0},
		"nothing more":       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				began := time.Now()
				web := NewHTTPServer(http.NotFoundHandler())
				var all sync.WaitGroup
				all.Go(func() { _ = web.Serve(&oneConn{conn: there, closed: make(chan struct{})}) })
				all.Go(func() {
					for i := range c.text {
						if _, err := io.WriteString(here, c.text[i:i+1]); err != nil {
							return
						}
						time.Sleep(c.every)
					}
				})
				if _, err := io.Copy(io.Discard, here); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 3*time.Minute {
					t.Errorf("it took %v", took)
				}
				_ = here.Close()
				_ = web.Shutdown(context.Background())
				all.Wait()
			})
		})
	}
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
