package workflow

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/penstock-ci/penstock/internal/expr"
)

// addCorpus seeds a fuzz target with the files of testdata/parse and generated ones.
func addCorpus(f *testing.F, action bool) {
	f.Helper()
	for _, archive := range parseArchives(f) {
		for _, file := range archive.Files {
			if strings.HasSuffix(file.Name, ".yml") != action && !strings.HasSuffix(file.Name, ".want") {
				f.Add(file.Data)
			}
		}
	}
	for i := range 60 {
		if c := generateCase(rand.New(rand.NewPCG(1, uint64(i))), i); c.action == action {
			f.Add([]byte(c.text))
		}
	}
}

func FuzzParseWorkflow(f *testing.F) {
	addCorpus(f, false)
	f.Fuzz(func(t *testing.T, src []byte) {
		w, err := ParseWorkflow("ci.yml", src)
		if checkOutcome(t, src, w != nil, err) {
			return
		}
		for _, finding := range w.Warnings {
			checkFinding(t, src, finding)
		}
		for _, event := range []string{"push", "pull_request", "schedule", "workflow_run", "image_version"} {
			w.Matches(Event{Name: event, Ref: "refs/heads/main", Paths: []string{"a"}, PathsKnown: true})
		}
		_, _, _ = w.DispatchInputs(map[string]string{"a": "b"})
		if call := w.On.Find("workflow_call"); call != nil {
			_, _ = CallInputs(call, expr.Null())
		}
		checkJobs(t, w)
	})
}

// checkOutcome checks that there is either a value or a list of mistakes with places; it is true for mistakes.
func checkOutcome(t *testing.T, src []byte, parsed bool, err error) bool {
	t.Helper()
	if err == nil {
		if !parsed {
			t.Fatal("neither a value nor an error")
		}
		return false
	}
	var mistakes Errors
	if !errors.As(err, &mistakes) || len(mistakes) == 0 || parsed {
		t.Fatalf("an error of the wrong kind: %#v", err)
	}
	for _, m := range mistakes {
		checkFinding(t, src, m)
	}
	return true
}

func checkFinding(t *testing.T, src []byte, f Finding) {
	t.Helper()
	lines := strings.Count(string(src), "\n") + strings.Count(string(src), "\r") + 1
	if f.Message == "" || f.Line < 0 || f.Line > lines || f.Line > 0 && f.Column < 1 || utf8.Valid(src) && !utf8.ValidString(f.Message) {
		t.Fatalf("a finding of nowhere: %+v in %d lines", f, lines)
	}
}

// checkJobs checks what every job of a right workflow has, and that evaluating it comes to an end.
func checkJobs(t *testing.T, w *Workflow) {
	t.Helper()
	if len(w.Jobs) == 0 {
		t.Fatal("no jobs")
	}
	for _, j := range w.Jobs {
		if j.ID == "" || j.If == nil || j.If.Expr == nil || (j.Uses == "") == (j.RunsOn == nil) {
			t.Fatalf("a job that is not whole: %+v", j)
		}
		for _, n := range []*Node{j.RunsOn, j.Env, j.Outputs, j.Container, j.Services, j.With} {
			_, _ = n.Eval(expr.Env{})
		}
		if j.Strategy != nil {
			if v, err := j.Strategy.Matrix.Eval(expr.Env{}); err == nil {
				_, _ = ExpandMatrix(v)
			}
		}
		checkSteps(t, j.Steps)
	}
}

func checkSteps(t *testing.T, steps []*Step) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range steps {
		folded := strings.ToUpper(s.ContextName)
		if s.ContextName == "" || seen[folded] || s.If == nil || s.If.Expr == nil {
			t.Fatalf("a step that is not whole: %+v", s)
		}
		seen[folded] = true
		kinds := 0
		for _, is := range []bool{s.Run != nil, s.Uses != "", s.Wait != nil, s.WaitAll, s.Cancel != nil, s.Parallel != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			t.Fatalf("a step of %d kinds: %+v", kinds, s)
		}
		checkSteps(t, s.Parallel)
	}
}

func FuzzParseAction(f *testing.F) {
	addCorpus(f, true)
	f.Fuzz(func(t *testing.T, src []byte) {
		a, err := ParseAction("action.yml", src)
		if checkOutcome(t, src, a != nil, err) {
			return
		}
		for _, in := range a.Inputs {
			_, _ = in.Default.Eval(expr.Env{})
		}
		_, _ = a.Runs.Args.Eval(expr.Env{})
		checkSteps(t, a.Runs.Steps)
	})
}

// FuzzYAML holds that the reader of YAML comes to an end with a tree in its limits or one mistake in the file.
func FuzzYAML(f *testing.F) {
	for _, seed := range []string{"", "a: [b, {c: d}]\n- e", "&a [*a]", "? - a\n: b", "|2+\n   x\n\n y", "\"\\x41\\\n  b\" : 'c''d'", "%TAG ! x:\n--- !a b\n...", "a:\tb\n\tc"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		root, mistake := readYAML(src)
		if mistake != nil {
			checkFinding(t, src, *mistake)
			return
		}
		if root == nil {
			return
		}
		seen := map[*yamlNode]bool{}
		var count func(n *yamlNode)
		count = func(n *yamlNode) {
			if seen[n] {
				return
			}
			seen[n] = true
			if n.Line < 1 || n.Column < 1 || n.kind == yamlMapping && len(n.items)%2 != 0 || n.kind == yamlScalar && n.items != nil {
				t.Fatalf("a node that is not whole: %+v", n)
			}
			_, _ = n.literal()
			for _, item := range n.items {
				count(item)
			}
		}
		count(root)
		if len(seen) > maxNodes {
			t.Fatalf("%d nodes", len(seen))
		}
	})
}
