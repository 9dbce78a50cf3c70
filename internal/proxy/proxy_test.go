package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// served is a proxy under test on a port of loopback.
type served struct {
	*Proxy
	addr, url string
}

func start(t *testing.T, o Options) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{New(o), l.Addr().String(), "http://" + l.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(context.Background(), l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cut, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Stop(cut)
		serving.Wait()
	})
	return s
}

func (s *served) set(t *testing.T, routes ...Route) {
	t.Helper()
	if err := s.Set(Table{Routes: routes}); err != nil {
		t.Fatal(err)
	}
}

// backendOf serves a handler and gives the address.
func backendOf(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func pool1(name string, weight int, addrs ...string) Pool {
	p := Pool{Name: name, Weight: weight}
	for _, a := range addrs {
		p.Backends = append(p.Backends, Backend{Addr: a})
	}
	return p
}

func routeTo(addrs ...string) Route {
	return Route{Name: "shop/production/web", Pools: []Pool{pool1("r1", 100, addrs...)}}
}

// ask makes a request with a client of its own and gives the answer with its body read.
func ask(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// raw sends bytes over a connection and gives what comes until its end.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection stays open after %q", got)
	}
	return string(got)
}

func TestRequestAndAnswer(t *testing.T) {
	type seen struct {
		method, target, host, body string
		header                     http.Header
	}
	var got seen
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, r.Host, string(body), r.Header}
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(201)
		fmt.Fprint(w, "made")
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/", ""}, {"GET", "/a%2Fb/%20?q=%C3%BC&x=/../", ""}, {"POST", "/form", "a=b"}, {"PUT", "/big", strings.Repeat("0123456789abcdef", 20_000)}, {"DELETE", "/x", ""},
	} {
		res, body := ask(t, c.method, p.url+c.path, c.body, "Host", "shop.example.com", "X-Own", "kept", "Connection", "X-Hop", "X-Hop", "gone", "X-Forwarded-For", "6.6.6.6", "X_Forwarded_For", "6.6.6.6")
		if res.StatusCode != 201 || body != "made" || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: got %d %q %v", c.method, c.path, res.StatusCode, body, res.Header)
		}
		if got.method != c.method || got.target != c.path || got.host != "shop.example.com" || got.body != c.body {
			t.Errorf("%s %s: the backend saw %s %s of %s with %d bytes", c.method, c.path, got.method, got.target, got.host, len(got.body))
		}
		h := got.header
		if h.Get("X-Own") != "kept" || h.Get("X-Hop") != "" || h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X_Forwarded_For") != "" || h.Get("X-Forwarded-Proto") != "http" || h.Get("X-Forwarded-Host") != "shop.example.com" {
			t.Errorf("%s %s: the backend saw headers %v", c.method, c.path, h)
		}
		if id := h.Get("X-Request-Id"); id != res.Header.Get("X-Request-Id") || !goodTraceparent(h.Get("Traceparent")) || h.Get("Traceparent")[3:35] != id {
			t.Errorf("%s %s: id %q, trace %q", c.method, c.path, id, h.Get("Traceparent"))
		}
	}
	s := p.Collect()
	if len(s) != 2 || s[1].Requests[2] != 5 || s[1].InFlight != 0 || s[1].BytesOut != 20 || s[1].BytesIn != 320_003 || s[1].Retries != 0 {
		t.Errorf("got counts %+v", s)
	}
}

func TestWebSocketLikeUpgrade(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello\n", r.Header.Get("Upgrade"))
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(c, "echo "+line)
		}
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nfirst\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("got %v %v", res, err)
	}
	for _, want := range []string{"hello\n", "echo first\n"} {
		if got, err := br.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	p.set(t) // the table changes; what is under way stays
	fmt.Fprint(c, "second\n")
	if got, err := br.ReadString('\n'); got != "echo second\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	draining, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.Drained(draining, addr); err == nil || !strings.Contains(err.Error(), "1 requests are under way") {
		t.Errorf("drained with an open tunnel: %v", err)
	}
	_ = c.Close()
	if err := p.Drained(context.Background(), addr); err != nil {
		t.Error(err)
	}
}
