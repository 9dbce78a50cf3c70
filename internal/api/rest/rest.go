// Package rest answers GitHub's REST API: what octokit, actions/github-script and gh ask of api.github.com or /api/v3.
// Repositories are read from git; comments, statuses, checks, releases and the like are documents of the store.
//
// Shapes, status codes and messages are GitHub's. Its own types for Go leave out nulls and empty lists, which JavaScript
// reads without asking; so answers are made of maps, and the tests hold each to GitHub's own description of its API.
//
// It never decides what runs, and authenticates nobody: who calls it has done so.
package rest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/store"
)

// Caller is who asks.
type Caller struct {
	Login string
	// Only is the one repository that a job's token is good for; empty for all.
	Only string
	// Permissions are the token's, by GitHub's names of scopes (contents, issues, pull-requests, ...), read or write. Nil
	// is all of them.
	Permissions map[string]string
	// Admin may do everything on this server.
	Admin bool
	// Narrow callers have a token that is not for repositories: they see public ones.
	Narrow bool
	// Told is called with each change that was made, in words for people; it may be nil.
	Told func(what string)
	// Unknown is called with each request that has no route, as "GET /path"; it may be nil.
	Unknown func(request string)
}

// Repository is what the API knows of a repository. Its git data is read from and written to Git.
type Repository struct {
	ID            int64
	Name          string // owner/name
	DefaultBranch string
	Private       bool
	Web           string // the page of the repository, without a slash at its end
	// Git gives a directory of git. With write its refs may be changed.
	Git func(ctx context.Context, write bool) (string, error)
	// Update changes a ref as a push would; nil writes it with git alone.
	Update func(ctx context.Context, by *Caller, ref, from, to string) error
	// Merge merges a pull request into its base and gives the new commit of that; nil can not.
	Merge func(ctx context.Context, by *Caller, m Merge) (sha string, err error)
	// AnyIssue says that what belongs to an issue may be added without the issue being known.
	AnyIssue bool
}

// ErrNoRepository says that there is no such repository for the caller.
var ErrNoRepository = errors.New("no such repository")

// Options are what an API stands on.
type Options struct {
	Store *store.Store
	Blobs blob.Store // of release assets
	// Prefix is the path that all routes are below, without a slash at its end, and Uploads the one of release assets.
	Prefix, Uploads string
	// Repository finds a repository for a caller. The error wraps ErrNoRepository if there is none.
	Repository func(ctx context.Context, by *Caller, name string) (*Repository, error)
	// Keys gives those that open and seal secrets, as they are now; nil where there are none to ask about: then those routes are
	// not there.
	Keys func() *auth.Keyring
	// Runs is nil where there are none to ask about: then those routes are not there.
	Runs *Runs
	// Artifacts are those of runs; nil where there are none to ask about: then those routes are not there.
	Artifacts *native.Artifacts
	// Caches are those of jobs, of each kind.
	Caches []Caches
	// Repositories lists those that a caller may read, by ID, after one; nil where there is one alone.
	Repositories func(ctx context.Context, by *Caller, after int64) ([]*Repository, error)
	// Create makes a repository for a caller. The error wraps ErrExists or ErrName if there can be none of that name.
	Create func(ctx context.Context, by *Caller, name string, private bool) (*Repository, error)
	// Audit keeps what a user has done: what it was, to what, and details; nil keeps nothing.
	Audit func(ctx context.Context, by *Caller, action, target string, details map[string]any) error
	// Happened is told of what workflows may run on, after it is stored; it may be nil. Its error fails the request.
	Happened func(ctx context.Context, by *Caller, repo *Repository, h Happening) error
	// Now is the clock.
	Now func() time.Time
}

// API answers requests. It may be used by any number of goroutines.
type API struct {
	Options
	router func() http.Handler // made with the first request: most runs make none
}

// New makes an API.
func New(o Options) *API {
	a := &API{Options: o}
	a.router = sync.OnceValue(func() http.Handler { return a.routes() })
	return a
}

func (a *API) routes() http.Handler {
	mux := chi.NewRouter()
	mux.NotFound(a.unknown)
	mux.MethodNotAllowed(a.unknown)
	all := [][]route{
		generalRoutes, repositoryRoutes, contentRoutes, commitRoutes, refRoutes, statusRoutes, checkRoutes, issueRoutes, labelRoutes, pullRoutes,
		releaseRoutes, deploymentRoutes, peopleRoutes,
	}
	if a.Runs != nil {
		all = append(all, runRoutes, environmentRoutes)
	}
	if a.Runs != nil && a.Artifacts != nil {
		all = append(all, artifactRoutes)
	}
	if len(a.Caches) > 0 {
		all = append(all, cacheRoutes)
	}
	if a.Keys != nil {
		all = append(all, settingRoutes(), selectedRoutes())
	}
	if a.Keys != nil && a.Runs != nil {
		all = append(all, runnerRoutes())
	}
	for _, routes := range all {
		for _, rt := range routes {
			method, path, _ := strings.Cut(rt.pattern, " ")
			prefix := a.Prefix
			if rt.upload {
				prefix = a.Uploads
			}
			mux.MethodFunc(method, prefix+path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, &rt) })
		}
	}
	return mux
}

// unknown answers what there is no route for.
func (a *API) unknown(w http.ResponseWriter, r *http.Request) {
	if by := r.Context().Value(callerKey{}).(*Caller); by.Unknown != nil {
		by.Unknown(r.Method + " " + strings.TrimPrefix(r.URL.Path, a.Prefix))
	}
	errNotFound.write(w)
}

// route is one operation of the API.
type route struct {
	pattern string // a method and a path of chi's, without the prefix
	// scopes are those of which the caller needs one, such as "issues:write"; none for what any token may do.
	scopes []string
	handle func(*call) (any, error)
	upload bool   // the body is a file
	audit  string // what is kept of it, as GitHub's audit log names it; empty: nothing
}

// needs writes scopes as routes have them.
func needs(scopes ...string) []string { return scopes }

type callerKey struct{}

// ServeHTTP answers by, who is nil for nobody.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, by *Caller) {
	w.Header().Set("X-GitHub-Media-Type", "github.v3; format=json")
	w.Header().Set("X-GitHub-Api-Version-Selected", "2022-11-28")
	if by == nil {
		message := "Requires authentication"
		if r.Header.Get("Authorization") != "" {
			message = "Bad credentials"
		}
		(&Error{Status: http.StatusUnauthorized, Message: message}).write(w)
		return
	}
	a.router().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, by)))
}

// Error is an error as GitHub answers it.
type Error struct {
	Status  int
	Message string
	Errors  []object
	accepts []string // permissions that would do
}

func (e *Error) Error() string { return e.Message }

func (e *Error) write(w http.ResponseWriter) {
	body := object{"message": e.Message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(e.Status)}
	if len(e.Errors) > 0 {
		body["errors"] = e.Errors
	}
	if len(e.accepts) > 0 {
		w.Header().Set("X-Accepted-GitHub-Permissions", strings.ReplaceAll(strings.Join(e.accepts, "; "), ":", "="))
	}
	writeJSON(w, e.Status, body)
}

// NoRoom is what who asks is told when the server's disk is full.
const NoRoom = "No space is left on the server's disk: nothing was changed"

var errNotFound = &Error{Status: http.StatusNotFound, Message: "Not Found"}

// invalid is GitHub's answer to a field that does not fit: code is missing_field, invalid, already_exists or custom.
func invalid(resource, field, code, message string) *Error {
	fault := object{"resource": resource, "field": field, "code": code}
	if message != "" {
		fault["message"] = message
	}
	return &Error{Status: http.StatusUnprocessableEntity, Message: "Validation Failed", Errors: []object{fault}}
}

// object is what JSON calls so.
type object = map[string]any

// answer is a body with another status than 200.
type answer struct {
	status int
	body   any
}

func created(body any) answer { return answer{http.StatusCreated, body} }

var noContent = answer{status: http.StatusNoContent}

// file is an answer of bytes.
type file struct {
	contentType string
	content     io.ReadSeeker
	modified    time.Time
}

const (
	maxBody = 10 << 20 // of a request, bytes
	maxPage = 100
)

// call is one request.
type call struct {
	*API
	ctx  context.Context
	w    http.ResponseWriter
	r    *http.Request
	by   *Caller
	repo *Repository // nil if the path names none
	in   object      // the request's body

	accounts map[string]*store.User // that were looked up; nil is nobody
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, rt *route) {
	c := &call{API: a, ctx: r.Context(), w: w, r: r, by: r.Context().Value(callerKey{}).(*Caller)}
	result, err := c.answer(rt)
	var known *Error
	switch {
	case errors.As(err, &known):
		known.write(w)
	case errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrNoRepository):
		errNotFound.write(w)
	case errors.Is(err, store.ErrConflict):
		(&Error{Status: http.StatusConflict, Message: "It was changed meanwhile. Try again."}).write(w)
	case errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC):
		slog.Error("a request of the REST API failed", "method", r.Method, "path", r.URL.Path, "error", err)
		(&Error{Status: http.StatusInsufficientStorage, Message: NoRoom}).write(w)
	case err != nil:
		slog.Error("a request of the REST API failed", "method", r.Method, "path", r.URL.Path, "error", err)
		(&Error{Status: http.StatusInternalServerError, Message: "Server Error"}).write(w)
	default:
		c.send(result)
	}
}

func (c *call) answer(rt *route) (any, error) {
	if name := c.part("repo"); name != "" {
		if err := c.findRepository(c.part("owner") + "/" + strings.TrimSuffix(name, ".git")); err != nil {
			return nil, err
		}
	}
	if !c.by.may(rt.scopes) {
		return nil, &Error{Status: http.StatusForbidden, Message: "Resource not accessible by integration", accepts: rt.scopes}
	}
	if c.r.Method != http.MethodGet && !rt.upload {
		if err := c.readBody(); err != nil {
			return nil, err
		}
	}
	result, err := rt.handle(c)
	if err == nil && rt.audit != "" {
		err = c.keep(rt.audit)
	}
	return result, err
}

// keep records what was done in the audit log.
func (c *call) keep(action string) error {
	if c.Audit == nil {
		return nil
	}
	target, details := c.part("org"), map[string]any{}
	if c.repo != nil {
		target = c.repo.Name
	}
	for _, name := range []string{"name", "environment", "login", "id", "number", "workflow"} {
		if v := c.part(name); v != "" {
			details[name] = v
		}
	}
	for _, name := range []string{"state", "comment", "ref", "permission", "environment_ids", "merge_method"} { // of the body, where they say what was done
		if v, ok := c.in[name]; ok {
			details[name] = v
		}
	}
	return c.Audit(c.ctx, c.by, action, target, details)
}

func (c *call) findRepository(name string) error {
	if c.by.Only != "" && !strings.EqualFold(c.by.Only, name) {
		return errNotFound
	}
	var err error
	c.repo, err = c.Repository(c.ctx, c.by, name)
	return err
}

// may says whether a caller has one of the scopes.
func (by *Caller) may(scopes []string) bool {
	if by.Permissions == nil || len(scopes) == 0 {
		return true
	}
	return slices.ContainsFunc(scopes, func(s string) bool {
		name, level, _ := strings.Cut(s, ":")
		has := by.Permissions[name]
		return has == "write" || has == level
	})
}

// readBody reads the request's JSON. No body is an empty object.
func (c *call) readBody() error {
	data, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("The body is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return &Error{Status: http.StatusBadRequest, Message: "The body could not be read"}
	}
	c.in = object{}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, &c.in); err != nil || c.in == nil {
		var list []any // labels may come bare
		if json.Unmarshal(data, &list) == nil {
			c.in = object{"": list}
			return nil
		}
		return &Error{Status: http.StatusBadRequest, Message: "Problems parsing JSON"}
	}
	return nil
}

// send writes an answer: JSON with an ETag, nothing, or a file.
func (c *call) send(result any) {
	status := http.StatusOK
	switch v := result.(type) {
	case *file:
		c.w.Header().Set("Content-Type", v.contentType)
		c.w.Header().Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(c.w, c.r, "", v.modified, v.content)
		if closer, ok := v.content.(io.Closer); ok {
			closer.Close()
		}
		return
	case answer:
		if v.status == http.StatusNoContent {
			c.w.WriteHeader(v.status)
			return
		}
		status, result = v.status, v.body
	}
	if c.r.Method != http.MethodGet {
		writeJSON(c.w, status, result)
		return
	}
	text, err := json.Marshal(result)
	if err != nil {
		writeJSON(c.w, status, result)
		return
	}
	etag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(text))
	c.w.Header().Set("ETag", etag)
	c.w.Header().Set("Cache-Control", "private, max-age=60, s-maxage=60")
	if slices.ContainsFunc(strings.Split(c.r.Header.Get("If-None-Match"), ","), func(s string) bool {
		return strings.TrimPrefix(strings.TrimSpace(s), "W/") == strings.TrimPrefix(etag, "W/")
	}) {
		c.w.WriteHeader(http.StatusNotModified)
		return
	}
	writeRaw(c.w, status, text)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil { // only JSON's own types are in v
		status, text = http.StatusInternalServerError, []byte(`{"message":"Server Error"}`)
	}
	writeRaw(w, status, text)
}

func writeRaw(w http.ResponseWriter, status int, text []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client has gone
}

// tell says what was changed, to who wants to know.
func (c *call) tell(format string, args ...any) {
	if c.by.Told != nil {
		c.by.Told(fmt.Sprintf(format, args...))
	}
}

// origin is the scheme and the host that the client used.
func (c *call) origin() string {
	scheme := "http"
	if c.r.TLS != nil || c.r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	return scheme + "://" + c.r.Host
}

// url is the address of something in the API, below the repository if there is one.
func (c *call) url(format string, args ...any) string {
	if c.repo == nil {
		return c.origin() + c.Prefix + fmt.Sprintf(format, args...)
	}
	return c.origin() + c.Prefix + "/repos/" + c.repo.Name + fmt.Sprintf(format, args...)
}

// web is the address of a page of the repository.
func (c *call) web(format string, args ...any) string {
	return c.repo.Web + fmt.Sprintf(format, args...)
}

// part is a part of the path by its name in the route, "*" for all that is left.
func (c *call) part(name string) string {
	s := c.r.PathValue(name)
	if c.r.URL.RawPath == "" { // else the route was found by the path as it was sent
		return s
	}
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// setRef makes, moves or deletes a ref; forty zeros are a ref that is not there.
func (c *call) setRef(ref, from, to string) error {
	if c.repo.Update != nil {
		return c.repo.Update(c.ctx, c.by, ref, from, to)
	}
	args := []string{"update-ref", ref, to, from}
	if strings.Trim(to, "0") == "" {
		args = []string{"update-ref", "-d", ref, from}
	}
	_, err := c.gitIn(true, nil, nil, args...)
	return err
}

func (c *call) number(name string) (int64, error) {
	n, err := strconv.ParseInt(c.part(name), 10, 64)
	if err != nil || n < 1 {
		return 0, errNotFound
	}
	return n, nil
}
