package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

const (
	// proxyHelper as the first argument makes this program one of the processes that are measured: the name of which
	// follows, and what it needs.
	proxyHelper = "measure-proxies"

	proxyConns = 64     // at once
	proxyIdle  = 10_000 // connections that are kept open
)

// proxyHelpers are the processes by name. All print the address that they listen at, or what they measured.
var proxyHelpers = map[string]func(ctx context.Context, args []string) error{
	"backend": serveBackend, "ours": serveOurs, "reverseproxy": serveReverseProxy, "load": loadAtRate, "idle": holdIdle,
}

// carrier is a proxy that is measured.
type carrier struct {
	name string
	addr string
	pids []int // its processes
	stop func()
}

// measureProxy: what a request costs through our proxy - split between two pools, counted, and logged - beside nginx and
// a bare ReverseProxy with a tuned transport, all before the same backend. Load comes from wrk, and at a rate from a
// process of our own.
func measureProxy(ctx context.Context, b *bench) error {
	for _, need := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(need); err != nil {
			fmt.Fprintf(os.Stderr, "proxy: not measured without %s\n", need)
			return nil
		}
	}
	backend, err := b.startHelper(ctx, "backend")
	if err != nil {
		return err
	}
	defer backend.stop()
	ours, err := b.startHelper(ctx, "ours", backend.addr, filepath.Join(b.dir, "access.log"))
	if err != nil {
		return err
	}
	defer ours.stop()
	bare, err := b.startHelper(ctx, "reverseproxy", backend.addr)
	if err != nil {
		return err
	}
	defer bare.stop()
	nginx, err := b.startNginx(ctx, backend.addr)
	if err != nil {
		return err
	}
	defer nginx.stop()

	carriers := []*carrier{ours, bare, nginx}
	costs, peaks, err := b.costs(ctx, carriers)
	if err != nil {
		return err
	}
	micros := func(v float64) string { return fmt.Sprintf("%.1f µs", v) }
	for i, limit := range []float64{0, 0.5, 0} {
		if i == 0 {
			continue
		}
		target, met := "not held to one", true
		if limit > 0 {
			target, met = fmt.Sprintf("at most %gx", limit), costs[0] <= limit*costs[i]
		}
		b.rows = append(b.rows, row{"CPU of a request through the proxy, split, counted and logged", micros(costs[0]), carriers[i].name + " " + micros(costs[i]), fmt.Sprintf("%.2fx", costs[0]/costs[i]), target, met})
	}
	b.rows = append(b.rows, row{"requests per second, as many as go", fmt.Sprintf("%.0f", peaks[0]), fmt.Sprintf("reverseproxy %.0f, nginx %.0f", peaks[1], peaks[2]), fmt.Sprintf("%.2fx nginx", peaks[0]/peaks[2]), "not held to one", true})

	late, err := b.late(ctx, carriers, peaks[2]/2)
	if err != nil {
		return err
	}
	b.within(fmt.Sprintf("p99 at half of nginx's peak, %.0f requests per second", peaks[2]/2), sample{wall: late[0]}, sample{wall: late[2]}, "nginx", 1.5)
	return b.idleConns(ctx, ours)
}

// costs gives the medians of the processor time of a request, in microseconds, and of the requests per second.
func (b *bench) costs(ctx context.Context, carriers []*carrier) (costs, peaks []float64, err error) {
	all := make([][2][]float64, len(carriers))
	for round := range b.runs + 1 {
		for i, c := range carriers {
			before, err := c.ticks()
			if err != nil {
				return nil, nil, err
			}
			out, err := output(ctx, "wrk", "-t1", "-c"+strconv.Itoa(proxyConns), "-d"+strconv.Itoa(b.size(4, 1))+"s", "http://"+c.addr+"/some/path?with=query")
			if err != nil {
				return nil, nil, err
			}
			after, err := c.ticks()
			if err != nil {
				return nil, nil, err
			}
			requests := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out)
			rate := regexp.MustCompile(`Requests/sec:\s+([\d.]+)`).FindStringSubmatch(out)
			if requests == nil || rate == nil || strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
				return nil, nil, fmt.Errorf("%s: wrk says\n%s", c.name, out)
			}
			n, _ := strconv.ParseFloat(requests[1], 64)
			perSecond, _ := strconv.ParseFloat(rate[1], 64)
			if round > 0 {
				all[i][0] = append(all[i][0], float64(after-before)*10_000/n)
				all[i][1] = append(all[i][1], perSecond)
			}
		}
	}
	for i := range all {
		for j := range all[i] {
			slices.Sort(all[i][j])
		}
		costs = append(costs, all[i][0][b.runs/2])
		peaks = append(peaks, all[i][1][b.runs/2])
	}
	return costs, peaks, nil
}

// late gives the medians of the 99th percentile of the time from when a request was due to the end of its answer.
func (b *bench) late(ctx context.Context, carriers []*carrier, rate float64) ([]time.Duration, error) {
	all := make([][]time.Duration, len(carriers))
	for round := range b.runs + 1 {
		for i, c := range carriers {
			out, err := b.runHelper(ctx, "load", c.addr, strconv.Itoa(int(rate)), strconv.Itoa(b.size(4, 1)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			p99, err := time.ParseDuration(out)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				all[i] = append(all[i], p99)
			}
		}
	}
	var medians []time.Duration
	for _, times := range all {
		slices.Sort(times)
		medians = append(medians, times[len(times)/2])
	}
	return medians, nil
}

// idleConns looks at what many connections cost that do nothing.
func (b *bench) idleConns(ctx context.Context, ours *carrier) error {
	n := b.size(proxyIdle, 100)
	holder, err := b.startHelper(ctx, "idle", ours.addr, strconv.Itoa(n))
	if err != nil {
		return err
	}
	defer holder.stop()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", ours.pids[0]))
	if err != nil {
		return err
	}
	resident := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(text)
	if resident == nil {
		return errors.New("the system does not say what the proxy has in memory")
	}
	kib, _ := strconv.Atoi(string(resident[1]))
	const limit = 150
	b.rows = append(b.rows, row{fmt.Sprintf("memory of the proxy with %d idle connections, after the above", n), fmt.Sprintf("%d MB", kib/1024), "", fmt.Sprintf("%.2f of the limit", float64(kib)/1024/limit), "under 150 MB", kib/1024 < limit})
	return nil
}

// ticks is the processor time of all processes, in hundredths of a second.
func (c *carrier) ticks() (sum int, err error) {
	for _, pid := range c.pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		sum += user + system
	}
	return sum, nil
}

func (b *bench) helper(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{proxyHelper, name}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

func (b *bench) runHelper(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := b.helper(ctx, name, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// startHelper starts a process and waits for the first line that it prints.
func (b *bench) startHelper(ctx context.Context, name string, args ...string) (*carrier, error) {
	cmd, err := b.helper(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return nil, fmt.Errorf("%s does not come up: %w", name, err)
	}
	return &carrier{name, strings.TrimSpace(line), []int{cmd.Process.Pid}, stop}, nil
}

// startNginx starts nginx with connections to the backend kept open, and as many workers as there are processors.
func (b *bench) startNginx(ctx context.Context, backend string) (*carrier, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	_ = l.Close()
	dir := filepath.Join(b.dir, "nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	keepalive_requests 1000000000;
	upstream backend { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
	server {
		listen %[3]s;
		location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }
	}
}
`, dir, backend, addr)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nginx", "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Since(began) > 10*time.Second {
			stop()
			return nil, fmt.Errorf("nginx does not come up: see %s", dir)
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		stop()
		return nil, err
	}
	c := &carrier{"nginx", addr, []int{cmd.Process.Pid}, stop}
	for _, pid := range strings.Fields(string(children)) {
		n, _ := strconv.Atoi(pid)
		c.pids = append(c.pids, n)
	}
	return c, nil
}

// listenAndTell listens on loopback until ctx ends, and prints where.
func listenAndTell(ctx context.Context) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		context.AfterFunc(ctx, func() { _ = l.Close() })
		fmt.Println(l.Addr())
	}
	return l, err
}

// serveBackend answers every GET alike, at as little cost as can be.
func serveBackend(ctx context.Context, _ []string) error {
	l, err := listenAndTell(ctx)
	if err != nil {
		return err
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 128\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n" + strings.Repeat("x", 128))
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for r := bufio.NewReader(c); ; {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}
		}()
	}
}

// serveOurs is the proxy with two pools before a backend, and an access log.
func serveOurs(ctx context.Context, args []string) error {
	log, err := os.Create(args[1])
	if err != nil {
		return err
	}
	p := proxy.New(proxy.Options{Key: 1, AccessLog: log})
	backends := []proxy.Backend{{Addr: args[0]}}
	if err := p.Set(proxy.Table{Routes: []proxy.Route{{
		Name:  "bench/production/web",
		Pools: []proxy.Pool{{Name: "old", Weight: 90, Backends: backends}, {Name: "new", Weight: 10, Backends: backends}},
	}}}); err != nil {
		return err
	}
	l, err := listenAndTell(ctx)
	if err != nil {
		return err
	}
	return p.Serve(ctx, l)
}

// serveReverseProxy is net/http's proxy with nothing more than what makes it fast.
func serveReverseProxy(ctx context.Context, args []string) error {
	l, err := listenAndTell(ctx)
	if err != nil {
		return err
	}
	target := &url.URL{Scheme: "http", Host: args[0]}
	var pool bufferPool
	return http.Serve(l, &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		Transport:  &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, DisableCompression: true},
		BufferPool: &pool,
	})
}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }

// loadAtRate makes so many requests per second over proxyConns connections, each connection at its own times, and prints
// the 99th percentile of the time from when a request was due to its answer, so that nobody gains by being slow.
func loadAtRate(_ context.Context, args []string) error {
	rate, _ := strconv.Atoi(args[1])
	seconds, _ := strconv.Atoi(args[2])
	every := time.Second * proxyConns / time.Duration(rate)
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var mu sync.Mutex
	var times []time.Duration
	var failed atomic.Value
	var all sync.WaitGroup
	for range proxyConns {
		all.Go(func() {
			c, err := net.Dial("tcp", args[0])
			if err != nil {
				failed.Store(err)
				return
			}
			defer c.Close()
			var mine []time.Duration
			r := bufio.NewReader(c)
			for due := time.Now().Add(rand.N(every)); due.Before(end); due = due.Add(every) {
				time.Sleep(time.Until(due))
				if err := getOnce(c, r); err != nil {
					failed.Store(err)
					return
				}
				mine = append(mine, time.Since(due))
			}
			mu.Lock()
			times = append(times, mine...)
			mu.Unlock()
		})
	}
	all.Wait()
	if err, ok := failed.Load().(error); ok {
		return err
	}
	slices.Sort(times)
	fmt.Println(times[len(times)*99/100])
	return nil
}

// getOnce makes a request, at as little cost as can be: the processors are the proxies' too.
func getOnce(c net.Conn, r *bufio.Reader) error {
	if _, err := io.WriteString(c, "GET /some/path HTTP/1.1\r\nHost: bench.localhost\r\n\r\n"); err != nil {
		return err
	}
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("got %q", line)
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if length < 0 {
		return errors.New("got an answer without a length")
	}
	_, err := r.Discard(length)
	return err
}

// holdIdle makes a request over each of so many connections, and keeps them all open.
func holdIdle(ctx context.Context, args []string) error {
	n, _ := strconv.Atoi(args[1])
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		if err := getOnce(c, bufio.NewReader(c)); err != nil {
			return err
		}
		conns[i] = c
	}
	fmt.Println(n)
	<-ctx.Done()
	return nil
}
