package deploy

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/image"
)

const (
	// maxContext bounds the files that an image is built of, bytes, and maxContextFiles their number.
	maxContext      = 8 << 30
	maxContextFiles = 500_000
	// maxBuildLog is how much of a failed build's output is told, bytes: the latest.
	maxBuildLog = 4 << 10
)

// Images are where the images of releases come from: this machine's store, its registries, or a build.
type Images struct {
	Store   *image.Store
	Builder *build.Builder
	Dir     string // for the contexts of builds, while they are built
}

// Pin gives a reference with the digest of what a reference means now: of the image of that name that is here - a job may have
// built it - else of its registry's, which is fetched.
func (i *Images) Pin(ctx context.Context, ref string) (string, error) {
	found, err := i.Store.Find(ref)
	if errors.Is(err, image.ErrNotFound) {
		found, err = i.Store.Pull(ctx, ref, image.PullOptions{})
	}
	if err != nil {
		return "", err
	}
	return pinned(found.Name, found.Digest), nil
}

// pinned is a full name with a digest in place of its tag.
func pinned(name, digest string) string {
	name, _, _ = strings.Cut(name, "@")
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[:at]
	}
	return name + "@" + digest
}

// Build builds an image of files, a tar stream, gives it a name, and returns its reference with its digest. A build that fails is
// told with the end of its output.
func (i *Images) Build(ctx context.Context, name string, r build.Request, files func(io.Writer) error) (string, error) {
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(i.Dir, "context-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	in, out := io.Pipe()
	go func() { out.CloseWithError(files(out)) }()
	err = extract(root, in)
	in.Close()
	if err != nil {
		return "", fmt.Errorf("the files to build of: %w", err)
	}
	log := &lastBytes{max: maxBuildLog}
	r.Context, r.Names, r.Scope = root, []string{name}, name
	result, err := i.Builder.Build(ctx, r, build.NewProgress(log))
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, strings.TrimSpace(log.String()))
	}
	full, err := image.FullName(name)
	if err != nil {
		return "", err
	}
	return pinned(full, result.Image.Digest), nil
}

// extract unpacks a tar stream below a root, which nothing leaves.
func extract(root *os.Root, r io.Reader) error {
	in := tar.NewReader(io.LimitReader(r, maxContext))
	for files := 0; ; files++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if files >= maxContextFiles {
			return fmt.Errorf("more than %d files", maxContextFiles)
		}
		name := path.Clean(h.Name)
		mode := os.FileMode(h.Mode & 0o777)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, mode|0o700)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = write(root, name, mode, in)
		}
		if err != nil {
			return err
		}
	}
}

func write(root *os.Root, name string, mode os.FileMode, r io.Reader) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
