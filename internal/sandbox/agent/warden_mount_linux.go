package agent

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// build puts a machine's file tree together and makes it the root of the machine. It runs on the machine's thread.
func (w *warden) build(m *machine, mounts []Mount) error {
	defer unix.Close(m.ready.fd)
	fds := make([]int, 0, len(mounts))
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for i := range mounts {
		fd, err := w.make(&mounts[i], -1)
		if err != nil {
			return wrap("mount "+mounts[i].At, err)
		}
		fds = append(fds, fd)
		if mounts[i].Memory > 0 {
			dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return wrap("open "+mounts[i].At, err)
			}
			m.handOver = append(m.handOver, dir)
		}
	}
	if err := awaitReady(m.ready); err != nil {
		return err
	}
	return w.within(m, func() error {
		if err := attach(fds[0], w.stage); err != nil {
			return wrap("attach the root", err)
		}
		for i, fd := range fds[1:] {
			if err := attach(fd, w.stage+mounts[i+1].At); err != nil {
				return wrap("attach "+mounts[i+1].At, err)
			}
		}
		return pivot(w.stage)
	})
}

// awaitReady waits until the agent has what it needs of the host's tree.
func awaitReady(ready *pipe) error {
	f, err := ready.read()
	if err != nil {
		return wrap("start the machine", err)
	}
	f.closeFiles()
	var fail failure
	if err := decode(f.body, &fail); err != nil {
		return err
	}
	if fail.text != "" {
		return fail.err()
	}
	return nil
}

// pivot makes the mount at dir the root of the mount namespace and lets go of the old one.
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return wrap("change the root", err)
	}
	return wrap("let go of the host's tree", unix.Unmount(".", unix.MNT_DETACH))
}

// within runs do in the mount namespace of a machine.
func (w *warden) within(m *machine, do func() error) error {
	ns, err := unix.Open("/proc/"+strconv.Itoa(m.pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ErrGone
	}
	defer unix.Close(ns)
	return w.withinSpace(ns, do)
}

// withinSpace runs do in a mount namespace.
func (w *warden) withinSpace(ns int, do func() error) error {
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return wrap("enter the machine", err)
	}
	failed := do()
	if err := unix.Setns(w.home, unix.CLONE_NEWNS); err != nil {
		return wrap("leave the machine", err)
	}
	if err := unix.Chdir(w.store); err != nil {
		return err
	}
	return failed
}

// make gives a mount that is attached nowhere. beneath is what lies at its place in the machine, or -1.
func (w *warden) make(m *Mount, beneath int) (int, error) {
	if m.Bind != "" {
		return unix.OpenTree(unix.AT_FDCWD, m.Bind, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	}
	if m.Memory > 0 {
		return w.memory(m.Memory)
	}
	lowers, err := w.lowers(m)
	if err != nil {
		return -1, err
	}
	if beneath >= 0 {
		under := w.point()
		if err := os.Mkdir(under, 0o700); err != nil {
			return -1, err
		}
		defer os.Remove(under)
		if err := attach(beneath, under); err != nil {
			return -1, err
		}
		defer unix.Unmount(under, unix.MNT_DETACH)
		lowers = append(lowers, under)
	}
	return w.overlay(lowers, m.Upper, m.Work)
}

// memory gives a file system in memory, the machine's root's own, that is attached nowhere.
func (w *warden) memory(size int) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for key, value := range map[string]string{
		"size": strconv.Itoa(size), "mode": "755", "uid": strconv.Itoa(w.base), "gid": strconv.Itoa(w.base),
	} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// overlay gives an overlay that is attached nowhere. Without an upper directory it is read-only.
func (w *warden) overlay(lowers []string, upper, work string) (int, error) {
	at := w.point()
	if err := os.Mkdir(at, 0o700); err != nil {
		return -1, err
	}
	defer os.Remove(at)
	options := "userxattr,lowerdir="
	for i, dir := range lowers {
		if i > 0 {
			options += ":"
		}
		options += escape(dir, ":")
	}
	if upper != "" {
		options += ",volatile,upperdir=" + escape(upper, "") + ",workdir=" + escape(work, "")
	}
	if len(options) >= os.Getpagesize() {
		return -1, syscall.E2BIG
	}
	if err := unix.Mount("overlay", at, "overlay", unix.MS_NODEV, options); err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if bad := unix.Unmount(at, unix.MNT_DETACH); err == nil && bad != nil {
		unix.Close(fd)
		return -1, bad
	}
	return fd, err
}

// lowers gives the paths at which an overlay takes its lower directories from.
func (w *warden) lowers(m *Mount) ([]string, error) {
	if m.Nested < 0 || m.Nested > len(m.Lowers) {
		return nil, errFrame
	}
	var dirs []string
	for i, l := range m.Lowers {
		dir, err := w.lower(l)
		if err == nil && !l.Host && i >= len(m.Lowers)-m.Nested {
			dir, err = w.apart(dir)
		}
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	if m.Nested == 0 {
		return dirs, nil
	}
	own, nested := dirs[:len(dirs)-m.Nested], dirs[len(dirs)-m.Nested:]
	view, err := w.view(strings.Join(nested, "\x00"), func() (int, error) { return w.overlay(nested, "", "") })
	if err != nil {
		return nil, wrap("mount the lower directories", err)
	}
	return append(own, view), nil
}

// apart copies a small layer of the store to the stage, where it lies inside no directory of the host.
func (w *warden) apart(dir string) (string, error) {
	w.mu.Lock()
	at, ok := w.views["apart "+dir]
	w.mu.Unlock()
	if ok {
		return at, nil
	}
	at = w.point()
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	if err := copyTree(dir, at); err != nil {
		return "", err
	}
	w.mu.Lock()
	w.views["apart "+dir] = at
	w.mu.Unlock()
	return at, nil
}

// view gives the path of a mount of the warden's own, which it makes at the first time and keeps.
func (w *warden) view(key string, open func() (int, error)) (string, error) {
	w.mu.Lock()
	at, ok := w.views[key]
	w.mu.Unlock()
	if ok {
		return at, nil
	}
	fd, err := open()
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	at = w.point()
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	if err := attach(fd, at); err != nil {
		return "", wrap("attach", err)
	}
	w.mu.Lock()
	w.views[key] = at
	w.mu.Unlock()
	return at, nil
}

// escape prepares a path for overlay's options.
func escape(path, also string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c == '\\' || c == ',' || strings.IndexByte(also, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// point gives the path of a mount point that does not exist yet.
func (w *warden) point() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spare++
	return w.stage + "/" + strconv.Itoa(w.spare)
}

// lower gives the path at which an overlay of a machine can take a lower directory from.
func (w *warden) lower(l Lower) (string, error) {
	if !l.Host || w.owner < 0 {
		return l.Path, nil
	}
	return w.view(l.Path, func() (int, error) {
		fd, err := unix.OpenTree(unix.AT_FDCWD, l.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, wrap("open "+l.Path, err)
		}
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Userns_fd: uint64(w.owner)}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
			unix.Close(fd)
			return -1, wrap("map the owners of "+l.Path, err)
		}
		return fd, nil
	})
}

// settleOwners makes the user namespace that owners are mapped by. It takes a process to have one, for a moment.
func (w *warden) settleOwners() error {
	ids := w.ids()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{nameIDs}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids},
	})
	if err != nil {
		return wrap("make a user namespace", err)
	}
	w.owner, err = unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = retry(func() (int, error) { return unix.Wait4(pid, nil, 0, nil) })
	return wrap("open the user namespace", err)
}

// attach adds mounts to a machine.
func (w *warden) attach(f *frame) error {
	var req Attach
	if err := decode(f.body, &req); err != nil {
		return err
	}
	return w.on(req.Machine, func(m *machine) error {
		for i := range req.Mounts {
			if err := w.attachOne(m, &req.Mounts[i]); err != nil {
				return wrap("mount "+req.Mounts[i].At, err)
			}
		}
		return nil
	})
}

func (w *warden) attachOne(m *machine, mount *Mount) error {
	if mount.Source != "" {
		return w.share(m, mount)
	}
	beneath := -1
	if mount.Beneath {
		err := w.within(m, func() (err error) {
			beneath, err = unix.OpenTree(unix.AT_FDCWD, mount.At, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			return err
		})
		if err != nil {
			return err
		}
		defer unix.Close(beneath)
	}
	fd, err := w.make(mount, beneath)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.within(m, func() error { return attach(fd, mount.At) })
}

// share shows a path of a machine in a container of it.
func (w *warden) share(m *machine, mount *Mount) error {
	space, err := w.space(m.beside, "mnt")
	if err != nil {
		return err
	}
	defer unix.Close(space)
	tree := -1
	err = w.withinSpace(space, func() error {
		fd, err := unix.Openat2(unix.AT_FDCWD, mount.Source, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
		if err != nil {
			return wrap("open "+mount.Source, err)
		}
		defer unix.Close(fd)
		tree, err = unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if mount.ReadOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return wrap("make it read-only", err)
		}
	}
	return w.within(m, func() error { return attach(tree, mount.At) })
}
