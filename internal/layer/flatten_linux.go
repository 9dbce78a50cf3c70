package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Flatten makes one layer of a stack, the lowest first, which looks the same on whatever lies below. Files are hard
// links: it costs no room, and the layers may be collected.
func (s *Store) Flatten(ids ...ID) (ID, error) {
	stack, err := s.Stack(ids...)
	if err != nil {
		return "", fmt.Errorf("flatten: %w", err)
	}
	if len(stack) == 0 {
		return "", fmt.Errorf("flatten: %w", ErrNotExist)
	}
	made := filepath.Join(s.dir, newDir, string(NewID()))
	for _, l := range stack {
		var from string
		if from, err = filepath.EvalSymlinks(filepath.Join(s.dir, Path(l.ID))); err == nil {
			err = merge(from, made)
		}
		if err != nil {
			break
		}
	}
	var id ID
	if err == nil {
		id, err = s.Add(made, Layer{Whole: stack[0].Whole, Owner: stack[0].Owner})
	}
	if err != nil {
		_ = RemoveAll(made) // else the next Open does
		return "", fmt.Errorf("flatten: %w", err)
	}
	return id, nil
}

// merge puts the layer at from on top of the one at to.
func merge(from, to string) error {
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(name, from)
		if !e.IsDir() {
			if err := os.RemoveAll(target); err != nil {
				return err
			}
			return os.Link(name, target)
		}
		hides := isOpaque(name)
		if old, err := os.Lstat(target); err == nil && (hides || !old.IsDir()) {
			hides = hides || !old.IsDir()
			if err := os.RemoveAll(target); err != nil {
				return err
			}
		}
		return mergeDir(name, target, hides)
	})
}

// mergeDir makes target like the directory name, or changes it to be. hides says that what lies below is not to show.
func mergeDir(name, target string, hides bool) error {
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	if int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
		if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
		return err
	}
	if hides {
		return SetOpaque(target)
	}
	return nil
}

func isOpaque(dir string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, opaque, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}
