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
	six   string // "6" if machines have IPv6
	home  int    // the mount namespace of the warden
	owner int    // a user namespace that maps a machine's ids, for mounts that show the host's owners; -1 without

	opens chan *opening

	mu       sync.Mutex
	waiting  int // machines made in advance, or being made
	wanted   int // requests that have none yet
	machines map[int]*machine
	views    map[string]string // what machines share -> where the warden has it mounted
	spare    int               // names of mount points in stage
}

// machine is owned by the goroutine, and the thread, that forked it.
type machine struct {
	pid      int
	pidfd    int
	handOver []int         // what the supervisor gets: its end of the agent's socket, and directories in memory
	ready    *pipe         // where the agent says that it is prepared
	beside   int           // the machine whose container it is; 0 if it is none
	work     chan func()   // run on the machine's thread
	ended    chan struct{} // closed when process 1 has been reaped
}

// runWarden is the process's main function. args are the stage, the store, the base, and 6 if the host has IPv6.
func runWarden(args []string) int {
	if err := closeOnExec(); err != nil {
		return 1
	}
	w := &warden{pipe: &pipe{fd: control}, machines: map[int]*machine{}, views: map[string]string{}, opens: make(chan *opening), owner: -1}
	unsettled := w.settle(args)
	if unsettled == nil {
		w.count(0, 0)
	}
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
	if len(args) != 4 {
		return errFrame
	}
	w.stage, w.store, w.six = args[0], args[1], args[3]
	if w.base, err = strconv.Atoi(args[2]); err != nil {
		return err
	}
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil { // what the host unmounts is unmounted here too
		return wrap("separate mounts", err)
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
	var err error
	switch f.op {
	case OpOpen:
		w.request(f)
		return
	case OpAttach:
		err = w.attach(f)
	case OpSwap:
		err = w.swap(f)
	case OpDetach:
		err = w.detach(f)
	case OpKill:
		err = w.kill(f)
	case OpRemove:
		err = w.remove(f)
	default:
		err = errFrame
	}
	w.answer(f, nil, err)
}

// request gives f to a machine that waits, or to a new one.
func (w *warden) request(f *frame) {
	var req Open
	err := decode(f.body, &req)
	if err == nil && len(req.Mounts) == 0 {
		err = errFrame
	}
	switch {
	case err != nil:
		w.answer(f, nil, err)
	case req.Beside != 0:
		go w.serveBeside(&opening{f.id, &req})
	default:
		w.count(0, 1)
		w.opens <- &opening{f.id, &req}
	}
}

// opening is a request for a machine.
type opening struct {
	id  int
	req *Open
}

// count keeps the numbers of machines in advance and of requests, and has one machine more than is asked for.
func (w *warden) count(waiting, wanted int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting += waiting
	w.wanted += wanted
	if w.waiting < w.wanted || waiting == 0 && wanted == 0 && w.waiting == w.wanted {
		w.waiting++
		go w.serve()
	}
}

func (w *warden) answer(f *frame, m Message, err error) {
	if err != nil {
		_ = w.pipe.write(header{f.id, opError}, failureOf(err)) // without a supervisor the read loop ends too
		return
	}
	_ = w.pipe.write(header{f.id, opAnswer}, m)
}

// serve makes a machine in advance, gives it to the next who asks for one, and then lives with it until it ends, on a
// thread of its own: the thread's end would kill the machine (PR_SET_PDEATHSIG), as the warden's does.
func (w *warden) serve() {
	runtime.LockOSThread() // never unlocked: the thread's namespaces are changed
	m, err := w.fork(w.six, unix.CLONE_NEWNET)
	o := <-w.opens
	w.count(-1, -1)
	if err != nil {
		m, err = w.fork(w.six, unix.CLONE_NEWNET) // what stood in the way may have passed
	}
	w.finish(o, m, err, func() { w.count(0, 0) })
}

// serveBeside makes a container.
func (w *warden) serveBeside(o *opening) {
	runtime.LockOSThread() // never unlocked, as in serve
	m, err := w.forkBeside(o.req.Beside)
	w.finish(o, m, err, func() {})
}

// forkBeside starts an agent in the network of another machine.
func (w *warden) forkBeside(pid int) (*machine, error) {
	network, err := w.space(pid, "net")
	if err != nil {
		return nil, err
	}
	defer unix.Close(network)
	if err := unix.Setns(network, unix.CLONE_NEWNET); err != nil {
		return nil, wrap("enter the network of the machine", err)
	}
	m, err := w.fork(contained, 0)
	if err == nil {
		m.beside = pid
	}
	return m, err
}

// space opens a namespace of a machine.
func (w *warden) space(pid int, kind string) (int, error) {
	ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/"+kind, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	w.mu.Lock()
	m := w.machines[pid]
	w.mu.Unlock()
	if err == nil && m == nil { // the number may be another process's by now
		unix.Close(ns)
	}
	if err != nil || m == nil {
		return -1, ErrGone
	}
	return ns, nil
}

// finish makes a machine what a request asks for, and lives with it.
func (w *warden) finish(o *opening, m *machine, err error, opened func()) {
	if err == nil {
		err = w.open(m, o.req)
	}
	if err != nil {
		w.answer(&frame{header: header{id: o.id}}, nil, wrap("make a machine", err))
		return
	}
	w.mu.Lock()
	w.machines[m.pid] = m
	w.mu.Unlock()
	_ = w.pipe.write(header{o.id, opAnswer}, &Opened{Machine: m.pid}, m.handOver...)
	m.closeHandOver()
	opened()
	w.attend(o.id, m)
}

// open makes a waiting machine what a request asks for.
func (w *warden) open(m *machine, req *Open) error {
	err := w.build(m, req.Mounts)
	if err != nil {
		_ = unix.Kill(m.pid, unix.SIGKILL)
		_, _ = retry(func() (int, error) { return unix.Wait4(m.pid, nil, 0, nil) })
		unix.Close(m.pidfd)
		m.closeHandOver()
	}
	return err
}

func (m *machine) closeHandOver() {
	for _, fd := range m.handOver {
		unix.Close(fd)
	}
	m.handOver = nil
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

// fork starts an agent in namespaces of its own; spaces are those that not all have. arg is for runAgent.
func (w *warden) fork(arg string, spaces uintptr) (m *machine, err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, err
	}
	if err := unix.Chdir(w.store); err != nil {
		return nil, err
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	fds = append(fds, control[1])
	if err := unix.SetNonblock(control[0], true); err != nil { // as the supervisor needs it
		unix.Close(control[0])
		return nil, err
	}
	ready, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		unix.Close(control[0])
		return nil, err
	}
	fds = append(fds, ready[1])
	m = &machine{handOver: control[:1], ready: &pipe{fd: ready[0]}, work: make(chan func()), ended: make(chan struct{})}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		fds = append(fds, null)
		err = w.forkAgent(m, arg, spaces, []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(control[1]), uintptr(ready[1])})
	}
	if err != nil {
		unix.Close(control[0])
		unix.Close(ready[0])
		return nil, err
	}
	return m, nil
}

func (w *warden) forkAgent(m *machine, arg string, spaces uintptr, files []uintptr) (err error) {
	ids := w.ids()
	m.pid, err = syscall.ForkExec("/proc/self/exe", []string{NameAgent, arg}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=2", "GODEBUG=containermaxprocs=0", "GOTRACEBACK=none"}, Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | spaces,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: w.base > 0,
			Credential: &syscall.Credential{NoSetGroups: w.base == 0}, // root inside
			Setsid:     true, Pdeathsig: unix.SIGKILL, PidFD: &m.pidfd,
		},
	})
	return err
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
