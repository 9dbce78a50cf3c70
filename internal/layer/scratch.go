package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Scratch is a directory in a store for work that ends with this process: when the process has gone, even by
// SIGKILL, the directory is removed by the next one that opens the store.
type Scratch struct {
	s    *Store
	dir  string
	lock *os.File
}

// Scratch makes a new directory for work.
func (s *Store) Scratch() (*Scratch, error) {
	c := &Scratch{s: s, dir: filepath.Join(s.dir, scratchDir, string(NewID()))}
	err := s.shared(func() error {
		lock, err := os.OpenFile(c.dir+".lock", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		c.lock = lock
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return err
		}
		return os.Mkdir(c.dir, 0o700)
	})
	if err != nil {
		return nil, fmt.Errorf("make room for work: %w", err)
	}
	return c, nil
}

// Dir is the scratch directory.
func (c *Scratch) Dir() string { return c.dir }

// Use keeps layers from being collected until Release.
func (c *Scratch) Use(ids ...ID) error {
	return c.s.shared(func() error {
		for _, id := range ids {
			if _, err := c.s.Layer(id); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(c.lock, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Release gives the directory up. It is removed in the background; Store.Close waits for that.
func (c *Scratch) Release() error {
	if c.lock == nil {
		return nil
	}
	err := c.s.discard(c.dir)
	if bad := os.Remove(c.dir + ".lock"); err == nil && !errors.Is(bad, fs.ErrNotExist) {
		err = bad
	}
	c.lock.Close()
	c.lock = nil
	return err
}

// discard moves a directory to the trash and removes it in the background.
func (s *Store) discard(dir string) error {
	trash := filepath.Join(s.dir, trashDir, string(NewID()))
	if err := os.Rename(dir, trash); err != nil {
		return err
	}
	s.removeLater(trash)
	return nil
}

func (s *Store) removeLater(dirs ...string) {
	s.mu.Lock()
	remove := s.remove
	s.mu.Unlock()
	s.jobs.Add(1)
	go func() {
		defer s.jobs.Done()
		for _, dir := range dirs {
			_ = remove(dir) // what resists is tried again when the store is opened next
		}
	}()
}

// SetRemover says how trees are removed that hold other users' files: by a process with the right to.
func (s *Store) SetRemover(remove func(dir string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove = remove
}

// sweep removes what ended processes left. It has the store to itself: between the making of a scratch directory's
// lock and the taking of it, the directory looks left.
func (s *Store) sweep() error { return s.locked(syscall.LOCK_EX, s.removeLeft) }

func (s *Store) removeLeft() error {
	dirs, err := s.entries(trashDir, func(fs.FileInfo) bool { return true })
	if err != nil {
		return err
	}
	forgotten, err := s.entries(newDir, old)
	if err != nil {
		return err
	}
	dirs = append(dirs, forgotten...)
	err = s.eachScratch(func(dir string, alive bool, _ []ID) error {
		if alive {
			return nil
		}
		dirs = append(dirs, dir)
		return os.Remove(dir + ".lock")
	})
	if len(dirs) > 0 {
		s.removeLater(dirs...)
	}
	return err
}

// entries gives the paths of those entries of a part of the store that match.
func (s *Store) entries(part string, match func(fs.FileInfo) bool) ([]string, error) {
	found, err := os.ReadDir(filepath.Join(s.dir, part))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range found {
		if info, err := e.Info(); err == nil && match(info) {
			names = append(names, filepath.Join(s.dir, part, e.Name()))
		}
	}
	return names, nil
}

// eachScratch visits every scratch directory, or its lock if that is all there is.
func (s *Store) eachScratch(visit func(dir string, alive bool, uses []ID) error) error {
	parent := filepath.Join(s.dir, scratchDir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(parent, strings.TrimSuffix(e.Name(), ".lock"))
		if !strings.HasSuffix(e.Name(), ".lock") {
			if _, err := os.Lstat(dir + ".lock"); errors.Is(err, fs.ErrNotExist) {
				s.removeLater(dir)
			}
			continue
		}
		alive, uses, err := readLock(dir + ".lock")
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue // released meanwhile
			}
			return err
		}
		if err := visit(dir, alive, uses); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func readLock(name string) (alive bool, uses []ID, err error) {
	f, err := os.Open(name)
	if err != nil {
		return false, nil, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	alive = errors.Is(err, syscall.EWOULDBLOCK)
	if err != nil && !alive {
		return false, nil, err
	}
	text, err := os.ReadFile(name)
	for _, line := range strings.Fields(string(text)) {
		uses = append(uses, ID(line))
	}
	return alive, uses, err
}
