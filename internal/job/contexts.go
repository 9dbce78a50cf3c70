package job

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// scope is where step IDs live: the job, or one use of a composite action.
type scope struct {
	parent *scope
	steps  []expr.Pair       // the steps context so far
	inputs expr.Value        // of the composite action; null in a job
	action *action           // nil in a job
	env    map[string]string // what `env:` of the steps around a composite action says: it wins within
	depth  int               // composite actions around
	// The rest is guarded by the job's mu.
	status string // github.action_status of a composite action
	phase  string // of the composite action: pre, main, post
	uses   map[*workflow.Step]*use
	posts  []*workflow.Step // of a composite action: those whose post steps are to run
}

// set writes a step's entry of the steps context. Steps whose ID was generated have none.
func (s *scope) set(id string, outputs map[string]string, outcome, conclusion string) {
	if id == "" || strings.HasPrefix(id, "__") {
		return
	}
	pairs := []expr.Pair{{Key: "outputs", Value: stringObject(outputs)}}
	if conclusion != "" {
		pairs = append(pairs, expr.Pair{Key: "outcome", Value: expr.String(outcome)}, expr.Pair{Key: "conclusion", Value: expr.String(conclusion)})
	}
	entry := expr.Pair{Key: id, Value: expr.Object(pairs...)}
	if i := slices.IndexFunc(s.steps, func(p expr.Pair) bool { return strings.EqualFold(p.Key, id) }); i >= 0 {
		s.steps[i] = entry
	} else {
		s.steps = append(s.steps, entry)
	}
}

func stringObject(m map[string]string) expr.Value {
	pairs := make([]expr.Pair, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, expr.Pair{Key: k, Value: expr.String(m[k])})
	}
	return expr.Object(pairs...)
}

// makeContexts fills what stays the same for all steps and is known before there is a machine.
func (e *execution) makeContexts() {
	e.github = e.t.GitHub.With("token", expr.String(e.t.Token)).With("run_attempt", expr.String(fmt.Sprint(e.t.Attempt)))
	secrets := maps.Clone(e.t.Secrets)
	if secrets == nil {
		secrets = map[string]string{}
	}
	if _, ok := secrets["GITHUB_TOKEN"]; !ok && e.t.Token != "" {
		secrets["GITHUB_TOKEN"] = e.t.Token
	}
	e.base = map[string]expr.Value{
		"inputs": e.t.Inputs, "vars": e.t.Vars, "needs": e.t.Needs, "strategy": e.t.Strategy, "matrix": e.t.Matrix,
		"secrets": stringObject(secrets), "runner": expr.Object(),
	}
	e.root = &scope{inputs: expr.Null(), uses: map[*workflow.Step]*use{}}
	e.env = map[string]string{}
}

// placeContexts adds what the machine says, and evaluates the job's environment.
func (e *execution) placeContexts(ctx context.Context) error {
	e.github = e.github.With("workspace", expr.String(e.info.Workspace)).With("event_path", expr.String(path.Join(e.info.Files, "event.json")))
	github := e.github
	e.base["runner"] = expr.Object(
		expr.Pair{Key: "os", Value: expr.String(e.info.OS)},
		expr.Pair{Key: "arch", Value: expr.String(e.info.Arch)},
		expr.Pair{Key: "name", Value: expr.String("penstock")},
		expr.Pair{Key: "environment", Value: expr.String("self-hosted")},
		expr.Pair{Key: "temp", Value: expr.String(e.info.Temp)},
		expr.Pair{Key: "tool_cache", Value: expr.String(e.info.ToolCache)},
		expr.Pair{Key: "workspace", Value: expr.String(path.Dir(e.info.Workspace))},
		expr.Pair{Key: "debug", Value: expr.String(map[bool]string{true: "1"}[e.debug])},
	)
	var event bytes.Buffer
	raw, err := json.Marshal(github.Property("event"))
	if err == nil {
		err = json.Indent(&event, raw, "", "  ")
	}
	if err == nil {
		err = sandbox.WriteFile(ctx, e.sb, github.Property("event_path").Text(), event.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the event: %w", err)
	}
	for _, n := range []*workflow.Node{e.file.Env, e.def.Env} {
		v, err := n.Eval(e.env0(e.root, nil))
		if err != nil {
			return e.placed(err)
		}
		for _, p := range v.Pairs() {
			e.env[p.Key] = p.Value.Text()
		}
	}
	if e.def.Environment != nil {
		e.environURL = e.def.Environment.Get("url")
	}
	return e.readDefaults()
}

// readDefaults evaluates defaults.run of the workflow and the job, the job's winning.
func (e *execution) readDefaults() error {
	for _, d := range []*workflow.Defaults{e.file.Defaults, e.def.Defaults} {
		if d == nil {
			continue
		}
		for _, f := range []struct {
			node *workflow.Node
			into *string
		}{{d.Shell, &e.defaults.shell}, {d.WorkingDirectory, &e.defaults.directory}} {
			if f.node == nil {
				continue
			}
			v, err := f.node.Eval(e.env0(e.root, nil))
			if err != nil {
				return e.placed(err)
			}
			*f.into = v.Text()
		}
	}
	return nil
}

// env0 is what an expression of a step may read. stepEnv is the environment as the step has it so far; nil takes the
// job's.
func (e *execution) env0(s *scope, stepEnv map[string]string) expr.Env {
	e.mu.Lock()
	defer e.mu.Unlock()
	contexts := maps.Clone(e.base)
	if contexts == nil {
		contexts = map[string]expr.Value{}
	}
	if stepEnv == nil {
		stepEnv = e.mergedEnv(s)
	}
	contexts["github"] = e.githubFor(s)
	contexts["env"] = stringObject(stepEnv)
	contexts["job"] = expr.Object(append([]expr.Pair{{Key: "status", Value: expr.String(e.status)}}, e.jobContext...)...)
	if s != nil {
		contexts["steps"] = expr.Object(s.steps...)
		if s.action != nil {
			contexts["inputs"] = s.inputs
		}
	}
	return expr.Env{Contexts: contexts, Functions: e.functions(s)}
}

// mergedEnv is the environment that steps of a scope begin with. The caller holds mu.
func (e *execution) mergedEnv(s *scope) map[string]string {
	env := maps.Clone(e.env)
	if s != nil {
		maps.Copy(env, s.env)
	}
	return env
}

// githubFor is the github context as a scope sees it. The caller holds mu.
func (e *execution) githubFor(s *scope) expr.Value {
	g := e.github
	if s != nil && s.action != nil {
		g = g.With("action_path", expr.String(s.action.inside)).With("action_repository", expr.String(s.action.repository)).
			With("action_ref", expr.String(s.action.ref)).With("action_status", expr.String(s.status))
	}
	return g
}

// functions are those that know the job. In composite actions success() and failure() look at the action's own status,
// but for its pre and post steps.
func (e *execution) functions(s *scope) map[string]expr.Func {
	status := func() string {
		e.mu.Lock()
		defer e.mu.Unlock()
		if s != nil && s.action != nil && s.phase == "main" && e.status != cancelled {
			return s.status
		}
		return e.status
	}
	is := func(want string) expr.Func {
		return func([]expr.Value) (expr.Value, error) { return expr.Bool(status() == want), nil }
	}
	return map[string]expr.Func{
		"success": is(succeeded), "failure": is(failed), "always": func([]expr.Value) (expr.Value, error) { return expr.Bool(true), nil },
		"cancelled": func([]expr.Value) (expr.Value, error) { return expr.Bool(e.jobStatus() == cancelled), nil },
		"hashfiles": e.hashFiles,
	}
}

// runtimeEnv adds what GitHub sets for every step over env: nobody may change these.
func (e *execution) runtimeEnv(env map[string]string, r *stepRun, files map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.githubFor(r.scope)
	env["GITHUB_ACTION_REPOSITORY"], env["GITHUB_ACTION_REF"] = "", ""
	for _, name := range githubEnvironment {
		v := g.Property(name)
		if name == "token" || v.IsNull() {
			continue
		}
		env["GITHUB_"+strings.ToUpper(name)] = v.Text()
	}
	env["GITHUB_ACTION"] = r.def.ContextName
	env["GITHUB_ACTIONS"] = "true"
	env["RUNNER_OS"], env["RUNNER_ARCH"], env["RUNNER_NAME"] = e.info.OS, e.info.Arch, "penstock"
	env["RUNNER_ENVIRONMENT"], env["RUNNER_TEMP"], env["RUNNER_TOOL_CACHE"] = "self-hosted", e.info.Temp, e.info.ToolCache
	env["RUNNER_WORKSPACE"] = path.Dir(e.info.Workspace)
	if e.debug {
		env["RUNNER_DEBUG"] = "1"
	}
	if _, ok := env["CI"]; !ok {
		env["CI"] = "true"
	}
	if _, ok := env["HOME"]; !ok {
		env["HOME"] = e.info.Home
	}
	for name, value := range inherited() {
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
	base, ok := env["PATH"]
	if !ok {
		base = e.info.Path
	}
	for _, p := range e.path {
		base = p + ":" + base
	}
	env["PATH"] = base
	maps.Copy(env, files)
}

// githubEnvironment lists the members of the github context that steps get as GITHUB_ variables (actions/runner
// src/Runner.Worker/GitHubContext.cs).
var githubEnvironment = []string{
	"action", "action_path", "action_ref", "action_repository", "actor", "actor_id", "api_url", "base_ref", "event_name", "event_path",
	"graphql_url", "head_ref", "job", "ref", "ref_name", "ref_protected", "ref_type", "repository", "repository_id", "repository_owner",
	"repository_owner_id", "retention_days", "run_attempt", "run_id", "run_number", "server_url", "sha", "triggering_actor", "workflow",
	"workflow_ref", "workflow_sha", "workspace",
}
