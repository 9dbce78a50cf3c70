package job

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const (
	// maxActionDepth bounds composite actions within composite actions: GitHub's limit.
	maxActionDepth = 10
	// maxActionFile bounds an action.yml, bytes.
	maxActionFile = 1 << 20
)

// action is an action that steps use.
type action struct {
	uses       string
	repository string
	ref        string
	path       string
	local      bool   // below the workspace: read when its first step runs
	dir        string // on this host; empty for local and native ones
	inside     string // its files inside the machine
	manifest   *workflow.Action
	native     native.Action

	mu     sync.Mutex       // one step at a time loads and places it
	placed bool             // its files are inside
	image  *container.Image // of a Docker action, once it was needed
}

// prepareActions resolves what the steps use, before any runs, as the runner does: composite actions bring theirs.
func (e *execution) prepareActions(ctx context.Context, steps []*workflow.Step, depth int) error {
	if depth > maxActionDepth {
		return fmt.Errorf("Composite action depth exceeded max depth %d", maxActionDepth)
	}
	for _, s := range steps {
		if s.Parallel != nil {
			if err := e.prepareActions(ctx, s.Parallel, depth); err != nil {
				return err
			}
		}
		if s.Uses == "" {
			continue
		}
		if err := e.prepareAction(ctx, s, depth); err != nil {
			return err
		}
		if depth == 0 && e.hasPhase(e.actions[s.Uses], "pre", 0) {
			e.pres = append(e.pres, e.plan(s, e.root, "pre"))
		}
	}
	return nil
}

func (e *execution) prepareAction(ctx context.Context, s *workflow.Step, depth int) error {
	if e.action(s) != nil {
		return nil
	}
	a, err := e.resolve(ctx, s.Uses)
	if err != nil {
		return fmt.Errorf("%s (Line: %d, Col: %d): %w", e.file.Path, s.UsesPos.Line, s.UsesPos.Column, err)
	}
	e.mu.Lock()
	e.actions[s.Uses] = a
	e.mu.Unlock()
	if a.manifest != nil && a.manifest.Runs.Using == "composite" {
		return e.prepareActions(ctx, a.manifest.Runs.Steps, depth+1)
	}
	return nil
}

// action is what a step uses, nil if it is not prepared.
func (e *execution) action(s *workflow.Step) *action {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.actions[s.Uses]
}

// hasPhase reports whether an action, or one within it, has a step before or after the main steps. What is read only
// when it runs has none before.
func (e *execution) hasPhase(a *action, phase string, depth int) bool {
	if a == nil || depth > maxActionDepth {
		return false
	}
	e.mu.Lock()
	manifest := a.manifest
	e.mu.Unlock()
	if manifest == nil {
		return false
	}
	if _, ok := a.native.(native.Poster); ok && phase == "post" {
		return true
	}
	runs := manifest.Runs
	if runs.Using != "composite" {
		if a.native == nil && hasDockerPhase(&runs, phase) {
			return true
		}
		return phase == "pre" && runs.Pre != "" || phase == "post" && runs.Post != "" && a.native == nil
	}
	return slices.ContainsFunc(runs.Steps, func(s *workflow.Step) bool {
		return s.Uses != "" && e.hasPhase(e.action(s), phase, depth+1)
	})
}

// resolve finds an action: in the workspace, among the natives, or in its repository.
func (e *execution) resolve(ctx context.Context, uses string) (*action, error) {
	if strings.HasPrefix(uses, "./") {
		return &action{uses: uses, local: true, inside: path.Join(e.info.Workspace, uses)}, nil
	}
	if strings.HasPrefix(uses, "docker://") {
		return imageAction(uses), nil
	}
	ref, err := forge.ParseReference(uses)
	if err != nil {
		return nil, err
	}
	a := &action{uses: uses, repository: ref.Repository, ref: ref.Ref, path: ref.Path}
	if e.x.Native && !e.x.Actions.Overridden(ref) && e.x.Host.Offers(ref.Repository) {
		if a.native = native.Find(ref.Repository, ref.Path, ref.Ref); a.native != nil {
			a.manifest, err = workflow.ParseAction("action.yml", native.Manifest(ref.Repository, ref.Path, ref.Ref))
			return a, err
		}
	}
	found, err := e.x.Actions.Resolve(ctx, uses)
	if err != nil {
		return nil, fmt.Errorf("%w\nA copy in this repository can stand in for it, by penstock.yaml:\n  actions:\n    %s: ./path/to/the/action", err, uses)
	}
	a.dir = found.Dir
	a.inside = path.Join(path.Dir(path.Dir(e.info.Workspace)), "_actions", ref.Repository, strings.ReplaceAll(ref.Ref, "/", "-"), ref.Path)
	text, name, err := readManifest(found.Dir)
	if err != nil && hasDockerfile(found.Dir) {
		a.manifest = dockerfileAction(uses)
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("Can't find 'action.yml', 'action.yaml' or 'Dockerfile' for action '%s'.", uses)
	}
	e.log.line("Download action repository '%s' (SHA:%s)", uses, found.SHA)
	a.manifest, err = workflow.ParseAction(uses+"/"+name, text)
	return a, err
}

func readManifest(dir string) ([]byte, string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	for _, name := range []string{"action.yml", "action.yaml"} {
		if f, err := root.Open(name); err == nil {
			defer f.Close()
			text, err := io.ReadAll(io.LimitReader(f, maxActionFile))
			return text, name, err
		}
	}
	return nil, "", fs.ErrNotExist
}

// load reads a local action, which is there only since the workspace has been checked out.
func (e *execution) load(ctx context.Context, a *action) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.local || a.manifest != nil {
		return nil
	}
	for _, name := range []string{"action.yml", "action.yaml"} {
		text, err := sandbox.ReadFile(ctx, e.sb, path.Join(a.inside, name), maxActionFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("action %s: %w", a.uses, err)
		}
		manifest, err := workflow.ParseAction(path.Join(strings.TrimPrefix(a.uses, "./"), name), text)
		if err != nil {
			return err
		}
		e.mu.Lock()
		a.manifest = manifest
		e.mu.Unlock()
		if a.manifest.Runs.Using == "composite" {
			return e.prepareActions(ctx, a.manifest.Runs.Steps, 1)
		}
		return nil
	}
	if _, err := sandbox.ReadFile(ctx, e.sb, path.Join(a.inside, "Dockerfile"), maxActionFile); err == nil {
		e.mu.Lock()
		a.manifest = dockerfileAction(a.uses)
		e.mu.Unlock()
		return nil
	}
	return fmt.Errorf("Can't find 'action.yml', 'action.yaml' or 'Dockerfile' under '%s'. Did you forget to run actions/checkout before running your local action?", a.inside)
}

// place brings a fetched action's files into the machine, once.
func (e *execution) place(ctx context.Context, a *action) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.placed || a.dir == "" {
		return nil
	}
	a.placed = true
	if l, ok := e.sb.(sandbox.Layered); ok {
		return l.Overlay(ctx, a.inside, a.dir, nil)
	}
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := t.AddFS(os.DirFS(a.dir))
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	defer r.Close()
	return e.sb.Put(ctx, a.inside, r)
}

// useAction runs one phase of an action.
func (e *execution) useAction(ctx context.Context, r *stepRun) error {
	a := r.action
	if err := e.load(ctx, a); err != nil {
		return err
	}
	if r.phase == "main" && a.local && a.manifest.Runs.Pre != "" {
		e.warn(r, fmt.Sprintf("`pre` execution is not supported for local action from '%s'", a.uses))
	}
	if r.phase != "post" && e.hasPhase(a, "post", 0) {
		e.pushPost(r)
	}
	given, err := e.inputs(r)
	if err != nil {
		return err
	}
	inputs := map[string]string{}
	for _, p := range given {
		inputs[strings.ToLower(p.name)] = p.value
	}
	e.logAction(r, given)
	switch using := a.manifest.Runs.Using; {
	case a.native != nil:
		return e.useNative(ctx, r, inputs)
	case using == "composite":
		return e.useComposite(ctx, r, inputs)
	case strings.HasPrefix(using, "node"):
		return e.useNode(ctx, r, inputs)
	default:
		return e.useDocker(ctx, r, inputs)
	}
}

// logAction writes the head of a step that uses an action.
func (e *execution) logAction(r *stepRun, inputs []pair) {
	if r.phase == "post" {
		e.log.line("Post job cleanup.")
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "##[group]Run %s\n", r.def.Uses)
	if len(inputs) > 0 {
		b.WriteString("with:\n")
	}
	for _, p := range inputs {
		if p.value != "" {
			fmt.Fprintf(&b, "  %s: %s\n", p.name, p.value)
		}
	}
	writeEnv(&b, r.env)
	b.WriteString("##[endgroup]\n")
	e.log.write([]byte(b.String()))
}

func writeEnv(b *strings.Builder, env map[string]string) {
	if len(env) == 0 {
		return
	}
	b.WriteString("env:\n")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(b, "  %s: %s\n", name, env[name])
	}
}

// inputs are what the step gives the action, then the action's defaults.
func (e *execution) inputs(r *stepRun) ([]pair, error) {
	env := e.env0(r.scope, r.env)
	v, err := r.def.With.Eval(env)
	if err != nil {
		return nil, e.placed(err)
	}
	var out []pair
	for _, p := range v.Pairs() {
		out = append(out, pair{p.Key, p.Value.Text()})
	}
	declared := r.action.manifest.Inputs
	if r.phase == "main" {
		e.warnOfInputs(r, out, declared)
	}
	for _, in := range declared {
		if slices.ContainsFunc(out, func(p pair) bool { return strings.EqualFold(p.name, in.Name) }) {
			continue
		}
		v, err := in.Default.Eval(env)
		if err != nil {
			return nil, e.placed(err)
		}
		out = append(out, pair{in.Name, v.Text()})
	}
	return e.ownServer(r, e.withoutOwnToken(r, out)), nil
}

// ownServer has checkout fetch from the run's server by the address that the machine reaches it at.
func (e *execution) ownServer(r *stepRun, inputs []pair) []pair {
	if e.services == nil || !e.services.Server || !strings.EqualFold(r.action.repository, "actions/checkout") {
		return inputs
	}
	for i := range inputs {
		if in := &inputs[i]; strings.EqualFold(in.name, "github-server-url") && (in.value == "" || in.value == e.github.Property("server_url").Text()) {
			in.value = e.services.Git
		}
	}
	return inputs
}

// withoutOwnToken takes the services' token out of the inputs of the actions that send it to github.com whatever the API's
// address is, where it would be refused and none at all be taken: checkout and the setup- actions.
func (e *execution) withoutOwnToken(r *stepRun, inputs []pair) []pair {
	name := strings.ToLower(r.action.repository)
	if (name != "actions/checkout" || e.services != nil && e.services.Server) && !strings.HasPrefix(name, "actions/setup-") {
		return inputs
	}
	for i := range inputs {
		if e.ownToken(inputs[i].value) {
			inputs[i].value = ""
		}
	}
	return inputs
}

// warnOfInputs tells of inputs that are deprecated or that the action does not have.
func (e *execution) warnOfInputs(r *stepRun, given []pair, declared []workflow.ActionInput) {
	var unknown, valid []string
	for _, p := range given {
		i := slices.IndexFunc(declared, func(in workflow.ActionInput) bool { return strings.EqualFold(in.Name, p.name) })
		switch {
		case i < 0:
			unknown = append(unknown, p.name)
		case declared[i].Deprecation != "":
			e.warn(r, fmt.Sprintf("Input '%s' has been deprecated with message: %s", p.name, declared[i].Deprecation))
		}
	}
	for _, in := range declared {
		valid = append(valid, in.Name)
	}
	if len(unknown) > 0 && len(declared) > 0 {
		e.warn(r, fmt.Sprintf("Unexpected input(s) '%s', valid inputs are ['%s']", strings.Join(unknown, "', '"), strings.Join(valid, "', '")))
	}
}

// useNode runs a JavaScript action with the machine's node.
func (e *execution) useNode(ctx context.Context, r *stepRun, inputs map[string]string) error {
	a := r.action
	if err := e.place(ctx, a); err != nil {
		return fmt.Errorf("place action %s: %w", a.uses, err)
	}
	runs := a.manifest.Runs
	script := map[string]string{"pre": runs.Pre, "main": runs.Main, "post": runs.Post}[r.phase]
	scope := e.actionScope(r, inputs)
	extra := map[string]string{}
	for name, value := range inputs {
		extra["INPUT_"+strings.ToUpper(strings.ReplaceAll(name, " ", "_"))] = value
	}
	e.addServices(extra, a, inputs)
	sub := *r
	planned := *r.plannedStep
	planned.scope = scope
	sub.plannedStep = &planned
	node, err := e.nodeCommand(ctx)
	if err != nil {
		return err
	}
	err = e.exec(ctx, &sub, append(slices.Clip(node), path.Join(a.inside, script)), e.info.Workspace, extra)
	if errors.Is(err, fs.ErrNotExist) {
		missing := fmt.Errorf("%s needs %s, and this machine has no node in its PATH: install Node.js, or put actions/setup-node before it", a.uses, runs.Using)
		return e.notStarted(ctx, "node", e.info.Workspace, missing)
	}
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return errTold // the action itself says why: the runner adds nothing
	}
	return err
}

// actionScope is the scope that an action's expressions and files see.
func (e *execution) actionScope(r *stepRun, inputs map[string]string) *scope {
	return &scope{parent: r.scope, action: r.action, inputs: stringObject(inputs), env: r.own, depth: r.scope.depth + 1,
		status: succeeded, phase: r.phase, uses: map[*workflow.Step]*use{}}
}

// pushPost puts the action's post step before those that are there, once: they run in reverse. Within a composite
// action they are part of its own post step.
func (e *execution) pushPost(r *stepRun) {
	if r.use.posted {
		return
	}
	r.use.posted = true
	if r.scope.action != nil {
		e.mu.Lock()
		r.scope.posts = append(r.scope.posts, r.def)
		e.mu.Unlock()
		return
	}
	post := e.plan(r.def, r.scope, "post")
	e.mu.Lock()
	e.posts = append(e.posts, post)
	e.mu.Unlock()
}

// useComposite runs a phase of a composite action: its steps, in a scope of their own that all phases share.
func (e *execution) useComposite(ctx context.Context, r *stepRun, inputs map[string]string) error {
	a := r.action
	if r.scope.depth >= maxActionDepth {
		return fmt.Errorf("Composite action depth exceeded max depth %d", maxActionDepth)
	}
	if err := e.place(ctx, a); err != nil {
		return fmt.Errorf("place action %s: %w", a.uses, err)
	}
	s := e.innerScope(r, inputs)
	failure := e.runInner(s, r, e.innerSteps(s, r.phase))
	if r.phase != "main" {
		return failure
	}
	for _, out := range a.manifest.Outputs {
		v, err := out.Value.Eval(e.env0(s, nil))
		if err != nil {
			return e.placed(err)
		}
		setFold(r.outputs, out.Name, v.Text())
	}
	return failure
}

// innerScope is the scope of a composite action's steps in the phase that begins.
func (e *execution) innerScope(r *stepRun, inputs map[string]string) *scope {
	fresh := e.actionScope(r, inputs)
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := r.use.inner; s != nil {
		s.inputs, s.env, s.phase, s.status = fresh.inputs, fresh.env, r.phase, succeeded
		return s
	}
	r.use.inner = fresh
	if r.use.saved != nil {
		e.revealInner(fresh, r.use.saved)
		r.use.saved = nil
	}
	return fresh
}

// innerSteps are the steps of a composite action that a phase runs: all, those with something to do before, or the post
// steps of those that ran, in reverse.
func (e *execution) innerSteps(s *scope, phase string) []*plannedStep {
	var out []*plannedStep
	switch phase {
	case "main":
		for _, def := range s.action.manifest.Runs.Steps {
			out = append(out, e.plan(def, s, phase))
		}
	case "pre":
		for _, def := range s.action.manifest.Runs.Steps {
			if def.Uses != "" && e.hasPhase(e.action(def), phase, 0) {
				out = append(out, e.plan(def, s, phase))
			}
		}
	case "post":
		e.mu.Lock()
		posts := s.posts
		s.posts = nil
		e.mu.Unlock()
		for _, def := range slices.Backward(posts) {
			out = append(out, e.plan(def, s, phase))
		}
	}
	return out
}

// runInner runs a composite action's steps. A step whose condition can not be evaluated ends it.
func (e *execution) runInner(s *scope, r *stepRun, steps []*plannedStep) error {
	var failure error
	for _, p := range steps {
		p.number = r.number
		p.name = e.displayName(p)
		in := e.newRun(p)
		outcome := e.ready(r.outer, in)
		conclusion, broken := outcome, outcome == ci.Failure
		if outcome == "" {
			outcome, conclusion = e.execute(r.outer, in)
		}
		e.settle(in, outcome, conclusion)
		status := s.status
		switch conclusion {
		case ci.Failure:
			status, failure = failed, errTold
		case ci.Cancelled:
			status, failure = cancelled, errStopped
		}
		e.mu.Lock()
		s.status = status
		e.mu.Unlock()
		if broken {
			break
		}
	}
	return failure
}

// useNative runs an action that Penstock carries in Go.
func (e *execution) useNative(ctx context.Context, r *stepRun, inputs map[string]string) error {
	env := maps.Clone(r.env)
	e.runtimeEnv(env, r, nil)
	e.mu.Lock()
	github := e.githubFor(r.scope)
	e.mu.Unlock()
	s := &native.Step{
		Inputs: inputs, Env: env, GitHub: github, Sandbox: e.sb, Log: r.reader, Host: e.x.Host,
		Outputs: r.outputs, State: r.use.state, Failed: e.jobStatus() != succeeded, JobName: e.t.Name, Began: e.steps[0].Started,
	}
	var err error
	if r.phase == "post" {
		err = r.action.native.(native.Poster).Post(ctx, s)
	} else {
		err = r.action.native.Main(ctx, s)
	}
	r.reader.close()
	for name, value := range s.NewEnv {
		e.setEnv(r, name, value, "Can't store NODE_OPTIONS output parameter using '$GITHUB_ENV' command.")
	}
	e.addPaths(r, s.NewPath...)
	if s.Summary != "" {
		err = errors.Join(err, e.takeSummary(r, []byte(s.Summary)))
	}
	return err
}

// postCondition is when an action's post step runs: nil is always.
func postCondition(a *action) *workflow.Condition {
	if a == nil || a.manifest == nil {
		return nil
	}
	if p, ok := a.native.(native.PostIf); ok {
		x, err := expr.Parse(p.PostIf(), expr.Names{Functions: statusSignatures})
		if err != nil {
			panic(err) // the natives' own conditions: a test reads them all
		}
		return &workflow.Condition{Expr: x}
	}
	return a.manifest.Runs.PostIf
}

var statusSignatures = []expr.Signature{{Name: "success"}, {Name: "always"}, {Name: "failure"}, {Name: "cancelled"}}
