package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// The files of an instance's directory, besides its logs.
const (
	specFile      = "instance.json" // what it is; written once
	stateFile     = "state.json"    // what its keeper said last
	lockFile      = "lock"          // is locked as long as the keeper lives, and holds its process id
	dialSocket    = "dial.sock"
	controlSocket = "control.sock"
)

// instanceSpec is what an instance is. It is stored: it holds no secrets.
type instanceSpec struct {
	Release     cd.ReleaseID `json:"release"`
	Service     string       `json:"service"`
	Index       int          `json:"index"`
	Repository  string       `json:"repository"`
	Environment string       `json:"environment"`
	Program     program      `json:"program"`
	Plain       bool         `json:"plain,omitempty"` // it runs in machines that are not isolated
	Listen      netip.Addr   `json:"listen,omitzero"` // where other machines reach it; invalid if they do not
	LogFile     int64        `json:"log_file"`        // bytes
	Restarts    int          `json:"restarts"`        // of keepers before this one
	Boot        string       `json:"boot,omitempty"`  // of the machine, when it began
}

// setup is the first that a keeper reads from its standard input: where its machines are. One is set.
type setup struct {
	Layers string `json:"layers,omitempty"` // the store that isolated machines use
	Plain  string `json:"plain,omitempty"`  // the directory of those that are not
}

// orders are the second, which may come much later: what to keep. Secrets are nowhere but here, and in the keeper's memory.
type orders struct {
	Spec    instanceSpec      `json:"spec"`
	Secrets map[string]string `json:"secrets,omitempty"`
}

// phase is what a keeper's program is doing.
type phase string

const (
	opening  phase = "opening" // its machine is being made
	running  phase = "running"
	pausing  phase = "pausing"  // it has ended, and will be started again
	stopping phase = "stopping" // it was asked to end
	ended    phase = "ended"    // it has, because it was asked to
)

// status is what a keeper tells.
type status struct {
	Phase    phase     `json:"phase"`
	Start    int       `json:"start"` // counts the starts of the program, from 1
	Began    time.Time `json:"began"` // of this start
	Restarts int       `json:"restarts"`
	Reason   string    `json:"reason,omitempty"` // how it ended, or the start before
	// Port is where the program listens on this host's loopback, where the machine has no network of its own; else 0.
	Port int `json:"port,omitempty"`
	// Gate is where other machines reach it, host:port, if they do and it runs; else where they did last.
	Gate string `json:"gate,omitempty"`
	// Note is what the target has asked to be kept for this start: see noted.
	Note *noted `json:"note,omitempty"`
}

// noted is what a target remembers of an instance in its keeper's memory, for the target that takes over from it.
type noted struct {
	Start  int      `json:"start"`
	State  cd.State `json:"state"`
	Well   bool     `json:"well,omitempty"` // it has been
	Reason string   `json:"reason,omitempty"`
}

const (
	firstPause = time.Second
	lastPause  = time.Minute
	longRun    = time.Minute
)

// pauses are those before a program that has ended is started again: they double. After a long run it is started at once, and they
// begin anew.
type pauses struct{ last time.Duration }

func (p *pauses) next(ran time.Duration) time.Duration {
	if ran > longRun {
		p.last = 0
	} else {
		p.last = min(max(2*p.last, firstPause), lastPause)
	}
	return p.last
}

// keeper is the process that runs one instance. It is apart from the server, so that the instance outlives it; the machine
// and all that runs in it end with the keeper.
type keeper struct {
	dir      string
	spec     instanceSpec
	secrets  map[string]string
	provider sandbox.Provider
	log      *log
	stop     context.CancelFunc // ends the program, in time
	gatePort int                // of the gate that was opened last

	mu      sync.Mutex
	halting bool // nothing is started any more
	status  status
	end     context.CancelCauseFunc // ends this start of the program
	stand   *stand                  // nil while nothing runs
	changed chan struct{}           // closed when status changes
}

// Keep is the main function of `penstock instance DIR`, which a target starts: it runs the instance of a directory until
// it is told to stop, and gives the exit code. The directory's lock comes as file 3, a setup and orders as standard input; a
// line on standard output says that it listens.
func Keep(dir string, stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // its starter may go
	if err := keep(dir, stdin, stdout); err != nil {
		fmt.Fprintf(stderr, "penstock: keep the instance of %s: %v\n", dir, err)
		return 1
	}
	return 0
}

// lockFd is where a keeper finds its lock.
const lockFd = 3

func keep(dir string, stdin io.Reader, stdout io.Writer) error {
	syscall.CloseOnExec(lockFd)
	lock := os.NewFile(lockFd, lockFile)
	if lock == nil || syscall.Flock(lockFd, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return errors.New("this command is started by a server, which hands it a lock")
	}
	defer lock.Close()
	if _, err := lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return err
	}
	k := &keeper{dir: dir, changed: make(chan struct{})}
	in := json.NewDecoder(stdin)
	var with setup
	if err := in.Decode(&with); err != nil {
		return fmt.Errorf("read where machines are: %w", err)
	}
	prepared := make(chan error, 1)
	var closeProvider func()
	go func() { // most of the work is done before there are orders
		var err error
		closeProvider, err = k.open(with)
		prepared <- err
	}()
	var o orders
	if err := in.Decode(&o); err != nil {
		if bad := <-prepared; bad == nil {
			closeProvider()
		}
		if err == io.EOF { // its starter has gone, or has no need of it
			return nil
		}
		return fmt.Errorf("read orders: %w", err)
	}
	k.spec, k.secrets = o.Spec, o.Secrets
	var before status // of a keeper that was killed
	if readJSON(filepath.Join(dir, stateFile), &before) == nil {
		k.gatePort = portOf(before.Gate)
	}
	k.status = status{Phase: opening, Start: 1, Began: time.Now(), Restarts: k.spec.Restarts}
	return k.run(stdout, func() (func(), error) { err := <-prepared; return closeProvider, err })
}

func (k *keeper) run(ready io.Writer, prepared func() (func(), error)) (err error) {
	if k.log, err = openLog(k.dir, k.spec.LogFile, k.secrets); err != nil {
		return err
	}
	defer k.log.close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, k.stop = context.WithCancel(ctx)
	defer k.stop()
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		k.halting = true
		k.mu.Unlock()
		k.set(func(*status) {})
	})
	serving, err := k.serve()
	if err != nil {
		return err
	}
	defer serving.close()
	if _, err := fmt.Fprintln(ready, "ready"); err != nil {
		return err
	}
	closeProvider, err := prepared()
	if err != nil {
		return err
	}
	defer closeProvider()
	k.runForEver(ctx)
	k.set(func(s *status) { s.Phase = ended })
	return nil
}

// open prepares for machines.
func (k *keeper) open(with setup) (func(), error) {
	if with.Plain != "" {
		k.provider = sandbox.NewNone(with.Plain)
		return func() {}, nil
	}
	layers, err := layer.Open(with.Layers)
	if err != nil {
		return nil, err
	}
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		layers.Close()
		return nil, err
	}
	k.provider = host
	return func() { host.Close(); layers.Close() }, nil
}

// set changes the status, and tells whoever waits for that.
func (k *keeper) set(change func(*status)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.status)
	if k.halting && k.status.Phase != ended {
		k.status.Phase = stopping
	}
	close(k.changed)
	k.changed = make(chan struct{})
	stored := k.status
	stored.Note = nil
	_ = writeJSON(filepath.Join(k.dir, stateFile), stored) // for when the keeper has gone; a full disk is no reason to stop
}

// now gives the status, and what is closed when it is another.
func (k *keeper) now() (status, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status, k.changed
}

// runForEver runs the program again and again, until ctx ends.
func (k *keeper) runForEver(ctx context.Context) {
	var before pauses
	for {
		began := time.Now()
		running, end := context.WithCancelCause(ctx)
		k.mu.Lock()
		k.end = end
		k.mu.Unlock()
		err := k.runOnce(running)
		if ctx.Err() != nil {
			end(nil)
			return
		}
		if ill := context.Cause(running); ill != nil {
			err = ill
		}
		end(nil)
		reason, pause := k.why(err), before.next(time.Since(began))
		when := "in " + pause.String()
		if pause == 0 {
			when = "at once"
		}
		k.log.say("%s; it is started again %s", strings.TrimSuffix(strings.SplitN(reason, "\n", 2)[0], ":"), when)
		k.set(func(s *status) { s.Phase, s.Reason = pausing, reason })
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		k.set(func(s *status) { // why it ended is told still: the pause may be too short to be heard of
			*s = status{Phase: opening, Start: s.Start + 1, Began: time.Now(), Restarts: s.Restarts + 1, Gate: s.Gate, Reason: reason}
		})
	}
}

// errIll is why a program is ended that runs and is ill.
type errIll struct{ error }

// restart ends a start of the program, if it still runs; then it is started again as after any end.
func (k *keeper) restart(start int, reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.status.Start == start && k.end != nil {
		k.end(errIll{errors.New(reason)})
	}
}

// runOnce runs the program to its end in a machine of its own.
func (k *keeper) runOnce(ctx context.Context) error {
	args, err := k.spec.Program.command()
	if err != nil {
		return err
	}
	s, err := openStand(ctx, k.provider, &k.spec.Program, hostName(k.spec.Service, k.spec.Index))
	if err != nil {
		return err
	}
	port, free := k.spec.Program.Revision.Port, 0
	if !s.isolated && port != 0 {
		if port, err = freePort(); err != nil {
			return errors.Join(err, s.close())
		}
		free = port
	}
	env := s.environ(k.secrets, port)
	if !s.isolated {
		env = append(env, mark(k.dir))
	}
	gate, addr, err := k.openGate(s, port)
	if err != nil {
		return errors.Join(err, s.close())
	}
	k.mu.Lock()
	k.stand = s
	k.mu.Unlock()
	k.set(func(s *status) { s.Phase, s.Port, s.Gate, s.Began = running, free, addr, time.Now() })
	err = s.exec(ctx, args, env, k.log)
	if gate != nil {
		gate.close()
	}
	k.log.end()
	k.mu.Lock()
	k.stand = nil
	k.mu.Unlock()
	return errors.Join(err, s.close())
}

// why says how the program ended, with the last that it wrote.
func (k *keeper) why(err error) string {
	var exit *sandbox.ExitError
	var ill errIll
	reason := ""
	switch {
	case errors.As(err, &ill):
		reason = "ended because it was ill: " + k.log.hide.Replace(err.Error())
	case err == nil:
		reason = "ended with exit code 0"
	case errors.As(err, &exit) && exit.Signal == "":
		reason = fmt.Sprintf("ended with exit code %d", exit.Code)
	case errors.As(err, &exit):
		reason = fmt.Sprintf("ended by signal: %s", exit.Signal)
		if limit := k.spec.Program.Revision.Memory; exit.Code == 128+int(syscall.SIGKILL) && limit > 0 {
			reason += fmt.Sprintf(": it may use %s of memory", bytesText(limit))
		}
	default:
		reason = "could not be run: " + k.log.hide.Replace(err.Error())
	}
	if lines := k.log.tail(); len(lines) > 0 {
		reason += ":\n" + strings.Join(lines, "\n")
	}
	return clip(reason, maxReason)
}

// maxReason bounds a reason, bytes.
const maxReason = 4 << 10

// clip shortens a text in its middle, at most to n bytes and a mark.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n/4], "") + "\n...\n" + strings.ToValidUTF8(text[len(text)-n*3/4:], "")
}

// bytesText is a size as people write it.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

// The ports of programs without a network of their own: below those that systems give to outgoing connections, which would
// take one before the program listens.
const (
	lowestPort  = 20_000
	highestPort = 32_000
)

// freePort gives a port of this host's loopback that nothing listens on.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := lowestPort + mathrand.IntN(highestPort-lowestPort)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// maxFile bounds the files of an instance that are read, bytes.
const maxFile = 16 << 20

func readJSON(name string, v any) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// writeJSON writes a file, whole or not at all.
func writeJSON(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		os.Remove(name + ".new")
		return err
	}
	return os.Rename(name+".new", name)
}
