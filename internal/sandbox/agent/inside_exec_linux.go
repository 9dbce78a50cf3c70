package agent

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// idleGrace is how long a process that is just ending may take before the machine counts as busy: the parts of a
// pipeline do not end at the same instant.
const idleGrace = 20 * time.Millisecond

// children reaps every process of the machine, since all orphans become the agent's, and tells of those that were
// started as commands.
type children struct {
	ended func(id int, status unix.WaitStatus)

	mu       sync.Mutex
	commands map[int]int             // pid -> id of the request
	starting int                     // forks under way
	early    map[int]unix.WaitStatus // ended while a fork was under way: perhaps before start could note its pid
	none     chan struct{}           // closed while there is no process
	some     chan struct{}           // wakes the reaper
}

func watchChildren(ended func(int, unix.WaitStatus)) *children {
	c := &children{ended: ended, commands: map[int]int{}, early: map[int]unix.WaitStatus{}, none: make(chan struct{}), some: make(chan struct{}, 1)}
	close(c.none)
	go c.reap()
	return c
}

func (c *children) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			c.mu.Lock()
			select {
			case <-c.none:
			default:
				if c.starting == 0 {
					close(c.none)
				}
			}
			c.mu.Unlock()
			<-c.some
		default:
			c.note(pid, status)
		}
	}
}

// note takes down the end of a process.
func (c *children) note(pid int, status unix.WaitStatus) {
	c.mu.Lock()
	id, ok := c.commands[pid]
	delete(c.commands, pid)
	if !ok && c.starting > 0 {
		c.early[pid] = status
	}
	c.mu.Unlock()
	if ok {
		c.ended(id, status)
	}
}

// start runs fork, which gives the new process's number, and sees to it that the process's end is told as id's.
// started is called before that.
func (c *children) start(id int, fork func() (int, error), started func(pid int)) error {
	c.mu.Lock()
	c.starting++
	select {
	case <-c.none:
		c.none = make(chan struct{})
	default:
	}
	c.mu.Unlock()
	pid, err := fork()
	if err == nil {
		started(pid)
	}
	c.mu.Lock()
	c.starting--
	status, over := c.early[pid]
	if err == nil && !over {
		c.commands[pid] = id
	}
	delete(c.early, pid)
	if c.starting == 0 {
		clear(c.early)
	}
	c.mu.Unlock()
	select {
	case c.some <- struct{}{}:
	default:
	}
	if err == nil && over {
		c.ended(id, status)
	}
	return err
}

// idle says whether no process is alive, after a short grace for those that are ending.
func (c *children) idle() bool {
	c.mu.Lock()
	none := c.none
	c.mu.Unlock()
	select {
	case <-none:
		return true
	case <-time.After(idleGrace):
		return false
	}
}

// exec starts a command. It answers twice: when the command runs and when it has ended.
func (a *inside) exec(f *frame) {
	defer f.closeFiles()
	var e Exec
	if err := decode(f.body, &e); err != nil {
		a.answer(f, nil, err)
		return
	}
	var err error
	var terminal int
	if e.TTY {
		f.closeFiles()
		terminal, f.files, err = newTerminal(e)
		if err != nil {
			a.answer(f, nil, wrap("open a terminal", err))
			return
		}
		defer unix.Close(terminal)
	}
	if len(f.files) != 3 || len(e.Args) == 0 {
		a.answer(f, nil, errFrame)
		return
	}
	err = a.children.start(f.id, func() (int, error) { return a.fork(e, f.files) }, func(pid int) {
		if e.TTY {
			a.answer(f, &Started{pid}, nil, terminal)
		} else {
			a.answer(f, &Started{pid}, nil)
		}
	})
	if err != nil {
		a.answer(f, nil, err)
	}
}

func (a *inside) fork(e Exec, files []int) (int, error) {
	attr := &syscall.ProcAttr{Dir: e.Dir, Env: e.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: e.TTY}}
	if a.contained {
		attr.Env = containerEnv(attr.Env)
	}
	if e.User != "" || a.contained {
		if err := become(attr, e.User); err != nil {
			return 0, err
		}
	}
	if e.Offline {
		attr.Sys.Cloneflags |= unix.CLONE_NEWNET
	}
	name, err := lookPath(e.Args[0], attr.Env, e.Dir)
	if err != nil {
		return 0, err
	}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(name, e.Args, attr)
	if err != nil {
		if _, bad := os.Stat(e.Dir); bad != nil {
			return 0, bad
		}
		return 0, &os.PathError{Op: "exec", Path: name, Err: err}
	}
	return pid, nil
}

// lookPath finds a program as execvp does, with the PATH of env.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	err := error(syscall.ENOENT)
	for _, d := range strings.Split(path, ":") {
		if d == "" || d[0] != '/' {
			d = dir + "/" + d
		}
		file := d + "/" + name
		info, bad := os.Stat(file)
		if bad != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, nil
		}
		err = syscall.EACCES
	}
	return "", &os.PathError{Op: "exec", Path: name, Err: err}
}

// newTerminal gives the two ends of a new terminal of the machine's own.
func newTerminal(e Exec) (master int, files []int, err error) {
	master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(master)
		}
	}()
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, nil, err
	}
	if e.Rows > 0 && e.Cols > 0 {
		size := &unix.Winsize{Row: uint16(e.Rows), Col: uint16(e.Cols)}
		if err = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, size); err != nil {
			return -1, nil, err
		}
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return -1, nil, err
	}
	for range 3 {
		fd, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, nil, err
		}
		files = append(files, fd)
	}
	return master, files, nil
}

// signal sends a signal to a command, or kills it with all its descendants.
func (a *inside) signal(f *frame) error {
	var s Signal
	if err := decode(f.body, &s); err != nil || s.Pid <= 1 {
		return errFrame
	}
	if !s.Tree {
		return unix.Kill(s.Pid, syscall.Signal(s.Signal))
	}
	killTree(s.Pid)
	return nil
}

// killTree kills a process, its descendants and everything in their sessions, until nothing new turns up.
func killTree(root int) {
	sessions, killed := map[int]bool{root: true}, map[int]bool{}
	for range 8 {
		found := false
		for pid, p := range processes() {
			if !killed[pid] && (sessions[p.session] || sessions[p.group] || killed[p.parent] || descends(p, root)) {
				found = true
				sessions[p.session] = true
				killed[pid] = true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}

type process struct {
	parent, group, session int
	up                     *process
	pid                    int
}

func descends(p *process, root int) bool {
	for range 1 << 10 {
		if p == nil || p.pid == 1 {
			return false
		}
		if p.pid == root {
			return true
		}
		p = p.up
	}
	return false
}

// processes reads all processes but the agent itself.
func processes() map[int]*process {
	all := map[int]*process{}
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || pid == 1 {
			continue
		}
		stat, err := os.ReadFile("/proc/" + n.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, ok := cutLast(string(stat), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 4 {
			continue
		}
		p := &process{pid: pid}
		p.parent, _ = strconv.Atoi(fields[1])
		p.group, _ = strconv.Atoi(fields[2])
		p.session, _ = strconv.Atoi(fields[3])
		all[pid] = p
	}
	for _, p := range all {
		p.up = all[p.parent]
	}
	return all
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
