package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// Start is what runs begin with that an event starts: the event, and what their plans are made of besides a workflow.
type Start struct {
	Event      *forge.Event
	Repository string // owner/name
	Ref, SHA   string // that the workflow files are of
	// Read gives a file of the repository, at SHA.
	Read func(ctx context.Context, name string) (forge.File, error)
	// Actions is where reusable workflows of other repositories come from.
	Actions *forge.ActionSource
	Vars    expr.Value
	// Inputs are those of a workflow_dispatch, as they were given.
	Inputs       map[string]string
	Environments map[string]ci.Environment
	Only         []string            // see ci.Plan
	Cells        map[string][]string // see ci.Plan
}

// InputError says that the inputs of a workflow_dispatch do not fit the workflow.
type InputError struct{ error }

func (e *InputError) Unwrap() error { return e.error }

// ParseWorkflows parses workflow files. Mistakes in any of them are one workflow.Errors; the sound ones are given all the
// same.
func ParseWorkflows(files []forge.File) ([]*workflow.Workflow, error) {
	var out []*workflow.Workflow
	var mistakes workflow.Errors
	for _, f := range files {
		w, err := workflow.ParseWorkflow(f.Path, f.Data)
		var more workflow.Errors
		switch {
		case errors.As(err, &more):
			mistakes = append(mistakes, more...)
		case err != nil:
			return nil, err
		default:
			out = append(out, w)
		}
	}
	if len(mistakes) > 0 {
		return out, mistakes
	}
	return out, nil
}

// Plan makes everything ready that a run of a workflow needs: inputs are typed, called workflows are read, however deep.
func (s *Start) Plan(ctx context.Context, w *workflow.Workflow) (*ci.Plan, error) {
	name := w.Name
	if name == "" {
		name = w.Path
	}
	rest := s.rest(w.Path, name)
	if rest.Event == "workflow_dispatch" {
		typed, asStrings, err := w.DispatchInputs(s.Inputs)
		if err != nil {
			return nil, &InputError{fmt.Errorf("%s: %w", w.Path, err)}
		}
		rest.Inputs = typed
		rest.GitHub = rest.GitHub.With("event", rest.GitHub.Property("event").With("inputs", asStrings))
	}
	calls, err := s.calls(ctx, w)
	if err != nil {
		return nil, err
	}
	return ci.NewPlan(ci.File{Path: w.Path, Text: string(w.Source)}, calls, rest)
}

// FaultyPlan makes the plan of a run that tells what is wrong with a workflow file, whose name is its path then.
func (s *Start) FaultyPlan(path string, err error) *ci.Plan {
	return ci.NewFaultyPlan(path, err, s.rest(path, path))
}

// rest is what a plan has besides its files and inputs.
func (s *Start) rest(path, name string) ci.Plan {
	return ci.Plan{
		Event: s.Event.Match.Name, Repository: s.Repository, Only: s.Only, Cells: s.Cells, Vars: s.Vars, Environments: s.Environments,
		GitHub: s.Event.GitHub.With("workflow", expr.String(name)).
			With("workflow_ref", expr.String(s.Repository+"/"+path+"@"+s.Ref)).
			With("workflow_sha", expr.String(s.SHA)),
	}
}

// calls reads every reusable workflow that w leads to, each once.
func (s *Start) calls(ctx context.Context, w *workflow.Workflow) ([]ci.File, error) {
	var out []ci.File
	seen := map[string]bool{}
	type from struct {
		uses string // of the calling file
		w    *workflow.Workflow
	}
	for queue := []from{{"", w}}; len(queue) > 0; queue = queue[1:] {
		for _, uses := range ci.Calls(queue[0].uses, queue[0].w) {
			if seen[uses] {
				continue
			}
			seen[uses] = true
			f, err := s.called(ctx, uses)
			if err != nil {
				return nil, fmt.Errorf("%s calls %s: %w", queue[0].w.Path, uses, err)
			}
			called, err := workflow.ParseWorkflow(f.Path, []byte(f.Text))
			if err != nil {
				return nil, err
			}
			out = append(out, f)
			queue = append(queue, from{uses, called})
		}
	}
	return out, nil
}

// called reads one reusable workflow, of this repository or of another.
func (s *Start) called(ctx context.Context, uses string) (ci.File, error) {
	if len(uses) > 2 && uses[:2] == "./" {
		f, err := s.Read(ctx, uses[2:])
		return ci.File{Uses: uses, Path: uses[2:], Text: string(f.Data)}, err
	}
	f, err := s.Actions.ReadFile(ctx, uses)
	return ci.File{Uses: uses, Path: f.Path, Text: string(f.Data)}, err
}
