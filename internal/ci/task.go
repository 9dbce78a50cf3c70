package ci

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// pass is what a call does with secrets.
type pass struct {
	inherit bool
	secrets *workflow.Node // mapping; nil passes none
	env     expr.Env       // all contexts of the call but secrets
}

// Task gives the task of a leased job, without secrets and token: a copy that shares nothing with the run that could
// change. The error is ErrUnknownJob, or ErrStale if the job is not leased.
func (r *Run) Task(id JobID) (*Task, error) {
	j := r.Job(id)
	if j == nil {
		return nil, ErrUnknownJob
	}
	if j.Status != InProgress || j.Lease == "" {
		return nil, ErrStale
	}
	f := r.Plan.parsed.byUses[j.File]
	n := r.node(j)
	t := &Task{
		Run: r.ID, Attempt: r.Attempt, Job: j.ID, Lease: j.Lease, Name: j.Name, Repository: r.Plan.Repository,
		Labels: slices.Clone(j.Labels), Group: j.Group, File: f.source, Def: j.Def,
		GitHub: r.github().With("job", expr.String(j.Def)), Inputs: r.inputs(j.Parent), Vars: r.Plan.Vars,
		Needs: r.needs(j, n), Strategy: r.strategyOf(j), Matrix: j.Matrix, Environment: j.Environment,
		Timeout: limit(j), CancelTimeout: cmp.Or(j.CancelTimeout, DefaultCancelTimeout), Permissions: r.permissions(j),
		workflow: f.workflow, passes: r.passes(j),
	}
	if j.Resume != nil {
		resume := *j.Resume
		resume.Steps = slices.Clone(resume.Steps)
		t.Resume = &resume
	}
	return t, nil
}

// passes are the calls that lead to a job, outermost first.
func (r *Run) passes(j *Job) []pass {
	call := r.Job(j.Parent)
	if call == nil {
		return nil
	}
	n := r.node(call)
	p := pass{inherit: n.def.InheritSecrets, secrets: n.def.Secrets}
	if p.secrets != nil {
		p.env = expr.Env{Contexts: r.scope(call.Parent)}
		p.env.Contexts["needs"] = r.needs(call, n)
		p.env.Contexts["strategy"] = r.strategyOf(call)
		p.env.Contexts["matrix"] = call.Matrix
	}
	return append(r.passes(call), p)
}

const tokenSecret = "GITHUB_TOKEN"

// Pass gives those of the repository's secrets that reach the job through the calls that lead to it, under the names that
// the calls give them; token is what secrets.GITHUB_TOKEN stands for in them. A job of the root workflow gets all. The
// secrets of the job's environment are not passed by calls: they win over what is given here. It works only on a task
// that comes from Run.Task. The error is for people: an expression of `secrets:` has failed.
func (t *Task) Pass(secrets map[string]string, token string) (map[string]string, error) {
	have := maps.Clone(secrets)
	for _, p := range t.passes {
		switch {
		case p.inherit:
		case p.secrets == nil:
			have = map[string]string{}
		default:
			contexts := maps.Clone(p.env.Contexts)
			contexts["secrets"] = secretsContext(have, token)
			v, err := p.secrets.Eval(expr.Env{Contexts: contexts})
			if err != nil {
				return nil, fmt.Errorf("Error when evaluating 'secrets' of the call that leads to job '%s'. %w", t.Job, err)
			}
			have = map[string]string{}
			for _, pair := range v.Pairs() {
				if text := pair.Value.Text(); text != "" {
					have[pair.Key] = text
				}
			}
		}
	}
	return have, nil
}

func secretsContext(secrets map[string]string, token string) expr.Value {
	v := expr.FromStrings(secrets)
	if token != "" {
		v = v.With(tokenSecret, expr.String(token))
	}
	return v
}

// Workflow gives the workflow and the job of the task, parsed. A task from Run.Task has them at hand; one that has
// travelled parses its File. The error is workflow.Errors, or says that the file has no such job.
func (t *Task) Workflow() (*workflow.Workflow, *workflow.Job, error) {
	w := t.workflow
	if w == nil {
		var err error
		if w, err = workflow.ParseWorkflow(t.File.Path, []byte(t.File.Text)); err != nil {
			return nil, nil, err
		}
	}
	j := w.Job(t.Def)
	if j == nil || !strings.EqualFold(j.ID, t.Def) {
		return nil, nil, fmt.Errorf("%s has no job '%s'", t.File.Path, t.Def)
	}
	return w, j, nil
}
