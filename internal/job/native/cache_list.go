package native

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CacheInfo is a saved cache as people see it.
type CacheInfo struct {
	ID            int64 // the same as long as the cache is there
	Ref           string
	Key, Version  string
	Size          int64 // bytes; what several caches share counts for the one used last
	Created, Used time.Time
}

// id is made of what tells a cache from all others: 48 bits, which JavaScript counts exactly.
func (e cacheEntry) id() int64 {
	sum := sha256.Sum256([]byte(strings.Join([]string{e.Scope, e.Version, e.Key}, "\x00")))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 16)
}

// List gives the caches of a repository, OWNER/NAME, the one used last first.
func (c *Cache) List(ctx context.Context, repository string) ([]CacheInfo, error) {
	all, err := c.of(ctx, repository)
	if err != nil {
		return nil, err
	}
	var out []CacheInfo
	for _, u := range all {
		_, ref, _ := strings.Cut(u.Scope, " ")
		out = append(out, CacheInfo{u.id(), ref, u.Key, u.Version, u.size, u.Created, u.at})
	}
	return out, nil
}

// of are the caches of a repository with their sizes.
func (c *Cache) of(ctx context.Context, repository string) ([]usedEntry, error) {
	all, err := c.used()
	if err != nil {
		return nil, fmt.Errorf("list caches: %w", err)
	}
	scope := strings.ToLower(repository) + " "
	all = slices.DeleteFunc(all, func(u usedEntry) bool { return !strings.HasPrefix(u.Scope, scope) })
	if err := c.measure(ctx, all); err != nil {
		return nil, fmt.Errorf("list caches: %w", err)
	}
	slices.SortStableFunc(all, func(a, b usedEntry) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.id(), b.id())) })
	return all, nil
}

// Delete removes a cache of a repository and says whether there was one. A job that just restores it is not disturbed.
func (c *Cache) Delete(ctx context.Context, repository string, id int64) (bool, error) {
	all, err := c.of(ctx, repository)
	if err != nil {
		return false, err
	}
	for _, u := range all {
		if u.id() == id {
			return true, c.remove(u.cacheEntry)
		}
	}
	return false, nil
}
