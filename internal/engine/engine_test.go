package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/store"
)

const buildThenTest = `on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - run: echo
  test:
    needs: build
    runs-on: ubuntu-latest
    strategy:
      matrix:
        n: [1, 2]
    steps:
      - run: echo
`

// house is an engine with what it stands on.
type house struct {
	*Engine
	url   string
	store *store.Store
	blobs blob.Store
}

func open(t testing.TB, url, dir string, opt Options) *house {
	t.Helper()
	st, err := store.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	blobs, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	e, err := New(t.Context(), st, blobs, opt)
	if err != nil {
		t.Fatal(err)
	}
	return &house{e, url, st, blobs}
}

func inMemory(t testing.TB, opt Options) *house {
	t.Helper()
	return open(t, "sqlite::memory:", t.TempDir(), opt)
}

// work lets the engine look after its runs until the test ends.
func (h *house) work(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { h.Work(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
}

func plan(t testing.TB, workflow string, change func(*ci.Plan)) *ci.Plan {
	t.Helper()
	rest := ci.Plan{
		Event: "push", Repository: "octo/hello",
		GitHub: expr.FromStrings(map[string]string{
			"ref": "refs/heads/main", "ref_name": "main", "sha": "abc123", "actor": "mona", "event_name": "push",
			"repository": "octo/hello", "workflow": "CI",
		}),
	}
	if change != nil {
		change(&rest)
	}
	p, err := ci.NewPlan(ci.File{Path: ".github/workflows/ci.yml", Text: workflow}, nil, rest)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (h *house) trigger(t testing.TB, workflow string) ci.RunID {
	t.Helper()
	id, err := h.Trigger(t.Context(), plan(t, workflow, nil))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (h *house) lease(t testing.TB, labels ...string) (*ci.Task, ci.Lease) {
	t.Helper()
	task, err := h.Lease(t.Context(), ci.Runner{Name: "r", Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	return task, leaseOf(task)
}

func leaseOf(t *ci.Task) ci.Lease { return ci.Lease{Run: t.Run, Job: t.Job, ID: t.Lease} }

// leaseNow leases what can be leased without waiting, nil if there is nothing.
func (h *house) leaseNow(t testing.TB, labels ...string) *ci.Task {
	t.Helper()
	o, err := h.jobs.next(ended(), ci.Runner{Labels: labels})
	if err != nil {
		return nil
	}
	h.jobs.release(o)
	task, _ := h.lease(t, labels...)
	return task
}

// ended is a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (h *house) start(t testing.TB, l ci.Lease) {
	t.Helper()
	if err := h.Report(t.Context(), l, ci.Report{}); err != nil {
		t.Fatal(err)
	}
}

func (h *house) finish(t testing.TB, l ci.Lease, c ci.Conclusion) {
	t.Helper()
	if err := h.Finish(t.Context(), l, ci.Result{Conclusion: c}); err != nil {
		t.Fatal(err)
	}
}

func (h *house) run(t testing.TB, id ci.RunID) *ci.Run {
	t.Helper()
	run, err := h.Run(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// wantSound checks all that is stored: the records have no gaps and make the snapshots.
func (h *house) wantSound(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	replayed := map[ci.RunID]*ci.Run{}
	var after int64
	for {
		page, err := h.store.Records(ctx, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if r.Seq != after+1 {
				t.Fatalf("record %d follows %d", r.Seq, after)
			}
			after = r.Seq
			if replayed[r.Run] == nil {
				replayed[r.Run] = &ci.Run{Plan: h.run(t, r.Run).Plan}
			}
			replayed[r.Run].Apply(r.Event)
		}
		if len(page) == 0 {
			break
		}
	}
	list, err := h.Runs(ctx, store.Filter{Limit: 1 << 30})
	if err != nil || len(list) != len(replayed) {
		t.Errorf("%d runs are stored (%v), the records speak of %d", len(list), err, len(replayed))
	}
	for id, run := range replayed {
		got, _ := json.MarshalIndent(run, "", " ")
		want, _ := json.MarshalIndent(h.run(t, id), "", " ")
		if string(got) != string(want) {
			t.Errorf("run %d: the records make\n%s\nstored is\n%s", id, got, want)
		}
	}
}

func TestRunGoesThrough(t *testing.T) {
	for _, url := range []string{"sqlite::memory:", "sqlite:" + filepath.Join(t.TempDir(), "p.db")} {
		h := open(t, url, t.TempDir(), Options{})
		id := h.trigger(t, buildThenTest)
		task, l := h.lease(t)
		if task.Job != "build" || task.Run != id || task.GitHub.Property("run_id").Text() != fmt.Sprint(id) || task.GitHub.Property("run_number").Text() != "1" {
			t.Errorf("leased %s of run %d with run_id %s", task.Job, task.Run, task.GitHub.Property("run_id").Text())
		}
		if other := h.leaseNow(t); other != nil {
			t.Errorf("%s was leased before what it needs", other.Job)
		}
		h.start(t, l)
		step := ci.Step{Number: 1, Name: "Set up job", Status: ci.Completed, Conclusion: ci.Success}
		if err := h.Report(t.Context(), l, ci.Report{Steps: []ci.Step{step}}); err != nil {
			t.Fatal(err)
		}
		if err := h.Append(t.Context(), l, 0, []byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if job := h.run(t, id).Job("build"); job.Status != ci.InProgress || len(job.Steps) != 1 || job.Runner != "r" {
			t.Errorf("build is %+v, want it in progress with a step", job)
		}
		if err := h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success, Steps: []ci.Step{step}}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, l := h.lease(t)
			h.start(t, l)
			h.finish(t, l, ci.Success)
		}
		if run := h.run(t, id); run.Status != ci.Completed || run.Conclusion != ci.Success {
			t.Errorf("the run is %s %s, want completed success", run.Status, run.Conclusion)
		}
		if left := h.leaseNow(t); left != nil {
			t.Errorf("%s was leased after the end", left.Job)
		}
		log, err := blob.ReadAll(h.blobs, LogKey(id, 1, "build"), 100)
		if err != nil || string(log) != "hello\n" {
			t.Errorf("log = %q, %v", log, err)
		}
		h.wantSound(t)
		if len(h.runs) != 0 || len(h.desk.files) != 0 || len(h.jobs.runs) != 0 {
			t.Errorf("after the end %d runs, %d files, %d offers are kept in memory", len(h.runs), len(h.desk.files), len(h.jobs.runs))
		}
	}
}

func TestEndedLeaseIsStale(t *testing.T) {
	h := inMemory(t, Options{})
	id := h.trigger(t, buildThenTest)
	_, l := h.lease(t)
	h.start(t, l)
	wrong := l
	wrong.ID = "another"
	calls := map[string]func(l ci.Lease) error{
		"Renew": func(l ci.Lease) error { _, err := h.Renew(t.Context(), l); return err },
		"Report": func(l ci.Lease) error {
			return h.Report(t.Context(), l, ci.Report{Annotations: []ci.Annotation{{Level: "error"}}})
		},
		"Append": func(l ci.Lease) error { return h.Append(t.Context(), l, 0, []byte("x")) },
		"Finish": func(l ci.Lease) error { return h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}) },
	}
	for name, call := range calls {
		if err := call(wrong); !errors.Is(err, ci.ErrStale) {
			t.Errorf("%s with a wrong lease = %v, want ErrStale", name, err)
		}
	}
	h.finish(t, l, ci.Failure)
	for name, call := range calls {
		if err := call(l); !errors.Is(err, ci.ErrStale) {
			t.Errorf("%s after the end = %v, want ErrStale", name, err)
		}
	}
	if run := h.run(t, id); run.Conclusion != ci.Failure {
		t.Errorf("the run is %s %s, want failure", run.Status, run.Conclusion)
	}
	if err := h.Update(t.Context(), 99, ci.Tick{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Update of no run = %v, want ErrNotFound", err)
	}
	h.wantSound(t)
}

// Everybody at once: runners, cancellers, timers. Nothing is lost, and what is stored is sound.
func TestManyAtOnce(t *testing.T) {
	h := inMemory(t, Options{})
	h.work(t)
	const runs = 30
	p := plan(t, buildThenTest, nil)
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	leases := map[ci.LeaseID]bool{}
	var runners, clients sync.WaitGroup
	for n := range 8 {
		runners.Go(func() {
			for {
				task, err := h.Lease(ctx, ci.Runner{Name: fmt.Sprint("r", n)})
				if err != nil {
					return
				}
				mu.Lock()
				if leases[task.Lease] {
					t.Errorf("lease %s was given twice", task.Lease)
				}
				leases[task.Lease] = true
				mu.Unlock()
				l := leaseOf(task)
				for _, err := range []error{
					h.Report(t.Context(), l, ci.Report{}),
					h.Append(t.Context(), l, 0, []byte("hello\n")),
					h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}),
				} {
					if err != nil && !errors.Is(err, ci.ErrStale) {
						t.Error(err)
					}
				}
			}
		})
	}
	var completed sync.WaitGroup
	completed.Add(runs)
	clients.Go(func() {
		seen := map[ci.RunID]bool{}
		for r, err := range h.Tail(ctx, 0) {
			if err != nil {
				t.Error(err)
			}
			if !seen[r.Run] && h.run(t, r.Run).Status == ci.Completed {
				seen[r.Run] = true
				completed.Done()
			}
		}
	})
	for n := range runs {
		clients.Go(func() {
			id, err := h.Trigger(t.Context(), p)
			if err != nil {
				t.Error(err)
			}
			for range n % 3 {
				if err := h.Update(t.Context(), id, ci.Tick{At: time.Now()}); err != nil && !errors.Is(err, ci.ErrStale) {
					t.Error(err)
				}
			}
			if n%5 == 0 {
				if err := h.Cancel(t.Context(), id, "mona", true); err != nil && !errors.Is(err, ci.ErrStale) {
					t.Error(err)
				}
			}
		})
	}
	completed.Wait()
	stop()
	runners.Wait()
	clients.Wait()
	h.wantSound(t)
}

func TestTail(t *testing.T) {
	h := inMemory(t, Options{})
	h.trigger(t, buildThenTest)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []int64
	var live bool
	for r, err := range h.Tail(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Seq)
		if last, _ := h.store.LastRecord(t.Context()); r.Seq < last {
			continue
		}
		if live {
			cancel()
			continue
		}
		live = true
		_, l := h.lease(t)
		h.start(t, l)
	}
	want := make([]int64, len(got))
	for i := range want {
		want[i] = int64(i + 1)
	}
	if !slices.Equal(got, want) || !live {
		t.Errorf("tail gave %v", got)
	}
	for r := range h.Tail(t.Context(), got[1]) {
		if r.Seq != got[2] {
			t.Errorf("tail after %d begins with %d", got[1], r.Seq)
		}
		break
	}
}

func TestLogKeyIsSafe(t *testing.T) {
	seen := map[string]ci.JobID{}
	for _, job := range []ci.JobID{
		"build", "test/3", "deploy:build/0", "..", ".", "", "a%2Fb", "a/b", "a\\b", "a\x00b", "ä", ".hidden",
		ci.JobID(strings.Repeat("x", 400)), ci.JobID(strings.Repeat("x", 401)), ci.JobID(strings.Repeat("/", 300)),
	} {
		key := LogKey(7, 1, job)
		if err := blob.CheckKey(key); err != nil {
			t.Errorf("key of %.20q: %v", job, err)
		}
		if strings.Count(key, "/") != 3 {
			t.Errorf("key of %.20q is %s, want three slashes", job, key)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%.20q and %.20q have one key", job, other)
		}
		seen[key] = job
	}
	if got, want := LogKey(7, 2, "deploy:test/3"), "logs/7/2/deploy%3Atest%2F3.log"; got != want {
		t.Errorf("key = %s, want %s", got, want)
	}
}
