package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// Exec implements Sandbox. Docker starts processes in a container but can neither signal nor tell them apart, so a command
// is started by the image's shell, which says its process id and becomes the command. In an image without a shell, output
// of a common writer may change its order, and a command is stopped from this host or, if that can not be, with its
// container. Docker does not say that a signal ended a command: exit codes that mean so are taken for it. Command.Offline
// is not heeded: a container has the network that it began with.
func (c *dockerContainer) Exec(ctx context.Context, cmd Command) error {
	if len(cmd.Args) == 0 {
		return errors.New("run a command: no arguments")
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if cmd.Dir == "" {
		cmd.Dir = c.home
	}
	err := c.exec(ctx, cmd)
	var exit *ExitError
	if err == nil || errors.As(err, &exit) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", cmd.Args[0], err)
}

func (c *dockerContainer) exec(ctx context.Context, cmd Command) error {
	if err := c.alive(); err != nil {
		return err
	}
	e := newDockerExec(c, cmd)
	background := context.WithoutCancel(ctx) // what is begun is ended by the ladder
	if err := e.start(background); err != nil {
		return e.refused(background, err.Error())
	}
	code, err := e.await(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case e.head.missing():
		return &fs.PathError{Op: "exec", Path: cmd.Args[0], Err: fs.ErrNotExist}
	case e.head.failure() != "" && (code == 126 || code == 127):
		return e.refused(background, e.head.failure())
	}
	if err := errors.Join(e.out.err, e.errs.err); err != nil {
		return err
	}
	return exitOf(code)
}

// refused makes an error of what the daemon says when it could not start a command.
func (e *dockerExec) refused(ctx context.Context, text string) error {
	_, err := e.c.d.api.ContainerStatPath(ctx, e.c.name, client.ContainerStatPathOptions{Path: e.cmd.Dir})
	if errdefs.IsNotFound(err) && e.c.alive() == nil {
		return &fs.PathError{Op: "chdir", Path: e.cmd.Dir, Err: fs.ErrNotExist}
	}
	if !e.c.image.shell && (strings.Contains(text, "executable file not found") || strings.Contains(text, "no such file or directory")) {
		return &fs.PathError{Op: "exec", Path: e.cmd.Args[0], Err: fs.ErrNotExist}
	}
	return errors.New(strings.TrimSpace(text))
}

// fatal are the signals that end a command by mistake or by force, by what Docker makes of them. Other codes above 128
// are as likely a command's own.
var fatal = map[int]string{
	132: "illegal instruction", 134: "aborted", 135: "bus error", 136: "floating point exception", 137: "killed",
	139: "segmentation fault", 143: "terminated",
}

func exitOf(code int) error {
	if code == 0 {
		return nil
	}
	return &ExitError{Code: code, Signal: fatal[code]}
}

// dockerExec is one command on its way.
type dockerExec struct {
	c    *dockerContainer
	cmd  Command
	id   string // at the daemon
	conn client.HijackedResponse
	head *opening
	held *held
	out  keeper
	errs keeper
	done chan error // gives how the copying of output went
}

// keeper passes output on until that fails, then drops it, so that the command goes on.
type keeper struct {
	to  io.Writer
	err error
}

func (k *keeper) Write(p []byte) (int, error) {
	if k.err == nil && k.to != nil {
		_, k.err = k.to.Write(p)
	}
	return len(p), nil
}

func newDockerExec(c *dockerContainer, cmd Command) *dockerExec {
	e := &dockerExec{c: c, cmd: cmd, done: make(chan error, 1), out: keeper{to: cmd.Stdout}, errs: keeper{to: cmd.Stderr}}
	e.head = &opening{to: &e.out, started: make(chan struct{})}
	if c.image.shell {
		e.head.nonce = rand.Text() + " "
	} else {
		close(e.head.started)
	}
	return e
}

func (e *dockerExec) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	o := client.ExecCreateOptions{
		User: e.cmd.User, TTY: e.cmd.TTY, AttachStdin: e.cmd.Stdin != nil, AttachStdout: true, AttachStderr: true,
		Env: append(e.c.image.unset(e.cmd.Env), e.cmd.Env...), WorkingDir: e.cmd.Dir, Cmd: e.cmd.Args,
	}
	if o.User == "" {
		o.User = "0"
	}
	if e.head.nonce != "" {
		w := wrap(e.cmd, e.head.nonce)
		o.Cmd, o.Env = w.args, append(o.Env, w.env...)
	}
	created, err := e.c.d.api.ExecCreate(ctx, e.c.name, o)
	if err != nil {
		return err
	}
	e.id = created.ID
	attached, err := e.c.d.api.ExecAttach(ctx, e.id, client.ExecAttachOptions{TTY: e.cmd.TTY})
	if err != nil {
		return err
	}
	e.conn = attached.HijackedResponse
	e.held = &held{conn: e.conn.Conn, from: e.conn.Reader, wait: heldWait, bytes: heldBytes}
	go func() {
		var err error
		if e.cmd.TTY {
			_, err = io.Copy(e.head, e.held)
		} else {
			_, err = stdcopy.StdCopy(e.head, &e.errs, e.held)
		}
		e.done <- err
	}()
	return nil
}

// feed passes input on. It ends with the connection or with the caller's reader, whose end nobody can bring about.
func (e *dockerExec) feed() {
	if e.cmd.Stdin == nil {
		return
	}
	go func() {
		_, _ = io.Copy(e.conn.Conn, e.cmd.Stdin)
		_ = e.conn.CloseWrite()
	}()
}

// await waits for a command's end and its output, and brings the end about when ctx ends.
func (e *dockerExec) await(ctx context.Context) (code int, err error) {
	background := context.WithoutCancel(ctx)
	if e.cmd.TTY {
		defer e.followSize(background)()
	}
	var (
		copied         = e.done
		started        = e.head.started
		climb          = e.climb()
		stop           = ctx.Done()
		rung           *time.Timer
		pause          = 100 * time.Millisecond
		poll           = time.NewTimer(pause)
		exited, silent bool
	)
	defer poll.Stop()
	defer func() {
		e.conn.Close()
		if !silent {
			<-copied
		}
	}()
	for !exited || !silent {
		select {
		case <-started:
			started = nil
			e.feed()
		case err := <-copied:
			copied, silent = nil, true
			if err != nil && !exited {
				return 0, fmt.Errorf("read output: %w", err)
			}
			pause = 2 * time.Millisecond
			poll.Reset(0)
		case <-poll.C:
			got, err := e.c.d.api.ExecInspect(background, e.id, client.ExecInspectOptions{})
			if err != nil {
				return 0, err
			}
			if !got.Running {
				exited, code = true, got.ExitCode
				e.held.end()
				continue
			}
			pause = min(pause*3/2, time.Second)
			poll.Reset(pause)
		case <-stop:
			next, ok := climb(background)
			if !ok {
				return 0, errors.New("it could not be stopped")
			}
			rung = time.NewTimer(next)
			defer rung.Stop()
			stop = nil
		case <-tick(rung):
			next, ok := climb(background)
			if !ok {
				return 0, errors.New("it could not be stopped")
			}
			rung.Reset(next)
		}
	}
	return code, nil
}

func tick(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

// climb gives a function that does what comes next of the ladder and says how long to wait then, or that nothing is left.
// A rung without time is left out: the next signal would overtake it.
func (e *dockerExec) climb() func(context.Context) (time.Duration, bool) {
	ladder := e.c.d.Ladder
	if e.cmd.Stop != nil {
		ladder = *e.cmd.Stop
	}
	rungs := []struct {
		signal string
		wait   time.Duration
	}{{"INT", ladder.Interrupt}, {"TERM", ladder.Terminate}, {"KILL", dockerPatience}}
	return func(ctx context.Context) (time.Duration, bool) {
		for len(rungs) > 0 {
			rung := rungs[0]
			rungs = rungs[1:]
			if rung.wait > 0 {
				e.signal(ctx, rung.signal)
				return rung.wait, true
			}
		}
		return 0, false
	}
}

// signal sends a signal to the command; KILL goes to its descendants too. It does what it can: the next rung follows.
func (e *dockerExec) signal(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, dockerPatience)
	defer cancel()
	err := errors.New("no process is known")
	if pid := e.head.process(); pid != "" {
		err = e.c.shell(ctx, signalScript, name, pid)
	}
	if err == nil {
		return
	}
	got, err := e.c.d.api.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
	if err == nil && (!got.Running || e.c.here && killHere(got.ContainerID, got.PID, name)) {
		return
	}
	if name == "KILL" { // there is no finer way
		_, _ = e.c.d.api.ContainerKill(ctx, e.c.name, client.ContainerKillOptions{Signal: "KILL"})
	}
}

// signalScript sends signal $1 to process $2. KILL goes to all in its session and below any of those, until no new one turns up.
const signalScript = `[ "$1" = KILL ] || { kill -"$1" "$2"; exit 0; }
root=$2 before=
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
	all=" $root " grew=1
	while [ "$grew" ]; do
		grew=
		for f in /proc/[0-9]*/stat; do
			{ read -r line <"$f"; } 2>/dev/null || continue
			pid=${line%% *}
			case $all in *" $pid "*) continue ;; esac
			set -- ${line##*) }
			case $1 in Z | X) continue ;; esac
			case $all in *" $2 "*) ;; *) [ "$4" = "$root" ] || continue ;; esac
			all="$all$pid " grew=1
		done
	done
	kill -KILL $all
	for pid in $all; do
		case $before in *" $pid "*) ;; *) before=" $pid $before" grew=1 ;; esac
	done
	[ "$grew" ] || exit 0
done 2>/dev/null
exit 0`

// shell runs a script of ours in the container, as root.
func (c *dockerContainer) shell(ctx context.Context, script string, args ...string) error {
	if !c.image.shell {
		return errors.New("the image has no shell")
	}
	created, err := c.d.api.ExecCreate(ctx, c.name, client.ExecCreateOptions{
		User: "0", AttachStdout: true, AttachStderr: true, WorkingDir: "/", Cmd: append([]string{"/bin/sh", "-c", script, "sh"}, args...),
	})
	if err != nil {
		return err
	}
	attached, err := c.d.api.ExecAttach(ctx, created.ID, client.ExecAttachOptions{})
	if err != nil {
		return err
	}
	defer attached.Close()
	defer context.AfterFunc(ctx, attached.Close)()
	if _, err := stdcopy.StdCopy(io.Discard, io.Discard, attached.Reader); err != nil {
		return err
	}
	got, err := c.d.api.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	if err == nil && got.ExitCode != 0 {
		err = fmt.Errorf("exit code %d", got.ExitCode)
	}
	return err
}

// opening takes the first line of a command's output, in which our part of it says what has become of it.
type opening struct {
	to      io.Writer
	nonce   string        // what the line begins with; empty if there is none
	started chan struct{} // closed with the first output, or at once if there is no line

	buf    []byte
	told   bool
	absent bool
	pid    atomic.Pointer[string]
}

// maxOpening is how much of a daemon's message is enough.
const maxOpening = 8 << 10

func (o *opening) Write(p []byte) (int, error) {
	if o.told {
		return o.to.Write(p)
	}
	if len(o.buf) < maxOpening {
		o.buf = append(o.buf, p...) // all of it: output may follow our line in one piece
	}
	if o.nonce == "" {
		return o.to.Write(p)
	}
	line, rest, found := bytes.Cut(o.buf, []byte("\n"))
	text, ours := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\r")), []byte(o.nonce))
	if !found || !ours {
		return len(p), nil
	}
	o.told = true
	o.buf = nil
	if string(text) == "missing" {
		o.absent = true
		return len(p), nil
	}
	pid := string(text)
	o.pid.Store(&pid)
	close(o.started)
	if len(rest) > 0 {
		_, _ = o.to.Write(rest)
	}
	return len(p), nil
}

// missing and failure are for when the output has ended.
func (o *opening) missing() bool { return o.absent }

// failure is what the daemon wrote in place of the command, as far as can be told.
func (o *opening) failure() string {
	if o.told || o.nonce == "" && !bytes.HasPrefix(o.buf, []byte("OCI runtime")) {
		return ""
	}
	return string(o.buf)
}

// process is the command's id inside, once it is known.
func (o *opening) process() string {
	if p := o.pid.Load(); p != nil {
		return *p
	}
	return ""
}

// held reads a command's output. Once the command has ended it reads what is still on its way and no more: descendants
// that keep the output open may go on writing. How long that takes is seen by the waiting alone, so that a slow writer
// loses nothing.
type held struct {
	conn  interface{ SetReadDeadline(time.Time) error }
	from  io.Reader
	over  atomic.Bool
	wait  time.Duration // left
	bytes int           // left
}

const (
	// heldIdle and heldWait are how long is waited after the end for the next of the output, and for all of it. Docker
	// itself cuts off after two or three seconds.
	heldIdle = 2 * time.Second
	heldWait = 5 * time.Second
	// heldBytes bounds what is read after the end: more than fits into all the pipes on the way.
	heldBytes = 64 << 20
)

func (h *held) end() {
	h.over.Store(true)
	_ = h.conn.SetReadDeadline(time.Now().Add(heldIdle))
}

func (h *held) Read(p []byte) (int, error) {
	if !h.over.Load() {
		n, err := h.from.Read(p)
		return n, h.ended(err)
	}
	if h.wait <= 0 || h.bytes <= 0 {
		return 0, io.EOF
	}
	begin := time.Now()
	_ = h.conn.SetReadDeadline(begin.Add(min(heldIdle, h.wait)))
	n, err := h.from.Read(p)
	h.wait -= time.Since(begin)
	h.bytes -= n
	return n, h.ended(err)
}

func (h *held) ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return io.EOF
	}
	return err
}
