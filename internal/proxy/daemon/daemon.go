package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

// stopTime is how long what is under way may go on when the proxy is stopped, rather than replaced.
const stopTime = 10 * time.Second

// Start is how a process is begun.
type Start struct {
	Dir string
	// Replace takes the place of the process that serves the directory; without it, that there is one is ErrRunning.
	Replace bool
	// Ready, if it is not 0, is the number of a descriptor where a line tells when the process serves, or why it does not.
	Ready   int
	Version string // for people
}

// ErrRunning is returned by Run for a directory that another process serves.
var ErrRunning = errors.New("a proxy is running already")

// daemon is one process.
type daemon struct {
	conf    Config
	version string
	build   string
	began   time.Time
	log     *slog.Logger
	proxy   *proxy.Proxy
	series  *series.Series
	others  *others
	tls     *tlsauto.Manager // nil without ListenTLS
	stop    context.CancelFunc
	leaving atomic.Bool   // another process is about to be told that the place is its own
	handed  chan struct{} // closed when another process has taken over
	failed  chan error    // of a listener; has room for all

	// These belong to who holds turn.
	turn      chan struct{} // one place: whoever sets a table, or gives the proxy over
	lock      *os.File
	control   *net.UnixListener
	listeners map[string]*net.TCPListener // by what the settings call them
	handing   bool                        // another process is taking over: the table stays as it is

	mu      sync.Mutex
	table   proxy.Table
	labels  map[poolName]series.Labels // of table
	trouble []string                   // what is not as it should be, for people
}

type poolName struct{ route, pool string }

// Run is the process: it serves the directory's proxy until ctx ends, it is told to stop, or another process has taken its
// place and what was under way has ended. The error is why it does not serve; if it was to replace another process, that
// one goes on.
func Run(ctx context.Context, start Start) (err error) {
	dropInherited(start.Ready)
	ready := tellOnce(start.Ready)
	defer func() { ready(err) }()
	conf, err := readConfig(start.Dir)
	if err != nil {
		return err
	}
	if err := conf.check(); err != nil {
		return err
	}
	out, err := openLog(filepath.Join(conf.Dir, logFile), start.Ready != 0)
	if err != nil {
		return fmt.Errorf("proxy: open the log: %w", err)
	}
	access, err := openLog(filepath.Join(conf.Dir, accessFile), false)
	if err != nil {
		return fmt.Errorf("proxy: open the access log: %w", err)
	}
	key, err := stickyKey(conf.Dir)
	if err != nil {
		return err
	}
	program, err := Program()
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	build, err := buildID(program)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	log := slog.New(slog.NewJSONHandler(out, nil)).With("pid", os.Getpid())
	d := &daemon{
		conf: conf, version: start.Version, build: build, began: time.Now(), log: log,
		proxy: proxy.New(proxy.Options{
			Key: key, Log: log, AccessLog: access, Trusted: conf.Trusted,
			MaxBody: conf.Limits.MaxBody, MaxHeader: conf.Limits.MaxHeader, ResponseTimeout: conf.Limits.ResponseTimeout,
			PauseLimit: conf.Limits.PauseLimit, HeaderTimeout: conf.Limits.HeaderTimeout, StallTimeout: conf.Limits.StallTimeout,
			IdleTimeout: conf.Limits.IdleTimeout,
		}),
		others: newOthers(conf.Dir, log), stop: stop,
		handed: make(chan struct{}), failed: make(chan error, 2), turn: make(chan struct{}, 1),
		listeners: map[string]*net.TCPListener{},
	}
	d.series = series.New(d.labelsOf)
	if conf.ListenTLS != "" {
		d.tls, err = tlsauto.New(tlsauto.Options{Config: conf.TLS, Dir: filepath.Join(conf.Dir, tlsDir), Port: conf.tlsPort(), HTTP: conf.Listen != "", Log: log})
		if err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		defer d.tls.Close()
	}
	if err := d.run(ctx, start, ready); err != nil {
		log.Error("the proxy does not serve", "error", err)
		ready(err)
		// It may have taken connections already, if it failed to take over at the last moment.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		_ = d.proxy.Stop(ending)
		return err
	}
	return nil
}

func (d *daemon) run(ctx context.Context, start Start, ready func(error)) error {
	if err := d.acquire(ctx, start.Replace); err != nil {
		return err
	}
	// From here on the proxy is ours.
	if err := writePID(d.lock); err != nil {
		d.log.Warn("the lock file does not name this process", "error", err)
	}
	d.others.find()
	serving, unblock := context.WithCancel(context.WithoutCancel(ctx))
	defer unblock()
	server := d.serveControl(serving, d.control)
	d.log.Info("the proxy serves", "version", d.version, "build", d.build, "table", d.table.Version, "listeners", d.addresses())
	ready(nil)

	err := d.watch(ctx)
	unblock() // who waits asks again, and finds the process that has taken over
	_ = d.control.Close()
	for _, l := range d.listeners {
		_ = l.Close()
	}
	_ = d.lock.Close() // last: who has it next finds the addresses free; or it goes on with the process that has taken over
	limit := stopTime
	if d.isHanded() {
		limit = d.conf.drain()
	} else {
		ctx = context.WithoutCancel(ctx)
	}
	draining, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := d.proxy.Stop(draining); err != nil {
		d.log.Warn("what was under way was cut off", "error", err)
	}
	if d.isHanded() {
		d.others.leave(ctx)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = server.Shutdown(closing)
	d.log.Info("the proxy has ended", "handed_over", d.isHanded())
	return err
}

// acquire makes the directory this process': as its first, or in the place of another.
func (d *daemon) acquire(ctx context.Context, replace bool) error {
	for until := time.Now().Add(askTime); ; {
		lock, err := takeLock(d.conf.Dir)
		if err != nil {
			return err
		}
		if lock != nil {
			d.lock = lock
			return d.begin()
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(d.conf.Dir, controlSock), Net: "unix"})
		if err == nil {
			defer c.Close()
			if replace {
				return d.takeOver(ctx, c)
			}
			return fmt.Errorf("%w in %s (process %s); penstock proxy restart --dir %[2]s replaces it", ErrRunning, d.conf.Dir, holder(d.conf.Dir))
		}
		// Who was killed holds the lock a little longer than the socket.
		if time.Now().After(until) || ctx.Err() != nil {
			return fmt.Errorf("proxy: process %s has %s and does not answer; end it: %w", holder(d.conf.Dir), d.conf.Dir, err)
		}
		time.Sleep(retry)
	}
}

// begin listens and takes up the table that was kept, as the only process of the directory.
func (d *daemon) begin() error {
	if err := d.restore(); err != nil {
		d.say(err.Error())
	}
	if err := d.listen(); err != nil {
		return err
	}
	d.serve()
	var err error
	if d.control, err = listenSocket(filepath.Join(d.conf.Dir, controlSock)); err != nil {
		return fmt.Errorf("proxy: listen for control: %w", err)
	}
	return nil
}

// listen opens the listeners that the settings ask for and that are not there yet, and closes those they do not ask for.
func (d *daemon) listen() error {
	wanted := d.conf.listeners()
	for name, l := range d.listeners {
		if _, ok := wanted[name]; !ok {
			_ = l.Close()
			delete(d.listeners, name)
		}
	}
	for name, addr := range wanted {
		if d.listeners[name] != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		d.listeners[name] = l.(*net.TCPListener)
	}
	return nil
}

// serve begins to take connections. They end with the proxy.
func (d *daemon) serve() {
	for name, l := range d.listeners {
		go func() {
			var err error
			if strings.HasPrefix(name, "https ") {
				err = d.proxy.ServeTLS(context.Background(), l, d.tls.TLSConfig())
			} else {
				err = d.proxy.Serve(context.Background(), l)
			}
			if err != nil {
				d.failed <- fmt.Errorf("proxy: serve %s: %w", name, err)
			}
		}()
	}
}

// watch keeps the series until the process is to end. The error is of a listener that failed.
func (d *daemon) watch(ctx context.Context) error {
	record := time.NewTicker(series.Every)
	defer record.Stop()
	ask := time.NewTicker(pollOthers)
	defer ask.Stop()
	d.others.poll(ctx) // now, for this process may be replaced at once
	d.record()
	for {
		select {
		case <-record.C:
			d.record()
		case <-ask.C:
			d.others.poll(ctx)
		case <-ctx.Done():
			return nil
		case <-d.handed:
			return nil
		case err := <-d.failed:
			return err
		}
	}
}

// record adds what has been counted until now to the series.
func (d *daemon) record() { d.series.Record(time.Now(), d.stats()) }

// stats are the counts of this process and of those before it that finish what is under way.
func (d *daemon) stats() []proxy.PoolStats { return d.others.sum(d.proxy.Collect()) }

func (d *daemon) isHanded() bool {
	select {
	case <-d.handed:
		return true
	default:
		return false
	}
}

func (d *daemon) addresses() map[string]string {
	out := map[string]string{}
	for name, l := range d.listeners {
		scheme, _, _ := strings.Cut(name, " ")
		out[scheme] = l.Addr().String()
	}
	return out
}

func (d *daemon) say(trouble string) {
	d.log.Error(trouble)
	d.mu.Lock()
	d.trouble = append(d.trouble, trouble)
	d.mu.Unlock()
}

// labelsOf tells what the table says of a pool, or nothing if it is not in there.
func (d *daemon) labelsOf(route, pool string) series.Labels {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.labels[poolName{route, pool}]
}

// takeLock takes a directory for this process, or gives nil if another has it.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("proxy: lock %s: %w", f.Name(), err)
}

func writePID(lock *os.File) error {
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if _, err := lock.WriteAt([]byte(pid), 0); err != nil {
		return err
	}
	return lock.Truncate(int64(len(pid)))
}

// holder names the process that has a directory's lock, for people.
func holder(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, lockFile))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}

// stickyKey is the directory's key for sticky clients, made once.
func stickyKey(dir string) (uint64, error) {
	path := filepath.Join(dir, keyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key := rand.Uint64()
		if err := writeFile(path, fmt.Appendf(nil, "%016x\n", key)); err != nil {
			return 0, fmt.Errorf("proxy: keep the key of sticky clients: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return 0, fmt.Errorf("proxy: %w", err)
	}
	key, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("proxy: %s holds no key; remove it, and sticky clients get new places", path)
	}
	return key, nil
}

// told is the line that a starting process tells whoever started it.
type told struct {
	PID   int    `json:"pid"`
	Error string `json:"error,omitempty"`
}

// tellOnce gives a function that tells, the first time it is called, how the start went.
func tellOnce(fd int) func(error) {
	if fd == 0 {
		return func(error) {}
	}
	f := os.NewFile(uintptr(fd), "ready")
	unix.CloseOnExec(fd)
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			t := told{PID: os.Getpid()}
			if err != nil {
				t.Error = err.Error()
			}
			_ = json.NewEncoder(f).Encode(t) // who asked may be gone
			_ = f.Close()
		})
	}
}

// dropInherited closes what the process was started with beyond the standard three and one more: files of whoever started
// it, that would stay open as long as the proxy runs. All that Go opens itself is closed on exec.
func dropInherited(keep int) {
	d, err := os.Open("/dev/fd")
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 2 || fd == keep {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}
