// Package job executes one job in a sandbox: contexts, steps, actions, workflow commands and files, post steps,
// masking. It takes a complete task and reports; it writes no state and decides nothing beyond the job.
//
// The truth is GitHub's runner: actions/runner src/Runner.Worker.
package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

var (
	// ErrCancel is the cause of a context that cancels a job as GitHub does: always() steps still run.
	ErrCancel = errors.New("the job was cancelled")
	// ErrKill is the cause of a context that ends a job at once.
	ErrKill = errors.New("the job was killed")
)

// Reporter is told what a job does, in order.
type Reporter interface {
	// Report tells of steps and annotations. It does not wait for anybody to hear it.
	Report(ctx context.Context, r ci.Report) error
	// Append adds to the job's log. p is the caller's again when it returns.
	Append(ctx context.Context, p []byte) error
}

// StateStore keeps what a failed step needs to be opened again. No secret is in it.
type StateStore interface {
	// SaveState keeps data, and the layers keep that it names, for as long as the run is kept.
	SaveState(ctx context.Context, key string, data []byte, keep ...layer.ID) error
	LoadState(ctx context.Context, key string) ([]byte, error)
}

// Executor executes jobs. The fields must not change after the first use.
type Executor struct {
	// Pick chooses the machine for a job by its labels. An error says why the job can not run here: it is skipped.
	Pick func(labels []string) (Place, error)
	// Limits are what a job may use that says nothing else.
	Limits sandbox.Limits
	// Actions is where actions come from.
	Actions *forge.ActionSource
	// Host is what native actions may use of this machine.
	Host *native.Host
	// Native uses the actions that Penstock carries in Go instead of the originals.
	Native bool
	// Env is added to the environment of every step, below the workflow's own.
	Env map[string]string
	// State keeps what penstock shell and --resume need; nil keeps nothing.
	State StateStore
	// Images are where the images of containers come from; nil runs none.
	Images Images
	// Builder builds the images of Docker actions; nil builds none.
	Builder Builder
	// Docker answers the docker command of machines; nil leaves it without an answer.
	Docker Docker
	// Externals is a directory for what is brought into the images of jobs: this host's Node.js; empty brings nothing.
	Externals string
	// Services are what JavaScript actions call while they run; nil offers none.
	Services Services
	// WriteBack are paths of the workspace that are copied into the working tree when a job succeeds.
	WriteBack []string
}

// Place is where a job runs.
type Place struct {
	Provider sandbox.Provider
	// Image is what the machine shows to a job without a container of its own; empty is the provider's choice.
	Image string
}

// statuses of a job as job.status has them.
const (
	succeeded = "success"
	failed    = "failure"
	cancelled = "cancelled"
)

// execution is one job that runs.
type execution struct {
	x    *Executor
	t    *ci.Task
	rep  Reporter
	file *workflow.Workflow
	def  *workflow.Job
	sb   sandbox.Sandbox
	info sandbox.Info
	log  *jobLog
	mask *masker
	ctx  context.Context // for what outlives a cancelled step: reports, clean-up

	github      expr.Value // without what a step adds
	base        map[string]expr.Value
	defaults    runDefaults
	services    *ServiceAddress // nil without any
	endServices func()
	root        *scope
	posts       []*plannedStep
	pres        []*plannedStep
	actions     map[string]*action // by uses
	debug       bool
	interrupt   context.Context // ends when the job is cancelled
	environURL  *workflow.Node
	beside      []*service          // containers
	inImage     bool                // the machine shows the image of the job's container
	imageEnv    map[string]string   // of that container, below everything else
	user        string              // whom steps run as
	jobContext  []expr.Pair         // beyond the status
	failed      map[int]*savedState // by number of the step that failed; only with containers

	watchers atomic.Int32 // how many matchers there are

	mu          sync.Mutex // guards all below: background steps share them
	env         map[string]string
	path        []string // the last added first
	status      string
	steps       []ci.Step
	annotations []ci.Annotation // not yet reported
	counts      map[countKey]int
	summaries   int
	matchers    []*matcher                 // those that watch, the newest first; never written in place
	background  map[string]*backgroundStep // by lower-case ID
	order       []*backgroundStep
	slots       chan struct{} // taken by background steps that run
	mainsDone   int           // main steps that have ended
	node        []string      // how Node.js is started in the job's image, once that is known
}

type runDefaults struct{ shell, directory string }

type countKey struct {
	step  int
	level string
}

// Run executes a task and says how it ended. It never panics on what a workflow holds. The end of ctx with the cause
// ErrCancel cancels the job; with any other cause it ends at once.
func (x *Executor) Run(ctx context.Context, t *ci.Task, rep Reporter) ci.Result {
	e := &execution{x: x, t: t, rep: rep, mask: newMasker(), counts: map[countKey]int{}, background: map[string]*backgroundStep{},
		actions: map[string]*action{}, status: succeeded, slots: make(chan struct{}, maxBackground)}
	e.ctx = context.WithoutCancel(ctx)
	e.log = &jobLog{ctx: e.ctx, rep: rep, mask: e.mask}
	for _, s := range t.Secrets {
		e.mask.add(s)
	}
	e.mask.add(t.Token)
	e.debug = truthy(t.Secrets["ACTIONS_STEP_DEBUG"]) || truthy(t.Vars.Property("ACTIONS_STEP_DEBUG").Text())

	interrupt, stop := context.WithTimeoutCause(ctx, t.Timeout, errTimeout)
	defer stop()
	e.interrupt = interrupt
	var killed <-chan struct{}
	if k, ok := rep.(killer); ok {
		killed = k.Killed()
	}
	work, kill := killable(ctx, interrupt, killed, t.CancelTimeout)
	defer kill()
	return e.run(work)
}

func truthy(s string) bool { return strings.EqualFold(s, "true") || s == "1" }

var errTimeout = errors.New("the job has exceeded the maximum execution time")

// killer is a Reporter that also hears when a job that is being cancelled is to end at once: its context has ended by
// then and can not say more.
type killer interface{ Killed() <-chan struct{} }

// killable gives a context for the job's work: it lives on when the job is cancelled, for grace, and ends at once when
// the job is killed.
func killable(ctx, interrupt context.Context, killed <-chan struct{}, grace time.Duration) (context.Context, context.CancelFunc) {
	work, end := context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		select {
		case <-work.Done():
			return
		case <-interrupt.Done():
		}
		cause := context.Cause(interrupt)
		if errors.Is(cause, ErrCancel) || errors.Is(cause, errTimeout) {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-work.Done():
			case <-timer.C:
				end(errGrace)
			case <-killed:
				end(ErrKill)
			}
			return
		}
		end(cause)
	}()
	return work, func() { end(nil) }
}

var errGrace = errors.New("what runs after a cancel took too long")

// run opens the machine, runs all steps and closes it.
func (e *execution) run(ctx context.Context) ci.Result {
	setup := e.beginStep(ci.Step{Name: "Set up job"})
	err := e.setUp(ctx)
	if err != nil {
		var other *wrongMachine
		if errors.As(err, &other) {
			e.endStep(setup, ci.Skipped, ci.Skipped)
			return e.result(ci.Skipped, other.Error())
		}
		e.fail(err)
		e.endStep(setup, ci.Failure, ci.Failure)
		e.status = failed
	} else {
		e.endStep(setup, ci.Success, ci.Success)
		unplug := e.offerDocker()
		e.withContainers(ctx, func() { e.runSteps(ctx) })
		unplug()
	}
	if e.endServices != nil {
		e.endServices()
	}
	res := e.finish(ctx)
	if e.sb != nil {
		closing, done := context.WithTimeout(e.ctx, time.Minute)
		defer done()
		if err := e.sb.Close(closing); err != nil {
			e.log.line("##[warning]%s", err)
		}
	}
	return res
}

// wrongMachine says that a job is for another machine than this one.
type wrongMachine struct{ error }

// setUp opens the machine and makes everything ready that the steps need.
func (e *execution) setUp(ctx context.Context) error {
	var err error
	if e.file, e.def, err = e.t.Workflow(); err != nil {
		return err
	}
	e.makeContexts()
	place, err := e.x.Pick(e.t.Labels)
	if err != nil {
		return &wrongMachine{err}
	}
	_, repo, _ := strings.Cut(e.t.Repository, "/")
	spec := sandbox.Spec{Name: hostName(e.t.Def), Repo: repo, Names: e.serviceNames(), Limits: e.x.Limits}
	img, wanted, err := e.jobContainer(ctx, place)
	if err != nil {
		return err
	}
	if img != nil {
		spec.Image, spec.Limits = img.Image, over(wanted.options.Limits, spec.Limits)
	}
	if e.t.Resume != nil {
		spec.From = layer.ID(e.t.Resume.Snapshot)
	}
	if e.sb, err = place.Provider.Open(ctx, spec); err != nil {
		return fmt.Errorf("open sandbox for %s: %w", e.t.Name, err)
	}
	e.info = e.sb.Info()
	e.log.line("##[group]Machine\n%s sandbox, %s %s\n##[endgroup]", e.info.Provider, e.info.OS, e.info.Arch)
	for _, note := range e.info.Notes {
		e.log.line("##[warning]%s", note)
	}
	e.offerServices()
	if err := e.placeContexts(ctx); err != nil {
		return err
	}
	if img != nil {
		if err := e.moveIn(img, wanted); err != nil {
			return err
		}
	}
	if err := e.prepareActions(ctx, e.def.Steps, 0); err != nil {
		return err
	}
	e.log.line("Complete job name: %s", e.t.Name)
	return nil
}

// hostName is a job's ID as a host's name.
func hostName(id string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, id)
	return strings.Trim(name[:min(len(name), 60)], "-") + "-job"
}

// finish runs what is left after the steps: outputs, the environment's URL, the verdict.
func (e *execution) finish(ctx context.Context) ci.Result {
	done := e.beginStep(ci.Step{Name: "Complete job"})
	conclusion, reason := ci.Conclusion(e.jobStatus()), ""
	if errors.Is(context.Cause(e.interrupt), errTimeout) {
		reason = fmt.Sprintf("The job has exceeded the maximum execution time of %s", minutes(e.t.Timeout))
		e.fail(errors.New(reason))
	} else if cause := context.Cause(ctx); errors.Is(cause, errGrace) || errors.Is(cause, ErrKill) {
		reason = cause.Error()
	}
	res := e.result(conclusion, reason)
	if e.def != nil && e.sb != nil {
		var err error
		if res.Outputs, err = e.outputs(); err != nil {
			e.fail(err)
			res.Conclusion = ci.Failure
		}
		res.EnvironmentURL = e.environmentURL()
		if res.Conclusion == ci.Success && len(e.x.WriteBack) > 0 {
			if err := e.writeBack(ctx); err != nil {
				e.fail(err)
				res.Conclusion = ci.Failure
			}
		}
	}
	e.endStep(done, ci.Success, ci.Success)
	e.mu.Lock()
	defer e.mu.Unlock()
	res.Steps = append([]ci.Step(nil), e.steps...)
	res.Annotations = e.annotations
	e.annotations = nil
	return res
}

func (e *execution) result(c ci.Conclusion, reason string) ci.Result {
	return ci.Result{Conclusion: c, Reason: reason, Steps: append([]ci.Step(nil), e.steps...)}
}

func (e *execution) jobStatus() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// minutes is a time limit as the runner writes it.
func minutes(d time.Duration) string {
	if d < time.Minute {
		return d.String()
	}
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	return fmt.Sprintf("%dh%dm%ds", h, m, s)
}

// outputs are the job's outputs. One that holds a secret is left out, and said so.
func (e *execution) outputs() (map[string]string, error) {
	if e.def.Outputs == nil {
		return nil, nil
	}
	v, err := e.def.Outputs.Eval(e.env0(e.root, nil))
	if err != nil {
		return nil, e.placed(err)
	}
	out, total := map[string]string{}, 0
	for _, p := range v.Pairs() {
		text := p.Value.Text()
		if text == "" {
			continue
		}
		if e.mask.has(text) {
			e.annotate(0, ci.Annotation{Level: "warning", Message: fmt.Sprintf("Skip output '%s' since it may contain secret.", p.Key)})
			continue
		}
		if total += len(text) * 2; total > maxOutputs { // GitHub counts UTF-16
			return nil, fmt.Errorf("Output size limit exceeded: the outputs of a job may have at most %d bytes together", maxOutputs)
		}
		out[p.Key] = text
	}
	return out, nil
}

// maxOutputs bounds the outputs of a job, bytes: GitHub's limit.
const maxOutputs = 1 << 20

func (e *execution) environmentURL() string {
	if e.environURL == nil {
		return ""
	}
	v, err := e.environURL.Eval(e.env0(e.root, nil))
	if err != nil {
		e.log.line("##[warning]environment url: %s", err)
		return ""
	}
	return e.mask.text(v.Text())
}

// placed puts the workflow file in front of an error that has a place in it.
func (e *execution) placed(err error) error {
	var at *workflow.EvalError
	if errors.As(err, &at) && at.Line > 0 {
		return fmt.Errorf("%s (Line: %d, Col: %d): %s", e.file.Path, at.Line, at.Column, at.Message)
	}
	return err
}

func sortedEnv(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for k, v := range maps.All(env) {
		if !strings.ContainsRune(k, 0) && !strings.ContainsRune(v, 0) {
			out = append(out, k+"="+v)
		}
	}
	return out
}

// inherited passes the host's locale, time zone and proxies on, as the runner's own environment would.
func inherited() map[string]string {
	env := map[string]string{"LANG": "C.UTF-8"}
	for _, name := range []string{"LANG", "LC_ALL", "TZ", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if v, ok := os.LookupEnv(name); ok {
			env[name] = v
		}
	}
	return env
}
