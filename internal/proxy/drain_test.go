package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load makes requests over so many connections, each kept open, until stop is called, which gives what failed. A client
// does not try again: what is lost is counted.
func load(t *testing.T, conns int, request func(i int) string, addr func() string) (done *atomic.Int64, stop func() []string) {
	t.Helper()
	done = new(atomic.Int64)
	var stopped atomic.Bool
	var mu sync.Mutex
	var failed []string
	var all sync.WaitGroup
	fail := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, fmt.Sprintf(format, args...))
	}
	for range conns {
		all.Go(func() {
			var c net.Conn
			var r *bufio.Reader
			for i := 0; !stopped.Load(); i++ {
				if c == nil {
					var err error
					if c, err = net.Dial("tcp", addr()); err != nil {
						fail("dial: %v", err)
						return
					}
					_ = c.SetDeadline(time.Now().Add(time.Minute))
					r = bufio.NewReader(c)
				}
				if _, err := io.WriteString(c, request(i)); err != nil {
					fail("write: %v", err)
					return
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					fail("read: %v", err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || !strings.HasPrefix(string(body), "app ") {
					fail("got %d %q, %v", res.StatusCode, body, err)
					return
				}
				done.Add(1)
				if res.Close {
					_ = c.Close()
					c = nil
				}
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
	return done, func() []string {
		stopped.Store(true)
		all.Wait()
		return failed
	}
}

func getOrPost(i int) string {
	if i%3 == 2 {
		return "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
	}
	return "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
}

// app is a revision that must not be asked anything once it has been stopped.
type app struct {
	*httptest.Server
	addr string
}

func startApp(t *testing.T, n int) *app {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "app %d", n)
	}))
	t.Cleanup(s.Close)
	return &app{s, s.Listener.Addr().String()}
}

func TestReleasesUnderLoad(t *testing.T) {
	p := start(t, Options{})
	serving := startApp(t, 0)
	p.set(t, routeTo(serving.addr))
	done, stop := load(t, 64, getOrPost, func() string { return p.addr })
	releases := 200
	if testing.Short() {
		releases = 20
	}
	for i := range releases {
		next := startApp(t, i+1)
		name := fmt.Sprintf("r%d", i)
		p.set(t, Route{Name: "a", Pools: []Pool{pool1(name, 50, serving.addr), pool1(name+"n", 50, next.addr)}})
		before := done.Load()
		until(t, func() bool { return done.Load() > before })
		p.set(t, Route{Name: "a", Pools: []Pool{pool1(name+"n", 100, next.addr)}})
		if err := p.Drained(context.Background(), serving.addr); err != nil {
			t.Fatal(err)
		}
		serving.CloseClientConnections() // nothing is waited for: what is under way is lost
		serving.Close()
		serving = next
	}
	if failed := stop(); len(failed) > 0 {
		t.Fatalf("%d of %d requests failed: %.500q", len(failed), done.Load(), failed)
	}
	p.settled(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	if len(p.backends) != 1 || len(p.retired) != 0 {
		t.Errorf("%d backends, %d retired are held", len(p.backends), len(p.retired))
	}
}

// handOver gives the listener of a proxy to another, as to a new process.
func handOver(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	again, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestHandOverUnderLoad(t *testing.T) {
	serving := startApp(t, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	var old *Proxy
	var all sync.WaitGroup
	begin := func(l net.Listener) *Proxy {
		p := New(Options{IdleTimeout: 2 * time.Second})
		if err := p.Set(Table{Routes: []Route{routeTo(serving.addr)}}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := p.Serve(context.Background(), l); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	old = begin(l)
	done, stop := load(t, 64, getOrPost, func() string { return addr })
	// Beside them clients of HTTP/2, which send a POST again only if they are told that it has not been looked at.
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	var posting sync.WaitGroup
	var posted atomic.Int64
	var enough atomic.Bool
	for range 4 {
		posting.Go(func() {
			client := http.Client{Transport: transport}
			for !enough.Load() {
				res, err := client.Post("http://"+addr, "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(res.Body); string(body) != "app 0" || err != nil || res.ProtoMajor != 2 {
					t.Errorf("got %s %q, %v", res.Proto, body, err)
				}
				_ = res.Body.Close()
				posted.Add(1)
			}
		})
	}
	for range 20 {
		two := posted.Load()
		until(t, func() bool { return posted.Load() > two+5 })
		before := done.Load()
		until(t, func() bool { return done.Load() > before+100 })
		next := handOver(t, l)
		fresh := begin(next)
		ending := old
		all.Go(func() {
			if err := ending.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		old, l = fresh, next
	}
	failed := stop()
	enough.Store(true)
	posting.Wait()
	if err := old.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	all.Wait()
	if len(failed) > 0 {
		t.Fatalf("%d of %d requests failed: %.500q", len(failed), done.Load(), failed)
	}
}

func TestStopKeepsIdleConnections(t *testing.T) {
	p := start(t, Options{})
	p.set(t, routeTo(startApp(t, 0).addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	get := func() *http.Response {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		return res
	}
	if get().Close {
		t.Error("closed before the end")
	}
	stopped := make(chan error)
	go func() { stopped <- p.Stop(context.Background()) }()
	until(t, p.ending.Load)
	if res := get(); !res.Close || res.StatusCode != 200 {
		t.Errorf("got %v", res)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", p.addr); err == nil {
		t.Error("it still listens")
	}
}

func TestStopCutsOff(t *testing.T) {
	asked := make(chan struct{})
	addr := backendOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	p := start(t, Options{})
	p.set(t, routeTo(addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	cut, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(cut); err == nil || !strings.Contains(err.Error(), "1 connections were cut off") {
		t.Errorf("got %v", err)
	}
	if err := p.Drained(context.Background(), "127.0.0.1:1"); err != nil {
		t.Error(err)
	}
}

func TestPause(t *testing.T) {
	p := start(t, Options{PauseLimit: 300 * time.Millisecond})
	a := startApp(t, 0)
	paused := routeTo(a.addr)
	paused.Paused = true
	p.set(t, paused)
	if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "paused") {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	if s := p.Collect()[0]; s.Pool != "" || s.Requests[5] != 1 {
		t.Errorf("got counts %+v", s)
	}
	p.o.PauseLimit = time.Minute
	done, stop := load(t, 64, getOrPost, func() string { return p.addr })
	until(t, func() bool { return p.waiting.Load() == 64 })
	p.set(t, paused) // another table that is paused changes nothing
	until(t, func() bool { return p.waiting.Load() == 64 })
	p.set(t, routeTo(a.addr))
	until(t, func() bool { return done.Load() > 1000 })
	if failed := stop(); len(failed) > 0 {
		t.Errorf("%d failed: %.500q", len(failed), failed)
	}
}

func TestIdleConnectionsArePutAside(t *testing.T) {
	p := start(t, Options{IdleTimeout: time.Second, MaxConns: 1 << 20})
	if !canPeek {
		t.Skip("this system has no way to look")
	}
	p.open.Add(10_000) // as if there were many
	p.set(t, routeTo(startApp(t, 0).addr))
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	for i := range 3 {
		fmt.Fprint(c, getOrPost(i))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "app 0" || err != nil {
			t.Fatalf("got %q, %v", body, err)
		}
		until(t, func() bool { return p.parked.Load() == 1 })
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("got %v after the idle timeout", err)
	}
	until(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) == 0
	})
}
