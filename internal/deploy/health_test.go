package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// TestAsk asks servers that answer well, badly, and in no way at all.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		name string
		path string
		how  http.HandlerFunc
		want string // empty is well
	}{
		{"well", "/health", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") }, ""},
		{"path", "health?deep=1", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RequestURI() != "/health?deep=1" || r.Host != "localhost" || r.UserAgent() != userAgent || r.Method != http.MethodGet {
				http.Error(w, r.Method+" "+r.URL.String()+" of "+r.Host, http.StatusTeapot)
			}
		}, ""},
		{"redirect", "/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, ""},
		{"bad", "/health", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no database\nmore", http.StatusServiceUnavailable)
		}, "GET /health answered 503: no database"},
		{"empty", "/health", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) }, "GET /health answered 404"},
		{"binary", "/health", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("\xff", 1<<20))
		}, "GET /health answered 500: ?"},
		{"hang", "/health", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "GET /health gave no answer within 50ms"},
		{"huge headers", "/health", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, "GET /health: "},
		{"hang up", "/health", func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.Close()
		}, "GET /health: EOF"},
		{"no HTTP", "/health", func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n")
			conn.Close()
		}, "GET /health: net/http: HTTP/1.x transport connection broken: malformed HTTP response"},
		{"port alone", "", func(w http.ResponseWriter, r *http.Request) { t.Error("asked for a page") }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(c.how)
			defer s.Close()
			health := withDefaults(cd.Health{Path: c.path})
			if c.name == "hang" {
				health.Timeout = 50 * time.Millisecond
			}
			err := (&checker{health, func(ctx context.Context) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
			}}).ask(t.Context())
			if (err == nil) != (c.want == "") || err != nil && (!strings.HasPrefix(err.Error(), c.want) || len(err.Error()) > 500) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	refuse := &checker{withDefaults(cd.Health{Path: "/"}), func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }}
	var closed errClosed
	if err := refuse.ask(t.Context()); !errors.As(err, &closed) {
		t.Errorf("where nothing listens: %v", err)
	}
}

// TestPatient follows an instance through its life: how long it may take to start, and how many bad answers it may give.
func TestPatient(t *testing.T) {
	bad := errors.New("bad")
	began := time.Unix(1000, 0)
	p := &patient{health: cd.Health{Interval: time.Second, Retries: 3}, began: began, state: cd.Starting}
	now, asked := began, 0
	for ; p.state == cd.Starting; now = now.Add(p.pause(now)) {
		if asked++; asked > 10_000 {
			t.Fatal("it starts for ever")
		}
		p.hear(bad, now)
	}
	if took := now.Sub(began); p.state != cd.Ill || took < 3*time.Second || took > 5*time.Second || asked < 50 {
		t.Errorf("%s after %s, asked %d times; its start may take 3 intervals, and it is asked often at first", p.state, took, asked)
	}
	if p.pause(now) != time.Second {
		t.Errorf("one that is ill is asked again after %s", p.pause(now))
	}
	p.hear(nil, now)
	for i, want := range []cd.State{cd.Healthy, cd.Healthy, cd.Ill, cd.Ill} {
		if p.hear(bad, now); p.state != want {
			t.Errorf("after %d bad answers: %s, want %s", i+1, p.state, want)
		}
	}
	p.hear(nil, now)
	p.hear(bad, now)
	p.hear(bad, now)
	p.hear(nil, now)
	if p.hear(bad, now); p.state != cd.Healthy {
		t.Errorf("bad answers count that good ones came between")
	}
}

// TestPatientIsHopeless holds what is started again because it is ill: what was well, and for long enough.
func TestPatientIsHopeless(t *testing.T) {
	bad, now := errors.New("bad"), time.Unix(1000, 0)
	for _, c := range []struct {
		interval time.Duration
		well     bool
		after    time.Duration // 0 is never
	}{{time.Second, true, 5 * time.Second}, {10 * time.Second, true, 30 * time.Second}, {time.Second, false, 0}} {
		p := &patient{health: cd.Health{Interval: c.interval, Retries: 3}, began: now.Add(-time.Hour), state: cd.Starting}
		if c.well {
			p.hear(nil, now)
		}
		for range 3 {
			p.hear(bad, now)
		}
		if p.state != cd.Ill || p.hopeless(now.Add(c.after-1)) {
			t.Errorf("%+v: %s, and too early hopeless", c, p.state)
		}
		if got := p.hopeless(now.Add(cmp.Or(c.after, time.Hour))); got != c.well {
			t.Errorf("%+v: hopeless is %v", c, got)
		}
		if p.hear(nil, now); p.hopeless(now.Add(time.Hour)) {
			t.Errorf("%+v: it is hopeless though it is well", c)
		}
	}
}

func TestPauses(t *testing.T) {
	var p pauses
	for i, c := range []struct{ ran, want time.Duration }{
		{time.Second, time.Second}, {time.Second, 2 * time.Second}, {time.Second, 4 * time.Second}, {2 * longRun, 0}, {time.Second, time.Second},
		{longRun, 2 * time.Second}, {0, 4 * time.Second}, {0, 8 * time.Second}, {0, 16 * time.Second}, {0, 32 * time.Second}, {0, lastPause}, {0, lastPause}, {2 * longRun, 0}, {2 * longRun, 0},
	} {
		if got := p.next(c.ran); got != c.want {
			t.Errorf("%d: after %s it waits %s, want %s", i, c.ran, got, c.want)
		}
	}
}

func TestProbe(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			http.Error(w, "warming up", http.StatusBadGateway)
		}
	}))
	defer s.Close()
	var told []string
	progress := func(try, of int, err error) { told = append(told, fmt.Sprintf("%d/%d %v", try, of, err)) }
	if err := Probe(t.Context(), s.URL, time.Millisecond, time.Second, 5, progress); err != nil || len(told) != 2 || told[1] != "2/5 GET "+s.URL+" answered 502: warming up" {
		t.Errorf("got %v, told %q", err, told)
	}
	asked.Store(-100)
	if err := Probe(t.Context(), s.URL, time.Millisecond, time.Second, 2, nil); err == nil || err.Error() != "after 2 tries: GET "+s.URL+" answered 502: warming up" {
		t.Errorf("never well: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Probe(ctx, s.URL, time.Hour, time.Second, 9, func(int, int, error) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	s.Close()
	if err := Probe(t.Context(), s.URL, time.Millisecond, time.Second, 1, nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	for _, bad := range []string{"", "shop.example.com", "ftp://x/", "http://", "http://a b/"} {
		if err := Probe(t.Context(), bad, time.Millisecond, time.Second, 1, nil); err == nil || !strings.Contains(err.Error(), "no URL to ask") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestTeller has Seen fail and take its time: all is told in order, one call at a time, and one that fails does not hold up
// the others.
func TestTeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		var calls atomic.Int32
		heard := map[cd.ReleaseID][]int{}
		sick := true
		tell := newTeller(func(_ context.Context, r cd.ReleaseID, o cd.Observed) error {
			if calls.Add(1) != 1 {
				t.Error("two calls at a time")
			}
			defer calls.Add(-1)
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if sick && r == 2 {
				return errors.New("not now")
			}
			heard[r] = append(heard[r], o.Instance.Restarts)
			return nil
		})
		go tell.run(ctx)
		for i := range 20 {
			for r := range cd.ReleaseID(3) {
				tell.tell(instanceID{release: r}, cd.Instance{Restarts: i})
			}
		}
		time.Sleep(time.Minute)
		mu.Lock()
		if len(heard[0]) != 20 || len(heard[1]) != 20 || len(heard[2]) != 0 {
			t.Errorf("heard %v", heard)
		}
		sick = false
		mu.Unlock()
		for i := range 200 { // more than is kept
			tell.tell(instanceID{release: 2}, cd.Instance{Restarts: 20 + i})
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		last := -1
		for _, n := range heard[2] {
			if n <= last {
				t.Errorf("out of order: %v", heard[2])
			}
			last = n
		}
		if last != 219 || len(heard[2]) > maxUntold {
			t.Errorf("told %d changes, the last %d", len(heard[2]), last)
		}
		cancel()
	})
}
