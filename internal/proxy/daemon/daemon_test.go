package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

// helper makes the test program a proxy's process.
const helper = "proxy-process"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helper {
		os.Exit(runHelper(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func runHelper(args []string) int {
	var start Start
	flags := flag.NewFlagSet(helper, flag.ContinueOnError)
	flags.StringVar(&start.Dir, "dir", "", "")
	flags.IntVar(&start.Ready, "ready-fd", 0, "")
	flags.BoolVar(&start.Replace, "replace", false, "")
	size := flags.Int64("most", 0, "how long files may become")
	crash := flags.Bool("crash", false, "end before it serves")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *size > 0 {
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: uint64(*size), Max: uint64(*size)}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return 2
		}
	}
	if *crash {
		time.AfterFunc(200*time.Millisecond, func() { os.Exit(3) })
		takeAndHang(start.Dir)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	start.Version = "test"
	if err := Run(ctx, start); err != nil {
		return 1
	}
	return 0
}

// takeAndHang begins to take over, and never serves.
func takeAndHang(dir string) {
	c, err := net.Dial("unix", filepath.Join(dir, controlSock))
	if err != nil {
		os.Exit(4)
	}
	fmt.Fprintf(c, "POST /handover HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n\r\n")
	_, _ = bufio.NewReader(c).ReadString('\n')
	_, _ = c.Write([]byte{sayGo})
	select {}
}

// newConfig is of a directory that is short enough for sockets. What runs there at the end of the test is ended.
func newConfig(t *testing.T) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range processes(dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, logFile))
			t.Logf("log:\n%s", b)
		}
		_ = os.RemoveAll(dir)
	})
	return Config{Dir: dir, Listen: "127.0.0.1:0", Command: []string{os.Args[0], helper}}
}

// processes are those that serve a directory, or drain.
func processes(dir string) []int {
	var pids []int
	if b, err := os.ReadFile(filepath.Join(dir, lockFile)); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			pids = append(pids, pid)
		}
	}
	socks, _ := filepath.Glob(filepath.Join(dir, drainSocks))
	for _, s := range socks {
		if pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(s), "drain-"), ".sock")); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func ensure(t *testing.T, conf Config) (*Client, Status) {
	t.Helper()
	c, err := Ensure(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

var discard = slog.New(slog.DiscardHandler)

const route = "acme/shop/production/web"

func tableOf(version int64, backends ...string) proxy.Table {
	p := proxy.Pool{Name: strconv.FormatInt(version, 10), Weight: 1, Labels: map[string]string{"side": series.SideOld}}
	for _, b := range backends {
		p.Backends = append(p.Backends, proxy.Backend{Addr: b})
	}
	return proxy.Table{Version: version, Routes: []proxy.Route{{Name: route, Pools: []proxy.Pool{p}}}}
}

func backend(t *testing.T, text string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func set(t *testing.T, c *Client, table proxy.Table) {
	t.Helper()
	if err := c.Set(t.Context(), table); err != nil {
		t.Fatal(err)
	}
}

// get asks once over a connection of its own.
func get(t *testing.T, addr string) string {
	t.Helper()
	c := &asker{addr: addr}
	defer c.close()
	text, err := c.ask()
	if err != nil {
		t.Fatalf("get %s: %v", addr, err)
	}
	return text
}

// asker is a client with one connection that it keeps, and that never tries again what failed.
type asker struct {
	addr string
	tls  *tls.Config // nil for HTTP in the clear
	conn net.Conn
	in   *bufio.Reader
}

func (a *asker) close() {
	if a.conn != nil {
		_ = a.conn.Close()
		a.conn = nil
	}
}

func (a *asker) ask() (string, error) {
	if a.conn == nil {
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			return "", err
		}
		if a.tls != nil {
			c = tls.Client(c, a.tls)
		}
		a.conn, a.in = c, bufio.NewReader(c)
	}
	if err := a.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(a.conn, "GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n"); err != nil {
		return "", err
	}
	w, err := http.ReadResponse(a.in, nil)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(w.Body)
	if err != nil {
		return "", err
	}
	if w.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", w.Status, b)
	}
	if w.Close {
		a.close()
	}
	return string(b), nil
}

// load asks with many connections until it is stopped, and counts.
type load struct {
	done     chan struct{}
	group    sync.WaitGroup
	answered atomic.Int64
	mu       sync.Mutex
	failures []error
}

func startLoad(addr string, connections int, conf *tls.Config) *load {
	l := &load{done: make(chan struct{})}
	for range connections {
		l.group.Go(func() {
			a := &asker{addr: addr, tls: conf}
			defer a.close()
			for {
				select {
				case <-l.done:
					return
				case <-time.After(5 * time.Millisecond): // bounded: at most 12,800 requests a second of 64 clients
				}
				if _, err := a.ask(); err != nil {
					l.mu.Lock()
					l.failures = append(l.failures, err)
					l.mu.Unlock()
					a.close()
					continue
				}
				l.answered.Add(1)
			}
		})
	}
	return l
}

// more waits until n more requests have been answered, or one has failed.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	until := l.answered.Load() + n
	eventually(t, "requests to be answered", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.answered.Load() >= until || len(l.failures) > 0
	})
}

func (l *load) stop() []error {
	close(l.done)
	l.group.Wait()
	return l.failures
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// otherBuild is a copy of the test program with another build id.
func otherBuild(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Skip("no ELF: ", err)
	}
	note := f.Section(".note.go.buildid")
	b[note.Offset+20] ^= 1
	path := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNoRequestIsLost: restarts and upgrades under load.
func TestNoRequestIsLost(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	conf := newConfig(t)
	c, first := ensure(t, conf)
	set(t, c, tableOf(1, backend(t, "one"), backend(t, "two")))
	l := startLoad(first.Listeners["http"], 64, nil)
	seen := map[int]bool{first.PID: true}
	for range rounds {
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.more(t, 200)
		s, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seen[s.PID] || s.Table != 1 || s.Listeners["http"] != first.Listeners["http"] {
			t.Fatalf("after a restart: %+v, at first %+v", s, first)
		}
		seen[s.PID] = true
	}
	builds := []Config{conf, conf}
	builds[0].Command = []string{otherBuild(t), helper}
	for i := range rounds {
		before, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, s := ensure(t, builds[i%2])
		if s.Build == before.Build || s.PID == before.PID || s.Table != 1 {
			t.Fatalf("after an upgrade: %+v, before %+v", s, before)
		}
		l.more(t, 200)
	}
	answered := l.answered.Load()
	if failures := l.stop(); len(failures) > 0 {
		t.Fatalf("%d of %d requests failed, the first: %v", len(failures), answered, failures[0])
	}
	// What was counted goes on through all of them.
	answered = l.answered.Load()
	eventually(t, "all requests to be counted", func() bool {
		stats, err := c.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(stats) > 0 && stats[len(stats)-1].Requests[2] == uint64(answered)
	})
	eventually(t, "all requests to be in the series", func() bool {
		d, err := c.Delta(t.Context(), route, "1", first.Began.Add(-time.Minute), time.Now())
		if err != nil || d.Errors != 0 || d.Requests > answered {
			t.Fatalf("the series have %d requests, %d errors (%v); want %d, 0", d.Requests, d.Errors, err, answered)
		}
		return d.Requests == answered
	})
	t.Logf("%d requests, none failed", answered)
}

// TestNoHandshakeIsLost: nor with TLS, where the certificates are those of the process before.
func TestNoHandshakeIsLost(t *testing.T) {
	conf := newConfig(t)
	conf.Listen, conf.ListenTLS = "", "127.0.0.1:0"
	c, s := ensure(t, conf)
	table := tableOf(1, backend(t, "one"))
	table.Routes[0].Hosts = []string{"web.localhost"}
	set(t, c, table)
	root, err := os.ReadFile(s.Root)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	l := startLoad(s.Listeners["https"], 16, &tls.Config{RootCAs: roots, ServerName: "web.localhost"})
	for range 5 {
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.more(t, 100)
	}
	answered := l.answered.Load()
	if failures := l.stop(); len(failures) > 0 {
		t.Fatalf("%d of %d requests failed, the first: %v", len(failures), answered, failures[0])
	}
	if s, err = c.Status(t.Context()); err != nil || len(s.TLS) != 1 || s.TLS[0].Source != tlsauto.FromLocal || s.TLS[0].NotAfter.IsZero() {
		t.Errorf("status %+v, %v; want the local certificate of web.localhost", s.TLS, err)
	}
}

func TestKilledProcessComesBack(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	set(t, c, tableOf(7, backend(t, "seven")))
	kill(t, s.PID)
	c, after := ensure(t, conf)
	if after.PID == s.PID || after.Table != 7 {
		t.Fatalf("after a kill: %+v", after)
	}
	if got := get(t, after.Listeners["http"]); got != "seven" {
		t.Errorf("got %q", got)
	}
	if err := c.Set(t.Context(), tableOf(6)); !errors.Is(err, ErrStale) {
		t.Errorf("an older table: %v, want ErrStale", err)
	}
	set(t, c, tableOf(8, backend(t, "eight")))
	if got := get(t, after.Listeners["http"]); got != "eight" {
		t.Errorf("got %q", got)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	conf := newConfig(t)
	_, s := ensure(t, conf)
	err := Run(t.Context(), Start{Dir: conf.Dir})
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), strconv.Itoa(s.PID)) {
		t.Errorf("a second process: %v, want ErrRunning with the first's number", err)
	}
	if _, again := ensure(t, conf); again.PID != s.PID {
		t.Errorf("process %d serves, want %d still", again.PID, s.PID)
	}
}

// TestNewProcessDies: before it serves; the old one goes on, and can be replaced later.
func TestNewProcessDies(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	set(t, c, tableOf(1, backend(t, "one")))
	l := startLoad(s.Listeners["http"], 8, nil)
	bad := conf
	bad.Command = []string{os.Args[0], helper, "--crash"}
	bad.Drain = time.Minute // other settings
	if _, err := Ensure(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "before it served") {
		t.Errorf("a process that crashes: %v", err)
	}
	set(t, c, tableOf(2, backend(t, "two")))
	l.more(t, 100)
	taken := conf
	taken.Listen = s.Listeners["http"]
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken.ListenTLS = other.Addr().String()
	if _, err := Ensure(t.Context(), taken); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("an address that is taken: %v", err)
	}
	after, err := c.Status(t.Context())
	if err != nil || after.PID != s.PID || after.Table != 2 {
		t.Errorf("%+v, %v; want process %d with table 2", after, err, s.PID)
	}
	if _, again := ensure(t, conf); again.PID != s.PID {
		t.Errorf("process %d serves by the old settings, want %d", again.PID, s.PID)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if failures := l.stop(); len(failures) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(failures), failures[0])
	}
}

func TestFullDisk(t *testing.T) {
	conf := newConfig(t)
	conf.Command = append(conf.Command, "--most", "20000")
	c, s := ensure(t, conf)
	set(t, c, tableOf(1, backend(t, "one")))
	big := tableOf(2, backend(t, "two"))
	big.Routes[0].Hosts = []string{}
	for i := range 2000 {
		big.Routes[0].Hosts = append(big.Routes[0].Hosts, fmt.Sprintf("host-%d.example.com", i))
	}
	err := c.Set(t.Context(), big)
	if err == nil || !strings.Contains(err.Error(), "table 2 can not be kept, so table 1 is served on") {
		t.Errorf("a table that does not fit: %v", err)
	}
	if got := get(t, s.Listeners["http"]); got != "one" {
		t.Errorf("got %q, want the old table's answer", got)
	}
	set(t, c, tableOf(3, backend(t, "three")))
	if got := get(t, s.Listeners["http"]); got != "three" {
		t.Errorf("got %q", got)
	}
}

func TestStop(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	kept := make(chan error, 1)
	waiting := make(chan struct{})
	go func() { close(waiting); kept <- c.Keep(t.Context(), discard) }()
	<-waiting
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", s.Listeners["http"]); err == nil {
		t.Error("a proxy that was stopped takes connections")
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("a proxy that was stopped answers")
	}
}

func TestBadTableOfBefore(t *testing.T) {
	conf := newConfig(t)
	if err := os.WriteFile(filepath.Join(conf.Dir, tableFile), []byte(`{"version": 3, "routes": [`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, s := ensure(t, conf)
	if len(s.Trouble) != 1 || !strings.Contains(s.Trouble[0], "can not be served") {
		t.Errorf("status %+v, want what is wrong with the table", s)
	}
	set(t, c, tableOf(1, backend(t, "one")))
	if s, err := c.Status(t.Context()); err != nil || len(s.Trouble) != 0 {
		t.Errorf("status %+v, %v; want no trouble", s, err)
	}
}

// TestTablesReachThoseThatDrain: a client that kept its connection to the old process is led by the new table.
func TestTablesReachThoseThatDrain(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	one := backend(t, "one")
	set(t, c, tableOf(1, one))
	kept := &asker{addr: s.Listeners["http"]}
	defer kept.close()
	if _, err := kept.ask(); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	set(t, c, tableOf(2, backend(t, "two")))
	if err := c.Drained(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if got, err := kept.ask(); err != nil || got != "two" {
		t.Errorf("over the old process: %q, %v; want two", got, err)
	}
}

// TestDrainedWaitsForThoseThatDrain: a request that the old process carries keeps its backend.
func TestDrainedWaitsForThoseThatDrain(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	asked, goOn := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-goOn
		_, _ = io.WriteString(w, "slow")
	}))
	t.Cleanup(slow.Close)
	set(t, c, tableOf(1, slow.Listener.Addr().String()))
	answered := make(chan string, 1)
	go func() {
		a := &asker{addr: s.Listeners["http"]}
		defer a.close()
		text, err := a.ask()
		answered <- fmt.Sprint(text, err)
	}()
	<-asked
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	set(t, c, tableOf(2, backend(t, "two")))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Drained(ctx, slow.Listener.Addr().String()); err == nil {
		t.Error("drained while a request is under way")
	}
	close(goOn)
	if got := <-answered; got != "slow<nil>" {
		t.Errorf("the request under way: %s", got)
	}
	if err := c.Drained(t.Context(), slow.Listener.Addr().String()); err != nil {
		t.Error(err)
	}
}
