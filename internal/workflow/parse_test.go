package workflow

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the parser says into testdata/parse")

// TestParse reads the files of testdata/parse: NAME.yml is a workflow, NAME.action an action.yml, and NAME.want what
// the parser makes of it, mistakes and warnings first.
func TestParse(t *testing.T) {
	for path, archive := range parseArchives(t) {
		want := map[string]string{}
		for _, f := range archive.Files {
			if name, ok := strings.CutSuffix(f.Name, ".want"); ok {
				want[name] = string(f.Data)
			}
		}
		updated := &txtar.Archive{Comment: archive.Comment}
		for _, f := range archive.Files {
			name, extension, _ := strings.Cut(f.Name, ".")
			if extension == "want" {
				continue
			}
			got := describe(f.Name, f.Data)
			updated.Files = append(updated.Files, f, txtar.File{Name: name + ".want", Data: []byte(got)})
			if got != want[name] && !*update {
				t.Errorf("%s: %s:\n got\n%s\nwant\n%s", path, f.Name, got, want[name])
			}
		}
		if *update {
			if err := os.WriteFile(path, txtar.Format(updated), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func parseArchives(t testing.TB) map[string]*txtar.Archive {
	t.Helper()
	paths, err := filepath.Glob("testdata/parse/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	archives := map[string]*txtar.Archive{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives[path] = txtar.Parse(data)
	}
	return archives
}

// describe says in lines what a file is.
func describe(name string, data []byte) string {
	var b bytes.Buffer
	var err error
	var warnings []Finding
	if strings.HasSuffix(name, ".action") {
		var a *Action
		if a, err = ParseAction("action.yml", data); err == nil {
			warnings = a.Warnings
			describeAction(&b, a)
		}
	} else {
		var w *Workflow
		if w, err = ParseWorkflow("ci.yml", data); err == nil {
			warnings = w.Warnings
			describeWorkflow(&b, w)
		}
	}
	var head strings.Builder
	var mistakes Errors
	if errors.As(err, &mistakes) {
		fmt.Fprintln(&head, mistakes.Error())
	}
	for _, f := range warnings {
		fmt.Fprintf(&head, "warning: %s\n", f)
	}
	return head.String() + b.String()
}

func describeWorkflow(b *bytes.Buffer, w *Workflow) {
	fmt.Fprintf(b, "workflow %q%s\n", w.Name, fields("run-name", w.RunName, "env", w.Env, "concurrency", w.Concurrency)+permissionsText(w.Permissions)+defaultsText(w.Defaults))
	for _, t := range w.On {
		describeTrigger(b, t)
	}
	for _, j := range w.Jobs {
		fmt.Fprintf(b, "job %s @%d:%d", j.ID, j.Line, j.Column)
		for _, n := range j.Needs {
			fmt.Fprintf(b, " needs=%s", n.Text)
		}
		fmt.Fprintf(b, " if=[%s]%s%s", j.If.Expr.Source(), permissionsText(j.Permissions), defaultsText(j.Defaults))
		fmt.Fprint(b, fields("name", j.Name, "runs-on", j.RunsOn, "environment", j.Environment, "concurrency", j.Concurrency, "outputs", j.Outputs,
			"env", j.Env, "container", j.Container, "services", j.Services, "snapshot", j.Snapshot, "timeout", j.TimeoutMinutes,
			"cancel-timeout", j.CancelTimeout, "continue-on-error", j.ContinueOnError, "with", j.With, "secrets", j.Secrets))
		if j.Strategy != nil {
			fmt.Fprint(b, fields("matrix", j.Strategy.Matrix, "fail-fast", j.Strategy.FailFast, "max-parallel", j.Strategy.MaxParallel))
		}
		if j.Uses != "" {
			fmt.Fprintf(b, " uses=%s inherit=%t", j.Uses, j.InheritSecrets)
		}
		fmt.Fprintln(b)
		describeSteps(b, j.Steps, "  ")
	}
}

func describeSteps(b *bytes.Buffer, steps []*Step, indent string) {
	for _, s := range steps {
		fmt.Fprintf(b, "%sstep %s @%d:%d if=[%s]", indent, s.ContextName, s.Line, s.Column, s.If.Expr.Source())
		fmt.Fprint(b, fields("name", s.Name, "env", s.Env, "continue-on-error", s.ContinueOnError, "timeout", s.TimeoutMinutes, "run", s.Run,
			"shell", s.Shell, "working-directory", s.WorkingDirectory, "with", s.With))
		if s.Uses != "" {
			fmt.Fprintf(b, " uses=%s", s.Uses)
		}
		for _, w := range s.Wait {
			fmt.Fprintf(b, " wait=%s", w.Text)
		}
		if s.Cancel != nil {
			fmt.Fprintf(b, " cancel=%s", s.Cancel.Text)
		}
		if s.WaitAll {
			fmt.Fprint(b, " wait-all")
		}
		if s.Background {
			fmt.Fprint(b, " background")
		}
		fmt.Fprintln(b)
		describeSteps(b, s.Parallel, indent+"  ")
	}
}

func describeTrigger(b *bytes.Buffer, t Trigger) {
	fmt.Fprintf(b, "on %s @%d:%d", t.Event, t.Line, t.Column)
	for _, f := range []struct {
		name string
		list []string
	}{
		{"types", t.Types}, {"branches", t.Branches}, {"branches-ignore", t.BranchesIgnore}, {"tags", t.Tags}, {"tags-ignore", t.TagsIgnore},
		{"paths", t.Paths}, {"paths-ignore", t.PathsIgnore}, {"workflows", t.Workflows}, {"versions", t.Versions}, {"names", t.Names},
	} {
		if f.list != nil {
			fmt.Fprintf(b, " %s=%q", f.name, f.list)
		}
	}
	for _, s := range t.Schedules {
		fmt.Fprintf(b, " cron=%q zone=%q", s.Cron, s.Timezone)
	}
	fmt.Fprintln(b)
	for _, in := range t.Inputs {
		fmt.Fprintf(b, "  input %s type=%s required=%t options=%q%s\n", in.Name, in.Type, in.Required, in.Options, fields("default", in.Default))
	}
	for _, s := range t.Secrets {
		fmt.Fprintf(b, "  secret %s required=%t\n", s.Name, s.Required)
	}
	for _, o := range t.Outputs {
		fmt.Fprintf(b, "  output %s%s\n", o.Name, fields("value", o.Value))
	}
}

func describeAction(b *bytes.Buffer, a *Action) {
	fmt.Fprintf(b, "action %q by %q: %s\n", a.Name, a.Author, a.Description)
	for _, in := range a.Inputs {
		fmt.Fprintf(b, "input %s required=%t%s %s\n", in.Name, in.Required, fields("default", in.Default), in.Deprecation)
	}
	for _, o := range a.Outputs {
		fmt.Fprintf(b, "output %s%s\n", o.Name, fields("value", o.Value))
	}
	r := a.Runs
	fmt.Fprintf(b, "runs %s main=%q pre=%q post=%q image=%q entrypoint=%q pre-entrypoint=%q post-entrypoint=%q%s", r.Using, r.Main, r.Pre, r.Post,
		r.Image, r.Entrypoint, r.PreEntrypoint, r.PostEntrypoint, fields("args", r.Args, "env", r.Env))
	for _, c := range []*Condition{r.PreIf, r.PostIf} {
		if c != nil {
			fmt.Fprintf(b, " if=[%s]", c.Expr.Source())
		}
	}
	fmt.Fprintln(b)
	describeSteps(b, r.Steps, "  ")
}

// fields writes the nodes that there are, by name and node in turns.
func fields(pairs ...any) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if n := pairs[i+1].(*Node); n != nil {
			fmt.Fprintf(&b, " %s=%s", pairs[i], nodeText(n))
		}
	}
	return b.String()
}

// nodeText writes a node in one line: strings in quotes, expressions in braces.
func nodeText(n *Node) string {
	var parts []string
	switch n.kind {
	case nodeSequence:
		for _, item := range n.items {
			parts = append(parts, nodeText(item))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case nodeMapping:
		for _, p := range n.pairs {
			key := p.Key.text()
			if p.Key.kind != nodeLiteral {
				key = p.Key.source
			}
			parts = append(parts, key+":"+nodeText(p.Value))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case nodeExpression:
		return "${" + n.template.Expr().Source() + "}"
	case nodeInsert:
		return "${insert}"
	}
	if n.Kind() == "string" {
		return fmt.Sprintf("%q", n.text())
	}
	if n.Kind() == "null" {
		return "null"
	}
	return n.text()
}

func permissionsText(p *Permissions) string {
	if p == nil {
		return ""
	}
	text := " permissions=" + p.Default
	for _, k := range slices.Sorted(maps.Keys(p.Scopes)) {
		text += "," + k + ":" + p.Scopes[k]
	}
	return text
}

func defaultsText(d *Defaults) string {
	if d == nil {
		return ""
	}
	return fields("shell", d.Shell, "directory", d.WorkingDirectory)
}
