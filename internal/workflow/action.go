package workflow

import (
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// ParseAction reads an action.yml. path is what findings call it. The error is an Errors with all mistakes of the file;
// the action is nil then. The limits are those of ParseWorkflow.
func ParseAction(path string, src []byte) (*Action, error) {
	f := &findings{path: path}
	root := readDocument(f, src, actionSchema())
	if root == nil {
		return nil, f.errors
	}
	f.mute()
	c := converter{findings: f}
	a := c.action(path, root)
	if len(f.errors) > 0 {
		return nil, f.sorted()
	}
	a.Warnings = f.warnings
	return a, nil
}

func (c *converter) action(path string, root *Node) *Action {
	a := &Action{Path: path}
	var runs *Node
	for _, p := range root.pairs {
		v := p.Value
		switch p.Key.text() {
		case "name":
			a.Name = v.text()
		case "description":
			a.Description = v.text()
		case "author":
			a.Author = v.text()
		case "inputs":
			a.Inputs = c.actionInputs(v)
		case "outputs":
			a.Outputs = c.actionOutputs(v)
		case "runs":
			runs = v
		}
	}
	if runs == nil {
		c.failf(root.Pos, "Top level 'runs:' section is required for %s", path)
		return a
	}
	if runs.kind == nodeMapping {
		a.Runs = c.runs(path, runs)
	}
	return a
}

func (c *converter) actionInputs(n *Node) []ActionInput {
	var out []ActionInput
	for _, p := range n.pairs {
		in := ActionInput{Pos: p.Key.Pos, Name: p.Key.text()}
		for _, q := range p.Value.pairs {
			switch strings.ToLower(q.Key.text()) {
			case "description":
				in.Description = q.Value.text()
			case "required":
				in.Required = strings.EqualFold(q.Value.text(), "true")
			case "default":
				in.Default = q.Value
			case "deprecationmessage":
				in.Deprecation = q.Value.text()
			}
		}
		out = append(out, in)
	}
	return out
}

func (c *converter) actionOutputs(n *Node) []ActionOutput {
	var out []ActionOutput
	for _, p := range n.pairs {
		out = append(out, ActionOutput{Pos: p.Key.Pos, Name: p.Key.text(), Description: p.Value.Get("description").text(), Value: p.Value.Get("value")})
	}
	return out
}

func (c *converter) runs(path string, n *Node) Runs {
	r := Runs{
		Pos:            n.Pos,
		Using:          strings.ToLower(n.Get("using").text()),
		Main:           n.Get("main").text(),
		Pre:            n.Get("pre").text(),
		Post:           n.Get("post").text(),
		Image:          n.Get("image").text(),
		Entrypoint:     n.Get("entrypoint").text(),
		PreEntrypoint:  n.Get("pre-entrypoint").text(),
		PostEntrypoint: n.Get("post-entrypoint").text(),
		Args:           n.Get("args"),
		Env:            n.Get("env"),
		PreIf:          c.runsCondition(n.Get("pre-if")),
		PostIf:         c.runsCondition(n.Get("post-if")),
	}
	if steps := n.Get("steps"); steps != nil {
		r.Steps = c.steps(steps)
	}
	c.checkRuns(path, n, &r)
	return r
}

// checkRuns checks that runs has what its kind needs.
func (c *converter) checkRuns(path string, n *Node, r *Runs) {
	switch r.Using {
	case "docker":
		if r.Image == "" {
			c.failf(n.Pos, "You are using a Container Action but an image is not provided in %s.", path)
		}
	case "node12", "node16", "node20", "node24":
		if r.Main == "" {
			c.failf(n.Pos, "You are using a JavaScript Action but there is not an entry JavaScript file provided in %s.", path)
		}
	case "composite":
		if n.Get("steps") == nil {
			c.failf(n.Pos, "You are using a composite action but there are no steps provided in %s.", path)
		}
	case "":
		c.fail(n.Pos, "Missing 'using' value. 'using' requires 'composite', 'docker', 'node12', 'node16', 'node20' or 'node24'.")
	default:
		c.failf(n.Get("using").Pos, "'using: %s' is not supported, use 'docker', 'node12', 'node16', 'node20' or 'node24' instead.", n.Get("using").text())
	}
}

// runsCondition reads a pre-if or post-if, which stands for itself: nothing is put round it.
func (c *converter) runsCondition(n *Node) *Condition {
	if n == nil || n.text() == "" {
		return nil
	}
	names := conditionNames("github inputs strategy matrix steps job runner env vars needs secrets", "always", "cancelled", "failure", "success", "hashFiles")
	e, err := expr.Parse(n.text(), names)
	if err != nil {
		c.fail(n.Pos, faultMessage(err))
		return nil
	}
	return &Condition{Pos: n.Pos, Source: n.source, Expr: e}
}
