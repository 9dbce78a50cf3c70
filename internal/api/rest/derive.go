package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// What the server itself asks of the API and writes to it: objects for events' payloads, and what jobs' deployments leave.

// inside is a call that no client makes; links begin with origin.
func (a *API) inside(ctx context.Context, origin string, repo *Repository) *call {
	r := &http.Request{Header: http.Header{}}
	if u, err := url.Parse(origin); err == nil {
		r.Host = u.Host
		r.Header.Set("X-Forwarded-Proto", u.Scheme)
	}
	return &call{API: a, ctx: ctx, r: r, by: &Caller{}, repo: repo}
}

// RunPayload is a run, and its workflow, as the payload of workflow_run has them: of JSON's own types.
func (a *API) RunPayload(ctx context.Context, origin string, repo *Repository, run *ci.Run) (map[string]any, error) {
	c := a.inside(ctx, origin, repo)
	o, err := c.runObject(viewOf(run))
	if err != nil {
		return nil, err
	}
	w, err := c.Store.WorkflowAt(ctx, repo.ID, run.Plan.Workflow)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(object{"workflow_run": o, "workflow": c.workflowObject(w)})
	if err != nil {
		return nil, err
	}
	payload := object{}
	return payload, json.Unmarshal(text, &payload)
}

// Deployment is what a job or a release does to an environment, at one moment.
type Deployment struct {
	ID          int64  // of one that is there already; else Key counts
	Key         string // of the job in its attempt, or of the release: the same deployment at every moment
	Environment string
	Ref, SHA    string
	State       string // queued, waiting, in_progress, success, failure, error
	URL         string // of what was deployed; empty: not known
	Log         string // page of the job or the release
	Description string // of the state
	Creator     string
	At          time.Time
}

// maxLatest is how many of an environment's last deployments are looked through for the one that was in force.
const maxLatest = 50

// DeploymentOf finds the deployment of a key, 0 if there is none.
func (a *API) DeploymentOf(ctx context.Context, repo *Repository, environment, key string) (int64, error) {
	d, err := a.inside(ctx, repo.Web, repo).named(kindDeployment, environment, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return d.ID, nil
}

// deploymentFor finds a deployment, or makes it.
func (c *call) deploymentFor(d Deployment) (*document, error) {
	if d.ID != 0 {
		found, err := c.Store.Document(c.ctx, c.repo.Name, kindDeployment, d.ID)
		if err != nil {
			return nil, err
		}
		return read(found)
	}
	at := stamp(d.At)
	body := object{
		"ref": d.Ref, "sha": d.SHA, "task": "deploy", "payload": object{}, "environment": d.Environment, "original_environment": d.Environment, "description": nil,
		"creator": d.Creator, "created_at": at, "updated_at": at, "transient_environment": false, "production_environment": d.Environment == "production",
	}
	deployment, err := c.named(kindDeployment, d.Environment, d.Key)
	if errors.Is(err, store.ErrNotFound) {
		deployment, err = c.add(kindDeployment, d.Environment, d.Key, body)
	}
	if errors.Is(err, store.ErrExists) { // another server was first
		deployment, err = c.named(kindDeployment, d.Environment, d.Key)
	}
	return deployment, err
}

// Deployed keeps the deployment of a job or a release, and its state. One that succeeds makes those before it in its environment
// inactive.
func (a *API) Deployed(ctx context.Context, repo *Repository, d Deployment) error {
	c := a.inside(ctx, repo.Web, repo)
	deployment, err := c.deploymentFor(d)
	if err != nil {
		return err
	}
	if err := c.deploymentState(deployment, d); err != nil || d.State != "success" {
		return err
	}
	return c.supersede(deployment, d)
}

// supersede makes the deployment inactive that was in force in its environment before this one.
func (c *call) supersede(deployment *document, d Deployment) error {
	latest, err := c.list(store.DocumentFilter{Repository: c.repo.Name, Kind: kindDeployment, Parent: &d.Environment, Newest: true, Limit: maxLatest})
	if err != nil {
		return err
	}
	for _, other := range latest {
		if other.ID >= deployment.ID {
			continue
		}
		last, err := c.lastState(other)
		if err != nil {
			return err
		}
		if last != "success" {
			continue
		}
		old := d
		old.State, old.URL, old.Log, old.Description = "inactive", "", "", ""
		return c.deploymentState(other, old)
	}
	return nil
}

// deploymentState adds a state to a deployment, unless it is in it.
func (c *call) deploymentState(deployment *document, d Deployment) error {
	last, err := c.lastState(deployment)
	if err != nil || last == d.State {
		return err
	}
	at := stamp(d.At)
	// The name lets each state be once, whichever server adds it.
	_, err = c.add(kindState, text(deployment.ID), d.State, object{
		"state": d.State, "description": d.Description, "environment": d.Environment, "environment_url": d.URL, "log_url": d.Log, "target_url": d.Log, "creator": d.Creator,
		"created_at": at, "updated_at": at,
	})
	if errors.Is(err, store.ErrExists) {
		err = nil
	}
	return err
}

func (c *call) lastState(deployment *document) (string, error) {
	parent := text(deployment.ID)
	states, err := c.all(kindState, &parent, true)
	if err != nil || len(states) == 0 {
		return "", err
	}
	return states[0].text("state"), nil
}

// OpenPull opens a pull request for commits that no branch has.
func (a *API) OpenPull(ctx context.Context, repo *Repository, p Pull) (Pull, error) {
	c := a.inside(ctx, repo.Web, repo)
	at := c.now()
	d, err := c.newIssue(object{
		"title": p.Title, "body": p.Body, "state": "open", "state_reason": nil, "user": p.User, "labels": []any{}, "assignees": []any{}, "locked": false,
		"created_at": at, "updated_at": at, "closed_at": nil, "closed_by": "",
		"pull": object{
			"head_ref": p.HeadRef, "head_sha": p.HeadSHA, "base_ref": p.BaseRef, "base_sha": p.BaseSHA, "draft": false, "merged": false, "merged_at": nil, "merge_commit_sha": nil,
		},
	})
	if err != nil {
		return Pull{}, err
	}
	return pullOf(d), nil
}
