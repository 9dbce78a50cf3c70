package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

// An environment is carried by the server that it was first released to by, whoever begins and changes releases. While that
// one is not there they wait, and it is known.
func TestServersShareReleases(t *testing.T) {
	url := postgres(t).Database(t)
	const production = "production"
	open := func(name string) (*Releases, *world) {
		e := openReleases(t, url, ReleaseOptions{Name: name})
		w := newWorld(t.Errorf, e)
		w.start = 10 * time.Millisecond
		return e, w
	}
	one, carrying := open("one")
	two, idle := open("two")
	stop := carrying.work(t)
	idle.work(t)
	if _, err := two.Carried(t.Context(), "octo/hello", production); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("who carries an environment without releases: %v", err)
	}
	live := func(e *Releases, id cd.ReleaseID) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r, err := e.WaitFor(ctx, id, func(r *cd.Release) bool { return r.Phase == cd.Live }); err != nil {
			t.Fatalf("release %d is %s: %v", id, r.Phase, err)
		}
	}
	first := one.begun(t, toRelease(cd.BlueGreen, "a", "web"))
	live(two, first)
	second := two.begun(t, toRelease(cd.BlueGreen, "b", "web"))
	live(two, second)

	there := func() bool {
		t.Helper()
		c, err := two.Carried(t.Context(), "Octo/Hello", "Production")
		if err != nil || c.Server != "one" {
			t.Errorf("carried by %+v, %v", c, err)
		}
		return c.There
	}
	if err := one.store.Beat(t.Context(), "id of one", "one", nil); err != nil {
		t.Fatal(err)
	}
	if !there() {
		t.Error("its server is said to be gone")
	}
	stop()
	if _, err := one.store.RemoveServer(t.Context(), store.Server{ID: "id of one", Beats: 1}); err != nil {
		t.Fatal(err)
	}
	if there() {
		t.Error("its server is said to be there")
	}
	third := two.begun(t, toRelease(cd.BlueGreen, "c", "web"))
	// What server two carries goes on meanwhile.
	p := toRelease(cd.BlueGreen, "a", "web")
	p.Environment = "staging"
	live(two, two.begun(t, p))
	if r, err := two.Release(t.Context(), third); err != nil || r.Phase != cd.Launching {
		t.Errorf("it is %s without its server, %v", r.Phase, err)
	}
	if err := two.Update(t.Context(), third, cd.Abort{By: "mona"}); err != nil {
		t.Error(err)
	}
	fourth := two.begun(t, toRelease(cd.BlueGreen, "d", "web"))
	again, carrying := open("one")
	carrying.work(t)
	live(two, fourth)
	if n := idle.running(); n[first]+n[second]+n[third]+n[fourth] != 0 {
		t.Errorf("the other server runs %v", n)
	}
	again.settles(t, production)
	again.wantSound(t)
}
