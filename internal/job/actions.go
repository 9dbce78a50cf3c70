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
	placed     bool // its files are inside
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
		if s.Uses == "" || e.actions[s.Uses] != nil {
			continue
		}
		a, err := e.resolve(ctx, s.Uses)
		if err != nil {
			return fmt.Errorf("%s (Line: %d, Col: %d): %w", e.file.Path, s.UsesPos.Line, s.UsesPos.Column, err)
		}
		e.actions[s.Uses] = a
		if a.manifest != nil && a.manifest.Runs.Using == "composite" {
			if err := e.prepareActions(ctx, a.manifest.Runs.Steps, depth+1); err != nil {
				return err
			}
		}
		if a.manifest != nil && depth == 0 && a.manifest.Runs.Pre != "" {
			e.pres = append(e.pres, &plannedStep{def: s, scope: e.root, cond: a.manifest.Runs.PreIf, phase: "pre", action: a, state: map[string]string{}})
		}
	}
	return nil
}

// resolve finds an action: in the workspace, among the natives, or in its repository.
func (e *execution) resolve(ctx context.Context, uses string) (*action, error) {
	if strings.HasPrefix(uses, "./") {
		return &action{uses: uses, local: true, inside: path.Join(e.info.Workspace, uses)}, nil
	}
	if strings.HasPrefix(uses, "docker://") {
		return nil, errors.New("Docker actions are not supported yet: they come with a later version of Penstock")
	}
	ref, err := forge.ParseReference(uses)
	if err != nil {
		return nil, err
	}
	a := &action{uses: uses, repository: ref.Repository, ref: ref.Ref, path: ref.Path}
	if e.x.Native {
		if a.native = native.Find(ref.Repository, ref.Path, ref.Ref); a.native != nil {
			a.manifest, err = workflow.ParseAction("action.yml", native.Manifest(ref.Repository, ref.Path, ref.Ref))
			return a, err
		}
	}
	found, err := e.x.Actions.Resolve(ctx, uses)
	if err != nil {
		return nil, err
	}
	a.dir = found.Dir
	a.inside = path.Join(path.Dir(path.Dir(e.info.Workspace)), "_actions", ref.Repository, strings.ReplaceAll(ref.Ref, "/", "-"), ref.Path)
	text, name, err := readManifest(found.Dir)
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
	if !a.local || a.manifest != nil {
		return nil
	}
	for _, name := range []string{"action.yml", "action.yaml"} {
		text, err := sandbox.ReadFile(ctx, e.sb, path.Join(a.inside, name), maxActionFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read action %s: %w", a.uses, err)
		}
		if a.manifest, err = workflow.ParseAction(path.Join(strings.TrimPrefix(a.uses, "./"), name), text); err != nil {
			return err
		}
		if a.manifest.Runs.Using == "composite" {
			return e.prepareActions(ctx, a.manifest.Runs.Steps, 1)
		}
		return nil
	}
	return fmt.Errorf("Can't find 'action.yml', 'action.yaml' or 'Dockerfile' under '%s'. Did you forget to run actions/checkout before running your local action?", a.inside)
}

// place brings a fetched action's files into the machine, once.
func (e *execution) place(ctx context.Context, a *action) error {
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
	inputs, err := e.inputs(r)
	if err != nil {
		return err
	}
	e.logAction(r)
	switch using := a.manifest.Runs.Using; {
	case a.native != nil:
		return e.useNative(ctx, r, inputs)
	case using == "composite":
		return e.useComposite(ctx, r, inputs)
	case strings.HasPrefix(using, "node"):
		return e.useNode(ctx, r, inputs)
	default:
		return fmt.Errorf("%s runs in Docker, which is not supported yet: it comes with a later version of Penstock", a.uses)
	}
}

// logAction writes the head of a step that uses an action.
func (e *execution) logAction(r *stepRun) {
	if r.phase == "post" {
		e.log.line("Post job cleanup.")
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "##[group]Run %s\n", r.def.Uses)
	if r.def.With != nil {
		if v, err := r.def.With.Eval(e.env0(r.scope, r.env)); err == nil && v.Len() > 0 {
			b.WriteString("with:\n")
			for _, p := range v.Pairs() {
				fmt.Fprintf(&b, "  %s: %s\n", p.Key, p.Value.Text())
			}
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

// inputs are what the step gives the action, with the action's defaults, by lower-case name.
func (e *execution) inputs(r *stepRun) (map[string]string, error) {
	out := map[string]string{}
	env := e.env0(r.scope, r.env)
	if r.def.With != nil {
		v, err := r.def.With.Eval(env)
		if err != nil {
			return nil, e.placed(err)
		}
		for _, p := range v.Pairs() {
			out[strings.ToLower(p.Key)] = p.Value.Text()
		}
	}
	var unknown []string
	for name := range out {
		if !slices.ContainsFunc(r.action.manifest.Inputs, func(in workflow.ActionInput) bool { return strings.EqualFold(in.Name, name) }) {
			unknown = append(unknown, "'"+name+"'")
		}
	}
	if len(unknown) > 0 && r.phase == "main" {
		var valid []string
		for _, in := range r.action.manifest.Inputs {
			valid = append(valid, "'"+in.Name+"'")
		}
		slices.Sort(unknown)
		e.log.line("##[warning]Unexpected input(s) %s, valid inputs are [%s]", strings.Join(unknown, ", "), strings.Join(valid, ", "))
	}
	for _, in := range r.action.manifest.Inputs {
		name := strings.ToLower(in.Name)
		_, given := out[name]
		if given && in.Deprecation != "" && r.phase == "main" {
			e.log.line("##[warning]Input '%s' has been deprecated with message: %s", in.Name, in.Deprecation)
		}
		if given {
			continue
		}
		v, err := in.Default.Eval(env)
		if err != nil {
			return nil, e.placed(err)
		}
		out[name] = v.Text()
	}
	return out, nil
}

// useNode runs a JavaScript action with the machine's node.
func (e *execution) useNode(ctx context.Context, r *stepRun, inputs map[string]string) error {
	a := r.action
	if err := e.place(ctx, a); err != nil {
		return fmt.Errorf("place action %s: %w", a.uses, err)
	}
	runs := a.manifest.Runs
	script := map[string]string{"pre": runs.Pre, "main": runs.Main, "post": runs.Post}[r.phase]
	if r.phase == "main" && runs.Post != "" {
		e.pushPost(r)
	}
	scope := e.actionScope(r, inputs)
	extra := map[string]string{}
	for name, value := range inputs {
		extra["INPUT_"+strings.ToUpper(strings.ReplaceAll(name, " ", "_"))] = value
	}
	sub := *r
	planned := *r.plannedStep
	planned.scope = scope
	sub.plannedStep = &planned
	err := e.exec(ctx, &sub, []string{"node", path.Join(a.inside, script)}, e.info.Workspace, extra)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s needs %s, and this machine has no node in its PATH: install Node.js, or put actions/setup-node before it", a.uses, runs.Using)
	}
	return err
}

// actionScope is the scope that an action's expressions and files see.
func (e *execution) actionScope(r *stepRun, inputs map[string]string) *scope {
	return &scope{parent: r.scope, action: r.action, inputs: stringObject(inputs), env: map[string]string{}, status: succeeded}
}

// pushPost puts the action's post step before those that are there: they run in reverse.
func (e *execution) pushPost(r *stepRun) {
	post := *r.plannedStep
	post.phase, post.cond = "post", postCondition(r.action)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.posts = append(e.posts, &post)
}

// useComposite runs the steps of a composite action in a scope of their own.
func (e *execution) useComposite(ctx context.Context, r *stepRun, inputs map[string]string) error {
	if r.phase != "main" {
		return nil
	}
	a := r.action
	if err := e.place(ctx, a); err != nil {
		return fmt.Errorf("place action %s: %w", a.uses, err)
	}
	s := e.actionScope(r, inputs)
	s.env = maps.Clone(r.env)
	var failure error
	for _, def := range a.manifest.Runs.Steps {
		p := &plannedStep{def: def, scope: s, cond: def.If, phase: "main", action: e.actions[def.Uses], state: map[string]string{}, number: r.number}
		p.name = e.displayName(p)
		_, conclusion := e.step(ctx, p)
		switch conclusion {
		case "failure":
			s.status, failure = failed, errTold
		case "cancelled":
			s.status, failure = cancelled, errors.Join(context.Cause(ctx), errTold)
		}
	}
	for _, out := range a.manifest.Outputs {
		v, err := out.Value.Eval(e.env0(s, nil))
		if err != nil {
			return e.placed(err)
		}
		r.outputs[out.Name] = v.Text()
	}
	return failure
}

// useNative runs an action that Penstock carries in Go.
func (e *execution) useNative(ctx context.Context, r *stepRun, inputs map[string]string) error {
	env := maps.Clone(r.env)
	e.runtimeEnv(env, r.scope, nil, r.def.ContextName)
	e.mu.Lock()
	github := e.githubFor(r.scope)
	e.mu.Unlock()
	s := &native.Step{
		Inputs: inputs, Env: env, GitHub: github, Sandbox: e.sb, Log: r.reader, Host: e.x.Host,
		Outputs: r.outputs, State: r.state, Failed: e.jobStatus() != succeeded,
	}
	var err error
	if r.phase == "post" {
		err = r.action.native.(native.Poster).Post(ctx, s)
	} else {
		err = r.action.native.Main(ctx, s)
		if _, ok := r.action.native.(native.Poster); ok {
			e.pushPost(r)
		}
	}
	r.reader.close()
	for name, value := range s.NewEnv {
		e.setEnv(r, name, value)
	}
	e.mu.Lock()
	e.path = append(e.path, s.NewPath...)
	e.mu.Unlock()
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
