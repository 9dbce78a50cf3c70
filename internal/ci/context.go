package ci

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// fault is why a job can not be what its file says.
type fault struct {
	message string
	note    Annotation
}

// newFault says in GitHub's words that a key of a job, or of the file if n is nil, has no good value.
func newFault(f *file, n *node, key string, at workflow.Pos, err error) *fault {
	message := err.Error()
	var eval *workflow.EvalError
	if errors.As(err, &eval) {
		message = eval.Message
		if eval.Line > 0 {
			at = eval.Pos
		}
	}
	where := workflow.Finding{Pos: at, Path: f.workflow.Path, Message: message}
	whose := ""
	if n != nil {
		whose = fmt.Sprintf(" for job '%s'", n.def.ID)
	}
	message = fmt.Sprintf("Error when evaluating '%s'%s. %s", key, whose, where)
	return &fault{message, Annotation{Level: "error", Message: message, File: f.workflow.Path, Line: at.Line, Column: at.Column}}
}

// github is the github context of the run's attempt.
func (r *Run) github() expr.Value {
	attempt := strconv.Itoa(r.Attempt)
	if r.Plan.GitHub.Property("run_attempt").Text() == attempt {
		return r.Plan.GitHub
	}
	return r.Plan.GitHub.With("run_attempt", expr.String(attempt))
}

// scope is the contexts that all jobs of a file see under one call.
func (r *Run) scope(call JobID) map[string]expr.Value {
	return map[string]expr.Value{"github": r.github(), "inputs": r.inputs(call), "vars": r.Plan.Vars}
}

// needs is the needs context of a job: of those it names itself.
func (r *Run) needs(j *Job, n *node) expr.Value {
	pairs := make([]expr.Pair, 0, len(n.needs))
	for _, m := range n.needs {
		if k := r.sibling(j, m); k != nil {
			pairs = append(pairs, expr.Pair{Key: m.def.ID, Value: summary(k)})
		}
	}
	return expr.Object(pairs...)
}

// summary is what the contexts needs and jobs say of a job.
func summary(j *Job) expr.Value {
	return expr.Object(
		expr.Pair{Key: "result", Value: expr.String(string(j.result()))},
		expr.Pair{Key: "outputs", Value: expr.FromStrings(j.Outputs)},
	)
}

// strategy is the strategy context of a cell.
func strategy(keepGoing bool, cell, cells, maxParallel int) expr.Value {
	if maxParallel <= 0 {
		maxParallel = cells
	}
	return expr.Object(
		expr.Pair{Key: "fail-fast", Value: expr.Bool(!keepGoing)},
		expr.Pair{Key: "job-index", Value: expr.Number(float64(cell))},
		expr.Pair{Key: "job-total", Value: expr.Number(float64(cells))},
		expr.Pair{Key: "max-parallel", Value: expr.Number(float64(maxParallel))},
	)
}

// strategyOf is the strategy context of a job that exists.
func (r *Run) strategyOf(j *Job) expr.Value {
	if id, ok := j.ID.matrix(); ok {
		m := r.Job(id)
		return strategy(m.KeepGoing, j.Cell, j.Cells, m.MaxParallel)
	}
	return strategy(j.KeepGoing, 0, 1, 1)
}

// cancelled reports whether the run, or a call or matrix that the job is part of, is being cancelled.
func (r *Run) cancelled(j *Job) bool {
	if r.Stop != "" {
		return true
	}
	for k := j; ; {
		above := k.Parent
		if m, ok := k.ID.matrix(); ok {
			above = m
		}
		if k = r.Job(above); k == nil {
			return false
		}
		if k.Stop != "" {
			return true
		}
	}
}

// conditions are the status functions as the job sees them.
func (r *Run) conditions(j *Job, f *file, n *node) map[string]expr.Func {
	cancelled := r.cancelled(j)
	some := func(args []expr.Value, ended func(Conclusion) bool) bool {
		for m := range f.ancestors(n) {
			if k := r.sibling(j, m); k != nil && named(args, m) && ended(k.result()) {
				return true
			}
		}
		return false
	}
	failed := func(c Conclusion) bool { return c == Failure }
	unsuccessful := func(c Conclusion) bool { return c != Success }
	answer := func(ask func([]expr.Value) bool) expr.Func {
		return func(args []expr.Value) (expr.Value, error) { return expr.Bool(ask(args)), nil }
	}
	return map[string]expr.Func{
		"always":    answer(func([]expr.Value) bool { return true }),
		"cancelled": answer(func([]expr.Value) bool { return cancelled }),
		"success":   answer(func(args []expr.Value) bool { return !cancelled && !some(args, unsuccessful) }),
		"failure":   answer(func(args []expr.Value) bool { return !cancelled && some(args, failed) }),
	}
}

// named reports whether the arguments of success() or failure() name a job; none name all.
func named(args []expr.Value, n *node) bool {
	for _, a := range args {
		if strings.EqualFold(a.Text(), n.def.ID) {
			return true
		}
	}
	return len(args) == 0
}

// holds evaluates a job's condition.
func (r *Run) holds(j *Job) (bool, *fault) {
	f := r.Plan.parsed.byUses[j.File]
	n := r.node(j)
	env := expr.Env{Contexts: r.scope(j.Parent), Functions: r.conditions(j, f, n)}
	env.Contexts["needs"] = r.needs(j, n)
	v, err := n.def.If.Expr.Eval(env)
	if err != nil {
		return false, newFault(f, n, "if", n.def.If.Pos, err)
	}
	return v.Truthy(), nil
}
