package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/api/rest"
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
			value, err := s.Keys().Open(c.Value, c.Scope.String(), c.Name)
			if err != nil {
				return nil, fmt.Errorf("open the secret %s: %w", c.Name, err)
			}
			all[c.Name] = string(value)
		}
	}
	if environment != "" {
		if err := s.required(ctx, repo, environment, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// required fails a job for an environment before it starts if a secret or variable is missing that the environment's rules
// name.
func (s *Server) required(ctx context.Context, repo store.Repository, environment string, secrets map[string]string) error {
	e, err := s.Store.Environment(ctx, repo.ID, environment)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	names, err := rest.Required(e)
	if err != nil || len(names) == 0 {
		return err
	}
	known := map[string]bool{}
	for _, scope := range []store.Scope{{Owner: repo.Owner}, {Repository: repo.ID}, {Repository: repo.ID, Environment: environment}} {
		found, err := s.Store.Variables(ctx, scope)
		if err != nil {
			return err
		}
		for _, v := range found {
			known[v.Name] = known[v.Name] || v.Shows(repo.ID, repo.Private)
		}
	}
	var missing []string
	for _, name := range names {
		if secrets[name] == "" && !known[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s needs what is missing: %s. Set them as secrets or variables of the environment", environment, strings.Join(missing, ", "))
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
