package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// yard is a server that runs nothing by itself, with the repository acme/shop. It can be stopped and started again.
type yard struct {
	t    testing.TB
	mu   sync.RWMutex // of s, for requests
	s    *Server
	url  string
	dir  string
	keys *auth.Keyring
	open atomic.Int64 // requests under way

	asked atomic.Int64 // requests

	web  *httptest.Server
	stop func()
}

func newYard(t testing.TB) *yard {
	t.Helper()
	y := &yard{t: t, dir: t.TempDir(), keys: auth.NewKeyring(time.Now())}
	y.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		y.asked.Add(1)
		y.open.Add(1)
		defer y.open.Add(-1)
		y.mu.RLock()
		s := y.s
		y.mu.RUnlock()
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { y.web.CloseClientConnections(); y.web.Close(); y.stop() })
	y.url = y.web.URL
	y.start()
	if _, err := y.s.create(t.Context(), "acme", "shop", true); err != nil {
		t.Fatal(err)
	}
	return y
}

// start makes a server of what the one before has left.
func (y *yard) start() {
	y.t.Helper()
	st, err := store.Open(y.t.Context(), "sqlite:"+filepath.Join(y.dir, "penstock.db"))
	if err != nil {
		y.t.Fatal(err)
	}
	blobs, err := blob.OpenUnsynced(filepath.Join(y.dir, "blobs"))
	if err != nil {
		y.t.Fatal(err)
	}
	s, err := NewServer(y.t.Context(), ServerOptions{
		Store: st, Blobs: blobs, Artifacts: native.OpenArtifacts(blobs), Keys: func() *auth.Keyring { return y.keys }, Repositories: filepath.Join(y.dir, "repositories"),
		Actions: &forge.ActionSource{CacheDir: filepath.Join(y.dir, "actions"), URLTemplate: "file:///nowhere", Log: io.Discard}, URL: y.url,
		Log: slog.New(slog.NewTextHandler(y.t.Output(), nil)),
	})
	if err != nil {
		y.t.Fatal(err)
	}
	y.mu.Lock()
	y.s = s
	y.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(y.t.Context()))
	var working sync.WaitGroup
	working.Go(func() { s.Work(ctx) })
	y.stop = func() { cancel(); working.Wait(); st.Close(); blobs.Close() }
}

// join makes a runner and gives its queue.
func (y *yard) join(in runner.Joining) (*runner.Remote, runner.Joined) {
	y.t.Helper()
	in.Token = y.keys.Grant(rest.RegisterRunner, time.Now().Add(time.Minute))
	joined, err := runner.Join(y.t.Context(), y.url, in)
	if err != nil {
		y.t.Fatal(err)
	}
	return runner.NewRemote(y.url, joined.Token), joined
}

// far is a runner with the label of the jobs of trigger.
func (y *yard) far(name string) (*runner.Remote, runner.Joined) {
	y.t.Helper()
	return y.join(runner.Joining{Name: name, OS: "Linux", Labels: []string{"far"}})
}

// trigger begins a run of one job, a, for runners with the label far.
func (y *yard) trigger() ci.RunID {
	y.t.Helper()
	text := "on: push\njobs:\n  a:\n    runs-on: far\n    steps: [run: 'true']\n"
	p, err := ci.NewPlan(ci.File{Path: ".github/workflows/ci.yml", Text: text}, nil, ci.Plan{Event: "push", Repository: "acme/shop"})
	if err != nil {
		y.t.Fatal(err)
	}
	id, err := y.s.Engine.Trigger(y.t.Context(), p)
	if err != nil {
		y.t.Fatal(err)
	}
	return id
}

func (y *yard) job(id ci.RunID) *ci.Job {
	y.t.Helper()
	r, err := y.s.Engine.Run(y.t.Context(), id)
	if err != nil {
		y.t.Fatal(err)
	}
	return r.Job("a")
}

func (y *yard) log(id ci.RunID) []byte {
	y.t.Helper()
	p, err := blob.ReadAll(y.s.Blobs, engine.LogKey(id, 1, "a"), 1<<30)
	if err != nil {
		y.t.Fatal(err)
	}
	return p
}

// lease gets a task and begins it.
func (y *yard) lease(q *runner.Remote) ci.Lease {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), 20*time.Second)
	defer cancel()
	task, err := q.Lease(ctx, ci.Runner{})
	if err != nil {
		y.t.Fatal(err)
	}
	l := ci.Lease{Run: task.Run, Job: task.Job, ID: task.Lease}
	if err := q.Report(y.t.Context(), l, ci.Report{}); err != nil {
		y.t.Fatal(err)
	}
	return l
}

// await waits until so many requests are under way.
func (y *yard) await(n int64) {
	y.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); y.open.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			y.t.Fatalf("%d requests are under way, want %d", y.open.Load(), n)
		}
	}
}

// A runner that hangs up while it waits is given nothing.
func TestQueueHangsUp(t *testing.T) {
	y := newYard(t)
	_, gone := y.far("gone")
	for _, body := range []string{"", "{}"} {
		conn, err := net.Dial("tcp", y.web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s/lease HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", runner.QueuePath, gone.Token, len(body), body)
		y.await(1)
		conn.Close()
		y.await(0)
	}
	run := y.trigger()
	here, _ := y.far("here")
	y.lease(here)
	if j := y.job(run); j.Runner != "here" || j.Losses != 0 {
		t.Errorf("the job is with %s after %d losses, want here, none", j.Runner, j.Losses)
	}
}

// A runner that is removed, or is given other labels, while it waits is given no job any more, and no secrets.
func TestQueueChangesWhileItWaits(t *testing.T) {
	y := newYard(t)
	for _, c := range []struct {
		name   string
		change func(id int64) error
		want   error
	}{
		{"removed", func(id int64) error { return y.s.Store.DeleteRunner(t.Context(), id) }, runner.ErrRemoved},
		{"relabelled", func(id int64) error { return y.s.Store.SetRunnerLabels(t.Context(), id, []string{"near"}) }, context.Canceled},
	} {
		q, joined := y.far(c.name)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := q.Lease(ctx, ci.Runner{})
			ended <- err
		}()
		for y.s.Engine.Waiting() == 0 { // or the server would know of the change already when it is asked
			time.Sleep(time.Millisecond)
		}
		if err := c.change(joined.ID); err != nil {
			t.Fatal(err)
		}
		run := y.trigger()
		for y.job(run).Losses == 0 {
			time.Sleep(time.Millisecond)
		}
		if c.want == context.Canceled {
			cancel()
		}
		if err := <-ended; !errors.Is(err, c.want) {
			t.Errorf("%s: Lease = %v, want %v", c.name, err, c.want)
		}
		cancel()
		y.await(0)
		if j := y.job(run); j.Status != ci.Queued || !strings.Contains(j.Reason, "The runner "+c.name) {
			t.Errorf("%s: the job is %s %q, want queued with the reason", c.name, j.Status, j.Reason)
		}
		other, _ := y.far("after " + c.name)
		if err := other.Finish(t.Context(), y.lease(other), ci.Result{Conclusion: ci.Success}); err != nil {
			t.Error(err)
		}
	}
}

// An ephemeral runner has one job, whoever has its token.
func TestQueueEphemeral(t *testing.T) {
	y := newYard(t)
	first, second := y.trigger(), y.trigger()
	q, joined := y.join(runner.Joining{Name: "once", Labels: []string{"far"}, Ephemeral: true})
	l := y.lease(q)
	if l.Run != first {
		t.Fatalf("leased run %d, want %d", l.Run, first)
	}
	if _, err := q.Lease(t.Context(), ci.Runner{}); !errors.Is(err, runner.ErrRemoved) || !strings.Contains(err.Error(), "has had its job") {
		t.Errorf("a second Lease = %v, want ErrRemoved", err)
	}
	two, err := y.s.Engine.Lease(t.Context(), ci.Runner{Name: "once", Labels: []string{"far"}}) // as if it had asked twice at once
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Report(t.Context(), ci.Lease{Run: two.Run, Job: two.Job, ID: two.Lease}, ci.Report{}); !errors.Is(err, runner.ErrRemoved) {
		t.Errorf("Report of another job = %v, want ErrRemoved", err)
	}
	for range 2 {
		if err := q.Report(t.Context(), l, ci.Report{Steps: []ci.Step{{Number: 1, Name: "x", Status: ci.InProgress}}}); err != nil {
			t.Errorf("Report of its own job = %v", err)
		}
	}
	if err := q.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}); err != nil {
		t.Error(err)
	}
	if _, err := y.s.Store.Runner(t.Context(), joined.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after its job the runner is there: %v", err)
	}
	if err := q.Leave(t.Context()); !errors.Is(err, runner.ErrRemoved) {
		t.Errorf("Leave = %v, want ErrRemoved", err)
	}
	if left, err := y.s.Store.Documents(t.Context(), store.DocumentFilter{Repository: serverDocs, Kind: kindSpent, Limit: 10}); err != nil || len(left) > 0 {
		t.Errorf("%d documents are left of it, %v", len(left), err)
	}
	if a, b := y.job(first), y.job(second); a.Conclusion != ci.Success || b.Status != ci.InProgress {
		t.Errorf("the jobs are %s and %s", a.Conclusion, b.Status)
	}
	// One that has had no job leaves as well.
	idle, joined := y.join(runner.Joining{Name: "idle", Ephemeral: true})
	if err := idle.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := y.s.Store.Runner(t.Context(), joined.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after it left the runner is there: %v", err)
	}
}

// A result may be told again where the answer was lost. Another one is not taken.
func TestQueueFinishTwice(t *testing.T) {
	y := newYard(t)
	run := y.trigger()
	q, _ := y.far("far")
	l := y.lease(q)
	done := ci.Result{Conclusion: ci.Failure, Reason: "It is broken."}
	for range 2 {
		if err := q.Finish(t.Context(), l, done); err != nil {
			t.Error(err)
		}
	}
	other, _ := y.far("other")
	for name, err := range map[string]error{
		"another result": q.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}), "another runner": other.Finish(t.Context(), l, done),
		"another job": q.Finish(t.Context(), ci.Lease{Run: run, Job: "b", ID: l.ID}, done), "no run": q.Finish(t.Context(), ci.Lease{Run: 99, Job: "a", ID: l.ID}, done),
		"a report": q.Report(t.Context(), l, ci.Report{}), "the log": q.Append(t.Context(), l, 0, []byte("x")),
	} {
		if !errors.Is(err, ci.ErrStale) {
			t.Errorf("%s = %v, want ErrStale", name, err)
		}
	}
	if j := y.job(run); j.Conclusion != ci.Failure || j.Reason != done.Reason {
		t.Errorf("the job is %s %q", j.Conclusion, j.Reason)
	}
}

// The server is another one between lease and result. The job goes on, and its log is whole.
func TestQueueRestart(t *testing.T) {
	y := newYard(t)
	run := y.trigger()
	q, _ := y.far("far")
	l := y.lease(q)
	if err := q.Append(t.Context(), l, 0, []byte("before\n")); err != nil {
		t.Fatal(err)
	}
	y.stop()
	before := y.asked.Load()
	appended := make(chan error)
	go func() { appended <- q.Append(t.Context(), l, 7, []byte("between\n")) }()
	for y.asked.Load() == before { // its database is closed
		time.Sleep(time.Millisecond)
	}
	y.await(0)
	y.start()
	if err := <-appended; err != nil {
		t.Errorf("Append while the server is away = %v", err)
	}
	for _, part := range []struct {
		offset int64
		text   string
	}{{7, "between\n"}, {0, "before\nbetween\n"}, {7, "between\nafter\n"}} { // told again, from wherever
		if err := q.Append(t.Context(), l, part.offset, []byte(part.text)); err != nil {
			t.Error(err)
		}
	}
	if err := q.Append(t.Context(), l, 100, []byte("x")); !errors.Is(err, runner.ErrRefused) || !strings.Contains(err.Error(), "416") {
		t.Errorf("a gap is %v, want ErrRefused with 416", err)
	}
	if err := q.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}); err != nil {
		t.Error(err)
	}
	if j, text := y.job(run), string(y.log(run)); j.Conclusion != ci.Success || text != "before\nbetween\nafter\n" {
		t.Errorf("the job is %s with log %q", j.Conclusion, text)
	}
}

// Labels match as those of runs-on do: all of them, whatever their case.
func TestQueueLabels(t *testing.T) {
	y := newYard(t)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	var got atomic.Int64
	for n, labels := range [][]string{nil, {"near"}, {"far-away"}, {"fa"}} {
		q, _ := y.join(runner.Joining{Name: "r" + strconv.Itoa(n), OS: "Linux", Labels: labels})
		waiting.Go(func() {
			if _, err := q.Lease(ctx, ci.Runner{Name: "far", Labels: []string{"far"}}); err == nil { // what it says of itself now does not count
				got.Add(1)
			}
		})
	}
	y.await(4)
	run := y.trigger()
	q, _ := y.join(runner.Joining{Name: "right", Labels: []string{"gpu", "FAR"}})
	y.lease(q)
	cancel()
	waiting.Wait()
	if j := y.job(run); j.Runner != "right" || got.Load() > 0 {
		t.Errorf("the job is with %s, and %d others got one", j.Runner, got.Load())
	}
}

// Of many runners that ask for tasks all the time, it is stored once a minute that they were there.
func TestQueuePresence(t *testing.T) {
	var p presence
	began := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	writes, stored := 0, map[int64]time.Time{}
	for at := time.Duration(0); at <= 10*time.Minute; at += 50 * time.Millisecond {
		due := p.note(int64(at/(50*time.Millisecond))%1000, began.Add(at)) // each asks every 50 s
		if len(due) > 0 {
			writes++
		}
		for id, seen := range due {
			stored[id] = seen
		}
	}
	if writes != 11 || len(stored) != 1000 {
		t.Errorf("%d writes for %d runners in ten minutes, want 11 for 1000", writes, len(stored))
	}
	for id, seen := range stored {
		if late := 10*time.Minute - seen.Sub(began); late > 2*time.Minute {
			t.Errorf("runner %d was seen %v ago", id, late)
		}
	}
}
