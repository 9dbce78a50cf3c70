package agent

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The machine's addresses on its only interface, beside the loopback's own: programs look for one that is no loopback
// before they ask for names. 192.0.0.8 is the dummy address of RFC 7600; the other is of the same kind.
var (
	dummy4 = netip.MustParseAddr("192.0.0.8")
	dummy6 = netip.MustParseAddr("fd00:0:0:8::8")
	// Resolver answers for the host's resolvers.
	Resolver = netip.MustParseAddr("127.0.0.53")
)

// family is one of the two internet protocols, with the sockets that its traffic goes to.
type family struct {
	af       int
	nfproto  byte
	loopback netip.Addr
	dummy    netip.Addr
	tcp, udp uint16 // ports of the relay
}

// openNetwork gives the machine its way out: whatever is sent to other hosts ends in sockets in here, which the
// supervisor serves. It gives them: TCP and UDP of IPv4, then of IPv6 if that is asked for.
func openNetwork(six bool) (files []int, err error) {
	families := []*family{{af: unix.AF_INET, nfproto: unix.NFPROTO_IPV4, loopback: netip.MustParseAddr("127.0.0.1"), dummy: dummy4}}
	if six {
		families = append(families, &family{af: unix.AF_INET6, nfproto: unix.NFPROTO_IPV6, loopback: netip.IPv6Loopback(), dummy: dummy6})
	}
	for _, fam := range families {
		tcp, err := bound(fam, unix.SOCK_STREAM, &fam.tcp)
		if err != nil {
			return files, wrap("listen for the relay", err)
		}
		files = append(files, tcp)
		udp, err := bound(fam, unix.SOCK_DGRAM, &fam.udp)
		if err != nil {
			return files, wrap("listen for the relay", err)
		}
		files = append(files, udp)
	}
	if err := setRoutes(families); err != nil {
		return files, err
	}
	return files, redirect(families)
}

// bound opens a socket on the loopback interface, listening if it is a stream.
func bound(fam *family, kind int, port *uint16) (int, error) {
	s, err := unix.Socket(fam.af, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(s, sockaddr(fam.loopback, 0))
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(s, 512)
	}
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(s)
	}
	if err != nil {
		unix.Close(s)
		return -1, err
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		*port = uint16(name.Port)
	case *unix.SockaddrInet6:
		*port = uint16(name.Port)
	}
	return s, nil
}

func sockaddr(ip netip.Addr, port int) unix.Sockaddr {
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: ip.As16(), Port: port}
}

// listen opens a listening socket on the machine's own loopback, for the supervisor to serve.
func (a *inside) listen(f *frame) {
	var n Number
	if err := decode(f.body, &n); err != nil || n.N < 0 || n.N > 1<<16-1 {
		a.answer(f, nil, errFrame)
		return
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		a.answer(f, nil, wrap("listen", err))
		return
	}
	defer unix.Close(s)
	_ = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // only eases reuse
	err = unix.Bind(s, sockaddr(netip.MustParseAddr("127.0.0.1"), n.N))
	if err == nil {
		err = unix.Listen(s, 512)
	}
	if err != nil {
		a.answer(f, nil, wrap("listen", err))
		return
	}
	a.answer(f, nil, nil, s)
}

// dial connects to a port of the machine's own loopback.
func (a *inside) dial(f *frame) {
	var n Number
	if err := decode(f.body, &n); err != nil || n.N <= 0 || n.N > 1<<16-1 {
		a.answer(f, nil, errFrame)
		return
	}
	var failed error
	for _, ip := range []string{"127.0.0.1", "::1"} {
		s, err := connect(netip.MustParseAddr(ip), n.N)
		if err == nil {
			a.answer(f, nil, nil, s)
			unix.Close(s)
			return
		}
		if failed == nil {
			failed = err
		}
	}
	a.answer(f, nil, wrap("connect", failed))
}

// connectTimeout bounds a connection on the machine's own loopback: only a full backlog takes time.
const connectTimeout = 3 * time.Second

func connect(ip netip.Addr, port int) (int, error) {
	af := unix.AF_INET
	if ip.Is6() {
		af = unix.AF_INET6
	}
	s, err := unix.Socket(af, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// A server that does not take its connections would hold us up for minutes, with a thread for each who asks.
	wait := unix.NsecToTimeval(connectTimeout.Nanoseconds())
	err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	if err == nil {
		err = unix.EINTR // after a signal the kernel does not go on by itself, if there is a timeout
		for until := time.Now().Add(connectTimeout); err == unix.EINTR && time.Now().Before(until); {
			err = unix.Connect(s, sockaddr(ip, port))
		}
		if err == unix.EINPROGRESS || err == unix.EINTR {
			err = unix.ETIMEDOUT
		}
	}
	if err == nil {
		err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{})
	}
	if err != nil {
		unix.Close(s)
		return -1, err
	}
	return s, nil
}

// setRoutes sends everything to the loopback interface, where it is redirected.
func setRoutes(families []*family) error {
	return netlink(unix.NETLINK_ROUTE, func(b *batch) {
		for _, fam := range families {
			b.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, func() {
				scope := byte(unix.RT_SCOPE_UNIVERSE)
				b.raw(byte(fam.af), byte(fam.dummy.BitLen()), unix.IFA_F_NODAD, scope)
				b.raw(binary.NativeEndian.AppendUint32(nil, loopbackIndex)...)
				b.attr(unix.IFA_LOCAL, fam.dummy.AsSlice()...)
				b.attr(unix.IFA_ADDRESS, fam.dummy.AsSlice()...)
			})
			b.message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, func() {
				b.raw(byte(fam.af), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0)
				b.attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, loopbackIndex)...)
				b.attr(unix.RTA_PREFSRC, fam.dummy.AsSlice()...)
			})
		}
	})
}

// loopbackIndex is the number of a network namespace's first interface.
const loopbackIndex = 1

// redirect installs the rules: what is not for the machine itself goes to the relay if it is TCP or asks for a name,
// and is refused otherwise.
func redirect(families []*family) error {
	const hookOutput, priorityNAT, priorityFilter = 3, -100, 0
	err := nftables(func(b *batch) {
		b.table()
		b.chain("relay", "nat", hookOutput, priorityNAT)
		for _, fam := range families {
			if fam.af == unix.AF_INET {
				b.rule("relay", fam.match(), fam.to(Resolver), udp(), port(53), redirectTo(fam.udp))
				b.rule("relay", fam.match(), fam.to(Resolver), tcp(), port(53), redirectTo(fam.tcp))
				b.rule("relay", fam.match(), fam.toLoopback(), accept())
			} else {
				b.rule("relay", fam.match(), fam.to(fam.loopback), accept())
			}
			b.rule("relay", fam.match(), fam.to(fam.dummy), accept())
			b.rule("relay", fam.match(), tcp(), redirectTo(fam.tcp))
			b.rule("relay", fam.match(), udp(), port(53), redirectTo(fam.udp))
		}
	})
	if err != nil {
		return wrap("redirect the network (nftables)", err)
	}
	// Without these what can not go out is lost rather than refused: slower to fail, no less safe.
	_ = nftables(func(b *batch) {
		b.table()
		b.chain("refuse", "filter", hookOutput, priorityFilter)
		for _, fam := range families {
			if fam.af == unix.AF_INET {
				b.rule("refuse", fam.match(), fam.toLoopback(), accept())
			} else {
				b.rule("refuse", fam.match(), fam.to(fam.loopback), accept())
			}
			b.rule("refuse", fam.match(), fam.to(fam.dummy), accept())
			b.rule("refuse", fam.match(), reject())
		}
	})
	return nil
}

// netlink sends messages to the kernel and waits until all are done.
func netlink(protocol int, build func(*batch)) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return wrap("open netlink", err)
	}
	defer unix.Close(s)
	b := &batch{}
	build(b)
	if err := unix.Sendto(s, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return wrap("send netlink", err)
	}
	buf := make([]byte, 16<<10)
	for b.acks > 0 {
		n, err := retry(func() (int, error) { n, _, err := unix.Recvfrom(s, buf, 0); return n, err })
		if err != nil {
			return wrap("receive netlink", err)
		}
		for p := buf[:n]; len(p) >= unix.NLMSG_HDRLEN+4; {
			size := int(binary.NativeEndian.Uint32(p))
			if binary.NativeEndian.Uint16(p[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(p[unix.NLMSG_HDRLEN:])); code != 0 {
					return os.NewSyscallError("netlink", unix.Errno(-code))
				}
				b.acks--
			}
			p = p[min(max(align(size), unix.NLMSG_HDRLEN), len(p)):]
		}
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }
