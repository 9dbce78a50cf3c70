package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"sync"
	"syscall"
	"time"
)

// maxOpen bounds the files that are kept open between Appends.
const maxOpen = 256

// markSize is the size of a mark in the time index: offset and Unix time in nanoseconds, both little-endian int64.
const markSize = 16

// GapError is returned by Append when bytes are missing between the end of the blob and the offset.
type GapError struct {
	Key    string
	Size   int64 // what the blob has, bytes
	Offset int64 // where the Append wanted to begin
}

func (e *GapError) Error() string {
	return fmt.Sprintf("append to blob %s at %d: it ends at %d, the bytes between are missing", e.Key, e.Offset, e.Size)
}

// Mark says when the bytes from Offset on were appended.
type Mark struct {
	Offset int64
	At     time.Time
}

// appender is a blob open for Append. Its lock makes one Append at a time in this process. Another process may append as well: the
// size is asked of the file each time, and bytes are written where they belong, so that the same bytes written twice are the same.
type appender struct {
	used int64 // guarded by Dir.mu

	mu     sync.Mutex
	closed bool
	fresh  bool // the blob's directory was made for it
	file   *os.File
	times  *os.File
}

// Append implements Store. The file stays open for the next one.
func (s *Dir) Append(key string, offset int64, p []byte, at time.Time) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if offset < 0 {
		return fmt.Errorf("append to blob %s: negative offset %d", key, offset)
	}
	if err := s.room(len(p)); err != nil {
		return fmt.Errorf("append to blob %s: %w", key, err)
	}
	for {
		a, err := s.appender(key)
		if err != nil {
			return fmt.Errorf("append to blob %s: %w", key, err)
		}
		err = a.append(key, offset, p, at)
		if !errors.Is(err, fs.ErrClosed) {
			return err
		}
		// Closed to make room, by Seal, or since another process removed the file: open it again.
		s.forget(key, a)
	}
}

// appending reports whether a blob is open for Append.
func (s *Dir) appending(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[key] != nil
}

// forget takes out an appender that is closed, if it is still there.
func (s *Dir) forget(key string, a *appender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[key] == a {
		delete(s.logs, key)
	}
}

// Seal implements Store: it forces what this process has appended to the disk and closes the files.
func (s *Dir) Seal(key string) error {
	a := s.take(key)
	if a == nil {
		return nil
	}
	err := a.close(true)
	for dir := path.Dir(key); err == nil; dir = path.Dir(dir) {
		if err = s.syncDir(dir); errors.Is(err, fs.ErrNotExist) { // another process has removed the blob
			return nil
		}
		if dir == "." || !a.fresh {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("seal blob %s: %w", key, err)
	}
	return nil
}

// Release implements Store.
func (s *Dir) Release(key string) error {
	a := s.take(key)
	if a == nil {
		return nil
	}
	if err := a.close(false); err != nil {
		return fmt.Errorf("release blob %s: %w", key, err)
	}
	return nil
}

// Times implements Store.
func (s *Dir) Times(key string) ([]Mark, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	f, err := s.root.Open(timesDir + "/" + key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read times of blob %s: %w", key, err)
	}
	defer f.Close()
	p, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read times of blob %s: %w", key, err)
	}
	return parseMarks(p), nil
}

func parseMarks(p []byte) []Mark {
	if len(p) == 0 {
		return nil
	}
	marks := make([]Mark, 0, len(p)/markSize)
	for ; len(p) >= markSize; p = p[markSize:] {
		offset := int64(binary.LittleEndian.Uint64(p))
		at := time.Unix(0, int64(binary.LittleEndian.Uint64(p[8:])))
		marks = append(marks, Mark{offset, at})
	}
	return marks
}

// At gives the time at which the byte at an offset was appended, by the marks of Times; zero if they do not say.
func At(marks []Mark, offset int64) time.Time {
	i := sort.Search(len(marks), func(i int) bool { return marks[i].Offset > offset })
	if i == 0 {
		return time.Time{}
	}
	return marks[i-1].At
}

// appender gives the open appender of a key, opening it if need be.
func (s *Dir) appender(key string) (*appender, error) {
	s.mu.Lock()
	a := s.logs[key]
	var evicted *appender
	if a == nil {
		evicted = s.makeRoom()
		a = &appender{}
		s.logs[key] = a
	}
	s.used++
	a.used = s.used
	s.mu.Unlock()

	if evicted != nil {
		evicted.close(false)
	}
	if err := a.open(s.root, key); err != nil {
		s.forget(key, a)
		return nil, err
	}
	return a, nil
}

// makeRoom takes out the appender that was not used for longest, if there are too many. The caller holds s.mu.
func (s *Dir) makeRoom() *appender {
	if len(s.logs) < maxOpen {
		return nil
	}
	var oldest string
	for key, a := range s.logs {
		if oldest == "" || a.used < s.logs[oldest].used {
			oldest = key
		}
	}
	a := s.logs[oldest]
	delete(s.logs, oldest)
	return a
}

// take takes an appender out of the store, nil if the key is not open.
func (s *Dir) take(key string) *appender {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.logs[key]
	delete(s.logs, key)
	return a
}

// open opens the files if they are not. An appender that was closed before it was opened stays closed.
func (a *appender) open(root *os.Root, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil || a.closed {
		return nil
	}
	file, _, err := openAppend(root, key, 0, &a.fresh)
	if err != nil {
		a.closed = true
		return err
	}
	times, marks, err := openAppend(root, timesDir+"/"+key, os.O_APPEND, new(bool))
	if err == nil && marks%markSize != 0 { // a torn mark of a killed process
		marks -= marks % markSize
		err = times.Truncate(marks)
	}
	if err != nil {
		a.closed = true
		file.Close()
		return err
	}
	a.file, a.times = file, times
	return nil
}

// openAppend opens a file to write, gives its size, and says in fresh whether its directory had to be made.
func openAppend(root *os.Root, name string, how int, fresh *bool) (*os.File, int64, error) {
	flags := os.O_WRONLY | os.O_CREATE | how
	f, err := root.OpenFile(name, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return nil, 0, err
		}
		*fresh = true
		f, err = root.OpenFile(name, flags, 0o600)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (a *appender) append(key string, offset int64, p []byte, at time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return fs.ErrClosed
	}
	info, err := a.file.Stat()
	if err != nil {
		return fmt.Errorf("append to blob %s: %w", key, err)
	}
	if known, ok := info.Sys().(*syscall.Stat_t); ok && known.Nlink == 0 { // another process has removed it
		a.end(false)
		return fs.ErrClosed
	}
	size := info.Size()
	switch {
	case offset > size:
		return &GapError{Key: key, Size: size, Offset: offset}
	case offset+int64(len(p)) <= size:
		return nil
	}
	var mark [markSize]byte
	binary.LittleEndian.PutUint64(mark[:], uint64(size))
	binary.LittleEndian.PutUint64(mark[8:], uint64(at.UnixNano()))
	// What was written of it stays after an error: a repeated Append goes on from there.
	if _, err := a.file.WriteAt(p[size-offset:], size); err != nil {
		return fmt.Errorf("append to blob %s: %w", key, err)
	}
	if _, err := a.times.Write(mark[:]); err != nil {
		return fmt.Errorf("append to times of blob %s: %w", key, err)
	}
	return nil
}

func (a *appender) close(sync bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end(sync)
}

// end is close for who has the lock.
func (a *appender) end(sync bool) error {
	a.closed = true
	if a.file == nil {
		return nil
	}
	var err error
	if sync {
		err = a.file.Sync() // the times are not worth the wait
	}
	err = errors.Join(err, a.file.Close(), a.times.Close())
	a.file, a.times = nil, nil
	return err
}
