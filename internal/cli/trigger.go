package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/joho/godotenv"
	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// maxEventFile bounds an event payload, bytes: GitHub's own webhooks end at 25 MB.
const maxEventFile = 25 << 20

// triggerFlags say what happens and to which workflows: what `run` and `plan` share.
type triggerFlags struct {
	dir        string
	workflows  []string
	jobs       []string
	eventFile  string
	inputs     []string
	inputFile  string
	matrix     []string
	vars       []string
	varFile    string
	actor      string
	actionsURL string
	offline    bool
}

func (t *triggerFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&t.dir, "directory", "C", ".", "work in `DIR`, a repository or a directory inside one")
	f.StringArrayVarP(&t.workflows, "workflows", "W", nil, "only this workflow `FILE` or directory; branch and path filters are then not asked")
	f.StringArrayVarP(&t.jobs, "job", "j", nil, "only this `JOB` and what it needs")
	f.StringVarP(&t.eventFile, "eventpath", "e", "", "JSON `FILE` with the event's payload; - reads standard input")
	f.StringArrayVar(&t.inputs, "input", nil, "workflow_dispatch input, `NAME=VALUE`")
	f.StringVar(&t.inputFile, "input-file", ".input", "dotenv `FILE` with inputs")
	f.StringArrayVar(&t.matrix, "matrix", nil, "only the matrix cells with this value, `KEY:VALUE`")
	f.StringArrayVar(&t.vars, "var", nil, "configuration variable, `NAME=VALUE`; NAME alone takes it from the environment")
	f.StringVar(&t.varFile, "var-file", ".vars", "dotenv `FILE` with configuration variables")
	f.StringVarP(&t.actor, "actor", "a", "", "who triggered the event (default: git's user)")
	f.StringVar(&t.actionsURL, "actions-url", "https://github.com", "where actions are fetched from: a base `URL`, or a file:// template with {owner} and {repo}")
	f.BoolVar(&t.offline, "action-offline-mode", false, "take actions from the cache only")
	_ = c.RegisterFlagCompletionFunc("job", t.completeJobs)
}

// triggered is what an event leads to.
type triggered struct {
	tree    *forge.WorkTree
	event   *forge.Event
	plans   []*ci.Plan
	skipped []skipped // workflows that the event does not start
	actions *forge.ActionSource
	config  *config.Config
}

// skipped is a workflow that does not run, and why.
type skipped struct {
	workflow *workflow.Workflow
	reason   string
}

// trigger reads the repository and finds out what the event starts. Mistakes in any workflow file are one error.
func (t *triggerFlags) trigger(ctx context.Context, c *cobra.Command, event, actionsCache string) (*triggered, error) {
	tree, err := forge.OpenWorkTree(ctx, t.dir)
	if err != nil {
		return nil, err
	}
	if t.actor != "" {
		tree.Actor = t.actor
	}
	files, err := t.read(tree)
	if err != nil {
		return nil, err
	}
	workflows, err := engine.ParseWorkflows(files)
	if err != nil {
		return nil, err
	}
	payload := expr.Null()
	if t.eventFile != "" {
		if payload, err = t.readPayload(c); err != nil {
			return nil, err
		}
	}
	if event == "" {
		event = defaultEvent(workflows)
	}
	ev, err := tree.Event(ctx, event, payload)
	if err != nil {
		return nil, err
	}
	settings, err := config.Read(tree.Root)
	if err != nil {
		return nil, err
	}
	out := &triggered{tree: tree, event: ev, actions: t.actionSource(c, actionsCache, tree, settings), config: settings}
	for _, w := range workflows {
		reason, err := t.matches(w, ev.Match)
		if err != nil {
			return nil, err
		}
		if reason != "" {
			out.skipped = append(out.skipped, skipped{w, reason})
			continue
		}
		plan, err := t.plan(ctx, out, w)
		if err != nil {
			return nil, err
		}
		out.plans = append(out.plans, plan)
	}
	return out, nil
}

func (t *triggerFlags) actionSource(c *cobra.Command, cache string, tree *forge.WorkTree, settings *config.Config) *forge.ActionSource {
	return &forge.ActionSource{
		CacheDir: cache, URLTemplate: t.actionsURL, Offline: t.offline, Log: c.ErrOrStderr(), Overrides: settings.Overrides(tree.Root),
	}
}

// errNoWorkflows says that a repository has none.
var errNoWorkflows = errors.New("no workflows")

// read takes the workflow files that were asked for: those of -W, else all of the repository.
func (t *triggerFlags) read(tree *forge.WorkTree) ([]forge.File, error) {
	if len(t.workflows) == 0 {
		files, err := tree.Workflows()
		if err == nil && len(files) == 0 {
			err = withHint(fmt.Errorf("%w: %s has no .yml file in it", errNoWorkflows, filepath.Join(tree.Root, filepath.FromSlash(forge.WorkflowDir))),
				"write one there, or name another place with -W FILE")
		}
		return files, err
	}
	var files []forge.File
	for _, name := range t.workflows {
		if !filepath.IsAbs(name) {
			name = filepath.Join(t.dir, name)
		}
		names := []string{name}
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			yml, _ := filepath.Glob(filepath.Join(name, "*.yml"))
			yaml, _ := filepath.Glob(filepath.Join(name, "*.yaml"))
			names = append(yml, yaml...)
		}
		for _, n := range names {
			f, err := readWorkflow(tree, n)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no workflows in %s", strings.Join(t.workflows, ", "))
	}
	return files, nil
}

// readWorkflow reads a file named by the user, which need not lie in the repository.
func readWorkflow(tree *forge.WorkTree, name string) (forge.File, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return forge.File{}, err
	}
	if rel, err := filepath.Rel(tree.Root, abs); err == nil && filepath.IsLocal(rel) {
		return tree.Read(filepath.ToSlash(rel))
	}
	data, err := readFileOrStdin(abs, nil, maxEventFile)
	return forge.File{Path: name, Data: data}, err
}

// defaultEvent is push, unless no workflow has it and all have one event in common that can be started by hand.
func defaultEvent(workflows []*workflow.Workflow) string {
	for _, event := range []string{"push", "pull_request", "workflow_dispatch"} {
		for _, w := range workflows {
			if w.On.Find(event) != nil {
				return event
			}
		}
	}
	return "push"
}

func (t *triggerFlags) readPayload(c *cobra.Command) (expr.Value, error) {
	data, err := readFileOrStdin(t.eventFile, c.InOrStdin(), maxEventFile)
	if err != nil {
		return expr.Null(), fmt.Errorf("read event: %w", err)
	}
	v, err := expr.FromJSON(data)
	if err != nil {
		return expr.Null(), fmt.Errorf("read event from %s: %w", t.eventFile, err)
	}
	return v, nil
}

// matches says why a workflow does not run; empty if it does. A workflow named by -W is asked for its event only.
func (t *triggerFlags) matches(w *workflow.Workflow, ev workflow.Event) (string, error) {
	if len(t.workflows) > 0 {
		if w.On.Find(ev.Name) == nil {
			return fmt.Sprintf("it does not run on %s", ev.Name), nil
		}
	} else if ok, reason := w.Matches(ev); !ok {
		return reason, nil
	}
	for _, j := range t.jobs {
		if w.Job(j) == nil {
			return fmt.Sprintf("it has no job '%s'", j), nil
		}
	}
	return "", nil
}

// plan makes everything ready that a run of the workflow needs.
func (t *triggerFlags) plan(ctx context.Context, tr *triggered, w *workflow.Workflow) (*ci.Plan, error) {
	start := engine.Start{
		Event: tr.event, Repository: tr.tree.Repository, Ref: tr.tree.Ref, SHA: tr.tree.SHA, Actions: tr.actions, Only: t.jobs,
		Read: func(_ context.Context, name string) (forge.File, error) { return tr.tree.Read(name) },
	}
	var err error
	if start.Cells, err = matrixFilter(t.matrix); err != nil {
		return nil, err
	}
	vars, err := namedValues(t.vars, t.varFile, t.dir, "--var")
	if err != nil {
		return nil, err
	}
	start.Vars = expr.FromStrings(vars)
	if tr.event.Match.Name == "workflow_dispatch" {
		if start.Inputs, err = t.dispatchInputs(tr.event.Match.Payload); err != nil {
			return nil, err
		}
	}
	plan, err := start.Plan(ctx, w)
	var inputs *engine.InputError
	if errors.As(err, &inputs) {
		err = withHint(err, "give inputs with --input NAME=VALUE")
	}
	return plan, err
}

// dispatchInputs gathers inputs from the event's payload, the input file and the flags, the later winning.
func (t *triggerFlags) dispatchInputs(payload expr.Value) (map[string]string, error) {
	given := map[string]string{}
	for _, p := range payload.Property("inputs").Pairs() {
		given[p.Key] = p.Value.Text()
	}
	more, err := namedValues(t.inputs, t.inputFile, t.dir, "--input")
	if err != nil {
		return nil, err
	}
	maps.Copy(given, more)
	return given, nil
}

// matrixFilter reads --matrix key:value flags.
func matrixFilter(flags []string) (map[string][]string, error) {
	cells := map[string][]string{}
	for _, f := range flags {
		key, value, ok := strings.Cut(f, ":")
		if !ok || key == "" {
			return nil, withHint(fmt.Errorf("--matrix %s: no value", f), "write it as --matrix KEY:VALUE, e.g. --matrix node:20")
		}
		cells[key] = append(cells[key], value)
	}
	return cells, nil
}

// namedValues gathers NAME=VALUE pairs: from a dotenv file first, then from flags. A flag without '=' takes the
// value from the environment, as act does. A default file (its name begins with a dot) need not exist.
func namedValues(flags []string, file, dir, flag string) (map[string]string, error) {
	out := map[string]string{}
	if file != "" {
		path := file
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		read, err := godotenv.Read(path)
		switch {
		case err == nil:
			maps.Copy(out, read)
		case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(file, "."):
		default:
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if name == "" {
			return nil, withHint(fmt.Errorf("%s %s: no name", flag, f), "write it as "+flag+" NAME=VALUE")
		}
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				return nil, withHint(fmt.Errorf("%s %s: no value, and the environment has no %s", flag, name, name),
					"write it as "+flag+" "+name+"=VALUE, or set "+name)
			}
		}
		out[name] = value
	}
	return out, nil
}

func (t *triggerFlags) completeJobs(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	tree, err := forge.OpenWorkTree(c.Context(), t.dir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	files, err := t.read(tree)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, f := range files {
		if w, err := workflow.ParseWorkflow(f.Path, f.Data); err == nil {
			for _, j := range w.Jobs {
				ids = append(ids, j.ID)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), cobra.ShellCompDirectiveNoFileComp
}

// events are the words that `penstock run` completes.
var events = []string{"push", "pull_request", "workflow_dispatch", "schedule", "repository_dispatch", "release", "pull_request_target"}
