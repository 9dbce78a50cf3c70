package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// admitFile, in the directory of all instances, is who may connect to them from other machines: a list of addresses. It is
// read at each connection, so that it may change while they run.
const admitFile = "admit.json"

// maxSpliced bounds the connections of a keeper from other machines.
const maxSpliced = 4096

// gateLinger is how long what a program has answered before its end may take to its clients.
const gateLinger = 2 * time.Second

// gate is where other machines reach a program while it runs: what they send is passed on to it, and back. It is closed while
// nothing runs, so that who connects is refused, and can go elsewhere, and is not cut off.
type gate struct {
	listener  *net.TCPListener
	admit     func(netip.Addr) bool
	dial      func(context.Context) (net.Conn, error) // reaches the program
	ctx       context.Context
	end       context.CancelFunc
	accepting sync.WaitGroup
	working   sync.WaitGroup
	answering sync.WaitGroup // connections on which the program may still answer
}

// openGate listens at an address, at a port if that can be had again.
func openGate(at netip.Addr, port int, admit func(netip.Addr) bool, dial func(context.Context) (net.Conn, error)) (*gate, error) {
	l, err := listenNear(at, port)
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, admit: admit, dial: dial}
	g.ctx, g.end = context.WithCancel(context.Background())
	g.accepting.Go(g.accept)
	return g, nil
}

func (g *gate) accept() {
	slots := make(chan struct{}, maxSpliced)
	for {
		slots <- struct{}{}
		c, err := g.listener.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files: it passes
			<-slots
			_ = pause(g.ctx, acceptPause)
			continue
		}
		g.answering.Add(1)
		g.working.Go(func() {
			defer func() { <-slots }()
			g.pass(c, sync.OnceFunc(g.answering.Done))
		})
	}
}

// close ends the gate, once the program has ended: what that has answered gets to its clients.
func (g *gate) close() {
	g.listener.Close()
	lingering := time.AfterFunc(gateLinger, g.end)
	g.accepting.Wait()
	g.answering.Wait()
	lingering.Stop()
	g.end()
	g.working.Wait()
}

// listenNear listens at a port of keepers: the one that is asked for if nobody has it.
func listenNear(at netip.Addr, port int) (*net.TCPListener, error) {
	var err error
	for range 100 {
		if !keepersPort(port) {
			port = lowestPort + mathrand.IntN(highestPort-lowestPort)
		}
		var l *net.TCPListener
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, uint16(port)))); err == nil {
			return l, nil
		}
		port = 0
	}
	return nil, fmt.Errorf("listen for the server at %s: %w", at, err)
}

func keepersPort(port int) bool { return port >= lowestPort && port < highestPort }

// pass passes one connection on, to its end. It tells when the program has no more to say.
func (g *gate) pass(from *net.TCPConn, answered func()) {
	defer answered()
	defer from.Close()
	if !g.admit(from.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()) {
		_ = from.SetLinger(0) // it learns nothing
		return
	}
	dialling, cancel := context.WithTimeout(g.ctx, dialWait)
	to, err := g.dial(dialling)
	cancel()
	if err != nil {
		_ = from.SetLinger(0) // as if nothing listened
		return
	}
	defer to.Close()
	defer context.AfterFunc(g.ctx, func() { from.Close(); to.Close() })()
	endBoth := func() { from.Close(); to.Close() }
	var asking sync.WaitGroup
	asking.Go(func() {
		if flow(to, from) != nil { // perhaps the program wants no more of a request, and has answered it
			time.AfterFunc(gateLinger, endBoth)
		}
	})
	if flow(from, to) != nil {
		endBoth()
	}
	answered()
	asking.Wait()
}

// flow passes on what comes until it ends, and its end.
func flow(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil { // of the kernel's own, for sockets
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("its end can not be told")
}

// admits says whether an address may connect.
func (k *keeper) admits(from netip.Addr) bool {
	var list []netip.Addr
	return readJSON(filepath.Join(filepath.Dir(k.dir), admitFile), &list) == nil && slices.Contains(list, from)
}

// openGate opens the gate to what stands, if it listens at a port and other machines are to reach it, and gives its address.
func (k *keeper) openGate(s *stand, port int) (*gate, string, error) {
	if port == 0 || !k.spec.Listen.IsValid() {
		return nil, "", nil
	}
	g, err := openGate(k.spec.Listen, k.gatePort, k.admits, func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, port) })
	if err != nil {
		return nil, "", err
	}
	addr := g.listener.Addr().String()
	k.gatePort = portOf(addr)
	return g, addr, nil
}

// portOf is the port of an address; 0 if it has none.
func portOf(addr string) int {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return port
}
