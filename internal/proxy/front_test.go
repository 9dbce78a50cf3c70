package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// dial connects to a proxy, over TLS if conf is not nil.
func dial(t *testing.T, addr string, conf *tls.Config) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if conf != nil {
		conf = conf.Clone()
		conf.NextProtos, conf.ServerName = []string{"http/1.1"}, "example.com"
		c = tls.Client(c, conf)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

// inClearAndTLS runs a test for both kinds of connections.
func inClearAndTLS(t *testing.T, p *served, test func(t *testing.T, dial func() (net.Conn, *bufio.Reader))) {
	t.Run("clear", func(t *testing.T) {
		test(t, func() (net.Conn, *bufio.Reader) { return dial(t, p.addr, nil) })
	})
	url, transport := p.startTLS(t)
	t.Run("TLS", func(t *testing.T) {
		test(t, func() (net.Conn, *bufio.Reader) {
			return dial(t, strings.TrimPrefix(url, "https://"), transport.TLSClientConfig)
		})
	})
}

func TestRequestsInTheirOrder(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %v", r.Method, r.URL.Path, body, err)
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	inClearAndTLS(t, p, func(t *testing.T, dial func() (net.Conn, *bufio.Reader)) {
		c, br := dial()
		long := strings.Repeat("x", 3*readerSize)
		text := "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" +
			"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n" + // an empty line too many, as some send
			"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-A: b\r\n\r\n" +
			"GET /4 HTTP/1.1\r\nHost: a\r\nX-Long: " + long + "\r\n\r\n" +
			"GET /5 HTTP/1.1\r\nHost: a\r\n\r\n"
		go func() {
			for i := range text { // as slow as can be
				if _, err := io.WriteString(c, text[i:i+1]); err != nil {
					return
				}
				if i > 1000 {
					_, _ = io.WriteString(c, text[i+1:])
					return
				}
			}
		}()
		for _, want := range []string{"GET /1  <nil>", "POST /2 abc <nil>", "POST /3 abcde <nil>", "GET /4  <nil>", "GET /5  <nil>"} {
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != want || err != nil || res.Close {
				t.Fatalf("got %q, %v, want %q", body, err, want)
			}
		}
	})
}

func TestClientsOfHTTP10(t *testing.T) {
	p := start(t, Options{})
	for name, answer := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-A: b\r\n\r\n",
		"an interim one": "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	} {
		p.set(t, routeTo(answers(t, answer, false)))
		got := raw(t, p.addr, "GET / HTTP/1.0\r\n\r\n")
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.0 200 ") || body != "hello" || strings.Contains(head, "chunked") {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// TestAnswerBeforeTheBody has a client that reads its answer only when it has sent a body that nobody wants.
func TestAnswerBeforeTheBody(t *testing.T) {
	p := start(t, Options{MaxBody: 1_000})
	p.set(t, routeTo(startApp(t, 0).addr))
	inClearAndTLS(t, p, func(t *testing.T, dial func() (net.Conn, *bufio.Reader)) {
		c, br := dial()
		const size = 4 << 20
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 413 || !res.Close {
			t.Errorf("got %v, %v", res, err)
		}
	})
}

func TestExpectations(t *testing.T) {
	p := start(t, Options{})
	p.set(t, routeTo(startApp(t, 0).addr))
	if got := raw(t, p.addr, "POST / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\nContent-Length: 3\r\n\r\nabc"); !strings.HasPrefix(got, "HTTP/1.1 417 ") {
		t.Errorf("got %q", got)
	}
}

// TestGoneOfEveryKind has clients go away at moments that are not the same to the proxy.
func TestGoneOfEveryKind(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		grpc    bool
	}{
		"no body":            {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		"small body":         {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", false},
		"chunks":             {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false},
		"half a body":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc", false},
		"half of the chunks": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3", false},
		"to HTTP/2":          {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		"body to HTTP/2":     {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", true},
	} {
		t.Run(name, func(t *testing.T) {
			asked, left := make(chan struct{}), make(chan struct{})
			handler := func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 3)
				asked <- struct{}{}
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				left <- struct{}{}
			}
			addr := backendOf(t, handler)
			if c.grpc {
				addr = clearHTTP2(t, handler)
			}
			p := start(t, Options{})
			rt := routeTo(addr)
			rt.GRPC = c.grpc
			p.set(t, rt)
			n := uint64(0)
			inClearAndTLS(t, p, func(t *testing.T, dial func() (net.Conn, *bufio.Reader)) {
				conn, _ := dial()
				fmt.Fprint(conn, c.request)
				<-asked
				_ = conn.Close()
				<-left
				n++
				until(t, func() bool { return p.Collect()[1].Gone == n })
			})
		})
	}
}

func TestConnectionsThatWereWatchedGoOn(t *testing.T) {
	var used sync.Map // connections to the backend
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		used.Store(r.RemoteAddr, true)
		body, _ := io.ReadAll(r.Body)
		<-time.After(2 * watchAfter)
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	inClearAndTLS(t, p, func(t *testing.T, dial func() (net.Conn, *bufio.Reader)) {
		c, br := dial()
		for i, head := range []string{"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"} {
			fmt.Fprint(c, head)
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); !strings.HasPrefix(string(body), fmt.Sprintf("/%d ", i)) || err != nil || res.Close {
				t.Fatalf("%d: got %q, %v, %v", i, body, err, res)
			}
		}
	})
	conns := 0
	used.Range(func(any, any) bool {
		conns++
		return true
	})
	if s := p.Collect()[1]; s.Gone != 0 || s.Requests[2] != 8 || conns > 4 { // a POST takes none that has been idle for long
		t.Errorf("got counts %+v, over %d connections", s, conns)
	}
}

// clearHTTP2 serves a handler by HTTP/2 without TLS.
func clearHTTP2(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &protocols}
	served := make(chan struct{})
	go func() {
		_ = s.Serve(l)
		close(served)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
	return l.Addr().String()
}

func TestHTTP1ToHTTP2(t *testing.T) {
	addr := clearHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d %s", r.ProtoMajor, body)
		w.Header().Set("X-Sum", "sum of "+r.Trailer.Get("X-Client"))
	})
	p := start(t, Options{})
	rt := routeTo(addr)
	rt.GRPC = true
	p.set(t, rt)
	for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
		got := raw(t, p.addr, "POST / HTTP/1.1\r\nHost: a\r\n"+expect+"Trailer: X-Client\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Client: bytes\r\n\r\n")
		_, after, told := strings.Cut(got, "HTTP/1.1 100 Continue\r\n\r\n")
		if told != (expect != "") {
			t.Errorf("got %q", got)
		} else if told {
			got = after
		}
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "2 abc" || err != nil || res.Trailer.Get("X-Sum") != "sum of bytes" {
			t.Errorf("got %q, %v, trailers %v", body, err, res.Trailer)
		}
	}
}

// TestBodyAfterARetry has bodies that come when one backend could not be connected to, and another is sent the request.
func TestBodyAfterARetry(t *testing.T) {
	addr := clearHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	})
	p := start(t, Options{})
	rt := routeTo(nobody(t), nobody(t), addr)
	rt.GRPC = true
	p.set(t, rt)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	for i := range 2 * ejectAfter {
		body, more := io.Pipe()
		res, err := (&http.Client{Transport: transport}).Post(p.url, "application/grpc", body)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(more, "abc")
		_ = more.Close()
		if got, err := io.ReadAll(res.Body); string(got) != "abc" || err != nil {
			t.Fatalf("%d: got %q, %v, %v", i, got, err, res)
		}
		_ = res.Body.Close()
	}
	if s := p.Collect()[1]; s.Retries == 0 {
		t.Errorf("got counts %+v", s)
	}
}

func TestTunnels(t *testing.T) {
	addr := serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		if err := readRequest(r); err != nil {
			return err
		}
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello\n")
		said, _ := io.ReadAll(r) // until the client has ended its half
		fmt.Fprintf(c, "heard %s", said)
		return io.EOF
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	inClearAndTLS(t, p, func(t *testing.T, dial func() (net.Conn, *bufio.Reader)) {
		c, br := dial()
		fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nfirst ")
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-WebSocket-Accept") != "x" {
			t.Fatalf("got %v %v", res, err)
		}
		if got, err := br.ReadString('\n'); got != "hello\n" {
			t.Fatalf("got %q, %v", got, err)
		}
		fmt.Fprint(c, "second")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(br); string(got) != "heard first second" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		p.settled(t)
	})
	if s := p.Collect()[1]; s.Requests[1] != 2 || s.BytesIn != 24 {
		t.Errorf("got counts %+v", s)
	}
}

func TestMoreConnectionsThanMayBe(t *testing.T) {
	p := start(t, Options{MaxConns: 2})
	p.set(t, routeTo(startApp(t, 0).addr))
	get := func(c net.Conn, br *bufio.Reader) (*http.Response, string) {
		t.Helper()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		return res, string(body)
	}
	var held []net.Conn
	for range 2 {
		c, br := dial(t, p.addr, nil)
		if res, _ := get(c, br); res.StatusCode != 200 {
			t.Fatalf("got %d", res.StatusCode)
		}
		held = append(held, c)
	}
	c, br := dial(t, p.addr, nil)
	if res, body := get(c, br); res.StatusCode != 503 || !res.Close || !strings.Contains(body, "as many connections as it can hold") {
		t.Errorf("got %v %q", res, body)
	}
	_ = c.Close()
	// Of those that are only told so there are not more than some either.
	for range maxSurplus {
		c, _ := dial(t, p.addr, nil)
		held = append(held, c)
	}
	until(t, func() bool { return p.open.Load() == 2+maxSurplus })
	c, _ = dial(t, p.addr, nil)
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v", n, err)
	}
	// When some have gone there is room again.
	for _, c := range held[1:] {
		_ = c.Close()
	}
	until(t, func() bool { return p.open.Load() == 1 })
	c, br = dial(t, p.addr, nil)
	if res, _ := get(c, br); res.StatusCode != 200 || res.Close {
		t.Errorf("got %v", res)
	}
}

func TestIdleTLSConnectionsArePutAside(t *testing.T) {
	if !canPeek {
		t.Skip("this system has no way to look")
	}
	p := start(t, Options{MaxConns: 1 << 20})
	p.open.Add(10_000) // as if there were many
	p.set(t, routeTo(startApp(t, 0).addr))
	url, transport := p.startTLS(t)
	c, br := dial(t, strings.TrimPrefix(url, "https://"), transport.TLSClientConfig)
	for i := range 3 {
		fmt.Fprint(c, getOrPost(i))
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "app 0" || err != nil {
			t.Fatalf("got %q, %v", body, err)
		}
		until(t, func() bool { return p.parked.Load() == 1 })
	}
}

func TestClearTextToTLS(t *testing.T) {
	p := start(t, Options{})
	url, _ := p.startTLS(t)
	if got := raw(t, strings.TrimPrefix(url, "https://"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400 ") || !strings.Contains(got, "https") {
		t.Errorf("got %q", got)
	}
}

// written is a connection that keeps what is written to it.
type written struct {
	net.Conn
	bytes.Buffer
}

func (w *written) Write(b []byte) (int, error)        { return w.Buffer.Write(b) }
func (w *written) Read([]byte) (int, error)           { return 0, io.EOF }
func (w *written) SetWriteDeadline(_ time.Time) error { return nil }

// TestChunksOfEverySize has answers in chunks whose lengths take one to four digits, at all places of the buffer.
func TestChunksOfEverySize(t *testing.T) {
	for _, size := range []int{1, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 32 << 10} {
		w := &written{}
		c := &clientConn{p: New(Options{}), minor: 1}
		t.Cleanup(func() { _ = c.p.Stop(context.Background()) })
		c.Conn, c.rw = w, w
		if err := c.begin(&reply{status: 200, length: -1, body: true, header: header{{"X-Long", strings.Repeat("x", size)}}}); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for i := range 50 {
			part := bytes.Repeat([]byte{byte('a' + i%26)}, size)
			for len(part) > 0 {
				n := copy(c.room(), part)
				want.Write(part[:n])
				part = part[n:]
				if err := c.sent(n); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(c.done(header{{"X-Sum", "s"}}), c.flush()); err != nil {
			t.Fatal(err)
		}
		c.freeOut()
		res, err := http.ReadResponse(bufio.NewReader(&w.Buffer), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != want.String() || err != nil || res.Trailer.Get("X-Sum") != "s" {
			t.Errorf("size %d: got %d bytes, want %d, %v", size, len(body), want.Len(), err)
		}
	}
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := net.Pipe()
		defer other.Close()
		c := &limitedConn{Conn: one}
		defer c.Close()
		began := time.Now()
		read := func() time.Duration {
			t.Helper()
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("got %d, %v", n, err)
			}
			return time.Since(began)
		}
		_ = c.SetReadDeadline(began.Add(5 * time.Second))
		_ = c.SetReadDeadline(began.Add(time.Minute)) // the timer stays where it is
		if took := read(); took != time.Minute {
			t.Errorf("gave up after %v", took)
		}
		_ = c.SetReadDeadline(began.Add(2 * time.Minute))
		go func() {
			time.Sleep(time.Second)
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}()
		if took := read(); took != time.Minute+time.Second {
			t.Errorf("gave up after %v", took)
		}
		_ = c.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Hour)
			_, _ = other.Write([]byte{1})
		}()
		if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
		began = time.Now()
		go func() {
			time.Sleep(30 * time.Second)
			_, _ = other.Read(make([]byte, 1))
		}()
		if n, err := c.Write([]byte("ab")); n != 1 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("wrote %d, %v after %v", n, err, time.Since(began))
		}
	})
}
