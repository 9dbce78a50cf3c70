package workflow

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/penstock-ci/penstock/internal/npmtest"
)

// oracleCase is a file to be read by this package and by GitHub's.
type oracleCase struct {
	action bool
	text   string
}

// answer is what a parser makes of a file. Trees and models are JSON values, as the oracle writes them.
type answer struct {
	Errors []mistake `json:"errors"` // of reading
	Late   []mistake `json:"late"`   // of converting what was read
	Tree   any       `json:"tree"`   // nil if the file is no YAML
	Model  any       `json:"model"`
	Crash  string    `json:"crash"`
}

// mistake is line, column and message.
type mistake struct {
	Pos
	message string
}

func (m mistake) String() string { return fmt.Sprintf("%d:%d %s", m.Line, m.Column, m.message) }

func (m *mistake) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&m.Line, &m.Column, &m.message})
}

// askOracle gives the oracle's answers, from two processes.
func askOracle(t *testing.T, cases []oracleCase) []answer {
	t.Helper()
	dir := npmtest.Install(t, "testdata/oracle")
	script, err := os.ReadFile("testdata/oracle/oracle.mjs")
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]answer, len(cases))
	half := len(cases) / 2
	failed := make(chan error, 2)
	for _, span := range [][2]int{{0, half}, {half, len(cases)}} {
		go func() {
			failed <- runOracle(dir, string(script), cases[span[0]:span[1]], answers[span[0]:span[1]])
		}()
	}
	if err := errors.Join(<-failed, <-failed); err != nil {
		t.Fatal(err)
	}
	return answers
}

func runOracle(dir, script string, cases []oracleCase, answers []answer) error {
	node := exec.Command("node", "--input-type=module", "-e", script)
	node.Dir = dir
	var complaints bytes.Buffer
	node.Stderr = &complaints
	in, err := node.StdinPipe()
	if err != nil {
		return err
	}
	out, err := node.StdoutPipe()
	if err != nil {
		return err
	}
	if err := node.Start(); err != nil {
		return fmt.Errorf("the oracle needs node 20 or later: %w", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- sendCases(in, cases) }()
	readErr := readAnswers(out, answers)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out) // lets node end
	}
	if err := errors.Join(readErr, <-sent, node.Wait()); err != nil {
		return fmt.Errorf("%w\n%s", err, complaints.String())
	}
	return nil
}

func sendCases(to io.WriteCloser, cases []oracleCase) error {
	w := bufio.NewWriter(to)
	lines := json.NewEncoder(w)
	var err error
	for _, c := range cases {
		kind := "w"
		if c.action {
			kind = "a"
		}
		err = errors.Join(err, lines.Encode(kind+c.text))
	}
	return errors.Join(err, w.Flush(), to.Close())
}

func readAnswers(from io.Reader, answers []answer) error {
	lines := json.NewDecoder(bufio.NewReader(from))
	for i := range answers {
		if err := lines.Decode(&answers[i]); err != nil {
			return fmt.Errorf("answer %d of the oracle: %w", i, err)
		}
	}
	return nil
}

// ourAnswer reads a file with this package, into the oracle's form.
func ourAnswer(c oracleCase) answer {
	f := &findings{path: "f"}
	root := workflowSchema()
	if c.action {
		root = actionSchema()
	}
	tree := readDocument(f, []byte(c.text), root)
	a := answer{Errors: mistakesOf(f.errors)}
	if tree == nil {
		return a
	}
	early := len(f.errors)
	f.mute()
	conv := converter{findings: f}
	a.Tree = treeOf(tree)
	if c.action {
		a.Model = modelOfAction(conv.action("f", tree))
	} else {
		a.Model = modelOfWorkflow(conv.workflow("f", nil, tree))
	}
	a.Late = mistakesOf(f.errors[early:])
	return a
}

func mistakesOf(list Errors) []mistake {
	out := make([]mistake, len(list))
	for i, f := range list {
		out[i] = mistake{f.Pos, f.Message}
	}
	return out
}

// treeOf writes a node as oracle.mjs does.
func treeOf(n *Node) any {
	at := func(kind string, v any) any { return []any{float64(n.Line), float64(n.Column), kind, v} }
	switch n.kind {
	case nodeSequence:
		items := make([]any, 0, len(n.items))
		for _, item := range n.items {
			items = append(items, treeOf(item))
		}
		return at("sequence", items)
	case nodeMapping:
		items := make([]any, 0, 2*len(n.pairs))
		for _, p := range n.pairs {
			items = append(items, treeOf(p.Key), treeOf(p.Value))
		}
		return at("mapping", items)
	case nodeExpression:
		return at("expression", n.template.Expr().Source())
	case nodeInsert:
		return at("expression", "insert")
	}
	if n.Kind() == "number" {
		f := n.value.Number()
		if f != f || f-f != 0 {
			return at("number", n.value.Text())
		}
		return at("number", f)
	}
	return at(n.Kind(), n.value.Text())
}

// plainTree is a tree's kind and value without its position.
func plainTree(n *Node) any {
	if n == nil {
		return nil
	}
	return treeOf(n).([]any)[2:]
}

func modelOfWorkflow(w *Workflow) any {
	jobs := make([]any, 0, len(w.Jobs))
	for _, j := range w.Jobs {
		name := plainTree(j.Name)
		if j.Name == nil || j.Name.isText() && j.Name.text() == "" {
			name = []any{"string", j.ID}
		}
		needs := make([]any, 0, len(j.Needs))
		for _, n := range j.Needs {
			needs = append(needs, n.Text)
		}
		jobs = append(jobs, map[string]any{
			"id": j.ID, "name": name, "needs": needs, "if": conditionOf(j.If), "uses": j.Uses,
			"inherit": j.InheritSecrets, "steps": modelOfSteps(j.Steps),
		})
	}
	return map[string]any{"events": modelOfTriggers(w.On), "jobs": jobs}
}

func conditionOf(c *Condition) any {
	if c == nil || c.Expr == nil {
		return "success()"
	}
	return c.Expr.Source()
}

func modelOfSteps(steps []*Step) any {
	out := make([]any, 0, len(steps))
	for _, s := range steps {
		wait := make([]any, 0, len(s.Wait))
		for _, n := range s.Wait {
			wait = append(wait, n.Text)
		}
		cancel := ""
		if s.Cancel != nil {
			cancel = s.Cancel.Text
		}
		condition := conditionOf(s.If)
		if s.Run == nil && s.Uses == "" {
			condition = ""
		}
		out = append(out, map[string]any{
			"id": s.ContextName, "if": condition, "uses": s.Uses, "run": plainTree(s.Run), "background": s.Background,
			"wait": wait, "waitAll": s.WaitAll, "cancel": cancel, "parallel": modelOfSteps(s.Parallel),
		})
	}
	return out
}

func modelOfTriggers(on Triggers) any {
	events := map[string]any{}
	for _, t := range on {
		e := map[string]any{}
		for name, list := range map[string][]string{
			"types": t.Types, "branches": t.Branches, "branches-ignore": t.BranchesIgnore, "tags": t.Tags, "tags-ignore": t.TagsIgnore,
			"paths": t.Paths, "paths-ignore": t.PathsIgnore, "workflows": t.Workflows, "names": t.Names, "versions": t.Versions,
		} {
			if list != nil {
				e[name] = stringsOf(list)
			}
		}
		if t.Schedules != nil {
			list := []any{}
			for _, s := range t.Schedules {
				one := map[string]any{"cron": s.Cron}
				if s.Timezone != "" {
					one["timezone"] = s.Timezone
				}
				list = append(list, one)
			}
			events[t.Event] = list
			continue
		}
		if t.Inputs != nil {
			e["inputs"] = modelOfInputs(t.Inputs)
		}
		if t.Secrets != nil {
			secrets := map[string]any{}
			for _, s := range t.Secrets {
				one := map[string]any{}
				if s.Description != "" {
					one["description"] = s.Description
				}
				if s.Required {
					one["required"] = true
				}
				secrets[s.Name] = one
			}
			e["secrets"] = secrets
		}
		events[t.Event] = e
	}
	return events
}

func modelOfInputs(list []Input) any {
	inputs := map[string]any{}
	for _, in := range list {
		one := map[string]any{"type": in.Type}
		if in.Description != "" {
			one["description"] = in.Description
		}
		if in.Required {
			one["required"] = true
		}
		switch d := in.Default; {
		case in.Type == "boolean" && d.Kind() == "boolean":
			one["default"] = d.isTrue()
		case in.Type != "boolean" && in.Type != "number" && d.isText():
			one["default"] = d.text()
		}
		if in.Options != nil {
			one["options"] = stringsOf(in.Options)
		}
		inputs[in.Name] = one
	}
	return inputs
}

func stringsOf(list []string) []any {
	out := make([]any, 0, len(list))
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func modelOfAction(a *Action) any {
	inputs := make([]any, 0, len(a.Inputs))
	for _, in := range a.Inputs {
		inputs = append(inputs, []any{in.Name, in.Required})
	}
	outputs := make([]any, 0, len(a.Outputs))
	for _, o := range a.Outputs {
		outputs = append(outputs, o.Name)
	}
	return map[string]any{
		"name": a.Name, "inputs": inputs, "outputs": outputs, "using": a.Runs.Using, "steps": modelOfSteps(a.Runs.Steps),
	}
}
