package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
)

// allScopes are those of an administrator's first token.
var allScopes = []string{"repo", "workflow", "delete_repo", "admin:org", "user", "audit_log", "site_admin"}

// wholeScopes are those of a token that is good for all repositories of its user.
var wholeScopes, _ = auth.ParseScopes([]string{"repo"})

// audit keeps who did what.
func (s *Server) audit(ctx context.Context, actor, action, target string, details map[string]any) error {
	text, err := json.Marshal(details)
	if err != nil {
		return err
	}
	if len(text) > 32<<10 { // a push of thousands of refs
		text = fmt.Appendf(nil, `{"members":%d}`, len(details))
	}
	return s.Store.AppendAudit(ctx, &store.Audit{At: time.Now(), Actor: actor, Action: action, Target: target, Details: text})
}

// repositories lists what a caller may read. Those that they may not have no name.
func (s *Server) repositories(ctx context.Context, by *rest.Caller, after int64) ([]*rest.Repository, error) {
	found, err := s.Store.Repositories(ctx, store.RepositoryFilter{After: after})
	if err != nil {
		return nil, err
	}
	out := make([]*rest.Repository, len(found))
	for i, repo := range found {
		out[i] = &rest.Repository{ID: repo.ID}
		whole, err := s.repository(ctx, &rest.Caller{Login: by.Login, Narrow: by.Narrow}, repo.FullName())
		if errors.Is(err, rest.ErrNoRepository) || errors.Is(err, forge.ErrNoRepository) || by.Only != "" && !strings.EqualFold(by.Only, repo.FullName()) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[i] = whole
	}
	return out, nil
}

// createFor makes a repository by the API. Who made it is its administrator.
func (s *Server) createFor(ctx context.Context, by *rest.Caller, name string, private bool) (*rest.Repository, error) {
	owner, short, _ := strings.Cut(name, "/")
	if _, err := s.Store.RepositoryNamed(ctx, owner, short); err == nil {
		return nil, rest.ErrExists
	}
	repo, err := s.create(ctx, owner, short, private)
	if errors.Is(err, forge.ErrName) {
		return nil, fmt.Errorf("%w: %w", rest.ErrName, err)
	}
	if err != nil {
		return nil, err
	}
	user, err := s.Store.UserNamed(ctx, by.Login)
	if err != nil {
		return nil, err
	}
	if err := s.Store.SetMember(ctx, repo.ID, user.ID, string(auth.Admin)); err != nil {
		return nil, err
	}
	return s.restRepository(repo)
}

// Users and tokens, which GitHub's API has no routes for.

type userObject struct {
	Login   string    `json:"login"`
	ID      int64     `json:"id"`
	Admin   bool      `json:"admin"`
	Created time.Time `json:"created"`
}

type tokenObject struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"`
	Token   string    `json:"token,omitempty"` // when it is made, and never again
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Used    time.Time `json:"used,omitzero"`
}

var loginForm = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?$`)

// admin answers whoever is no administrator, or whose token is not good for that, and gives nil then.
func (s *Server) admin(w http.ResponseWriter, r *http.Request, scope string) *store.User {
	v := visitorOf(r)
	switch {
	case v.user == nil:
		refuse(w, http.StatusUnauthorized, "Requires authentication")
	case !v.user.Admin || !v.scopes.Allows(scope):
		refuse(w, http.StatusForbidden, "This is for administrators, with a token of the scope "+scope)
	default:
		return v.user
	}
	return nil
}

func (s *Server) listUsers(w http.ResponseWriter, r *http.Request) {
	if s.admin(w, r, "site_admin") == nil {
		return
	}
	out := []userObject{}
	for after := int64(0); ; {
		some, err := s.Store.Users(r.Context(), after, 100)
		if err != nil {
			s.failed(w, r, err)
			return
		}
		if len(some) == 0 {
			break
		}
		for _, u := range some {
			out = append(out, userObject{u.Login, u.ID, u.Admin, u.Created})
			after = u.ID
		}
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *Server) addUser(w http.ResponseWriter, r *http.Request) {
	by := s.admin(w, r, "site_admin")
	if by == nil {
		return
	}
	var in struct {
		Login string
		Admin bool
	}
	if !readBody(w, r, &in) {
		return
	}
	if !loginForm.MatchString(in.Login) {
		refuse(w, http.StatusUnprocessableEntity, "A login has 1 to 39 letters, digits and single hyphens, none of them at an end")
		return
	}
	u := &store.User{Login: in.Login, Admin: in.Admin, Created: time.Now().UTC()}
	err := s.Store.AddUser(r.Context(), u)
	if errors.Is(err, store.ErrExists) {
		refuse(w, http.StatusConflict, "There is a user of that name")
		return
	}
	if err == nil {
		err = s.audit(r.Context(), by.Login, "user.create", in.Login, map[string]any{"admin": in.Admin})
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, userObject{u.Login, u.ID, u.Admin, u.Created})
}

func (s *Server) removeUser(w http.ResponseWriter, r *http.Request) {
	by := s.admin(w, r, "site_admin")
	if by == nil {
		return
	}
	u, err := s.Store.UserNamed(r.Context(), r.PathValue("login"))
	if err == nil && u.ID == by.ID {
		refuse(w, http.StatusUnprocessableEntity, "You can not remove yourself")
		return
	}
	if err == nil {
		err = s.Store.DeleteUser(r.Context(), u.ID)
	}
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "There is no such user")
		return
	}
	if err == nil {
		err = s.audit(r.Context(), by.Login, "user.destroy", u.Login, nil)
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// owner is the user that a path's tokens are of: oneself, or for an administrator anybody.
func (s *Server) owner(w http.ResponseWriter, r *http.Request) *store.User {
	v := visitorOf(r)
	if v.user == nil {
		refuse(w, http.StatusUnauthorized, "Requires authentication")
		return nil
	}
	if strings.EqualFold(v.user.Login, r.PathValue("login")) {
		if !v.scopes.Allows("user") {
			refuse(w, http.StatusForbidden, "This needs a token of the scope user")
			return nil
		}
		return v.user
	}
	if s.admin(w, r, "site_admin") == nil {
		return nil
	}
	u, err := s.Store.UserNamed(r.Context(), r.PathValue("login"))
	if err != nil {
		refuse(w, http.StatusNotFound, "There is no such user")
		return nil
	}
	return &u
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) {
	u := s.owner(w, r)
	if u == nil {
		return
	}
	all, err := s.Store.Tokens(r.Context(), u.ID)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := []tokenObject{}
	for _, t := range all {
		out = append(out, tokenObject{ID: t.ID, Name: t.Name, Scopes: t.Scopes, Created: t.Created, Expires: t.Expires, Used: t.Used})
	}
	writeJSON(w, http.StatusOK, out)
}

// maxTokenName bounds the name of a token, bytes.
const maxTokenName = 100

func (s *Server) addToken(w http.ResponseWriter, r *http.Request) {
	u := s.owner(w, r)
	if u == nil {
		return
	}
	var in struct {
		Name    string
		Scopes  []string
		Expires time.Time
	}
	if !readBody(w, r, &in) {
		return
	}
	wanted, err := auth.ParseScopes(in.Scopes)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	v := visitorOf(r)
	for _, scope := range wanted.Names() {
		if !v.scopes.Allows(scope) {
			refuse(w, http.StatusForbidden, "Your own token has not the scope "+scope)
			return
		}
	}
	if in.Name == "" || len(in.Name) > maxTokenName || !in.Expires.IsZero() && in.Expires.Before(time.Now()) {
		refuse(w, http.StatusUnprocessableEntity, "A token needs a name of at most 100 bytes, and expires in the future if it does")
		return
	}
	t := &store.Token{User: u.ID, Name: in.Name, Scopes: wanted.Names(), Created: time.Now().UTC(), Expires: in.Expires}
	token := auth.NewToken()
	t.Hash = auth.HashToken(token)
	if err = s.Store.AddToken(r.Context(), t); err == nil {
		err = s.audit(r.Context(), v.user.Login, "personal_access_token.create", u.Login, map[string]any{"name": in.Name, "scopes": t.Scopes, "expires": in.Expires})
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, tokenObject{ID: t.ID, Name: t.Name, Token: token, Scopes: t.Scopes, Created: t.Created, Expires: t.Expires})
}

func (s *Server) removeToken(w http.ResponseWriter, r *http.Request) {
	u := s.owner(w, r)
	if u == nil {
		return
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err == nil {
		err = s.Store.DeleteToken(r.Context(), u.ID, id)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) {
		refuse(w, http.StatusNotFound, "There is no such token")
		return
	}
	if err == nil {
		err = s.audit(r.Context(), visitorOf(r).user.Login, "personal_access_token.destroy", u.Login, map[string]any{"id": id})
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// auditLog gives the records that auditFilter chooses, as they are hashed, each with its hash.
func (s *Server) auditLog(w http.ResponseWriter, r *http.Request) {
	if s.admin(w, r, "read:audit_log") == nil {
		return
	}
	found, err := s.Store.AuditLog(r.Context(), auditFilter(r.URL.Query(), 1000))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	type record struct {
		Hash string          `json:"hash"`
		Body json.RawMessage `json:"record"`
	}
	out := []record{}
	for _, a := range found {
		out = append(out, record{fmt.Sprintf("%x", a.Hash), a.Body})
	}
	writeJSON(w, http.StatusOK, out)
}

// auditFilter is what a query asks of the audit log: those after a record in their order, or the newest, before a record.
func auditFilter(query url.Values, most int64) store.AuditFilter {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(query.Get(name), 10, 64) // what is no number is none
		return n
	}
	return store.AuditFilter{
		Actor: query.Get("actor"), Action: query.Get("action"), Target: query.Get("target"), After: number("after"), Before: number("before"),
		Newest: query.Get("newest") != "", Limit: int(min(max(number("limit"), 0), most)),
	}
}

// auditVerified says whether the audit log is as it was written.
func (s *Server) auditVerified(w http.ResponseWriter, r *http.Request) {
	if s.admin(w, r, "read:audit_log") == nil {
		return
	}
	last, hash, err := s.Store.VerifyAudit(r.Context())
	var broken *store.AuditError
	switch {
	case errors.As(err, &broken):
		writeJSON(w, http.StatusOK, map[string]any{"ok": false, "record": broken.Seq, "reason": broken.Error()})
	case err != nil:
		s.failed(w, r, err)
	default:
		writeJSON(w, http.StatusOK, map[string]any{"ok": true, "records": last, "hash": fmt.Sprintf("%x", hash)})
	}
}

// readBody reads a small JSON body; false after it was answered that it is none.
func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(into)
	if err != nil {
		refuse(w, http.StatusBadRequest, "Problems parsing JSON")
	}
	return err == nil
}
