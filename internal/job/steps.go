package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// plannedStep is one step of the job's list, or of a composite action's: pre, main or post.
type plannedStep struct {
	def    *workflow.Step
	scope  *scope // where its ID and its expressions live
	cond   *workflow.Condition
	phase  string // pre, main, post
	name   string
	action *action // nil for run steps
	use    *use
	number int // in the job's list; composite actions' steps have that of the step around them
}

// use is what the phases of one step have in common.
type use struct {
	state  map[string]string // GITHUB_STATE
	posted bool              // its post step is planned
	inner  *scope            // of a composite action, once a phase of it has begun
	saved  *savedPost        // of a post step that was kept for a resume; nil once it is taken
}

// stepRun is a step that runs.
type stepRun struct {
	*plannedStep
	env      map[string]string
	own      map[string]string // of env, what the step and those around it set by `env:`
	outputs  map[string]string
	reader   *lineReader
	echo     bool
	stopped  string                 // the token that ends stop-commands
	refused  bool                   // a command or command file was bad: the step fails
	progress map[*matcher]*matching // of the problem matchers
	late     *late                  // of a background step
	outer    context.Context        // the step's time, but not the job's cancel
}

// late is what a background step sets: others see it when they have waited for the step.
type late struct {
	env   []pair
	paths []string
}

func (e *execution) newRun(p *plannedStep) *stepRun {
	return &stepRun{plannedStep: p, outputs: map[string]string{}, echo: e.debug}
}

// plan makes a step of a definition. All phases of a definition within a scope share their use.
func (e *execution) plan(def *workflow.Step, s *scope, phase string) *plannedStep {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := s.uses[def]
	if u == nil {
		u = &use{state: map[string]string{}}
		s.uses[def] = u
	}
	p := &plannedStep{def: def, scope: s, cond: def.If, phase: phase, action: e.actions[def.Uses], use: u}
	switch {
	case phase == "pre":
		p.cond = p.action.manifest.Runs.PreIf
	case phase == "post":
		p.cond = postCondition(p.action)
	}
	return p
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
	e.waitAll()
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
		out = append(out, e.plan(s, e.root, "main"))
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
	var found *savedState
	if step.Snapshot != "" {
		found = e.found()
	}
	outcome, conclusion := e.step(ctx, p)
	if found != nil && outcome == ci.Failure {
		e.saveState(p.number, found)
	}
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

// step runs a step: environment, condition, the thing itself, its result. It gives outcome and conclusion.
func (e *execution) step(ctx context.Context, p *plannedStep) (outcome, conclusion ci.Conclusion) {
	r := e.newRun(p)
	outcome = e.ready(ctx, r)
	conclusion = outcome
	if outcome == "" {
		outcome, conclusion = e.execute(ctx, r)
	}
	e.settle(r, outcome, conclusion)
	return outcome, conclusion
}

// settle writes a main step's result into the steps context.
func (e *execution) settle(r *stepRun, outcome, conclusion ci.Conclusion) {
	if r.phase == "main" {
		e.mu.Lock()
		r.scope.set(r.def.ContextName, r.outputs, string(outcome), string(conclusion))
		e.mu.Unlock()
	}
}

// ready evaluates a step's environment and condition. It gives the step's result if it is not to run, else nothing.
func (e *execution) ready(ctx context.Context, r *stepRun) ci.Conclusion {
	if ctx.Err() != nil {
		return ci.Cancelled
	}
	if err := e.stepEnv(r); err != nil {
		e.failAt(r, err)
		return ci.Failure
	}
	if r.cond == nil {
		return ""
	}
	v, err := r.cond.Expr.Eval(e.env0(r.scope, r.env))
	switch {
	case err != nil:
		e.failAt(r, err)
		return ci.Failure
	case !v.Truthy():
		return ci.Skipped
	}
	return ""
}

// stepEnv makes the environment that a step begins with.
func (e *execution) stepEnv(r *stepRun) error {
	e.mu.Lock()
	r.env = e.mergedEnv(r.scope)
	e.mu.Unlock()
	r.own = maps.Clone(r.scope.env)
	if r.def.Env == nil {
		return nil
	}
	v, err := r.def.Env.Eval(e.env0(r.scope, r.env))
	if err != nil {
		return e.placed(err)
	}
	if r.own == nil {
		r.own = map[string]string{}
	}
	for _, p := range v.Pairs() {
		r.env[p.Key] = p.Value.Text()
		r.own[p.Key] = p.Value.Text()
	}
	return nil
}

// execute runs a step that is ready.
func (e *execution) execute(ctx context.Context, r *stepRun) (outcome, conclusion ci.Conclusion) {
	stepCtx, stop, timeout := e.bounded(ctx, r)
	defer stop()
	r.reader = &lineReader{log: e.log, look: func(line string) func() []byte { return e.outputLine(r, line) }, watching: e.watching}
	err := e.perform(stepCtx, r)
	r.reader.close()
	outcome = e.judge(r, stepCtx, timeout, err)
	if r.refused && outcome == ci.Success {
		outcome = ci.Failure
	}
	if outcome != ci.Failure || r.def.ContinueOnError == nil {
		return outcome, outcome
	}
	v, err := r.def.ContinueOnError.Eval(e.env0(r.scope, r.env))
	switch {
	case err != nil:
		e.failAt(r, errors.New("The step failed and an error occurred when attempting to determine whether to continue on error."))
		e.failAt(r, e.placed(err))
	case v.Truthy():
		return outcome, ci.Success
	}
	return outcome, outcome
}

// bounded gives the context a step runs in: its own time limit, and the job's cancel unless the step's condition
// still holds when that comes (always()).
func (e *execution) bounded(ctx context.Context, r *stepRun) (context.Context, context.CancelFunc, time.Duration) {
	outer, expire := context.WithCancelCause(ctx)
	inner, end := context.WithCancelCause(outer)
	r.outer = outer
	stops := []func(){func() { end(nil); expire(nil) }}
	timeout := e.timeout(r)
	if timeout > 0 {
		timer := time.AfterFunc(timeout, func() { expire(errStepTimeout) })
		stops = append(stops, func() { timer.Stop() })
	}
	if e.interrupt.Err() == nil {
		unwatch := context.AfterFunc(e.interrupt, func() {
			e.noteCancel()
			if r.cond != nil {
				if v, err := r.cond.Expr.Eval(e.env0(r.scope, r.env)); err == nil && v.Truthy() {
					return
				}
			}
			end(context.Cause(e.interrupt))
		})
		stops = append(stops, func() { unwatch() })
	}
	return inner, func() {
		for _, stop := range stops {
			stop()
		}
	}, timeout
}

// timeout is a step's time limit, zero for none.
func (e *execution) timeout(r *stepRun) time.Duration {
	if r.def.TimeoutMinutes == nil {
		return 0
	}
	v, err := r.def.TimeoutMinutes.Eval(e.env0(r.scope, r.env))
	if err != nil {
		e.failAt(r, errors.New("An error occurred when attempting to determine the step timeout."))
		e.failAt(r, e.placed(err))
		return 0
	}
	if m := v.Number(); m > 0 && m < maxTimeout.Minutes() {
		return time.Duration(m * float64(time.Minute))
	}
	return 0
}

// maxTimeout is what a time limit must be below to be one: longer than any job may take.
const maxTimeout = 100 * 24 * time.Hour

var (
	errStepTimeout = errors.New("the step has timed out")
	// errTold is a failure whose message is in the log already, errStopped a cancel that is.
	errTold    = errors.New("failed")
	errStopped = errors.New("cancelled")
)

// judge makes a result of how a step ended.
func (e *execution) judge(r *stepRun, ctx context.Context, timeout time.Duration, err error) ci.Conclusion {
	if r.use.inner != nil {
		ctx = r.outer // the steps within were cancelled each for itself
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errStepTimeout) && r.number > 0 && timeout > 0:
		background := ""
		if r.late != nil {
			background = "background step"
		}
		e.failAt(r, fmt.Errorf("The %s '%s' has timed out after %s minutes.", cmp.Or(background, "action"), r.name, trimFloat(timeout.Minutes())))
		return ci.Failure
	case errors.Is(cause, errStepTimeout):
		e.failAt(r, errors.New("The action has timed out."))
		return ci.Failure
	case cause != nil:
		e.failAt(r, errors.New("The operation was canceled."))
		return ci.Cancelled
	case err == nil:
		return ci.Success
	case errors.Is(err, errStopped):
		return ci.Cancelled
	}
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		e.failAt(r, fmt.Errorf("Process completed with exit code %d.", exit.Code))
	} else if !errors.Is(err, errTold) {
		e.failAt(r, err)
	}
	return ci.Failure
}

func trimFloat(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", f), "0"), ".")
}

// perform runs the thing itself.
func (e *execution) perform(ctx context.Context, r *stepRun) error {
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
	env := e.processEnv(r, files)
	maps.Copy(env, extra)
	err = e.sb.Exec(ctx, sandbox.Command{Args: args, Env: sortedEnv(env), Dir: dir, User: e.user, Stdout: r.reader, Stderr: r.reader})
	r.reader.close()
	e.takeFiles(r, files)
	return err
}

// processEnv is the environment of a step's process.
func (e *execution) processEnv(r *stepRun, files *stepFiles) map[string]string {
	env := maps.Clone(r.env)
	for _, below := range []map[string]string{e.x.Env, e.imageEnv} {
		for name, value := range below {
			if _, ok := env[name]; !ok {
				env[name] = value
			}
		}
	}
	e.runtimeEnv(env, r, files.env)
	if e.services != nil { // steps that run scripts get these alone of what services there are
		maps.Copy(env, e.services.Steps)
	}
	return env
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

// displayName is what the list shows for a step: its name, or what it runs, the first line of it.
func (e *execution) displayName(p *plannedStep) string {
	text := func(n *workflow.Node) string {
		if v, err := n.Eval(e.env0(p.scope, nil)); err == nil {
			return firstLine(v.Text())
		}
		return firstLine(n.Source())
	}
	name := ""
	if p.def.Name != nil {
		name = text(p.def.Name)
	}
	switch {
	case name != "":
	case p.def.Uses != "":
		name = "Run " + p.def.Uses
	case p.def.Run != nil:
		name = "Run " + text(p.def.Run)
	case p.def.WaitAll:
		name = "Wait for all background steps"
	case p.def.Wait != nil:
		name = "Wait"
	case p.def.Cancel != nil:
		name = "Cancel " + p.def.Cancel.Text
	default:
		name = "Parallel"
	}
	p.name = map[string]string{"pre": "Pre ", "post": "Post "}[p.phase] + name
	return p.name
}

// firstLine is the first line of a text that is not blank.
func firstLine(text string) string {
	text = strings.TrimLeft(text, " \t\r\n")
	if i := strings.IndexAny(text, "\r\n"); i >= 0 {
		text = text[:i]
	}
	return text
}

// fail tells an error of the job itself.
func (e *execution) fail(err error) {
	e.annotate(0, ci.Annotation{Level: "error", Message: err.Error()})
}

// failAt tells an error of a step.
func (e *execution) failAt(r *stepRun, err error) {
	e.annotate(r.number, ci.Annotation{Level: "error", Message: err.Error()})
}

const (
	// maxAnnotations is how many of each level a step may have: what GitHub shows.
	maxAnnotations = 10
	// maxAnnotation bounds the message of one, bytes; GitHub counts as many UTF-16 units.
	maxAnnotation = 4096
)

// annotate writes an annotation into the log and keeps it for the next report.
func (e *execution) annotate(step int, a ci.Annotation) {
	if a.Message != "" {
		e.log.line("##[%s]%s", a.Level, strings.ToValidUTF8(cutText(a.Message), "\uFFFD"))
	}
	e.note(step, a)
}

// note keeps an annotation for the next report.
func (e *execution) note(step int, a ci.Annotation) {
	a.Message, a.Title, a.File, a.Step = cutText(e.mask.text(a.Message)), e.mask.text(a.Title), e.mask.text(a.File), step
	e.mu.Lock()
	defer e.mu.Unlock()
	key := countKey{step, a.Level}
	if e.counts[key]++; e.counts[key] <= maxAnnotations {
		e.annotations = append(e.annotations, a)
	}
}

// cutText bounds a message.
func cutText(s string) string {
	if len(s) <= maxAnnotation {
		return s
	}
	end := maxAnnotation
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
