package runner_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// overHTTP is a server's queue, by connections that synctest knows.
func overHTTP(t *testing.T, jobs int) *bench {
	t.Helper()
	st, blobs := openStores(t)
	keys := auth.NewKeyring(time.Now())
	s, err := api.NewServer(t.Context(), api.ServerOptions{
		Store: st, Blobs: blobs, Artifacts: native.OpenArtifacts(blobs), Keys: func() *auth.Keyring { return keys }, Repositories: t.TempDir(),
		Actions: &forge.ActionSource{CacheDir: t.TempDir(), URLTemplate: "file:///nowhere", Log: io.Discard}, URL: "http://penstock",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.AddRepository(t.Context(), &store.Repository{Owner: "octo", Name: "hello", DefaultBranch: "main", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	token := auth.NewToken()
	if err := st.AddRunner(t.Context(), &store.Runner{Name: "r", OS: "Linux", Labels: []string{"ubuntu-latest"}, Hash: auth.HashToken(token), Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	q := runner.NewRemote("http://penstock", token)
	transport := serveByPipe(t, s)
	q.SetTransport(transport)
	b := &bench{Engine: s.Engine, queue: q, store: st, blobs: blobs, token: token, dial: transport.DialContext}
	if jobs > 0 {
		b.trigger(t, jobs)
	}
	return b
}

// serveByPipe serves, and gives the way there.
func serveByPipe(t *testing.T, h http.Handler) *http.Transport {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	web := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	transport := &http.Transport{DialContext: l.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = web.Close()
		serving.Wait()
	})
	return transport
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// A runner that is removed while it has a job ends the job, and itself.
func TestRemovedWhileItWorks(t *testing.T) { synctest.Test(t, testRemovedWhileItWorks) }

func testRemovedWhileItWorks(t *testing.T) {
	b := overHTTP(t, 1)
	err := runner.Work(t.Context(), b.queue, ci.Runner{Name: "r"}, 2, executor(func(ctx context.Context, _ *ci.Task, _ job.Reporter) ci.Result {
		if err := b.store.DeleteRunner(t.Context(), 1); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return succeeded
	}))
	if !errors.Is(err, runner.ErrRemoved) {
		t.Errorf("Work = %v, want ErrRemoved", err)
	}
	if j := b.stored(t).Job("test/0"); j.Status != ci.InProgress {
		t.Errorf("the job is %s %s: what a stranger says of it counts", j.Status, j.Conclusion)
	}
}

// A result that the server does not take fails the job with the reason, instead of being told for ever.
func TestResultThatIsRefused(t *testing.T) {
	b := overHTTP(t, 1)
	run := b.work(t, b.queue, 1, executor(func(context.Context, *ci.Task, job.Reporter) ci.Result {
		return ci.Result{Conclusion: ci.Success, Outputs: map[string]string{"x": strings.Repeat("x", 17<<20)}}
	}))
	if j := run.Job("test/0"); j.Conclusion != ci.Failure || !strings.Contains(j.Reason, "ended as success, but the server did not take its result") {
		t.Errorf("the job is %s %q, want a failure that says why", j.Conclusion, j.Reason)
	}
}

// What a server answers says whether another try is of use.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		is     error // nil: try again
	}{
		{301, runner.ErrRefused}, {400, runner.ErrRefused}, {404, runner.ErrRefused}, {413, runner.ErrRefused}, {416, runner.ErrRefused}, {422, runner.ErrRefused},
		{401, runner.ErrRemoved}, {409, ci.ErrStale}, {408, nil}, {425, nil}, {429, nil}, {500, nil}, {502, nil}, {503, nil}, {504, nil},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("%s was asked with %q", r.URL, r.Header.Get("Authorization"))
			}
			w.Header().Set("Location", "https://ci.example.com/")
			w.WriteHeader(c.status)
			io.WriteString(w, `{"message":"because"}`)
		}))
		q := runner.NewRemote(web.URL+"/", "secret")
		l := ci.Lease{Run: 1, Job: "a", ID: "x"}
		_, lease := q.Lease(t.Context(), ci.Runner{})
		_, renew := q.Renew(t.Context(), l)
		for name, err := range map[string]error{
			"lease": lease, "renew": renew, "report": q.Report(t.Context(), l, ci.Report{}), "finish": q.Finish(t.Context(), l, succeeded),
		} {
			for _, sentinel := range []error{runner.ErrRefused, runner.ErrRemoved, ci.ErrStale} {
				if err == nil || errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%s answered %d: %v, want %v", name, c.status, err, c.is)
				}
			}
		}
		web.Close()
	}
}

// A runner that is stopped for good ends its jobs by itself, and says of those it cut short why.
func TestStoppable(t *testing.T) { everyQueue(t, testStoppable) }

func testStoppable(t *testing.T, newBench opener) {
	b := newBench(t, 2)
	now, stop := context.WithCancel(t.Context())
	leasing, enough := context.WithCancel(t.Context())
	var begun, ended sync.WaitGroup
	begun.Add(2)
	ended.Go(func() {
		q := runner.NewStoppable(now, b.queue, "Somebody pulled the plug.")
		_ = runner.Work(leasing, q, ci.Runner{Name: "r"}, 2, executor(func(ctx context.Context, task *ci.Task, rep job.Reporter) ci.Result {
			begun.Done()
			<-rep.(interface{ Killed() <-chan struct{} }).Killed()
			if cause := context.Cause(ctx); !errors.Is(cause, job.ErrKill) {
				t.Errorf("%s ended by %v, want ErrKill", task.Job, cause)
			}
			if task.Job == "test/1" {
				return succeeded // it was done just then
			}
			return ci.Result{Conclusion: ci.Cancelled}
		}))
	})
	begun.Wait()
	enough()
	stop()
	ended.Wait()
	run := b.stored(t)
	if j := run.Job("test/0"); j.Conclusion != ci.Failure || j.Reason != "Somebody pulled the plug." {
		t.Errorf("the job that was cut short is %s %q", j.Conclusion, j.Reason)
	}
	if j := run.Job("test/1"); j.Conclusion != ci.Success || j.Reason != "" {
		t.Errorf("the job that was done is %s %q", j.Conclusion, j.Reason)
	}
}

// A log waits for a server that is away, but not for ever, and not for one that refuses it.
func TestAppendToAServerThatIsAway(t *testing.T) {
	for _, c := range []struct {
		name string
		away time.Duration // this long it answers with status
		code int
		is   error
		took time.Duration // at most
	}{
		{"for a while", 4 * time.Minute, 503, nil, 4*time.Minute + 5*time.Second},
		{"for good", 24 * time.Hour, 502, errAny, 5*time.Minute + 5*time.Second},
		{"refuses", time.Minute, 413, runner.ErrRefused, 0},
		{"has lost the lease", time.Minute, 409, ci.ErrStale, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, size, largest := time.Now(), 0, 0
			client := serveByPipe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				if time.Since(began) < c.away {
					w.WriteHeader(c.code)
					return
				}
				if offset := r.FormValue("offset"); offset != strconv.Itoa(size) {
					t.Errorf("%s: bytes at %s, want %d", c.name, offset, size)
				}
				size, largest = size+len(text), max(largest, len(text))
			}))
			q := runner.NewRemote("http://penstock", "secret")
			q.SetTransport(client)
			err := q.Append(t.Context(), ci.Lease{Run: 1, Job: "a", ID: "x"}, 0, make([]byte, 1<<20))
			if took := time.Since(began); took > c.took {
				t.Errorf("%s: it took %v, want at most %v", c.name, took, c.took)
			}
			if c.is == nil && (err != nil || size != 1<<20 || largest > 16<<10) || c.is != nil && (err == nil || c.is != errAny && !errors.Is(err, c.is)) {
				t.Errorf("%s: %v, %d bytes came, %d at once", c.name, err, size, largest)
			}
		})
	}
}

var errAny = errors.New("any")

// Runners that wait cost a server what their connections cost: nothing wakes up for them, and nobody reads the store, which
// is closed here meanwhile.
func TestIdleRunners(t *testing.T) { synctest.Test(t, testIdleRunners) }

func testIdleRunners(t *testing.T) {
	const many = 1000
	b := overHTTP(t, 0)
	before := runtime.NumGoroutine()
	var conns []net.Conn
	for range many {
		conn, err := b.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s/lease HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n", runner.QueuePath, b.token)
		conns = append(conns, conn)
	}
	synctest.Wait()
	if n := runtime.NumGoroutine() - before; n > 2*many {
		t.Errorf("%d runners that wait take %d goroutines, want 2 each: the request's and the one that sees the runner hang up", many, n)
	}
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for n, conn := range conns {
		answer := make([]byte, 100)
		size, err := conn.Read(answer)
		if err != nil || !strings.HasPrefix(string(answer[:size]), "HTTP/1.1 204 ") {
			t.Fatalf("runner %d: %q, %v, want 204", n, answer[:size], err)
		}
		conn.Close()
	}
	if waited := time.Since(began); waited < 49*time.Second || waited > 51*time.Second {
		t.Errorf("they waited %v, want 50 s", waited)
	}
}
