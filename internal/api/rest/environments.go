package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

var environmentRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/environments", scopes: needs("actions:read"), handle: (*call).listEnvironments},
	{pattern: "GET /repos/{owner}/{repo}/environments/{environment}", scopes: needs("actions:read"), handle: (*call).getEnvironment},
	{pattern: "PUT /repos/{owner}/{repo}/environments/{environment}", scopes: needs("administration:write"), handle: (*call).putEnvironment, audit: "environment.update"},
	{pattern: "DELETE /repos/{owner}/{repo}/environments/{environment}", scopes: needs("administration:write"), handle: (*call).deleteEnvironment, audit: "environment.delete"},
	{pattern: "GET /repos/{owner}/{repo}/environments/{environment}/deployment-branch-policies", scopes: needs("actions:read"), handle: (*call).listPolicies},
	{pattern: "GET /repos/{owner}/{repo}/environments/{environment}/deployment-branch-policies/{id:[0-9]+}", scopes: needs("actions:read"), handle: (*call).getPolicy},
	{pattern: "PUT /repos/{owner}/{repo}/environments/{environment}/deployment-branch-policies/{id:[0-9]+}", scopes: needs("administration:write"), handle: (*call).renamePolicy, audit: "environment.update"},
	{pattern: "POST /repos/{owner}/{repo}/environments/{environment}/deployment-branch-policies", scopes: needs("administration:write"), handle: (*call).addPolicy, audit: "environment.update"},
	{pattern: "DELETE /repos/{owner}/{repo}/environments/{environment}/deployment-branch-policies/{id:[0-9]+}", scopes: needs("administration:write"), handle: (*call).deletePolicy, audit: "environment.update"},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/pending_deployments", scopes: readActions, handle: (*call).pendingDeployments},
	{pattern: "POST /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/pending_deployments", scopes: needs("deployments:write"), handle: (*call).review, audit: "workflows.review_deployment"},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/approvals", scopes: readActions, handle: (*call).approvals},
}

const (
	maxReviewers = 6       // as on GitHub
	maxWaitTimer = 43_200  // minutes
	maxPolicies  = 100     // of an environment
	maxComment   = 4 << 10 // bytes
)

// rules are what protects an environment, as the store keeps them.
type rules struct {
	WaitTimer         int      `json:"wait_timer,omitempty"` // minutes
	PreventSelfReview bool     `json:"prevent_self_review,omitempty"`
	Reviewers         []int64  `json:"reviewers,omitempty"` // users
	Protected         bool     `json:"protected_branches,omitempty"`
	Custom            bool     `json:"custom_branch_policies,omitempty"`
	Policies          []policy `json:"policies,omitempty"`
	LastPolicy        int64    `json:"last_policy,omitempty"`
	Required          []string `json:"required_variables,omitempty"` // of jobs for it; GitHub has no such rule
}

// policy is a pattern of branches or tags that may deploy.
type policy struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"` // branch, tag
}

func readRules(e store.Environment) (r rules, err error) {
	if len(e.Rules) > 0 {
		err = json.Unmarshal(e.Rules, &r)
	}
	return r, err
}

// Required are the secrets and variables without which no job for an environment starts.
func Required(e store.Environment) ([]string, error) {
	r, err := readRules(e)
	return r.Required, err
}

// Environments are the gates of a repository's environments, by lower-case name.
func (a *API) Environments(ctx context.Context, repo *Repository) (map[string]ci.Environment, error) {
	all, err := a.Store.Environments(ctx, repo.ID)
	if err != nil {
		return nil, err
	}
	out := make(map[string]ci.Environment, len(all))
	for _, e := range all {
		r, err := readRules(e)
		if err != nil {
			return nil, fmt.Errorf("read the rules of environment %s: %w", e.Name, err)
		}
		gate := ci.Environment{Name: e.Name, PreventSelfReview: r.PreventSelfReview, Wait: time.Duration(r.WaitTimer) * time.Minute}
		for _, id := range r.Reviewers {
			u, err := a.Store.User(ctx, id)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			gate.Reviewers = append(gate.Reviewers, u.Login)
		}
		if len(r.Reviewers) > 0 && len(gate.Reviewers) == 0 {
			gate.Reviewers = []string{""} // all are gone: nobody may approve
		}
		if r.Custom {
			gate.Branches = []string{" "} // no ref is called so: none may but those that are named
			for _, p := range r.Policies {
				gate.Branches = append(gate.Branches, "refs/"+map[string]string{"branch": "heads", "tag": "tags"}[p.Type]+"/"+p.Name)
			}
		}
		if r.Protected { // until branches can be protected, that is the default branch
			gate.Branches = []string{"refs/heads/" + repo.DefaultBranch}
		}
		out[strings.ToLower(e.Name)] = gate
	}
	return out, nil
}

func (c *call) environment() (store.Environment, rules, error) {
	e, err := c.Store.Environment(c.ctx, c.repo.ID, c.part("environment"))
	if err != nil {
		return e, rules{}, err
	}
	r, err := readRules(e)
	return e, r, err
}

func (c *call) environmentObject(e store.Environment) (object, error) {
	r, err := readRules(e)
	if err != nil {
		return nil, err
	}
	id := func(kind string) object {
		return object{"id": e.ID, "node_id": fmt.Sprintf("rule_%s_%d", kind, e.ID), "type": kind}
	}
	protection := []object{}
	if r.WaitTimer > 0 {
		o := id("wait_timer")
		o["wait_timer"] = r.WaitTimer
		protection = append(protection, o)
	}
	if len(r.Reviewers) > 0 {
		o := id("required_reviewers")
		o["prevent_self_review"] = r.PreventSelfReview
		if o["reviewers"], err = c.reviewers(r); err != nil {
			return nil, err
		}
		protection = append(protection, o)
	}
	var policy any
	if r.Protected || r.Custom {
		protection = append(protection, id("branch_policy"))
		policy = object{"protected_branches": r.Protected, "custom_branch_policies": r.Custom}
	}
	o := c.environmentName(e)
	o["created_at"], o["updated_at"] = stamp(e.Created), stamp(e.Updated)
	o["protection_rules"], o["deployment_branch_policy"] = protection, policy
	if len(r.Required) > 0 {
		o["required_variables"] = r.Required
	}
	return o, nil
}

// environmentName is an environment where only its name matters.
func (c *call) environmentName(e store.Environment) object {
	return object{
		"id": e.ID, "node_id": fmt.Sprintf("environment_%d", e.ID), "name": e.Name, "url": c.url("/environments/%s", e.Name), "html_url": c.web("/environments/%s", e.Name),
	}
}

// reviewers are those that are still there.
func (c *call) reviewers(r rules) ([]object, error) {
	out := []object{}
	for _, id := range r.Reviewers {
		u, err := c.Store.User(c.ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, object{"type": "User", "reviewer": c.person(u.Login, false)})
	}
	return out, nil
}

func (c *call) listEnvironments() (any, error) {
	all, err := c.Store.Environments(c.ctx, c.repo.ID)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, e := range all {
		o, err := c.environmentObject(e)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return object{"total_count": len(list), "environments": paged(c, list)}, nil
}

func (c *call) getEnvironment() (any, error) {
	e, _, err := c.environment()
	if err != nil {
		return nil, err
	}
	return c.environmentObject(e)
}

func (c *call) putEnvironment() (any, error) {
	name := c.part("environment")
	if len(name) > 255 || strings.ContainsAny(name, "'\"`,;\\\n\r\t") {
		return nil, unprocessable("The name of an environment has at most 255 characters, and none of ' \" ` , ; \\")
	}
	e, _, err := c.Store.EditEnvironment(c.ctx, c.repo.ID, name, c.Now().UTC(), func(e *store.Environment) error { return edit(e, c.readRules) })
	if err != nil {
		return nil, err
	}
	return c.environmentObject(e)
}

// edit changes the rules of an environment.
func edit(e *store.Environment, change func(*rules) error) error {
	r, err := readRules(*e)
	if err == nil {
		err = change(&r)
	}
	if err == nil {
		e.Rules, err = json.Marshal(r)
	}
	return err
}

// editPolicies changes the policies of an environment that is there.
func (c *call) editPolicies(change func(*rules) error) error {
	_, _, err := c.Store.EditEnvironment(c.ctx, c.repo.ID, c.part("environment"), c.Now().UTC(), func(e *store.Environment) error {
		if e.ID == 0 {
			return errNotFound
		}
		return edit(e, change)
	})
	return err
}

// readRules takes over what the request says; what it does not name is as if nothing protected the environment.
func (c *call) readRules(r *rules) error {
	wait, _ := c.in["wait_timer"].(float64)
	if wait < 0 || wait > maxWaitTimer || wait != float64(int(wait)) {
		return invalid("Environment", "wait_timer", "invalid", fmt.Sprintf("wait_timer is a number of minutes, at most %d", maxWaitTimer))
	}
	r.WaitTimer, r.PreventSelfReview, r.Reviewers = int(wait), c.yes("prevent_self_review", false), nil
	list, _ := c.in["reviewers"].([]any)
	if len(list) > maxReviewers {
		return invalid("Environment", "reviewers", "invalid", fmt.Sprintf("there may be %d reviewers", maxReviewers))
	}
	for _, item := range list {
		o, _ := item.(object)
		id, _ := o["id"].(float64)
		if o["type"] != "User" {
			return invalid("Environment", "reviewers", "invalid", "this server has users and no teams: type must be User")
		}
		if _, err := c.Store.User(c.ctx, int64(id)); errors.Is(err, store.ErrNotFound) {
			return invalid("Environment", "reviewers", "invalid", fmt.Sprintf("there is no user with the id %.0f", id))
		} else if err != nil {
			return err
		}
		if !slices.Contains(r.Reviewers, int64(id)) {
			r.Reviewers = append(r.Reviewers, int64(id))
		}
	}
	r.Required = nil
	for _, name := range names(c.in["required_variables"]) {
		name, err := c.settingName(name)
		if err != nil {
			return err
		}
		if r.Required = append(r.Required, name); len(r.Required) > maxSettings {
			return invalid("Environment", "required_variables", "invalid", fmt.Sprintf("there may be %d", maxSettings))
		}
	}
	policy, _ := c.in["deployment_branch_policy"].(object)
	r.Protected, r.Custom = policy["protected_branches"] == true, policy["custom_branch_policies"] == true
	if r.Protected && r.Custom || policy != nil && !r.Protected && !r.Custom {
		return unprocessable("Only one of protected_branches and custom_branch_policies may be true, and one must be")
	}
	return nil
}

func (c *call) deleteEnvironment() (any, error) {
	return noContent, c.Store.DeleteEnvironment(c.ctx, c.repo.ID, c.part("environment"))
}

func (c *call) policyObject(p policy) object {
	return object{"id": p.ID, "node_id": fmt.Sprintf("policy_%d", p.ID), "name": p.Name, "type": p.Type}
}

func (c *call) listPolicies() (any, error) {
	_, r, err := c.environment()
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, p := range r.Policies {
		list = append(list, c.policyObject(p))
	}
	return object{"total_count": len(list), "branch_policies": paged(c, list)}, nil
}

func (c *call) addPolicy() (any, error) {
	name, err := c.required("DeploymentBranchPolicy", "name")
	if err != nil {
		return nil, err
	}
	kind, err := c.oneOf("DeploymentBranchPolicy", "type", "branch", "branch", "tag")
	if err != nil {
		return nil, err
	}
	var p policy
	err = c.editPolicies(func(r *rules) error {
		if !r.Custom {
			return errNotFound
		}
		if at := slices.IndexFunc(r.Policies, func(p policy) bool { return p.Name == name && p.Type == kind }); at >= 0 {
			p = r.Policies[at]
			return nil
		}
		if len(r.Policies) >= maxPolicies || len(name) > 255 {
			return unprocessable("There may be %d policies, with names of at most 255 characters", maxPolicies)
		}
		r.LastPolicy++
		p = policy{r.LastPolicy, name, kind}
		r.Policies = append(r.Policies, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.policyObject(p), nil
}

// policyOf finds the policy of the path among an environment's.
func (c *call) policyOf(r *rules) (at int, err error) {
	id, err := c.number("id")
	if err != nil {
		return 0, err
	}
	if at = slices.IndexFunc(r.Policies, func(p policy) bool { return p.ID == id }); at < 0 {
		err = errNotFound
	}
	return at, err
}

func (c *call) getPolicy() (any, error) {
	_, r, err := c.environment()
	if err != nil {
		return nil, err
	}
	at, err := c.policyOf(&r)
	if err != nil {
		return nil, err
	}
	return c.policyObject(r.Policies[at]), nil
}

func (c *call) renamePolicy() (any, error) {
	name, err := c.required("DeploymentBranchPolicy", "name")
	if err != nil {
		return nil, err
	}
	if len(name) > 255 {
		return nil, unprocessable("The name of a policy has at most 255 characters")
	}
	var p policy
	err = c.editPolicies(func(r *rules) error {
		at, err := c.policyOf(r)
		if err == nil {
			r.Policies[at].Name = name
			p = r.Policies[at]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.policyObject(p), nil
}

func (c *call) deletePolicy() (any, error) {
	return noContent, c.editPolicies(func(r *rules) error {
		at, err := c.policyOf(r)
		if err == nil {
			r.Policies = slices.Delete(r.Policies, at, at+1)
		}
		return err
	})
}

// pendingDeployments are the environments that jobs of a run wait for.
func (c *call) pendingDeployments() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	list, seen := []object{}, map[string]bool{}
	for _, j := range r.Jobs {
		name := strings.ToLower(j.Environment)
		if j.Status != ci.Waiting || j.Gate == nil || seen[name] {
			continue
		}
		seen[name] = true
		e, err := c.Store.Environment(c.ctx, c.repo.ID, j.Environment)
		if errors.Is(err, store.ErrNotFound) {
			continue // deleted while the job waits
		}
		if err != nil {
			return nil, err
		}
		rules, err := readRules(e)
		if err != nil {
			return nil, err
		}
		reviewers, err := c.reviewers(rules)
		if err != nil {
			return nil, err
		}
		gate := r.Plan.Environments[name]
		list = append(list, object{
			"environment": c.environmentName(e), "wait_timer": int(gate.Wait / time.Minute), "wait_timer_started_at": stamp(j.Gate.Opened),
			"current_user_can_approve": r.MayReview(j.Environment, c.by.Login) == nil, "reviewers": reviewers,
		})
	}
	return list, nil
}

// review approves or rejects what waits for environments.
func (c *call) review() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	state, err := c.oneOf("PendingDeployment", "state", "", "approved", "rejected")
	if err != nil {
		return nil, err
	}
	comment, err := c.text("comment", "")
	if err != nil {
		return nil, err
	}
	if len(comment) > maxComment {
		return nil, unprocessable("The comment may have %d bytes", maxComment)
	}
	ids, _ := c.in["environment_ids"].([]any)
	if len(ids) == 0 {
		return nil, invalid("PendingDeployment", "environment_ids", "missing_field", "")
	}
	all, err := c.Store.Environments(c.ctx, c.repo.ID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		n, _ := id.(float64)
		at := slices.IndexFunc(all, func(e store.Environment) bool { return e.ID == int64(n) })
		if at < 0 {
			return nil, unprocessable("There is no environment with the id %v that is waiting for a review", id)
		}
		err := c.Runs.Engine.Update(c.ctx, r.ID, ci.Reviewed{Environment: all[at].Name, User: c.by.Login, Approve: state == "approved", Comment: comment})
		switch {
		case errors.Is(err, ci.ErrStale):
			return nil, unprocessable("Nothing of this run waits for a review of %s", all[at].Name)
		case errors.Is(err, ci.ErrRefused):
			return nil, &Error{Status: http.StatusForbidden, Message: strings.TrimPrefix(err.Error(), ci.ErrRefused.Error()+": ")}
		case err != nil:
			return nil, err
		}
		c.tell("%s: %s for run %d", all[at].Name, state, r.ID)
	}
	return []object{}, nil
}

// approvals are the reviews that were given to a run.
func (c *call) approvals() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, j := range r.Jobs {
		if j.Gate == nil || j.Gate.Approved == "" {
			continue
		}
		e, err := c.Store.Environment(c.ctx, c.repo.ID, j.Environment)
		if err != nil {
			continue // deleted since
		}
		o := c.environmentName(e)
		o["created_at"], o["updated_at"] = stamp(e.Created), stamp(e.Updated)
		list = append(list, object{"environments": []object{o}, "state": "approved", "user": c.user(j.Gate.Approved), "comment": j.Gate.Comment})
	}
	return list, nil
}
