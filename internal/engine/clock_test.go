package engine

import (
	"sync/atomic"
	"testing"
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

// TestClockJumps sets the clock while jobs run: none is lost, none runs twice.
func TestClockJumps(t *testing.T) {
	if now := time.Now(); jumped(now, time.Hour).Round(0).Sub(now.Round(0)) != time.Hour || jumped(now, time.Hour).Sub(now) != 0 {
		t.Fatal("the test does not set the clock")
	}
	for _, by := range []time.Duration{5 * time.Hour, -5 * time.Hour, 36 * time.Hour, -36 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel() // it waits; synctest has no clock that could be set
			var off atomic.Int64
			h := inMemory(t, Options{LeaseFor: 3 * time.Second, Now: func() time.Time { return jumped(time.Now(), time.Duration(off.Load())) }})
			h.work(t)
			id := h.trigger(t, buildThenTest)
			for _, set := range []time.Duration{by, 0} {
				_, l := h.lease(t)
				h.start(t, l)
				off.Store(int64(set))
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
			// A runner that is silent is still noticed.
			h.trigger(t, buildThenTest)
			_, l := h.lease(t)
			off.Store(int64(by))
			if !h.Holds(l) {
				t.Fatal("the lease is over at once")
			}
			for deadline := time.Now().Add(time.Minute); h.Holds(l); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the lease does not end")
				}
			}
		})
	}
}
