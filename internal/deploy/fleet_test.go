//go:build linux

package deploy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

// afar is a machine that a fleet reaches over a connection, with both ends in this process.
type afar struct {
	t       *testing.T
	machine *Machine
	host    *Host
	wrap    func(net.Conn) net.Conn // of each connection; nil leaves them as they are
	ctx     context.Context
	end     context.CancelFunc
	working sync.WaitGroup
}

var loopback = netip.MustParseAddr("127.0.0.1")

// afar opens a machine of a place.
func (m *machines) afar(t *testing.T, place string) *afar {
	t.Helper()
	a := &afar{t: t}
	var err error
	if a.machine, err = NewMachine(filepath.Join(place, "tmp")); err != nil {
		t.Fatal(err)
	}
	o := m.options(filepath.Join(place, "i"), a.machine.Options(), logTo(t))
	o.Listen, o.Fetch = loopback, a.machine.Fetch
	if a.host, err = NewHost(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	a.ctx, a.end = context.WithCancel(context.Background())
	return a
}

// logTo writes to a test's log until the test is over.
func logTo(t *testing.T) func(string, ...any) {
	var mu sync.Mutex
	over := false
	t.Cleanup(func() { mu.Lock(); over = true; mu.Unlock() })
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			t.Logf(format, args...)
		}
	}
}

// connect keeps the machine connected to an address.
func (a *afar) connect(ctx context.Context, addr string) {
	a.working.Go(func() {
		for ctx.Err() == nil {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err == nil {
				if a.wrap != nil {
					c = a.wrap(c)
				}
				_ = a.machine.Serve(ctx, a.host, c)
			}
			_ = pause(ctx, 10*time.Millisecond)
		}
	})
}

func (a *afar) close() error {
	a.end()
	a.working.Wait()
	return a.host.Close()
}

// far is a fleet that runs everything on one machine.
type far struct {
	*Fleet
	listener net.Listener
	serving  sync.WaitGroup
	after    func() error
}

// listen makes a fleet that machines connect to.
func listen(t *testing.T, name string, o FleetOptions) *far {
	t.Helper()
	f := &far{Fleet: NewFleet(nil, o)}
	var err error
	if f.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.serving.Go(func() {
		for {
			c, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.serving.Go(func() { _ = f.Serve(context.Background(), Offer{Name: name, Address: loopback}, c) })
		}
	})
	return f
}

func (f *far) pinned(wanted []Wanted) []Wanted {
	var all []Wanted
	for _, w := range wanted {
		w.Machines = []string{"one"}
		all = append(all, w)
	}
	return all
}

func (f *far) Ensure(wanted []Wanted) { f.Fleet.Ensure(f.pinned(wanted)) }

func (f *far) Run(ctx context.Context, w Wanted, command []string, output io.Writer) error {
	return f.Fleet.Run(ctx, f.pinned([]Wanted{w})[0], command, output)
}

func (f *far) Logs(ctx context.Context, w Wanted, index int, lines int, follow bool, out io.Writer) error {
	return f.Fleet.Logs(ctx, f.pinned([]Wanted{w})[0], index, lines, follow, out)
}

func (f *far) Close() error {
	f.listener.Close()
	err := f.Fleet.Close()
	f.serving.Wait()
	if f.after != nil {
		err = errors.Join(err, f.after())
	}
	return err
}

// TestFleet has a machine do what every target must, over a connection. Taken over, both the server and the machine are others.
func TestFleet(t *testing.T) {
	m := isolated(t)
	suite{dial: proxy.Dial, open: func(t *testing.T, place string, o Options) Target {
		t.Helper()
		f := listen(t, "one", FleetOptions{Options: o, Images: m.images.Store, Log: logTo(t)})
		a := m.afar(t, place)
		a.connect(a.ctx, f.listener.Addr().String())
		f.after = a.close
		return f
	}}.run(t)
}

// TestFleetServers does the same in plain processes; taken over, the server is another and the machine the same.
func TestFleetServers(t *testing.T) {
	m := plainly(t)
	var mu sync.Mutex
	all := map[string]*afar{}
	suite{dial: proxy.Dial, open: func(t *testing.T, place string, o Options) Target {
		t.Helper()
		f := listen(t, "one", FleetOptions{Options: o, Log: logTo(t)})
		mu.Lock()
		defer mu.Unlock()
		a := all[place]
		if a == nil {
			a = m.afar(t, place)
			all[place] = a
			t.Cleanup(func() {
				if err := a.close(); err != nil {
					t.Error(err)
				}
			})
		}
		ctx, cancel := context.WithCancel(a.ctx)
		f.after = func() error { cancel(); return nil }
		a.connect(ctx, f.listener.Addr().String())
		return f
	}}.run(t)
}

// TestHeardGoesForward holds that a clock that is set ends no lease: when a machine was heard of is told by the one that only goes
// forward.
func TestHeardGoesForward(t *testing.T) {
	us, its := net.Pipe()
	defer its.Close()
	c := &hearing{Conn: us, began: time.Now()}
	defer c.Close()
	go func() { _, _ = its.Write([]byte("x")) }()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if at := c.heard(); !at.After(c.began) || !strings.Contains(at.String(), " m=") {
		t.Errorf("heard at %s, of a connection that began at %s", at, c.began)
	}
}
