// Package tlsauto finds the certificate for each connection: in files, from an authority that speaks ACME (Let's Encrypt),
// or from an authority of its own, for development and for names that no public one can vouch for.
//
// It has certificates only for hosts that it was told of. What cannot be had of one host is that host's trouble alone.
package tlsauto

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says where certificates come from. A host takes the first that is meant for it: a file that names it, then the own
// authority if it is one of localhost, *.localhost, *.test, *.internal, *.local, *.home.arpa or an IP address, then ACME; and
// without ACME the own authority for all.
type Config struct {
	Files []Pair `json:"files,omitempty"`
	ACME  *ACME  `json:"acme,omitempty"`
}

// Pair is a certificate with its chain, and its key, both PEM. They are read again when they change.
type Pair struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// ACME is an authority that gives certificates to who holds a host (RFC 8555). To give it means to agree to its terms. It
// has to reach the proxy's TLS listener at port 443 of the host (tls-alpn-01), or its other listener at port 80 (http-01).
type ACME struct {
	Directory string `json:"directory,omitempty"` // URL; empty is Let's Encrypt's
	Email     string `json:"email,omitempty"`     // where it warns
	Root      string `json:"root,omitempty"`      // PEM file that vouches for the directory, beside the system's
	// DNS is a command that proves hosts by DNS (dns-01), which alone gives certificates of wildcards. It is run as DNS set
	// NAME VALUE, and later DNS clear NAME VALUE, for a TXT record, and returns when the record is visible.
	DNS []string `json:"dns,omitempty"`
}

// Options are what a Manager is made with.
type Options struct {
	Config Config
	Dir    string // where certificates and keys are kept, for this user alone
	Port   int    // of the TLS listener
	HTTP   bool   // there is a listener for HTTP in the clear, too: see Challenges
	Log    *slog.Logger
}

// Sources of certificates.
const (
	FromFile  = "file"
	FromACME  = "acme"
	FromLocal = "local"
)

// Host is what is known of one host's certificate.
type Host struct {
	Name     string    `json:"name"`
	Source   string    `json:"source"`
	NotAfter time.Time `json:"not_after,omitzero"` // of the certificate that is served; zero while there is none
	Error    string    `json:"error,omitempty"`    // why there is none, or no newer one
	Since    time.Time `json:"since,omitzero"`     // of the error
}

// Manager gives certificates. It is safe for use by many goroutines.
type Manager struct {
	o     Options
	files *files
	local *authority
	acme  *acme // nil without

	mu    sync.RWMutex
	hosts []string // sorted; "" is every host
}

// New makes a manager without hosts. Close ends it.
func New(o Options) (*Manager, error) {
	m := &Manager{o: o, files: newFiles(o.Config.Files, o.Log)}
	var err error
	if m.local, err = openAuthority(filepath.Join(o.Dir, "ca")); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if o.Config.ACME != nil {
		if m.acme, err = newACME(o, m.permit); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	return m, nil
}

// Close ends what goes on in the background.
func (m *Manager) Close() {
	if m.acme != nil {
		m.acme.close()
	}
}

// ChallengePath is the prefix of the paths by which an authority asks for a proof (RFC 8555, section 8.3).
const ChallengePath = "/.well-known/acme-challenge"

// Challenges is the address of this machine where requests below ChallengePath are answered, and those of the hosts that they may
// be for. The address is empty if there are none.
func (m *Manager) Challenges(hosts []string) (addr string, public []string) {
	if m.acme == nil || m.acme.answers == nil {
		return "", nil
	}
	for _, h := range hosts {
		if m.source(h) == FromACME {
			public = append(public, h)
		}
	}
	if len(public) == 0 {
		return "", nil
	}
	return m.acme.answers.Addr().String(), public
}

// Root is the file with the certificate of the own authority. Who trusts it, as by trusting it in a browser, trusts the
// hosts that no public authority vouches for.
func (m *Manager) Root() string { return filepath.Join(m.o.Dir, "ca", rootFile) }

// SetHosts says which hosts there are: names, wildcards such as *.preview.example.com, and "" for every host. What is to be
// had of an authority is asked for in the background.
func (m *Manager) SetHosts(hosts []string) {
	own := make([]string, len(hosts))
	for i, h := range hosts {
		own[i] = strings.ToLower(h)
	}
	slices.Sort(own)
	own = slices.Compact(own)
	m.mu.Lock()
	m.hosts = own
	m.mu.Unlock()
	if m.acme != nil {
		m.acme.manage(slices.DeleteFunc(slices.Clone(own), func(h string) bool { return m.source(h) != FromACME }))
	}
}

// source says where a host's certificate comes from.
func (m *Manager) source(host string) string {
	switch {
	case m.files.find(host) != nil:
		return FromFile
	case m.acme == nil || isLocal(host):
		return FromLocal
	default:
		return FromACME
	}
}

// isLocal says whether no public authority vouches for a host.
func isLocal(host string) bool {
	if host == "" {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	for _, zone := range []string{"localhost", "test", "internal", "local", "home.arpa"} {
		if host == zone || strings.HasSuffix(host, "."+zone) {
			return true
		}
	}
	return !strings.Contains(host, ".")
}

// permit says why a host may have no certificate, if it may not.
func (m *Manager) permit(host string) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	has := func(h string) bool { _, found := slices.BinarySearch(m.hosts, h); return found }
	if has(host) {
		return nil
	}
	for rest := host; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		if has("*." + rest) {
			return nil
		}
	}
	// For every host: only what costs nobody else anything.
	if has("") && (m.acme == nil || isLocal(host)) {
		return nil
	}
	return fmt.Errorf("no route has the host %q", host)
}

// TLSConfig is for a listener.
func (m *Manager) TLSConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: m.certificate}
	if m.acme != nil {
		c.NextProtos = []string{challengeProtocol}
	}
	return c
}

func (m *Manager) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m.acme != nil && slices.Equal(hello.SupportedProtos, []string{challengeProtocol}) {
		return m.acme.certificate(hello)
	}
	host := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if host == "" { // who asks for an address says no name
		if host, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String()); host == "" {
			return nil, errors.New("the client names no host")
		}
	}
	if c := m.files.find(host); c != nil {
		return c, nil
	}
	if err := m.permit(host); err != nil {
		return nil, err
	}
	if m.source(host) == FromLocal {
		return m.local.certificate(host)
	}
	return m.acme.certificate(hello)
}

// Status tells of all hosts, by name. Hosts below a wildcard that have certificates of their own are told of with it.
func (m *Manager) Status() []Host {
	m.mu.RLock()
	hosts := slices.Clone(m.hosts)
	m.mu.RUnlock()
	var out []Host
	for _, h := range hosts {
		if h == "" {
			continue
		}
		s := Host{Name: h, Source: m.source(h)}
		switch s.Source {
		case FromFile:
			s.NotAfter = m.files.find(h).Leaf.NotAfter
		case FromLocal:
			s.NotAfter = m.local.until(h)
		case FromACME:
			m.acme.tell(&s)
			out = append(out, m.acme.below(h)...)
		}
		out = append(out, s)
	}
	out = append(out, m.files.troubles()...)
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return out
}
