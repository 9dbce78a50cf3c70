package agent

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"
)

// Limits of what Unpack takes: enough for any tool or cache, and an end to what is made to fill disks.
const (
	maxUnpackEntries = 5_000_000
	maxUnpackBytes   = 256 << 30
)

// Unpack writes a tar stream below dir, which is made if missing. Owners are not taken over. Whatever would be written
// outside of dir, links followed, is an error, as are devices and pipes; what came before it stays.
func Unpack(dir string, stream io.Reader) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, tar: tar.NewReader(stream), left: maxUnpackBytes}
	for range maxUnpackEntries {
		h, err := u.tar.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return &fs.PathError{Op: "unpack", Path: "the tar stream", Err: err}
		}
		if err := u.entry(h); err != nil {
			return &fs.PathError{Op: "unpack", Path: h.Name, Err: unwrapPath(err)}
		}
	}
	return errors.New("unpack: too many entries")
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

type unpacker struct {
	root *os.Root
	tar  *tar.Reader
	left int64
	dirs []*tar.Header // their modes and times are set when they are filled
}

var (
	errOutside = errors.New("the name leads out of the directory")
	errKind    = errors.New("neither a file, a directory nor a link")
	errTooBig  = errors.New("too big")
)

func (u *unpacker) entry(h *tar.Header) error {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !filepath.IsLocal(name) || path.IsAbs(h.Name) {
		return errOutside
	}
	h.Name = name
	if name != "." {
		if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(h)
	case tar.TypeSymlink:
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		old := path.Clean(h.Linkname)
		if !filepath.IsLocal(old) || path.IsAbs(h.Linkname) {
			return errOutside
		}
		if err := u.clear(name); err != nil {
			return err
		}
		return u.root.Link(old, name)
	}
	return errKind
}

// clear removes what is in the way of a new file.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return syscall.EISDIR
	}
	return u.root.Remove(name)
}

func (u *unpacker) dir(h *tar.Header) error {
	u.dirs = append(u.dirs, h)
	if h.Name == "." {
		return nil
	}
	err := u.root.Mkdir(h.Name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, bad := u.root.Stat(h.Name)
		if bad != nil {
			return bad
		}
		if info.IsDir() {
			return nil
		}
	}
	return err
}

func (u *unpacker) file(h *tar.Header) error {
	if h.Size > u.left {
		return errTooBig
	}
	u.left -= h.Size
	if err := u.clear(h.Name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.tar)
	if err == nil {
		err = f.Chmod(fs.FileMode(h.Mode) & fs.ModePerm)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.times(h)
}

func (u *unpacker) times(h *tar.Header) error {
	if h.ModTime.Unix() <= 0 {
		return nil
	}
	return u.root.Chtimes(h.Name, time.Time{}, h.ModTime)
}

func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		h := u.dirs[i]
		if err := errors.Join(u.root.Chmod(h.Name, fs.FileMode(h.Mode)&fs.ModePerm), u.times(h)); err != nil {
			return &fs.PathError{Op: "unpack", Path: h.Name, Err: unwrapPath(err)}
		}
	}
	return nil
}

// Pack writes the file or directory at name as a tar stream, with names relative to its parent. Sockets, pipes and
// devices are left out.
func Pack(name string, stream io.Writer) error {
	name = filepath.Clean(name)
	p := &packer{tar: tar.NewWriter(stream), parent: filepath.Dir(name), links: map[inode]string{}}
	if err := filepath.WalkDir(name, p.entry); err != nil {
		return err
	}
	return p.tar.Close()
}

type inode struct{ device, number uint64 }

type packer struct {
	tar    *tar.Writer
	parent string
	links  map[inode]string
}

// nameless keeps the tar writer from looking up names for owners: inside they mean nothing outside.
type nameless struct{ fs.FileInfo }

func (nameless) Uname() (string, error) { return "", nil }
func (nameless) Gname() (string, error) { return "", nil }

func (p *packer) entry(name string, e fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := e.Info()
	if err != nil || info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(nameless{info}, link)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.parent, name)
	if err != nil {
		return err
	}
	h.Name, h.Format = filepath.ToSlash(rel), tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && info.Mode().IsRegular() {
		key := inode{uint64(st.Dev), st.Ino}
		if first := p.links[key]; first != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[key] = h.Name
		}
	}
	if err := p.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	return p.content(name, h.Size)
}

// content writes size bytes of a file, which may grow or shrink meanwhile.
func (p *packer) content(name string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(p.tar, io.LimitReader(f, size))
	if err == nil && n < size {
		_, err = io.CopyN(p.tar, zeros{}, size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
