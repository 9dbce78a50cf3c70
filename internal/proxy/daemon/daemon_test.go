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
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

// helper makes the test program a proxy's process.
const helper = "proxy-process"

// starterHelper makes it one that starts a proxy in the directory that follows, askerHelper one that asks at a socket.
const (
	starterHelper = "proxy-starter"
	askerHelper   = "proxy-asker"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helper {
		os.Exit(runHelper(os.Args[2:]))
	}
	if len(os.Args) == 3 && os.Args[1] == starterHelper {
		if _, err := unix.FcntlInt(3, unix.F_SETFD, 0); err != nil { // what a careless parent leaves open
			os.Exit(2)
		}
		if _, err := Ensure(context.Background(), Config{Dir: os.Args[2], Listen: "127.0.0.1:0", Command: []string{os.Args[0], helper}}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("serving")
		select {}
	}
	if len(os.Args) == 3 && os.Args[1] == askerHelper {
		var s Status
		if err := call(context.Background(), socketClient(os.Args[2]), http.MethodGet, "/status", nil, &s); err == nil || isGone(err) {
			fmt.Println("answered", s, err)
		} else {
			fmt.Println("refused")
		}
		os.Exit(0)
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
		_, all, err := c.Sample(t.Context(), first.Began.Add(-time.Minute), series.Pool{Route: route, Pool: "1"})
		if err != nil {
			t.Fatal(err)
		}
		d := all[0]
		if d.Errors != 0 || d.Requests > answered {
			t.Fatalf("the series have %d requests, %d errors; want %d, 0", d.Requests, d.Errors, answered)
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

// TestTablesDuringRestarts: what was acknowledged is served, whoever serves.
func TestTablesDuringRestarts(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	one, two := backend(t, "odd"), backend(t, "even")
	done := make(chan struct{})
	var version atomic.Int64
	go func() {
		defer close(done)
		for range 5 {
			if err := c.Restart(t.Context()); err != nil {
				t.Errorf("restart: %v", err)
				return
			}
		}
	}()
	for restarting := true; restarting; {
		select {
		case <-done:
			restarting = false
		default:
		}
		v := version.Add(1)
		set(t, c, tableOf(v, []string{two, one}[v%2]))
		if got := get(t, s.Listeners["http"]); got != []string{"even", "odd"}[v%2] {
			t.Fatalf("table %d is acknowledged, and %q answers", v, got)
		}
	}
	if s, err := c.Status(t.Context()); err != nil || s.Table != version.Load() {
		t.Errorf("table %d is served, %v; want %d", s.Table, err, version.Load())
	}
	t.Logf("%d tables", version.Load())
}

// TestKeep: the proxy comes back when its process is killed, and not when it was stopped.
func TestKeep(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	set(t, c, tableOf(1, backend(t, "one")))
	kept := make(chan error, 1)
	go func() { kept <- c.Keep(t.Context(), discard) }()
	for range 3 {
		kill(t, s.PID)
		eventually(t, "another process", func() bool {
			now, err := c.Status(t.Context())
			if err != nil || now.PID == s.PID {
				return false
			}
			s = now
			return true
		})
		if s.Table != 1 || get(t, s.Listeners["http"]) != "one" {
			t.Fatalf("after a kill: %+v", s)
		}
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-kept; err != nil {
		t.Errorf("Keep of a proxy that was stopped: %v, want nil", err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no proxy runs") {
		t.Errorf("status: %v", err)
	}
}

// TestStarterIsKilled: with everything that it had open; the proxy has none of it, and serves on.
func TestStarterIsKilled(t *testing.T) {
	conf := newConfig(t)
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	starter := exec.Command(os.Args[0], starterHelper, conf.Dir)
	starter.ExtraFiles = []*os.File{write} // which stays open in whatever inherits it
	told, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	if line, err := bufio.NewReader(told).ReadString('\n'); err != nil || line != "serving\n" {
		t.Fatalf("the starter says %q, %v", line, err)
	}
	kill(t, starter.Process.Pid)
	_ = starter.Wait()
	if b, err := io.ReadAll(read); err != nil || len(b) > 0 {
		t.Errorf("read %q, %v", b, err)
	}
	c, err := Open(conf.Dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	set(t, c, tableOf(1, backend(t, "one")))
	if got := get(t, s.Listeners["http"]); got != "one" {
		t.Errorf("got %q", got)
	}
	if session, err := unix.Getsid(s.PID); err != nil || session != s.PID {
		t.Errorf("session %d, %v; want its own, %d", session, err, s.PID)
	}
}

// TestOtherUsers may not speak to the process, even where the directory lets them in.
func TestOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becomes another user")
	}
	conf := newConfig(t)
	c, _ := ensure(t, conf)
	if err := errors.Join(os.Chmod(conf.Dir, 0o755), os.Chmod(filepath.Join(conf.Dir, controlSock), 0o666)); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(conf.Dir, "asker")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	asker := exec.Command(program, askerHelper, filepath.Join(conf.Dir, controlSock))
	asker.Dir = "/"
	asker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := asker.CombinedOutput(); err != nil || string(out) != "refused\n" {
		t.Errorf("another user: %q, %v; want to be refused", out, err)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMeasures: what is asked of the series by the socket.
func TestMeasures(t *testing.T) {
	conf := newConfig(t)
	c, s := ensure(t, conf)
	one := backend(t, "one")
	table := tableOf(1, one)
	table.Routes[0].Pools[0].Labels = map[string]string{"side": series.SideNew, "release": "12"}
	set(t, c, table)
	from := time.Now()
	for range 20 {
		get(t, s.Listeners["http"])
	}
	scope := series.Scope{Repository: "acme/shop", Environment: "production"}
	eventually(t, "the requests in the series", func() bool {
		_, d, err := c.Sample(t.Context(), from.Add(-time.Minute), series.Pool{Route: route, Pool: "1"})
		if err != nil {
			t.Fatal(err)
		}
		return d[0].Requests == 20
	})
	target := series.Target{Scope: scope, Service: "web", Side: series.SideNew}
	if rate, query, err := c.SuccessRate(t.Context(), target, time.Minute, time.Now()); err != nil || rate != 100 || query == "" {
		t.Errorf("success rate %v, %q, %v; want 100", rate, query, err)
	}
	if _, _, err := c.Duration(t.Context(), target, time.Minute, time.Now()); err != nil {
		t.Errorf("duration: %v", err)
	}
	target.Side = series.SideOld
	if _, query, err := c.Duration(t.Context(), target, time.Minute, time.Now()); !errors.Is(err, series.ErrNoValues) || query == "" {
		t.Errorf("duration of what is not there: %q, %v; want ErrNoValues", query, err)
	}
	r, err := c.Query(t.Context(), `sum by (destination_version) (istio_requests_total{destination_workload="web"})`, time.Now(), scope)
	if err != nil || len(r.Series) != 1 || r.Series[0].Metric["destination_version"] != "12" || r.Series[0].Points[0].Value != 20 {
		t.Errorf("query: %+v, %v", r, err)
	}
	if _, err := c.Query(t.Context(), `sum(`, time.Now(), scope); err == nil || !strings.Contains(err.Error(), "parse error") {
		t.Errorf("a query that can not be read: %v", err)
	}
	text, err := c.Metrics(t.Context())
	if err != nil || !strings.Contains(string(text), `penstock_proxy_requests_total{route="acme/shop/production/web",pool="1",release="12",service="web",environment="production",repository="acme/shop",side="new",code="200"} 20`) ||
		!strings.Contains(string(text), "penstock_proxy_requests_in_flight{") {
		t.Errorf("metrics: %v\n%s", err, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(bytes.NewReader(text)); err != nil {
		t.Errorf("metrics can not be read: %v", err)
	}
	charts, err := c.Range(t.Context(), route, from.Add(-time.Minute), time.Now().Add(10*time.Second), 10*time.Second)
	if err != nil || len(charts) == 0 {
		t.Errorf("charts: %+v, %v", charts, err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x0b{\"pid\": 12}"))
	f.Add([]byte("\xff\xff\xff\xff{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		conns := [2]*net.UnixConn{}
		for i, fd := range pair {
			file := os.NewFile(uintptr(fd), "pair")
			c, err := net.FileConn(file)
			_ = file.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns[i] = c.(*net.UnixConn)
		}
		go func() { _, _ = conns[0].Write(b); _ = conns[0].Close() }()
		var left estate
		if files, err := receiveFrame(conns[1], &left); err == nil && (len(b) < 6 || len(files) > 0) {
			t.Errorf("%q was read as %+v", b, left)
		}
	})
}

// TestChallenges: what an authority asks to prove a host is answered here, also after another process has taken over; all else leads
// to the host's backends.
func TestChallenges(t *testing.T) {
	conf := newConfig(t)
	conf.ListenTLS = "127.0.0.1:0"
	conf.TLS.ACME = &tlsauto.ACME{Directory: "https://127.0.0.1:1/dir"}
	c, s := ensure(t, conf)
	table := tableOf(1, backend(t, "one"))
	table.Routes[0].Hosts = []string{"shop.example.com", "web.localhost"}
	set(t, c, table)
	for _, process := range []string{"the first", "the second"} {
		for url, want := range map[string]int{
			"shop.example.com/.well-known/acme-challenge/token": http.StatusNotFound, "shop.example.com/": http.StatusOK,
			"web.localhost/.well-known/acme-challenge/token": http.StatusOK,
		} {
			host, path, _ := strings.Cut(url, "/")
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Listeners["http"]+"/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host, req.Close = host, true
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s process, %s: %s, want %d", process, url, res.Status, want)
			}
		}
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := c.Status(t.Context()); err != nil || s.Routes != 1 {
		t.Errorf("status %+v, %v; want one route, which was set", s, err)
	}
}

// TestWaitAfter: a process that fails at its start is tried less and less often, and one that is killed now and then is
// looked after at once, however often that was.
func TestWaitAfter(t *testing.T) {
	wait := retry
	for range 20 {
		wait = waitAfter(wait, time.Millisecond)
	}
	if wait != longestWait {
		t.Errorf("after many that failed at once: %s, want %s", wait, longestWait)
	}
	if wait = waitAfter(wait, time.Minute); wait != retry {
		t.Errorf("after one that has lived: %s, want %s", wait, retry)
	}
}
