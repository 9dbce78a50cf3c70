package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// young is the age below which nothing is collected: who made a layer needs time to refer to it.
const young = time.Hour

func old(info fs.FileInfo) bool { return time.Since(info.ModTime()) > young }

// shared runs do while no Collect decides.
func (s *Store) shared(do func() error) error { return s.locked(syscall.LOCK_SH, do) }

func (s *Store) locked(how int, do func() error) error {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err = syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return err
	}
	return do()
}

// refPath is where a reference is kept; any name is one file name.
func (s *Store) refPath(name string) string {
	return filepath.Join(s.dir, refsDir, url.QueryEscape(name))
}

// SetRef makes name refer to ids and what they stand on, which keeps them from being collected. It replaces what name
// referred to; no ids delete the reference. Any text is a name.
func (s *Store) SetRef(name string, ids ...ID) error {
	err := s.shared(func() error {
		if len(ids) == 0 {
			if err := os.Remove(s.refPath(name)); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		var text strings.Builder
		for _, id := range ids {
			if _, err := s.Layer(id); err != nil {
				return err
			}
			fmt.Fprintln(&text, id)
		}
		made := filepath.Join(s.dir, newDir, string(NewID()))
		if err := os.WriteFile(made, []byte(text.String()), 0o600); err != nil {
			return err
		}
		return os.Rename(made, s.refPath(name))
	})
	if err != nil {
		return fmt.Errorf("keep layers for %s: %w", name, err)
	}
	return nil
}

// Ref gives the layers that name refers to, or ErrNotExist.
func (s *Store) Ref(name string) ([]ID, error) {
	text, err := os.ReadFile(s.refPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layers of %s: %w", name, ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("layers of %s: %w", name, err)
	}
	var ids []ID
	for _, line := range strings.Fields(string(text)) {
		ids = append(ids, ID(line))
	}
	return ids, nil
}

// Refs gives the names of all references that begin with prefix, sorted.
func (s *Store) Refs(prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, refsDir))
	if err != nil {
		return nil, fmt.Errorf("list references: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, err := url.QueryUnescape(e.Name()); err == nil && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Collect removes the layers that neither a reference nor a machine at work nor keep needs and that are older than
// an hour. It decides at once and removes in the background; Close waits for that. A process that is killed
// meanwhile leaves nothing half-removed among the layers.
func (s *Store) Collect(ctx context.Context, keep ...ID) error {
	err := s.locked(syscall.LOCK_EX, func() error {
		needed, err := s.needed(keep)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, layersDir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil || needed[ID(e.Name())] || !old(info) {
				continue
			}
			if err := s.discard(filepath.Join(s.dir, layersDir, e.Name())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("collect layers: %w", err)
	}
	return nil
}

// needed are all layers that something refers to.
func (s *Store) needed(keep []ID) (map[ID]bool, error) {
	todo := slices.Clone(keep)
	names, err := s.Refs("")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		ids, err := s.Ref(name)
		if err != nil && !errors.Is(err, ErrNotExist) {
			return nil, err
		}
		todo = append(todo, ids...)
	}
	err = s.eachScratch(func(_ string, alive bool, uses []ID) error {
		if alive {
			todo = append(todo, uses...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	needed := map[ID]bool{}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if needed[id] {
			continue
		}
		needed[id] = true
		l, err := s.Layer(id)
		if err != nil && !errors.Is(err, ErrNotExist) {
			return nil, err
		}
		todo = append(todo, l.Below...)
		if l.Of != "" {
			todo = append(todo, l.Of)
		}
	}
	return needed, nil
}

// Size gives the bytes that a layer's own files take on disk, without those below it.
func (s *Store) Size(id ID) (int64, error) {
	if _, err := s.Layer(id); err != nil {
		return 0, err
	}
	known := filepath.Join(s.dir, layersDir, string(id), "size")
	if text, err := os.ReadFile(known); err == nil {
		if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return n, nil
		}
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(s.dir, Path(id))) // a view's files are another layer's
	if err != nil {
		return 0, fmt.Errorf("size of layer %s: %w", id, err)
	}
	n, err := usage(dir)
	if err != nil {
		return 0, fmt.Errorf("size of layer %s: %w", id, err)
	}
	_ = os.WriteFile(known, strconv.AppendInt(nil, n, 10), 0o600) // layers never change: a later call is cheaper
	return n, nil
}

// usage sums what the files below dir take on disk, each inode once. What can not be read counts nothing.
func usage(dir string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if e != nil && e.IsDir() && errors.Is(err, fs.ErrPermission) {
				return fs.SkipDir
			}
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Nlink > 1 && !e.IsDir() && seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = true
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}

// RemoveAll removes a tree of this user's, also where its directories forbid it.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		return os.Chmod(name, 0o700) // before it is read: WalkDir calls us first
	})
	return os.RemoveAll(dir)
}
