package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
)

const (
	// startTime bounds how long a process may take until it serves.
	startTime = 40 * time.Second
	// absence bounds how long a question waits for a process that is not there, or just gives its place up.
	absence = 10 * time.Second
	// retry is the time between two tries.
	retry = 20 * time.Millisecond
)

// Client asks the process of a directory. It is safe for use by many goroutines, and goes on with the process that takes
// over.
type Client struct {
	conf Config
	http *http.Client
}

// Ensure gives a client of the proxy of a directory. If none runs, it starts one; if one runs that is another build of the
// program, or has other settings, a new one takes its place without a request being lost. The process runs on when this
// one ends. The error says why a process does not serve; one that served before goes on.
func Ensure(ctx context.Context, conf Config) (*Client, error) {
	if err := conf.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if err := os.Chmod(conf.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	program, err := conf.program()
	if err != nil {
		return nil, err
	}
	build, err := buildID(program)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	unlock, err := lockStart(ctx, conf.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := newClient(conf)
	undo, err := conf.write()
	if err != nil {
		return nil, err
	}
	status, err := c.Status(ctx)
	if err == nil && status.Build == build && status.Settings == conf.id() {
		return c, nil
	}
	if err := conf.start(ctx, err == nil); err != nil {
		if status.PID != 0 {
			undo()
		}
		return nil, err
	}
	return c, nil
}

// Open gives a client of a directory where a proxy runs or has run.
func Open(dir string) (*Client, error) {
	conf, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	return newClient(conf), nil
}

// Config is how the proxy is to run, as it was told last.
func (c *Client) Config() Config { return c.conf }

func newClient(conf Config) *Client {
	return &Client{conf: conf, http: socketClient(filepath.Join(conf.Dir, controlSock))}
}

// Keep looks after the proxy until ctx ends: when its process ends, it starts another. It returns nil if somebody stopped
// the proxy, for that was meant, and otherwise ctx's error.
func (c *Client) Keep(ctx context.Context, log *slog.Logger) error {
	wait := retry
	for ctx.Err() == nil {
		began := time.Now()
		err := call(ctx, c.http, http.MethodGet, "/wait", nil, nil)
		if _, missing := os.Stat(filepath.Join(c.conf.Dir, stoppedFile)); missing == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		if err == nil || errors.Is(err, errBusy) {
			wait = retry // somebody else took over, or will
		} else {
			log.Warn("the proxy's process is gone; another is started", "error", err)
			wait = waitAfter(wait, time.Since(began))
			if _, err := Ensure(ctx, c.conf); err != nil {
				log.Error("the proxy does not serve", "error", err)
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// longestWait is how long it takes at most until another process is started; one that has lived for as long did not fail at
// its start.
const longestWait = 10 * time.Second

// waitAfter is how long to leave the next process alone, after one that has lived for a while and the wait before that: for
// so long nobody looks whether it lives.
func waitAfter(wait, lived time.Duration) time.Duration {
	if lived >= longestWait {
		return retry
	}
	return min(2*wait, longestWait)
}

// Set puts a table in force. When it returns nil, the table is served and kept: the process that comes after a crash serves
// it too. ErrStale is of a table that is older than the one that is served.
func (c *Client) Set(ctx context.Context, t proxy.Table) error {
	return c.ask(ctx, http.MethodPut, "/table", t, nil)
}

// Status asks the process for itself, if there is one now.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	err = c.askWhile(ctx, between, http.MethodGet, "/status", nil, &s)
	if isGone(err) {
		err = fmt.Errorf("no proxy runs in %s", c.conf.Dir)
	}
	return s, err
}

// Stats gives what has been counted, over all processes since the last crash.
func (c *Client) Stats(ctx context.Context) (stats []proxy.PoolStats, err error) {
	err = c.ask(ctx, http.MethodGet, "/stats", nil, &stats)
	return stats, err
}

// Metrics gives all metrics in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	err := c.ask(ctx, http.MethodGet, "/metrics", nil, &b)
	return b.Bytes(), err
}

// Query is series.Series.Query, with what has been counted until now.
func (c *Client) Query(ctx context.Context, query string, at time.Time, scope series.Scope) (r series.Result, err error) {
	err = c.ask(ctx, http.MethodPost, "/query", queryRequest{query, at, scope}, &r)
	return r, err
}

// SuccessRate is series.Series.SuccessRate.
func (c *Client) SuccessRate(ctx context.Context, t series.Target, interval time.Duration, at time.Time) (percent float64, query string, err error) {
	return c.metric(ctx, "/success-rate", metricRequest{t, interval, at})
}

// Duration is series.Series.Duration.
func (c *Client) Duration(ctx context.Context, t series.Target, interval time.Duration, at time.Time) (p99 time.Duration, query string, err error) {
	ms, query, err := c.metric(ctx, "/duration", metricRequest{t, interval, at})
	return time.Duration(ms) * time.Millisecond, query, err
}

func (c *Client) metric(ctx context.Context, path string, q metricRequest) (float64, string, error) {
	var a metricAnswer
	err := c.ask(ctx, http.MethodPost, path, q, &a)
	switch {
	case err != nil:
	case a.Error != "":
		err = errors.New(a.Error)
	case a.None:
		err = series.ErrNoValues
	}
	return a.Value, a.Query, err
}

// Sample is series.Series.Sample, with what has been counted until now.
func (c *Client) Sample(ctx context.Context, from time.Time, pools ...series.Pool) (to time.Time, counts []series.Counts, err error) {
	var a sampleAnswer
	err = c.ask(ctx, http.MethodPost, "/sample", sampleRequest{from, pools}, &a)
	if err == nil && len(a.Counts) != len(pools) {
		err = errors.New("proxy: the answer is of other pools")
	}
	return a.To, a.Counts, err
}

// Range is series.Series.Range.
func (c *Client) Range(ctx context.Context, route string, from, to time.Time, step time.Duration) (charts []series.Chart, err error) {
	err = c.ask(ctx, http.MethodPost, "/range", rangeRequest{Route: route, From: from, To: to, Step: step}, &charts)
	return charts, err
}

// Drained waits until nothing is under way to an address that is in no table any more, in any process of the directory, or
// ctx ends.
func (c *Client) Drained(ctx context.Context, addr string) error {
	return c.ask(ctx, http.MethodPost, "/drained?addr="+url.QueryEscape(addr), nil, nil)
}

// Restart has a new process of this program take the place of the one that runs, without a request being lost.
func (c *Client) Restart(ctx context.Context) error {
	unlock, err := lockStart(ctx, c.conf.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = c.Status(ctx)
	return c.conf.start(ctx, err == nil)
}

// Stop ends the proxy: it takes no more connections, and what is under way has a few seconds. It returns when the process
// serves no more.
func (c *Client) Stop(ctx context.Context) error {
	err := call(ctx, c.http, http.MethodPost, "/stop", nil, nil)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for {
		lock, err := takeLock(c.conf.Dir)
		if err != nil {
			return err
		}
		if lock != nil {
			return lock.Close()
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask asks, and asks again while there is no process, or it gives its place up.
func (c *Client) ask(ctx context.Context, method, path string, in, out any) error {
	until := time.Now().Add(absence)
	return c.askWhile(ctx, func(err error) bool {
		return between(err) || isGone(err) && time.Now().Before(until)
	}, method, path, in, out)
}

// between says whether the error is of a process that gives its place up: its successor can be asked soon.
func between(err error) bool { return errors.Is(err, errBusy) || ended(err) }

func (c *Client) askWhile(ctx context.Context, again func(error) bool, method, path string, in, out any) error {
	for {
		err := call(ctx, c.http, method, path, in, out)
		if err == nil || ctx.Err() != nil || !again(err) {
			return err
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return fmt.Errorf("proxy: %w: %w", err, ctx.Err())
		}
	}
}

// ended says whether a process went away before it answered. All that is asked may be asked again.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// socketClient asks at a unix socket.
func socketClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		// A connection would outlive the process' place: each question finds who serves now.
		DisableKeepAlives: true,
	}}
}

// call asks one question.
func call(ctx context.Context, client *http.Client, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, body)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	w, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer w.Body.Close()
	if w.StatusCode != http.StatusOK {
		return failure(w)
	}
	if out == nil {
		return nil
	}
	if text, ok := out.(*bytes.Buffer); ok {
		_, err = text.ReadFrom(w.Body)
	} else {
		err = json.NewDecoder(w.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("proxy: read the answer: %w", err)
	}
	return nil
}

// failure is the error that an answer tells of.
func failure(w *http.Response) error {
	var p problem
	if err := json.NewDecoder(io.LimitReader(w.Body, 64<<10)).Decode(&p); err != nil || p.Error == "" {
		return fmt.Errorf("proxy: the answer was %s", w.Status)
	}
	if known := kinds[p.Kind]; known != nil {
		return &remoteError{p.Error, known}
	}
	return errors.New(p.Error)
}

// remoteError is an error as the process told it, of a kind that is known here.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// Program is a path of this program, for this process alone: it leads there also when the program's file was removed, or has
// another one in its place, as after an upgrade.
func Program() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// program is what Command starts.
func (c *Config) program() (string, error) {
	if len(c.Command) > 0 {
		return c.Command[0], nil
	}
	path, err := Program()
	if err != nil {
		return "", fmt.Errorf("proxy: %w", err)
	}
	return path, nil
}

// start starts a process that is nobody's child for long, and waits until it serves.
func (c *Config) start(ctx context.Context, replace bool) error {
	program, err := c.program()
	if err != nil {
		return err
	}
	command := c.Command
	if len(command) == 0 {
		command = []string{"penstock", "proxy", "run"}
	}
	if err := os.Remove(filepath.Join(c.Dir, stoppedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("proxy: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(c.Dir, logFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer out.Close()
	listen, say, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer listen.Close()
	defer say.Close()
	cmd := &exec.Cmd{
		Path: program, Args: append(slices.Clip(command), "--dir", c.Dir, "--ready-fd", "3"),
		Dir: "/", // no file system stays in use
		Env: environment(), Stdout: out, Stderr: out, ExtraFiles: []*os.File{say}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if replace {
		cmd.Args = append(cmd.Args, "--replace")
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("proxy: start %s: %w", program, err)
	}
	// It is reaped when it ends, which may be long after this process: then nobody needs to.
	go func() { _ = cmd.Wait() }()
	_ = say.Close()
	stop := context.AfterFunc(ctx, func() { _ = listen.SetReadDeadline(time.Now()) })
	defer stop()
	_ = listen.SetReadDeadline(time.Now().Add(startTime))
	var t told
	err = json.NewDecoder(listen).Decode(&t)
	switch {
	case err == nil && t.Error == "":
		return nil
	case err == nil:
		return errors.New(t.Error)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("proxy: the process ended before it served; %s says why", out.Name())
	default:
		_ = cmd.Process.Kill() // what it was to replace goes on
		return fmt.Errorf("proxy: the process does not serve: %w", errors.Join(err, ctx.Err()))
	}
}

// environment is what a process has of this one's: nothing that is a secret of somebody else's.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "PATH", "HOME", "USER", "TMPDIR", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GORACE", "GOCOVERDIR",
			"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy":
			env = append(env, v)
		}
	}
	return env
}

// lockStart makes those who would start a process take turns.
func lockStart(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, startFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("proxy: lock %s: %w", f.Name(), err)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("proxy: somebody else starts it: %w", ctx.Err())
		}
	}
}
