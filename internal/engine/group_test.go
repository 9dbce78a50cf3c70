package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

func TestArbitrate(t *testing.T) {
	claim := func(run ci.RunID, after time.Duration, words string) store.Claim {
		return store.Claim{Run: run, Claim: ci.Claim{
			Key: "g", Owner: ci.JobID(fmt.Sprint("job", run)), Since: noon.Add(after),
			Held: strings.Contains(words, "held"), CancelInProgress: strings.Contains(words, "cancel"), Queue: map[bool]string{true: "max"}[strings.Contains(words, "max")],
		}}
	}
	queue := func(n int, words string) []store.Claim {
		list := []store.Claim{claim(1, 0, words)}
		for i := range n {
			list = append(list, claim(ci.RunID(i+2), time.Duration(i+1), "max"))
		}
		return list
	}
	for _, c := range []struct {
		name   string
		claims []store.Claim
		want   string
	}{
		{"nobody", nil, ""},
		{"held, nobody waits", []store.Claim{claim(1, 0, "held")}, ""},
		{"free", []store.Claim{claim(1, 0, "")}, "grant 1"},
		{"held, one waits", []store.Claim{claim(1, 0, "held"), claim(2, 1, "")}, ""},
		{"a newer one replaces", []store.Claim{claim(1, 0, "held"), claim(2, 1, ""), claim(3, 2, "")}, "supersede 2 by 3"},
		{"newer by time, not by number", []store.Claim{claim(1, 0, "held"), claim(2, 3, ""), claim(3, 2, "")}, "supersede 3 by 2"},
		{"free, several wait", []store.Claim{claim(2, 1, ""), claim(3, 2, ""), claim(4, 3, "")}, "grant 2, supersede 3 by 4"},
		{"free, the newest cancels", []store.Claim{claim(2, 1, ""), claim(3, 2, "cancel")}, "grant 2, supersede 2 by 3"},
		{"cancel in progress", []store.Claim{claim(1, 0, "held"), claim(2, 1, "cancel")}, "supersede 1 by 2"},
		{"the newest says whether", []store.Claim{claim(1, 0, "held cancel"), claim(2, 1, "cancel"), claim(3, 2, "")}, "supersede 2 by 3"},
		{"queue, held", []store.Claim{claim(1, 0, "held max"), claim(2, 1, "max"), claim(3, 2, "max")}, ""},
		{"queue, free", []store.Claim{claim(3, 2, "max"), claim(2, 1, "max")}, "grant 2"},
		{"a full queue", queue(100, "held max"), ""},
		{"more than a queue takes", queue(102, "held max"), "supersede 102 by 101, supersede 103 by 101"},
		{"more than a free queue takes", queue(101, "max"), "grant 1, supersede 102 by 101"},
		{"a single one clears the queue", []store.Claim{claim(1, 0, "held"), claim(2, 1, "max"), claim(3, 2, "")}, "supersede 2 by 3"},
	} {
		var got []string
		for _, v := range arbitrate(c.claims) {
			switch in := v.input.(type) {
			case ci.Granted:
				got = append(got, fmt.Sprintf("grant %d", v.run))
			case ci.Superseded:
				got = append(got, fmt.Sprintf("supersede %d by %d", v.run, in.By))
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Random load on a few groups, of runs and of jobs, some cancelling, some queueing: at no time are there two at work in
// a group, and in the end everything has ended.
func TestGroupsHaveOneHolder(t *testing.T) {
	h := inMemory(t, Options{})
	h.work(t)
	const runs = 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx, stop := context.WithCancel(t.Context())

	var mu sync.Mutex
	atWork := map[string]ci.Lease{} // by group
	groups := map[ci.RunID]string{}
	enter := func(l ci.Lease) func() {
		mu.Lock()
		defer mu.Unlock()
		name := groups[l.Run]
		if other, ok := atWork[name]; ok {
			t.Errorf("%v and %v are both at work in group %s", other, l, name)
		}
		atWork[name] = l
		return func() {
			mu.Lock()
			defer mu.Unlock()
			delete(atWork, name)
		}
	}
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			for {
				task, err := h.Lease(ctx, ci.Runner{})
				if err != nil {
					return
				}
				l := leaseOf(task)
				if h.Report(t.Context(), l, ci.Report{}) != nil {
					continue
				}
				leave := enter(l)
				h.Append(t.Context(), l, 0, []byte("x"))
				leave()
				h.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success})
			}
		})
	}
	done := make(chan struct{})
	all.Go(func() {
		completed := 0
		for r, err := range h.Tail(ctx, 0) {
			if err != nil {
				t.Error(err)
			}
			if r.Event.Type == ci.EventRunCompleted {
				if completed++; completed == runs {
					close(done)
				}
			}
		}
	})
	for range runs {
		group := fmt.Sprint("G", random.IntN(3))
		p := plan(t, groupWorkflow(random, group), nil)
		mu.Lock() // so that the run's group is known before a runner asks
		id, err := h.Trigger(t.Context(), p)
		groups[id] = group
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	<-done
	stop()
	all.Wait()
	h.wantSound(t)
	claims, err := h.store.AllClaims(t.Context())
	if err != nil || len(claims) != 0 {
		t.Errorf("claims left in the end: %v, %v", claims, err)
	}
}

// groupWorkflow is a workflow that is in a group as a whole or with each of its jobs.
func groupWorkflow(r *rand.Rand, group string) string {
	how := []string{"", "cancel-in-progress: true", "queue: max"}[r.IntN(3)]
	spelled := []string{group, strings.ToLower(group)}[r.IntN(2)] // groups ignore case
	if r.IntN(2) == 0 {
		return fmt.Sprintf("on: push\nconcurrency:\n  group: %s\n  %s\njobs:\n  a:\n    runs-on: x\n    steps: [{run: echo}]\n  b:\n    needs: a\n    runs-on: x\n    steps: [{run: echo}]\n",
			spelled, how)
	}
	job := fmt.Sprintf("\n    runs-on: x\n    concurrency:\n      group: %s\n      %s\n    steps: [{run: echo}]\n", spelled, how)
	return "on: push\njobs:\n  a:" + job + "  b:" + job
}
