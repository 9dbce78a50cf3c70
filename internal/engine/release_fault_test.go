package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

// An answer that can not be stored is kept until it can: the task is not done again for that. Nobody hears of what is not
// stored.
func TestAnswersThatCanNotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "p.db")
		var log bytes.Buffer
		e := openReleases(t, "sqlite:"+path, ReleaseOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
		w := newWorld(t.Errorf, e)
		w.work(t)
		change := fault(t, path)
		change(`CREATE TRIGGER planted BEFORE INSERT ON release_records WHEN NEW.event LIKE '%"hooked"%' BEGIN SELECT RAISE(ABORT, 'planted fault'); END`)
		p := toRelease(cd.Rolling, "a", "web")
		p.Services[0].Hook = []string{"migrate"}
		id := e.begun(t, p)
		time.Sleep(5 * time.Minute)
		if r := e.reaches(t, id, cd.Preparing); r.Parts[0].Hooked {
			t.Error("the hook counts as run though that is not stored")
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "planted fault"); n < 5 || n > 20 {
			t.Errorf("in five minutes %d failures were told, want 5 to 20: the pauses grow\n%s", n, log.String())
		}
		change(`DROP TRIGGER planted`)
		e.reaches(t, id, cd.Live)
		if n := w.done[fmt.Sprint(id, " hook/web")]; n != 1 {
			t.Errorf("the hook was run %d times", n)
		}
		e.wantSound(t)
	})
}

// The database refuses one in some writes, the carrier fails at times, and so do instances, while releases begin and are
// taken back. In the end all is as it was asked for last.
func TestReleasesWithFaults(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { releaseWithFaults(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func releaseWithFaults(t *testing.T, random *rand.Rand) {
	path := filepath.Join(t.TempDir(), "p.db")
	e := openReleases(t, "sqlite:"+path, ReleaseOptions{Log: slog.New(slog.DiscardHandler)})
	w := newWorld(t.Errorf, e)
	stop := w.work(t)
	first := e.begun(t, toRelease(cd.Rolling, "first", "web", "api"))
	e.reaches(t, first, cd.Live)

	faulty := rand.New(rand.NewPCG(random.Uint64(), 2)) // of another goroutine
	w.mu.Lock()
	w.fails = func() bool { return faulty.IntN(4) == 0 }
	w.mu.Unlock()
	change := fault(t, path)
	change(`CREATE TRIGGER planted BEFORE INSERT ON release_records WHEN abs(random()) % 6 = 0 BEGIN SELECT RAISE(ABORT, 'planted fault'); END`)
	kinds := []cd.Kind{cd.Recreate, cd.Rolling, cd.BlueGreen, cd.Canary}
	services := [][]string{{"web"}, {"api"}, {"web", "api"}}
	var failures int
	for n := range 12 {
		p := toRelease(kinds[random.IntN(len(kinds))], fmt.Sprint("r", n), services[random.IntN(len(services))]...)
		p.Watch.For = time.Duration(random.IntN(3)) * time.Minute
		p.Services[0].Hook = []string{"migrate"}
		p.Strategy.Analysis = &cd.Analysis{Interval: time.Minute, Threshold: 2, StepWeight: 20, MaxWeight: 60}
		if random.IntN(5) == 0 {
			w.mu.Lock()
			w.sick[p.Services[0].Revision.ID] = true
			w.mu.Unlock()
		}
		id, err := e.Begin(t.Context(), p, nil, nil)
		for ; err != nil; failures++ {
			id, err = e.Begin(t.Context(), p, nil, nil)
		}
		time.Sleep(time.Duration(random.IntN(120)) * time.Second)
		switch random.IntN(6) {
		case 0:
			e.Update(t.Context(), id, cd.Abort{By: "mona"})
		case 1: // all of it ends and begins again; the instances run on
			stop()
			stop = w.work(t)
		}
	}
	change(`DROP TRIGGER planted`)
	w.mu.Lock()
	w.fails = nil
	w.mu.Unlock()
	time.Sleep(time.Hour) // the pauses have grown
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	active, err := e.Active(ctx)
	if err != nil {
		t.Fatal(err)
	}
	running := w.running()
	for _, r := range active {
		if r.Phase != cd.Live || len(r.Next()) > 0 {
			t.Errorf("release %d is %s and asks for %v\n%s", r.ID, r.Phase, r.Next(), e.told(t, r.ID))
		}
		want := 0
		for _, p := range r.Parts {
			want += p.Want
		}
		if running[r.ID] != want {
			t.Errorf("release %d runs %d instances, want %d", r.ID, running[r.ID], want)
		}
		delete(running, r.ID)
	}
	if len(running) > 0 {
		t.Errorf("these run and should not: %v", running)
	}
	e.wantSound(t)
}

// TestReleaseClockJumps sets the clock while a release waits: its deadline comes when it should.
func TestReleaseClockJumps(t *testing.T) {
	for _, by := range []time.Duration{36 * time.Hour, -36 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel() // it waits; synctest has no clock that could be set
			var off atomic.Int64
			e := openReleases(t, "sqlite::memory:", ReleaseOptions{Now: func() time.Time { return jumped(time.Now(), time.Duration(off.Load())) }})
			w := newWorld(t.Errorf, e)
			w.start = time.Millisecond
			w.work(t)
			e.reaches(t, e.begun(t, toRelease(cd.BlueGreen, "a", "web")), cd.Live)
			p := toRelease(cd.BlueGreen, "b", "web")
			p.Watch.For = 2 * time.Second
			id := e.begun(t, p)
			e.reaches(t, id, cd.Watching)
			off.Store(int64(by))
			for _, in := range []cd.Input{cd.Observed{Service: "web", Instance: cd.Instance{State: cd.Healthy, Restarts: 1}}, cd.Pause{By: "mona"}, cd.Resume{By: "mona"}} {
				if err := e.Update(t.Context(), id, in); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := e.Release(t.Context(), id); err != nil || r.Phase != cd.Watching {
				t.Errorf("as the clock is set it is %s, %v", r.Phase, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if r, err := e.WaitFor(ctx, id, func(r *cd.Release) bool { return r.Phase == cd.Live }); err != nil {
				t.Errorf("it is still %s: %v", r.Phase, err)
			}
		})
	}
}

// Who waits for a release that is not there, or until the end of its context, hears of it.
func TestWaitForReleases(t *testing.T) {
	e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
	never := func(*cd.Release) bool { return false }
	if _, err := e.WaitFor(t.Context(), 1, never); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a release that is not there: %v", err)
	}
	id := e.begun(t, toRelease(cd.Rolling, "a", "web"))
	if r, err := e.WaitFor(ended(), id, never); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %+v, %v", r, err)
	}
	if err := e.Update(t.Context(), 9, cd.Pause{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("updating what is not there: %v", err)
	}
	if err := e.Update(t.Context(), id, cd.Promote{By: "mona"}); !errors.Is(err, cd.ErrRefused) {
		t.Errorf("promoting too early: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() {
		if err := e.Update(t.Context(), id, cd.Pause{By: "mona"}); err != nil {
			t.Error(err)
		}
	})
	for r, err := range e.Tail(ctx, 0) {
		if err != nil || r.Release != id {
			t.Fatal(r, err)
		}
		if r.Event.Type == cd.EventPaused {
			break
		}
	}
	all.Wait()
}
