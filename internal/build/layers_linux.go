package build

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// opaque is how a directory of a layer says that it hides those below it.
const opaque = "user.overlay.opaque"

// contentOf is the hash of a layer's files, times left out.
func (b *Builder) contentOf(id layer.ID) (string, error) {
	root, err := b.Layers.Open(id)
	if err != nil {
		return "", err
	}
	defer root.Close()
	dir := filepath.Join(b.Layers.Dir(), layer.Path(id))
	sum := sha256.New()
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errUnsupported
		}
		var whole [1]byte
		n, _ := unix.Lgetxattr(filepath.Join(dir, name), opaque, whole[:]) // none is an error
		fmt.Fprintf(sum, "%q %v %d %d %d %d\n", name, info.Mode(), st.Uid, st.Gid, st.Rdev, n)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := root.Readlink(name)
			fmt.Fprintf(sum, "%q\n", target)
			return err
		case info.Mode().IsRegular():
			content, err := hashFile(root, name)
			fmt.Fprintln(sum, content)
			return err
		}
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// bare takes the marks off a layer that lies on nothing, which older kernels set on every new directory: what it would
// hide is not known yet, since COPY --link puts the layer on other trees.
func (b *Builder) bare(id layer.ID) error {
	dir := filepath.Join(b.Layers.Dir(), layer.Path(id))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := unix.Lremovexattr(filepath.Join(dir, e.Name()), opaque); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

// ownByRoot makes a file of this host belong to root inside machines.
func ownByRoot(name string) error {
	if os.Getuid() != 0 {
		return nil // root inside is this user
	}
	return os.Lchown(name, sandbox.Owner(), sandbox.Owner())
}

// setTime sets the time of a file, a link's own.
func setTime(name string, at time.Time) error {
	t := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}
