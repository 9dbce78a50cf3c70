package rest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/penstock-ci/penstock/internal/store"
)

// maxSelected is how many repositories may be selected for one setting.
const maxSelected = 1000

// selectedRoutes are about the repositories that see what an owner has.
func selectedRoutes() (out []route) {
	for _, kind := range []string{"secrets", "variables"} {
		path := "/orgs/{org}/actions/" + kind + "/{name}/repositories"
		read, write, audit := needs("organization_secrets:read"), needs("organization_secrets:write"), "org_"+kind+".update_access"
		of := (*call).secretAccess
		if kind == "variables" {
			of = (*call).variableAccess
		}
		out = append(out,
			route{pattern: "GET " + path, scopes: read, handle: func(c *call) (any, error) { return c.listSelected(of) }},
			route{pattern: "PUT " + path, scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.setSelected(of) }},
			route{pattern: "PUT " + path + "/{id:[0-9]+}", scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.selectOne(of, true) }},
			route{pattern: "DELETE " + path + "/{id:[0-9]+}", scopes: write, audit: audit, handle: func(c *call) (any, error) { return c.selectOne(of, false) }},
		)
	}
	return out
}

// setting is what the path names: who sees it, and how to store another answer to that.
type setting func(*call) (store.Access, func([]int64) error, error)

func (c *call) secretAccess() (store.Access, func([]int64) error, error) {
	scope, err := c.scope()
	if err != nil {
		return store.Access{}, nil, err
	}
	s, err := c.Store.Secret(c.ctx, scope, c.part("name"))
	return s.Access, func(ids []int64) error {
		s.Selected, s.Updated = ids, c.Now().UTC()
		_, err := c.Store.PutSecret(c.ctx, s)
		return err
	}, err
}

func (c *call) variableAccess() (store.Access, func([]int64) error, error) {
	scope, err := c.scope()
	if err != nil {
		return store.Access{}, nil, err
	}
	v, err := c.Store.Variable(c.ctx, scope, c.part("name"))
	return v.Access, func(ids []int64) error {
		v.Selected, v.Updated = ids, c.Now().UTC()
		return c.Store.SaveVariable(c.ctx, v.Name, v)
	}, err
}

// selectable gives what setting does, if repositories are selected for it.
func (c *call) selectable(of setting) ([]int64, func([]int64) error, error) {
	access, save, err := of(c)
	if err == nil && access.Visibility != "selected" {
		err = &Error{Status: http.StatusConflict, Message: "Repositories can be selected only where the visibility is selected"}
	}
	return access.Selected, save, err
}

func (c *call) listSelected(of setting) (any, error) {
	ids, _, err := c.selectable(of)
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
	_, save, err := c.selectable(of)
	if err != nil {
		return nil, err
	}
	ids, err := c.selectedIDs()
	if err != nil {
		return nil, err
	}
	return noContent, save(ids)
}

// selectOne adds a repository, or takes it away.
func (c *call) selectOne(of setting, add bool) (any, error) {
	ids, save, err := c.selectable(of)
	if err != nil {
		return nil, err
	}
	id, err := c.number("id")
	if err != nil {
		return nil, err
	}
	if _, err := c.Store.Repository(c.ctx, id); err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(slices.Clone(ids), func(n int64) bool { return n == id })
	if add && len(ids) >= maxSelected {
		return nil, unprocessable("There may be %d selected repositories", maxSelected)
	}
	if add {
		ids = append(ids, id)
	}
	return noContent, save(ids)
}
