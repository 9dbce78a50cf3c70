package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// dockerLocal is a machine whose daemon runs on this host for this host's root: its volumes and its network are at hand.
type dockerLocal struct {
	*dockerMachine
	files    *os.Root
	uid, gid int // of root inside, as seen from here
	space    *os.File

	mu        sync.Mutex
	ended     bool
	listeners []net.Listener
}

// local gives the machine with what only such a daemon allows, if it is one: a file that is written to where the daemon
// says the volume is, is seen inside.
func (m *dockerMachine) local(ctx context.Context) (Sandbox, error) {
	got, err := m.d.api.ContainerInspect(ctx, m.name, client.ContainerInspectOptions{})
	if err != nil {
		return nil, err
	}
	l := &dockerLocal{dockerMachine: m}
	for _, v := range got.Container.Mounts {
		if v.Destination == dockerFiles && !m.d.remote {
			l.openFiles(v.Source)
		}
	}
	if l.files == nil || got.Container.State == nil || !l.seenInside(ctx) {
		m.info.Notes = append(m.info.Notes, noServices)
		return m, l.letGo()
	}
	pid := got.Container.State.Pid
	if !inContainer(pid, got.Container.ID) {
		err = fmt.Errorf("process %d is another's", pid)
	} else {
		l.space, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find the container's network: %w", err), l.letGo())
	}
	m.here = true
	m.hosting.Lock()
	m.beside = l.letGo
	m.hosting.Unlock()
	if err := m.alive(); err != nil {
		return nil, errors.Join(err, l.letGo())
	}
	return l, nil
}

func (l *dockerLocal) openFiles(dir string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	info, err := root.Stat(".")
	if err != nil {
		root.Close()
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		l.uid, l.gid = int(st.Uid), int(st.Gid)
	}
	l.files = root
}

func (l *dockerLocal) seenInside(ctx context.Context) bool {
	name := "." + rand.Text()
	f, err := l.files.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	f.Close()
	_, err = l.d.api.ContainerStatPath(ctx, l.name, client.ContainerStatPathOptions{Path: path.Join(dockerFiles, name)})
	return err == nil && l.files.Remove(name) == nil
}

// letGo ends what is open here, before the container goes.
func (l *dockerLocal) letGo() error {
	l.mu.Lock()
	l.ended = true
	listeners := l.listeners
	l.mu.Unlock()
	var err error
	for _, n := range listeners {
		if bad := n.Close(); !errors.Is(bad, net.ErrClosed) {
			err = errors.Join(err, bad)
		}
	}
	if l.files != nil {
		l.files.Close()
	}
	if l.space != nil {
		l.space.Close()
	}
	return err
}

// Files implements Direct.
func (l *dockerLocal) Files() *os.Root { return l.files }

func (l *dockerLocal) writeDirect(rel string, data []byte, mode os.FileMode) error {
	return writeDirect(l.files, rel, data, mode, func(f *os.File) error { return f.Chown(l.uid, l.gid) })
}

// inNetwork runs f in the machine's network, on a thread of its own. What f opens by an address, not a name, is open
// there.
func inNetwork[T any](l *dockerLocal, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			defer own.Close()
			err = unix.Setns(int(l.space.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			runtime.UnlockOSThread()
			answers <- answer{err: err}
			return
		}
		v, err := f()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with this function: nobody may have it
		}
		answers <- answer{v, err}
	}()
	got := <-answers
	return got.value, got.err
}

// Listen implements Networked.
func (l *dockerLocal) Listen(ctx context.Context, port int) (net.Listener, error) {
	n, err := inNetwork(l, func() (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	})
	if err != nil {
		return nil, fmt.Errorf("listen in the machine: %w", err)
	}
	return l.keep(n)
}

// Dial implements Dialer.
func (l *dockerLocal) Dial(ctx context.Context, port int) (net.Conn, error) {
	c, err := inNetwork(l, func() (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	})
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of the machine: %w", port, err)
	}
	return c, nil
}

// ListenLocal implements LocalListener. The name goes by a descriptor, since those of volumes are longer than a socket's
// may be, and is a new one: nothing has run in the machine that could have placed a link.
func (l *dockerLocal) ListenLocal(name string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("listen on %s of the machine: %w", name, err)
	}
	if name != path.Base(name) {
		return fail(errors.New("not a plain name"))
	}
	dir, err := l.files.Open(".")
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	at, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if err != nil {
		return fail(err)
	}
	at.(*net.UnixListener).SetUnlinkOnClose(false)     // its name is good only now; it goes with the machine
	if err := l.files.Chmod(name, 0o666); err != nil { // whoever runs in the machine may use it
		at.Close()
		return fail(err)
	}
	return l.keep(at)
}

// keep has a listener end with the machine.
func (l *dockerLocal) keep(n net.Listener) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		n.Close()
		return nil, errors.New("listen in the machine: it is closed")
	}
	l.listeners = append(l.listeners, n)
	return n, nil
}

// inContainer says whether a process of this host is one of the container's.
func inContainer(pid int, id string) bool {
	if pid <= 0 || id == "" {
		return false
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Contains(groups, []byte(id))
}

// killHere sends a signal to a process of a container; KILL goes to all in its session too. It says whether the process
// was there.
func killHere(container string, pid int, name string) bool {
	if !inContainer(pid, container) {
		return false
	}
	signal := unix.SignalNum("SIG" + name)
	if signal == unix.SIGKILL {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			other, err := strconv.Atoi(path.Base(dir))
			if stat := processStat(other); err == nil && len(stat) > 3 && stat[3] == strconv.Itoa(pid) && inContainer(other, container) {
				_ = unix.Kill(other, signal)
			}
		}
	}
	return unix.Kill(pid, signal) == nil
}
