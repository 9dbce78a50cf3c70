package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/runner"
)

var _ runner.Queue = (*Engine)(nil)

func TestSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inMemory(t, Options{})
		id := h.trigger(t, buildThenTest)
		_, l := h.lease(t)
		h.start(t, l)
		renew := func() (ci.Signal, time.Duration) {
			t.Helper()
			before := time.Now()
			signal, err := h.Renew(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			return signal, time.Since(before)
		}
		if signal, took := renew(); signal != ci.SignalNone || took != LeaseFor/3 {
			t.Errorf("Renew gave %q after %v, want none after %v", signal, took, LeaseFor/3)
		}
		time.AfterFunc(time.Second, func() {
			if err := h.Cancel(t.Context(), id, "mona", false); err != nil {
				t.Error(err)
			}
		})
		if signal, took := renew(); signal != ci.SignalCancel || took != time.Second {
			t.Errorf("Renew gave %q after %v, want cancel after 1s", signal, took)
		}
		if signal, took := renew(); signal != ci.SignalCancel || took != LeaseFor/3 {
			t.Errorf("Renew gave %q after %v, want cancel again, but no sooner than %v", signal, took, LeaseFor/3)
		}
		if err := h.Cancel(t.Context(), id, "mona", true); err != nil {
			t.Fatal(err)
		}
		if signal, took := renew(); signal != ci.SignalKill || took != 0 {
			t.Errorf("Renew gave %q after %v, want kill at once", signal, took)
		}
		time.AfterFunc(time.Second, func() { h.finish(t, l, ci.Cancelled) })
		if _, err := h.Renew(t.Context(), l); !errors.Is(err, ci.ErrStale) {
			t.Errorf("Renew of a job that ended meanwhile = %v, want ErrStale", err)
		}
		if run := h.run(t, id); run.Conclusion != ci.Cancelled {
			t.Errorf("the run is %s %s, want cancelled", run.Status, run.Conclusion)
		}
	})
}

func TestLostLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inMemory(t, Options{LeaseFor: 10 * time.Second})
		h.work(t)
		id := h.trigger(t, buildThenTest)

		_, unstarted := h.lease(t)
		time.Sleep(11 * time.Second)
		task, l := h.lease(t) // nothing had begun: another runner may have it
		if task.Job != "build" {
			t.Fatalf("leased %s, want build again", task.Job)
		}
		if err := h.Report(t.Context(), unstarted, ci.Report{}); !errors.Is(err, ci.ErrStale) {
			t.Errorf("starting on a lost lease = %v, want ErrStale", err)
		}

		h.start(t, l)
		for range 10 { // kept alive for longer than a lease lasts
			if _, err := h.Renew(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		if job := h.run(t, id).Job("build"); job.Status != ci.InProgress {
			t.Errorf("build is %s, want in_progress", job.Status)
		}
		time.Sleep(11 * time.Second)
		run := h.run(t, id)
		job := run.Job("build")
		if job.Status != ci.Completed || job.Conclusion != ci.Failure || !strings.Contains(job.Reason, "not heard of for 10s") {
			t.Errorf("build is %s %s %q, want a failure that says why", job.Status, job.Conclusion, job.Reason)
		}
		if run.Status != ci.Completed || run.Conclusion != ci.Failure {
			t.Errorf("the run is %s %s, want completed failure", run.Status, run.Conclusion)
		}
		h.wantSound(t)
	})
}

// An engine with nothing to do does nothing, for a day: no timer goes off, nobody looks at the clock.
func TestIdleEngineSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		h := inMemory(t, Options{Now: func() time.Time {
			looks.Add(1)
			return time.Now()
		}})
		h.work(t)
		id := h.trigger(t, buildThenTest)
		_, l := h.lease(t)
		h.start(t, l)
		h.finish(t, l, ci.Failure)
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() { h.Lease(ctx, ci.Runner{Labels: []string{"ubuntu-latest"}}) })
		waiting.Go(func() {
			for range h.Tail(ctx, 0) {
				looks.Add(1)
			}
		})
		h.trigger(t, strings.ReplaceAll(buildThenTest, "ubuntu-latest", "[self-hosted, other]"))
		waiting.Go(func() { h.Lease(ctx, ci.Runner{Labels: []string{"none"}}) })
		waiting.Go(func() {
			for range h.Follow(ctx, id+1, 1, "build", 0) {
				looks.Add(1)
			}
		})
		synctest.Wait()
		before := looks.Load()
		time.Sleep(24 * time.Hour)
		if n := looks.Load() - before; n > 2 {
			t.Errorf("an idle engine woke up %d times in a day", n)
		}
		cancel()
		waiting.Wait()
	})
}

func TestRestartFindsTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		url, dir := "sqlite:"+filepath.Join(t.TempDir(), "p.db"), t.TempDir()
		opt := Options{LeaseFor: 10 * time.Second}
		first := open(t, url, dir, opt)
		id := first.trigger(t, buildThenTest)
		_, kept := first.lease(t)
		first.start(t, kept)
		other := first.trigger(t, buildThenTest)
		_, lost := first.lease(t)
		first.start(t, lost)
		waiting := first.trigger(t, buildThenTest)
		if err := first.Append(t.Context(), kept, 0, []byte("before ")); err != nil {
			t.Fatal(err)
		}
		first.store.Close()
		first.blobs.Close()
		time.Sleep(time.Hour) // longer than a lease lasts

		second := open(t, url, dir, opt)
		second.work(t)
		synctest.Wait()
		for range 4 { // more than a lease lasts
			if _, err := second.Renew(t.Context(), kept); err != nil {
				t.Errorf("Renew of a lease from before the restart = %v", err)
			}
		}
		if job := second.run(t, other).Job("build"); job.Conclusion != ci.Failure {
			t.Errorf("the job that nobody renews is %s %s, want a failure", job.Status, job.Conclusion)
		}
		if err := second.Append(t.Context(), kept, 7, []byte("after")); err != nil {
			t.Fatal(err)
		}
		second.finish(t, kept, ci.Success)
		log, err := blob.ReadAll(second.blobs, LogKey(id, 1, "build"), 100)
		if err != nil || string(log) != "before after" {
			t.Errorf("log = %q, %v", log, err)
		}
		task, _ := second.lease(t)
		if task.Run != waiting {
			t.Errorf("leased a job of run %d, want of %d, which waits longest", task.Run, waiting)
		}
		if task, _ = second.lease(t); task.Run != id || task.Job != "test/0" {
			t.Errorf("leased %s of run %d, want test/0 of %d", task.Job, task.Run, id)
		}
		second.wantSound(t)
	})
}

const planted = "planted-s3cret-value"

func TestSecretsAreNotStored(t *testing.T) {
	var asked []string
	dir := t.TempDir()
	h := open(t, "sqlite:"+filepath.Join(dir, "p.db"), filepath.Join(dir, "blobs"), Options{
		Secrets: func(_ context.Context, repository, environment string) (map[string]string, error) {
			asked = append(asked, repository+" "+environment)
			if environment == "broken" {
				return nil, errors.New("the vault is sealed")
			}
			return map[string]string{"TOKEN": planted + environment}, nil
		},
		Token: func(_ context.Context, task *ci.Task) (string, error) { return planted + "-token", nil },
	})
	id := h.trigger(t, `on: push
jobs:
  one:
    runs-on: x
    steps: [{run: echo}]
  two:
    runs-on: x
    environment: prod
    steps: [{run: echo}]
  three:
    runs-on: x
    environment: broken
    steps: [{run: echo}]
`)
	for range 2 {
		task, l := h.lease(t)
		want := planted + task.Environment
		if task.Secrets["TOKEN"] != want || task.Token != planted+"-token" {
			t.Errorf("task of %s has secrets %v and token %q", task.Job, task.Secrets, task.Token)
		}
		h.start(t, l)
		h.finish(t, l, ci.Success)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if task, err := h.Lease(ctx, ci.Runner{}); err == nil {
			t.Errorf("%s was leased without its secrets", task.Job)
		}
	})
	for r := range h.Tail(t.Context(), 0) {
		if r.Event.Type == ci.EventRunCompleted {
			break
		}
	}
	cancel()
	waiting.Wait()
	run := h.run(t, id)
	if job := run.Job("three"); job.Conclusion != ci.Failure || !strings.Contains(job.Reason, "the vault is sealed") {
		t.Errorf("the job whose secrets can not be had is %s %s %q, want a failure that says why", job.Status, job.Conclusion, job.Reason)
	}
	if got, want := fmt.Sprint(asked), "[octo/hello  octo/hello prod octo/hello broken]"; got != want {
		t.Errorf("secrets were asked for as %s, want %s", got, want)
	}
	h.wantSound(t)
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		p, err := os.ReadFile(path)
		if bytes.Contains(p, []byte(planted)) {
			t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil || files < 2 {
		t.Errorf("looked at %d files, %v", files, err)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inMemory(t, Options{})
		id := h.trigger(t, buildThenTest)
		var got bytes.Buffer
		var following sync.WaitGroup
		following.Go(func() {
			for p, err := range h.Follow(t.Context(), id, 1, "build", 0) {
				if err != nil {
					t.Error(err)
				}
				got.Write(p)
			}
		})
		_, l := h.lease(t)
		h.start(t, l)
		var want bytes.Buffer
		for n := range 100 {
			line := []byte(strings.Repeat(fmt.Sprint(n, " "), 1+n*n/4) + "\n")
			if err := h.Append(t.Context(), l, int64(want.Len()), line); err != nil {
				t.Fatal(err)
			}
			want.Write(line)
			if n%10 == 0 {
				synctest.Wait()
				if got.Len() != want.Len() {
					t.Fatalf("%d bytes were followed, want %d", got.Len(), want.Len())
				}
			}
		}
		h.finish(t, l, ci.Success)
		following.Wait()
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("followed %d bytes, want %d", got.Len(), want.Len())
		}
		var rest bytes.Buffer
		for p, err := range h.Follow(t.Context(), id, 1, "build", 1000) {
			if err != nil {
				t.Error(err)
			}
			rest.Write(p)
		}
		if !bytes.Equal(rest.Bytes(), want.Bytes()[1000:]) {
			t.Errorf("from 1000 on %d bytes were followed, want %d", rest.Len(), want.Len()-1000)
		}
		marks, err := h.LogTimes(id, 1, "build")
		if err != nil || len(marks) != 100 {
			t.Errorf("LogTimes gives %d marks, %v, want 100", len(marks), err)
		}
		var gap *blob.GapError
		_, l = h.lease(t)
		if err := h.Append(t.Context(), l, 5, []byte("x")); !errors.As(err, &gap) {
			t.Errorf("Append with a gap = %v, want a GapError", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var last error
		for _, last = range h.Follow(ctx, id, 1, "test/0", 0) {
		}
		if !errors.Is(last, context.DeadlineExceeded) {
			t.Errorf("Follow under an ended context ends with %v", last)
		}
		if len(h.logs.runs) != 0 {
			t.Errorf("%d runs are still followed", len(h.logs.runs))
		}
	})
}
