package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

// staleCache is the age at which leftovers of killed processes are removed, and unused entries: GitHub keeps a cache
// for a week after its last use.
const (
	staleTemp  = 24 * time.Hour
	staleCache = 7 * 24 * time.Hour
)

// Layers are the layers that saved caches need: what a layer store must not collect.
func (c *Cache) Layers() ([]layer.ID, error) {
	var ids []layer.ID
	err := c.each(func(e cacheEntry, _ fs.FileInfo) {
		for _, p := range e.Parts {
			ids = append(ids, p.Layers...)
		}
	})
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// each visits every entry of the index.
func (c *Cache) each(visit func(e cacheEntry, info fs.FileInfo)) error {
	dirs, err := os.ReadDir(filepath.Join(c.dir, "index"))
	if err != nil {
		return fmt.Errorf("read the cache's index: %w", err)
	}
	for _, d := range dirs {
		entries, err := c.read(filepath.Join(c.dir, "index", d.Name()))
		if err != nil {
			return fmt.Errorf("read the cache's index: %w", err)
		}
		for _, e := range entries {
			if info, err := os.Lstat(e.file); err == nil {
				visit(e, info)
			}
		}
	}
	return nil
}

// Trim removes entries unused for a week, then those used longest ago until the rest is within the limit, and what
// killed processes left. size tells the bytes of a layer; layers themselves are the layer store's to collect.
func (c *Cache) Trim(ctx context.Context, size func(layer.ID) (int64, error)) error {
	type used struct {
		cacheEntry
		at   time.Time
		size int64
	}
	var all []used
	counted := map[layer.ID]bool{} // layers that several entries share count once, for the one used last
	err := c.each(func(e cacheEntry, info fs.FileInfo) { all = append(all, used{cacheEntry: e, at: info.ModTime()}) })
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b used) int { return b.at.Compare(a.at) })
	var total int64
	packs := map[string]bool{}
	now := c.now()
	for _, u := range all {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for _, p := range u.Parts {
			u.size += p.Size
			for _, id := range p.Layers {
				if counted[id] {
					continue
				}
				counted[id] = true
				n, err := size(id)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("measure layer %s: %w", id, err)
				}
				u.size += n
			}
		}
		if total += u.size; total > c.limit || now.Sub(u.at) > staleCache {
			total -= u.size
			if err := os.Remove(u.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("trim cache: %w", err)
			}
			continue
		}
		for _, p := range u.Parts {
			packs[p.Pack] = true
		}
	}
	return c.sweep(packs, now.Add(-staleTemp))
}

// sweep removes packs that no entry names and half-written index files, once they are older than before: a younger
// one may be another process's that is just saving.
func (c *Cache) sweep(packs map[string]bool, before time.Time) error {
	return filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreMissing(err)
		}
		base := filepath.Base(name)
		if packs[base] || filepath.Ext(base) == ".json" {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.ModTime().After(before) {
			return ignoreMissing(err)
		}
		return ignoreMissing(os.Remove(name))
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
