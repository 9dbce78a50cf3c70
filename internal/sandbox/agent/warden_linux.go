package agent

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDs is how many user and group ids a machine of the host's root has.
const IDs = 1 << 16

// warden makes machines and their mounts, outside of them.
type warden struct {
	pipe  *pipe
	stage string // a directory that is a tmpfs of the warden's own: where mounts are put together
	store string // paths of mounts may be relative to it
	base  int    // the host's id of a machine's root; 0 in a user namespace, where the warden's own root is it
	home  int    // the mount namespace of the warden
	owner int    // a user namespace that maps a machine's ids, for mounts that show the host's owners; -1 without

	mu       sync.Mutex
	machines map[int]*machine
	views    map[string]string // what machines share -> where the warden has it mounted
	spare    int               // names of mount points in stage
}

// machine is owned by the goroutine, and the thread, that forked it.
type machine struct {
	pid   int
	pidfd int
	work  chan func()   // run on the machine's thread
	ended chan struct{} // closed when process 1 has been reaped
}

// runWarden is the process's main function. args are the stage, the store and the base.
func runWarden(args []string) int {
	if err := closeOnExec(); err != nil {
		return 1
	}
	w := &warden{pipe: &pipe{fd: control}, machines: map[int]*machine{}, views: map[string]string{}, owner: -1}
	unsettled := w.settle(args)
	for {
		f, err := w.pipe.read()
		if err != nil {
			return 0
		}
		if f.op == OpHello {
			w.answer(&f, nil, unsettled)
			continue
		}
		go w.handle(&f)
	}
}

// settle gives the warden a mount namespace with a stage in it.
func (w *warden) settle(args []string) (err error) {
	if len(args) != 3 {
		return errFrame
	}
	w.stage, w.store = args[0], args[1]
	if w.base, err = strconv.Atoi(args[2]); err != nil {
		return err
	}
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return wrap("make mounts private", err)
	}
	if err := unix.Mount("penstock", w.stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return wrap("mount "+w.stage, err)
	}
	if w.home, err = unix.Open("/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return wrap("open the mount namespace", err)
	}
	if w.base > 0 {
		return w.settleOwners()
	}
	return nil
}

func (w *warden) handle(f *frame) {
	defer f.closeFiles()
	var answer Message
	var err error
	switch f.op {
	case OpOpen:
		w.open(f)
		return
	case OpAttach:
		err = w.attach(f)
	case OpSwap:
		err = w.swap(f)
	case OpDetach:
		err = w.detach(f)
	case OpKill:
		err = w.kill(f)
	case OpDirty:
		answer, err = w.dirty(f)
	case OpRemove:
		err = w.remove(f)
	default:
		err = errFrame
	}
	w.answer(f, answer, err)
}

func (w *warden) answer(f *frame, m Message, err error) {
	if err != nil {
		_ = w.pipe.write(header{f.id, opError}, failureOf(err)) // without a supervisor the read loop ends too
		return
	}
	_ = w.pipe.write(header{f.id, opAnswer}, m)
}

// open makes a machine and then lives with it until it ends, on a thread of its own: the thread's end would kill
// the machine (PR_SET_PDEATHSIG), as the warden's does.
func (w *warden) open(f *frame) {
	runtime.LockOSThread() // never unlocked: the thread's namespaces are changed
	var req Open
	err := decode(f.body, &req)
	if err == nil && (len(f.files) != 1 || len(req.Mounts) == 0) {
		err = errFrame
	}
	if err == nil {
		err = unix.Unshare(unix.CLONE_FS)
	}
	if err == nil {
		err = unix.Chdir(w.store)
	}
	if err != nil {
		w.answer(f, nil, err)
		return
	}
	m, ready, err := w.fork(f.files[0])
	if err != nil {
		w.answer(f, nil, wrap("start the machine", err))
		return
	}
	err = w.build(m, req.Mounts, ready)
	if err != nil {
		_ = unix.Kill(m.pid, unix.SIGKILL)
		_, _ = retry(func() (int, error) { return unix.Wait4(m.pid, nil, 0, nil) })
		unix.Close(m.pidfd)
		w.answer(f, nil, err)
		return
	}
	w.mu.Lock()
	w.machines[m.pid] = m
	w.mu.Unlock()
	w.answer(f, &Opened{Machine: m.pid, Pid: m.pid}, nil)
	f.closeFiles()
	w.attend(f.id, m)
}

// attend does what is asked of a machine until it has ended, and says that it has.
func (w *warden) attend(id int, m *machine) {
	go func() {
		_, _ = retry(func() (int, error) { return unix.Wait4(m.pid, nil, 0, nil) })
		w.mu.Lock()
		delete(w.machines, m.pid)
		unix.Close(m.pidfd)
		w.mu.Unlock()
		close(m.ended)
	}()
	for {
		select {
		case do := <-m.work:
			do()
		case <-m.ended:
			_ = w.pipe.write(header{id, opAnswer}, &Ended{})
			return
		}
	}
}

// on runs do on the thread of a machine and waits for it.
func (w *warden) on(pid int, do func(m *machine) error) error {
	w.mu.Lock()
	m := w.machines[pid]
	w.mu.Unlock()
	if m == nil {
		return ErrGone
	}
	err := ErrGone
	done := make(chan struct{})
	select {
	case m.work <- func() { err = do(m); close(done) }:
		<-done
	case <-m.ended:
	}
	return err
}

func (w *warden) kill(f *frame) error {
	var n Number
	if err := decode(f.body, &n); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.machines[n.N]; m != nil {
		return unix.PidfdSendSignal(m.pidfd, unix.SIGKILL, nil, 0)
	}
	return nil
}

// fork starts an agent in namespaces of its own. ready is where it says that it has prepared itself.
func (w *warden) fork(ctl int) (m *machine, ready *pipe, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, nil, err
	}
	defer unix.Close(null)
	m = &machine{work: make(chan func()), ended: make(chan struct{})}
	ids := w.ids()
	m.pid, err = syscall.ForkExec("/proc/self/exe", []string{NameAgent}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=2", "GOTRACEBACK=none"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(ctl), uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: w.base > 0,
			Credential: &syscall.Credential{NoSetGroups: w.base == 0}, // root inside
			Setsid:     true, Pdeathsig: unix.SIGKILL, PidFD: &m.pidfd,
		},
	})
	if err != nil {
		unix.Close(pair[0])
		return nil, nil, err
	}
	return m, &pipe{fd: pair[0]}, nil
}

// ids maps a machine's ids: a range of their own for the host's root, else just the user as root.
func (w *warden) ids() []syscall.SysProcIDMap {
	if w.base > 0 {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: w.base, Size: IDs}}
	}
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
}

// remove deletes trees, whoever owns what is in them.
func (w *warden) remove(f *frame) error {
	var p Paths
	if err := decode(f.body, &p); err != nil {
		return err
	}
	for _, path := range p.Paths {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
