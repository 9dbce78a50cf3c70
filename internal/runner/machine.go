package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"time"
)

const (
	// MachineProtocol is what a connection becomes on which a server asks a runner's machine to run instances: see deploy.Machine.
	MachineProtocol = "penstock-machine/1"
	// MachineAddress is the header with the address at which the server's proxy reaches the instances of the machine.
	MachineAddress = "Penstock-Deploy-Address"

	// steady is how long a connection has to last until the next is tried at once.
	steady = 10 * time.Second
)

// KeepOpen keeps a connection open over which the server asks this machine, which its proxy reaches at an address, to run instances,
// and has each served, until ctx ends. It gives up, with ErrRemoved or ErrRefused, if the server does not want it.
func (q *Remote) KeepOpen(ctx context.Context, address netip.Addr, serve func(context.Context, net.Conn) error) error {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := q.connect(ctx, address)
		if err == nil {
			slog.Info("this machine is connected to the server and runs instances", "address", address)
			err = serve(ctx, conn)
		}
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrRemoved) || errors.Is(err, ErrRefused) {
			return err
		}
		slog.Warn("no connection to the server, trying again; what runs goes on", "error", err)
		if time.Since(began) > steady {
			pause = firstPause
		}
		sleep(ctx, about(pause))
		pause = min(2*pause, lastPause)
	}
	return nil
}

// connect opens a connection.
func (q *Remote) connect(ctx context.Context, address netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, otherPatience)
	defer cancel()
	var under net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { under = info.Conn }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.url+QueuePath+"/machine", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+q.token)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", MachineProtocol)
	req.Header.Set(MachineAddress, address.String())
	only := &http.Protocols{}
	only.SetHTTP1(true)
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, Protocols: only}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
		if resp.StatusCode == http.StatusMisdirectedRequest { // whoever distributes requests may choose another
			return nil, fmt.Errorf("%s: %s", resp.Status, said(text))
		}
		return nil, q.fault("/machine", resp, text)
	}
	both, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("the connection can not be written to")
	}
	return &upgraded{both, under}, nil
}

// maxSaid bounds what is read of a refusal, bytes.
const maxSaid = 16 << 10

// upgraded is a connection that was an HTTP request.
type upgraded struct {
	io.ReadWriteCloser
	under net.Conn // for its addresses alone: net/http has read of it
}

func (c *upgraded) LocalAddr() net.Addr  { return c.under.LocalAddr() }
func (c *upgraded) RemoteAddr() net.Addr { return c.under.RemoteAddr() }

func (c *upgraded) SetDeadline(t time.Time) error      { return c.under.SetDeadline(t) }
func (c *upgraded) SetReadDeadline(t time.Time) error  { return c.under.SetReadDeadline(t) }
func (c *upgraded) SetWriteDeadline(t time.Time) error { return c.under.SetWriteDeadline(t) }

// AddressTo is the address of this machine by which it reaches a server, which is where the server reaches it unless something
// between them translates.
func AddressTo(ctx context.Context, server string) (netip.Addr, error) {
	u, err := url.Parse(server)
	if err != nil {
		return netip.Addr{}, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "443")) // sends nothing; any port will do
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), nil
}
