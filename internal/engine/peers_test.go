package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/pgtest"
	"github.com/penstock-ci/penstock/internal/store"
)

// sharedLease is long enough for a busy machine to keep up with.
const sharedLease = 3 * time.Second

func postgres(t *testing.T) *pgtest.Server {
	t.Helper()
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	return pg
}

// several opens servers that share a database and blobs, and lets them work.
func several(t *testing.T, url string, n int) (all []*house) {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		h := open(t, url, dir, Options{Name: fmt.Sprint("server", i), LeaseFor: sharedLease})
		h.work(t)
		all = append(all, h)
	}
	return all
}

// until waits until the run is as it should be, as a server has it in memory.
func (h *house) until(t *testing.T, id ci.RunID, is func(*ci.Run) bool) {
	t.Helper()
	for range h.Tail(t.Context(), 0) {
		if is(h.run(t, id)) {
			return
		}
	}
	t.Fatal("it never was")
}

// kill -9 of servers that share a database while others go on: what was acknowledged is there, and no job runs twice.
func TestKillSharing(t *testing.T) {
	url, dir := postgres(t).Database(t), t.TempDir()
	var servers sync.WaitGroup
	var mu sync.Mutex
	var said []string
	begun := map[int]bool{}
	for n := range 3 {
		servers.Go(func() {
			for range 2 {
				lines := crash(t, url, dir, 100+rand.IntN(200))
				mu.Lock()
				said = append(said, lines...)
				for _, l := range lines {
					begun[n] = begun[n] || l[0] == 'b'
				}
				mu.Unlock()
			}
		})
	}
	servers.Wait()
	open(t, url, filepath.Join(dir, "blobs"), Options{}).wantSaid(t, said)
	if len(begun) != 3 || !begun[0] || !begun[1] || !begun[2] {
		t.Errorf("who began jobs: %v", begun)
	}
}

// Runners ask any server, and speak to another for each call: a run goes through all the same, each job once, and a
// concurrency group has one holder at a time.
func TestServersShareRuns(t *testing.T) {
	all := several(t, postgres(t).Database(t), 3)
	any := func() *house { return all[rand.IntN(len(all))] }
	ctx, stop := context.WithCancel(t.Context())
	const runs = 12
	var mu sync.Mutex
	begun, holding := map[string]int{}, map[string]int{}
	var runners sync.WaitGroup
	work := func(name string) {
		for {
			task, err := any().Lease(ctx, ci.Runner{Name: name})
			if err != nil {
				return
			}
			l := leaseOf(task)
			mu.Lock()
			begun[fmt.Sprint(l.Run, l.Job)]++
			if holding[task.Repository]++; holding[task.Repository] > 1 {
				t.Error("two runs of one concurrency group at once")
			}
			mu.Unlock()
			eventually := func(call func() error) { // a server may not have heard yet of what another has just said
				for {
					if err := call(); err == nil {
						return
					} else if !errors.Is(err, ci.ErrStale) || ctx.Err() != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
			eventually(func() error { _, err := any().Renew(ended(), l); return ignoreEnd(err) })
			eventually(func() error { return any().Report(t.Context(), l, ci.Report{}) })
			eventually(func() error { return any().Append(t.Context(), l, 0, []byte("hello\n")) })
			mu.Lock()
			holding[task.Repository]--
			mu.Unlock()
			eventually(func() error { return any().Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}) })
		}
	}
	for n := range 4 {
		runners.Go(func() { work(fmt.Sprint("r", n)) })
	}
	grouped := plan(t, "on: push\nconcurrency: {group: deploy, queue: max}\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps: [{run: echo}]\n", nil)
	var ids []ci.RunID
	for range runs {
		id, err := any().Trigger(t.Context(), grouped)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		any().until(t, id, func(r *ci.Run) bool { return r.Status == ci.Completed })
		if r := all[0].run(t, id); r.Conclusion != ci.Success {
			t.Errorf("run %d: %s", id, r.Conclusion)
		}
	}
	stop()
	runners.Wait()
	for name, n := range begun {
		if n != 1 {
			t.Errorf("%s has begun %d times", name, n)
		}
	}
	if len(begun) != runs {
		t.Errorf("%d jobs have begun, want %d", len(begun), runs)
	}
	all[0].wantSound(t)
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// A runner that renews its lease at another server than the one that gave it is not lost, not even while the database is
// away for longer than a lease lasts; one that nobody hears of is.
func TestLeaseHeardElsewhere(t *testing.T) {
	pg := postgres(t)
	all := several(t, pg.Database(t), 2)
	id := all[0].trigger(t, "on: push\njobs:\n  kept:\n    runs-on: ubuntu-latest\n    steps: [{run: echo}]\n  lost:\n    runs-on: ubuntu-latest\n    steps: [{run: echo}]\n")
	_, kept := all[0].lease(t)
	_, lost := all[0].lease(t)
	all[0].start(t, kept)
	all[0].start(t, lost)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for ctx.Err() == nil {
			if _, err := all[1].Renew(ctx, kept); errors.Is(err, ci.ErrStale) {
				time.Sleep(time.Millisecond) // it has not heard of the lease yet
			}
		}
	})
	all[1].until(t, id, func(r *ci.Run) bool { return r.Job("lost").Status == ci.Completed })
	if err := pg.Crash(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(sharedLease * 3 / 2) // the time is the matter here
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	other := all[1].trigger(t, buildThenTest)
	_, probe := all[1].lease(t)
	all[1].start(t, probe) // nobody renews it: once it is lost, so would be the other
	all[0].until(t, other, func(r *ci.Run) bool { return r.Job("build").Status == ci.Completed })
	if err := all[0].Finish(t.Context(), kept, ci.Result{Conclusion: ci.Success}); err != nil {
		t.Error(err)
	}
	stop()
	renewing.Wait()
	if run := all[1].run(t, id); run.Job("kept").Conclusion != ci.Success || run.Job("lost").Conclusion != ci.Failure {
		t.Errorf("kept is %s, lost is %s", run.Job("kept").Conclusion, run.Job("lost").Conclusion)
	}
}

// What a server that is gone was working on is lost to the others, once; its place on the list is free.
func TestServerGone(t *testing.T) {
	all := several(t, postgres(t).Database(t), 1)
	id := all[0].trigger(t, buildThenTest)
	crashed := open(t, all[0].url, t.TempDir(), Options{Name: "crashed", LeaseFor: sharedLease})
	_, l := crashed.lease(t)
	crashed.start(t, l)
	if _, err := crashed.Renew(ended(), l); ignoreEnd(err) != nil {
		t.Fatal(err)
	}
	if err := crashed.store.Beat(t.Context(), crashed.peers.id, "crashed", crashed.desk.heard(time.Time{})); err != nil {
		t.Fatal(err)
	}
	all[0].until(t, id, func(r *ci.Run) bool { return r.Status == ci.Completed })
	if run := all[0].run(t, id); run.Job("build").Conclusion != ci.Failure {
		t.Errorf("build is %s", run.Job("build").Conclusion)
	}
	servers := func() []store.Server {
		found, err := all[0].store.Servers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for deadline := time.Now().Add(time.Minute); len(servers()) != 1 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if left := servers(); len(left) != 1 || left[0].ID != all[0].peers.id {
		t.Errorf("servers: %+v", left)
	}
}
