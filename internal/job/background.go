package job

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const (
	// maxBackground is how many background steps run at once: the runner's limit.
	maxBackground = 10
)

// backgroundStep is a step that runs beside the others (actions/runner src/Runner.Worker/BackgroundStepCoordinator.cs).
type backgroundStep struct {
	id         string
	name       string
	done       chan struct{}
	cancel     context.CancelCauseFunc
	conclusion ci.Conclusion // good when done is closed
	cancelled  bool          // by a cancel step: its end does not count
	counted    bool          // its result is in the job's already
}

var errBackgroundCancel = errors.New("cancelled by a cancel step")

// startBackground starts a step and goes on. What it sets is seen by later steps when it has ended.
func (e *execution) startBackground(ctx context.Context, p *plannedStep) *backgroundStep {
	e.noteCancel()
	stepCtx, cancel := context.WithCancelCause(ctx)
	b := &backgroundStep{id: p.def.ContextName, done: make(chan struct{}), cancel: cancel}
	b.name = e.displayName(p)
	e.mu.Lock()
	e.background[strings.ToLower(b.id)] = b
	e.order = append(e.order, b)
	e.mu.Unlock()
	p.number = e.beginStep(ci.Step{ID: p.def.ContextName, Name: b.name, Phase: p.phase})
	go func() {
		defer close(b.done)
		defer cancel(nil)
		select {
		case e.slots <- struct{}{}:
		case <-stepCtx.Done():
		}
		outcome, conclusion := e.step(stepCtx, p)
		<-e.slots
		b.conclusion = conclusion
		e.endStep(p.number, outcome, conclusion)
	}()
	return b
}

// control runs a wait, wait-all, cancel or parallel step.
func (e *execution) control(ctx context.Context, p *plannedStep) {
	e.noteCancel()
	p.number = e.beginStep(ci.Step{ID: p.def.ContextName, Name: e.displayName(p), Phase: p.phase})
	conclusion := ci.Skipped
	run := true
	if p.cond != nil {
		v, err := p.cond.Expr.Eval(e.env0(p.scope, nil))
		if run = err == nil && v.Truthy(); err != nil {
			e.failAt(&stepRun{plannedStep: p}, err)
			conclusion = ci.Failure
		}
	}
	if run {
		conclusion = e.performControl(ctx, p)
	}
	e.endStep(p.number, conclusion, conclusion)
	e.mu.Lock()
	p.scope.set(p.def.ContextName, nil, string(conclusion), string(conclusion))
	e.mu.Unlock()
	if conclusion == ci.Failure {
		e.setStatus(failed)
	}
	e.noteCancel()
}

func (e *execution) performControl(ctx context.Context, p *plannedStep) ci.Conclusion {
	switch {
	case p.def.Parallel != nil:
		var started []*backgroundStep
		for _, def := range p.def.Parallel {
			started = append(started, e.startBackground(ctx, &plannedStep{def: def, scope: p.scope, cond: def.If, phase: "main", action: e.actions[def.Uses], state: map[string]string{}}))
		}
		return e.await(started)
	case p.def.WaitAll:
		rest := e.unwaited()
		if len(rest) == 0 {
			e.log.line("No background steps remaining to wait for.")
		} else {
			e.log.line("Waiting for all background step(s) to complete: %s", describe(rest))
		}
		return e.await(rest)
	case p.def.Cancel != nil:
		found := e.named([]workflow.Name{*p.def.Cancel})
		e.log.line("Cancelling background step(s): %s", describe(found))
		for _, b := range found {
			b.cancelled = true
			b.cancel(errBackgroundCancel)
		}
		e.await(found)
		return ci.Success
	}
	found := e.named(p.def.Wait)
	e.log.line("Waiting for background step(s) to complete: %s", describe(found))
	return e.await(found)
}

func (e *execution) named(names []workflow.Name) []*backgroundStep {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*backgroundStep
	for _, n := range names {
		if b := e.background[strings.ToLower(n.Text)]; b != nil {
			out = append(out, b)
		}
	}
	return out
}

// unwaited are the background steps that no wait has counted.
func (e *execution) unwaited() []*backgroundStep {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.order), func(b *backgroundStep) bool { return b.counted })
}

func describe(steps []*backgroundStep) string {
	if len(steps) == 0 {
		return "(none)"
	}
	names := make([]string, len(steps))
	for i, b := range steps {
		names[i] = b.name
	}
	return strings.Join(names, ", ")
}

// await waits for background steps and gives their joint result. When the job is cancelled they are too.
func (e *execution) await(steps []*backgroundStep) ci.Conclusion {
	worst := ci.Success
	for _, b := range steps {
		select {
		case <-b.done:
		case <-e.interrupt.Done():
			b.cancel(context.Cause(e.interrupt))
			<-b.done
		}
		b.counted = true
		switch {
		case b.conclusion == ci.Failure:
			worst = ci.Failure
		case b.conclusion == ci.Cancelled && !b.cancelled && worst == ci.Success:
			worst = ci.Cancelled
		}
		if len(steps) > 0 {
			e.log.line("  %s: %s", b.name, b.conclusion)
		}
	}
	return worst
}

// waitAll is the runner's safety net before the post steps.
func (e *execution) waitAll(ctx context.Context) {
	rest := e.unwaited()
	if len(rest) == 0 {
		return
	}
	if e.await(rest) == ci.Failure {
		e.setStatus(failed)
	}
	e.noteCancel()
}
