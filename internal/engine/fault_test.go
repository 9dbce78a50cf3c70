package engine

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// The database refuses one in some writes at random, in the middle of transactions that others share and of chains of
// decisions that rest on each other. Whoever is told of a failure tries again: what was acknowledged is stored, once,
// and the memory never parts from the store.
func TestSavesThatFail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.db")
	h := open(t, "sqlite:"+path, t.TempDir(), Options{})
	h.work(t)
	setFault := fault(t, path)
	p := plan(t, wide, nil)
	id, err := h.Trigger(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	setFault(`CREATE TRIGGER planted BEFORE INSERT ON records WHEN abs(random()) % 15 = 0 BEGIN SELECT RAISE(ABORT, 'planted fault'); END`)

	var failures, leased, finished int
	var mu sync.Mutex
	count := func(n *int) {
		mu.Lock()
		*n++
		mu.Unlock()
	}
	insist := func(f func() error) error {
		for {
			err := f()
			if err == nil || errors.Is(err, ci.ErrStale) || errors.Is(err, context.Canceled) {
				return err
			}
			count(&failures)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			for {
				var task *ci.Task
				if insist(func() (err error) { task, err = h.Lease(ctx, ci.Runner{}); return err }) != nil {
					return
				}
				count(&leased)
				l := leaseOf(task)
				for _, err := range []error{
					insist(func() error { return h.Report(t.Context(), l, ci.Report{}) }),
					insist(func() error { return h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}) }),
				} {
					if err != nil {
						t.Errorf("%s: %v", task.Job, err)
					}
				}
				job := h.run(t, id).Job(task.Job)
				if job.Status != ci.Completed || job.Conclusion != ci.Success {
					t.Errorf("%s was acknowledged and is %s %s", task.Job, job.Status, job.Conclusion)
				}
				count(&finished)
			}
		})
	}
	for r, err := range h.Tail(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Event.Type == ci.EventRunCompleted {
			break
		}
	}
	stop()
	all.Wait()
	if leased != 100 || finished != 100 || failures == 0 {
		t.Errorf("%d jobs were leased and %d finished with %d failures, want 100 each with some", leased, finished, failures)
	}
	if run := h.run(t, id); run.Conclusion != ci.Success {
		t.Errorf("the run is %s %s, want success", run.Status, run.Conclusion)
	}
	h.wantSound(t)
	if len(h.runs) != 0 {
		t.Errorf("%d runs are kept in memory", len(h.runs))
	}
}

// fault gives a function that changes the database of a store behind its back.
func fault(t *testing.T, path string) func(statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // so that a transaction may go over several statements
	t.Cleanup(func() { db.Close() })
	return func(statement string) {
		t.Helper()
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
}

// A refusal that rests on a change which is not yet stored, and then fails, is not told to anybody.
func TestRefusalWaitsForWhatItRestsOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.db")
	h := open(t, "sqlite:"+path, t.TempDir(), Options{})
	change := fault(t, path)
	id := h.trigger(t, buildThenTest)
	_, l := h.lease(t)
	h.start(t, l)
	change(`BEGIN IMMEDIATE`) // from here on no save gets through
	finished := make(chan error)
	for range 2 {
		go func() { finished <- h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}) }()
	}
	x, err := h.entry(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for x.pending.Load() == 0 {
		runtime.Gosched()
	}
	h.release(x)
	refused := h.Update(ended(), id, ci.Finished{Job: l.Job, Lease: l.ID, Result: ci.Result{Conclusion: ci.Success}})
	change(`CREATE TRIGGER planted BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'planted fault'); END`)
	change(`COMMIT`)
	for _, err := range []error{<-finished, <-finished, refused} {
		if err == nil || errors.Is(err, ci.ErrStale) {
			t.Errorf("finishing a job that is not stored as finished = %v, want the failure", err)
		}
	}
	change(`DROP TRIGGER planted`)
	h.finish(t, l, ci.Success)
	h.wantSound(t)
}

// What Work can not store it tries again, with pauses, until it can.
func TestWorkTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "p.db")
		var log bytes.Buffer
		h := open(t, "sqlite:"+path, t.TempDir(), Options{LeaseFor: 10 * time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))})
		h.work(t)
		setFault := fault(t, path)
		id := h.trigger(t, buildThenTest)
		_, l := h.lease(t)
		h.start(t, l)
		gated, err := h.Trigger(t.Context(), plan(t, gatedJob, waitFor(time.Minute)))
		if err != nil {
			t.Fatal(err)
		}
		setFault(`CREATE TRIGGER planted BEFORE INSERT ON records
			WHEN NEW.event LIKE '%job_completed%' OR NEW.event LIKE '%run_granted%' OR NEW.event LIKE '%job_moved%'
			BEGIN SELECT RAISE(ABORT, 'planted fault'); END`)
		grouped := h.trigger(t, "on: push\nconcurrency: g\njobs:\n  a:\n    runs-on: other\n    steps: [{run: echo}]\n")
		time.Sleep(5 * time.Minute)
		if job := h.run(t, id).Job("build"); job.Status != ci.InProgress {
			t.Errorf("build is %s though nothing can be stored", job.Status)
		}
		if task := h.leaseNow(t, "other"); task != nil {
			t.Errorf("%s was leased though its group can not be stored", task.Job)
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "planted fault"); n < 15 || n > 40 {
			t.Errorf("in five minutes %d failures were told, want 15 to 40: the pauses grow\n%s", n, log.String())
		}
		setFault(`DROP TRIGGER planted`)
		time.Sleep(2 * maxRetry)
		if job := h.run(t, id).Job("build"); job.Conclusion != ci.Failure {
			t.Errorf("build is %s %s, want lost", job.Status, job.Conclusion)
		}
		if task := h.leaseNow(t, "other"); task == nil || task.Run != grouped {
			t.Errorf("leased %+v, want the job that has its group", task)
		}
		if task := h.leaseNow(t, "gated"); task == nil || task.Run != gated {
			t.Errorf("leased %+v, want the job that has waited", task)
		}
		h.wantSound(t)
	})
}

const gatedJob = "on: push\njobs:\n  deploy:\n    runs-on: gated\n    environment: prod\n    steps: [{run: echo}]\n"

// waitFor gives a plan an environment with a wait timer.
func waitFor(d time.Duration) func(*ci.Plan) {
	return func(p *ci.Plan) {
		p.Environments = map[string]ci.Environment{"prod": {Name: "prod", Wait: d}}
	}
}

func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inMemory(t, Options{})
		h.work(t)
		id, err := h.Trigger(t.Context(), plan(t, gatedJob, waitFor(30*time.Minute)))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Minute)
		if job := h.run(t, id).Job("deploy"); job.Status != ci.Waiting {
			t.Errorf("after 29 minutes deploy is %s, want waiting", job.Status)
		}
		began := time.Now()
		task, _ := h.lease(t)
		if took := time.Since(began); task.Job != "deploy" || took != time.Minute {
			t.Errorf("leased %s after %v more, want deploy after a minute", task.Job, took)
		}
	})
}

// Groups that nobody decided about before a restart are decided about after it.
func TestRestartFindsGroups(t *testing.T) {
	const grouped = "on: push\nconcurrency: g\njobs:\n  a:\n    runs-on: x\n    steps: [{run: echo}]\n"
	url, dir := "sqlite:"+filepath.Join(t.TempDir(), "p.db"), t.TempDir()
	first := open(t, url, dir, Options{})
	oldest, older, newer := first.trigger(t, grouped), first.trigger(t, grouped), first.trigger(t, grouped)
	if task := first.leaseNow(t); task != nil {
		t.Errorf("%s of run %d was leased without its group", task.Job, task.Run)
	}
	first.store.Close()
	first.blobs.Close()
	second := open(t, url, dir, Options{})
	second.work(t)
	for _, want := range []ci.RunID{oldest, newer} {
		task, l := second.lease(t)
		if task.Run != want {
			t.Errorf("leased a job of run %d, want of %d: the first takes the group, then the newest that waits", task.Run, want)
		}
		second.start(t, l)
		second.finish(t, l, ci.Success)
	}
	if run := second.run(t, older); run.Conclusion != ci.Cancelled {
		t.Errorf("the run that was replaced is %s %s, want cancelled", run.Status, run.Conclusion)
	}
	if claims, err := second.store.AllClaims(t.Context()); err != nil || len(claims) != 0 {
		t.Errorf("claims left: %v, %v", claims, err)
	}
	second.wantSound(t)
}
