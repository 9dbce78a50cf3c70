package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// Limits of what Put takes: those of the other providers, and what is kept in memory of names.
const (
	maxDockerEntries = 5_000_000
	maxDockerBytes   = 256 << 30
	maxDockerNames   = 256 << 20
)

// Put implements Sandbox. The daemon unpacks, below the container's root, what sift lets through; of links that were in
// dir before it knows only that they do not leave the container.
func (c *dockerContainer) Put(ctx context.Context, dir string, stream io.Reader) error {
	if err := c.put(ctx, path.Clean(dir), stream); err != nil {
		return fmt.Errorf("put files into %s: %w", dir, err)
	}
	return nil
}

func (c *dockerContainer) put(ctx context.Context, dir string, stream io.Reader) error {
	if !path.IsAbs(dir) {
		return errors.New("not an absolute path")
	}
	if err := c.alive(); err != nil {
		return err
	}
	if err := c.noLinks(ctx, dir); err != nil {
		return err
	}
	if err := c.makeDir(ctx, dir); err != nil {
		return err
	}
	r, w := io.Pipe()
	sifted := make(chan error, 1)
	go func() {
		err := sift(stream, w)
		sifted <- err
		w.CloseWithError(err)
	}()
	_, err := c.d.api.CopyToContainer(ctx, c.name, client.CopyToContainerOptions{DestinationPath: dir, Content: r})
	r.CloseWithError(io.ErrClosedPipe)
	if bad := <-sifted; bad != nil && !errors.Is(bad, io.ErrClosedPipe) {
		return bad
	}
	return err
}

// makeDir makes a directory and those above it, unless it is there.
func (c *dockerContainer) makeDir(ctx context.Context, dir string) error {
	up, err := c.existing(ctx, dir)
	if err != nil || up == dir {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	below := strings.TrimPrefix(dir[len(up):], "/") + "/"
	for i := range below {
		if below[i] == '/' {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: below[:i+1], Mode: 0o755, ModTime: time.Now()}))
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	_, err = c.d.api.CopyToContainer(ctx, c.name, client.CopyToContainerOptions{DestinationPath: up, Content: &b})
	return err
}

// existing gives the lowest directory at or above dir that is there.
func (c *dockerContainer) existing(ctx context.Context, dir string) (string, error) {
	for up := dir; ; up = path.Dir(up) {
		_, err := c.d.api.ContainerStatPath(ctx, c.name, client.ContainerStatPathOptions{Path: up})
		if err == nil || up == "/" || !errdefs.IsNotFound(err) {
			return up, err
		}
	}
}

// noLinks refuses a directory below the runner's own files that the job leads elsewhere by a link. It can not help
// against a job that places one in the same moment: what Put writes stays in the container all the same.
func (c *dockerContainer) noLinks(ctx context.Context, dir string) error {
	if c.info.Files == "" || !strings.HasPrefix(dir, c.info.Files+"/") {
		return nil
	}
	for up := dir; up != c.info.Files; up = path.Dir(up) {
		got, err := c.d.api.ContainerStatPath(ctx, c.name, client.ContainerStatPathOptions{Path: up})
		if err == nil && got.Stat.Mode&os.ModeSymlink != 0 {
			return errLinkOut
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

var (
	errLinkOut  = errors.New("the name leads out of the directory")
	errLinkOver = errors.New("the name leads through a link of the same archive")
	errNoFile   = errors.New("neither a file, a directory nor a link")
)

// sift copies a tar stream for Docker to unpack: names that lead out, devices and pipes are errors. Owners and extended
// attributes are left out.
func sift(in io.Reader, out io.Writer) error {
	s := &sifter{in: tar.NewReader(in), out: tar.NewWriter(out), seen: map[string]passed{}, left: maxDockerBytes, names: maxDockerNames}
	for range maxDockerEntries {
		h, err := s.in.Next()
		if err == io.EOF {
			return s.out.Close()
		}
		if err != nil {
			return &fs.PathError{Op: "unpack", Path: "the tar stream", Err: err}
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := s.entry(h); err != nil {
			return &fs.PathError{Op: "unpack", Path: h.Name, Err: err}
		}
	}
	return errors.New("unpack: too many entries")
}

type sifter struct {
	in    *tar.Reader
	out   *tar.Writer
	seen  map[string]passed // files and links passed on
	left  int64             // bytes
	names int               // bytes
}

// passed is what there is to know of an entry that later ones may lead through or link to.
type passed struct {
	link bool // a symbolic one
	mode int64
	time time.Time
}

// namePrice is what remembering a name costs beside its own length.
const namePrice = 128

func (s *sifter) entry(h *tar.Header) error {
	name, err := s.local(h.Name)
	if err != nil {
		return err
	}
	clean := &tar.Header{Typeflag: h.Typeflag, Name: name, Mode: h.Mode & 0o777, ModTime: h.ModTime.Truncate(time.Second)}
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "." {
			return nil
		}
		clean.Name += "/"
	case tar.TypeReg, tar.TypeGNUSparse:
		if h.Size > s.left {
			return syscall.EFBIG
		}
		s.left -= h.Size
		clean.Typeflag, clean.Size = tar.TypeReg, h.Size
		err = s.remember(name, passed{mode: clean.Mode, time: clean.ModTime})
	case tar.TypeSymlink:
		clean.Linkname = h.Linkname
		err = s.remember(name, passed{link: true})
	case tar.TypeLink:
		var old string
		if old, err = s.local(h.Linkname); err != nil {
			return err
		}
		clean.Linkname = old
		if to, ok := s.seen[old]; ok { // the daemon gives the file what the link's entry says
			clean.Mode, clean.ModTime = to.mode, to.time
			err = s.remember(name, to)
		}
	default:
		err = errNoFile
	}
	if err != nil {
		return err
	}
	if name == "." && h.Typeflag != tar.TypeDir {
		return errLinkOut
	}
	if err := s.out.WriteHeader(clean); err != nil {
		return err
	}
	_, err = io.Copy(s.out, s.in)
	return err
}

func (s *sifter) remember(name string, p passed) error {
	if s.names -= len(name) + namePrice; s.names < 0 {
		return errors.New("too many names")
	}
	s.seen[name] = p
	return nil
}

// local gives the clean form of a name that stays inside and leads through no link of the archive.
func (s *sifter) local(given string) (string, error) {
	name := path.Clean(given)
	if path.IsAbs(given) || !filepath.IsLocal(name) {
		return "", errLinkOut
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if s.seen[dir].link {
			return "", errLinkOver
		}
	}
	return name, nil
}

// Get implements Sandbox.
func (c *dockerContainer) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := c.alive(); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	got, err := c.d.api.CopyFromContainer(ctx, c.name, client.CopyFromContainerOptions{SourcePath: path.Clean(name)})
	if errdefs.IsNotFound(err) {
		err = &fs.PathError{Op: "get", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	r, w := io.Pipe()
	go func() { // ends with the reader's Close at the latest
		defer got.Content.Close()
		w.CloseWithError(ordinaryEntries(got.Content, w))
	}()
	return r, nil
}

// ordinaryEntries copies a tar stream without what is no file, directory or link.
func ordinaryEntries(in io.Reader, out io.Writer) error {
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
		default:
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}
