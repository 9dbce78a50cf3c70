package tlsauto

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	acmedef "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	challengeProtocol = "acme-tls/1"
	// maxBelow bounds the hosts below wildcards that get certificates of their own: clients say which there are, and an
	// authority gives only so many in a week.
	maxBelow = 50
	// again is how long a host below a wildcard waits after a failure.
	again = 5 * time.Minute
	// dnsTime bounds the DNS command.
	dnsTime = 5 * time.Minute
)

// acme is certificates from an authority: those of hosts, which are looked after from the time that a table has them, and
// those of hosts below wildcards, which are asked for when the first client comes, unless DNS gives the wildcard's.
type acme struct {
	cache    *certmagic.Cache
	managed  *certmagic.Config
	onDemand *certmagic.Config
	issuer   string
	wildcard bool
	answers  net.Listener // where challenges by HTTP are answered; nil without
	permit   func(host string) error
	stop     context.CancelFunc
	ctx      context.Context // of what goes on in the background, which New began and Close ends
	log      *slog.Logger

	mu        sync.Mutex
	hosts     []string
	onlyAsked map[string]bool // hosts below wildcards that clients came for
	failures  map[string]failure
}

type failure struct {
	err   string
	since time.Time
	last  time.Time
}

func newACME(o Options, permit func(string) error) (*acme, error) {
	conf := o.Config.ACME
	template := certmagic.ACMEIssuer{
		CA: conf.Directory, Email: conf.Email, Agreed: true, AltTLSALPNPort: o.Port, DisableHTTPChallenge: true, CertObtainTimeout: 90 * time.Second,
	}
	var answers net.Listener
	if o.HTTP && len(conf.DNS) == 0 {
		var err error
		if answers, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("acme: listen for challenges: %w", err)
		}
		// certmagic finds that somebody listens there already, and leaves it to us.
		template.DisableHTTPChallenge, template.ListenHost, template.AltHTTPPort = false, "127.0.0.1", answers.Addr().(*net.TCPAddr).Port
	}
	if template.CA == "" {
		template.CA = certmagic.LetsEncryptProductionCA
	}
	if conf.Root != "" {
		pem, err := os.ReadFile(conf.Root)
		if err != nil {
			return nil, fmt.Errorf("acme: read the root: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("acme: %s holds no certificate", conf.Root)
		}
		template.TrustedRoots = roots
	}
	if len(conf.DNS) > 0 {
		template.DNS01Solver = command(conf.DNS)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &acme{
		wildcard: len(conf.DNS) > 0, answers: answers, permit: permit, ctx: ctx, stop: stop, log: o.Log,
		onlyAsked: map[string]bool{}, failures: map[string]failure{},
	}
	logger := zap.New(toSlog{o.Log})
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.managed, nil },
		Logger:           logger,
	})
	base := certmagic.Config{
		Storage: &certmagic.FileStorage{Path: filepath.Join(o.Dir, "acme")}, Logger: logger, OnEvent: a.event,
		// What the authority says of revoked certificates would be asked for with each; those of today hold for too short.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	}
	a.managed = certmagic.New(a.cache, base)
	base.OnDemand = &certmagic.OnDemandConfig{DecisionFunc: func(_ context.Context, host string) error { return a.decide(host) }}
	a.onDemand = certmagic.New(a.cache, base)
	for _, c := range []*certmagic.Config{a.managed, a.onDemand} {
		template.Logger = logger
		issuer := certmagic.NewACMEIssuer(c, template)
		c.Issuers = []certmagic.Issuer{issuer}
		a.issuer = issuer.IssuerKey()
		if answers != nil && c == a.managed { // they share what is asked of either
			go a.answer(issuer.HTTPChallengeHandler(http.NotFoundHandler())) // ends with its listener
		}
	}
	return a, nil
}

// answer answers challenges by HTTP.
func (a *acme) answer(h http.Handler) {
	s := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	_ = s.Serve(a.answers)
}

func (a *acme) close() {
	a.stop()
	if a.answers != nil {
		_ = a.answers.Close()
	}
	a.cache.Stop()
}

// manage looks after the certificates of these hosts, and of no others.
func (a *acme) manage(hosts []string) {
	if !a.wildcard {
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return strings.HasPrefix(h, "*.") })
	}
	a.mu.Lock()
	var gone []certmagic.SubjectIssuer
	for _, h := range a.hosts {
		if !slices.Contains(hosts, h) {
			gone = append(gone, certmagic.SubjectIssuer{Subject: h, IssuerKey: a.issuer})
			delete(a.failures, h)
		}
	}
	for h := range a.onlyAsked {
		if a.permit(h) != nil {
			gone = append(gone, certmagic.SubjectIssuer{Subject: h, IssuerKey: a.issuer})
			delete(a.onlyAsked, h)
			delete(a.failures, h)
		}
	}
	added := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return slices.Contains(a.hosts, h) })
	a.hosts = hosts
	a.mu.Unlock()
	a.cache.RemoveManaged(gone)
	// What is kept is there when manage returns: a process that takes over lacks no certificate that the one before had.
	for _, h := range added {
		if _, err := a.managed.CacheManagedCertificate(a.ctx, h); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("a certificate that was kept can not be read", "host", h, "error", err)
		}
	}
	if err := a.managed.ManageAsync(a.ctx, added); err != nil {
		a.log.Error("certificates can not be asked for", "error", err)
	}
}

func (a *acme) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == challengeProtocol {
		return a.managed.GetCertificate(hello)
	}
	host := strings.ToLower(hello.ServerName)
	a.mu.Lock()
	own := slices.Contains(a.hosts, host)
	failed := a.failures[host]
	a.mu.Unlock()
	if !own {
		return a.onDemand.GetCertificate(hello)
	}
	c, err := a.managed.GetCertificate(hello)
	if err != nil && failed.err != "" {
		return nil, fmt.Errorf("there is no certificate for %s: %s", host, failed.err)
	}
	return c, err
}

// decide says whether a host that a client came for gets a certificate of its own.
func (a *acme) decide(host string) error {
	if err := a.permit(host); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, ok := a.failures[host]; ok && time.Since(f.last) < again {
		return fmt.Errorf("there is no certificate for %s: %s", host, f.err)
	}
	if !a.onlyAsked[host] && len(a.onlyAsked) >= maxBelow {
		return fmt.Errorf("there is no certificate for %s: %d hosts below wildcards have one of their own; with a DNS command the wildcard has one for all", host, maxBelow)
	}
	a.onlyAsked[host] = true
	return nil
}

// event hears of what certmagic does.
func (a *acme) event(_ context.Context, event string, data map[string]any) error {
	host, _ := data["identifier"].(string)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch event {
	case "cert_failed":
		err, _ := data["error"].(error)
		if err == nil {
			err = errors.New("the authority gave none")
		}
		f, now := a.failures[host], time.Now()
		if f.since.IsZero() {
			f.since = now
		}
		f.err, f.last = err.Error(), now
		a.failures[host] = f
		a.log.Error("no certificate", "host", host, "error", err)
	case "cert_obtained":
		delete(a.failures, host)
		a.log.Info("certificate", "host", host)
	}
	return nil
}

// tell completes what is known of a host.
func (a *acme) tell(s *Host) {
	for _, c := range a.cache.AllMatchingCertificates(s.Name) {
		if slices.Contains(c.Names, s.Name) {
			s.NotAfter = c.Leaf.NotAfter
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, ok := a.failures[s.Name]; ok {
		s.Error, s.Since = f.err, f.since
	}
}

// below tells of the hosts below a wildcard that clients came for.
func (a *acme) below(wildcard string) []Host {
	zone, ok := strings.CutPrefix(wildcard, "*")
	if !ok {
		return nil
	}
	a.mu.Lock()
	var out []Host
	for h := range a.onlyAsked {
		if strings.HasSuffix(h, zone) {
			out = append(out, Host{Name: h, Source: FromACME})
		}
	}
	a.mu.Unlock()
	for i := range out {
		a.tell(&out[i])
	}
	return out
}

// command proves hosts by DNS.
type command []string

func (c command) Present(ctx context.Context, challenge acmedef.Challenge) error {
	return c.run(ctx, "set", challenge)
}

func (c command) CleanUp(ctx context.Context, challenge acmedef.Challenge) error {
	return c.run(context.WithoutCancel(ctx), "clear", challenge)
}

func (c command) run(ctx context.Context, verb string, challenge acmedef.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	name := challenge.DNS01TXTRecordName()
	cmd := exec.CommandContext(ctx, c[0], append(c[1:len(c):len(c)], verb, name, challenge.DNS01KeyAuthorization())...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s %s: %w: %s", strings.Join(c, " "), verb, name, err, out[:min(len(out), 1000)])
	}
	return nil
}

// toSlog writes certmagic's log to ours: what goes wrong, at debug, for event tells of it in our own words.
type toSlog struct{ log *slog.Logger }

func (toSlog) Enabled(l zapcore.Level) bool        { return l >= zapcore.WarnLevel }
func (t toSlog) With([]zapcore.Field) zapcore.Core { return t }
func (toSlog) Sync() error                         { return nil }
func (t toSlog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if t.Enabled(e.Level) {
		return c.AddCore(e, t)
	}
	return c
}

func (t toSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	t.log.Debug(e.Message, "certmagic", encoder.Fields)
	return nil
}
