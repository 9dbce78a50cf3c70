package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/penstock-ci/penstock/internal/cd"
)

// A release runs on the machines that are there when it begins, and one that goes back on those that are there then.
func TestReleasesArePlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		there := []string{"one", "two", "zero"} // the last has nothing to do
		e := openReleases(t, "sqlite::memory:", ReleaseOptions{Machines: func(_ context.Context, labels []string) ([]string, error) {
			if !slices.Equal(labels, []string{"web"}) || len(there) == 0 {
				return nil, fmt.Errorf("%w: nobody is %v", ErrNoMachine, labels)
			}
			return there, nil
		}})
		w := newWorld(t.Errorf, e)
		w.work(t)
		begin := func(revision string) cd.ReleaseID {
			p := toRelease(cd.BlueGreen, revision, "web")
			p.RunsOn = []string{"web"}
			id := e.begun(t, p)
			e.reaches(t, id, cd.Live)
			return id
		}
		on := func(id cd.ReleaseID) []string {
			r, err := e.Release(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return r.Plan.Machines
		}
		first := begin("a")
		there = []string{"two"}
		second := begin("b")
		if a, b := on(first), on(second); !slices.Equal(a, []string{"one", "two"}) || !slices.Equal(b, there) {
			t.Errorf("they run on %v and %v", a, b)
		}
		there = []string{"three"}
		back, err := e.Restore(t.Context(), Restore{Repository: "octo/hello", Environment: "production", By: "mona"})
		if err != nil {
			t.Fatal(err)
		}
		if got := on(back); !slices.Equal(got, there) {
			t.Errorf("the one that goes back runs on %v", got)
		}
		there = nil
		last := toRelease(cd.BlueGreen, "c", "web")
		last.RunsOn = []string{"web"}
		if _, err := e.Begin(t.Context(), last, nil, nil); !errors.Is(err, ErrNoMachine) {
			t.Errorf("without a machine: %v", err)
		}
		if _, err := e.Restore(t.Context(), Restore{Repository: "octo/hello", Environment: "production", To: first}); !errors.Is(err, ErrNoMachine) {
			t.Errorf("going back without a machine: %v", err)
		}
		if p, err := (&Releases{}).placed(t.Context(), last); !errors.Is(err, ErrNoMachine) || p != nil {
			t.Errorf("where there are no machines: %v, %v", p, err)
		}
	})
}
