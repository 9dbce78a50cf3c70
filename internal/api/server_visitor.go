package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/store"
)

// visitor is who makes a request: a user, or a job by its session. Both nil is nobody.
type visitor struct {
	user    *store.User
	scopes  auth.Scopes // of the user's token
	session *session
}

type visitorKey struct{}

// touchEvery is how exactly it is known when a token was last used.
const touchEvery = time.Hour

// visitorOf is who makes a request that ServeHTTP has let in.
func visitorOf(r *http.Request) visitor { return r.Context().Value(visitorKey{}).(visitor) }

// visitor finds out who a request comes from. A browser's session is good for pages and the API, not for git.
func (s *Server) visitor(r *http.Request, cookie bool) (v visitor, err error) {
	token := tokenOf(r)
	if token == "" && cookie {
		token = byCookie(r)
	}
	if token == "" {
		return v, nil
	}
	if v.session = s.Runtime.byToken(r.Context(), token); v.session != nil {
		return v, nil
	}
	t, user, err := s.userOf(r, token)
	if err != nil || user == nil {
		return v, err
	}
	if now := s.Now(); now.Sub(t.Used) > touchEvery {
		if err := s.Store.TouchToken(r.Context(), t.ID, now); err != nil && !errors.Is(err, store.ErrNotFound) {
			return v, err
		}
	}
	v.user = user
	v.scopes, err = auth.ParseScopes(t.Scopes)
	return v, err
}

// userOf finds the user of a token; nil if it is not good.
func (s *Server) userOf(r *http.Request, token string) (t store.Token, user *store.User, err error) {
	if auth.CheckToken(token) != nil {
		return t, nil, nil
	}
	t, u, err := s.Store.TokenByHash(r.Context(), auth.HashToken(token))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return t, nil, nil
	case err != nil:
		return t, nil, err
	case !t.Expires.IsZero() && s.Now().After(t.Expires):
		return t, nil, nil
	}
	return t, &u, nil
}

// caller is a visitor as the REST API knows them.
func (v visitor) caller() *rest.Caller {
	switch {
	case v.session != nil:
		return &rest.Caller{Login: botLogin, Only: v.session.repository, Permissions: auth.ParsePermissions(v.session.permissions, true).Levels()}
	case v.user != nil:
		return &rest.Caller{Login: v.user.Login, Admin: v.user.Admin && v.scopes.Allows("admin:org"), Narrow: !v.scopes.Allows("repo")}
	}
	return nil
}

// role is what a visitor may do in a repository.
func (s *Server) role(ctx context.Context, v visitor, r store.Repository) (auth.Role, error) {
	switch {
	case v.session != nil && strings.EqualFold(v.session.repository, r.FullName()):
		switch p := auth.ParsePermissions(v.session.permissions, true); {
		case p.Allows("contents", "write"):
			return auth.Write, nil
		case p.Allows("contents", "read"):
			return auth.Read, nil
		}
		return "", nil
	case v.user != nil && !v.scopes.Allows("repo"):
		if r.Private {
			return "", nil
		}
		return auth.Read, nil
	case v.user != nil && v.user.Admin:
		return auth.Admin, nil
	case v.user != nil:
		role, err := s.Store.Role(ctx, r.ID, v.user.ID)
		if errors.Is(err, store.ErrNotFound) {
			role, err = "", nil
		}
		if role == "" && !r.Private {
			role = string(auth.Read)
		}
		return auth.Role(role), err
	}
	return "", nil
}

// permissionsOf are what a role may do, as the permissions of tokens are named; nil is everything.
// https://docs.github.com/en/organizations/managing-user-access-to-your-organizations-repositories/managing-repository-roles/repository-roles-for-an-organization
func permissionsOf(role auth.Role) map[string]string {
	if role.Allows(auth.Admin) {
		return nil
	}
	level := "read"
	if role.Allows(auth.Write) {
		level = "write"
	}
	all := map[string]string{"metadata": "read"}
	for _, name := range []string{"contents", "actions", "checks", "pull-requests", "statuses", "deployments"} {
		all[name] = level
	}
	all["issues"] = "write" // whoever reads may comment
	if role.Allows(auth.Write) {
		all["secrets"], all["variables"], all["environments"] = "write", "write", "write"
	}
	return all
}
