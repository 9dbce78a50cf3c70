package job

import (
	"cmp"
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
	id     string
	run    *stepRun
	done   chan struct{}
	cancel context.CancelCauseFunc
	// Good when done is closed.
	outcome, conclusion ci.Conclusion
	// For the goroutine that runs the main steps.
	cancelled bool // by a cancel step: its end does not count
	waited    bool // what it has set is seen by all
}

var errBackgroundCancel = errors.New("cancelled by a cancel step")

// startBackground starts a step and goes on. What it sets is seen by later steps when they have waited for it.
func (e *execution) startBackground(ctx context.Context, p *plannedStep) *backgroundStep {
	e.noteCancel()
	name := e.displayName(p)
	p.number = e.beginStep(ci.Step{ID: p.def.ContextName, Name: name, Phase: p.phase})
	r := e.newRun(p)
	r.late = &late{}
	b := &backgroundStep{id: p.def.ContextName, run: r, done: make(chan struct{})}
	stepCtx, cancel := context.WithCancelCause(ctx)
	b.cancel = cancel
	if result := e.ready(ctx, r); result != "" {
		cancel(nil)
		b.outcome, b.conclusion = result, result
		e.settle(r, result, result)
		e.endStep(p.number, result, result)
		close(b.done)
		b.waited = true
		if result == ci.Failure {
			e.setStatus(failed)
		}
		return b
	}
	e.mu.Lock()
	e.background[strings.ToLower(b.id)] = b
	e.order = append(e.order, b)
	e.mu.Unlock()
	go func() {
		defer close(b.done)
		defer cancel(nil)
		b.outcome, b.conclusion = e.executeInSlot(stepCtx, r)
		e.endStep(p.number, b.outcome, b.conclusion)
	}()
	return b
}

// executeInSlot runs a step when fewer than maxBackground others run.
func (e *execution) executeInSlot(ctx context.Context, r *stepRun) (outcome, conclusion ci.Conclusion) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
		return e.execute(ctx, r)
	case <-ctx.Done():
	case <-e.interrupt.Done():
	}
	return ci.Cancelled, ci.Cancelled
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
			started = append(started, e.startBackground(ctx, e.plan(def, p.scope, "main")))
		}
		return e.await(started)
	case p.def.WaitAll:
		rest := e.unwaited()
		if len(rest) == 0 {
			e.log.line("No background steps remaining to wait for.")
		} else {
			e.log.line("Waiting for all background step(s) to complete: %s", describe(nil, rest))
		}
		defer e.report("Finished waiting for all background step(s).", rest)
		return e.await(rest)
	case p.def.Cancel != nil:
		names := []workflow.Name{*p.def.Cancel}
		found := e.named(names)
		e.log.line("Cancelling background step(s): %s", describe(names, found))
		for _, b := range found {
			b.cancelled = true
			b.cancel(errBackgroundCancel)
		}
		e.await(found)
		e.report("Finished cancelling background step(s).", found)
		return ci.Success
	}
	names := p.def.Wait
	found := e.named(names)
	e.log.line("Waiting for background step(s) to complete: %s", describe(names, found))
	defer e.report("Finished waiting for background step(s).", found)
	return e.await(found)
}

// report writes how background steps have ended, in the runner's words.
func (e *execution) report(summary string, steps []*backgroundStep) {
	words := map[ci.Conclusion]string{ci.Success: "Succeeded", ci.Failure: "Failed", ci.Cancelled: "Canceled", ci.Skipped: "Skipped"}
	e.log.line("%s", summary)
	for _, b := range steps {
		e.log.line("  %s: %s", b.run.name, words[b.conclusion])
	}
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

// unwaited are the background steps that nothing has waited for.
func (e *execution) unwaited() []*backgroundStep {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.order), func(b *backgroundStep) bool { return b.waited })
}

// describe lists steps by their names: those with the ids, nil for all. One that never began, since it was skipped, has
// its ID.
func describe(ids []workflow.Name, steps []*backgroundStep) string {
	var names []string
	for _, b := range steps {
		if ids == nil {
			names = append(names, b.run.name)
		}
	}
	for _, id := range ids {
		name := id.Text
		if i := slices.IndexFunc(steps, func(b *backgroundStep) bool { return strings.EqualFold(b.id, id.Text) }); i >= 0 {
			name = steps[i].run.name
		}
		names = append(names, name)
	}
	return cmp.Or(strings.Join(names, ", "), "(none)")
}

// await waits for background steps, makes seen what they have set, and gives their joint result.
func (e *execution) await(steps []*backgroundStep) ci.Conclusion {
	for _, b := range steps {
		<-b.done // the job's cancel reaches the step itself
		if b.waited {
			continue
		}
		b.waited = true
		set := b.run.late
		b.run.late = nil
		for _, p := range set.env {
			e.setEnv(b.run, p.name, p.value, "")
		}
		e.addPaths(b.run, set.paths...)
		e.settle(b.run, b.outcome, b.conclusion)
	}
	return joint(steps)
}

// joint is the worst result, but for steps that were to be cancelled and were.
func joint(steps []*backgroundStep) ci.Conclusion {
	worst := ci.Success
	for _, b := range steps {
		switch {
		case b.conclusion == ci.Failure:
			worst = ci.Failure
		case b.conclusion == ci.Cancelled && !b.cancelled && worst == ci.Success:
			worst = ci.Cancelled
		}
	}
	return worst
}

// waitAll is the runner's safety net before the post steps.
func (e *execution) waitAll() {
	e.await(e.unwaited())
	if joint(e.order) == ci.Failure {
		e.setStatus(failed)
	}
	e.noteCancel()
}
