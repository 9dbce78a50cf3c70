package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// packer writes a layer's files as a tar: the reverse of unpacker.
type packer struct {
	w     *tar.Writer
	dir   string
	owner int // of root in the machine, -1 if ids are the host's own
	links map[uint64]string
	buf   []byte
}

// packTar writes the layer at dir as a tar with whiteouts in the way of OCI. The same files always give the same bytes.
func packTar(ctx context.Context, w io.Writer, dir string, l layer.Layer) error {
	p := &packer{w: tar.NewWriter(w), dir: dir, owner: l.Owner, links: map[uint64]string{}, buf: make([]byte, chunkSize)}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return p.entry(path, name)
	})
	if err != nil {
		return err
	}
	return p.w.Close()
}

func (p *packer) entry(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	h := &tar.Header{
		Name: name, Format: tar.FormatPAX, Mode: int64(st.Mode & 0o7777), ModTime: time.Unix(st.Mtim.Sec, 0),
		Uid: p.id(int(st.Uid)), Gid: p.id(int(st.Gid)),
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return p.directory(path, name, h)
	case syscall.S_IFREG:
		return p.file(path, h, st)
	case syscall.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case syscall.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case syscall.S_IFCHR:
		if st.Rdev != 0 {
			return nil // a machine has devices of its own
		}
		return p.mark(filepath.Join(filepath.Dir(name), whiteoutPrefix+filepath.Base(name)))
	default: // sockets end with whoever listened
		return nil
	}
	if p.linked(h, st) {
		h.Typeflag, h.Size = tar.TypeLink, 0
	}
	return p.w.WriteHeader(h)
}

// id is an id as the image has it.
func (p *packer) id(host int) int {
	switch {
	case p.owner < 0:
		return host
	case host >= p.owner && host < p.owner+ids && os.Geteuid() == 0:
		return host - p.owner
	case os.Geteuid() == 0:
		return nobody
	}
	return 0 // all files of an ordinary user's machines are that user's
}

// mark writes an empty file that says something of the layers below. It is the same whenever it is written.
func (p *packer) mark(name string) error {
	return p.w.WriteHeader(&tar.Header{Name: name, Format: tar.FormatPAX, Mode: 0o600, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)})
}

func (p *packer) directory(path, name string, h *tar.Header) error {
	h.Typeflag = tar.TypeDir
	h.Name += "/"
	opaque, err := p.attributes(path, h)
	if err != nil {
		return err
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	if opaque {
		return p.mark(filepath.Join(name, opaqueName))
	}
	return nil
}

// linked turns the header of a file that was written before into that of a hard link to it.
func (p *packer) linked(h *tar.Header, st *syscall.Stat_t) bool {
	if st.Nlink < 2 {
		return false
	}
	first, ok := p.links[st.Ino]
	if !ok {
		p.links[st.Ino] = h.Name
		return false
	}
	h.Linkname = first
	return true
}

func (p *packer) file(path string, h *tar.Header, st *syscall.Stat_t) error {
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if p.linked(h, st) {
		h.Typeflag, h.Size = tar.TypeLink, 0
		return p.w.WriteHeader(h)
	}
	if _, err := p.attributes(path, h); err != nil {
		return err
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	f, err := openOwn(path, st)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{p.w}, struct{ io.Reader }{io.LimitReader(f, st.Size)}, p.buf); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// openOwn opens a file for reading, also one that forbids it to its owner, as shadow files do.
func openOwn(path string, st *syscall.Stat_t) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if !errors.Is(err, fs.ErrPermission) || int(st.Uid) != os.Geteuid() {
		return f, err
	}
	if err := syscall.Chmod(path, st.Mode&0o7777|0o400); err != nil {
		return nil, err
	}
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	return f, errors.Join(err, syscall.Chmod(path, st.Mode&0o7777))
}

// attributes adds the extended attributes that an image may have, and says whether an overlay takes the directory for
// opaque.
func (p *packer) attributes(path string, h *tar.Header) (opaque bool, err error) {
	names, err := listAttributes(path)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		own := strings.HasPrefix(name, overlayAttribute)
		if own && name != overlayAttribute+"opaque" || !strings.HasPrefix(name, userAttribute) && name != capability {
			continue
		}
		value, err := readAttribute(path, name)
		if err != nil {
			return false, err
		}
		switch {
		case own:
			opaque = bytes.Equal(value, []byte("y"))
			continue
		case name == capability:
			value = imageCapability(value)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxAttribute+name] = string(value)
	}
	return opaque, nil
}

func listAttributes(path string) ([]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if n <= 0 || err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	buf := make([]byte, n)
	if n, err = unix.Llistxattr(path, buf); err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
}

func readAttribute(path, name string) ([]byte, error) {
	buf := make([]byte, 64<<10) // what the kernel takes at most
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return nil, fmt.Errorf("attribute %s: %w", name, err)
	}
	return buf[:n], nil
}
