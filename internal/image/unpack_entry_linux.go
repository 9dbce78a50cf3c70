package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// The kinds of entries follow. Each is made by its name in an open directory and never opened through a link; what was
// there before goes, but for a directory in whose place comes a directory.

func (u *unpacker) directory(d opened, base string, h *tar.Header) error {
	dir := d.fd
	err := unix.Mkdirat(dir, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return u.failed("look at", base, err)
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = nil
		case isWhiteout(&st): // it was taken away below, and is new here: nothing of the old one shows
			if err = u.clear(dir, base); err == nil {
				if err = unix.Mkdirat(dir, base, 0o700); err == nil {
					err = layer.SetOpaque(at(dir, base))
				}
			}
		default:
			if err = u.clear(dir, base); err == nil {
				err = unix.Mkdirat(dir, base, 0o700)
			}
		}
	}
	if err != nil {
		return u.failed("make directory", base, err)
	}
	return u.later(path.Join(d.name, base), h)
}

func (u *unpacker) file(dir int, base string, h *tar.Header, r io.Reader) error {
	var fd int
	err := u.replaced(dir, base, func() (err error) {
		fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return u.failed("create", base, err)
	}
	err = u.write(fd, h.Size, r)
	if err == nil {
		err = u.attributes(fd, h)
	}
	if bad := unix.Close(fd); err == nil && bad != nil {
		err = u.failed("write", base, bad)
	}
	if err != nil {
		return err
	}
	return u.times(dir, base, h)
}

// write writes a file's content. Long runs of zeros become holes: they take no room, and do not count.
func (u *unpacker) write(fd int, size int64, r io.Reader) error {
	if u.holes -= size; u.holes < 0 {
		return fmt.Errorf("it unpacks to too much: %w", ErrTooLarge)
	}
	var offset int64
	hole := false
	for offset < size {
		p := u.buf[:min(size-offset, int64(len(u.buf)))]
		if _, err := io.ReadFull(r, p); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return damaged(err)
		}
		if hole = size > int64(len(u.buf)) && isZero(p); !hole {
			if u.left -= int64(len(p)); u.left < 0 {
				return fmt.Errorf("more than %d bytes in this layer: %w", u.max, ErrTooLarge)
			}
			if err := writeAt(fd, p, offset); err != nil {
				return u.failed("write", "file", err)
			}
		}
		offset += int64(len(p))
	}
	if hole {
		return u.failedOr(unix.Ftruncate(fd, size))
	}
	return nil
}

func (u *unpacker) failedOr(err error) error {
	if err == nil {
		return nil
	}
	return u.failed("write", "file", err)
}

func (u *unpacker) symlink(dir int, base string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
		return fmt.Errorf("%w: a link to a path of %d bytes", ErrArchive, len(h.Linkname))
	}
	err := u.replaced(dir, base, func() error { return unix.Symlinkat(h.Linkname, dir, base) })
	if err != nil {
		return u.failed("link", base, err)
	}
	return u.named(dir, base, h)
}

// named sets owner and times of what can not be opened.
func (u *unpacker) named(dir int, base string, h *tar.Header) error {
	if u.shifted {
		if err := unix.Fchownat(dir, base, u.id(h.Uid), u.id(h.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return u.failed("change the owner of", base, err)
		}
	}
	return u.times(dir, base, h)
}

// link makes a hard link to an earlier entry of the same layer.
func (u *unpacker) link(dir int, base string, h *tar.Header) error {
	target, err := inside(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %.300q: %w", h.Linkname, err)
	}
	missing := fmt.Errorf("%w: a hard link to %.300q, which is not in this layer", ErrArchive, h.Linkname)
	from := u.root
	if above := path.Dir(target); above != "." {
		if from, err = u.openDir(above); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return missing
		} else if err != nil {
			return u.failed("enter directory", above, err)
		}
		defer unix.Close(from)
	}
	var old, now unix.Stat_t
	if err := unix.Fstatat(from, path.Base(target), &old, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) || err == nil && isWhiteout(&old) {
		return missing
	} else if err != nil {
		return u.failed("look at", target, err)
	}
	if old.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("%w: a hard link to the directory %.300q", ErrArchive, h.Linkname)
	}
	if err := unix.Fstatat(dir, base, &now, unix.AT_SYMLINK_NOFOLLOW); err == nil && now.Ino == old.Ino {
		return nil
	}
	err = u.replaced(dir, base, func() error { return unix.Linkat(from, path.Base(target), dir, base, 0) })
	if errors.Is(err, unix.ENOENT) { // it lay in the directory whose place the link takes
		return missing
	}
	if err != nil {
		return u.failed("link", base, err)
	}
	return nil
}

func (u *unpacker) fifo(dir int, base string, h *tar.Header) error {
	mode := uint32(h.Mode & 0o7777)
	err := u.replaced(dir, base, func() error { return unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0) })
	if err == nil {
		err = unix.Fchmodat(dir, base, mode, 0) // we made it: it is no link
	}
	if err != nil {
		return u.failed("make", base, err)
	}
	return u.named(dir, base, h)
}

// opaque hides what layers below have in a directory.
func (u *unpacker) opaque(name string) error {
	d, err := u.parent(name)
	if err != nil {
		return err
	}
	if d.name == "." {
		u.res.whole = true
	}
	return u.failedOr(layer.SetOpaque(at(d.fd, ".")))
}

// whiteout hides what layers below have at base. What this layer itself has there stays.
func (u *unpacker) whiteout(name, base string) error {
	if base == "" || base == "." || base == ".." {
		return fmt.Errorf("%w: it takes away nothing", ErrArchive)
	}
	d, err := u.parent(name)
	if err != nil {
		return err
	}
	dir := d.fd
	var st unix.Stat_t
	err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return u.failedOr(layer.Whiteout(at(dir, base)))
	case err != nil:
		return u.failed("look at", base, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return u.failedOr(layer.SetOpaque(at(dir, base)))
	}
	return nil
}

// attributes sets owner, mode and extended attributes of an open file. Their order matters: a change of the owner takes
// set-user-ID bits and capabilities away.
func (u *unpacker) attributes(fd int, h *tar.Header) error {
	if u.shifted {
		if err := unix.Fchown(fd, u.id(h.Uid), u.id(h.Gid)); err != nil {
			return u.failed("change the owner of", h.Name, err)
		}
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxAttribute); ok {
			if err := u.extended(fd, name, []byte(value)); err != nil {
				return u.failed("set attribute "+name+" of", h.Name, err)
			}
		}
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return u.failed("change the mode of", h.Name, err)
	}
	return nil
}

// extended sets one extended attribute, if it is one that a layer may have.
func (u *unpacker) extended(fd int, name string, value []byte) error {
	switch {
	case strings.HasPrefix(name, overlayAttribute):
		u.res.leftOut++
		return nil
	case name == capability && u.shifted:
		value = ownCapability(value, u.owner)
	case !strings.HasPrefix(name, userAttribute):
		value = nil
	}
	if value == nil {
		u.res.leftOut++
		return nil
	}
	err := unix.Fsetxattr(fd, name, value, 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) {
		u.res.leftOut++ // this file system has none, or not so long ones
		return nil
	}
	return err
}

// times sets when something was changed; years that the kernel does not know are cut by it.
func (u *unpacker) times(dir int, base string, h *tar.Header) error {
	t := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	if h.ModTime.IsZero() {
		t = unix.Timespec{}
	}
	if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return u.failed("set the time of", base, err)
	}
	return nil
}

// id is the host's id of a user or group of the image.
func (u *unpacker) id(inside int) int {
	if inside < 0 || inside >= ids || u.owner > math.MaxInt32 {
		inside = nobody
	}
	return u.owner + inside
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func writeAt(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// isZero compares p with itself, shifted by one.
func isZero(p []byte) bool {
	return len(p) > 0 && p[0] == 0 && string(p[1:]) == string(p[:len(p)-1])
}
