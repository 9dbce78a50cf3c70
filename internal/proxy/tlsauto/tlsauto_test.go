package tlsauto

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
)

// dnsHelper makes the test program the DNS command: it tells the URL that follows.
const dnsHelper = "dns-command"

func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == dnsHelper {
		w, err := http.PostForm(os.Args[2], url.Values{"verb": {os.Args[3]}, "name": {os.Args[4]}, "value": {os.Args[5]}})
		if err != nil || w.StatusCode != http.StatusOK {
			fmt.Println("no DNS server", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var discard = slog.New(slog.DiscardHandler)

// server is a listener with a manager's certificates.
type server struct {
	*Manager
	addr string
}

func newServer(t *testing.T, o Options) *server {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		t.Fatal(err)
	}
	o.Log = discard
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) }),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	conf := m.TLSConfig()
	conf.NextProtos = append(conf.NextProtos, "http/1.1")
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(tls.NewListener(l, conf)) }()
	t.Cleanup(func() { _ = s.Close(); <-done; m.Close() })
	return &server{m, l.Addr().String()}
}

// handshake gives the certificate that a client sees of a host, which it trusts by roots.
func (s *server) handshake(host string, roots *x509.CertPool) (*x509.Certificate, error) {
	c, err := tls.Dial("tcp", s.addr, &tls.Config{ServerName: host, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func poolOf(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("%s holds no certificate", path)
	}
	return pool
}

func TestLocalAuthority(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, Options{Dir: dir})
	s.SetHosts([]string{"web.localhost", "*.Preview.test", "shop.example.com"})
	roots := poolOf(t, s.Root())
	for _, host := range []string{"web.localhost", "a.preview.test", "deep.a.preview.test", "shop.example.com"} {
		if _, err := s.handshake(host, roots); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"other.localhost", "preview.test", "example.com"} {
		if _, err := s.handshake(host, roots); err == nil {
			t.Errorf("%s has a certificate, and no route", host)
		}
	}
	// The same authority after a restart, and for an address when there is a route for every host.
	again := newServer(t, Options{Dir: dir})
	again.SetHosts([]string{""})
	for _, host := range []string{"anything.localhost", "127.0.0.1"} {
		if _, err := again.handshake(host, roots); err != nil {
			t.Errorf("%s after a restart: %v", host, err)
		}
	}
	for name, mode := range map[string]os.FileMode{rootKey: 0o600, rootFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, "ca", name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", name, info.Mode(), err, mode)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca", rootKey), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Dir: dir, Log: discard}); err == nil || !strings.Contains(err.Error(), "remove the directory") {
		t.Errorf("a key that can not be read: %v", err)
	}
}

func TestLeavesAreBounded(t *testing.T) {
	a, err := openAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxLeaves + 10 {
		if _, err := a.certificate(fmt.Sprintf("h%d.preview.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.leaves) > maxLeaves {
		t.Errorf("%d certificates are held, want at most %d", len(a.leaves), maxLeaves)
	}
}

// writePair writes a certificate of an authority for a host.
func writePair(t *testing.T, a *authority, dir, host string) Pair {
	t.Helper()
	c, err := a.certificate(host)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	p := Pair{filepath.Join(dir, host+".crt"), filepath.Join(dir, host+".key")}
	cert := bytes.Join([][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[1]}),
	}, nil)
	for path, b := range map[string][]byte{p.Certificate: cert, p.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	other, err := openAuthority(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	pair := writePair(t, other, dir, "shop.example.com")
	bad := Pair{filepath.Join(dir, "none.crt"), filepath.Join(dir, "none.key")}
	s := newServer(t, Options{Config: Config{Files: []Pair{bad, pair}}})
	s.SetHosts([]string{"shop.example.com", "web.localhost"})
	others := poolOf(t, filepath.Join(dir, "other", rootFile))
	first, err := s.handshake("shop.example.com", others)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.handshake("web.localhost", poolOf(t, s.Root())); err != nil {
		t.Errorf("a host beside the files: %v", err)
	}
	status := s.Status()
	if len(status) != 3 || status[0].Error == "" || status[1].Source != FromFile || !status[1].NotAfter.Equal(first.NotAfter) {
		t.Errorf("status %+v, want the bad file's error, then shop.example.com from a file", status)
	}
	// The file is replaced, as a renewal does.
	clear(other.leaves)
	writePair(t, other, dir, "shop.example.com")
	if err := os.Chtimes(pair.Certificate, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	s.files.mu.Lock()
	s.files.looked = time.Time{}
	s.files.mu.Unlock()
	second, err := s.handshake("shop.example.com", others)
	if err != nil || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Errorf("after the file changed: serial %v, %v; want another than %v", second.SerialNumber, err, first.SerialNumber)
	}
}

// pebble is an ACME authority for tests, with a DNS of its own where every name is this machine.
type pebble struct {
	directory string
	root      string // file
	issued    *x509.CertPool
	dns       *challtestsrv.ChallSrv
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startPebble starts the authority that go.mod names. It validates at these ports.
func startPebble(t *testing.T, httpPort, tlsPort int) *pebble {
	t.Helper()
	if testing.Short() {
		t.Skip("builds an ACME authority")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "pebble")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput(); err != nil {
		t.Fatalf("build pebble: %v\n%s", err, out)
	}
	own, err := openAuthority(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	pair := writePair(t, own, dir, "127.0.0.1")
	port, management, dnsPort := freePort(t), freePort(t), freePort(t)
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management),
		"certificate": pair.Certificate, "privateKey": pair.Key, "httpPort": httpPort, "tlsPort": tlsPort, "keyAlgorithm": "ecdsa",
		"retryAfter":      map[string]int{"authz": 1, "order": 1},
		"domainBlocklist": []string{"refused.example.com"},
		"profiles":        map[string]any{"default": map[string]any{"description": "default", "validityPeriod": 7776000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	confPath := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(confPath, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	dns, err := challtestsrv.New(challtestsrv.Config{DNSAddrs: []string{fmt.Sprintf("127.0.0.1:%d", dnsPort)}, Log: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)})
	if err != nil {
		t.Fatal(err)
	}
	dns.SetDefaultDNSIPv6("")
	go dns.Run()
	t.Cleanup(dns.Shutdown)
	cmd := exec.Command(program, "-config", confPath, "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dnsPort))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pebble:\n%s", out.Bytes())
		}
	})
	p := &pebble{directory: fmt.Sprintf("https://127.0.0.1:%d/dir", port), root: filepath.Join(dir, "ca", rootFile), dns: dns}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: poolOf(t, p.root)}}}
	var root []byte
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		w, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", management))
		if err == nil {
			root, err = io.ReadAll(w.Body)
			_ = w.Body.Close()
		}
		if err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("pebble does not answer: %v", err)
		}
	}
	p.issued = x509.NewCertPool()
	if !p.issued.AppendCertsFromPEM(root) {
		t.Fatalf("pebble's root is %q", root)
	}
	return p
}

// ready waits until each host that is not a wildcard has a certificate, or an error says why not.
func (s *server) ready(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(time.Minute); slices.ContainsFunc(s.Status(), func(h Host) bool {
		return h.Source == FromACME && h.NotAfter.IsZero() && h.Error == "" && !strings.HasPrefix(h.Name, "*.")
	}); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no answer of the authority: %+v", s.Status())
		}
	}
}

// TestACME: hosts of the table have certificates before the first client comes, those below a wildcard when it comes, and
// what is refused for one host leaves the others alone.
func TestACME(t *testing.T) {
	port := freePort(t)
	p := startPebble(t, freePort(t), port)
	s := newServer(t, Options{Port: port, Config: Config{ACME: &ACME{Directory: p.directory, Root: p.root, Email: "ops@example.com"}}})
	s.SetHosts([]string{"shop.example.com", "refused.example.com", "*.preview.example.com", "web.localhost"})
	s.ready(t)
	for host, roots := range map[string]*x509.CertPool{
		"shop.example.com": p.issued, "a.preview.example.com": p.issued, "web.localhost": poolOf(t, s.Root()),
	} {
		if _, err := s.handshake(host, roots); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"refused.example.com", "other.example.com"} {
		if _, err := s.handshake(host, p.issued); err == nil {
			t.Errorf("%s has a certificate", host)
		}
	}
	known := map[string]Host{}
	for _, h := range s.Status() {
		known[h.Name] = h
	}
	if h := known["refused.example.com"]; !strings.Contains(h.Error, "refused.example.com") || h.Since.IsZero() || !h.NotAfter.IsZero() {
		t.Errorf("status of what was refused: %+v", h)
	}
	if h := known["a.preview.example.com"]; h.NotAfter.IsZero() || h.Error != "" {
		t.Errorf("status below a wildcard: %+v", h)
	}
	// Another process has what is kept as soon as it has the table.
	next := newServer(t, Options{Dir: s.o.Dir, Config: s.o.Config})
	next.SetHosts([]string{"shop.example.com"})
	if _, err := next.handshake("shop.example.com", p.issued); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	s.SetHosts([]string{"web.localhost"})
	if _, err := s.handshake("shop.example.com", p.issued); err == nil {
		t.Error("a host that is gone has a certificate")
	}
}

// TestACMEByHTTP: where the authority can not reach the TLS listener, it is answered by HTTP.
func TestACMEByHTTP(t *testing.T) {
	front := httptest.NewServer(nil)
	t.Cleanup(front.Close)
	p := startPebble(t, front.Listener.Addr().(*net.TCPAddr).Port, freePort(t))
	s := newServer(t, Options{HTTP: true, Config: Config{ACME: &ACME{Directory: p.directory, Root: p.root}}})
	addr, hosts := s.Challenges([]string{"shop.example.com", "web.localhost"})
	if !slices.Equal(hosts, []string{"shop.example.com"}) {
		t.Errorf("hosts with challenges: %v", hosts)
	}
	front.Config.Handler = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", addr
		r.Out.Host = r.In.Host
	}}
	s.SetHosts([]string{"shop.example.com"})
	for until := time.Now().Add(time.Minute); s.Status()[0].NotAfter.IsZero(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no certificate: %+v", s.Status())
		}
	}
	if _, err := s.handshake("shop.example.com", p.issued); err != nil {
		t.Error(err)
	}
	res, err := http.Get("http://" + addr + ChallengePath + "/nothing")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotFound {
		t.Errorf("a challenge of nobody: %s", res.Status)
	}
}

// TestACMEDown: while the authority can not be reached other hosts are served, and the host says why it is not.
func TestACMEDown(t *testing.T) {
	down := fmt.Sprintf("https://127.0.0.1:%d/dir", freePort(t))
	s := newServer(t, Options{Config: Config{ACME: &ACME{Directory: down}}})
	s.SetHosts([]string{"shop.example.com", "web.localhost"})
	s.ready(t)
	if _, err := s.handshake("web.localhost", poolOf(t, s.Root())); err != nil {
		t.Error(err)
	}
	if _, err := s.handshake("shop.example.com", poolOf(t, s.Root())); err == nil {
		t.Error("a certificate of nobody")
	}
	if h := s.Status()[0]; h.Name != "shop.example.com" || !strings.Contains(h.Error, "connection refused") || h.Since.IsZero() {
		t.Errorf("status %+v", h)
	}
}

// TestACMEByDNS: a wildcard has a certificate of its own, proved by a command.
func TestACMEByDNS(t *testing.T) {
	p := startPebble(t, freePort(t), freePort(t))
	told := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("verb") == "set" {
			p.dns.AddDNSTXTRecord(r.FormValue("name")+".", r.FormValue("value"))
		} else {
			p.dns.DeleteDNSTXTRecord(r.FormValue("name") + ".")
		}
	}))
	t.Cleanup(told.Close)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, Options{Config: Config{ACME: &ACME{Directory: p.directory, Root: p.root, DNS: []string{program, dnsHelper, told.URL}}}})
	s.SetHosts([]string{"*.preview.example.com"})
	for until := time.Now().Add(time.Minute); s.Status()[0].NotAfter.IsZero(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no certificate: %+v", s.Status())
		}
	}
	for _, host := range []string{"a.preview.example.com", "b.preview.example.com"} {
		c, err := s.handshake(host, p.issued)
		if err != nil || c.DNSNames[0] != "*.preview.example.com" {
			t.Errorf("%s: %v, %v", host, c, err)
		}
	}
	if len(s.acme.onlyAsked) != 0 {
		t.Errorf("%v have certificates of their own", s.acme.onlyAsked)
	}
}
