package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// firstID is the host's user and group id of a machine's root, when the host's root opens machines: the first of the
// ids that neither users, nor subordinate ids, nor systemd's containers take (systemd.io/UIDS-GIDS).
const firstID = 0x70000000

// defaultProcesses guards against fork bombs where a spec says nothing.
const defaultProcesses = 8192

// Host opens machines made of Linux namespaces over this machine's own tools.
type Host struct {
	// Ladder is how a command is stopped; NewHost gives GitHub's.
	Ladder Ladder

	layers  *layer.Store
	work    *layer.Scratch
	warden  *agent.Client
	proc    *os.Process
	owner   int // the host's id of root inside: firstID, or this user's
	base    *base
	null    *os.File
	program *keptProgram
	first   chan *machine // gives the one that is made in advance
	spare   atomic.Bool   // nobody has it yet

	mu     sync.Mutex
	next   *Host // opens machines since the warden was killed; nil while it lives
	closed bool

	close func() error
}

// NewHost prepares for opening machines. The error says why this kernel or this user can not: it tries once for every
// boot, and remembers beside the store.
//
// p is a program of this host that machines have first in their PATH; nil for none.
func NewHost(store *layer.Store, p *Program) (*Host, error) {
	h := &Host{Ladder: github, layers: store, owner: Owner()}
	if p != nil {
		h.program = &keptProgram{Program: *p}
	}
	h.close = sync.OnceValue(h.end)
	if err := h.start(); err != nil {
		return nil, fmt.Errorf("prepare host machines: %w", err)
	}
	if err := h.probe(); err != nil {
		h.Close()
		return nil, fmt.Errorf("prepare host machines: %w", err)
	}
	h.makeFirst()
	return h, nil
}

// Close ends the machines that are still open and lets go of everything.
func (h *Host) Close() error { return h.close() }

func (h *Host) end() error {
	var err error
	h.mu.Lock()
	h.closed = true
	next := h.next
	h.mu.Unlock()
	if next != nil {
		err = next.Close()
	}
	if m := h.takeFirst(); m != nil {
		err = errors.Join(err, m.close())
	}
	if h.warden != nil {
		h.warden.Close()
		_, gone := h.proc.Wait()
		err = errors.Join(err, gone)
	}
	if h.null != nil {
		h.null.Close()
	}
	if h.work != nil {
		err = errors.Join(err, h.work.Release())
	}
	return err
}

// successor gives the one that opens machines in this one's place if its warden was killed - a machine that runs out of memory
// may choose it - and nil while the warden lives.
func (h *Host) successor(ctx context.Context) (*Host, error) {
	if _, err := h.warden.Do(ctx, agent.OpHello, nil, nil); !errors.Is(err, agent.ErrGone) {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil && !h.closed {
		var p *Program
		if h.program != nil {
			p = &h.program.Program
		}
		next, err := NewHost(h.layers, p)
		if err != nil {
			return nil, err
		}
		next.Ladder = h.Ladder
		h.next = next
	}
	return h.next, nil
}

// shifted says whether a machine's ids are others outside.
func (h *Host) shifted() bool { return os.Getuid() == 0 }

func (h *Host) start() (err error) {
	if h.work, err = h.layers.Scratch(); err != nil {
		return err
	}
	if h.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	prepared := make(chan error, 1)
	go func() {
		sweepGroups(cgroupRoot, time.Now())
		var err error
		h.base, err = h.prepareBase()
		prepared <- err
	}()
	err = h.startWarden()
	return errors.Join(err, <-prepared)
}

// startWarden starts the process that makes machines.
func (h *Host) startWarden() error {
	stage := filepath.Join(h.work.Dir(), "stage")
	if err := os.Mkdir(stage, 0o700); err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	attr := &os.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=2"},
		Files: []*os.File{h.null, h.null, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setsid: true},
	}
	base := 0
	if h.shifted() {
		base = h.owner
	} else {
		attr.Sys.Cloneflags |= unix.CLONE_NEWUSER
		attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	args := []string{agent.NameWarden, stage, h.layers.Dir(), fmt.Sprint(base), ""}
	if hasIPv6() {
		args[4] = "6"
	}
	if h.proc, err = os.StartProcess("/proc/self/exe", args, attr); err != nil {
		ours.Close()
		return fmt.Errorf("start a process in namespaces of its own: %w", err)
	}
	if h.warden, err = agent.NewClient(ours); err != nil {
		ours.Close()
		return errors.Join(err, h.proc.Kill())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = h.warden.Do(ctx, agent.OpHello, nil, nil)
	return err
}

// socketPair gives a socket's two ends: ours does not block, theirs does.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "machine"), os.NewFile(uintptr(fds[1]), "machine"), nil
}

// probe opens and closes a machine, unless that went well before on this boot of this kernel.
func (h *Host) probe() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	known := filepath.Join(h.layers.Dir(), fmt.Sprintf("host-%d", os.Getuid()))
	if text, err := os.ReadFile(known); err == nil && string(text) == string(boot) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m, err := h.Open(ctx, Spec{Name: "probe", Repo: "probe"})
	if err != nil {
		return err
	}
	err = m.Exec(ctx, Command{Args: []string{"true"}, Env: []string{"PATH=" + m.Info().Path}})
	if err := errors.Join(err, m.Close(ctx)); err != nil {
		return err
	}
	return os.WriteFile(known, boot, 0o600)
}
