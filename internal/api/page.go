package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// pagePath begins what the pages ask of the server besides GitHub's API.
	pagePath = "/api/penstock"
	// sessionCookie is what a browser shows in place of a token.
	sessionCookie = "penstock_session"
	sessionLife   = 30 * 24 * time.Hour
	// csrfHeader must be with whatever changes something on the word of a cookie: no other site's page can send it.
	csrfHeader = "X-Penstock"
)

// pages are the routes of pagePath.
func (s *Server) pages() http.Handler {
	mux := chi.NewRouter()
	mux.NotFound(func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusNotFound, "Not Found") })
	mux.Post(pagePath+"/login", s.login)
	mux.Post(pagePath+"/logout", s.logout)
	mux.Get(pagePath+"/events", s.events)
	mux.Get(pagePath+"/repos/{owner}/{repo}/events", s.events)
	mux.Get(pagePath+"/repos/{owner}/{repo}/runs/{run}", s.runPage)
	mux.Get(pagePath+"/repos/{owner}/{repo}/runs/{run}/events", s.events)
	mux.Post(pagePath+"/repos/{owner}/{repo}/runs/{run}/resume", s.resume)
	mux.Get(pagePath+"/repos/{owner}/{repo}/runs/{run}/jobs/{job}/log", s.log)
	mux.Get(pagePath+"/repos/{owner}/{repo}/runs/{run}/jobs/{job}/times", s.logTimes)
	mux.Get(pagePath+"/repos/{owner}/{repo}/workflows/{workflow}/inputs", s.inputs)
	mux.Post(pagePath+"/repos/{owner}/{repo}/releases", s.beginRelease)
	mux.Put(pagePath+"/repos/{owner}/{repo}/files", s.handIn)
	mux.Get(pagePath+"/repos/{owner}/{repo}/releases/{release}", s.showRelease)
	mux.Post(pagePath+"/repos/{owner}/{repo}/releases/{release}/{action}", s.steerRelease)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments", s.declaredEnvironments)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}", s.showEnvironment)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}/events", s.followEnvironment)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}/history", s.releaseHistory)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}/versions/{number}", s.showVersion)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}/traffic", s.traffic)
	mux.Get(pagePath+"/repos/{owner}/{repo}/environments/{environment}/logs", s.releaseLogs)
	mux.Post(pagePath+"/repos/{owner}/{repo}/environments/{environment}/rollback", s.rollBack)
	mux.Post(pagePath+"/repos/{owner}/{repo}/environments/{environment}/remove", s.removeReleased)
	mux.Get(pagePath+"/users", s.listUsers)
	mux.Post(pagePath+"/users", s.addUser)
	mux.Delete(pagePath+"/users/{login}", s.removeUser)
	mux.Get(pagePath+"/users/{login}/tokens", s.listTokens)
	mux.Post(pagePath+"/users/{login}/tokens", s.addToken)
	mux.Delete(pagePath+"/users/{login}/tokens/{id}", s.removeToken)
	mux.Get(pagePath+"/audit", s.auditLog)
	mux.Get(pagePath+"/audit/verify", s.auditVerified)
	return mux
}

// refuse answers an error as GitHub's API does.
func refuse(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

// byCookie is the token of the session that a browser has, "" for none or if the request may come from another site.
func byCookie(r *http.Request) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get(csrfHeader) == "" {
		return ""
	}
	return c.Value
}

// login makes a session for who has a token.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(csrfHeader) == "" { // or another site's page could sign people in as somebody else
		refuse(w, http.StatusForbidden, "Signing in needs the header "+csrfHeader)
		return
	}
	var in struct{ Token string }
	if !readBody(w, r, &in) {
		return
	}
	token, user, err := s.userOf(r, strings.TrimSpace(in.Token))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if user == nil {
		refuse(w, http.StatusUnauthorized, "This token is not known, or has expired")
		return
	}
	now := time.Now().UTC()
	expires := now.Add(sessionLife)
	if !token.Expires.IsZero() && token.Expires.Before(expires) {
		expires = token.Expires
	}
	session := auth.NewToken()
	err = s.Store.AddToken(r.Context(), &store.Token{User: user.ID, Name: "browser", Hash: auth.HashToken(session), Scopes: token.Scopes, Created: now, Expires: expires})
	if err != nil {
		s.failed(w, r, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: session, Path: "/", Expires: expires, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode,
	})
	writeJSON(w, http.StatusOK, map[string]string{"login": user.Login})
}

// secure says whether the client spoke to us, or to a proxy before us, by TLS.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// logout ends the session of the request.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	token, user, err := s.userOf(r, byCookie(r))
	if err == nil && user != nil {
		err = s.Store.DeleteToken(r.Context(), user.ID, token.ID)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.failed(w, r, err)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode})
	writeJSON(w, http.StatusOK, struct{}{})
}

// failed answers an error that is not the client's.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody waits for the answer
	}
	s.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	if errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) {
		refuse(w, http.StatusInsufficientStorage, rest.NoRoom)
		return
	}
	refuse(w, http.StatusInternalServerError, "Server Error")
}

// runOfPage is the run of a request's path, or of its attempt if path or query say one; nil after it was answered that there is none
// for the visitor.
func (s *Server) runOfPage(w http.ResponseWriter, r *http.Request) *ci.Run {
	repo, ok := s.repoOfPage(w, r)
	if !ok {
		return nil
	}
	id, err := strconv.ParseInt(r.PathValue("run"), 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "Not Found")
		return nil
	}
	run, err := s.Engine.Run(r.Context(), ci.RunID(id))
	if err == nil && strings.EqualFold(run.Plan.Repository, repo.FullName()) {
		run, err = s.attemptOf(run, r)
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.EqualFold(run.Plan.Repository, repo.FullName()) {
		refuse(w, http.StatusNotFound, "Not Found")
		return nil
	}
	if err != nil {
		s.failed(w, r, err)
		return nil
	}
	return run
}

// attemptOf is a run as it was in the attempt that a request asks for. The error wraps store.ErrNotFound if there is none.
func (s *Server) attemptOf(run *ci.Run, r *http.Request) (*ci.Run, error) {
	text := cmp.Or(r.PathValue("attempt"), r.URL.Query().Get("attempt"))
	if text == "" {
		return run, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > run.Attempt {
		return nil, fmt.Errorf("attempt %.20q: %w", text, store.ErrNotFound)
	}
	if n == run.Attempt {
		return run, nil
	}
	return s.Engine.Attempt(r.Context(), run, n)
}

// repoOfPage is the repository of a request's path; false after it was answered that there is none for the visitor.
func (s *Server) repoOfPage(w http.ResponseWriter, r *http.Request) (store.Repository, bool) {
	repo, err := s.Store.RepositoryNamed(r.Context(), r.PathValue("owner"), r.PathValue("repo"))
	if err == nil {
		var role auth.Role
		if role, err = s.role(r.Context(), visitorOf(r), repo); err == nil && !role.Allows(auth.Read) {
			err = store.ErrNotFound
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "Not Found")
		return repo, false
	}
	if err != nil {
		s.failed(w, r, err)
		return repo, false
	}
	return repo, true
}
