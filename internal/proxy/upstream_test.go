package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// readRequest takes a request without a body off a connection.
func readRequest(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return err
		}
	}
}

// answers serves one text to each request, and closes the connection after it if close says so.
func answers(t *testing.T, text string, closes bool) string {
	return serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		if err := readRequest(r); err != nil {
			return err
		}
		if _, err := io.WriteString(c, text); err != nil || closes {
			return io.EOF
		}
		return nil
	})
}

func TestAnswersOfEveryForm(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	for _, c := range []struct {
		name, answer string
		closes       bool
		status       int
		body         string
		header       string
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc", false, 200, "abc", "X-A: b"},
		{"no body", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", false, 204, "", "X-A: b"},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nEtag: \"x\"\r\n\r\n", false, 304, "", "Etag: \"x\""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n", false, 200, "abcde", ""},
		{"until the end", "HTTP/1.0 200 OK\r\n\r\nabc", true, 200, "abc", ""},
		{"large", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + big, false, 200, big, ""},
		{"large in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n" + big + "\r\n0\r\n\r\n", false, 200, big, ""},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", false, 200, "abc", ""},
		{"an interim answer", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc", ""},
		{"continue without being asked", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc", ""},
		{"hop-by-hop headers", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: X-Hop\r\nX-Hop: a\r\nKeep-Alive: timeout=5\r\nX-A: b\r\n\r\nabc", false, 200, "abc", "X-A: b"},
		{"status 500", "HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nabc", false, 500, "abc", ""},
		{"nothing", "", true, 502, "closed the connection without an answer", ""},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", true, 502, "not HTTP", ""},
		{"not HTTP", "220 smtp.example.com ESMTP\r\n", true, 502, "not HTTP", ""},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", true, 502, "not HTTP", ""},
		{"a length and a coding", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, 502, "not HTTP", ""},
		{"a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", true, 502, "not HTTP", ""},
		{"a length twice", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc", ""},
		{"a space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc", true, 502, "not HTTP", ""},
		{"a folded header", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n c\r\n\r\nabc", true, 502, "not HTTP", ""},
		{"a control character", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\x00c\r\n\r\nabc", true, 502, "not HTTP", ""},
		{"a coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, 502, "not HTTP", ""},
		{"HTTP/1.0 that keeps the connection", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc", ""},
		{"HTTP/2", "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", true, 502, "not HTTP", ""},
		{"a long header", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: " + strings.Repeat("b", 10_000) + "\r\n\r\nabc", false, 200, "abc", "X-A: " + strings.Repeat("b", 10_000)},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc", ""},
		{"an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd", true, 502, "not HTTP", ""},
		{"a header that is too large", "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", maxResponseHead) + "\r\n\r\n", true, 502, "the head of the service's answer is too large", ""},
		{"headers without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", maxResponseHead/8), true, 502, "the head of the service's answer is too large", ""},
		{"interim answers without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), true, 502, "not HTTP", ""},
		{"another protocol that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", true, 502, "a protocol that nobody asked for", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, Options{})
			p.set(t, routeTo(answers(t, c.answer, c.closes)))
			for range 3 { // again over the same connection
				res, body := ask(t, "GET", p.url, "")
				if res.StatusCode != c.status || c.status != 502 && body != c.body || !strings.Contains(body, c.body) {
					t.Fatalf("got %d and %d bytes: %.200q", res.StatusCode, len(body), body)
				}
				if name, value, ok := strings.Cut(c.header, ": "); ok && res.Header.Get(name) != value {
					t.Errorf("got %v", res.Header)
				}
				if res.Header.Get("X-Hop") != "" || res.Header.Get("Keep-Alive") != "" {
					t.Errorf("headers of one hop came through: %v", res.Header)
				}
				if c.status == 502 && (res.Header.Get("X-Request-Id") == "" || !strings.Contains(body, res.Header.Get("X-Request-Id"))) {
					t.Errorf("no request id: %v %q", res.Header, body)
				}
			}
			if s := p.Collect()[1]; s.Requests[c.status/100] != 3 || c.status == 502 && s.Resets != 3 {
				t.Errorf("got counts %+v", s)
			}
		})
	}
}

func TestAnswerThatBreaksOff(t *testing.T) {
	for name, text := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var log lines
			p := start(t, Options{AccessLog: &log})
			p.set(t, routeTo(answers(t, text, true)))
			res, err := http.Get(p.url)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				_ = res.Body.Close()
			}
			if err == nil {
				t.Error("the client does not see that something is missing")
			}
			p.settled(t)
			if s := p.Collect()[1]; s.Resets != 1 || s.InFlight != 0 {
				t.Errorf("got counts %+v", s)
			}
		})
	}
}

// lines is a writer that may be read meanwhile.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// settled waits until nothing is under way.
func (s *served) settled(t *testing.T) {
	t.Helper()
	until(t, func() bool {
		for _, c := range s.Collect() {
			if c.InFlight != 0 {
				return false
			}
		}
		return true
	})
}

// until waits for a condition that will come about by itself.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("it does not come about")
		}
	}
}

func TestNoBytesOfAnotherAnswer(t *testing.T) {
	// A backend that says more than an answer has must not answer the next request with it.
	p := start(t, Options{})
	p.set(t, routeTo(answers(t, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", false)))
	for range 5 {
		if _, body := ask(t, "GET", p.url, ""); body != "abc" {
			t.Fatalf("got %q", body)
		}
	}
	// Nor if it comes later, while the connection is idle.
	later := make(chan struct{})
	said := make(chan struct{})
	var n atomic.Int32
	p.set(t, routeTo(serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		if err := readRequest(r); err != nil {
			return err
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		if n.Add(1) == 1 {
			<-later
			_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
			close(said)
		}
		return err
	})))
	if _, body := ask(t, "GET", p.url, ""); body != "abc" {
		t.Fatalf("got %q", body)
	}
	close(later)
	<-said
	if _, body := ask(t, "GET", p.url, ""); body != "abc" {
		t.Fatalf("got %q", body)
	}
}

func TestStaleConnections(t *testing.T) {
	// A backend that closes its connections after each answer without saying so, as it may: nobody notices.
	var n atomic.Int32
	addr := serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		if err := readRequest(r); err != nil {
			return err
		}
		n.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		return io.EOF
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	for i := range 100 {
		if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 200 || body != "abc" {
			t.Fatalf("%d: got %d %q", i, res.StatusCode, body)
		}
	}
	if n.Load() != 100 {
		t.Errorf("the backend saw %d requests", n.Load())
	}
}

func TestPostIsSentOnce(t *testing.T) {
	var n atomic.Int32
	addr := serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		req, err := http.ReadRequest(r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, req.Body)
		if n.Add(1) == 2 {
			return io.EOF // it has read the request, and dies
		}
		_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
		return err
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	_, _ = ask(t, "POST", p.url, "a")
	if res, _ := ask(t, "POST", p.url, "a"); res.StatusCode != 502 || n.Load() != 2 {
		t.Errorf("got %d, and the backend saw %d requests", res.StatusCode, n.Load())
	}
	n.Store(1)
	if res, _ := ask(t, "GET", p.url, ""); res.StatusCode != 502 {
		// the connection was new: the request may have been worked on, and nobody knows that GET does nothing here
		t.Errorf("got %d", res.StatusCode)
	}
	n.Store(0)
	_, _ = ask(t, "GET", p.url, "")
	if res, _ := ask(t, "GET", p.url, ""); res.StatusCode != 200 || n.Load() != 3 {
		t.Errorf("got %d, and the backend saw %d requests", res.StatusCode, n.Load())
	}
}

// nobody is an address at which nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRetriesAndEjection(t *testing.T) {
	dead, other := nobody(t), nobody(t)
	live := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	p := start(t, Options{})
	p.set(t, routeTo(dead, live))
	for i := range 30 {
		if res, body := ask(t, "POST", p.url, strings.Repeat("x", 100_000)); res.StatusCode != 200 || len(body) != 100_000 {
			t.Fatalf("%d: got %d and %d bytes", i, res.StatusCode, len(body))
		}
	}
	s := p.Collect()[1]
	if s.ConnectFailures != ejectAfter || s.Retries != ejectAfter || s.Requests[2] != 30 || !s.Backends[0].Ejected || s.Backends[1].Ejected {
		t.Errorf("got counts %+v", s)
	}
	// The last is never ejected: all are tried.
	p.set(t, routeTo(dead, other))
	for range 10 {
		if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 502 || !strings.Contains(body, "no instance of this service can be connected to") {
			t.Fatalf("got %d %q", res.StatusCode, body)
		}
	}
	if s := p.Collect()[1]; s.Requests[5] != 10 || s.ConnectFailures < 20 {
		t.Errorf("got counts %+v", s)
	}
	p.set(t, routeTo())
	if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 503 || !strings.Contains(body, "no instance of this service is running") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	p.set(t, Route{Name: "a", Pools: []Pool{pool1("r1", 0, live)}})
	if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 503 || !strings.Contains(body, "no revision of this service takes traffic") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	p.set(t)
	if res, body := ask(t, "GET", p.url, "", "Host", "a<b>.example.com", "Accept", "text/html"); res.StatusCode != 404 || !strings.Contains(body, "<!doctype html>") || strings.Contains(body, "<b>") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestLeastInFlight(t *testing.T) {
	hold := make(chan struct{})
	slow := backendOf(t, func(http.ResponseWriter, *http.Request) { <-hold })
	quick := backendOf(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "quick") })
	p := start(t, Options{})
	p.set(t, routeTo(slow))
	var held sync.WaitGroup
	held.Go(func() { ask(t, "GET", p.url, "") })
	defer held.Wait()
	defer close(hold)
	until(t, func() bool { return p.Collect()[1].InFlight == 1 })
	p.set(t, routeTo(slow, quick))
	for range 20 {
		if _, body := ask(t, "GET", p.url, ""); body != "quick" {
			t.Fatalf("got %q", body)
		}
	}
}

func TestEventsComeAtOnce(t *testing.T) {
	next := make(chan string)
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case event := <-next:
				fmt.Fprint(w, event)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				next <- "the backend hears that the client has gone"
				return
			}
		}
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "GET", p.url, nil)
	res, err := http.DefaultClient.Do(r) // the head comes before any event
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, event := range []string{"data: 1\n\n", "data: 2\n\n"} {
		next <- event
		got := make([]byte, len(event))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != event {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	cancel()
	<-next
	p.settled(t)
}

func TestTrailersAndBothWays(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		line := bufio.NewReader(r.Body)
		for {
			text, err := line.ReadString('\n')
			if err != nil {
				break
			}
			fmt.Fprint(w, "echo "+text)
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("X-Sum", "sum of "+r.Trailer.Get("X-Client"))
		w.Header().Set(http.TrailerPrefix+"X-More", "unannounced")
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Client\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(res.Body)
	if line, err := body.ReadString('\n'); line != "echo one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	fmt.Fprint(c, "4\r\ntwo\n\r\n0\r\nX-Client: bytes\r\n\r\n")
	if rest, err := io.ReadAll(body); string(rest) != "echo two\n" || err != nil {
		t.Fatalf("got %q, %v", rest, err)
	}
	if res.Trailer.Get("X-Sum") != "sum of bytes" || res.Trailer.Get("X-More") != "unannounced" {
		t.Errorf("got trailers %v", res.Trailer)
	}
}

func TestContinue(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Expect") != "100-continue" {
				t.Errorf("the backend was not asked: %v", r.Header)
			}
			if refuse {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			_, _ = io.Copy(w, r.Body)
		})
		p := start(t, Options{})
		p.set(t, routeTo(addr))
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case refuse && (res.StatusCode != 403 || !res.Close):
			t.Errorf("got %v", res)
		case !refuse:
			if res.StatusCode != 100 {
				t.Fatalf("got %v", res)
			}
			fmt.Fprint(c, "hello")
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(res.Body); string(body) != "hello" || res.StatusCode != 200 {
				t.Errorf("got %v %q", res, body)
			}
		}
		_ = c.Close()
	}
}

func TestHead(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "12345") })
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	for range 3 {
		if res, body := ask(t, "HEAD", p.url, ""); res.ContentLength != 12345 || body != "" {
			t.Errorf("got %v", res)
		}
	}
}

// FuzzAnswer gives any bytes as an answer: the client gets a whole answer or a broken connection, and the next request is
// answered by its own answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 404\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"))
	p := New(Options{ResponseTimeout: time.Second})
	f.Cleanup(func() {
		cut, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Stop(cut)
	})
	var answer atomic.Pointer[[]byte]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); readRequest(r) == nil; {
					if _, err := c.Write(*answer.Load()); err != nil || string(*answer.Load()) != "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" {
						return
					}
				}
			}()
		}
	}()
	if err := p.Set(Table{Routes: []Route{routeTo(l.Addr().String())}}); err != nil {
		f.Fatal(err)
	}
	good := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f.Fuzz(func(t *testing.T, text []byte) {
		answer.Store(&text)
		func() {
			defer func() {
				if r := recover(); r != nil && r != http.ErrAbortHandler {
					panic(r)
				}
			}()
			w := httptest.NewRecorder()
			p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			for name, values := range w.Header() {
				for _, v := range values {
					if strings.ContainsAny(name+v, "\r\n") {
						t.Fatalf("header %q: %q", name, v)
					}
				}
			}
		}()
		answer.Store(&good)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Code != 200 || w.Body.String() != "ok" {
			t.Fatalf("got %d %q", w.Code, w.Body)
		}
	})
}

// FuzzReadHead holds the reader of answers to net/http's: what it takes, net/http takes for the same.
func FuzzReadHead(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-a: b \r\nx-A: \tc\r\n\r\nabcrest",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X\n\n3\r\nabc\r\n0\r\nX: y\r\n\r\nrest",
		"HTTP/1.0 404\r\nConnection: keep-alive, close\r\n\r\nto the end",
		"HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 000 No\n\n",
		"HTTP/1.1 200 \nTransfer-Encoding: Chunked\n\n0\r\n\n",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		u := newUpstream(nil)
		u.br = bufio.NewReader(bytes.NewReader(text))
		u.begin()
		got, err := u.readHead(method)
		if err != nil {
			return
		}
		theirs := bufio.NewReaderSize(bytes.NewReader(text), maxTrailers)
		want, err := http.ReadResponse(theirs, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http says %v of %q", err, text)
		}
		final := got.status >= 200
		if got.status != want.StatusCode || final && (got.length != want.ContentLength && got.body != nil || !got.closes && want.Close) {
			t.Fatalf("got %+v, want %+v of %q", got, want, text)
		}
		want.Header.Del("Trailer")
		headers := got.header.std()
		headers.Del("Trailer")
		headers.Del("Transfer-Encoding")
		if lengths := headers["Content-Length"]; len(lengths) > 1 {
			headers["Content-Length"] = lengths[:1]
		}
		if _, added := headers["Cache-Control"]; !added && want.Header.Get("Pragma") == "no-cache" {
			want.Header.Del("Cache-Control") // which net/http makes up
		}
		if !reflect.DeepEqual(headers, want.Header) {
			t.Fatalf("got %q, want %q of %q", headers, want.Header, text)
		}
		if !final {
			return
		}
		var body []byte
		if got.body != nil {
			body, err = io.ReadAll(got.body)
		}
		wanted, err2 := io.ReadAll(want.Body)
		if err == nil && err2 != nil || !bytes.Equal(body, wanted) && err == nil {
			t.Fatalf("got %q, %v, want %q, %v of %q", body, err, wanted, err2, text)
		}
		rest, _ := io.ReadAll(u.br)
		if wantedRest, _ := io.ReadAll(theirs); err == nil && !bytes.Equal(rest, wantedRest) {
			t.Fatalf("%q is left, want %q of %q", rest, wantedRest, text)
		}
	})
}
