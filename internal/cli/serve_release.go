package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/proxy/daemon"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
	"github.com/penstock-ci/penstock/internal/store"
)

// Directories below a server's own.
const (
	instancesDir = "instances"
	plainDir     = "plain"
	proxyDir     = "proxy"
)

// proxyFlags say how the proxy of what is released is reached.
type proxyFlags struct {
	listen, listenTLS string
	cert, key         string
	acme              tlsauto.ACME
	acmeDNS           string
}

func (f *proxyFlags) add(c *cobra.Command) {
	set := c.Flags()
	set.StringVar(&f.listen, "proxy", "", "carry traffic to what is released at this `HOST:PORT`, by the hosts of penstock.yaml; port 0 takes a free one")
	set.StringVar(&f.listenTLS, "proxy-tls", "", "do so by https at this `HOST:PORT`, too: with certificates of --acme, of files, or of an authority of its own for localhost and the like")
	set.StringVar(&f.cert, "proxy-cert", "", "certificate `FILE` of the hosts that it names; needs --proxy-key")
	set.StringVar(&f.key, "proxy-key", "", "private key `FILE` of --proxy-cert")
	set.StringVar(&f.acme.Email, "acme", "", "get certificates from Let's Encrypt, to whose terms you agree by it; it warns this `EMAIL`")
	set.StringVar(&f.acme.Directory, "acme-directory", "", "`URL` of another authority that speaks ACME")
	set.StringVar(&f.acme.Root, "acme-root", "", "PEM `FILE` that vouches for --acme-directory")
	set.StringVar(&f.acmeDNS, "acme-dns", "", "`COMMAND` that proves hosts by DNS, for wildcards: COMMAND set NAME VALUE, COMMAND clear NAME VALUE")
	c.MarkFlagsRequiredTogether("proxy-cert", "proxy-key")
}

// config is the settings of the proxy's process in a directory.
func (f *proxyFlags) config(dir string) (daemon.Config, error) {
	conf := daemon.Config{Dir: dir, Listen: f.listen, ListenTLS: f.listenTLS}
	for _, file := range []*string{&f.cert, &f.key, &f.acme.Root} {
		if *file == "" {
			continue
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return conf, err
		}
		*file = abs
	}
	if f.cert != "" {
		conf.TLS.Files = []tlsauto.Pair{{Certificate: f.cert, Key: f.key}}
	}
	if f.acme.Email != "" || f.acme.Directory != "" {
		f.acme.DNS = strings.Fields(f.acmeDNS)
		conf.TLS.ACME = &f.acme
	}
	return conf, nil
}

// open starts the proxy, or finds the one that runs, and gives where it is found. Without an address there is none.
func (f *proxyFlags) open(ctx context.Context, dir string) (client *daemon.Client, at string, err error) {
	if f.listen == "" && f.listenTLS == "" {
		return nil, "", nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, "", err
	}
	conf, err := f.config(dir)
	if err != nil {
		return nil, "", err
	}
	was := daemon.Config{}
	if before, err := daemon.Open(dir); err == nil {
		was = before.Config()
	}
	if conf.Listen, err = fixedPort(conf.Listen, was.Listen); err != nil {
		return nil, "", err
	}
	if conf.ListenTLS, err = fixedPort(conf.ListenTLS, was.ListenTLS); err != nil {
		return nil, "", err
	}
	if client, err = daemon.Ensure(ctx, conf); err != nil {
		return nil, "", withHint(err, "--proxy HOST:PORT takes a free port with 0; penstock proxy stop --dir "+dir+" ends one that runs")
	}
	status, err := client.Status(ctx)
	if err != nil {
		return nil, "", err
	}
	if f.listen == "" {
		return client, "https://" + reachable(status.Listeners["https"]), nil
	}
	return client, "http://" + reachable(status.Listeners["http"]), nil
}

// fixedPort gives an address with port 0 a port: the one it had before, or a free one. A proxy that is started again, whoever
// ended it, has to be where it was.
func fixedPort(address, before string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != "0" {
		return address, nil // what is wrong with it is told where it is used
	}
	if was, _, err := net.SplitHostPort(before); err == nil && was == host {
		return before, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// reachable is an address that is listened at, as clients on this machine reach it.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return address
}

// openTarget opens this host, and the machines that connect, as the target of releases. What runs goes on until the first Carry.
func (s *server) openTarget(ctx context.Context, f *serveFlags, images *image.Store, client *daemon.Client) error {
	log := func(format string, args ...any) { s.Log.Warn(fmt.Sprintf(format, args...)) }
	told := deploy.Options{
		Seen: func(ctx context.Context, id cd.ReleaseID, o cd.Observed) error {
			err := s.Releases.Update(ctx, id, o)
			if errors.Is(err, cd.ErrStale) || errors.Is(err, store.ErrNotFound) {
				return nil // of a release that is no more, or has no such service: told again it would be the same
			}
			return err
		},
		Secrets: func(ctx context.Context, id cd.ReleaseID, service string) (map[string]string, error) {
			return s.Releases.Secrets(ctx, id, service)
		},
		Artifact: func(ctx context.Context, digest string) (io.ReadCloser, error) { return s.ReleaseFiles(ctx, digest) },
		Drained: func(ctx context.Context, addr string) error {
			if client == nil {
				return nil
			}
			return client.Drained(ctx, addr)
		},
	}
	own, err := deploy.NewHost(ctx, deploy.HostOptions{
		Options: told, Dir: filepath.Join(f.data, instancesDir), Layers: s.machines.layers, Images: container.Images{Store: images}, Provider: s.machines.provider(),
		Plain: filepath.Join(f.data, plainDir), Log: log,
	})
	if err != nil {
		return err
	}
	s.target = deploy.NewFleet(own, deploy.FleetOptions{Options: told, Images: images, Joined: s.JoinedMachines, Log: log})
	s.Carrier.Target, s.Carrier.Machines = s.target, s.target
	return nil
}

// carrier is a deploy.Carrier as the engine knows it.
type carrier struct{ *deploy.Carrier }

// Carry implements engine.Carrier.
func (c carrier) Carry(ctx context.Context, active []engine.Active) error {
	all := make([]deploy.Carried, 0, len(active))
	for _, r := range active {
		one := deploy.Carried{Release: r.Release}
		if err := json.Unmarshal(r.Extra, &one.Fronts); err != nil {
			return fmt.Errorf("read how release %d is reached: %w", r.ID, err)
		}
		all = append(all, one)
	}
	return c.Carrier.Carry(ctx, all)
}

// outside is whom webhooks and queries of repositories may reach of this machine: the server, the proxy, and what its operator
// names.
func outside(allowed []string, own ...string) (deploy.Outside, error) {
	var o deploy.Outside
	for _, text := range allowed {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return o, withHint(fmt.Errorf("--allow-local %s: %w", text, err), "an address with a port, such as 127.0.0.1:9090")
		}
		o.Allow = append(o.Allow, at)
	}
	for _, u := range own {
		at, err := url.Parse(u)
		if err != nil {
			return o, err
		}
		port, err := strconv.ParseUint(at.Port(), 10, 16)
		if err != nil {
			continue // none, or none of its own
		}
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			o.Allow = append(o.Allow, netip.AddrPortFrom(netip.MustParseAddr(loopback), uint16(port)))
		}
	}
	return o, nil
}
