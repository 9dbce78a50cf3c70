package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/web"
)

// ServerOptions are what a Server stands on.
type ServerOptions struct {
	Store     *store.Store
	Blobs     *blob.Store
	Artifacts *native.Artifacts
	// Caches are those of the native cache action, nil where there are none.
	Caches *native.Cache
	Keys   *auth.Keyring
	// Repositories is the directory of hosted repositories.
	Repositories string
	// Actions is where actions and called workflows of other repositories come from.
	Actions *forge.ActionSource
	// URL is where people and jobs reach the server, without a slash at its end.
	URL string
	Log *slog.Logger
	// Runner is the name of the server's own runner, whose jobs can go on from their failed steps.
	Runner string
	// Ended is told of each run that has ended; it may be nil.
	Ended func(*ci.Run) error
}

// Server is what `penstock serve` serves at one origin: git, GitHub's API, and what jobs call while they run. Its engine
// is for runners.
type Server struct {
	ServerOptions
	Engine  *engine.Engine
	Runtime *Runtime // for jobs that run here
	hosted  *forge.Hosted
	rest    *rest.API
	page    http.Handler // what pages ask of pagePath
	web     http.Handler // the pages
	runners http.Handler // runner.QueuePath
	metrics *metrics
	clock   chan struct{} // told that there are other schedules

	mu    sync.Mutex
	heard map[int64]listening // by repository
}

// NewServer opens the repositories, finds the work that is stored, and tells of pushes that a crash left untold.
func NewServer(ctx context.Context, o ServerOptions) (*Server, error) {
	s := &Server{ServerOptions: o, clock: make(chan struct{}, 1), heard: map[int64]listening{}}
	var err error
	if s.hosted, err = forge.OpenHosted(o.Repositories, forge.HostedOptions{Pushed: s.pushed}); err != nil {
		return nil, err
	}
	s.Runtime = newServerRuntime(s)
	s.Engine, err = engine.New(ctx, o.Store, o.Blobs, engine.Options{Secrets: s.secrets, Vars: s.variables, Token: s.Runtime.Grant, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s.page, s.web, s.runners = s.pages(), web.Handler(), s.queue()
	s.rest = rest.New(rest.Options{
		Store: o.Store, Blobs: o.Blobs, Prefix: "/api/v3", Uploads: "/api/uploads", Now: time.Now, Repository: s.repository, Happened: s.happened,
		Artifacts: o.Artifacts, Caches: s.Runtime.Caches(o.Caches),
		Repositories: s.repositories, Create: s.createFor, Keys: o.Keys, Runs: &rest.Runs{Engine: s.Engine, Dispatch: s.dispatch},
		Audit: func(ctx context.Context, by *rest.Caller, action, target string, details map[string]any) error {
			return s.audit(ctx, by.Login, action, target, details)
		},
	})
	s.metrics = newMetrics(s)
	if err := s.hosted.Recover(ctx); err != nil {
		o.Log.Warn("pushes are still untold", "error", err)
	}
	return s, nil
}

// Setup makes the first administrator of an empty store and gives a token for them; "" if there are users already.
func (s *Server) Setup(ctx context.Context) (token string, err error) {
	users, err := s.Store.Users(ctx, 0, 1)
	if err != nil || len(users) > 0 {
		return "", err
	}
	admin := &store.User{Login: "admin", Admin: true, Created: time.Now().UTC()}
	if err := s.Store.AddUser(ctx, admin); err != nil {
		return "", err
	}
	return s.newToken(ctx, admin.ID, "first", time.Time{})
}

// AdminToken makes another token for the first administrator, good for sessionLife.
func (s *Server) AdminToken(ctx context.Context, name string) (string, error) {
	for after := int64(0); ; {
		users, err := s.Store.Users(ctx, after, 100)
		if err != nil {
			return "", err
		}
		if len(users) == 0 {
			return "", errors.New("no user of this server is an administrator")
		}
		for _, u := range users {
			if u.Admin {
				return s.newToken(ctx, u.ID, name, time.Now().Add(sessionLife))
			}
			after = u.ID
		}
	}
}

func (s *Server) newToken(ctx context.Context, user int64, name string, expires time.Time) (string, error) {
	token := auth.NewToken()
	return token, s.Store.AddToken(ctx, &store.Token{
		User: user, Name: name, Hash: auth.HashToken(token), Scopes: allScopes, Created: time.Now().UTC(), Expires: expires,
	})
}

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
	if now := time.Now(); now.Sub(t.Used) > touchEvery {
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
	case !t.Expires.IsZero() && time.Now().After(t.Expires):
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

// ServeHTTP answers and measures a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/metrics" {
		s.metrics.handler.ServeHTTP(w, r)
		return
	}
	s.metrics.watched(http.HandlerFunc(s.route)).ServeHTTP(w, r)
}

// route is the map of all routes.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if host := r.Header.Get(hostHeader); host != "" {
		r.Host = host
	}
	switch path {
	case "/healthz", "/readyz":
		s.health(w, r)
		return
	}
	if strings.HasPrefix(path, runner.QueuePath+"/") {
		s.runners.ServeHTTP(w, r)
		return
	}
	asked, git := forge.ParseGitRequest(r)
	v, err := s.visitor(r, !git)
	if err != nil {
		s.Log.Error("a token could not be looked up", "error", err)
		http.Error(w, "the database can not be reached", http.StatusServiceUnavailable)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), visitorKey{}, v))
	switch {
	case git:
		s.serveGit(w, r, asked, v)
	case path == "/api/v3" || strings.HasPrefix(path, "/api/v3/") || strings.HasPrefix(path, "/api/uploads/"):
		if path == "/api/v3" {
			r.URL.Path = "/api/v3/"
		}
		s.rest.ServeHTTP(w, r, v.caller())
	case strings.HasPrefix(path, pagePath+"/"):
		s.page.ServeHTTP(w, r)
	case path == "/api/graphql":
		writeJSON(w, http.StatusOK, map[string]any{"data": nil, "errors": []any{map[string]any{"type": "NOT_IMPLEMENTED", "message": "This server answers no GraphQL yet."}}})
	case isRuntime(path):
		s.Runtime.ServeHTTP(w, r)
	default:
		s.web.ServeHTTP(w, r)
	}
}

// isRuntime says whether a path is one of the services that jobs call.
func isRuntime(path string) bool {
	return slices.ContainsFunc([]string{twirpPath, cacheV1Path, blobPath, identityPath, "/.well-known/"}, func(prefix string) bool {
		return strings.HasPrefix(path, prefix)
	})
}

// health answers once the database does.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if _, err := s.Store.LastRecord(r.Context()); err != nil {
		http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// role is what a visitor may do in a repository.
func (s *Server) role(ctx context.Context, v visitor, r store.Repository) (auth.Role, error) {
	switch {
	case v.session != nil && strings.EqualFold(v.session.repository, r.FullName()):
		if auth.ParsePermissions(v.session.permissions, true).Allows("contents", "write") {
			return auth.Write, nil
		}
		return auth.Read, nil
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

// serveGit answers git. A push of an administrator to a repository that is not there makes it.
func (s *Server) serveGit(w http.ResponseWriter, r *http.Request, asked forge.GitRequest, v visitor) {
	refuse := func(status int, text string) {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="Penstock"`)
		}
		http.Error(w, text, status)
	}
	if v.user == nil && v.session == nil {
		refuse(http.StatusUnauthorized, "sign in with a token as password")
		return
	}
	owner, name, _ := strings.Cut(asked.Repository, "/")
	repo, err := s.Store.RepositoryNamed(r.Context(), owner, name)
	if errors.Is(err, store.ErrNotFound) && asked.Push() && v.user != nil && v.user.Admin {
		repo, err = s.create(r.Context(), owner, name, true)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, forge.ErrName) {
		refuse(http.StatusNotFound, "Repository not found.")
		return
	}
	if err != nil {
		s.Log.Error("a repository could not be looked up", "repository", asked.Repository, "error", err)
		refuse(http.StatusInternalServerError, "the repository could not be looked up")
		return
	}
	role, err := s.role(r.Context(), v, repo)
	if err != nil || !role.Allows(auth.Read) {
		refuse(http.StatusNotFound, "Repository not found.")
		return
	}
	by := forge.Visitor{}
	if v.user != nil {
		by.Account = forge.Account{ID: v.user.ID, Login: v.user.Login}
	} else {
		by.Account = forge.Account{Login: botLogin}
	}
	if role.Allows(auth.Write) && !repo.Archived {
		by.May = func(forge.Change) error { return nil }
	} else if asked.Push() {
		refuse(http.StatusForbidden, "you may not push to "+repo.FullName())
		return
	}
	s.hosted.ServeGit(w, r, asked, by)
}

// create makes a repository, in git and in the store.
func (s *Server) create(ctx context.Context, owner, name string, private bool) (store.Repository, error) {
	repo := store.Repository{Owner: owner, Name: name, DefaultBranch: "main", Private: private, Created: time.Now().UTC()}
	if _, err := s.hosted.Create(ctx, repo.FullName(), repo.DefaultBranch); err != nil && !errors.Is(err, forge.ErrRepositoryExists) {
		return repo, err
	}
	err := s.Store.AddRepository(ctx, &repo)
	if errors.Is(err, store.ErrExists) { // somebody else was first
		return s.Store.RepositoryNamed(ctx, owner, name)
	}
	return repo, err
}

// repository finds a repository for a caller of the REST API.
func (s *Server) repository(ctx context.Context, by *rest.Caller, name string) (*rest.Repository, error) {
	owner, short, _ := strings.Cut(name, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, short)
	if errors.Is(err, store.ErrNotFound) {
		return nil, rest.ErrNoRepository
	}
	if err != nil {
		return nil, err
	}
	if by.Only == "" {
		user, err := s.Store.UserNamed(ctx, by.Login)
		if err != nil {
			return nil, err
		}
		v := visitor{user: &user}
		if !by.Narrow {
			v.scopes = wholeScopes
		}
		role, err := s.role(ctx, v, repo)
		if err != nil {
			return nil, err
		}
		if !role.Allows(auth.Read) {
			return nil, rest.ErrNoRepository
		}
		by.Permissions = permissionsOf(role)
	}
	return s.restRepository(repo)
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

func (s *Server) restRepository(repo store.Repository) (*rest.Repository, error) {
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return nil, err
	}
	return &rest.Repository{
		ID: repo.ID, Name: repo.FullName(), DefaultBranch: repo.DefaultBranch, Private: repo.Private, Web: s.URL + "/" + repo.FullName(),
		Git: func(context.Context, bool) (string, error) { return bare.Dir(), nil },
		Update: func(ctx context.Context, by *rest.Caller, ref, from, to string) error {
			return bare.UpdateRefs(ctx, forge.Account{Login: by.Login}, time.Now().UTC(), forge.Change{Ref: ref, Old: from, New: to})
		},
		Merge: func(ctx context.Context, by *rest.Caller, m rest.Merge) (string, error) {
			return s.merge(ctx, bare, by, m)
		},
	}, nil
}

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

// readAt gives a file of a tree.
func readAt(tree *forge.Tree) func(context.Context, string) (forge.File, error) {
	return func(_ context.Context, name string) (forge.File, error) {
		f, err := tree.Read(name)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("there is no %s at %.12s", name, tree.SHA)
		}
		return f, err
	}
}
