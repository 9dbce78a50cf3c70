package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// plannedStep is one step of the job's list: pre, main or post.
type plannedStep struct {
	def    *workflow.Step
	scope  *scope // where its ID and its expressions live
	cond   *workflow.Condition
	phase  string // pre, main, post
	name   string
	action *action           // nil for run steps
	state  map[string]string // GITHUB_STATE, shared by the phases of an action
	number int               // in the job's list; 0 inside a composite action
	env    map[string]string // for post steps: the inputs' environment as main had it
}

// stepRun is a step that runs.
type stepRun struct {
	*plannedStep
	env     map[string]string
	outputs map[string]string
	reader  *lineReader
	echo    bool
	stopped string // the token that ends stop-commands
}

// runSteps runs pre steps, main steps and post steps.
func (e *execution) runSteps(ctx context.Context) {
	mains := e.mainSteps()
	if r := e.t.Resume; r != nil {
		rest, err := e.restore(ctx, r, mains)
		if err != nil {
			e.fail(fmt.Errorf("resume: %w", err))
			e.setStatus(failed)
		}
		mains = rest
	} else {
		for _, p := range e.pres {
			e.listed(ctx, p)
		}
	}
	for _, p := range mains {
		e.main(ctx, p)
		e.mu.Lock()
		e.mainsDone++
		e.mu.Unlock()
	}
	e.waitAll(ctx)
	for len(e.posts) > 0 { // a post step may add none, but composites push theirs late
		last := e.posts[len(e.posts)-1]
		e.posts = e.posts[:len(e.posts)-1]
		e.listed(ctx, last)
	}
}

// mainSteps are the job's own steps as they are listed.
func (e *execution) mainSteps() []*plannedStep {
	var out []*plannedStep
	for _, s := range e.def.Steps {
		out = append(out, &plannedStep{def: s, scope: e.root, cond: s.If, phase: "main", action: e.actions[s.Uses], state: map[string]string{}})
	}
	return out
}

// main runs one main step: at once, in the background, or as a wait for those.
func (e *execution) main(ctx context.Context, p *plannedStep) {
	switch {
	case p.def.Background:
		e.startBackground(ctx, p)
	case p.def.Wait != nil, p.def.WaitAll, p.def.Cancel != nil, p.def.Parallel != nil:
		e.control(ctx, p)
	default:
		e.listed(ctx, p)
	}
}

// listed runs a step that stands in the job's list, and settles the job's status by it.
func (e *execution) listed(ctx context.Context, p *plannedStep) {
	e.noteCancel()
	step := ci.Step{ID: p.def.ContextName, Name: e.displayName(p), Phase: p.phase}
	if p.phase == "main" && e.jobStatus() == succeeded {
		step.Snapshot = e.snapshot(ctx)
	}
	p.number = e.beginStep(step)
	if step.Snapshot != "" {
		e.saveState(p.number)
	}
	outcome, conclusion := e.step(ctx, p)
	e.endStep(p.number, outcome, conclusion)
	if conclusion == ci.Failure {
		e.setStatus(failed)
	}
	e.noteCancel()
}

// noteCancel turns the job's status when it is cancelled: nothing turns it back.
func (e *execution) noteCancel() {
	if e.interrupt.Err() != nil {
		e.mu.Lock()
		e.status = cancelled
		e.mu.Unlock()
	}
}

// setStatus makes a failed job failed; a cancelled one stays so.
func (e *execution) setStatus(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status != cancelled {
		e.status = s
	}
}

// step runs a step: condition, environment, the thing itself, its result. It gives outcome and conclusion.
func (e *execution) step(ctx context.Context, p *plannedStep) (outcome, conclusion ci.Conclusion) {
	r := &stepRun{plannedStep: p, outputs: map[string]string{}}
	outcome = e.attempt(ctx, r)
	conclusion = outcome
	if outcome == ci.Failure && p.phase == "main" && p.def.ContinueOnError != nil {
		v, err := p.def.ContinueOnError.Eval(e.env0(p.scope, r.env))
		if err != nil {
			e.failAt(r, e.placed(err))
		} else if v.Truthy() {
			conclusion = ci.Success
		}
	}
	if p.phase == "main" {
		e.mu.Lock()
		p.scope.set(p.def.ContextName, r.outputs, string(outcome), string(conclusion))
		e.mu.Unlock()
	}
	return outcome, conclusion
}

// attempt decides whether the step runs, and runs it.
func (e *execution) attempt(ctx context.Context, r *stepRun) ci.Conclusion {
	if cause := context.Cause(ctx); cause != nil {
		return ci.Cancelled
	}
	e.mu.Lock()
	r.env = e.mergedEnv(r.scope)
	e.mu.Unlock()
	if r.def.Env != nil {
		v, err := r.def.Env.Eval(e.env0(r.scope, r.env))
		if err != nil {
			e.failAt(r, e.placed(err))
			return ci.Failure
		}
		for _, pair := range v.Pairs() {
			r.env[pair.Key] = pair.Value.Text()
		}
	}
	if r.cond != nil {
		v, err := r.cond.Expr.Eval(e.env0(r.scope, r.env))
		if err != nil {
			e.failAt(r, err)
			return ci.Failure
		}
		if !v.Truthy() {
			return ci.Skipped
		}
	}
	stepCtx, stop, timeout := e.bounded(ctx, r)
	defer stop()
	err := e.perform(stepCtx, r)
	return e.judge(r, stepCtx, timeout, err)
}

// bounded gives the context a step runs in: its own time limit, and the job's cancel unless the step's condition
// still holds when that comes (always()).
func (e *execution) bounded(ctx context.Context, r *stepRun) (context.Context, context.CancelFunc, time.Duration) {
	stepCtx, end := context.WithCancelCause(ctx)
	var timeout time.Duration
	if r.def.TimeoutMinutes != nil && r.phase == "main" {
		if v, err := r.def.TimeoutMinutes.Eval(e.env0(r.scope, r.env)); err != nil {
			e.failAt(r, e.placed(err))
		} else if m := v.Number(); m > 0 {
			timeout = time.Duration(m * float64(time.Minute))
		}
	}
	var timer *time.Timer
	if timeout > 0 {
		timer = time.AfterFunc(timeout, func() { end(errStepTimeout) })
	}
	var unwatch func() bool
	if e.interrupt.Err() == nil {
		unwatch = context.AfterFunc(e.interrupt, func() {
			e.noteCancel()
			if r.cond != nil {
				if v, err := r.cond.Expr.Eval(e.env0(r.scope, r.env)); err == nil && v.Truthy() {
					return
				}
			}
			end(context.Cause(e.interrupt))
		})
	}
	return stepCtx, func() {
		if timer != nil {
			timer.Stop()
		}
		if unwatch != nil {
			unwatch()
		}
		end(nil)
	}, timeout
}

var errStepTimeout = errors.New("the step has timed out")

// judge makes a result of how a step ended.
func (e *execution) judge(r *stepRun, ctx context.Context, timeout time.Duration, err error) ci.Conclusion {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errStepTimeout):
		e.failAt(r, fmt.Errorf("The action '%s' has timed out after %s minutes.", r.name, trimFloat(timeout.Minutes())))
		return ci.Failure
	case cause != nil && err != nil:
		e.failAt(r, errors.New("The operation was canceled."))
		return ci.Cancelled
	case err == nil:
		return ci.Success
	}
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		e.failAt(r, fmt.Errorf("Process completed with exit code %d.", exit.Code))
	} else if !errors.Is(err, errTold) {
		e.failAt(r, err)
	}
	return ci.Failure
}

// errTold is a failure whose message is in the log already.
var errTold = errors.New("failed")

func trimFloat(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", f), "0"), ".")
}

// perform runs the thing itself, then takes what it wrote into its command files.
func (e *execution) perform(ctx context.Context, r *stepRun) error {
	r.reader = &lineReader{log: e.log, each: func(line string) ([]byte, bool) { return e.outputLine(r, line) }, watching: func() bool { return e.watching(r) }}
	if r.action != nil {
		return e.useAction(ctx, r)
	}
	return e.runScript(ctx, r)
}

// exec runs a process of a step with its command files.
func (e *execution) exec(ctx context.Context, r *stepRun, args []string, dir string, extra map[string]string) error {
	files, err := e.openFiles(ctx, r)
	if err != nil {
		return err
	}
	env := maps.Clone(r.env)
	maps.Copy(env, e.x.Env)
	maps.Copy(env, r.env)
	e.runtimeEnv(env, r.scope, files.env, r.def.ContextName)
	maps.Copy(env, extra)
	err = e.sb.Exec(ctx, sandbox.Command{Args: args, Env: sortedEnv(env), Dir: dir, Stdout: r.reader, Stderr: r.reader})
	r.reader.close()
	if ferr := e.takeFiles(r, files); err == nil && ferr != nil {
		return ferr
	}
	return err
}

// beginStep adds a step to the job's list and reports it.
func (e *execution) beginStep(s ci.Step) int {
	at := e.log.at()
	e.mu.Lock()
	s.Number = len(e.steps) + 1
	s.Status, s.Started, s.LogStart = ci.InProgress, time.Now(), at
	s.Name = e.mask.text(s.Name)
	e.steps = append(e.steps, s)
	e.mu.Unlock()
	_ = e.rep.Report(e.ctx, ci.Report{Steps: []ci.Step{s}})
	return s.Number
}

func (e *execution) endStep(number int, outcome, conclusion ci.Conclusion) {
	at := e.log.at()
	e.mu.Lock()
	s := &e.steps[number-1]
	s.Status, s.Completed, s.Outcome, s.Conclusion, s.LogEnd = ci.Completed, time.Now(), outcome, conclusion, at
	done, annotations := *s, e.annotations
	e.annotations = nil
	e.mu.Unlock()
	_ = e.rep.Report(e.ctx, ci.Report{Steps: []ci.Step{done}, Annotations: annotations})
}

// displayName is what the list shows for a step: its name, or what it runs.
func (e *execution) displayName(p *plannedStep) string {
	prefix := map[string]string{"pre": "Pre ", "post": "Post "}[p.phase]
	name := ""
	if p.def.Name != nil {
		if v, err := p.def.Name.Eval(e.env0(p.scope, nil)); err == nil {
			name = v.Text()
		} else {
			name = p.def.Name.Source()
		}
	}
	switch {
	case name != "":
	case p.def.Uses != "":
		name = p.def.Uses
		if p.phase == "main" {
			name = "Run " + name
		} else if p.action != nil && p.action.local {
			name = strings.TrimPrefix(name, "./")
		}
	case p.def.Run != nil:
		text := p.def.Run.Source()
		if v, err := p.def.Run.Eval(e.env0(p.scope, nil)); err == nil {
			text = v.Text()
		}
		first, _, _ := strings.Cut(strings.TrimLeft(text, " \t\r\n"), "\n")
		name = "Run " + strings.TrimRight(first, " \r")
	case p.def.WaitAll:
		name = "Wait for all background steps"
	case p.def.Wait != nil:
		name = "Wait"
	case p.def.Cancel != nil:
		name = "Cancel " + p.def.Cancel.Text
	default:
		name = "Parallel"
	}
	p.name = name
	return prefix + name
}

// fail tells an error of the job itself.
func (e *execution) fail(err error) {
	e.annotate(0, ci.Annotation{Level: "error", Message: err.Error()})
}

// failAt tells an error of a step.
func (e *execution) failAt(r *stepRun, err error) {
	e.annotate(r.number, ci.Annotation{Level: "error", Message: err.Error()})
}

// maxAnnotations is how many of each level a step may have: what GitHub shows.
const maxAnnotations = 10

// annotate writes an annotation into the log and keeps it for the next report.
func (e *execution) annotate(step int, a ci.Annotation) {
	for line := range strings.Lines(a.Message) {
		e.log.line("##[%s]%s", a.Level, strings.TrimRight(line, "\r\n"))
	}
	e.note(step, a)
}

// note keeps an annotation for the next report.
func (e *execution) note(step int, a ci.Annotation) {
	a.Message, a.Title, a.Step = e.mask.text(a.Message), e.mask.text(a.Title), step
	e.mu.Lock()
	defer e.mu.Unlock()
	key := countKey{step, a.Level}
	if e.counts[key]++; e.counts[key] <= maxAnnotations {
		e.annotations = append(e.annotations, a)
	}
}
