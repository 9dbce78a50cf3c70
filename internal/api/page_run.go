package api

import (
	"context"
	"errors"
	"maps"
	"net/http"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
)

// runPage answers a run as the engine has it, with what a page shows of its plan.
func (s *Server) runPage(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	numbers, err := s.numbers(r.Context(), run)
	last := run
	if err == nil && r.URL.Query().Has("attempt") {
		last, err = s.Engine.Run(r.Context(), run.ID)
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	github := run.Plan.GitHub
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, struct {
		*ci.Run
		Last     int                `json:"last_attempt"`
		Number   string             `json:"number"`
		Workflow string             `json:"workflow"` // path of its file
		Title    string             `json:"title"`    // of the workflow
		Event    string             `json:"event"`
		Ref      string             `json:"ref"`
		SHA      string             `json:"sha"`
		Actor    string             `json:"actor"`
		Numbers  map[ci.JobID]int64 `json:"numbers"` // of jobs, by which GitHub's API and the pages name them
	}{
		run, last.Attempt, github.Property("run_number").Text(), run.Plan.Workflow, github.Property("workflow").Text(), run.Plan.Event, github.Property("ref_name").Text(),
		github.Property("sha").Text(), github.Property("actor").Text(), numbers,
	})
}

// resume begins another attempt of a run in which what failed goes on: jobs at the step that failed, with the disk as it was
// before it.
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
		if at := job.ResumeAt(run, j); at != nil {
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
