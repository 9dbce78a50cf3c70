//go:build linux

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// disk is what runs on a machine, whatever becomes of who looks after it.
type disk struct {
	mu      sync.Mutex
	running map[instanceID]bool
}

// quick is a target whose instances start and stop at once.
type quick struct {
	d       *disk
	telling *teller
	end     context.CancelFunc
	working sync.WaitGroup
	known   map[instanceID]bool // told by this one
}

func newQuick(d *disk, o Options) *quick {
	q := &quick{d: d, telling: newTeller(o.Seen), known: map[instanceID]bool{}}
	ctx, end := context.WithCancel(context.Background())
	q.end = end
	q.working.Go(func() { q.telling.run(ctx) })
	return q
}

func (q *quick) tell(id instanceID, s cd.State) {
	i := cd.Instance{Index: id.index, State: s, Since: time.Now()}
	if s == cd.Healthy {
		i.Addr = fmt.Sprintf("127.0.0.1:%d", lowestPort+id.index)
	}
	q.telling.tell(id, i)
}

func (q *quick) Ensure(wanted []Wanted) {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	want := map[instanceID]bool{}
	for _, w := range wanted {
		for _, id := range w.left() {
			if !q.d.running[id] {
				q.tell(id, cd.Stopped)
			}
		}
		for _, id := range w.instances() {
			want[id] = true
		}
	}
	for id := range q.d.running {
		if !want[id] {
			delete(q.d.running, id)
			delete(q.known, id)
			q.tell(id, cd.Stopped)
		}
	}
	for id := range want {
		if !q.d.running[id] {
			q.d.running[id] = true
			q.tell(id, cd.Starting)
		} else if q.known[id] {
			continue
		}
		q.known[id] = true
		q.tell(id, cd.Healthy)
	}
}

func (q *quick) Run(context.Context, Wanted, []string, io.Writer) error        { return nil }
func (q *quick) Logs(context.Context, Wanted, int, int, bool, io.Writer) error { return nil }
func (q *quick) Close() error                                                  { q.end(); q.working.Wait(); return nil }

// record is what a server has stored of instances, and says of them.
type record struct {
	mu    sync.Mutex
	rng   *rand.Rand
	flaky bool
	all   map[instanceID]cd.Instance
	want  map[cd.ReleaseID]int // instances
}

func (r *record) seen(_ context.Context, release cd.ReleaseID, o cd.Observed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flaky && r.rng.IntN(4) == 0 {
		return errors.New("the database is away")
	}
	id := instanceID{release, o.Service, o.Instance.Index}
	if r.all[id] = o.Instance; o.Instance.State == cd.Stopped {
		delete(r.all, id)
	}
	return nil
}

// wanted is what the carrier makes of what is stored.
func (r *record) wanted() []Wanted {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[cd.ReleaseID][]cd.Instance{}
	for id, i := range r.all {
		known[id.release] = append(known[id.release], i)
	}
	releases := maps.Clone(r.want)
	for id := range known {
		releases[id] += 0
	}
	var list []Wanted
	for _, id := range slices.Sorted(maps.Keys(releases)) {
		list = append(list, Wanted{Release: id, Service: "web", Instances: releases[id], Machines: []string{"one", "two"}, Known: known[id]})
	}
	return list
}

// settled says what is not yet as it should be.
func (r *record) settled(disks map[string]*disk) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for release, instances := range r.want {
		for index := range instances {
			n++
			id := instanceID{release, "web", index}
			if r.all[id].State != cd.Healthy {
				return fmt.Sprintf("%v is told as %+v", id, r.all[id])
			}
			for name, d := range disks {
				d.mu.Lock()
				runs := d.running[id]
				d.mu.Unlock()
				if its := name == []string{"one", "two"}[index%2]; runs != its {
					return fmt.Sprintf("%v runs on %s: %v", id, name, runs)
				}
			}
		}
	}
	if len(r.all) != n {
		return fmt.Sprintf("told of %v", r.all)
	}
	for _, d := range disks {
		d.mu.Lock()
		n -= len(d.running)
		d.mu.Unlock()
	}
	if n != 0 {
		return fmt.Sprintf("%d run too many", -n)
	}
	return ""
}

// simulated is two machines and a server that come and go.
type simulated struct {
	*record
	disks   map[string]*disk
	fleet   *Fleet
	runners map[string]*simulatedRunner
}

type simulatedRunner struct {
	target  *quick
	machine *Machine
	end     context.CancelFunc
	working sync.WaitGroup

	mu   sync.Mutex
	conn net.Conn
}

func (s *simulated) startServer() {
	s.fleet = NewFleet(nil, FleetOptions{Options: Options{Seen: s.seen}, lease: 20 * time.Millisecond})
}

// startRunner starts one, which connects to whichever server there is.
func (s *simulated) startRunner(t *testing.T, name string, fleet func() *Fleet) {
	m, err := NewMachine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &simulatedRunner{machine: m, target: newQuick(s.disks[name], m.Options())}
	ctx, end := context.WithCancel(context.Background())
	r.end = end
	r.working.Go(func() {
		for ctx.Err() == nil {
			ours, theirs := net.Pipe()
			f := fleet()
			var serving sync.WaitGroup
			serving.Go(func() { _ = f.Serve(context.Background(), Offer{Name: name, Address: loopback}, theirs) })
			r.mu.Lock()
			r.conn = ours
			r.mu.Unlock()
			_ = m.Serve(ctx, r.target, ours)
			serving.Wait()
			_ = pause(ctx, time.Millisecond)
		}
	})
	s.runners[name] = r
}

func (r *simulatedRunner) stop() {
	r.end()
	r.working.Wait()
	_ = r.target.Close()
}

// TestFleetSettles has servers, runners and connections come and go, whatever is wanted meanwhile: once they stay, what is wanted
// runs, once, and what is told is so.
func TestFleetSettles(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			s := &simulated{
				record: &record{rng: rng, flaky: true, all: map[instanceID]cd.Instance{}, want: map[cd.ReleaseID]int{}},
				disks:  map[string]*disk{"one": {running: map[instanceID]bool{}}, "two": {running: map[instanceID]bool{}}}, runners: map[string]*simulatedRunner{},
			}
			var mu sync.Mutex // of fleet
			current := func() *Fleet { mu.Lock(); defer mu.Unlock(); return s.fleet }
			s.startServer()
			names := []string{"one", "two"}
			for _, name := range names {
				s.startRunner(t, name, current)
			}
			dice := func(n int) int { s.mu.Lock(); defer s.mu.Unlock(); return rng.IntN(n) }
			for range 60 {
				name := names[dice(2)]
				switch r := s.runners[name]; dice(8) {
				case 0: // the server is another
					mu.Lock()
					before := s.fleet
					s.startServer()
					mu.Unlock()
					_ = before.Close()
				case 1: // the runner is
					r.stop()
					s.startRunner(t, name, current)
				case 2, 3: // the connection ends
					r.mu.Lock()
					if r.conn != nil {
						r.conn.Close()
					}
					r.mu.Unlock()
				default:
					s.mu.Lock()
					s.want[cd.ReleaseID(1+rng.IntN(3))] = rng.IntN(5)
					s.mu.Unlock()
				}
				s.fleet.Ensure(s.wanted())
				if dice(3) == 0 {
					_ = pause(t.Context(), time.Duration(dice(30))*time.Millisecond)
				}
			}
			s.mu.Lock()
			s.flaky = false
			s.mu.Unlock()
			limit := time.Now().Add(patience)
			for why := "?"; why != ""; why = s.settled(s.disks) {
				s.fleet.Ensure(s.wanted()) // as whenever a release changes
				_ = pause(t.Context(), 5*time.Millisecond)
				if time.Now().After(limit) {
					t.Fatal(why)
				}
			}
			for _, r := range s.runners {
				r.stop()
			}
			_ = s.fleet.Close()
		})
	}
}
