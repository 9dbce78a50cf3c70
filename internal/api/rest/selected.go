package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/store"
)

// maxSelected is how many repositories may be selected for one setting.
const maxSelected = 1000

// setting is a kind of setting of an owner: who sees one, and how to change for which repositories it is.
type setting struct {
	access    func(*store.Store, context.Context, store.Scope, string) (store.Access, error)
	selectFor func(*store.Store, context.Context, store.Scope, string, time.Time, func(store.Access) ([]int64, error)) error
}

// selectedRoutes are about the repositories that see what an owner has.
func selectedRoutes() (out []route) {
	for kind, of := range map[string]setting{
		"secrets": {func(s *store.Store, ctx context.Context, scope store.Scope, name string) (store.Access, error) {
			c, err := s.Secret(ctx, scope, name)
			return c.Access, err
		}, (*store.Store).SelectForSecret},
		"variables": {func(s *store.Store, ctx context.Context, scope store.Scope, name string) (store.Access, error) {
			v, err := s.Variable(ctx, scope, name)
			return v.Access, err
		}, (*store.Store).SelectForVariable},
	} {
		path := "/orgs/{org}/actions/" + kind + "/{name}/repositories"
		read, write, audit := needs("organization_secrets:read"), needs("organization_secrets:write"), "org_"+kind+".update_access"
		out = append(out,
			route{pattern: "GET " + path, scopes: read, handle: func(c *call) (any, error) { return c.listSelected(of) }},
			route{pattern: "PUT " + path, scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.setSelected(of) }},
			route{pattern: "PUT " + path + "/{id:[0-9]+}", scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.selectOne(of, true) }},
			route{pattern: "DELETE " + path + "/{id:[0-9]+}", scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.selectOne(of, false) }},
		)
	}
	return out
}

// selectedOf gives the repositories that are selected; an error if none can be.
func selectedOf(a store.Access) ([]int64, error) {
	if a.Visibility != "selected" {
		return nil, &Error{Status: http.StatusConflict, Message: "Repositories can be selected only where the visibility is selected"}
	}
	return a.Selected, nil
}

// changeSelected changes which repositories are selected.
func (c *call) changeSelected(of setting, change func(ids []int64) ([]int64, error)) (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	return noContent, of.selectFor(c.Store, c.ctx, scope, c.part("name"), c.Now().UTC(), func(a store.Access) ([]int64, error) {
		ids, err := selectedOf(a)
		if err != nil {
			return nil, err
		}
		return change(ids)
	})
}

func (c *call) listSelected(of setting) (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	access, err := of.access(c.Store, c.ctx, scope, c.part("name"))
	if err != nil {
		return nil, err
	}
	ids, err := selectedOf(access)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, id := range ids {
		known, err := c.Store.Repository(c.ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // deleted since
		}
		if err != nil {
			return nil, err
		}
		by, there := *c.by, *c
		if there.repo, err = c.Repository(c.ctx, &by, known.FullName()); err != nil {
			return nil, err
		}
		list = append(list, there.repositoryObject(false))
	}
	return object{"total_count": len(list), "repositories": paged(c, list)}, nil
}

// selectedIDs are those of the request, each of a repository that is there.
func (c *call) selectedIDs() ([]int64, error) {
	given, ok := c.in["selected_repository_ids"].([]any)
	if c.in["selected_repository_ids"] != nil && !ok || len(given) > maxSelected {
		return nil, invalid("Secret", "selected_repository_ids", "invalid", fmt.Sprintf("selected_repository_ids is a list of at most %d numbers", maxSelected))
	}
	var ids []int64
	for _, v := range given {
		n, _ := v.(float64)
		if _, err := c.Store.Repository(c.ctx, int64(n)); errors.Is(err, store.ErrNotFound) {
			return nil, invalid("Secret", "selected_repository_ids", "invalid", fmt.Sprintf("there is no repository with the id %v", v))
		} else if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, int64(n)) {
			ids = append(ids, int64(n))
		}
	}
	return ids, nil
}

func (c *call) setSelected(of setting) (any, error) {
	ids, err := c.selectedIDs()
	if err != nil {
		return nil, err
	}
	return c.changeSelected(of, func([]int64) ([]int64, error) { return ids, nil })
}

// selectOne adds a repository, or takes it away.
func (c *call) selectOne(of setting, add bool) (any, error) {
	id, err := c.number("id")
	if err != nil {
		return nil, err
	}
	if _, err := c.Store.Repository(c.ctx, id); err != nil {
		return nil, err
	}
	return c.changeSelected(of, func(ids []int64) ([]int64, error) {
		ids = slices.DeleteFunc(slices.Clone(ids), func(n int64) bool { return n == id })
		if add && len(ids) >= maxSelected {
			return nil, unprocessable("There may be %d selected repositories", maxSelected)
		}
		if add {
			ids = append(ids, id)
		}
		return ids, nil
	})
}
