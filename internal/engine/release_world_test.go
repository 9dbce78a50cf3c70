package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// world is a carrier whose instances are in memory. They take a while to become healthy and to end.
type world struct {
	fault    func(format string, args ...any) // is told what ought not to be
	releases *Releases
	start    time.Duration // until an instance is healthy
	// fails, if not nil, says whether a call of Carry or Do fails before it does anything.
	fails func() bool
	// sick says of which revisions no instance becomes healthy.
	sick map[string]bool
	// answer, if not nil, answers tasks; else all are well.
	answer func(r *cd.Release, t cd.Task) cd.Done
	// heard, if not nil, is told what is carried and done.
	heard func(format string, args ...any)

	mu        sync.Mutex
	instances map[instanceKey]bool             // are to run
	ending    map[instanceKey]bool             // of which is told that they have ended
	turns     map[instanceKey]*sync.Mutex      // of each instance, one tells at a time
	traffic   map[string]map[cd.ReleaseID]bool // of the table in force: who takes some, by place and service
	wants     map[instanceKey]int              // of the state that was carried last, by release and service
	versions  map[cd.ReleaseID]int64
	done      map[string]int // how often each task was done
	carries   int            // that went well
	all       sync.WaitGroup
	ctx       context.Context
}

type instanceKey struct {
	release cd.ReleaseID
	service string
	index   int
}

func newWorld(fault func(string, ...any), e *Releases) *world {
	return &world{fault: fault, releases: e, start: 2 * time.Second, sick: map[string]bool{}, instances: map[instanceKey]bool{}, ending: map[instanceKey]bool{}, turns: map[instanceKey]*sync.Mutex{},
		traffic: map[string]map[cd.ReleaseID]bool{}, wants: map[instanceKey]int{}, versions: map[cd.ReleaseID]int64{}, done: map[string]int{}}
}

// work carries the releases until the test ends, or it is stopped. Begun again it finds the instances that were healthy.
func (w *world) work(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w.mu.Lock()
	w.ctx, w.carries = ctx, 0
	clear(w.instances)
	clear(w.ending)
	w.mu.Unlock()
	var ended sync.WaitGroup
	ended.Go(func() { w.releases.Work(ctx, w) })
	stop = sync.OnceFunc(func() {
		cancel()
		ended.Wait()
		w.all.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func (w *world) Carry(ctx context.Context, releases []Active) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails != nil && w.fails() {
		return errors.New("the carrier does not feel like it")
	}
	w.carries++
	recreated := map[string]bool{} // services of which one stops before the next starts
	wants, revisions := map[instanceKey]int{}, map[instanceKey]string{}
	for _, r := range releases {
		if r.Version < w.versions[r.ID] {
			w.fault("release %d was carried at version %d after %d", r.ID, r.Version, w.versions[r.ID])
		}
		w.versions[r.ID] = r.Version
		if w.heard != nil {
			w.heard("carry %d %d", r.ID, r.Version)
		}
		for i, p := range r.Parts {
			k := instanceKey{r.ID, p.Service, 0}
			wants[k], revisions[k] = p.Want, r.Plan.Services[i].Revision.ID
			if r.Plan.Strategy.Kind == cd.Recreate {
				recreated[p.Service] = true
			}
		}
	}
	for k, n := range w.wants {
		for place, takers := range w.traffic {
			// What is taken back stops by itself, once the same call has put the table in force.
			if n > 0 && wants[k] == 0 && takers[k.release] && strings.HasSuffix(place, "/"+k.service) && w.served(ctx, k.release) && !recreated[k.service] {
				w.fault("%s of release %d is to stop while the table leads to it", k.service, k.release)
			}
		}
	}
	w.wants = wants
	w.traffic = map[string]map[cd.ReleaseID]bool{}
	for _, r := range releases {
		for _, s := range r.Shares() {
			place := r.Plan.Repository + "/" + r.Plan.Environment + "/" + s.Service
			w.traffic[place] = map[cd.ReleaseID]bool{s.New: s.Weight > 0 || len(s.Match) > 0, s.Old: s.Weight < 100}
		}
	}
	w.adopt(releases)
	for k, n := range wants {
		for i := range n {
			if k.index = i; !w.instances[k] {
				w.instances[k] = true
				delete(w.ending, k)
				state := cd.Healthy
				if w.sick[revisions[instanceKey{k.release, k.service, 0}]] {
					state = cd.Ill
				}
				w.tell(k, w.start/2, cd.Starting, state)
			}
		}
	}
	for _, k := range slices.Collect(maps.Keys(w.instances)) {
		if k.index >= wants[instanceKey{k.release, k.service, 0}] {
			delete(w.instances, k)
			w.ending[k] = true
			w.tell(k, w.start/2, cd.Stopped)
		}
	}
	return nil
}

// adopt finds the instances of before, if the world begins anew, and tells of those that have ended unseen.
func (w *world) adopt(releases []Active) {
	for _, r := range releases {
		for _, p := range r.Parts {
			for _, i := range p.Instances {
				k := instanceKey{r.ID, p.Service, i.Index}
				switch {
				case i.Index >= p.Want && !w.instances[k] && !w.ending[k]:
					w.ending[k] = true
					w.tell(k, w.start/2, cd.Stopped)
				case i.Index < p.Want && w.carries == 1 && i.State == cd.Healthy:
					w.instances[k] = true
				}
			}
		}
	}
}

// served reports whether a release serves, or did until another took its place.
func (w *world) served(ctx context.Context, id cd.ReleaseID) bool {
	r, err := w.releases.Release(ctx, id)
	return err == nil && (r.Phase == cd.Live || r.Phase == cd.Retired)
}

// tell tells after a while what has become of an instance, until that is stored; then what comes next, after the same
// while. Of one instance it is told in order. The caller holds w.mu.
func (w *world) tell(k instanceKey, after time.Duration, states ...cd.State) {
	ctx, turn := w.ctx, w.turns[k]
	if turn == nil {
		turn = &sync.Mutex{}
		w.turns[k] = turn
	}
	w.all.Go(func() {
		for _, s := range states {
			for told := false; !told; {
				pause(ctx, after)
				if ctx.Err() != nil {
					return
				}
				turn.Lock()
				w.mu.Lock()
				outdated := w.instances[k] != (s != cd.Stopped)
				w.mu.Unlock()
				var err error
				if !outdated {
					err = w.releases.Update(ctx, k.release, cd.Observed{Service: k.service, Instance: cd.Instance{Index: k.index, State: s, Addr: fmt.Sprint("10.0.0.", k.index, ":80")}})
				}
				turn.Unlock()
				if outdated {
					return
				}
				told = err == nil || errors.Is(err, cd.ErrStale)
			}
		}
	})
}

func (w *world) Do(ctx context.Context, r *cd.Release, t cd.Task) (cd.Done, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails != nil && w.fails() {
		return cd.Done{}, errors.New("the carrier does not feel like it")
	}
	if w.done[fmt.Sprint(r.ID, " ", t.ID)]++; w.heard != nil {
		w.heard("do %d %s", r.ID, t.ID)
	}
	if w.answer != nil {
		return w.answer(r, t), nil
	}
	done := cd.Done{OK: true, Message: "well"}
	if t.Kind == cd.TaskSample {
		well := cd.Traffics{Requests: 1000, Latency: []int64{900, 100}, Bounds: []float64{10}}
		done.Samples = map[string]cd.Sample{}
		for _, p := range r.Parts {
			done.Samples[p.Service] = cd.Sample{New: well, Old: well, From: t.From, To: time.Now()}
		}
	}
	return done, nil
}

// running gives how many instances each release runs.
func (w *world) running() map[cd.ReleaseID]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[cd.ReleaseID]int{}
	for k := range w.instances {
		n[k.release]++
	}
	return n
}
