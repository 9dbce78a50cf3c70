package sandbox

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Limits of what one machine may have under way through the relay.
const (
	maxConnections = 512
	maxQueries     = 128
	dialTimeout    = 30 * time.Second
	queryTimeout   = 5 * time.Second
)

// relay is a machine's way out: it carries TCP connections and name queries from sockets inside the machine's network
// to the host's. It refuses the host's own loopback and link-local addresses, where services trust their callers.
type relay struct {
	stop    context.CancelFunc
	done    sync.WaitGroup
	closers []io.Closer
}

// openNetwork serves the sockets that the machine's traffic ends in.
func (m *machine) openNetwork(sockets []*os.File) (err error) {
	serving, stop := context.WithCancel(context.Background())
	m.relay = &relay{stop: stop}
	for i, f := range sockets {
		if i%2 == 0 {
			err = errors.Join(err, m.relay.serveTCP(serving, f))
		} else {
			err = errors.Join(err, m.relay.serveNames(serving, f))
		}
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("open the network: %w", err)
	}
	return nil
}

func (r *relay) close() {
	r.stop()
	for _, c := range r.closers {
		c.Close()
	}
	r.done.Wait()
}

// hasIPv6 says whether the host has an address that reaches others by IPv6.
func hasIPv6() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast() && !n.IP.IsPrivate() {
			return true
		}
	}
	return false
}

func (r *relay) serveTCP(ctx context.Context, f *os.File) error {
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, l)
	slots := make(chan struct{}, maxConnections)
	r.done.Go(func() {
		for {
			slots <- struct{}{}
			c, err := l.Accept()
			if err != nil {
				<-slots
				if !pause(ctx, err) {
					return
				}
				continue
			}
			r.done.Go(func() { r.carry(ctx, c.(*net.TCPConn)); <-slots })
		}
	})
	return nil
}

// pause waits a moment after an error of a socket that may pass, such as too many open files. It gives false when the
// relay has ended.
func pause(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(10 * time.Millisecond):
		return true
	}
}

// carry connects a connection of the machine to where it was going.
func (r *relay) carry(ctx context.Context, in *net.TCPConn) {
	defer in.Close()
	out, err := dialFor(ctx, in)
	if err != nil {
		_ = in.SetLinger(0) // the machine sees a reset: it had been told that it is connected
		return
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close(); out.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pour(out, in) })
	both.Go(func() { pour(in, out) })
	both.Wait()
}

// pour copies one direction and passes its end on.
func pour(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil { // in the kernel, by splice
		_ = to.SetLinger(0)
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite()
}

func dialFor(ctx context.Context, in *net.TCPConn) (*net.TCPConn, error) {
	to, err := destination(in)
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{Timeout: dialTimeout}
	if to.Port() == 53 && to.Addr() == agent.Resolver {
		return dialResolver(ctx, d)
	}
	if err := allowed(to.Addr()); err != nil {
		return nil, err
	}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

var errForbidden = errors.New("an address of the host's own")

// metadata are addresses at which clouds hand out the host's credentials.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("fd20:ce::254")}

// allowed refuses addresses that reach the host from within, where it trusts who asks.
func allowed(ip netip.Addr) error {
	ip = ip.Unmap()
	this := netip.MustParsePrefix("0.0.0.0/8")
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsInterfaceLocalMulticast() || this.Contains(ip) || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return errForbidden
	}
	for _, m := range metadata {
		if ip == m {
			return errForbidden
		}
	}
	return nil
}

// destination is where a redirected connection was going.
func destination(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	const originalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
	bad := raw.Control(func(fd uintptr) {
		if c.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
			var a *unix.IPv6Mreq // as big as a socket address of IPv4
			if a, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, originalDst); err == nil {
				b := a.Multiaddr
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
			}
			return
		}
		var a *unix.IPv6MTUInfo // begins with a socket address of IPv6
		if a, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, originalDst); err == nil {
			port := a.Addr.Port
			to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr.Addr), binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port)))
		}
	})
	return to, errors.Join(bad, err)
}

// resolvers are the host's name servers, as the system has them now.
func resolvers() []string {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return []string{"127.0.0.1:53"}
	}
	defer f.Close()
	var servers []string
	for s := bufio.NewScanner(io.LimitReader(f, 64<<10)); s.Scan(); {
		if w := strings.Fields(s.Text()); len(w) > 1 && w[0] == "nameserver" {
			servers = append(servers, net.JoinHostPort(w[1], "53"))
		}
	}
	if len(servers) == 0 {
		return []string{"127.0.0.1:53"}
	}
	return servers
}

func dialResolver(ctx context.Context, d *net.Dialer) (c *net.TCPConn, err error) {
	for _, server := range resolvers() {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "tcp", server); err == nil {
			return conn.(*net.TCPConn), nil
		}
	}
	return nil, err
}

// maxDatagram is the longest name query or answer that is carried.
const maxDatagram = 64 << 10

// serveNames answers name queries with what the host's resolvers say.
func (r *relay) serveNames(ctx context.Context, f *os.File) error {
	p, err := net.FilePacketConn(f)
	if err != nil {
		return err
	}
	c := p.(*net.UDPConn)
	r.closers = append(r.closers, c)
	slots := make(chan struct{}, maxQueries)
	r.done.Go(func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				if !pause(ctx, err) {
					return
				}
				continue
			}
			query := append([]byte(nil), buf[:n]...)
			slots <- struct{}{}
			r.done.Go(func() {
				if answer := ask(ctx, query); answer != nil {
					_, _ = c.WriteToUDPAddrPort(answer, from) // who asks will ask again
				}
				<-slots
			})
		}
	})
	return nil
}

// ask gives the answer of the first resolver that has one.
func ask(ctx context.Context, query []byte) []byte {
	for _, server := range resolvers() {
		if answer, err := askOne(ctx, server, query); err == nil {
			return answer
		}
	}
	return nil
}

func askOne(ctx context.Context, server string, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })
	defer stop()
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, maxDatagram)
	n, err := c.Read(answer)
	if err != nil {
		return nil, err
	}
	return answer[:n], nil
}

// Listen opens a TCP listener on the machine's own loopback; port 0 takes a free one. It serves the job: what the
// machine's processes send there arrives in this process.
func (m *machine) Listen(ctx context.Context, port int) (net.Listener, error) {
	files, err := m.agent.Do(ctx, agent.OpListen, &agent.Number{N: port}, nil)
	if err == nil && len(files) != 1 {
		err = errors.New("no socket came")
	}
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of %s: %w", port, m.spec.Name, err)
	}
	defer files[0].Close()
	l, err := net.FileListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of %s: %w", port, m.spec.Name, err)
	}
	return l, nil
}

// Dial implements Dialer.
func (m *machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	files, err := m.agent.Do(ctx, agent.OpDial, &agent.Number{N: port}, nil)
	if err == nil && len(files) != 1 {
		err = errors.New("no socket came")
	}
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of %s: %w", port, m.spec.Name, err)
	}
	defer files[0].Close()
	c, err := net.FileConn(files[0])
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of %s: %w", port, m.spec.Name, err)
	}
	return c, nil
}

// ListenLocal implements LocalListener.
func (m *machine) ListenLocal(name string) (net.Listener, error) {
	at := fmt.Sprintf("/proc/%d/root%s/%s", m.id, insideFiles, name)
	l, err := net.Listen("unix", at)
	if err != nil {
		return nil, fmt.Errorf("listen on %s of %s: %w", name, m.spec.Name, err)
	}
	if err := os.Chmod(at, 0o666); err != nil { // whoever runs in the machine may use it
		l.Close()
		return nil, fmt.Errorf("listen on %s of %s: %w", name, m.spec.Name, err)
	}
	return l, nil
}
