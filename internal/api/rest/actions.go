package rest

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/store"
)

// Runs are what the part of the API stands on that is about workflow runs.
type Runs struct {
	Engine *engine.Engine
	// Dispatch begins a run of a workflow, which is a path, by workflow_dispatch. An error is for people; it wraps
	// ErrDispatch if what was asked for is wrong.
	Dispatch func(ctx context.Context, by *Caller, repo *Repository, workflow, ref string, inputs map[string]string) (ci.RunID, error)
}

// ErrDispatch says that a workflow can not be started as it was asked.
var ErrDispatch = errors.New("the workflow can not be started so")

var (
	readActions  = needs("actions:read")
	writeActions = needs("actions:write")
)

var runRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/actions/runs", scopes: readActions, handle: (*call).listRuns},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}", scopes: readActions, handle: (*call).getRun},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/attempts/{attempt:[0-9]+}", scopes: readActions, handle: (*call).getRun},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/jobs", scopes: readActions, handle: (*call).listJobs},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/attempts/{attempt:[0-9]+}/jobs", scopes: readActions, handle: (*call).listJobs},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/logs", scopes: readActions, handle: (*call).runLogs},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/attempts/{attempt:[0-9]+}/logs", scopes: readActions, handle: (*call).runLogs},
	{pattern: "GET /repos/{owner}/{repo}/actions/jobs/{id:[0-9]+}", scopes: readActions, handle: (*call).getJob},
	{pattern: "GET /repos/{owner}/{repo}/actions/jobs/{id:[0-9]+}/logs", scopes: readActions, handle: (*call).jobLog},
	{pattern: "POST /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/rerun", scopes: writeActions, handle: (*call).rerun, audit: "workflows.rerun"},
	{pattern: "POST /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/rerun-failed-jobs", scopes: writeActions, handle: (*call).rerunFailed, audit: "workflows.rerun"},
	{pattern: "POST /repos/{owner}/{repo}/actions/jobs/{id:[0-9]+}/rerun", scopes: writeActions, handle: (*call).rerunJob, audit: "workflows.rerun"},
	{pattern: "POST /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/cancel", scopes: writeActions, handle: (*call).cancelRun, audit: "workflows.cancel"},
	{pattern: "POST /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/force-cancel", scopes: writeActions, handle: (*call).killRun, audit: "workflows.cancel"},
	{pattern: "GET /repos/{owner}/{repo}/actions/workflows", scopes: readActions, handle: (*call).listWorkflows},
	{pattern: "GET /repos/{owner}/{repo}/actions/workflows/{workflow}", scopes: readActions, handle: (*call).getWorkflow},
	{pattern: "GET /repos/{owner}/{repo}/actions/workflows/{workflow}/runs", scopes: readActions, handle: (*call).workflowRuns},
	{pattern: "PUT /repos/{owner}/{repo}/actions/workflows/{workflow}/enable", scopes: writeActions, handle: (*call).enableWorkflow, audit: "workflows.enable"},
	{pattern: "PUT /repos/{owner}/{repo}/actions/workflows/{workflow}/disable", scopes: writeActions, handle: (*call).disableWorkflow, audit: "workflows.disable"},
	{pattern: "POST /repos/{owner}/{repo}/actions/workflows/{workflow}/dispatches", scopes: writeActions, handle: (*call).dispatchWorkflow, audit: "workflows.dispatch"},
}

// runView is a run as the API shows it, from a list or from the run itself.
type runView struct {
	store.Summary
	message string // of the head commit, where it is known
}

// run finds the run of the path, in the repository.
func (c *call) run() (*ci.Run, error) {
	id, err := c.number("id")
	if err != nil {
		return nil, err
	}
	r, err := c.runByID(ci.RunID(id))
	if err != nil {
		return nil, err
	}
	if text := c.part("attempt"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > r.Attempt {
			return nil, errNotFound
		}
		if n < r.Attempt {
			return c.Runs.Engine.Attempt(c.ctx, r, n)
		}
	}
	return r, nil
}

// runByID finds a run, if it is one of the repository.
func (c *call) runByID(id ci.RunID) (*ci.Run, error) {
	r, err := c.Runs.Engine.Run(c.ctx, id)
	if err == nil && !strings.EqualFold(r.Plan.Repository, c.repo.Name) {
		return nil, errNotFound
	}
	return r, err
}

func viewOf(r *ci.Run) runView {
	text := func(name string) string { return r.Plan.GitHub.Property(name).Text() }
	number, _ := strconv.ParseInt(text("run_number"), 10, 64)
	branch := text("head_ref")
	if branch == "" {
		branch = text("ref_name")
	}
	return runView{store.Summary{
		ID: r.ID, Repository: r.Plan.Repository, Workflow: r.Plan.Workflow, Number: number, Event: r.Plan.Event, Branch: branch, SHA: text("sha"),
		Actor: text("actor"), Name: r.Name, Attempt: r.Attempt, Status: r.Status, Conclusion: r.Conclusion, Created: r.Created, Started: r.Started,
		Completed: r.Completed, Version: r.Version,
	}, r.Plan.GitHub.Property("event").Property("head_commit").Property("message").Text()}
}

// orNull is a value, null if it is the zero one.
func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// when is a time, null if it is not yet.
func when(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}

func (c *call) runObject(v runView) (object, error) {
	w, err := c.Store.WorkflowAt(c.ctx, c.repo.ID, v.Workflow)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	name := w.Name
	if name == "" {
		name = v.Workflow
	}
	updated := v.Created
	for _, t := range []time.Time{v.Started, v.Completed} {
		if t.After(updated) {
			updated = t
		}
	}
	started := v.Started
	if started.IsZero() {
		started = v.Created
	}
	self, page := c.url("/actions/runs/%d", v.ID), c.web("/actions/runs/%d", v.ID)
	message := v.message
	if message == "" {
		message = v.Name
	}
	person := object{"name": v.Actor, "email": ""}
	o := object{
		"id": v.ID, "node_id": "run_" + text(int64(v.ID)), "name": name, "head_branch": orNull(v.Branch), "head_sha": v.SHA, "path": v.Workflow,
		"display_title": v.Name, "run_number": v.Number, "run_attempt": v.Attempt, "event": v.Event, "status": v.Status, "conclusion": orNull(v.Conclusion),
		"workflow_id": w.ID, "check_suite_id": v.ID, "check_suite_node_id": "suite_" + text(int64(v.ID)), "pull_requests": []object{},
		"created_at": stamp(v.Created), "updated_at": stamp(updated), "run_started_at": stamp(started), "actor": c.user(v.Actor), "triggering_actor": c.user(v.Actor),
		"url": self, "html_url": page, "jobs_url": self + "/jobs", "logs_url": self + "/logs", "artifacts_url": self + "/artifacts", "cancel_url": self + "/cancel",
		"rerun_url": self + "/rerun", "check_suite_url": c.url("/check-suites/%d", v.ID), "workflow_url": c.url("/actions/workflows/%d", w.ID),
		"previous_attempt_url": nil, "head_commit": object{
			"id": v.SHA, "tree_id": v.SHA, "message": message, "timestamp": stamp(v.Created), "author": person, "committer": person,
		},
		"repository": c.repositoryObject(false), "head_repository": c.repositoryObject(false),
	}
	if v.Attempt > 1 {
		o["previous_attempt_url"] = self + "/attempts/" + strconv.Itoa(v.Attempt-1)
	}
	return o, nil
}

func (c *call) listRuns() (any, error) { return c.runList("") }

func (c *call) workflowRuns() (any, error) {
	w, err := c.workflow()
	if err != nil {
		return nil, err
	}
	return c.runList(w.Path)
}

// runList shows the runs that the query chooses, the newest first.
func (c *call) runList(workflow string) (any, error) {
	query := c.r.URL.Query()
	offset, limit := c.page()
	found, err := c.Runs.Engine.Runs(c.ctx, store.Filter{
		Repository: c.repo.Name, Workflow: workflow, Branch: query.Get("branch"), SHA: query.Get("head_sha"), Actor: query.Get("actor"), Event: query.Get("event"), Status: query.Get("status"), Limit: min(offset+limit+1, maxList),
	})
	if err != nil {
		return nil, err
	}
	total := len(found)
	found = found[min(offset, total):]
	c.link(len(found) > limit)
	list := []object{}
	for _, s := range found[:min(limit, len(found))] {
		o, err := c.runObject(runView{Summary: s})
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return object{"total_count": total, "workflow_runs": list}, nil
}

func (c *call) getRun() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	return c.runObject(viewOf(r))
}

// leaf are the jobs that have steps: neither matrices as a whole nor calls.
func leaf(r *ci.Run) []*ci.Job {
	var jobs []*ci.Job
	for _, j := range r.Jobs {
		if !j.Call && !j.Expanded {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// numbers are the API's numbers of a run's jobs. A job that a re-run took over keeps that of the attempt it ran in.
func (c *call) numbers(r *ci.Run, jobs []*ci.Job) (map[ci.JobID]int64, error) {
	byAttempt := map[int][]ci.JobID{}
	for _, j := range jobs {
		byAttempt[j.Attempt] = append(byAttempt[j.Attempt], j.ID)
	}
	all := map[ci.JobID]int64{}
	for attempt, ids := range byAttempt {
		some, err := c.Store.JobNumbers(c.ctx, r.ID, attempt, ids)
		if err != nil {
			return nil, err
		}
		for id, n := range some {
			all[id] = n
		}
	}
	return all, nil
}

func (c *call) jobObject(r *ci.Run, j *ci.Job, number int64) object {
	steps := []object{}
	for _, s := range j.Steps {
		steps = append(steps, object{
			"name": s.Name, "status": s.Status, "conclusion": orNull(s.Conclusion), "number": s.Number, "started_at": when(s.Started), "completed_at": when(s.Completed),
		})
	}
	v := viewOf(r)
	self := c.url("/actions/jobs/%d", number)
	started := j.Started
	if started.IsZero() {
		started = j.Since
	}
	labels := j.Labels
	if labels == nil {
		labels = []string{}
	}
	return object{
		"id": number, "node_id": "job_" + text(number), "run_id": r.ID, "run_url": c.url("/actions/runs/%d", r.ID), "run_attempt": j.Attempt, "workflow_name": v.Name,
		"head_branch": orNull(v.Branch), "head_sha": v.SHA, "name": j.Name, "status": j.Status, "conclusion": orNull(j.Conclusion), "labels": labels, "steps": steps,
		"created_at": stamp(r.Created), "started_at": stamp(started), "completed_at": when(j.Completed), "url": self, "html_url": c.web("/actions/runs/%d/job/%d", r.ID, number),
		"check_run_url": c.url("/check-runs/%d", number), "runner_id": nil, "runner_name": orNull(j.Runner), "runner_group_id": nil, "runner_group_name": nil,
	}
}

func (c *call) listJobs() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	jobs := leaf(r)
	numbers, err := c.numbers(r, jobs)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, j := range jobs {
		list = append(list, c.jobObject(r, j, numbers[j.ID]))
	}
	return object{"total_count": len(list), "jobs": paged(c, list)}, nil
}

// job finds the job of the path's number, with its run as it was in the job's attempt.
func (c *call) job() (*ci.Run, *ci.Job, int64, error) {
	n, err := c.number("id")
	if err != nil {
		return nil, nil, 0, err
	}
	named, err := c.Store.NumberedJob(c.ctx, n)
	if err != nil {
		return nil, nil, 0, err
	}
	r, err := c.Runs.Engine.Run(c.ctx, named.Run)
	if err != nil {
		return nil, nil, 0, err
	}
	if !strings.EqualFold(r.Plan.Repository, c.repo.Name) {
		return nil, nil, 0, errNotFound
	}
	j := r.Job(named.Job)
	if j == nil || j.Attempt != named.Attempt {
		if r, err = c.Runs.Engine.Attempt(c.ctx, r, named.Attempt); err != nil {
			return nil, nil, 0, err
		}
		if j = r.Job(named.Job); j == nil {
			return nil, nil, 0, errNotFound
		}
	}
	return r, j, n, nil
}

func (c *call) getJob() (any, error) {
	r, j, n, err := c.job()
	if err != nil {
		return nil, err
	}
	return c.jobObject(r, j, n), nil
}

// again begins another attempt of a run.
func (c *call) again(id ci.RunID, in ci.Rerun) (any, error) {
	in.By = c.by.Login
	err := c.Runs.Engine.Update(c.ctx, id, in)
	switch {
	case errors.Is(err, ci.ErrStale) || errors.Is(err, ci.ErrRefused):
		return nil, &Error{Status: http.StatusForbidden, Message: "This workflow run cannot be rerun: " + err.Error()}
	case err != nil:
		return nil, err
	}
	c.tell("run %d runs again", id)
	return created(object{}), nil
}

func (c *call) rerun() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	return c.again(r.ID, ci.Rerun{})
}

func (c *call) rerunFailed() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	return c.again(r.ID, ci.Rerun{Failed: true})
}

func (c *call) rerunJob() (any, error) {
	r, j, _, err := c.job()
	if err != nil {
		return nil, err
	}
	return c.again(r.ID, ci.Rerun{Jobs: []ci.JobID{j.ID}})
}

func (c *call) cancelRun() (any, error) { return c.end(false) }

func (c *call) killRun() (any, error) { return c.end(true) }

func (c *call) end(force bool) (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	err = c.Runs.Engine.Cancel(c.ctx, r.ID, c.by.Login, force)
	if errors.Is(err, ci.ErrStale) {
		return nil, &Error{Status: http.StatusConflict, Message: "Cannot cancel a workflow run that is completed."}
	}
	if err != nil {
		return nil, err
	}
	c.tell("run %d is cancelled", r.ID)
	return answer{http.StatusAccepted, object{}}, nil
}

func (c *call) workflowObject(w store.Workflow) object {
	return object{
		"id": w.ID, "node_id": "workflow_" + text(w.ID), "name": w.Name, "path": w.Path, "state": w.State, "created_at": stamp(w.Created), "updated_at": stamp(w.Updated),
		"url": c.url("/actions/workflows/%d", w.ID), "html_url": c.web("/blob/%s/%s", c.repo.DefaultBranch, w.Path),
		"badge_url": c.web("/actions/workflows/%s/badge.svg", path.Base(w.Path)),
	}
}

func (c *call) listWorkflows() (any, error) {
	all, err := c.Store.Workflows(c.ctx, c.repo.ID)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, w := range paged(c, all) {
		list = append(list, c.workflowObject(w))
	}
	return object{"total_count": len(all), "workflows": list}, nil
}

// workflow finds a workflow by its number or the name of its file.
func (c *call) workflow() (store.Workflow, error) {
	name := c.part("workflow")
	if id, err := strconv.ParseInt(name, 10, 64); err == nil {
		return c.Store.Workflow(c.ctx, c.repo.ID, id)
	}
	return c.Store.WorkflowAt(c.ctx, c.repo.ID, ".github/workflows/"+path.Base(name))
}

func (c *call) getWorkflow() (any, error) {
	w, err := c.workflow()
	if err != nil {
		return nil, err
	}
	return c.workflowObject(w), nil
}

func (c *call) enableWorkflow() (any, error) { return c.setWorkflow("active") }

func (c *call) disableWorkflow() (any, error) { return c.setWorkflow("disabled_manually") }

func (c *call) setWorkflow(state string) (any, error) {
	w, err := c.workflow()
	if err != nil {
		return nil, err
	}
	c.tell("workflow %s is %s", w.Path, state)
	return noContent, c.Store.SetWorkflowState(c.ctx, w.ID, state, c.Now())
}

func (c *call) dispatchWorkflow() (any, error) {
	w, err := c.workflow()
	if err != nil {
		return nil, err
	}
	ref, err := c.required("WorkflowDispatch", "ref")
	if err != nil {
		return nil, err
	}
	inputs := map[string]string{}
	given, _ := c.in["inputs"].(object)
	for name, v := range given {
		switch v := v.(type) {
		case string:
			inputs[name] = v
		case bool:
			inputs[name] = strconv.FormatBool(v)
		case float64:
			inputs[name] = strconv.FormatFloat(v, 'f', -1, 64)
		default:
			return nil, unprocessable("Input '%s' is no string, number or boolean", name)
		}
	}
	if w.State != "active" {
		return nil, unprocessable("Cannot trigger a 'workflow_dispatch' on a disabled workflow")
	}
	id, err := c.Runs.Dispatch(c.ctx, c.by, c.repo, w.Path, ref, inputs)
	if errors.Is(err, ErrDispatch) {
		return nil, unprocessable("%s", err)
	}
	if err != nil {
		return nil, err
	}
	if c.yes("return_run_details", false) {
		return object{"workflow_run_id": id, "run_url": c.url("/actions/runs/%d", id), "html_url": c.web("/actions/runs/%d", id)}, nil
	}
	return noContent, nil
}
