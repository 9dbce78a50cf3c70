package workflow

import "github.com/penstock-ci/penstock/internal/expr"

// ParseWorkflow reads a workflow file. path is what findings call it. The error is an Errors with all mistakes of the
// file; the workflow is nil then. What is only suspicious is in Workflow.Warnings.
//
// A file may have 1,048,576 characters, 50 levels and 50,000 YAML nodes with aliases followed; these are GitHub's limits.
func ParseWorkflow(path string, src []byte) (*Workflow, error) {
	f := &findings{path: path}
	root := readDocument(f, src, workflowSchema())
	if root == nil {
		return nil, f.errors
	}
	f.mute()
	c := converter{findings: f}
	w := c.workflow(path, src, root)
	if len(f.errors) > 0 {
		return nil, f.sorted()
	}
	w.Warnings = f.warnings
	return w, nil
}

// converter makes the model out of nodes. After a mistake of the reader it goes on with what is right, so that all
// mistakes of a file come at once.
type converter struct{ *findings }

func (c *converter) workflow(path string, src []byte, root *Node) *Workflow {
	w := &Workflow{Path: path, Source: src}
	for _, p := range root.pairs {
		switch p.Key.value.Text() {
		case "name":
			w.Name = p.Value.text()
		case "run-name":
			w.RunName = p.Value
		case "on":
			w.On = c.triggers(p.Value)
		case "permissions":
			w.Permissions = c.permissions(p.Value)
		case "env":
			w.Env = p.Value
		case "defaults":
			w.Defaults = c.defaults(p.Value)
		case "concurrency":
			c.concurrency(p.Value)
			w.Concurrency = p.Value
		case "jobs":
			w.Jobs = c.jobs(p.Value)
		}
	}
	return w
}

// text is a literal scalar as a string, "" for the rest.
func (n *Node) text() string {
	if n == nil || n.kind != nodeLiteral {
		return ""
	}
	return n.value.Text()
}

// isText reports whether a node is a literal string.
func (n *Node) isText() bool {
	return n != nil && n.kind == nodeLiteral && n.value.Kind() == expr.KindString
}

// texts is a string or a list of strings.
func (n *Node) texts() []string {
	if n == nil || n.kind == nodeMapping {
		return nil
	}
	if n.kind != nodeSequence {
		return []string{n.text()}
	}
	out := make([]string, 0, len(n.items))
	for _, item := range n.items {
		out = append(out, item.text())
	}
	return out
}

// names is texts with positions.
func (n *Node) names() []Name {
	if n == nil || n.kind == nodeMapping {
		return nil
	}
	if n.kind != nodeSequence {
		return []Name{{n.Pos, n.text()}}
	}
	out := make([]Name, 0, len(n.items))
	for _, item := range n.items {
		out = append(out, Name{item.Pos, item.text()})
	}
	return out
}

// isTrue reports whether a node is the literal true.
func (n *Node) isTrue() bool {
	return n != nil && n.kind == nodeLiteral && n.value.Kind() == expr.KindBoolean && n.value.Truthy()
}

func (c *converter) defaults(n *Node) *Defaults {
	run := n.Get("run")
	return &Defaults{Shell: run.Get("shell"), WorkingDirectory: run.Get("working-directory")}
}

// permissionScopes are the scopes that read-all and write-all speak of, with what each can have at most.
func (c *converter) permissions(n *Node) *Permissions {
	p := &Permissions{Pos: n.Pos, Default: "none"}
	switch n.text() {
	case "read-all":
		p.Default = "read"
		return p
	case "write-all":
		p.Default = "write"
		return p
	}
	p.Scopes = make(map[string]string, len(n.pairs))
	for _, pair := range n.pairs {
		p.Scopes[pair.Key.text()] = pair.Value.text()
	}
	return p
}

// checkKeys refuses expressions as keys where GitHub must know the keys before anything runs.
func (c *converter) checkKeys(n *Node, what string) {
	for _, p := range n.pairs {
		switch p.Key.kind {
		case nodeInsert:
			c.fail(p.Key.Pos, unexpectedType("insert", what, "string"))
		case nodeExpression:
			c.fail(p.Key.Pos, unexpectedType("expression", what, "string"))
		}
	}
}

// maxGroup is how many UTF-16 units the name of a concurrency group may have.
const maxGroup = 400

func (c *converter) concurrency(n *Node) {
	c.checkKeys(n, "concurrency key")
	group := n
	if n.kind == nodeMapping {
		group = n.Get("group")
	}
	if group.isText() && utf16Len(group.text()) > maxGroup {
		c.fail(n.Pos, "Concurrency group name must be less than 400 characters")
	}
}
