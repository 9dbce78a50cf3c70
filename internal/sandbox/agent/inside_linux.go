package agent

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// inside is the agent: process 1 of a machine.
type inside struct {
	pipe     *pipe
	children *children
	parts    []part // prepared while the host's tree was still visible, put in place by begin

	sockets     []int  // of the network's relay, until the supervisor has them
	unreachable string // why there are none

	contained bool // this is a container: its network is another machine's
}

// part is a mount that only a process of the machine can make.
type part struct {
	fd int
	at string
}

// contained is the argument of a container's agent.
const contained = "contained"

// runAgent is the process's main function. The argument is 6 if the host has IPv6, or contained.
func runAgent(args []string) int {
	if err := closeOnExec(); err != nil {
		return 1
	}
	a := &inside{pipe: &pipe{fd: control}}
	a.children = watchChildren(a.ended)
	unix.Umask(0o022)
	var err error
	if a.contained = len(args) == 1 && args[0] == contained; !a.contained {
		err = a.prepareNetwork(len(args) == 1 && args[0] == "6")
	}
	if err == nil {
		err = a.prepare()
	}
	ready := failureOf(errNone)
	if err != nil {
		ready = failureOf(err)
	}
	if err := (&pipe{fd: control + 1}).write(header{op: opAnswer}, ready); err != nil || ready.text != "" {
		return 1
	}
	unix.Close(control + 1)
	return a.serve()
}

// serve answers the supervisor until it has gone: so has the machine then.
func (a *inside) serve() int {
	for {
		f, err := a.pipe.read()
		if err != nil {
			return 0
		}
		a.handle(&f)
	}
}

var errNone = errors.New("")

func (a *inside) prepareNetwork(six bool) (err error) {
	if err := loopbackUp(); err != nil {
		return err
	}
	// A container's root has no rights over its machine's network, but may serve on any port, as Docker has it.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if a.sockets, err = openNetwork(six); err != nil {
		for _, fd := range a.sockets {
			unix.Close(fd)
		}
		a.sockets, a.unreachable = nil, err.Error()
	}
	return nil
}

// prepare makes the mounts that belong to this process's own namespaces. It needs the host's /proc and /sys in view:
// the kernel gives new ones only to who could see the old.
func (a *inside) prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil { // what the host unmounts is let go
		return wrap("separate mounts", err)
	}
	for _, p := range []struct {
		fs, at string
		attr   int
		opts   []string
		must   bool
	}{
		{"proc", "/proc", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, nil, true},
		{"sysfs", "/sys", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY, nil, false},
		{"tmpfs", "/dev", unix.MOUNT_ATTR_NOSUID, []string{"mode", "755"}, true},
		{"devpts", "/dev/pts", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, []string{"ptmxmode", "666", "mode", "620"}, true},
	} {
		fd, err := newMount(p.fs, p.attr, p.opts...)
		if err != nil && p.must {
			return wrap("mount "+p.fs, err)
		}
		if err == nil {
			a.parts = append(a.parts, part{fd, p.at})
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return wrap("open /dev/"+name, err)
		}
		a.parts = append(a.parts, part{fd, "/dev/" + name})
	}
	return nil
}

// newMount gives a file system that is mounted nowhere yet.
func newMount(fs string, attr int, opts ...string) (int, error) {
	ctx, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	for i := 0; i+1 < len(opts); i += 2 {
		if err := unix.FsconfigSetString(ctx, opts[i], opts[i+1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attr)
}

// attach puts a detached mount in place.
func attach(fd int, at string) error {
	return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func (a *inside) handle(f *frame) {
	switch f.op {
	case OpBegin:
		err := a.begin(f)
		a.answer(f, &Begun{a.unreachable}, err, a.sockets...)
		for _, fd := range a.sockets {
			unix.Close(fd)
		}
		a.sockets = nil
	case OpExec:
		a.exec(f)
	case OpSignal:
		a.answer(f, nil, a.signal(f))
	case OpIdle:
		go func() { a.answer(f, &Flags{[]bool{a.children.idle()}}, nil) }()
	case OpUnpack:
		go a.unpack(f)
	case OpPack:
		go a.pack(f)
	case OpCopy:
		go func() { a.answer(f, nil, copyPaths(f)) }()
	case OpListen:
		a.listen(f)
	case OpDial:
		go a.dial(f)
	case OpFiles:
		go func() { a.answer(f, nil, a.files(f)) }()
	case OpPoint:
		made, err := makePoint(f)
		a.answer(f, &Paths{made}, err)
	case OpMkdir:
		made, err := mkdir(f)
		a.answer(f, made, err)
	default:
		f.closeFiles()
		a.answer(f, nil, errFrame)
	}
}

// answer sends m, or err if there is one.
func (a *inside) answer(f *frame, m Message, err error, files ...int) {
	if err != nil {
		_ = a.pipe.write(header{f.id, opError}, failureOf(err)) // without a supervisor the read loop ends too
		return
	}
	_ = a.pipe.write(header{f.id, opAnswer}, m, files...)
}

func (a *inside) ended(id int, status unix.WaitStatus) {
	e := &Ended{Code: status.ExitStatus()}
	if status.Signaled() {
		e = &Ended{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}
	}
	_ = a.pipe.write(header{id, opAnswer}, e)
}

// begin takes the machine into use, once its file tree is in place.
func (a *inside) begin(f *frame) error {
	var b Begin
	if err := decode(f.body, &b); err != nil {
		return err
	}
	for _, p := range a.parts {
		if err := a.place(p); err != nil {
			return wrap("mount "+p.at, err)
		}
	}
	a.parts = nil
	for _, link := range [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"},
	} {
		if err := os.Symlink(link[0], link[1]); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/dev/shm", 0o777); err != nil {
		return err
	}
	if err := os.Chmod("/dev/shm", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
		return wrap("set the host name", err)
	}
	if b.Processes > 0 {
		limit := &unix.Rlimit{Cur: uint64(b.Processes), Max: uint64(b.Processes)}
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NPROC, &now); err == nil && now.Max > limit.Max {
			if err := unix.Setrlimit(unix.RLIMIT_NPROC, limit); err != nil {
				return wrap("limit processes", err)
			}
		}
	}
	if b.Hosts != "" {
		for name, text := range map[string]string{"/etc/hostname": b.Hostname + "\n", "/etc/hosts": b.Hosts, "/etc/resolv.conf": b.Resolver} {
			if text == "" {
				continue
			}
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) { // the host's can not be written to
				return err
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	for _, dir := range b.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return confine()
}

// makePoint makes the place of a mount if it is missing, and gives what was made.
func makePoint(f *frame) (made []string, err error) {
	var p Point
	if err := decode(f.body, &p); err != nil {
		return nil, err
	}
	dir := path.Clean(p.Path)
	if p.File {
		dir = path.Dir(dir)
	}
	for up := dir; ; up = path.Dir(up) {
		if _, err := os.Lstat(up); err == nil || up == "/" {
			break
		}
		made = append(made, up)
	}
	slices.Reverse(made)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if !p.File {
		return made, nil
	}
	file, err := os.OpenFile(p.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return made, nil
	}
	if err != nil {
		return made, err
	}
	return append(made, p.Path), file.Close()
}

func (a *inside) place(p part) error {
	defer unix.Close(p.fd)
	if len(p.at) > len("/dev/") && p.at[:5] == "/dev/" {
		if p.at == "/dev/pts" {
			if err := os.Mkdir(p.at, 0o755); err != nil {
				return err
			}
		} else if err := os.WriteFile(p.at, nil, 0o666); err != nil {
			return err
		}
	}
	return attach(p.fd, p.at)
}

// loopbackUp brings up the machine's only network interface.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wrap("bring up the loopback interface", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return wrap("bring up the loopback interface", unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req))
}

// unpack writes the tar stream that came with the request below a directory.
func (a *inside) unpack(f *frame) {
	defer f.closeFiles()
	var p Paths
	if err := decode(f.body, &p); err != nil || len(p.Paths) != 1 || len(f.files) != 1 {
		a.answer(f, nil, errFrame)
		return
	}
	stream := os.NewFile(uintptr(f.files[0]), "tar")
	f.files = nil
	defer stream.Close()
	a.answer(f, nil, Unpack(p.Paths[0], stream))
}

// pack sends a file or directory as a tar stream. It answers when that begins and when it has ended.
func (a *inside) pack(f *frame) {
	defer f.closeFiles()
	var p Paths
	if err := decode(f.body, &p); err != nil || len(p.Paths) != 1 || len(f.files) != 1 {
		a.answer(f, nil, errFrame)
		return
	}
	stream := os.NewFile(uintptr(f.files[0]), "tar")
	f.files = nil
	defer stream.Close()
	if _, err := os.Lstat(p.Paths[0]); err != nil {
		a.answer(f, nil, err)
		return
	}
	a.answer(f, nil, nil)
	err := Pack(p.Paths[0], stream)
	stream.Close()
	a.answer(f, nil, err)
}

func copyPaths(f *frame) error {
	var p Paths
	if err := decode(f.body, &p); err != nil || len(p.Paths) != 2 {
		return errFrame
	}
	return copyTree(p.Paths[0], p.Paths[1])
}

func mkdir(f *frame) (*Made, error) {
	var m Mkdir
	if err := decode(f.body, &m); err != nil {
		return nil, err
	}
	if info, err := os.Stat(m.Path); err == nil && !info.IsDir() {
		return &Made{File: true}, nil
	}
	if err := os.MkdirAll(m.Path, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(m.Path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return &Made{Empty: err == io.EOF}, nil
}

// wrap says what was being done; nil stays nil.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &os.SyscallError{Syscall: doing, Err: err}
}
