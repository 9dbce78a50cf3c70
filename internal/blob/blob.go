// Package blob keeps bytes by key: logs, artifacts, uploads. Dir keeps them in a directory, Bucket in an S3-compatible object
// store. Keys are slash-separated names that can not leave the store, not even by a symbolic link. It knows nothing of what the
// bytes mean, and never shows half of a Put.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxKey bounds a whole key, maxName one name in it: what common file systems take, with room for the store.
	maxKey  = 1024
	maxName = 240
	// tempDir and timesDir are the store's own; no key begins with a dot.
	tempDir  = ".tmp"
	timesDir = ".times"
	// staleTemp is the age at which a leftover of a killed Put is removed when the store opens.
	staleTemp = 24 * time.Hour
)

// ErrKey is wrapped by the errors for keys that are not allowed.
var ErrKey = errors.New("bad blob key")

// Store keeps blobs. It may be used by any number of goroutines, and several processes may share what it keeps them in.
type Store interface {
	// Put stores what r yields under key, replacing what was there, and gives its size in bytes. When it returns without
	// error the blob is durable; until then, and after any error or kill, the key has what it had before.
	Put(ctx context.Context, key string, r io.Reader) (int64, error)
	// Concat makes a blob of others, in their order, and gives its size in bytes. The others are gone after it, whatever
	// happens. When it returns without error the blob is durable; until then the key has what it had before.
	Concat(key string, parts ...string) (int64, error)
	// Open opens a blob for reading. The error wraps fs.ErrNotExist if there is none.
	Open(key string) (File, error)
	// Stat describes a blob. The error wraps fs.ErrNotExist if there is none.
	Stat(key string) (Info, error)
	// List gives the blobs whose keys begin with prefix, sorted by key. An empty prefix gives all.
	List(prefix string) ([]Info, error)
	// Delete removes a blob with its times. A blob that is not there is no error.
	Delete(key string) error
	// Append adds bytes that arrived at a time to a blob, at an offset; a blob that is not there is begun. Bytes that the
	// blob has already are left as they are, so an Append may be repeated, by another process too. A gap is a *GapError
	// and changes nothing. The bytes are in the operating system's hands when Append returns, and durable after Seal.
	Append(key string, offset int64, p []byte, at time.Time) error
	// Seal makes what was appended to a blob durable. A later Append goes on all the same.
	Seal(key string) error
	// Release says that nothing is appended to a blob for now, and leaves it to the operating system when it is on the disk.
	Release(key string) error
	// Times gives the marks of a blob that was written by Append, one an Append, by offset. A blob without any has none.
	Times(key string) ([]Mark, error)
	Close() error
}

// File is a blob that is open. What is appended to it meanwhile may be seen by ReadAt, if it was open for Append when it was opened.
type File interface {
	io.ReadSeekCloser
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// Dir is a Store in a directory. Several processes may share it.
type Dir struct {
	dir      string
	root     *os.Root
	unsynced bool

	mu   sync.Mutex
	logs map[string]*appender // open for Append
	used int64                // counts Appends, for the choice of what to close
}

// Info describes a blob.
type Info struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

// OpenUnsynced is Open for blobs that are not worth waiting for the disk: it is left to the operating system when they
// get there, but for Seal. A kill loses nothing that Put has returned for, and never leaves half of one; a loss of power may do both.
func OpenUnsynced(dir string) (*Dir, error) {
	s, err := Open(dir)
	if err == nil {
		s.unsynced = true
	}
	return s, err
}

// Open opens the store in dir and makes the directory if there is none.
func Open(dir string) (*Dir, error) {
	for _, d := range []string{dir, dir + "/" + tempDir, dir + "/" + timesDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	s := &Dir{dir: dir, root: root, logs: map[string]*appender{}}
	s.removeStaleTemps(time.Now().Add(-staleTemp))
	return s, nil
}

// Close closes the files that are open for Append and the store. What was appended is handed to the operating
// system, not forced to the disk: that is Seal.
func (s *Dir) Close() error {
	s.mu.Lock()
	open := s.logs
	s.logs = map[string]*appender{}
	s.mu.Unlock()
	var errs []error
	for _, a := range open {
		errs = append(errs, a.close(false))
	}
	errs = append(errs, s.root.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close blob store: %w", err)
	}
	return nil
}

// Path is the directory of the store.
func (s *Dir) Path() string { return s.dir }

// Open implements Store.
func (s *Dir) Open(key string) (File, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	f, err := s.root.Open(key)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", key, err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open blob %s: %w", key, err)
	}
	return f, nil
}

// Stat implements Store.
func (s *Dir) Stat(key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	info, err := s.root.Stat(key)
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat blob %s: %w", key, err)
	}
	return Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// List implements Store.
func (s *Dir) List(prefix string) ([]Info, error) {
	if prefix != "" {
		if err := CheckKey(strings.TrimSuffix(prefix, "/")); err != nil {
			return nil, err
		}
	}
	start := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		start = prefix[:i]
	}
	var list []Info
	err := fs.WalkDir(s.root.FS(), start, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile, or nothing there at all
			return nil
		case err != nil:
			return err
		case p == tempDir || p == timesDir:
			return fs.SkipDir
		case d.IsDir():
			if p != "." && !strings.HasPrefix(p+"/", prefix) && !strings.HasPrefix(prefix, p+"/") {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || !strings.HasPrefix(p, prefix):
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		list = append(list, Info{Key: p, Size: info.Size(), Modified: info.ModTime()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list blobs %s: %w", prefix, err)
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Key, b.Key) })
	return list, nil
}

// Delete implements Store. Directories that are left empty go, too.
func (s *Dir) Delete(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if a := s.take(key); a != nil {
		a.close(false)
	}
	for _, name := range []string{key, timesDir + "/" + key} {
		if info, err := s.root.Lstat(name); err != nil || info.IsDir() {
			continue
		}
		if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete blob %s: %w", key, err)
		}
		for dir := path.Dir(name); dir != "." && dir != timesDir; dir = path.Dir(dir) {
			if s.root.Remove(dir) != nil {
				break // not empty
			}
		}
	}
	return nil
}

// CheckKey says whether a key is allowed: names of at most 240 bytes separated by single slashes, at most 1,024 bytes
// in all, UTF-8 without control characters or backslashes, no name "." or "..", no dot at the beginning of the key.
// The error wraps ErrKey.
func CheckKey(key string) error {
	bad := func(why string) error { return fmt.Errorf("%w %.80q: %s", ErrKey, key, why) }
	switch {
	case key == "":
		return bad("it is empty")
	case len(key) > maxKey:
		return bad(fmt.Sprintf("longer than %d bytes", maxKey))
	case !utf8.ValidString(key):
		return bad("not UTF-8")
	case key[0] == '.':
		return bad("it begins with a dot")
	case strings.ContainsFunc(key, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }):
		return bad("it has a backslash or a control character")
	}
	for name := range strings.SplitSeq(key, "/") {
		switch {
		case name == "":
			return bad("it has an empty name")
		case name == "." || name == "..":
			return bad("it has a name of dots")
		case len(name) > maxName:
			return bad(fmt.Sprintf("a name in it is longer than %d bytes", maxName))
		}
	}
	return nil
}

// ReadAll reads a blob of at most limit bytes; a longer one is an error.
func ReadAll(s Store, key string, limit int64) ([]byte, error) {
	f, err := s.Open(key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", key, err)
	}
	if int64(len(p)) > limit {
		return nil, fmt.Errorf("read blob %s: larger than %d bytes", key, limit)
	}
	return p, nil
}
