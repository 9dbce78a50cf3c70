package agent

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// swap puts mounts in the place of those at the same paths. No process of a command may be alive: what it has open
// would stay on the old ones. Whatever is mounted on the old ones, also by the job itself, moves over.
func (w *warden) swap(f *frame) error {
	var req Attach
	if err := decode(f.body, &req); err != nil {
		return err
	}
	return w.on(req.Machine, func(m *machine) error {
		for i := range req.Mounts {
			if err := w.swapOne(m, &req.Mounts[i]); err != nil {
				return wrap("mount "+req.Mounts[i].At, err)
			}
		}
		return nil
	})
}

func (w *warden) swapOne(m *machine, mount *Mount) error {
	kids, err := mountsUpon(m.pid, mount.At)
	if err != nil {
		return err
	}
	if mount.At == "/" {
		return w.swapRoot(m, mount, kids)
	}
	beneath := -1
	var saved []part
	defer func() { closeParts(saved) }()
	err = w.within(m, func() (err error) {
		if saved, err = save(kids); err != nil {
			return err
		}
		defer letGo(mount.At)()
		if err = unix.Unmount(mount.At, unix.MNT_DETACH); err != nil && err != unix.EINVAL { // the job may have unmounted it
			return err
		}
		if mount.Beneath {
			beneath, err = unix.OpenTree(unix.AT_FDCWD, mount.At, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			return err
		}
		return nil
	})
	if beneath >= 0 {
		defer unix.Close(beneath)
	}
	if err != nil {
		return err
	}
	fd, err := w.make(mount, beneath)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.within(m, func() error {
		if err := attach(fd, mount.At); err != nil {
			return err
		}
		return restore(saved, "")
	})
}

// rootPoint is a directory that every root has, to put the next root on.
const rootPoint = "/run"

func (w *warden) swapRoot(m *machine, mount *Mount, kids []string) error {
	fd, err := w.make(mount, -1)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.within(m, func() error {
		saved, err := save(kids)
		defer func() { closeParts(saved) }()
		if err != nil {
			return err
		}
		defer letGo("/")()
		if err := attach(fd, rootPoint); err != nil {
			return err
		}
		if err := restore(saved, rootPoint); err != nil {
			return err
		}
		return pivot(rootPoint)
	})
}

// letGo keeps the mount at a path until the function it gives is called, and then ends it in the background: for each
// file that was looked at the kernel has something to forget, and nobody needs to wait for that.
func letGo(at string) func() {
	fd, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {} // it ends at once
	}
	return func() { go unix.Close(fd) }
}

// save takes copies of mounts with all that is on them.
func save(paths []string) (saved []part, err error) {
	for _, p := range paths {
		fd, err := unix.OpenTree(unix.AT_FDCWD, p, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return saved, wrap("copy the mount at "+p, err)
		}
		saved = append(saved, part{fd, p})
	}
	return saved, nil
}

func restore(saved []part, below string) error {
	for _, p := range saved {
		if err := attach(p.fd, below+p.at); err != nil {
			return wrap("attach "+p.at, err)
		}
	}
	return nil
}

func closeParts(parts []part) {
	for _, p := range parts {
		unix.Close(p.fd)
	}
}

// mountsUpon gives where mounts lie directly on the topmost one at a path of a machine.
func mountsUpon(pid int, at string) ([]string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return nil, ErrGone
	}
	type line struct{ id, parent, point string }
	var all []line
	top := ""
	for l := range strings.Lines(string(text)) {
		f := strings.Fields(l)
		if len(f) < 5 {
			continue
		}
		n := line{f[0], f[1], unescape(f[4])}
		all = append(all, n)
		if n.point == at {
			top = n.id
		}
	}
	var upon []string
	for _, n := range all {
		if n.parent == top && n.id != top && n.point != at {
			upon = append(upon, n.point)
		}
	}
	return upon, nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// detach takes a mount out of a machine.
func (w *warden) detach(f *frame) error {
	var req Attach
	if err := decode(f.body, &req); err != nil {
		return err
	}
	return w.on(req.Machine, func(m *machine) error {
		return w.within(m, func() error {
			for _, mount := range req.Mounts {
				if err := unix.Unmount(mount.At, unix.MNT_DETACH); err != nil {
					return wrap("unmount "+mount.At, err)
				}
			}
			return nil
		})
	})
}
