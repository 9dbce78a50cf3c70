package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
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
	rootDir string                 // where it lies on the host
	owner   int                    // of root in the machine
	shifted bool                   // files may be given to others
	max     int64                  // bytes
	left    int64                  // bytes that may still take room
	holes   int64                  // bytes that may still be zeros
	entries int                    // that may still come
	names   int                    // bytes that the names of directories may still have
	dirs    map[string]*tar.Header // by real name; their attributes are set at the end, as entries in them change those
	order   []string
	open    map[string]opened // by the names that entries have
	buf     []byte
	res     result
}

// opened is a directory that entries are made in.
type opened struct {
	fd   int
	name string // its real one, without links, from the root of the image
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
		dirs: map[string]*tar.Header{}, open: map[string]opened{}, buf: make([]byte, chunkSize),
	}
	defer unix.Close(root)
	defer u.forget()
	if u.rootDir, err = os.Readlink(at(root, "")); err != nil {
		return result{}, err
	}
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
	d, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	dir := d.fd
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(d, base, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
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
func (u *unpacker) parent(name string) (opened, error) {
	if name == "." {
		return opened{u.root, "."}, nil
	}
	if d, ok := u.open[name]; ok {
		return d, nil
	}
	fd, err := u.openDir(name)
	if errors.Is(err, unix.ENOENT) {
		if err := u.implied(name); err != nil {
			return opened{}, err
		}
		fd, err = u.openDir(name)
	}
	if err != nil {
		return opened{}, u.failed("enter directory", name, err)
	}
	if len(u.open) >= maxOpenDirs {
		u.forget()
	}
	real, err := os.Readlink(at(fd, ""))
	if err != nil {
		unix.Close(fd)
		return opened{}, err
	}
	d := opened{fd, "."}
	if real != u.rootDir {
		d.name = strings.TrimPrefix(real, u.rootDir+"/")
	}
	u.open[name] = d
	return d, nil
}

// implied makes a directory that the tar has no entry for, yet.
func (u *unpacker) implied(name string) error {
	above, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	if err := u.count(); err != nil {
		return err
	}
	if err := unix.Mkdirat(above.fd, path.Base(name), 0o700); err != nil {
		return u.failed("make directory", name, err)
	}
	return u.later(path.Join(above.name, path.Base(name)), &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755})
}

// openDir opens a directory, for looking names up in it alone.
func (u *unpacker) openDir(name string) (int, error) {
	for {
		fd, err := unix.Openat2(u.root, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
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
	for name, d := range u.open {
		unix.Close(d.fd)
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
	for name, d := range u.open {
		if d.fd != used {
			unix.Close(d.fd)
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

// at gives a path for a name in an open directory, or the link that says where it lies. The last name is not followed by
// what it is used for.
func at(dir int, base string) string {
	link := "/proc/self/fd/" + strconv.Itoa(dir)
	if base == "" {
		return link
	}
	return link + "/" + base
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
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
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
