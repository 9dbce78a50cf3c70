package native

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/penstock-ci/penstock/internal/layer"
)

// Cache keeps what actions/cache and the setup actions save: directories as layers, single files packed. The index
// is a directory of small files that are written whole and never changed, so that several processes share it; a
// layer or pack that no index file names is garbage, whatever moment a process died at.
type Cache struct {
	dir    string
	layers *layer.Store // nil where no machine has layers
	limit  int64
	now    func() time.Time
}

// DefaultCacheLimit is what a repository's caches may use together on GitHub: 10 GB.
const DefaultCacheLimit = 10 << 30

// ErrCacheExists is returned when a key is saved that is there: saved caches never change.
var ErrCacheExists = errors.New("the cache key exists already")

// OpenCache opens the cache in dir and makes it if there is none. Its layers are in layers, kept by references; nil
// will do where no machine has layers. Above limit bytes Trim removes what was used longest ago; 0 is
// DefaultCacheLimit.
func OpenCache(dir string, layers *layer.Store, limit int64) (*Cache, error) {
	for _, d := range []string{"index", "packs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	return &Cache{dir: dir, layers: layers, limit: cmp.Or(limit, DefaultCacheLimit), now: time.Now}, nil
}

// cacheEntry is one saved cache.
type cacheEntry struct {
	Scope   string      `json:"scope"` // who may restore it: repository and ref
	Version string      `json:"version"`
	Key     string      `json:"key"`
	Created time.Time   `json:"created"`
	Parts   []cachePart `json:"parts"`
	Ref     string      `json:"ref,omitempty"` // the reference that keeps the layers

	file string // of the index
}

// cachePart is a directory or a set of files of a cache.
type cachePart struct {
	Base  string   `json:"base,omitempty"`  // what Path is relative to: workspace, home, or empty for /
	Path  string   `json:"path"`            // slash-separated
	Layer layer.ID `json:"layer,omitempty"` // a directory
	Pack  string   `json:"pack,omitempty"`  // a file below packs: a tar below Path, zstd
	Size  int64    `json:"size,omitempty"`  // of the pack, bytes
}

// cacheVersion tells caches of other paths apart, and those in layers from those in archives, since a machine takes
// only one kind (@actions/cache getCacheVersion, where the second is the compression).
func cacheVersion(paths []string, layers bool) string {
	kind := "archive"
	if layers {
		kind = "layers"
	}
	sum := sha256.Sum256([]byte(strings.Join(append(slices.Clone(paths), kind, "1.0"), "|")))
	return hex.EncodeToString(sum[:])
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func (c *Cache) indexDir(scope, version string) string {
	return filepath.Join(c.dir, "index", digest(scope, version))
}

func (c *Cache) indexFile(scope, version, key string) string {
	return filepath.Join(c.indexDir(scope, version), digest(key)+".json")
}

// find gives the entry for the keys: in each scope in turn the first key exactly, else the newest that begins with
// it, else the newest that begins with the next key. nil is a miss.
func (c *Cache) find(scopes []string, version string, keys []string) (*cacheEntry, error) {
	for _, scope := range scopes {
		entries, err := c.read(c.indexDir(scope, version))
		if err != nil {
			return nil, fmt.Errorf("read the cache's index: %w", err)
		}
		slices.SortStableFunc(entries, func(a, b cacheEntry) int { return b.Created.Compare(a.Created) })
		for i, key := range keys {
			best := -1
			for j, e := range entries {
				if e.Scope != scope || e.Version != version {
					continue
				}
				if i == 0 && e.Key == key {
					best = j
					break
				}
				if best < 0 && strings.HasPrefix(e.Key, key) {
					best = j
				}
			}
			if best >= 0 {
				c.touch(entries[best])
				return &entries[best], nil
			}
		}
	}
	return nil, nil
}

// touch remembers the use of an entry, in its file's time.
func (c *Cache) touch(e cacheEntry) {
	now := c.now()
	_ = os.Chtimes(e.file, now, now) // an entry removed meanwhile, or a read-only disk: only the order of Trim suffers
}

// maxIndexFile bounds one file of the index, bytes.
const maxIndexFile = 4 << 20

func (c *Cache) read(dir string) ([]cacheEntry, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []cacheEntry
	for _, f := range files {
		name := filepath.Join(dir, f.Name())
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		text, err := readLimited(name, maxIndexFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var e cacheEntry
		if err := json.Unmarshal(text, &e); err != nil {
			continue // damaged: as good as not there; Trim removes it
		}
		e.file = name
		entries = append(entries, e)
	}
	return entries, nil
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return text, err
}

// has says whether the exact key is there.
func (c *Cache) has(scope, version, key string) bool {
	text, err := readLimited(c.indexFile(scope, version, key), maxIndexFile)
	return err == nil && json.Valid(text)
}

// refPrefix begins the names of the references that keep the caches' layers.
const refPrefix = "cache/"

// add writes an entry into the index. It returns ErrCacheExists if another was first.
func (c *Cache) add(e cacheEntry) (err error) {
	e.Created = c.now()
	if ids := e.layers(); len(ids) > 0 {
		// Kept before the index names them: what a killed process leaves is a reference, which Trim removes.
		e.Ref = fmt.Sprintf("%s%d-%s", refPrefix, e.Created.Unix(), rand.Text())
		if err := c.layers.SetRef(e.Ref, ids...); err != nil {
			return fmt.Errorf("save cache: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, c.layers.SetRef(e.Ref))
			}
		}()
	}
	dir := c.indexDir(e.Scope, e.Version)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	temp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	// A link, unlike a rename, never replaces: the first of several savers wins.
	name := c.indexFile(e.Scope, e.Version, e.Key)
	err = os.Link(temp.Name(), name)
	if errors.Is(err, fs.ErrExist) && !c.has(e.Scope, e.Version, e.Key) {
		// Damaged, by a loss of power: the files of a cache are not worth waiting for the disk.
		_ = os.Remove(name)
		err = os.Link(temp.Name(), name)
	}
	if errors.Is(err, fs.ErrExist) {
		return ErrCacheExists
	}
	if err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	return nil
}

func (e cacheEntry) layers() (ids []layer.ID) {
	for _, p := range e.Parts {
		if p.Layer != "" {
			ids = append(ids, p.Layer)
		}
	}
	return ids
}

// pack stores a tar compressed and gives the part's name and size.
func (c *Cache) pack(ctx context.Context, tar io.Reader) (name string, size int64, err error) {
	f, err := os.CreateTemp(filepath.Join(c.dir, "packs"), "*.tar.zst")
	if err != nil {
		return "", 0, fmt.Errorf("pack cache: %w", err)
	}
	err = func() error {
		w, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(2))
		if err != nil {
			return err
		}
		_, err = io.Copy(w, contextReader{ctx, tar})
		return errors.Join(err, w.Close(), f.Sync())
	}()
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, errors.Join(fmt.Errorf("pack cache: %w", err), os.Remove(f.Name()))
	}
	return filepath.Base(f.Name()), size, nil
}

// unpack opens a pack as the tar it was made of.
func (c *Cache) unpack(name string) (io.ReadCloser, error) {
	if filepath.Base(name) != name {
		return nil, fmt.Errorf("the cache's index names a pack outside: %q", name)
	}
	f, err := os.Open(filepath.Join(c.dir, "packs", name))
	if err != nil {
		return nil, err
	}
	r, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(2))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &packReader{r, f}, nil
}

type packReader struct {
	*zstd.Decoder
	file *os.File
}

func (r *packReader) Close() error {
	r.Decoder.Close()
	return r.file.Close()
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
