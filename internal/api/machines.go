package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// maxRunners bounds the runners that are looked at.
const maxRunners = 10_000

// fleet is where machines connect; nil where none may.
func (s *Server) fleet() *deploy.Fleet {
	if s.Carrier == nil {
		return nil
	}
	return s.Carrier.Machines
}

// machinesWith gives the machines that are connected here and have all of some labels, as jobs find their runners, sorted.
func (s *Server) machinesWith(ctx context.Context, labels []string) ([]string, error) {
	all, err := s.Store.Runners(ctx, 0, maxRunners)
	if err != nil {
		return nil, err
	}
	connected := map[string]bool{}
	if fleet := s.fleet(); fleet != nil {
		connected = fleet.Connected()
	}
	var fit, away []string
	for _, r := range all {
		switch {
		case slices.ContainsFunc(labels, func(l string) bool { return !r.HasLabel(l) }):
		case connected[r.Name]:
			fit = append(fit, r.Name)
		default:
			away = append(away, r.Name)
		}
	}
	if len(fit) == 0 {
		named := strings.Join(labels, ", ")
		if len(away) > 0 {
			return nil, fmt.Errorf("%w: of the runners with the labels %s none offers to run instances now (there is %s): start one with penstock runner --deploy",
				engine.ErrNoMachine, named, strings.Join(away[:min(len(away), 5)], ", "))
		}
		return nil, fmt.Errorf("%w: no runner has the labels %s: start one with penstock runner --url %s --token TOKEN --labels %s --deploy",
			engine.ErrNoMachine, named, s.URL, strings.Join(own(labels), ","))
	}
	slices.Sort(fit)
	return fit, nil
}

// own are the labels that a runner is given, of those that are asked for.
func own(labels []string) []string {
	given := slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return strings.EqualFold(l, "self-hosted") })
	if len(given) == 0 {
		return labels
	}
	return given
}

// JoinedMachines gives the names of all runners, which are the machines that there may be, and notes that those which are connected
// are there.
func (s *Server) JoinedMachines(ctx context.Context) (map[string]bool, error) {
	all, err := s.Store.Runners(ctx, 0, maxRunners)
	if err != nil {
		return nil, err
	}
	connected, joined := s.fleet().Connected(), map[string]bool{}
	var seen map[int64]time.Time
	for _, r := range all {
		joined[r.Name] = true
		if connected[r.Name] {
			if due := s.present.note(r.ID, time.Now()); len(due) > 0 {
				seen = due
			}
		}
	}
	if len(seen) > 0 {
		err = s.Store.TouchRunners(ctx, seen)
	}
	return joined, err
}

// connectMachine makes a request of a runner a connection over which its machine is asked to run instances: see deploy.Fleet.
func (s *Server) connectMachine(w http.ResponseWriter, r *http.Request) {
	who, fleet := runnerOf(r), s.fleet()
	if fleet == nil || !strings.EqualFold(r.Header.Get("Upgrade"), runner.MachineProtocol) {
		w.Header().Set("Upgrade", runner.MachineProtocol)
		refuse(w, http.StatusUpgradeRequired, "This is where machines connect that run instances, with Upgrade: "+runner.MachineProtocol)
		return
	}
	address, err := netip.ParseAddr(r.Header.Get(runner.MachineAddress))
	if err == nil {
		err = s.checkMachine(r, address)
	}
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if who.Ephemeral {
		refuse(w, http.StatusUnprocessableEntity, "A runner for one job runs no instances")
		return
	}
	server, err := s.carrierOf(r.Context(), who)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if server != "" {
		refuse(w, http.StatusMisdirectedRequest, "The machine runs what the server "+server+" has released: it has to connect to that one")
		return
	}
	conn, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusUpgradeRequired, "A machine connects by HTTP/1.1")
		return
	}
	_ = conn.SetDeadline(time.Time{})
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+runner.MachineProtocol+"\r\n\r\n")
	if err != nil {
		conn.Close()
		return
	}
	s.Log.Info("a machine has connected", "runner", who.Name, "address", address)
	err = fleet.Serve(context.WithoutCancel(r.Context()), deploy.Offer{Name: who.Name, Address: address}, &ahead{conn, in.Reader})
	s.Log.Info("a machine has gone", "runner", who.Name, "why", err)
}

// ahead is a connection of which some was read before.
type ahead struct {
	net.Conn
	in *bufio.Reader
}

// Read implements net.Conn.
func (c *ahead) Read(p []byte) (int, error) { return c.in.Read(p) }

// checkMachine says what is wrong with the address at which a runner says that its machine is reached: by what it says the proxy
// connects, so it is no place of the server's own, nor one that only the server itself reaches.
func (s *Server) checkMachine(r *http.Request, at netip.Addr) error {
	bad := func(why string) error {
		return fmt.Errorf("the proxy would reach instances at %s: %s. Say another address with --deploy-address", at, why)
	}
	local := r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == "" // the runner is on this machine
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && !peer.Addr().Unmap().IsLoopback() {
		local = local && peer.Addr().Unmap() == at
	}
	switch {
	case at.IsUnspecified(), at.IsMulticast(), at.IsLinkLocalUnicast(), at.Zone() != "", at.Is4In6():
		return bad("that is no address of one machine")
	case local:
		return nil
	case at.IsLoopback():
		return bad("that is the server itself")
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == at {
			return bad("that is the server itself")
		}
	}
	return nil
}

// carrierOf finds another server that has released to a runner's machine, "" if none has: two would each end what the other wants.
func (s *Server) carrierOf(ctx context.Context, who store.Runner) (string, error) {
	if !s.Store.Shared() {
		return "", nil
	}
	active, err := s.Releases.Active(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range active {
		if !slices.Contains(r.Plan.Machines, who.Name) {
			continue
		}
		name, err := s.Store.Carrier(ctx, store.Place{Repository: r.Plan.Repository, Environment: r.Plan.Environment})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
		if name != "" && name != s.Name {
			return name, nil
		}
	}
	return "", nil
}
