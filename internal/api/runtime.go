// Package api serves HTTP. Today that is what unchanged actions call while their job runs: the artifact service, the
// cache service in both its versions with the part of Azure's blob storage that their clients use, the repository for
// checkout, and GitHub's REST API (package rest). It is served on the job's own loopback; a server to come serves the same
// handler to its runners.
// Registry serves images to whoever pulls and pushes them.
//
// It knows stores and wire formats. It never decides what runs.
package api

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
)

// Runtime offers the runtime services to jobs. It may be used by any number of goroutines.
type Runtime struct {
	artifacts *native.Artifacts
	caches    *caches
	uploads   *uploads
	git       string          // the repository that jobs check out, a directory; empty for none
	keys      func() [][]byte // the first signs tokens and URLs, all are good
	now       func() time.Time
	identity  *identity
	github    *LocalGitHub // nil for none
	server    *Server      // whose jobs these are; nil for none

	mu       sync.Mutex
	sessions map[string]*session // by token
}

// session is one job that may call.
type session struct {
	lease        ci.Lease
	run, attempt string // decimal
	runID, jobID string // as the services name them
	repository   string // owner/name
	scopes       []string
	token        string
	claims       map[string]any    // of its identity; nil without the permission id-token: write
	deploys      bool              // the job is for an environment, or says that it writes deployments
	permissions  map[string]string // of its token; nil for all
	told         told              // what it changed by the REST API
}

// NewRuntime keeps caches and what is being uploaded in blobs, and artifacts where the native actions have them. git is
// the repository that actions/checkout is given, a directory; empty for none. github answers the REST API to jobs that
// have no token for another; nil for none.
func NewRuntime(blobs blob.Store, artifacts *native.Artifacts, git string, github *LocalGitHub) *Runtime {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	rt := &Runtime{
		artifacts: artifacts, git: git, github: github, keys: func() [][]byte { return [][]byte{key} }, now: time.Now, identity: newIdentity(), sessions: map[string]*session{},
	}
	rt.caches = &caches{blobs: blobs, now: func() time.Time { return rt.now() }}
	rt.uploads = &uploads{blobs: blobs, open: map[string]*progress{}}
	return rt
}

// tokenLife is how long a job's token is valid: longer than any job may take.
const tokenLife = 7 * 24 * time.Hour

// newServerRuntime is the runtime of a server: its jobs have tokens of Grant, by which they also call the server's API and
// fetch their repository, through the listener in their machine. Tokens and URLs are good on each server with the keys.
func newServerRuntime(s *Server) *Runtime {
	rt := NewRuntime(s.Blobs, s.Artifacts, "", nil)
	rt.server, rt.identity, rt.now = s, s.identity(), s.Now
	rt.keys = func() [][]byte { return s.Keys().Derive("tokens of jobs") }
	return rt
}

// Grant makes github.token for a task that is leased: good until the job ends.
func (rt *Runtime) Grant(_ context.Context, t *ci.Task) (string, error) {
	return rt.begin(t).token, nil
}

// byToken gives the session that a token is of, nil for none. A server's is good as long as the job's lease, and after a
// restart.
func (rt *Runtime) byToken(ctx context.Context, token string) *session {
	rt.mu.Lock()
	s := rt.sessions[token]
	rt.mu.Unlock()
	if rt.server == nil {
		return s
	}
	if s == nil {
		lease, ok := rt.leaseOf(token)
		if !ok {
			return nil
		}
		t, err := rt.server.Engine.Leased(ctx, lease)
		if err != nil {
			return nil
		}
		t.Token = token
		s = rt.begin(t)
	}
	if !rt.server.Engine.Holds(s.lease) {
		rt.forget(s)
		return nil
	}
	return s
}

// forget ends a session.
func (rt *Runtime) forget(s *session) {
	rt.mu.Lock()
	delete(rt.sessions, s.token)
	rt.mu.Unlock()
	rt.uploads.forget(s)
}

// Serve implements job.Services.
func (rt *Runtime) Serve(l net.Listener, t *ci.Task) (job.ServiceAddress, func() []string) {
	handler := http.Handler(rt)
	var s *session
	if rt.server != nil {
		if s = rt.byToken(context.Background(), t.Token); s != nil {
			handler = rt.server.released(rt.server) // the token is one of its own
		}
	}
	if s == nil {
		s = rt.begin(t)
	}
	origin := "http://" + l.Addr().String()
	server := NewHTTPServer(handler)
	go func() { _ = server.Serve(l) }() // until it is closed
	address := s.address(origin, rt.server != nil)
	if rt.git != "" {
		address.Git = origin
	}
	if t.Token == "" && rt.github != nil {
		if err := rt.github.know(t); err != nil {
			slog.Warn("the event is not known to the REST API", "error", err)
		}
		address.API = origin + "/api"
	}
	return address, func() []string {
		rt.forget(s)
		_ = server.Close()
		return s.told.notes()
	}
}

// address says where a job finds its services at an origin.
func (s *session) address(origin string, server bool) job.ServiceAddress {
	address := job.ServiceAddress{
		Env: map[string]string{
			"ACTIONS_RUNTIME_URL": origin + "/", "ACTIONS_RESULTS_URL": origin + "/", "ACTIONS_CACHE_URL": origin + "/",
			"ACTIONS_RUNTIME_TOKEN": s.token, "ACTIONS_CACHE_SERVICE_V2": "True", "ACTIONS_ORCHESTRATION_ID": s.runID + "." + s.jobID,
		},
		Token: s.token, Steps: map[string]string{},
	}
	if server {
		address.Git, address.API, address.Server = origin, origin+"/api", true
		address.Steps["PENSTOCK_URL"] = origin
		if s.deploys {
			address.Steps["PENSTOCK_TOKEN"] = s.token
		}
	}
	if s.claims != nil {
		address.Steps["ACTIONS_ID_TOKEN_REQUEST_URL"] = origin + identityPath + "/" + s.jobID + "?api-version=2.0"
		address.Steps["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = s.token
	}
	return address
}

// begin makes a session for a job, with the token that it has or a new one.
func (rt *Runtime) begin(t *ci.Task) *session {
	s := newSession(t)
	if s.token = t.Token; s.token == "" || rt.server == nil {
		s.token = rt.newToken(s)
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.sessions[s.token] = s
	return s
}

// newSession is a session without a token.
func newSession(t *ci.Task) *session {
	id := sha256.Sum256([]byte(t.Job))
	s := &session{
		lease: ci.Lease{Run: t.Run, Job: t.Job, ID: t.Lease},
		run:   strconv.FormatInt(int64(t.Run), 10), attempt: strconv.Itoa(t.Attempt), repository: t.Repository, permissions: t.Permissions,
		jobID: hex.EncodeToString(id[:8]), scopes: cacheScopes(t.GitHub),
	}
	s.runID = s.run + "-" + s.attempt
	s.deploys = t.Environment != "" || t.Permissions["deployments"] == "write"
	if t.Permissions["id-token"] == "write" {
		s.claims = identityClaims(t)
	}
	return s
}

// newToken makes the JSON Web Token whose claims clients read without checking them: the artifact client wants scp, of
// exactly three parts, BuildKit's cache client ac, exp and nbf.
func (rt *Runtime) newToken(s *session) string {
	type access struct {
		Scope      string
		Permission int
	}
	var ac []access
	for i, scope := range s.scopes {
		permission := 1
		if i == 0 {
			permission = 3
		}
		ac = append(ac, access{scope, permission})
	}
	acText, _ := json.Marshal(ac) // strings and numbers
	now := rt.now()
	claims, _ := json.Marshal(map[string]any{
		"scp": "Actions.Results:" + s.runID + ":" + s.jobID, "ac": string(acText),
		"nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(tokenLife).Unix(), "jti": rand.Text(), "lease": s.lease,
	})
	encode := base64.RawURLEncoding.EncodeToString
	head := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	return head + "." + encode(rt.mac(head))
}

// leaseOf gives the lease whose token it is; false if it is none that was signed here.
func (rt *Runtime) leaseOf(token string) (l ci.Lease, ok bool) {
	at := strings.LastIndexByte(token, '.')
	if at < 0 || len(token) > 16<<10 {
		return l, false
	}
	mac, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil || !rt.signed(token[:at], mac) {
		return l, false
	}
	_, text, _ := strings.Cut(token[:at], ".")
	claims, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return l, false
	}
	var c struct {
		Lease   ci.Lease
		Expires int64 `json:"exp"`
	}
	if json.Unmarshal(claims, &c) != nil || rt.now().Unix() > c.Expires {
		return l, false
	}
	return c.Lease, true
}

func (rt *Runtime) mac(text string) []byte { return macWith(rt.keys()[0], text) }

// signed says whether a text was signed with one of the keys.
func (rt *Runtime) signed(text string, mac []byte) bool {
	return slices.ContainsFunc(rt.keys(), func(key []byte) bool { return hmac.Equal(mac, macWith(key, text)) })
}

func macWith(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// session gives whose request it is, nil if nobody's.
func (rt *Runtime) session(r *http.Request) *session {
	return rt.byToken(r.Context(), tokenOf(r))
}

// tokenOf gives the token that a request shows, "" for none.
func tokenOf(r *http.Request) string {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(kind, "bearer") || strings.EqualFold(kind, "token") { // octokit says the latter
		return token
	}
	_, token, _ = r.BasicAuth() // git's
	return token
}

// cacheScopes are the refs whose caches a job may restore: its own, which it saves to, that of the branch it is to be
// merged into, and the default branch's.
func cacheScopes(github expr.Value) []string {
	scopes := []string{github.Property("ref").Text()}
	for _, branch := range []string{
		github.Property("base_ref").Text(),
		github.Property("event").Property("repository").Property("default_branch").Text(),
	} {
		if ref := "refs/heads/" + branch; branch != "" && ref != scopes[0] && ref != scopes[len(scopes)-1] {
			scopes = append(scopes, ref)
		}
	}
	return scopes
}

// maxRequest bounds the body of a request that is no upload, bytes.
const maxRequest = 1 << 20

// ServeHTTP is the map of all routes.
func (rt *Runtime) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Ms-Request-Id", rand.Text()) // clients of Azure's storage take it for granted
	path := r.URL.Path
	switch {
	case path == "/.well-known/openid-configuration" && r.Method == http.MethodGet:
		rt.serveDiscovery(w, r)
		return
	case path == "/.well-known/jwks" && r.Method == http.MethodGet:
		rt.serveKeys(w, r)
		return
	case strings.HasPrefix(path, identityPath+"/") && r.Method == http.MethodGet:
		rt.serveToken(w, r)
		return
	}
	if id, ok := strings.CutPrefix(path, blobPath); ok {
		rt.serveBlob(w, r, id)
		return
	}
	s := rt.session(r)
	if rt.github != nil && strings.HasPrefix(path, "/api/") {
		rt.github.serve(w, r, s)
		return
	}
	if s == nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="Penstock"`)
		fail(w, http.StatusUnauthorized, "unauthenticated", "the token is none of a job that runs")
		return
	}
	switch {
	case strings.HasPrefix(path, twirpPath):
		rt.serveTwirp(w, r, s, strings.TrimPrefix(path, twirpPath))
	case strings.HasPrefix(path, cacheV1Path):
		rt.serveCacheV1(w, r, s, strings.TrimPrefix(path, cacheV1Path))
	case strings.HasSuffix(path, "/info/refs") || strings.HasSuffix(path, "/git-upload-pack"):
		rt.serveGit(w, r, s)
	default:
		fail(w, http.StatusNotFound, "bad_route", "no such service: "+r.Method+" "+path)
	}
}

// fail answers as Twirp does: its clients show msg.
func fail(w http.ResponseWriter, status int, code, msg string) {
	writeJSON(w, status, map[string]string{"code": code, "msg": msg})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, fmt.Appendf(nil, `{"code":"internal","msg":%q}`, err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client has gone
}
