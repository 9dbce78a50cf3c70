package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/workflow"
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
	refuse(w, http.StatusInternalServerError, "Server Error")
}

// runOfPage is the run of a request's path, nil after it was answered that there is none for the visitor.
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

// runPage answers a run as the engine has it, with what a page shows of its plan.
func (s *Server) runPage(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	numbers, err := s.numbers(r.Context(), run)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	github := run.Plan.GitHub
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, struct {
		*ci.Run
		Number   string             `json:"number"`
		Workflow string             `json:"workflow"` // path of its file
		Title    string             `json:"title"`    // of the workflow
		Event    string             `json:"event"`
		Ref      string             `json:"ref"`
		SHA      string             `json:"sha"`
		Actor    string             `json:"actor"`
		Numbers  map[ci.JobID]int64 `json:"numbers"` // of jobs, by which GitHub's API and the pages name them
	}{
		run, github.Property("run_number").Text(), run.Plan.Workflow, github.Property("workflow").Text(), run.Plan.Event, github.Property("ref_name").Text(),
		github.Property("sha").Text(), github.Property("actor").Text(), numbers,
	})
}

// resume begins another attempt of a run in which what failed goes on: jobs of the server's own runner at the step that
// failed, with the disk as it was before it.
func (s *Server) resume(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	repo, ok := s.repoOfPage(w, r)
	if !ok {
		return
	}
	v := visitorOf(r)
	if role, err := s.role(r.Context(), v, repo); err != nil || v.user == nil || !role.Allows(auth.Write) {
		refuse(w, http.StatusForbidden, "You may not run this again")
		return
	}
	again := ci.Rerun{By: v.user.Login, Failed: true, Resume: map[ci.JobID]ci.Resume{}}
	for _, j := range run.Jobs {
		if at := job.ResumeAt(run, j); at != nil && j.Runner == s.Runner {
			again.Resume[j.ID] = *at
		}
	}
	if len(again.Resume) == 0 {
		refuse(w, http.StatusConflict, "No step that failed has its disk kept: re-run the failed jobs")
		return
	}
	err := s.Engine.Update(r.Context(), run.ID, again)
	if errors.Is(err, ci.ErrStale) || errors.Is(err, ci.ErrRefused) {
		refuse(w, http.StatusConflict, "This run can not go on: "+err.Error())
		return
	}
	if err == nil {
		err = s.audit(r.Context(), v.user.Login, "workflows.rerun", repo.FullName(), map[string]any{"id": run.ID, "resume": true})
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, struct{}{})
}

// numbers are those of a run's jobs; a job that a re-run took over has that of the attempt it ran in.
func (s *Server) numbers(ctx context.Context, run *ci.Run) (map[ci.JobID]int64, error) {
	byAttempt := map[int][]ci.JobID{}
	for _, j := range run.Jobs {
		if !j.Call && !j.Expanded {
			byAttempt[j.Attempt] = append(byAttempt[j.Attempt], j.ID)
		}
	}
	all := map[ci.JobID]int64{}
	for attempt, ids := range byAttempt {
		some, err := s.Store.JobNumbers(ctx, run.ID, attempt, ids)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, some)
	}
	return all, nil
}

// log streams a job's log as it was written: of the attempt that is shown or ?attempt=N, from the byte ?from=N on; with
// ?follow=1 until the job ends.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	query := r.URL.Query()
	id, attempt, ok := jobOfPage(run, r)
	from, err := strconv.ParseInt("0"+query.Get("from"), 10, 64)
	if err != nil || !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("Cache-Control", "no-store")
	if query.Get("download") != "" {
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=run-%d-attempt-%d.log", run.ID, attempt))
	}
	if query.Get("follow") != "" {
		s.follow(w, r, run.ID, attempt, id, from)
		return
	}
	f, err := s.Engine.Log(run.ID, attempt, id)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if f == nil {
		return // nothing was written yet
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		s.failed(w, r, err)
		return
	}
	_, _ = io.Copy(w, f) // the client has gone
}

// jobOfPage is the job of a request's path and the attempt that is asked for; false if there is none.
func jobOfPage(run *ci.Run, r *http.Request) (id ci.JobID, attempt int, ok bool) {
	name, err := url.PathUnescape(r.PathValue("job")) // the IDs of matrix cells have a slash
	if err != nil {
		return "", 0, false
	}
	j := run.Job(ci.JobID(name))
	if j == nil {
		return "", 0, false
	}
	attempt = max(j.Attempt, 1)
	if text := r.URL.Query().Get("attempt"); text != "" {
		if attempt, err = strconv.Atoi(text); err != nil || attempt < 1 || attempt > run.Attempt {
			return "", 0, false
		}
	}
	return j.ID, attempt, true
}

// logTimes answers when the bytes of a log came: pairs of an offset and the milliseconds since 1970.
func (s *Server) logTimes(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	id, attempt, ok := jobOfPage(run, r)
	if !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	marks, err := s.Engine.LogTimes(run.ID, attempt, id)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := make([][2]int64, len(marks))
	for i, m := range marks {
		out[i] = [2]int64{m.Offset, m.At.UnixMilli()}
	}
	writeJSON(w, http.StatusOK, out)
}

// input is an input of workflow_dispatch as a form needs it.
type input struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Type        string   `json:"type"`
	Required    bool     `json:"required"`
	Default     string   `json:"default,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// inputs answers what a workflow asks of who starts it, as it is at ?ref=.
func (s *Server) inputs(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfPage(w, r)
	if !ok {
		return
	}
	id, err := strconv.ParseInt(r.PathValue("workflow"), 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	known, err := s.Store.Workflow(r.Context(), repo.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	parsed, err := s.workflowAt(r.Context(), repo, known.Path, r.URL.Query().Get("ref"))
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	t := parsed.On.Find("workflow_dispatch")
	if t == nil {
		refuse(w, http.StatusUnprocessableEntity, "This workflow has no 'workflow_dispatch' trigger: nobody can start it by hand")
		return
	}
	out := []input{}
	for _, in := range t.Inputs {
		o := input{Name: in.Name, Description: in.Description, Type: in.Type, Required: in.Required, Options: in.Options}
		if v, err := in.Default.Eval(expr.Env{}); err == nil {
			o.Default = v.Text()
		}
		if in.Type == "environment" {
			all, err := s.Store.Environments(r.Context(), repo.ID)
			if err != nil {
				s.failed(w, r, err)
				return
			}
			o.Options = []string{}
			for _, e := range all {
				o.Options = append(o.Options, e.Name)
			}
		}
		out = append(out, o)
	}
	writeJSON(w, http.StatusOK, map[string]any{"inputs": out})
}

// workflowAt reads a workflow as it is at a branch or tag.
func (s *Server) workflowAt(ctx context.Context, repo store.Repository, path, ref string) (*workflow.Workflow, error) {
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return nil, err
	}
	if ref == "" {
		ref = repo.DefaultBranch
	}
	ev, err := bare.Event(ctx, s.scene(repo, forge.Account{}), "workflow_dispatch", map[string]any{"ref": ref})
	if err != nil {
		return nil, err
	}
	tree, err := bare.Tree(ctx, ev.SHA)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	f, err := tree.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s at %s", path, ref)
	}
	if err != nil {
		return nil, err
	}
	parsed, err := engine.ParseWorkflows([]forge.File{f})
	if err != nil {
		return nil, err
	}
	return parsed[0], nil
}

// follow writes a log as it grows.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, run ci.RunID, attempt int, job ci.JobID, from int64) {
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = out.Flush()
	for p, err := range s.Engine.Follow(r.Context(), run, attempt, job, from) {
		if err != nil {
			return
		}
		_ = out.SetWriteDeadline(time.Now().Add(slowReader))
		if _, err := w.Write(p); err != nil || out.Flush() != nil {
			return
		}
	}
}
