package rest

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
)

var cacheRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/actions/caches", scopes: readActions, handle: (*call).listCaches},
	{pattern: "DELETE /repos/{owner}/{repo}/actions/caches", scopes: writeActions, handle: (*call).deleteCachesByKey, audit: "actions_cache.delete"},
	{pattern: "DELETE /repos/{owner}/{repo}/actions/caches/{id:[0-9]+}", scopes: writeActions, handle: (*call).deleteCache, audit: "actions_cache.delete"},
	{pattern: "GET /repos/{owner}/{repo}/actions/cache/usage", scopes: readActions, handle: (*call).cacheUsage},
}

// Cache is something that jobs of a repository have saved for later ones.
type Cache struct {
	ID            int64 // of all caches of the repository
	Ref           string
	Key, Version  string
	Size          int64 // bytes
	Created, Used time.Time
}

// Caches are the caches of one kind.
type Caches interface {
	// List gives those of a repository, OWNER/NAME.
	List(ctx context.Context, repository string) ([]Cache, error)
	// Delete removes one and says whether there was one.
	Delete(ctx context.Context, repository string, id int64) (bool, error)
}

// caches are all of the repository that the query chooses: key is how theirs begin.
func (c *call) caches() ([]Cache, error) {
	query := c.r.URL.Query()
	var all []Cache
	for _, kind := range c.Caches {
		some, err := kind.List(c.ctx, c.repo.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return slices.DeleteFunc(all, func(e Cache) bool {
		return !strings.HasPrefix(e.Key, query.Get("key")) || query.Get("ref") != "" && query.Get("ref") != e.Ref
	}), nil
}

func cacheObject(e Cache) object {
	return object{
		"id": e.ID, "ref": e.Ref, "key": e.Key, "version": e.Version, "size_in_bytes": e.Size, "created_at": stamp(e.Created), "last_accessed_at": stamp(e.Used),
	}
}

func (c *call) listCaches() (any, error) {
	all, err := c.caches()
	if err != nil {
		return nil, err
	}
	query := c.r.URL.Query()
	slices.SortStableFunc(all, func(a, b Cache) int {
		order := a.Used.Compare(b.Used)
		switch query.Get("sort") {
		case "created_at":
			order = a.Created.Compare(b.Created)
		case "size_in_bytes":
			order = cmp.Compare(a.Size, b.Size)
		}
		if query.Get("direction") != "asc" {
			order = -order
		}
		return cmp.Or(order, cmp.Compare(a.ID, b.ID))
	})
	list := []object{}
	for _, e := range paged(c, all) {
		list = append(list, cacheObject(e))
	}
	return object{"total_count": len(all), "actions_caches": list}, nil
}

func (c *call) cacheUsage() (any, error) {
	all, err := c.caches()
	if err != nil {
		return nil, err
	}
	size := int64(0)
	for _, e := range all {
		size += e.Size
	}
	return object{"full_name": c.repo.Name, "active_caches_size_in_bytes": size, "active_caches_count": len(all)}, nil
}

// removeCache deletes one, whatever its kind.
func (c *call) removeCache(id int64) (bool, error) {
	for _, kind := range c.Caches {
		if was, err := kind.Delete(c.ctx, c.repo.Name, id); was || err != nil {
			return was, err
		}
	}
	return false, nil
}

func (c *call) deleteCache() (any, error) {
	id, err := c.number("id")
	if err != nil {
		return nil, err
	}
	was, err := c.removeCache(id)
	if err == nil && !was {
		err = errNotFound
	}
	if err != nil {
		return nil, err
	}
	c.tell("cache %d is deleted", id)
	return noContent, nil
}

// deleteCachesByKey removes all of exactly this key and shows them.
func (c *call) deleteCachesByKey() (any, error) {
	key := c.r.URL.Query().Get("key")
	if key == "" {
		return nil, &Error{Status: http.StatusUnprocessableEntity, Message: "Invalid request.\n\nMissing required query parameter 'key'."}
	}
	all, err := c.caches()
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, e := range all {
		if e.Key != key {
			continue
		}
		was, err := c.removeCache(e.ID)
		if err != nil {
			return nil, err
		}
		if was {
			list = append(list, cacheObject(e))
		}
	}
	if len(list) == 0 {
		return nil, errNotFound
	}
	c.tell("%d caches of the key %s are deleted", len(list), key)
	return object{"total_count": len(list), "actions_caches": list}, nil
}
