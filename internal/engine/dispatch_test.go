package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newDispatch() *dispatch {
	d := &dispatch{}
	d.init()
	return d
}

func ready(id string, after time.Duration, labels ...string) readyJob {
	return readyJob{Job: &ci.Job{ID: ci.JobID(id), Since: noon.Add(after), Labels: labels}}
}

// take leases like a runner that gets at once what there is, "" for nothing.
func take(t *testing.T, d *dispatch, r ci.Runner) ci.JobID {
	t.Helper()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	o, err := d.next(ended, r)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return ""
	}
	return o.job
}

func TestDispatchMatchesLabels(t *testing.T) {
	linux := readyJob{Job: &ci.Job{ID: "j", Labels: []string{"Self-Hosted", "linux"}}}
	gpu := readyJob{Job: &ci.Job{ID: "j", Labels: []string{"linux"}, Group: "GPU"}}
	disk := readyJob{Job: &ci.Job{ID: "j", Labels: []string{"linux"}, Resume: &ci.Resume{Runner: "one"}}}
	bare := readyJob{Job: &ci.Job{ID: "j", Group: "gpu"}}
	for _, c := range []struct {
		name string
		job  readyJob
		who  ci.Runner
		want bool
	}{
		{"all labels, other case", linux, ci.Runner{Labels: []string{"SELF-HOSTED", "Linux", "x64"}}, true},
		{"one label missing", linux, ci.Runner{Labels: []string{"linux"}}, false},
		{"a runner without labels takes all", linux, ci.Runner{}, true},
		{"a runner without labels takes a group's job", gpu, ci.Runner{}, true},
		{"group, other case", gpu, ci.Runner{Labels: []string{"linux"}, Group: "gpu"}, true},
		{"the runner that has the disk", disk, ci.Runner{Name: "one", Labels: []string{"linux"}}, true},
		{"a runner that has not", disk, ci.Runner{Name: "two", Labels: []string{"linux"}}, false},
		{"wrong group", gpu, ci.Runner{Labels: []string{"linux"}, Group: "cpu"}, false},
		{"no group", gpu, ci.Runner{Labels: []string{"linux"}}, false},
		{"a group alone", bare, ci.Runner{Labels: []string{"linux"}, Group: "GPU"}, true},
		{"a job without group", linux, ci.Runner{Labels: []string{"linux", "self-hosted"}, Group: "gpu"}, true},
	} {
		d := newDispatch()
		d.put(1, []readyJob{c.job})
		if got := take(t, d, c.who) == "j"; got != c.want {
			t.Errorf("%s: leased = %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDispatchIsFair(t *testing.T) {
	d := newDispatch()
	d.put(2, []readyJob{ready("late", 3), ready("early", 1, "linux")})
	d.put(1, []readyJob{ready("middle", 2), {Job: &ci.Job{ID: "last", Since: noon.Add(3)}, position: 1}})
	var got []ci.JobID
	for range 5 {
		got = append(got, take(t, d, ci.Runner{}))
	}
	if want := []ci.JobID{"early", "middle", "last", "late", ""}; !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
}

func TestDispatchOffersAgain(t *testing.T) {
	d := newDispatch()
	now := []readyJob{ready("a", 0)}
	d.put(1, now)
	o, err := d.next(t.Context(), ci.Runner{})
	if err != nil {
		t.Fatal(err)
	}
	d.put(1, now)
	if got := take(t, d, ci.Runner{}); got != "" {
		t.Errorf("%s was offered while it was being leased", got)
	}
	d.release(o) // the lease failed, the job is still ready
	if got := take(t, d, ci.Runner{}); got != "a" {
		t.Errorf("offered %q, want a", got)
	}

	d.put(1, nil) // it was leased
	d.release(o)
	if got := take(t, d, ci.Runner{}); got != "" {
		t.Errorf("%s was offered though it is not ready", got)
	}
	d.put(1, now) // its lease was lost
	if got := take(t, d, ci.Runner{}); got != "a" {
		t.Errorf("offered %q, want a", got)
	}
}

// A job whose lease fails, or is lost, while a runner that had waited for it still holds the offer is offered once.
func TestDispatchOffersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatch()
		got := make(chan *offer, 1)
		go func() {
			o, err := d.next(t.Context(), ci.Runner{})
			if err != nil {
				t.Error(err)
			}
			got <- o
		}()
		synctest.Wait()
		now := []readyJob{ready("a", 0)}
		d.put(1, now)
		o := <-got
		d.put(1, nil)
		d.put(1, now)
		d.release(o)
		d.put(1, now)
		if first, second := take(t, d, ci.Runner{}), take(t, d, ci.Runner{}); first != "a" || second != "" {
			t.Errorf("offered %q and %q, want a once", first, second)
		}
	})
}

// An offer that comes just when its runner gives up goes to another.
func TestDispatchTakesBack(t *testing.T) {
	for range 200 {
		d := newDispatch()
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan bool)
		go func() {
			_, err := d.next(ctx, ci.Runner{})
			got <- err == nil
		}()
		for waits := false; !waits; {
			d.mu.Lock()
			waits = len(d.waiting) == 1
			d.mu.Unlock()
			runtime.Gosched()
		}
		go cancel()
		d.put(1, []readyJob{ready("a", 0)})
		if leased, left := <-got, take(t, d, ci.Runner{}); leased != (left == "") {
			t.Fatalf("leased by the first: %v, then offered %q", leased, left)
		}
	}
}

func TestDispatchForgets(t *testing.T) {
	d := newDispatch()
	for run := range ci.RunID(100) {
		d.put(run, []readyJob{ready("a", 0, fmt.Sprint("label", run))})
		d.put(run, nil)
	}
	if got := take(t, d, ci.Runner{}); got != "" {
		t.Errorf("%s was offered though it is not ready", got)
	}
	if len(d.runs)+len(d.shelves)+len(d.waiting) != 0 {
		t.Errorf("kept %d runs, %d shelves, %d waiters, want none", len(d.runs), len(d.shelves), len(d.waiting))
	}
}

func TestDispatchWakesTheFirstThatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatch()
		got := map[string]ci.JobID{}
		var mu sync.Mutex
		var waiters sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(name string, labels ...string) {
			waiters.Go(func() {
				if o, err := d.next(ctx, ci.Runner{Name: name, Labels: labels}); err == nil {
					mu.Lock()
					got[name] = o.job
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		wait("windows", "windows")
		wait("first", "linux")
		wait("second", "linux")
		d.put(1, []readyJob{ready("a", 0, "linux")})
		synctest.Wait()
		d.put(1, []readyJob{ready("a", 0, "linux"), ready("b", 1, "linux"), ready("c", 2, "linux")})
		synctest.Wait()
		cancel()
		waiters.Wait()
		if want := map[string]ci.JobID{"first": "a", "second": "b"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("leased %v, want %v", got, want)
		}
		if left := take(t, d, ci.Runner{}); left != "c" {
			t.Errorf("left %q, want c", left)
		}
	})
}

// Runners that come, go and give up at random: every job is leased exactly once.
func TestDispatchLosesNothing(t *testing.T) {
	const jobs = 2000
	d := newDispatch()
	var mu sync.Mutex
	open, taken := map[ci.JobID]bool{}, map[ci.JobID]int{}
	publish := func() { // as the engine does: what is stored as ready, in order
		var now []readyJob
		for id := range open {
			now = append(now, ready(string(id), 0, "linux"))
		}
		d.put(1, now)
	}
	var all sync.WaitGroup
	done, stop := context.WithCancel(t.Context())
	defer stop()
	for n := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for done.Err() == nil {
				ctx, cancel := context.WithTimeout(done, time.Duration(r.IntN(200))*time.Microsecond)
				o, err := d.next(ctx, ci.Runner{Labels: []string{"linux"}})
				cancel()
				if err != nil {
					continue
				}
				if r.IntN(4) > 0 {
					mu.Lock()
					if delete(open, o.job); taken[o.job] == 0 {
						taken[o.job]++
					} else {
						t.Errorf("%s was leased twice", o.job)
					}
					publish()
					if len(taken) == jobs {
						stop()
					}
					mu.Unlock()
				}
				d.release(o)
			}
		})
	}
	for n := range jobs {
		mu.Lock()
		open[ci.JobID(fmt.Sprint(n))] = true
		publish()
		mu.Unlock()
	}
	all.Wait()
	if len(taken) != jobs {
		t.Errorf("%d jobs were leased, want %d", len(taken), jobs)
	}
}
