package agent

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyTree copies what is in the directory from into the directory to, with owners, modes, times, hard links and user
// attributes. Sockets, pipes and devices are left out, except for the whiteouts of layers.
func copyTree(from, to string) error {
	c := &copier{from: from, to: to, links: map[inode]string{}}
	if err := filepath.WalkDir(from, c.entry); err != nil {
		return err
	}
	for i := len(c.dirs) - 1; i >= 0; i-- {
		if err := c.settle(c.dirs[i].name, c.dirs[i].info); err != nil {
			return err
		}
	}
	return nil
}

type copier struct {
	from, to string
	links    map[inode]string
	dirs     []copiedDir // their modes and times are set when they are filled
}

type copiedDir struct {
	name string
	info fs.FileInfo
}

func (c *copier) entry(name string, e fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	target := c.to + strings.TrimPrefix(name, c.from)
	switch mode := info.Mode(); {
	case mode.IsDir():
		c.dirs = append(c.dirs, copiedDir{target, info})
		if name == c.from {
			return nil
		}
		if err := os.Mkdir(target, 0o700); err != nil {
			return err
		}
		return copyAttributes(name, target)
	case mode&fs.ModeSymlink != 0:
		link, err := os.Readlink(name)
		if err != nil {
			return err
		}
		if err := os.Symlink(link, target); err != nil {
			return err
		}
		return c.settle(target, info)
	case mode.IsRegular():
		return c.file(name, target, info)
	case mode&fs.ModeCharDevice != 0:
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Rdev == 0 {
			return unix.Mknod(target, unix.S_IFCHR, 0)
		}
	}
	return nil
}

func (c *copier) file(name, target string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first := c.links[key]; first != "" {
			return os.Link(first, target)
		}
		c.links[key] = target
	}
	in, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := copyAttributes(name, target); err != nil {
		return err
	}
	return c.settle(target, info)
}

// settle gives a copy its owner, mode and times.
func (c *copier) settle(target string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errFrame
	}
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Sec: st.Atim.Sec, Nsec: st.Atim.Nsec}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes copies what users attach to files.
func copyAttributes(from, to string) error {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(from, buf)
	if err != nil || n == 0 {
		return nil // a file system without
	}
	for _, key := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(key, "user.") && key != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(from, key, value)
		if err != nil {
			continue // gone meanwhile
		}
		if err := unix.Lsetxattr(to, key, value[:size], 0); err != nil {
			return &fs.PathError{Op: "set " + key, Path: to, Err: err}
		}
	}
	return nil
}
