package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/pgtest"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// fleetYard is a yard that machines connect to.
func fleetYard(t *testing.T) (*yard, *deploy.Fleet) {
	t.Helper()
	y := newYard(t)
	fleet := deploy.NewFleet(nil, deploy.FleetOptions{
		Options: deploy.Options{Seen: func(context.Context, cd.ReleaseID, cd.Observed) error { return nil }},
		Joined:  y.s.JoinedMachines, Log: t.Logf,
	})
	y.s.Carrier = &deploy.Carrier{Machines: fleet}
	t.Cleanup(func() { fleet.Close() })
	return y, fleet
}

// idle is a target that runs nothing.
type idle chan []deploy.Wanted

func (i idle) Ensure(w []deploy.Wanted) { i <- w }
func (idle) Run(context.Context, deploy.Wanted, []string, io.Writer) error {
	return errors.New("nothing is run here")
}
func (idle) Logs(context.Context, deploy.Wanted, int, int, bool, io.Writer) error { return nil }
func (idle) Close() error                                                         { return nil }

// open keeps a machine connected until the test ends, and gives what it is told to want and how it ended.
func (y *yard) connect(q *runner.Remote) (idle, <-chan error) {
	y.t.Helper()
	m, err := deploy.NewMachine(y.t.TempDir())
	if err != nil {
		y.t.Fatal(err)
	}
	target, ended := make(idle, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- q.KeepOpen(ctx, loopback, func(ctx context.Context, c net.Conn) error { return m.Serve(ctx, target, c) })
	}()
	y.t.Cleanup(func() { cancel(); <-done })
	return target, ended
}

// connected waits until so many machines are.
func connected(t *testing.T, f *deploy.Fleet, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(f.Connected()) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("connected are %v, want %d", f.Connected(), n)
		}
	}
}

// Machines are found by their labels, as jobs find their runners, and are told what to run over the connection that they open.
func TestMachinesConnect(t *testing.T) {
	y, fleet := fleetYard(t)
	fleet.Ensure([]deploy.Wanted{{Release: 7, Service: "web", Instances: 2, Machines: []string{"two", "one"}}})
	var ends []<-chan error
	for _, name := range []string{"two", "one", "other"} {
		labels := []string{"Web", "eu"}
		if name == "other" {
			labels = nil
		}
		q, _ := y.join(runner.Joining{Name: name, OS: "Linux", Labels: labels})
		target, ended := y.connect(q)
		ends = append(ends, ended)
		if w := <-target; name != "other" && (len(w) != 1 || w[0].Release != 7 || w[0].Parts != 2) || name == "other" && len(w) != 0 {
			t.Errorf("%s is told to run %+v", name, w)
		}
	}
	connected(t, fleet, 3)
	y.join(runner.Joining{Name: "jobs", OS: "Linux", Labels: []string{"web", "slow"}})
	for _, c := range []struct {
		labels string
		want   string
	}{
		{"web", "[one two]"}, {"self-hosted EU", "[one two]"}, {"linux", "[one other two]"},
		{"slow", "none offers to run instances now (there is jobs)"},
		{"self-hosted gpu", "no runner has the labels self-hosted, gpu: start one with penstock runner --url " + y.url + " --token TOKEN --labels gpu --deploy"},
	} {
		got, err := y.s.machinesWith(t.Context(), strings.Fields(c.labels))
		if text := fmt.Sprint(got); err == nil && text != c.want || err != nil && (!errors.Is(err, engine.ErrNoMachine) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v, want %s", c.labels, got, err, c.want)
		}
	}
	known, err := y.s.Store.Runners(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := y.s.Store.DeleteRunner(t.Context(), known[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := <-ends[0]; !errors.Is(err, runner.ErrRemoved) {
		t.Errorf("a machine that was removed: %v", err)
	}
	connected(t, fleet, 2)
}

// Nobody else connects, nor from where the proxy could be led to the server itself.
func TestMachinesStrangers(t *testing.T) {
	y, _ := fleetYard(t)
	q, one := y.join(runner.Joining{Name: "one", OS: "Linux"})
	ask := func(token string, header ...string) (int, string) {
		t.Helper()
		r := httptest.NewRequest("GET", runner.QueuePath+"/machine", nil)
		r.RemoteAddr = "192.0.2.7:4000"
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Upgrade", runner.MachineProtocol)
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Remote" {
				r.RemoteAddr = header[i+1]
			} else {
				r.Header.Set(header[i], header[i+1])
			}
		}
		rec := httptest.NewRecorder()
		y.s.ServeHTTP(rec, r)
		return rec.Code, rec.Body.String()
	}
	const at = runner.MachineAddress
	own := "::1"
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				own = p.Addr().String()
			}
		}
	}
	for name, c := range map[string]struct {
		code   int
		says   string
		token  string
		header []string
	}{
		"no token":               {401, "not known", "", []string{at, "192.0.2.7"}},
		"another token":          {401, "not known", strings.Repeat("x", len(one.Token)), []string{at, "192.0.2.7"}},
		"no upgrade":             {426, "penstock-machine/1", one.Token, []string{at, "192.0.2.7", "Upgrade", "websocket"}},
		"no address":             {422, "", one.Token, nil},
		"a name":                 {422, "", one.Token, []string{at, "db.internal"}},
		"loopback from afar":     {422, "the server itself", one.Token, []string{at, "127.0.0.1"}},
		"loopback, as IPv6":      {422, "", one.Token, []string{at, "::ffff:127.0.0.1"}},
		"loopback by a proxy":    {422, "the server itself", one.Token, []string{at, "127.0.0.1", "Remote", "127.0.0.1:4000", "X-Forwarded-For", "192.0.2.7"}},
		"the server itself":      {422, "the server itself", one.Token, []string{at, own}},
		"everywhere":             {422, "no address of one machine", one.Token, []string{at, "0.0.0.0"}},
		"metadata of a cloud":    {422, "no address of one machine", one.Token, []string{at, "169.254.169.254"}},
		"many":                   {422, "no address of one machine", one.Token, []string{at, "224.0.0.1"}},
		"with a zone":            {422, "no address of one machine", one.Token, []string{at, "fe80::1%eth0"}},
		"a connection of HTTP/2": {426, "HTTP/1.1", one.Token, []string{at, "192.0.2.7"}}, // a recorder can not be taken over either
	} {
		if code, body := ask(c.token, c.header...); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s, want %d %q", name, code, body, c.code, c.says)
		}
	}
	if err := q.KeepOpen(t.Context(), netip.MustParseAddr("224.0.0.1"), nil); !errors.Is(err, runner.ErrRefused) || !strings.Contains(err.Error(), "--deploy-address") {
		t.Errorf("a runner with a bad address: %v", err)
	}
	once, _ := y.join(runner.Joining{Name: "once", OS: "Linux", Ephemeral: true})
	if err := once.KeepOpen(t.Context(), loopback, nil); !errors.Is(err, runner.ErrRefused) || !strings.Contains(err.Error(), "runs no instances") {
		t.Errorf("an ephemeral runner: %v", err)
	}
	y.s.Carrier = nil
	if code, _ := ask(one.Token, at, "192.0.2.7"); code != http.StatusUpgradeRequired {
		t.Errorf("a server without machines: %d", code)
	}
	if _, err := y.s.machinesWith(t.Context(), []string{"self-hosted"}); !errors.Is(err, engine.ErrNoMachine) {
		t.Errorf("of a server without machines: %v", err)
	}
}

// Of several servers on one database a machine runs the releases of one: another one does not let it in.
func TestMachinesOfAnotherServer(t *testing.T) {
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	m := newTeamOn(t, pg.Database(t))
	who := store.Runner{Name: "web-1"}
	other := engine.NewReleases(m.s.Store, engine.ReleaseOptions{Name: "other", Machines: func(context.Context, []string) ([]string, error) { return []string{"web-1"}, nil }})
	plan := &cd.Plan{Repository: "acme/shop", Environment: "production", RunsOn: []string{"web"}, Services: []cd.Service{{Name: "web", Instances: 1}}, Strategy: cd.Strategy{Kind: cd.Recreate}}
	if name, err := m.s.carrierOf(t.Context(), who); err != nil || name != "" {
		t.Errorf("before anything is released it is the machine of %q, %v", name, err)
	}
	if _, err := other.Begin(t.Context(), plan, nil, nil); err != nil {
		t.Fatal(err)
	}
	if name, err := m.s.carrierOf(t.Context(), who); err != nil || name != "other" {
		t.Errorf("it is the machine of %q, %v", name, err)
	}
	if name, err := m.s.carrierOf(t.Context(), store.Runner{Name: "web-2"}); err != nil || name != "" {
		t.Errorf("another is the machine of %q, %v", name, err)
	}
}

// A runner that has gone comes again by itself, and the newest connection of a machine is the one that counts.
func TestMachinesComeAgain(t *testing.T) {
	y, fleet := fleetYard(t)
	fleet.Ensure(nil)
	q, _ := y.join(runner.Joining{Name: "one", OS: "Linux"})
	target, _ := y.connect(q)
	<-target
	second, _ := y.connect(q)
	<-second
	<-target // the first is back in its place: two that have one token take turns, and say so
	connected(t, fleet, 1)
}
