package api

import (
	"context"
	"errors"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/job/native"
)

// List implements rest.Caches for the archives of the original cache action.
func (c *caches) List(_ context.Context, repository string) ([]rest.Cache, error) {
	all, err := c.all(repository)
	var out []rest.Cache
	for _, e := range all {
		out = append(out, rest.Cache{ID: e.Number, Ref: e.Scope, Key: e.Key, Version: e.Version, Size: e.Size, Created: e.Created, Used: e.Used})
	}
	return out, err
}

// Delete implements rest.Caches.
func (c *caches) Delete(_ context.Context, repository string, id int64) (bool, error) {
	all, err := c.all(repository)
	if err != nil {
		return false, err
	}
	for _, e := range all {
		if e.Number == id {
			return true, errors.Join(c.blobs.Delete(e.key(".json")), c.blobs.Delete(e.key(".data")))
		}
	}
	return false, nil
}

// layerCaches are the caches of the native action.
type layerCaches struct{ *native.Cache }

func (c layerCaches) List(ctx context.Context, repository string) ([]rest.Cache, error) {
	all, err := c.Cache.List(ctx, repository)
	var out []rest.Cache
	for _, i := range all {
		out = append(out, rest.Cache(i))
	}
	return out, err
}

// Caches are all that jobs of this runtime have saved, for the REST API; layers are those of the native action, nil where
// there are none.
func (rt *Runtime) Caches(layers *native.Cache) []rest.Caches {
	all := []rest.Caches{rt.caches}
	if layers != nil {
		all = append(all, layerCaches{layers})
	}
	return all
}
