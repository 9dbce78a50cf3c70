package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestBodies(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	p := start(t, Options{MaxBody: 1_000_000})
	rt := routeTo(addr)
	rt.Path = "/more"
	rt.MaxBody = 2_000_000
	p.set(t, routeTo(addr), rt)
	for _, c := range []struct {
		path           string
		size           int
		chunked, taken bool
	}{
		{"/", 1_000_000, false, true}, {"/", 1_000_001, false, false}, {"/", 1_000_000, true, true}, {"/", 1_000_001, true, false},
		{"/more", 2_000_000, false, true}, {"/more", 2_000_001, true, false}, {"/", 0, true, true}, {"/", smallBody, false, true}, {"/", smallBody + 1, false, true},
	} {
		var body io.Reader = bytes.NewReader(make([]byte, c.size))
		if c.chunked {
			body = struct{ io.Reader }{body}
		}
		res, err := http.Post(p.url+c.path, "text/plain", body)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if c.taken && string(text) != fmt.Sprintf("%d <nil>", c.size) || !c.taken && (res.StatusCode != 413 || !strings.Contains(string(text), "taken here")) {
			t.Errorf("%+v: got %d %q", c, res.StatusCode, text)
		}
	}
}

func TestHeaderBombs(t *testing.T) {
	p := start(t, Options{MaxHeader: 8 << 10})
	p.set(t, routeTo(startApp(t, 0).addr))
	for name, text := range map[string]string{
		"one large":  "GET / HTTP/1.1\r\nHost: a\r\nX-A: " + strings.Repeat("a", 100_000),
		"many small": "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-A: b\r\n", 100_000),
		"no end":     "GET /" + strings.Repeat("a", 100_000),
	} {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		go func() { _, _ = io.WriteString(c, text) }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != 431 {
			t.Errorf("%s: got %v, %v", name, res, err)
		}
		_ = c.Close()
	}
	if res, _ := ask(t, "GET", p.url, "", "X-A", strings.Repeat("a", 4000)); res.StatusCode != 200 {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestSlowClients(t *testing.T) {
	var asked atomic.Int32
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/large" {
			for range 10_000 {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					return
				}
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
	})
	p := start(t, Options{HeaderTimeout: 200 * time.Millisecond, StallTimeout: 200 * time.Millisecond, IdleTimeout: 200 * time.Millisecond})
	p.set(t, routeTo(addr))
	for _, c := range []struct {
		name, text, status string
		asked              int32
	}{
		{"nothing", "", "", 0},
		{"half a head", "GET / HTTP/1.1\r\nHost: a", "", 0},
		{"half a small body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", "408", 0},
		{"half a large body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc", "408", 1},
		{"half a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "408", 1},
		{"nothing more", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200", 1},
		{"half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM", "", 0},
	} {
		asked.Store(0)
		got := raw(t, p.addr, c.text) // ends since the proxy ends the connection
		if c.status == "" && strings.Contains(got, "200 OK") || c.status != "" && !strings.HasPrefix(got, "HTTP/1.1 "+c.status) {
			t.Errorf("%s: got %q", c.name, got)
		}
		p.settled(t)
		until(t, func() bool { return asked.Load() == c.asked })
	}
	// A client that takes nothing of a large answer does not hold its backend.
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
	until(t, func() bool { return p.Collect()[1].InFlight == 1 })
	p.settled(t)
}

func TestResponseTimeout(t *testing.T) {
	hold := make(chan struct{})
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-hold
	})
	defer close(hold)
	p := start(t, Options{})
	rt := routeTo(addr)
	rt.ResponseTimeout = 100 * time.Millisecond
	p.set(t, rt)
	for _, body := range []string{"", "small", strings.Repeat("x", 200_000)} {
		if res, text := ask(t, "POST", p.url, body); res.StatusCode != 504 || !strings.Contains(text, "did not begin to answer within 100ms") {
			t.Errorf("%d bytes: got %d %q", len(body), res.StatusCode, text)
		}
	}
}

func TestClientThatGoesAway(t *testing.T) {
	asked, left := make(chan struct{}), make(chan struct{})
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(left)
	})
	var log lines
	p := start(t, Options{AccessLog: &log})
	p.set(t, routeTo(addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	_ = c.Close()
	<-left
	until(t, func() bool { return p.Collect()[1].Gone == 1 })
	until(t, func() bool { return strings.Contains(log.String(), `"status":499`) })
	if s := p.Collect()[1]; s.Requests != [6]uint64{} || s.Resets != 0 {
		t.Errorf("got counts %+v", s)
	}
}

func TestForwardedOfTrustedPeers(t *testing.T) {
	seen := make(chan http.Header, 1)
	addr := backendOf(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	p := start(t, Options{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	p.set(t, routeTo(addr))
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ask(t, "GET", p.url, "", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "outer", "Forwarded", "for=6.6.6.6", "Traceparent", trace, "X-Request-Id", "mine")
	h := <-seen
	for name, want := range map[string]string{"X-Forwarded-For": "6.6.6.6, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer", "Forwarded": "for=6.6.6.6", "Traceparent": trace, "X-Request-Id": "mine"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	ask(t, "GET", p.url, "", "Traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "X-Request-Id", "a b")
	if h := <-seen; !goodTraceparent(h.Get("Traceparent")) || h.Get("X-Request-Id") != h.Get("Traceparent")[3:35] {
		t.Errorf("got %v", h)
	}
}

func TestMirror(t *testing.T) {
	type copied struct{ method, target, body, mark string }
	copies := make(chan copied, 100)
	hold := make(chan struct{})
	shadow := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		copies <- copied{r.Method, r.RequestURI, string(body), r.Header.Get("X-Penstock-Mirror")}
		if r.URL.Path == "/hold" {
			<-hold
		}
		w.WriteHeader(500)
	})
	p := start(t, Options{})
	rt := Route{Name: "a", Path: "/api", Strip: true, Pools: []Pool{pool1("old", 100, startApp(t, 1).addr), pool1("new", 0, shadow)}, Mirror: "new", MirrorPercent: 100}
	p.set(t, rt)
	large := strings.Repeat("x", smallBody+1)
	for _, c := range []copied{{"GET", "/a%2F?q", "", "true"}, {"POST", "/b", "small", "true"}, {"PUT", "/c", large, "true"}} {
		if res, body := ask(t, c.method, p.url+"/api"+c.target, c.body, "X-Penstock-Mirror", "mine"); res.StatusCode != 200 || body != "app 1" {
			t.Fatalf("got %d %q", res.StatusCode, body)
		}
		if got := <-copies; got != c {
			t.Errorf("got %.100v, want %.100v", got, c)
		}
	}
	if res, _ := ask(t, "POST", p.url+"/api", strings.Repeat("x", maxMirrorBody+1)); res.StatusCode != 200 {
		t.Errorf("got %d", res.StatusCode)
	}
	p.settled(t)
	for _, s := range p.Collect() {
		if s.Pool == "new" && (s.Mirrored != 3 || s.Requests[5] != 3 || s.BytesIn != uint64(len("small")+len(large))) || s.Pool == "old" && s.Requests[2] != 4 {
			t.Errorf("got counts %+v", s)
		}
	}
	// Copies that hang hold nobody up: there are only so many, and the rest have none.
	for range 4 * maxMirrors {
		if res, _ := ask(t, "GET", p.url+"/api/hold", ""); res.StatusCode != 200 {
			t.Fatalf("got %d", res.StatusCode)
		}
	}
	if n := len(copies); n > maxMirrors {
		t.Errorf("%d copies under way", n)
	}
	close(hold)
	rt.MirrorPercent = 0
	p.set(t, rt)
}

func TestSticky(t *testing.T) {
	p := start(t, Options{Key: 7})
	a, b := startApp(t, 1), startApp(t, 2)
	split := func(percent int) {
		p.set(t, Route{Name: "a", Sticky: Sticky{Cookie: "place"}, Pools: []Pool{pool1("a", 100-percent, a.addr), pool1("b", percent, b.addr)}})
	}
	split(50)
	cookies := map[string]string{}
	for range 40 {
		res, body := ask(t, "GET", p.url, "")
		cookie, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";")
		if !strings.HasPrefix(cookie, "place=") || cookies[cookie] != "" {
			t.Fatalf("got cookie %q", cookie)
		}
		cookies[cookie] = body
	}
	for cookie, was := range cookies {
		res, body := ask(t, "GET", p.url, "", "Cookie", cookie)
		if body != was || res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: got %q and %v, was %q", cookie, body, res.Header, was)
		}
	}
	split(80)
	for cookie, was := range cookies {
		if _, body := ask(t, "GET", p.url, "", "Cookie", cookie); was == "app 2" && body != was {
			t.Errorf("%s was moved back", cookie)
		}
	}
	if res, _ := ask(t, "GET", p.url, "", "Cookie", "place="+strings.Repeat("x", 1000)); !strings.HasPrefix(res.Header.Get("Set-Cookie"), "place=") {
		t.Error("any cookie is believed")
	}
}

func TestAccessLogAndMetrics(t *testing.T) {
	var log lines
	p := start(t, Options{AccessLog: &log})
	p.set(t, routeTo(startApp(t, 0).addr))
	ask(t, "POST", p.url+"/a\"b%7f?token=secret", "body", "User-Agent", "m\te\"\\\u2028")
	ask(t, "GET", p.url+"/"+strings.Repeat("x", 2000), "")
	until(t, func() bool { return strings.Count(log.String(), "\n") == 2 })
	if text := log.String(); strings.Contains(text, "secret") || strings.Contains(text, strings.Repeat("x", 1000)) {
		t.Errorf("got %s", text)
	}
	first, _, _ := strings.Cut(log.String(), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatalf("%v: %s", err, first)
	}
	for name, want := range map[string]any{"msg": "request", "route": "shop/production/web", "pool": "r1", "client": "127.0.0.1", "method": "POST", "path": "/a\"b\x7f", "proto": "HTTP/1.1", "status": 200.0, "in": 4.0, "out": 5.0, "agent": "m\te\"\\\u2028"} {
		if line[name] != want {
			t.Errorf("%s: got %q, want %q", name, line[name], want)
		}
	}

	r := prometheus.NewPedanticRegistry()
	if err := r.Register(p.Collector()); err != nil {
		t.Fatal(err)
	}
	metrics := backendOf(t, promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP)
	_, text := ask(t, "GET", "http://"+metrics, "")
	for _, want := range []string{
		`penstock_proxy_requests_total{class="2xx",pool="r1",route="shop/production/web"} 2`,
		`penstock_proxy_request_duration_seconds_bucket{pool="r1",route="shop/production/web",le="65.536"} 2`,
		`penstock_proxy_request_duration_seconds_count{pool="r1",route="shop/production/web"} 2`,
		`penstock_proxy_bytes_total{direction="out",pool="r1",route="shop/production/web"} 10`,
		`penstock_proxy_access_log_dropped_total 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestLogThatCannotBeWritten(t *testing.T) {
	r, w := io.Pipe() // nobody reads
	p := start(t, Options{AccessLog: w})
	t.Cleanup(func() { _ = r.Close() })
	p.set(t, routeTo(startApp(t, 0).addr))
	done, stop := load(t, 8, getOrPost, func() string { return p.addr })
	until(t, func() bool { return p.log.droppedLines() > 0 })
	before := done.Load()
	until(t, func() bool { return done.Load() > before+100 })
	if failed := stop(); len(failed) > 0 {
		t.Errorf("%d failed: %.500q", len(failed), failed)
	}
	_ = r.Close()
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("a\"\\\x00\x7f\xff\u2028ü")
	f.Fuzz(func(t *testing.T, s string) {
		b := appendJSON(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if len(s) <= 512 && got != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(got, "\ufffd") {
			t.Fatalf("%q became %q", s, got)
		}
		for _, c := range b {
			if c < ' ' || c == 0x7f {
				t.Fatalf("%q", b)
			}
		}
	})
}
