package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/penstock-ci/penstock/internal/ci"
)

// jumped is a time as the system would have given it had its clock been set: another hour on the wall, and no other on the
// clock that only goes forward.
func jumped(t time.Time, by time.Duration) time.Time {
	inside := (*struct { // https://go.dev/src/time/time.go
		wall uint64
		ext  int64
	})(unsafe.Pointer(&t))
	const hasMonotonic, second = 1 << 63, 1 << 30
	if inside.wall&hasMonotonic == 0 {
		panic("the time has no second clock")
	}
	inside.wall += uint64(by/time.Second) * second
	return t
}

// clock is a clock of the wall that can be set, with the second one of a synctest bubble, whose own times have only one.
type clock struct {
	began, here time.Time
	off         atomic.Int64
}

func (c *clock) now() time.Time {
	return jumped(c.began.Add(time.Since(c.here)), time.Duration(c.off.Load()))
}

func (c *clock) set(by time.Duration) { c.off.Store(int64(by)) }

// jumps plays a test with an engine whose clock jumps: forward and back, by less and by more than what is waited for.
func jumps(t *testing.T, test func(t *testing.T, h *house, c *clock, by time.Duration)) {
	began := time.Now()
	if jumped(began, time.Hour).Round(0).Sub(began.Round(0)) != time.Hour || jumped(began, time.Hour).Sub(began) != 0 {
		t.Fatal("the test does not set the clock")
	}
	for _, by := range []time.Duration{time.Hour, -time.Hour, 36 * time.Hour, -36 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &clock{began: began, here: time.Now()}
				h := inMemory(t, Options{Now: c.now})
				h.work(t)
				test(t, h, c, by)
			})
		})
	}
}

// TestClockJumps sets the clock while jobs run: none is lost, none runs twice, and who is silent is noticed in its time.
func TestClockJumps(t *testing.T) {
	jumps(t, func(t *testing.T, h *house, c *clock, by time.Duration) {
		id := h.trigger(t, buildThenTest)
		for _, set := range []time.Duration{by, 0} {
			_, l := h.lease(t)
			h.start(t, l)
			c.set(set)
			for range 4 { // for longer than a lease
				if signal, err := h.Renew(t.Context(), l); err != nil || signal != ci.SignalNone {
					t.Fatalf("%q, %v", signal, err)
				}
			}
			h.finish(t, l, ci.Success)
		}
		for _, name := range []ci.JobID{"build", "test/0"} {
			if j := h.run(t, id).Job(name); j.Losses > 0 || j.Conclusion != ci.Success {
				t.Errorf("%s: %s, lost %d times: %s", j.ID, j.Conclusion, j.Losses, j.Reason)
			}
		}
		_, l := h.lease(t)
		h.start(t, l)
		c.set(by)
		time.Sleep(h.opt.LeaseFor - time.Second)
		if !h.Holds(l) {
			t.Fatal("the lease is over before its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if h.Holds(l) {
			t.Error("the lease does not end")
		}
	})
}

// TestClockJumpsWhileWaiting sets the clock while a wait timer runs: it lasts as long as it was to last, whatever else the run does
// meanwhile, and ends nothing else.
func TestClockJumpsWhileWaiting(t *testing.T) {
	jumps(t, func(t *testing.T, h *house, c *clock, by time.Duration) {
		id, err := h.Trigger(t.Context(), plan(t, gatedJob+"  other:\n    strategy: {matrix: {n: [1, 2]}}\n    runs-on: other\n    steps: [{run: echo}]\n", waitFor(30*time.Minute)))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		c.set(by)
		_, short := h.lease(t, "other")
		h.start(t, short)
		_, long := h.lease(t, "other")
		h.start(t, long)
		h.finish(t, short, ci.Success)
		var renewing sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		renewing.Go(func() {
			for ctx.Err() == nil {
				if _, err := h.Renew(ctx, long); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
		time.Sleep(28 * time.Minute)
		synctest.Wait()
		if job := h.run(t, id).Job("deploy"); job.Status != ci.Waiting {
			t.Errorf("after 29 minutes deploy is %s, want waiting", job.Status)
		}
		began := time.Now()
		task, _ := h.lease(t)
		if took := time.Since(began); task.Job != "deploy" || took != time.Minute {
			t.Errorf("leased %s after %v more, want deploy after a minute", task.Job, took)
		}
		stop()
		renewing.Wait()
		h.finish(t, long, ci.Success)
	})
}

// TestClockJumpsWhileARunIsCancelled sets the clock while a runner is to end its job: it has the time that it is given, and no more.
func TestClockJumpsWhileARunIsCancelled(t *testing.T) {
	jumps(t, func(t *testing.T, h *house, c *clock, by time.Duration) {
		id := h.trigger(t, buildThenTest)
		_, l := h.lease(t)
		h.start(t, l)
		if err := h.Cancel(t.Context(), id, "mona", false); err != nil {
			t.Fatal(err)
		}
		until := h.run(t, id).Job("build").Deadline.Sub(c.now().Round(0))
		c.set(by)
		began := time.Now()
		for h.Holds(l) && time.Since(began) < 10*until {
			if _, err := h.Renew(t.Context(), l); err != nil {
				break
			}
		}
		if took := time.Since(began); took < until || took > until+h.opt.LeaseFor {
			t.Errorf("the runner had %v, not %v", took, until)
		}
	})
}
