package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// canUnpack says whether this system has overlays to unpack for.
const canUnpack = true

const (
	// A name that begins so says that something of a layer below is gone, or is for aufs alone.
	whiteoutPrefix = ".wh."
	aufsPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"

	// ids is how many users a machine has; nobody is whom those beyond are.
	ids    = 1 << 16
	nobody = 65534

	// overlayAttribute begins the attributes by which an overlay knows its own marks: no layer may set them.
	overlayAttribute = "user.overlay."
	userAttribute    = "user."
	capability       = "security.capability"
	paxAttribute     = "SCHILY.xattr."

	maxOpenDirs = 64
	maxDepth    = 128      // directories in directories
	maxDirNames = 64 << 20 // bytes of the names of all directories
)

// unpacker writes the entries of a tar below a directory, which is all it ever touches: every path is looked up by the
// kernel as if that directory were the root of the system.
type unpacker struct {
	root    int
	owner   int                    // of root in the machine
	shifted bool                   // files may be given to others
	max     int64                  // bytes
	left    int64                  // bytes that may still take room
	holes   int64                  // bytes that may still be zeros
	entries int                    // that may still come
	names   int                    // bytes that the names of directories may still have
	dirs    map[string]*tar.Header // whose attributes are set at the end, as entries in them change those
	order   []string
	open    map[string]int
	buf     []byte
	res     result
}

// unpackTar unpacks a layer to dir as an overlay of the kernel wants it.
func unpackTar(ctx context.Context, r io.Reader, dir string, o Options) (result, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return result{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u := &unpacker{
		root: root, owner: o.Owner, shifted: os.Geteuid() == 0, max: o.MaxUnpacked, left: o.MaxUnpacked,
		holes: holesFor * o.MaxUnpacked, entries: o.MaxEntries, names: maxDirNames,
		dirs: map[string]*tar.Header{}, open: map[string]int{}, buf: make([]byte, chunkSize),
	}
	defer unix.Close(root)
	defer u.forget()
	if err := u.later(".", &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		return u.res, err
	}
	t := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return u.res, err
		}
		h, err := t.Next()
		if err == io.EOF {
			return u.res, u.finish()
		}
		if err != nil {
			return u.res, damaged(err)
		}
		if err := u.count(); err != nil {
			return u.res, err
		}
		if err := u.entry(h, contextReader{ctx, t}); err != nil {
			return u.res, fmt.Errorf("entry %.300q: %w", h.Name, err)
		}
	}
}

// count counts what takes an inode.
func (u *unpacker) count() error {
	if u.entries--; u.entries < 0 {
		return fmt.Errorf("more files than allowed: %w", ErrTooLarge)
	}
	return nil
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch {
	case base == opaqueName:
		return u.opaque(path.Dir(name))
	case strings.HasPrefix(base, aufsPrefix):
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return u.whiteout(path.Dir(name), strings.TrimPrefix(base, whiteoutPrefix))
	case name == ".":
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the root is no directory", ErrArchive)
		}
		return u.later(".", h)
	}
	dir, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(dir, base, name, h)
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		return u.file(dir, base, h, r)
	case tar.TypeSymlink:
		return u.symlink(dir, base, h)
	case tar.TypeLink:
		return u.link(dir, base, h)
	case tar.TypeFifo:
		return u.fifo(dir, base, h)
	case tar.TypeChar, tar.TypeBlock:
		u.res.leftOut++ // a machine has devices of its own
		return nil
	}
	return fmt.Errorf("%w: unknown type %q", ErrArchive, h.Typeflag)
}

// inside cleans a name; absolute ones are meant from the root of the image. The error wraps ErrArchive if the name leads
// out.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", fmt.Errorf("%w: it leads out of the image", ErrArchive)
	case len(clean) >= unix.PathMax:
		return "", fmt.Errorf("%w: a path of %d bytes", ErrTooLarge, len(clean))
	case strings.Count(clean, "/") > maxDepth:
		return "", fmt.Errorf("%w: more than %d directories deep", ErrTooLarge, maxDepth)
	case strings.ContainsRune(clean, 0):
		return "", fmt.Errorf("%w: a zero byte in its name", ErrArchive)
	}
	return clean, nil
}

// parent opens the directory called name and makes it, and those above it, if the tar has no entry for them. Symbolic
// links in it are followed as they would be in the image, never out of it.
func (u *unpacker) parent(name string) (int, error) {
	if name == "." {
		return u.root, nil
	}
	if fd, ok := u.open[name]; ok {
		return fd, nil
	}
	fd, err := u.openDir(name, 0)
	if errors.Is(err, unix.ENOENT) {
		var above int
		if above, err = u.parent(path.Dir(name)); err != nil {
			return -1, err
		}
		if err := u.count(); err != nil {
			return -1, err
		}
		if err = unix.Mkdirat(above, path.Base(name), 0o700); err != nil {
			return -1, u.failed("make directory", name, err)
		}
		if err := u.later(name, &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return -1, err
		}
		fd, err = u.openDir(name, 0)
	}
	if err != nil {
		return -1, u.failed("enter directory", name, err)
	}
	if len(u.open) >= maxOpenDirs {
		u.forget()
	}
	u.open[name] = fd
	return fd, nil
}

// openDir opens a directory, for looking names up in it alone.
func (u *unpacker) openDir(name string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(u.root, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | flags,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// failed tells an archive that is at fault from a disk that is.
func (u *unpacker) failed(what, name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %s is no directory", ErrArchive, name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %s is a link that leads nowhere", ErrArchive, name)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w: a name of more than 255 bytes", ErrTooLarge)
	}
	return &os.PathError{Op: what, Path: name, Err: err}
}

// forget closes the directories that are open.
func (u *unpacker) forget() {
	for name, fd := range u.open {
		unix.Close(fd)
		delete(u.open, name)
	}
}

// clear removes what is at base, so that something else can be there.
func (u *unpacker) clear(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	u.forgetBut(dir) // a link may have gone that names were looked up through
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return u.failed("remove", base, err)
	}
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return u.failed("remove", base, err)
	}
	defer unix.Close(fd)
	root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(base)
}

// forgetBut closes all directories but the one that is in use.
func (u *unpacker) forgetBut(used int) {
	for name, fd := range u.open {
		if fd != used {
			unix.Close(fd)
			delete(u.open, name)
		}
	}
}

// replaced runs make, and once more after removing what was in its way.
func (u *unpacker) replaced(dir int, base string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := u.clear(dir, base); err != nil {
		return err
	}
	return make()
}

// later notes the attributes that a directory is to have at the end.
func (u *unpacker) later(name string, h *tar.Header) error {
	if _, ok := u.dirs[name]; !ok {
		if u.names -= len(name); u.names < 0 {
			return fmt.Errorf("directories with names of more than %d bytes: %w", maxDirNames, ErrTooLarge)
		}
		u.order = append(u.order, name)
	}
	u.dirs[name] = h
	return nil
}

func (u *unpacker) directory(dir int, base, name string, h *tar.Header) error {
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
	return u.later(name, h)
}

// at gives a path for a name in an open directory. The last name is not followed by what it is used for.
func at(dir int, base string) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + base }

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

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
		if from, err = u.openDir(above, 0); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
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
	if name == "." {
		u.res.whole = true
	}
	fd, err := u.parent(name)
	if err != nil {
		return err
	}
	return u.failedOr(layer.SetOpaque(at(fd, ".")))
}

// whiteout hides what layers below have at base. What this layer itself has there stays.
func (u *unpacker) whiteout(name, base string) error {
	if base == "" || base == "." || base == ".." {
		return fmt.Errorf("%w: it takes away nothing", ErrArchive)
	}
	dir, err := u.parent(name)
	if err != nil {
		return err
	}
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

// finish sets the attributes of directories, those below others first: a directory may forbid to enter it.
func (u *unpacker) finish() error {
	u.forget()
	for i := len(u.order) - 1; i >= 0; i-- {
		name := u.order[i]
		if err := u.finishDir(name, u.dirs[name]); err != nil {
			return fmt.Errorf("directory %.300q: %w", name, err)
		}
	}
	return nil
}

func (u *unpacker) finishDir(name string, h *tar.Header) error {
	fd, err := unix.Openat2(u.root, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil // something else took its place
	}
	if err != nil {
		return u.failed("enter", name, err)
	}
	defer unix.Close(fd)
	if err := u.attributes(fd, h); err != nil {
		return err
	}
	return u.times(fd, ".", h)
}
