package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

const (
	// staleTemp is the age at which leftovers of killed processes are removed; a younger one may belong to a process
	// that is just saving.
	staleTemp = 24 * time.Hour
	// staleCache is the age since its last use at which a cache is removed: GitHub's week.
	staleCache = 7 * 24 * time.Hour
)

// usedEntry is an entry with what Trim decides by.
type usedEntry struct {
	cacheEntry
	at   time.Time
	size int64 // bytes that are free when it goes, if no entry used later shares its layers
}

// Trim removes entries unused for a week, then those used longest ago until the rest is within the limit, and what
// killed processes left. The layers of what is removed are the layer store's to collect.
func (c *Cache) Trim(ctx context.Context) error {
	all, err := c.used()
	if err != nil {
		return fmt.Errorf("trim cache: %w", err)
	}
	if err := c.measure(ctx, all); err != nil {
		return fmt.Errorf("trim cache: %w", err)
	}
	var total int64
	packs, refs := map[string]bool{}, map[string]bool{}
	now := c.now()
	for _, u := range all {
		if total += u.size; total > c.limit || now.Sub(u.at) > staleCache {
			total -= u.size
			if err := c.remove(u.cacheEntry); err != nil {
				return fmt.Errorf("trim cache: %w", err)
			}
			continue
		}
		refs[u.Ref] = true
		for _, p := range u.Parts {
			packs[p.Pack] = true
		}
	}
	if err := errors.Join(c.sweepFiles(packs, now.Add(-staleTemp)), c.sweepRefs(refs, now.Add(-staleTemp))); err != nil {
		return fmt.Errorf("trim cache: %w", err)
	}
	return nil
}

// used gives every entry of the index, the one used last first.
func (c *Cache) used() ([]usedEntry, error) {
	dirs, err := os.ReadDir(filepath.Join(c.dir, "index"))
	if err != nil {
		return nil, err
	}
	var all []usedEntry
	for _, d := range dirs {
		entries, err := c.read(filepath.Join(c.dir, "index", d.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if info, err := os.Lstat(e.file); err == nil {
				all = append(all, usedEntry{cacheEntry: e, at: info.ModTime()})
			}
		}
	}
	slices.SortFunc(all, func(a, b usedEntry) int { return b.at.Compare(a.at) })
	return all, nil
}

// measure fills in sizes. Layers that several entries stand on count once, for the one used last.
func (c *Cache) measure(ctx context.Context, all []usedEntry) error {
	counted := map[layer.ID]bool{}
	for i := range all {
		u := &all[i]
		if err := context.Cause(ctx); err != nil {
			return err
		}
		for _, p := range u.Parts {
			u.size += p.Size
		}
		ids := u.layers()
		if len(ids) == 0 || c.layers == nil {
			continue
		}
		stack, err := c.layers.Stack(ids...)
		if errors.Is(err, layer.ErrNotExist) {
			u.at = time.Time{} // its layers are gone: it goes too
			continue
		}
		if err != nil {
			return err
		}
		for _, l := range stack {
			if counted[l.ID] {
				continue
			}
			counted[l.ID] = true
			n, err := c.layers.Size(l.ID)
			if err != nil && !errors.Is(err, layer.ErrNotExist) {
				return err
			}
			u.size += n
		}
	}
	return nil
}

// remove takes an entry out of the index and lets go of its layers.
func (c *Cache) remove(e cacheEntry) error {
	if err := os.Remove(e.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e.Ref == "" || c.layers == nil {
		return nil
	}
	return c.layers.SetRef(e.Ref)
}

// sweepFiles removes packs that no entry names and half-written index files that are older than before.
func (c *Cache) sweepFiles(packs map[string]bool, before time.Time) error {
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

// sweepRefs lets go of layers that were kept for an entry that was never written.
func (c *Cache) sweepRefs(refs map[string]bool, before time.Time) error {
	if c.layers == nil {
		return nil
	}
	names, err := c.layers.Refs(refPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		made, _, _ := strings.Cut(strings.TrimPrefix(name, refPrefix), "-")
		seconds, err := strconv.ParseInt(made, 10, 64)
		if refs[name] || err != nil || seconds > before.Unix() {
			continue
		}
		if err := c.layers.SetRef(name); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
