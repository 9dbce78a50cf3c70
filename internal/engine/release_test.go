package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

func openReleases(t testing.TB, url string, opt ReleaseOptions) *Releases {
	t.Helper()
	st, err := store.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return NewReleases(st, opt)
}

// toRelease is a plan that releases a revision of services to production, two instances each.
func toRelease(kind cd.Kind, revision string, services ...string) *cd.Plan {
	p := &cd.Plan{Repository: "octo/hello", Environment: "production", By: "mona", Strategy: cd.Strategy{Kind: kind}}
	for _, name := range services {
		p.Services = append(p.Services, cd.Service{Name: name, Instances: 2, Revision: cd.Revision{ID: revision, Port: 80}})
	}
	return p
}

func (e *Releases) begun(t testing.TB, p *cd.Plan) cd.ReleaseID {
	t.Helper()
	id, err := e.Begin(t.Context(), p, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// reaches waits until a release is in a phase.
func (e *Releases) reaches(t testing.TB, id cd.ReleaseID, phase cd.Phase) store.Release {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	r, err := e.WaitFor(ctx, id, func(r *cd.Release) bool { return r.Phase == phase })
	if err != nil {
		t.Fatalf("waiting for %s: release %d is %s (%s): %v\n%s", phase, id, r.Phase, r.Reason, err, e.told(t, id))
	}
	return r
}

// told is the timeline of a release as text.
func (e *Releases) told(t testing.TB, id cd.ReleaseID) string {
	t.Helper()
	list, err := e.Timeline(context.Background(), id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "%s\n", r.Event.Text)
	}
	return b.String()
}

// wantSound checks all that is stored of releases: the records have no gaps and make the snapshots, and no release was told to
// scale twice by one decision.
func (e *Releases) wantSound(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	replayed := map[cd.ReleaseID]*cd.Release{}
	wants := map[string]int{} // how many instances a release is to run of a service, by who asked last
	var after int64
	for {
		page, err := e.store.ReleaseRecords(ctx, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if r.Seq != after+1 {
				t.Fatalf("record %d follows %d", r.Seq, after)
			}
			after = r.Seq
			if replayed[r.Release] == nil {
				replayed[r.Release] = &cd.Release{}
			}
			replayed[r.Release].Apply(r.Event)
			if r.Event.Type == cd.EventWanted {
				k := fmt.Sprint(r.Release, r.Event.Service, r.Event.Release)
				if had, ok := wants[k]; ok && had == r.Event.Instances {
					t.Errorf("record %d: release %d is told twice to run %d of %s", r.Seq, r.Release, r.Event.Instances, r.Event.Service)
				}
				wants[k] = r.Event.Instances
			}
		}
		if len(page) == 0 {
			break
		}
	}
	for id, r := range replayed {
		stored, err := e.Release(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := json.MarshalIndent(r, "", " ")
		want, _ := json.MarshalIndent(stored.Release, "", " ")
		if string(got) != string(want) {
			t.Errorf("release %d: the records make\n%s\nstored is\n%s", id, got, want)
		}
	}
}

func TestReleasesGoThrough(t *testing.T) {
	for _, kind := range []cd.Kind{cd.Recreate, cd.Rolling, cd.BlueGreen, cd.Canary} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
				w := newWorld(t.Errorf, e)
				w.work(t)
				first := e.begun(t, toRelease(kind, "a", "web", "api"))
				e.reaches(t, first, cd.Live)
				p := toRelease(kind, "b", "web", "api")
				p.Watch.For = time.Minute
				if kind == cd.Canary {
					p.Strategy.Analysis = &cd.Analysis{Interval: time.Minute, Threshold: 2, StepWeight: 50, MaxWeight: 50}
				}
				second := e.begun(t, p)
				r := e.reaches(t, second, cd.Watching)
				if s := r.Plan.Services[1]; s.Before != first || s.BeforeInstances != 2 {
					t.Errorf("it takes the place of release %d with %d instances, want %d with 2", s.Before, s.BeforeInstances, first)
				}
				e.reaches(t, second, cd.Live)
				e.reaches(t, first, cd.Retired)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := w.running(); n[first] != 0 || n[second] != 4 {
					t.Errorf("running: %v", n)
				}
				active, err := e.Active(t.Context())
				if err != nil || len(active) != 1 || active[0].ID != second || active[0].Number != 2 {
					t.Errorf("active: %+v, %v", active, err)
				}
				e.wantSound(t)
			})
		})
	}
}

// Of releases that begin at once each gets its place in the order, and the last one serves.
func TestReleasesBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
		w := newWorld(t.Errorf, e)
		w.work(t)
		first := e.begun(t, toRelease(cd.BlueGreen, "a", "web", "api"))
		e.reaches(t, first, cd.Live)
		other := toRelease(cd.BlueGreen, "a", "web")
		other.Environment = "staging"
		elsewhere := e.begun(t, other)
		var all sync.WaitGroup
		var mu sync.Mutex
		var begun []cd.ReleaseID
		for n := range 8 {
			all.Go(func() {
				time.Sleep(time.Duration(n/2) * time.Second) // two at a time, at several phases of those before
				id := e.begun(t, toRelease(cd.BlueGreen, fmt.Sprint("b", n), "web"))
				mu.Lock()
				begun = append(begun, id)
				mu.Unlock()
			})
		}
		all.Wait()
		last := slices.Max(begun)
		e.reaches(t, last, cd.Live)
		e.reaches(t, elsewhere, cd.Live)
		for _, id := range begun {
			if id == last {
				continue
			}
			r := e.reaches(t, id, cd.Superseded)
			if s := r.Plan.Services[0]; s.Before != first || s.BeforeInstances != 2 {
				t.Errorf("release %d takes the place of %d with %d instances, want %d with 2", id, s.Before, s.BeforeInstances, first)
			}
		}
		if _, err := e.WaitFor(t.Context(), first, func(r *cd.Release) bool { return wanted(r, "web") == 0 && wanted(r, "api") == 2 && r.Phase == cd.Live }); err != nil {
			t.Error(err)
		}
		active, err := e.store.Releases(t.Context(), store.ReleaseFilter{Repository: "octo/hello", Environment: "production", Active: true})
		if err != nil {
			t.Fatal(err)
		}
		var list []*cd.Release
		for _, r := range slices.Backward(active) {
			list = append(list, r.Release)
		}
		for service, want := range map[string]cd.ReleaseID{"web": last, "api": first, "db": 0} {
			if id, _ := Serving(list, service); id != want {
				t.Errorf("%s is served by %d, want %d", service, id, want)
			}
		}
		e.wantSound(t)
	})
}

// Nothing is scaled down before the table that does without it is in force, and nothing after a change of mind.
func TestScalingWaitsForTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
		w := newWorld(t.Errorf, e)
		w.work(t)
		first := e.begun(t, toRelease(cd.BlueGreen, "a", "web"))
		e.reaches(t, first, cd.Live)
		second := e.begun(t, toRelease(cd.BlueGreen, "b", "web"))
		e.reaches(t, second, cd.Launching)
		time.Sleep(time.Second)
		w.mu.Lock()
		asked := 0
		w.fails = func() bool { asked++; return true }
		w.mu.Unlock()
		e.reaches(t, second, cd.Live)
		time.Sleep(10 * time.Minute)
		if r := e.reaches(t, first, cd.Live); wanted(r.Release, "web") != 2 {
			t.Errorf("it was scaled though no table was in force")
		}
		w.mu.Lock()
		w.fails = nil
		w.mu.Unlock()
		if asked > 40 {
			t.Errorf("the carrier was asked %d times in ten minutes, want pauses", asked)
		}
		e.reaches(t, first, cd.Retired)
		e.wantSound(t)
	})
}

// A release that is taken away while another one asks it back up is told what the later one wants.
func TestScaledByTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
		w := newWorld(t.Errorf, e)
		w.work(t)
		first := e.begun(t, toRelease(cd.Recreate, "a", "web"))
		e.reaches(t, first, cd.Live)
		second := e.begun(t, toRelease(cd.Recreate, "b", "web"))
		e.reaches(t, first, cd.Retired)
		third := e.begun(t, toRelease(cd.Recreate, "c", "web"))
		e.reaches(t, third, cd.Live)
		e.reaches(t, second, cd.Superseded)
		r := e.reaches(t, first, cd.Retired)
		if s := e.reaches(t, third, cd.Live).Plan.Services[0]; s.Before != first || s.BeforeInstances != 2 {
			t.Errorf("it took the place of %d with %d instances", s.Before, s.BeforeInstances)
		}
		time.Sleep(time.Minute)
		if n := w.running(); n[first] != 0 || n[second] != 0 || n[third] != 2 {
			t.Errorf("running: %v, the first is %+v", n, r.Parts)
		}
		e.wantSound(t)
	})
}

// TestReleasesDrop stops services that an environment has no more, once a release of all that it has is live.
func TestReleasesDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
		w := newWorld(t.Logf, e) // that the table leads to what is dropped until then is as it should be
		defer w.work(t)()
		whole := func(revision string, services ...string) cd.ReleaseID {
			t.Helper()
			p := toRelease(cd.BlueGreen, revision, services...)
			p.Whole = true
			id := e.begun(t, p)
			e.reaches(t, id, cd.Live)
			return id
		}
		wantRunning := func(want map[cd.ReleaseID]int) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := w.running(); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v instances by release", got, want)
			}
		}
		one := whole("a", "web", "worker")
		two := e.begun(t, toRelease(cd.BlueGreen, "b", "web"))
		e.reaches(t, two, cd.Live)
		wantRunning(map[cd.ReleaseID]int{one: 2, two: 2})
		three := whole("c", "site")
		wantRunning(map[cd.ReleaseID]int{three: 2})
		e.reaches(t, one, cd.Retired)
		e.reaches(t, two, cd.Retired)
		// Back goes to all that there was, though it had other services.
		back, err := e.Restore(t.Context(), Restore{Repository: "octo/hello", Environment: "production"})
		if err != nil {
			t.Fatal(err)
		}
		wantRunning(map[cd.ReleaseID]int{back: 4})
		e.wantSound(t)
	})
}

// TestReleasesRemove removes an environment with a release that serves and one under way: nothing runs any more, nothing is brought
// back, the next release is a first one, and what served can be gone back to.
func TestReleasesRemove(t *testing.T) {
	for _, kind := range []cd.Kind{cd.Recreate, cd.Rolling, cd.BlueGreen, cd.Canary} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := openReleases(t, "sqlite::memory:", ReleaseOptions{})
				w := newWorld(t.Logf, e) // that the table leads to what is removed until then is as it should be
				defer w.work(t)()
				place := store.Place{Repository: "Octo/Hello", Environment: "Production"}
				if _, err := e.Remove(t.Context(), place, "hubot", ""); !errors.Is(err, ErrNothingToRemove) {
					t.Errorf("removing nothing: %v", err)
				}
				wantRunning := func(want map[cd.ReleaseID]int) {
					t.Helper()
					time.Sleep(10 * time.Minute)
					synctest.Wait()
					if got := w.running(); !maps.Equal(got, want) {
						t.Errorf("got %v, want %v instances by release", got, want)
					}
				}
				served := e.begun(t, toRelease(kind, "a", "web", "api"))
				e.reaches(t, served, cd.Live)
				w.mu.Lock()
				w.sick["b"] = true
				w.mu.Unlock()
				underWay := e.begun(t, toRelease(kind, "b", "web", "api"))
				if _, err := e.WaitFor(t.Context(), underWay, func(r *cd.Release) bool { return len(r.Parts[0].Instances) > 0 }); err != nil {
					t.Fatal(err)
				}
				id, err := e.Remove(t.Context(), place, "hubot", "moved")
				if err != nil || id != underWay {
					t.Fatalf("removed %d, %v, want %d", id, err, underWay)
				}
				at, err := e.Release(t.Context(), underWay)
				if err != nil || at.Phase != cd.Reverting {
					t.Fatalf("it is %s at once, %v", at.Phase, err)
				}
				// What begins while it is being taken away finds nothing before it.
				next := toRelease(kind, "c", "web")
				again := e.begun(t, next)
				if r, err := e.Release(t.Context(), again); err != nil || r.Plan.Services[0].Before != 0 {
					t.Errorf("the next release finds %d before it, %v", r.Plan.Services[0].Before, err)
				}
				wantRunning(map[cd.ReleaseID]int{again: 2})
				if r := e.reaches(t, underWay, cd.Aborted); !strings.Contains(r.Reason, "hubot") || !strings.Contains(r.Reason, "moved") {
					t.Errorf("it ended because: %s", r.Reason)
				}
				e.reaches(t, served, cd.Retired)

				if _, err := e.Remove(t.Context(), place, "hubot", ""); err != nil {
					t.Fatal(err)
				}
				wantRunning(map[cd.ReleaseID]int{})
				back, err := e.Restore(t.Context(), Restore{Repository: "octo/hello", Environment: "production"})
				if err != nil {
					t.Fatal(err)
				}
				if r := e.reaches(t, back, cd.Live); r.Plan.Restores != again {
					t.Errorf("it restores %d, want %d", r.Plan.Restores, again)
				}
				wantRunning(map[cd.ReleaseID]int{back: 2})
				e.wantSound(t)
			})
		})
	}
}

func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := auth.NewKeyring(time.Now())
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{Keys: func() *auth.Keyring { return keys }})
		w := newWorld(t.Errorf, e)
		stop := w.work(t)
		restore := func(r Restore) (cd.ReleaseID, error) {
			r.Repository, r.Environment, r.By, r.Reason = "Octo/Hello", "Production", "hubot", "it burns"
			return e.Restore(t.Context(), r)
		}
		if _, err := restore(Restore{}); !errors.Is(err, ErrNothingToRestore) {
			t.Errorf("restoring nothing: %v", err)
		}
		secrets := func(value string) map[string]map[string]string {
			return map[string]map[string]string{"web": {"TOKEN": value}}
		}
		release := func(revision string, phase cd.Phase) cd.ReleaseID {
			p := toRelease(cd.BlueGreen, revision, "web", "api")
			p.Services[0].Revision.Secrets = map[string]string{"TOKEN": revision}
			p.Gate = &cd.Gate{Kind: "review", Who: []string{"octocat"}}
			id, err := e.Begin(t.Context(), p, json.RawMessage(`"`+revision+`"`), secrets("secret \xff of "+revision))
			if err == nil {
				err = e.Update(t.Context(), id, cd.Approve{By: "octocat"})
			}
			if err != nil {
				t.Fatal(err)
			}
			e.reaches(t, id, phase)
			return id
		}
		a := release("a", cd.Live)
		if _, err := restore(Restore{}); !errors.Is(err, ErrNothingToRestore) {
			t.Errorf("restoring what is the first: %v", err)
		}
		b := release("b", cd.Live)
		w.mu.Lock()
		w.sick["x"] = true
		w.mu.Unlock()
		x := release("x", cd.Failed)
		c := release("c", cd.Live)
		want := func(id cd.ReleaseID, err error, from cd.ReleaseID, revision string, services ...string) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			r := e.reaches(t, id, cd.Live)
			if r.Plan.Restores != from || r.Plan.Services[0].Revision.ID != revision || !slices.Equal(names(r.Plan), services) || string(r.Extra) != `"`+revision+`"` {
				t.Errorf("restored %v of %d (%s, %s), want %v of %d (%s)", names(r.Plan), r.Plan.Restores, r.Plan.Services[0].Revision.ID, r.Extra, services, from, revision)
			}
			if r.Plan.By != "hubot" || r.Plan.Reason != "it burns" {
				t.Errorf("by %s: %s", r.Plan.By, r.Plan.Reason)
			}
			if got, err := e.Secrets(t.Context(), id, "web"); services[0] == "web" && (err != nil || got["TOKEN"] != "secret \xff of "+revision) {
				t.Errorf("its secrets are %q, %v", got, err)
			}
		}
		id, err := restore(Restore{})
		want(id, err, b, "b", "web", "api")
		id, err = restore(Restore{})
		want(id, err, a, "a", "web", "api")
		if _, err := restore(Restore{}); !errors.Is(err, ErrNothingToRestore) {
			t.Errorf("restoring what was before the first: %v", err)
		}
		id, err = restore(Restore{To: id, Services: []string{"web"}})
		want(id, err, a, "a", "web")
		id, err = restore(Restore{To: c, Services: []string{"api"}})
		want(id, err, c, "c", "api")
		for _, bad := range []Restore{{To: x}, {To: c, Services: []string{"db"}}} {
			if _, err := restore(bad); !errors.Is(err, ErrNothingToRestore) {
				t.Errorf("restoring %+v: %v", bad, err)
			}
		}
		if _, err := restore(Restore{To: 99}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("restoring what is not there: %v", err)
		}

		// The key is changed: what is kept is sealed anew, and opens.
		keys = keys.Rotate(time.Now())
		n, err := ResealReleases(t.Context(), e.store, keys)
		if err != nil || n == 0 {
			t.Errorf("%d were sealed anew, %v", n, err)
		}
		if keys, err = keys.Without(keys.Keys()[0].ID); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Secrets(t.Context(), c, "web"); err != nil || got["TOKEN"] != "secret \xff of c" {
			t.Errorf("after the rotation: %q, %v", got, err)
		}
		for range store.Restorable {
			release("y", cd.Live)
		}
		if _, err := restore(Restore{To: b}); !errors.Is(err, ErrNothingToRestore) || !strings.Contains(err.Error(), "not kept any more") {
			t.Errorf("restoring what is too old: %v", err)
		}
		onItsWay := e.begun(t, toRelease(cd.BlueGreen, "z", "api"))
		for _, services := range [][]string{nil, {"api"}} {
			if _, err := restore(Restore{Services: services}); !errors.Is(err, cd.ErrRefused) {
				t.Errorf("restoring %v while release %d is on its way: %v", services, onItsWay, err)
			}
		}
		for _, p := range []*cd.Plan{toRelease(cd.Rolling, "z"), toRelease(cd.Rolling, "z", "web", "web"), toRelease(cd.Rolling, "z", "")} {
			if id, err := e.Begin(t.Context(), p, nil, nil); err == nil {
				t.Errorf("release %d of %v began", id, names(p))
			}
		}
		for what, s := range map[string]map[string]map[string]string{"missing": nil, "unknown": {"web": {"TOKEN": "", "OTHER": ""}}, "of nothing": {"db": {"TOKEN": ""}}} {
			p := toRelease(cd.BlueGreen, "z", "web")
			p.Services[0].Revision.Secrets = map[string]string{"TOKEN": "1"}
			if id, err := e.Begin(t.Context(), p, nil, s); err == nil {
				t.Errorf("secrets %s: release %d began", what, id)
			}
		}
		stop() // so that nothing changes while it is read
		e.wantSound(t)
	})
}
