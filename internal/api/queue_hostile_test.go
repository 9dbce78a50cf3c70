package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
)

// cutter is a way to a server on which connections break, in the middle of what is said.
type cutter struct {
	net.Listener
	to    string
	cut   atomic.Int64 // connections that are still to break
	mu    sync.Mutex
	rng   *rand.Rand
	conns sync.WaitGroup
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to, rng: rand.New(rand.NewPCG(1, 2))}
	c.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.conns.Go(func() { c.carry(conn) })
		}
	})
	return c
}

// carry passes a connection on until it breaks.
func (c *cutter) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			defer from.Close()
			defer to.Close()
			buffer := make([]byte, 4096)
			for {
				n, err := way[0].Read(buffer)
				n, last := c.chop(n, way[1] == to)
				if _, werr := way[1].Write(buffer[:n]); err != nil || werr != nil || last {
					return
				}
			}
		})
	}
	both.Wait()
}

// chop says how much of n bytes is passed on, and whether the connection breaks then.
func (c *cutter) chop(n int, there bool) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	odds := 40 // a request takes many pieces, an answer one
	if !there {
		odds = 8
	}
	if c.cut.Load() <= 0 || n == 0 || c.rng.IntN(odds) > 0 {
		return n, false
	}
	c.cut.Add(-1)
	return c.rng.IntN(n), true
}

// Connections that break in the middle of requests and of answers lose nothing of a log and double nothing.
func TestQueueCutConnections(t *testing.T) {
	y := newYard(t)
	run := y.trigger()
	_, joined := y.far("far")
	c := newCutter(t, y.web.Listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var want bytes.Buffer
	err := runner.Work(ctx, runner.NewRemote("http://"+c.Addr().String(), joined.Token), ci.Runner{}, 1, work(func(ctx context.Context, rep job.Reporter) ci.Result {
		cancel() // no more jobs
		c.cut.Store(30)
		for n := 0; want.Len() < 8<<20; n++ {
			line := fmt.Appendf(nil, "line %d %s\n", n, strings.Repeat("x", n%200))
			want.Write(line)
			if err := rep.Append(ctx, line); err != nil {
				t.Error(err)
				break
			}
			if n%500 == 0 {
				_ = rep.Report(ctx, ci.Report{Steps: []ci.Step{{Number: 1, Name: "step", Status: ci.InProgress}}})
			}
		}
		return ci.Result{Conclusion: ci.Success}
	}))
	if err != nil {
		t.Error(err)
	}
	c.Close()
	y.web.CloseClientConnections()
	c.conns.Wait()
	if j := y.job(run); j.Conclusion != ci.Success {
		t.Errorf("the job is %s %s %q", j.Status, j.Conclusion, j.Reason)
	}
	if got := y.log(run); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the log has %d bytes, want %d; they differ", len(got), want.Len())
	}
	if left := c.cut.Load(); left > 20 {
		t.Errorf("only %d connections broke", 30-left)
	}
}

// work is a job made of a function.
type work func(ctx context.Context, rep job.Reporter) ci.Result

func (w work) Run(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result { return w(ctx, rep) }

// post makes a request of the queue and gives the status.
func (y *yard) post(token, path string, body io.Reader) int {
	y.t.Helper()
	req, err := http.NewRequestWithContext(y.t.Context(), "POST", y.url+runner.QueuePath+path, body)
	if err != nil {
		y.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		y.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

var queuePaths = []string{"/lease", "/renew", "/report", "/finish", "/leave", "/log?run=1&job=a&lease=x&offset=0"}

// TestQueueStrangers has everyone ask who should get nothing.
func TestQueueStrangers(t *testing.T) {
	y := newYard(t)
	admin, err := y.s.Setup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, removed := y.far("removed")
	if err := y.s.Store.DeleteRunner(t.Context(), removed.ID); err != nil {
		t.Fatal(err)
	}
	y.trigger()
	q, far := y.far("far")
	task, err := q.Lease(t.Context(), ci.Runner{})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"nobody": "", "a forged one": auth.NewToken(), "one that is none": "x' OR '1'='1", "a user": admin, "a job": task.Token, "one that was removed": removed.Token,
		"a registration token": y.keys.Grant(rest.RegisterRunner, time.Now().Add(time.Minute)), "a token with more at its end": far.Token + "0",
	} {
		for _, path := range queuePaths {
			y.s.limits.forget()
			if status := y.post(token, path, strings.NewReader("{}")); status != 401 {
				t.Errorf("%s at %s: %d, want 401", name, path, status)
			}
		}
	}
	soon := time.Now().Add(time.Minute)
	good := y.keys.Grant(rest.RegisterRunner, soon)
	for name, token := range map[string]string{
		"none": "", "one of another purpose": y.keys.Grant(rest.RemoveRunner, soon), "one that is over": y.keys.Grant(rest.RegisterRunner, time.Now().Add(-time.Second)),
		"one of another server": auth.NewKeyring(time.Now()).Grant(rest.RegisterRunner, soon), "one that was changed": good[:len(good)-2] + "00", "a runner's": far.Token, "a user's": admin,
	} {
		y.s.limits.forget()
		if _, err := runner.Join(t.Context(), y.url, runner.Joining{Token: token, Name: "stranger"}); err == nil || !strings.Contains(err.Error(), "registration token is not valid") {
			t.Errorf("join with %s: %v", name, err)
		}
	}
	for name, in := range map[string]runner.Joining{
		"no name": {}, "a name that is taken": {Name: "FAR"}, "a label with a comma": {Name: "x", Labels: []string{"a,b"}}, "an empty label": {Name: "x", Labels: []string{""}},
		"many labels": {Name: "x", Labels: make([]string, 200)}, "a long name": {Name: strings.Repeat("x", 10_000)}, "a line in its name": {Name: "a\x00b"},
	} {
		in.Token = good
		if _, err := runner.Join(t.Context(), y.url, in); err == nil || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "500") {
			t.Errorf("join with %s: %v", name, err)
		}
	}
	if all, err := y.s.Store.Runners(t.Context(), 0, 10); err != nil || len(all) != 1 {
		t.Errorf("there are %d runners, %v, want one", len(all), err)
	}
}

// TestQueueHostile has a runner say what no runner says.
func TestQueueHostile(t *testing.T) {
	y := newYard(t)
	_, far := y.far("far")
	for _, c := range []struct {
		path   string
		body   io.Reader
		status int
	}{
		{"/join", strings.NewReader(strings.Repeat("x", maxJoining+1)), 413},
		{"/lease", strings.NewReader(strings.Repeat("x", maxJoining+1)), 413},
		{"/renew", strings.NewReader(strings.Repeat("x", maxJoining+1)), 413},
		{"/report", io.LimitReader(letters{}, maxReport+1), 413},
		{"/finish", io.LimitReader(letters{}, maxReport+1), 413},
		{"/log?run=1&job=a&lease=x&offset=0", io.LimitReader(letters{}, maxLogPart+1), 413},
		{"/join", strings.NewReader("{"), 400},
		{"/renew", strings.NewReader(""), 400},
		{"/report", strings.NewReader(`{"lease":{"run":"1"}}`), 400},
		{"/finish", strings.NewReader(strings.Repeat("[", 100_000)), 400},
		{"/renew", strings.NewReader("{}"), 409},
		{"/report", strings.NewReader(`{"lease":{"run":-1,"job":"a","id":"x"}}`), 409},
		{"/finish", strings.NewReader(`{"lease":{"run":9223372036854775807,"job":"../a","id":"x"}}`), 409},
		{"/log?run=1&job=a&lease=x&offset=0", strings.NewReader("x"), 409},
		{"/log?run=1&job=a&lease=x&offset=-1", strings.NewReader("x"), 422},
		{"/log?run=1&job=a&lease=x&offset=99999999999999999999", strings.NewReader("x"), 422},
		{"/log", strings.NewReader("x"), 422},
		{"/nothing", nil, 404},
	} {
		if status := y.post(far.Token, c.path, c.body); status != c.status {
			t.Errorf("%s: %d, want %d", c.path, status, c.status)
		}
	}
	// A body that does not come to its end: nothing of it counts, and it is worth another try.
	run := y.trigger()
	q, _ := y.far("other")
	l := y.lease(q)
	conn, err := net.Dial("tcp", y.web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s/log?run=%d&job=a&lease=%s&offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\nhalf", runner.QueuePath, run, l.ID, far.Token)
	y.await(1)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	conn.Close()
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) {
		t.Errorf("half a body is answered %q, %v, want 408", answer, err)
	}
	if err := q.Append(t.Context(), l, 0, []byte("whole")); err != nil {
		t.Error(err)
	}
	if text := string(y.log(run)); text != "whole" {
		t.Errorf("the log is %q, want whole", text)
	}
}

// TestQueueLeaseOfAnother has a runner that knows another's lease do with it what only that may.
func TestQueueLeaseOfAnother(t *testing.T) {
	y := newYard(t)
	run := y.trigger()
	q, _ := y.far("far")
	l := y.lease(q)
	other, _ := y.far("other")
	_, err := other.Renew(t.Context(), l)
	for what, err := range map[string]error{
		"renew": err, "report": other.Report(t.Context(), l, ci.Report{}), "log": other.Append(t.Context(), l, 0, []byte("x")),
		"finish": other.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}),
	} {
		if !errors.Is(err, ci.ErrStale) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := q.Append(t.Context(), l, 0, []byte("its own")); err != nil {
		t.Error(err)
	}
	if err := q.Finish(t.Context(), l, ci.Result{Conclusion: ci.Failure}); err != nil {
		t.Error(err)
	}
	if j := y.job(run); j.Conclusion != ci.Failure || string(y.log(run)) != "its own" {
		t.Errorf("the job is %s %s, its log %q", j.Status, j.Conclusion, y.log(run))
	}
}

// TestQueueJoinUnanswered loses the answer to who joins: it asks again and is the runner that it was made.
func TestQueueJoinUnanswered(t *testing.T) {
	y := newYard(t)
	var asked atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			y.s.ServeHTTP(w, r)
			return
		}
		y.s.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	defer web.Close()
	joined, err := runner.Join(t.Context(), web.URL, runner.Joining{Token: y.keys.Grant(rest.RegisterRunner, time.Now().Add(time.Minute)), Name: "far", Labels: []string{"far"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := y.s.Store.Runners(t.Context(), 0, 10)
	if err != nil || len(all) != 1 || all[0].ID != joined.ID || asked.Load() != 2 {
		t.Errorf("after %d requests: %+v, %v", asked.Load(), all, err)
	}
	y.trigger()
	y.lease(runner.NewRemote(y.url, joined.Token))
}

// letters is a text without an end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// FuzzQueue says anything to the queue as a runner with a job: the server refuses it, but never fails.
func FuzzQueue(f *testing.F) {
	y := newYard(f)
	run := y.trigger()
	q, far := y.far("far")
	l := y.lease(q)
	lease := fmt.Sprintf(`{"run":%d,"job":"a","id":"%s"}`, l.Run, l.ID)
	for n, body := range []string{
		lease, `{"lease":` + lease + `,"report":{"steps":[{"number":1,"name":"x","status":"in_progress"}],"annotations":[{"level":"error","message":"m"}]}}`,
		`{"lease":{"run":1,"job":"a","id":"x"},"result":{"conclusion":"success","outputs":{"a":"b"}}}`, "", "{}", "null", `{"lease":null}`, "\xff", `{"report":{"steps":[{"number":-1}]}}`,
	} {
		f.Add(n%4, "", body)
	}
	f.Add(3, fmt.Sprintf("run=%d&job=a&lease=%s&offset=0", run, l.ID), "text")
	f.Add(3, "run=1&job=..%2f..&lease=x&offset=1", "text")
	f.Fuzz(func(t *testing.T, path int, query, body string) {
		paths := []string{"/renew", "/report", "/finish", "/log", "/join"}  // lease would wait, and leave
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // renew waits
		defer cancel()
		r := httptest.NewRequestWithContext(t.Context(), "POST", runner.QueuePath+slices.Concat(paths, paths)[max(path, -path, 0)%len(paths)], strings.NewReader(body))
		if strings.HasSuffix(r.URL.Path, "/renew") {
			r = r.WithContext(ctx)
		}
		r.URL.RawQuery = query
		r.Header.Set("Authorization", "Bearer "+far.Token)
		w := httptest.NewRecorder()
		y.s.ServeHTTP(w, r)
		if w.Code >= 500 && ctx.Err() == nil {
			t.Errorf("%s answers %d: %s", r.URL, w.Code, w.Body)
		}
	})
}

// forget begins anew, as time does.
func (l *limits) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.of)
}
