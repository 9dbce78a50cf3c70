package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/store"
)

// secrets opens what a job of a repository and an environment may have of secrets.
func (s *Server) secrets(ctx context.Context, repository, environment string) (map[string]string, error) {
	owner, name, _ := strings.Cut(repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if err != nil {
		return nil, err
	}
	scopes := []store.Scope{{Owner: owner}, {Repository: repo.ID}}
	if environment != "" {
		scopes = append(scopes, store.Scope{Repository: repo.ID, Environment: environment})
	}
	all := map[string]string{}
	for _, scope := range scopes { // the narrower wins
		sealed, err := s.Store.Secrets(ctx, scope)
		if err != nil {
			return nil, err
		}
		for _, c := range sealed {
			if !c.Shows(repo.ID, repo.Private) {
				continue
			}
			value, err := s.Keys.Open(c.Value, c.Scope.String(), c.Name)
			if err != nil {
				return nil, fmt.Errorf("open the secret %s: %w", c.Name, err)
			}
			all[c.Name] = string(value)
		}
	}
	return all, nil
}

// variables are those of an environment.
func (s *Server) variables(ctx context.Context, repository, environment string) (map[string]string, error) {
	owner, name, _ := strings.Cut(repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if err != nil {
		return nil, err
	}
	found, err := s.Store.Variables(ctx, store.Scope{Repository: repo.ID, Environment: environment})
	if err != nil {
		return nil, err
	}
	all := make(map[string]string, len(found))
	for _, v := range found {
		all[v.Name] = v.Value
	}
	return all, nil
}
