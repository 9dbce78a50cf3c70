package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

// crashServerEnv names the server as which this test binary, started again, carries releases until it is killed.
const crashServerEnv = "PENSTOCK_ENGINE_CRASH_SERVER"

// crashPlaces are where children release to.
const crashPlaces = 3

func crashPlan(environment int, kind cd.Kind) *cd.Plan {
	p := toRelease(kind, fmt.Sprint(rand.Int()), "web", "api")
	p.Environment = fmt.Sprint("e", environment)
	p.Services[0].Hook = []string{"migrate"}
	p.Watch.For = 20 * time.Millisecond
	return p
}

// releaseUntilKilled begins releases, at times takes them back, carries them through, and says on stdout what was
// acknowledged:
//
//	begun ID            a release began
//	aborted ID          it was taken back
//	carry ID VERSION    the carrier was told of it
//	do ID TASK          the carrier does a task
//	fault ...           what ought not to be
func releaseUntilKilled(url, server string) error {
	ctx := context.Background()
	st, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	e := NewReleases(st, ReleaseOptions{Name: server})
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	w := newWorld(func(format string, args ...any) { say("fault "+format, args...) }, e)
	w.ctx, w.start, w.heard = ctx, 10*time.Millisecond, say
	go e.Work(ctx, w)
	kinds := []cd.Kind{cd.Recreate, cd.Rolling, cd.BlueGreen}
	failed := make(chan error)
	for environment := range crashPlaces {
		go func() {
			for {
				id, err := e.Begin(ctx, crashPlan(environment, kinds[rand.IntN(len(kinds))]), nil, nil)
				if err != nil {
					failed <- err
					return
				}
				say("begun %d", id)
				patience, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(200))*time.Millisecond)
				e.WaitFor(patience, id, func(r *cd.Release) bool { return r.Phase == cd.Live || r.Phase.Over() })
				cancel()
				if rand.IntN(4) > 0 {
					continue
				}
				switch err := e.Update(ctx, id, cd.Abort{By: "mona", Reason: "for a change"}); {
				case err == nil:
					say("aborted %d", id)
				case !errors.Is(err, cd.ErrStale) && !errors.Is(err, cd.ErrRefused):
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// kill -9, again and again, of who carries the releases: what was acknowledged is there, the carrier never sees an older
// state after a newer one, and whoever comes next brings all of them to an end.
func TestKillReleases(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "p.db")
	var said []string
	for range 6 {
		said = append(said, crashWith(t, 50+rand.IntN(150), crashURLEnv+"="+url, crashServerEnv+"=one")...)
	}
	e := openReleases(t, url, ReleaseOptions{Name: "one"})
	newWorld(t.Errorf, e).work(t)
	e.wantSaidOfReleases(t, said)
}

// Servers that share a database are killed while others go on. Each environment is carried by one of them, whoever begins
// releases.
func TestKillReleasesSharing(t *testing.T) {
	url := postgres(t).Database(t)
	names := []string{"one", "two"}
	for i, name := range names {
		openReleases(t, url, ReleaseOptions{Name: name}).begun(t, crashPlan(i, cd.Rolling))
	}
	said := make([][]string, len(names))
	var servers sync.WaitGroup
	for i, name := range names {
		servers.Go(func() {
			for range 3 {
				said[i] = append(said[i], crashWith(t, 50+rand.IntN(150), crashURLEnv+"="+url, crashServerEnv+"="+name)...)
			}
		})
	}
	servers.Wait()
	carried := map[string]int{}
	for i, name := range names {
		e := openReleases(t, url, ReleaseOptions{Name: name})
		newWorld(t.Errorf, e).work(t)
		for _, line := range said[i] {
			if id, ok := strings.CutPrefix(line, "carry "); ok {
				carried[strings.Fields(id)[0]] |= 1 << i
			}
		}
	}
	for id, by := range carried {
		if by == 3 {
			t.Errorf("release %s was carried by both", id)
		}
	}
	e := openReleases(t, url, ReleaseOptions{Name: "three"})
	e.wantSaidOfReleases(t, said[0])
	e.wantSaidOfReleases(t, said[1])
}

// wantSaidOfReleases checks that what was acknowledged is stored, and waits until all releases are done.
func (e *Releases) wantSaidOfReleases(t *testing.T, said []string) {
	t.Helper()
	carried, acknowledged := map[cd.ReleaseID]int64{}, 0
	for _, line := range said {
		words := strings.Fields(line)
		var id cd.ReleaseID
		var version int64
		fmt.Sscan(words[1], &id)
		switch words[0] {
		case "begun", "aborted":
			acknowledged++
			done := func(r *cd.Release) bool { return r.Phase == cd.Live || r.Phase.Over() }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			r, err := e.WaitFor(ctx, id, done)
			cancel()
			if err != nil {
				t.Fatalf("acknowledged: %s, but %v: it is %s (%s)\n%s", line, err, r.Phase, r.Reason, e.told(t, id))
			}
			if words[0] == "aborted" && r.Phase != cd.Aborted {
				t.Errorf("acknowledged: %s, but it is %s", line, r.Phase)
			}
		case "carry":
			fmt.Sscan(words[2], &version)
			if version < carried[id] {
				t.Errorf("release %d was carried at version %d after %d", id, version, carried[id])
			}
			carried[id] = version
		case "fault":
			t.Error(line)
		case "do":
		default:
			t.Fatalf("the child says %q", line)
		}
	}
	for environment := range crashPlaces {
		e.settles(t, fmt.Sprint("e", environment))
	}
	e.wantSound(t)
	t.Logf("%d lines, %d acknowledgements, %d releases carried", len(said), acknowledged, len(carried))
}

// settles waits until of an environment nothing runs but what is live, as it is wanted.
func (e *Releases) settles(t testing.TB, environment string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		news := e.store.ReleasesChanged()
		list, err := e.store.Releases(ctx, store.ReleaseFilter{Repository: "octo/hello", Environment: environment, Active: true})
		if err != nil {
			t.Fatal(err)
		}
		settled := true
		for _, r := range list {
			settled = settled && r.Phase == cd.Live && len(r.Next()) == 0
			for _, p := range r.Parts {
				settled = settled && isScaled(r.Release, p.Service, p.Want, p.ScaledBy)
			}
		}
		if settled {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			for _, r := range list {
				t.Errorf("release %d is %s: %+v\n%s", r.ID, r.Phase, r.Parts, e.told(t, r.ID))
			}
			t.FailNow()
		}
	}
}
