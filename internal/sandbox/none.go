package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// None opens machines that isolate nothing: plain processes of this user, in a directory tree that goes with them.
type None struct {
	// Ladder is how a command is stopped; NewNone gives GitHub's.
	Ladder Ladder
	dir    string
}

// NewNone gives a provider whose machines have their files below dir, which is made when needed.
func NewNone(dir string) *None { return &None{Ladder: github, dir: dir} }

// mark is the environment variable by which the processes of a machine are known, like the runner's RUNNER_TRACKING_ID.
const mark = "PENSTOCK_MACHINE"

// Open implements Provider. Spec.From and Spec.Image are refused: there are no layers.
func (n *None) Open(ctx context.Context, spec Spec) (Sandbox, error) {
	m, err := n.open(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("open a machine for %s: %w", spec.Name, err)
	}
	return m, nil
}

func (n *None) open(ctx context.Context, spec Spec) (*bare, error) {
	if err := errors.Join(spec.check(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	if spec.From != "" {
		return nil, errors.New("this machine has no layers and can not begin with a snapshot")
	}
	if spec.Image.Ref != "" {
		return nil, fmt.Errorf("show %s: %w", spec.Image.Ref, ErrNoImages)
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(n.dir, "machine-")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	m := &bare{n: n, dir: dir, mark: mark + "=" + rand.Text()}
	m.close = sync.OnceValue(m.end)
	work := filepath.Join(dir, "work")
	m.info = Info{
		Provider: "none", Workspace: filepath.Join(work, spec.Repo, spec.Repo), Temp: filepath.Join(work, "_temp"),
		Files: filepath.Join(dir, "files"), ToolCache: filepath.Join(work, "_tool"), Home: filepath.Join(dir, "home"), Path: os.Getenv("PATH"),
		Notes: []string{"this machine is not isolated: the job's commands run as you, on your files and network"},
	}
	m.info.OS, m.info.Arch = osArch()
	for _, d := range []string{m.info.Workspace, m.info.Temp, m.info.Files, m.info.ToolCache, m.info.Home} {
		err = errors.Join(err, os.MkdirAll(d, 0o755))
	}
	if err == nil {
		m.files, err = os.OpenRoot(m.info.Files)
	}
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// bare is an open machine of None.
type bare struct {
	n     *None
	dir   string
	mark  string
	info  Info
	files *os.Root
	close func() error

	mu     sync.Mutex
	groups []int // process groups of commands
	closed bool
}

// Info implements Sandbox.
func (m *bare) Info() Info { return m.info }

// Files implements Direct.
func (m *bare) Files() *os.Root { return m.files }

func (m *bare) writeDirect(rel string, data []byte, mode os.FileMode) error {
	return writeDirect(m.files, rel, data, mode, func(*os.File) error { return nil })
}

// Close implements Sandbox.
func (m *bare) Close(context.Context) error { return m.close() }

func (m *bare) end() error {
	m.mu.Lock()
	m.closed = true
	groups := m.groups
	m.mu.Unlock()
	killMarked(groups, m.mark)
	if m.files != nil {
		m.files.Close()
	}
	var err error
	for range 3 { // what was killed may still be writing
		if err = layer.RemoveAll(m.dir); err == nil {
			return nil
		}
		killMarked(groups, m.mark)
	}
	return fmt.Errorf("close a machine: %w", err)
}

// Exec implements Sandbox.
func (m *bare) Exec(ctx context.Context, c Command) error {
	if len(c.Args) == 0 {
		return errors.New("run a command: no arguments")
	}
	if c.User != "" {
		return fmt.Errorf("run as %s: this machine's commands run as you", c.User)
	}
	if c.Dir == "" {
		c.Dir = m.info.Workspace
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err := m.exec(ctx, c)
	var exit *ExitError
	if err == nil || errors.As(err, &exit) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", c.Args[0], err)
}

func (m *bare) exec(ctx context.Context, c Command) error {
	name, err := lookPath(c)
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: name, Args: c.Args, Env: append(c.Env[:len(c.Env):len(c.Env)], m.mark), Dir: c.Dir, SysProcAttr: ownGroup(c.TTY)}
	if c.TTY {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	}
	flow, err := connect(cmd, c)
	if err != nil {
		return err
	}
	defer flow.close()
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errors.New("the machine is closed")
	}
	err = cmd.Start()
	if err == nil {
		m.groups = append(m.groups, cmd.Process.Pid)
	}
	m.mu.Unlock()
	if err != nil {
		if _, bad := os.Stat(c.Dir); bad != nil {
			return bad
		}
		return err
	}
	flow.start()
	ladder := m.n.Ladder
	if c.Stop != nil {
		ladder = *c.Stop
	}
	state := m.await(ctx, cmd, ladder)
	if err := flow.drain(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return state
}

// await waits for the end of a command and brings it about when ctx ends.
func (m *bare) await(ctx context.Context, cmd *exec.Cmd, ladder Ladder) error {
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }() // its state says all
	stop := ctx.Done()
	for _, rung := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, ladder.Interrupt}, {syscall.SIGTERM, ladder.Terminate}} {
		if rung.wait == 0 {
			continue
		}
		select {
		case <-done:
			return stateError(cmd.ProcessState)
		case <-stop:
		}
		_ = cmd.Process.Signal(rung.signal)
		waiting, cancel := context.WithTimeout(context.Background(), rung.wait)
		defer cancel()
		stop = waiting.Done()
	}
	select {
	case <-done:
	case <-stop:
		killMarked([]int{cmd.Process.Pid}, "")
		<-done
	}
	return stateError(cmd.ProcessState)
}

func stateError(state *os.ProcessState) error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return &ExitError{Code: 128 + int(status.Signal()), Signal: status.Signal().String()}
	case state.ExitCode() != 0:
		return &ExitError{Code: state.ExitCode()}
	}
	return nil
}

// lookPath finds a program in the PATH of the command's environment.
func lookPath(c Command) (string, error) {
	name := c.Args[0]
	if strings.ContainsRune(name, filepath.Separator) {
		return name, nil
	}
	var dirs string
	for _, kv := range c.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	for _, dir := range filepath.SplitList(dirs) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.Dir, dir)
		}
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return file, nil
		}
	}
	return "", &fs.PathError{Op: "exec", Path: name, Err: fs.ErrNotExist}
}

// Listen implements Networked: the loopback is this host's.
func (m *bare) Listen(ctx context.Context, port int) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// Put implements Sandbox.
func (m *bare) Put(_ context.Context, dir string, tar io.Reader) error {
	if err := agent.Unpack(dir, tar); err != nil {
		return fmt.Errorf("put files into %s: %w", dir, err)
	}
	return nil
}

// Get implements Sandbox.
func (m *bare) Get(_ context.Context, path string) (io.ReadCloser, error) {
	if _, err := os.Lstat(path); err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(agent.Pack(path, w)) }() // ends with the reader's Close at the latest
	return r, nil
}
