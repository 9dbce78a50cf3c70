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
	"github.com/penstock-ci/penstock/internal/deploy"
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
	Blobs     blob.Store
	Artifacts *native.Artifacts
	// Caches are those of the native cache action, nil where there are none.
	Caches *native.Cache
	// Keys gives the keys as they are now: they may be rotated while the server runs.
	Keys func() *auth.Keyring
	// Repositories is the directory of hosted repositories.
	Repositories string
	// Actions is where actions and called workflows of other repositories come from.
	Actions *forge.ActionSource
	// URL is where people and jobs reach the server, without a slash at its end.
	URL string
	Log *slog.Logger
	// Now is the time on the wall, which may jump; nil for the system's.
	Now func() time.Time
	// Name tells the server from others that share its store; its own runner has it, too.
	Name string
	// Ended is told of each run that has ended while this server runs, by whichever server; it may be nil.
	Ended func(*ci.Run) error
	// Traces are told of each run that has ended; nil for none.
	Traces *Traces
	// Images are where those of releases come from.
	Images *deploy.Images
	// Carrier carries out the releases of this server.
	Carrier *deploy.Carrier
	// ProxyURL is where the proxy is found, without a slash at its end; empty without one.
	ProxyURL string
}

// Server is what `penstock serve` serves at one origin: git, GitHub's API, and what jobs call while they run. Its engine
// is for runners.
type Server struct {
	ServerOptions
	Engine   *engine.Engine
	Releases *engine.Releases
	Runtime  *Runtime // for jobs that run here
	hosted   *forge.Hosted
	rest     *rest.API
	page     http.Handler // what pages ask of pagePath
	web      http.Handler // the pages
	text     http.Handler // the pages for who asks for no HTML
	runners  http.Handler // runner.QueuePath
	metrics  *metrics
	hub      recordHub
	limits   limits
	present  presence      // of runners elsewhere
	clock    chan struct{} // told that there are other schedules

	mu        sync.Mutex
	heard     map[int64]listening // by repository
	deploying map[ci.RunID]bool
}

// NewServer opens the repositories, finds the work that is stored, and tells of pushes that a crash left untold.
func NewServer(ctx context.Context, o ServerOptions) (*Server, error) {
	s := &Server{ServerOptions: o, clock: make(chan struct{}, 1), heard: map[int64]listening{}, deploying: map[ci.RunID]bool{}}
	if s.Now == nil {
		s.Now = time.Now
	}
	var err error
	if s.hosted, err = forge.OpenHosted(o.Repositories, forge.HostedOptions{Pushed: s.pushed}); err != nil {
		return nil, err
	}
	s.Runtime = newServerRuntime(s)
	s.Engine, err = engine.New(ctx, o.Store, o.Blobs, engine.Options{Name: o.Name, Secrets: s.secrets, Vars: s.variables, Token: s.Runtime.Grant, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s.Releases = engine.NewReleases(o.Store, engine.ReleaseOptions{Name: o.Name, Machines: s.machinesWith, Keys: o.Keys, Log: o.Log})
	s.page, s.web, s.text, s.runners = s.pages(), web.Handler(), s.textPages(), s.queue()
	s.rest = rest.New(rest.Options{
		Store: o.Store, Blobs: o.Blobs, Prefix: "/api/v3", Uploads: "/api/uploads", Now: s.Now, Repository: s.repository, Happened: s.happened,
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
	w.Header().Set("X-Content-Type-Options", "nosniff")
	asked, git := forge.ParseGitRequest(r)
	if !git { // it has its own patience
		w, r = hurried(w, r)
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
	v, err := s.visitor(r, !git)
	if err != nil {
		s.Log.Error("a token could not be looked up", "error", err)
		http.Error(w, "the database can not be reached", http.StatusServiceUnavailable)
		return
	}
	if !s.within(w, r, v) {
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
	case wantsText(r):
		s.text.ServeHTTP(w, r)
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
