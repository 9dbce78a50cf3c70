package ci

import (
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const (
	// maxLevels is how many workflows may call each other in a row, the root included (GitHub's limit).
	maxLevels = 10
	// maxCalled is how many different workflows a run may call (GitHub's limit).
	maxCalled = 50
	// maxFaults bounds the mistakes that one plan reports.
	maxFaults = 100
)

const eventCall = "workflow_call"

// checker looks at all calls of a plan.
type checker struct {
	files  *files
	faults workflow.Errors
	seen   map[string]bool // files checked under the same permissions and level
}

// checkCalls reports the mistakes in the calls between the files of a plan.
func checkCalls(f *files) workflow.Errors {
	c := checker{files: f, seen: map[string]bool{}}
	c.workflow(f.root, []*file{f.root}, nil)
	if n := len(f.byUses) - 1; n > maxCalled && len(c.faults) == 0 {
		c.fault(f.root, workflow.Pos{Line: 1, Column: 1}, "A workflow may call at most %d others, directly and indirectly; it calls %d", maxCalled, n)
	}
	return c.faults
}

// workflow checks the calls of a file that was reached through path. allowed is what the caller lets it have, nil for
// whatever is the default.
func (c *checker) workflow(f *file, path []*file, allowed *workflow.Permissions) {
	key := fmt.Sprintf("%d %s %s", len(path), f.source.Uses, describe(allowed))
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	for _, n := range f.nodes {
		if n.def.Uses != "" && len(c.faults) < maxFaults {
			c.call(f, n.def, path, allowed)
		}
	}
}

func (c *checker) call(f *file, call *workflow.Job, path []*file, allowed *workflow.Permissions) {
	to := c.files.called(f.source.Uses, call)
	if to == nil {
		c.fault(f, call.UsesPos, "error parsing called workflow \"%s\" -> \"%s\" : workflow was not found.", f.workflow.Path, call.Uses)
		return
	}
	for _, g := range path {
		if g == to {
			c.fault(f, call.UsesPos, "The workflow '%s' calls itself: %s", to.workflow.Path, chain(append(path, to)))
			return
		}
	}
	if len(path) >= maxLevels {
		c.fault(f, call.UsesPos, "Nested reusable workflow depth exceeded %d.", maxLevels-1)
		return
	}
	trigger := to.workflow.On.Find(eventCall)
	if trigger == nil {
		c.calledFault(f, call, call.UsesPos, "%s key is not defined in the referenced workflow.", eventCall)
		return
	}
	c.inputs(f, call, trigger)
	c.secrets(f, call, trigger)
	granted := effective(allowed, f.workflow.Permissions, call.Permissions)
	c.permissions(f, call, to, granted)
	c.workflow(to, append(path[:len(path):len(path)], to), granted)
}

func (c *checker) inputs(f *file, call *workflow.Job, trigger *workflow.Trigger) {
	given := literalKeys(call.With)
	dynamic := call.With.Kind() == "expression" || len(given) < len(call.With.Pairs())
	for _, in := range trigger.Inputs {
		value, ok := given[strings.ToLower(in.Name)]
		if !ok {
			if in.Required && !dynamic {
				c.calledFault(f, call, call.UsesPos, "Input %s is required, but not provided while calling.", in.Name)
			}
			continue
		}
		if value.IsLiteral() && !fits(in.Type, value.Literal()) {
			c.calledFault(f, call, value.Pos, "Unexpected value '%s'", value.Literal().Text())
		}
	}
	for _, p := range call.With.Pairs() {
		if p.Key.IsLiteral() && !hasInput(trigger, p.Key.Literal().Text()) {
			c.calledFault(f, call, pos(p.Value, p.Key), "Invalid input, %s is not defined in the referenced workflow.", p.Key.Literal().Text())
		}
	}
}

func (c *checker) secrets(f *file, call *workflow.Job, trigger *workflow.Trigger) {
	if call.InheritSecrets {
		return
	}
	given := literalKeys(call.Secrets)
	declared := map[string]bool{}
	for _, s := range trigger.Secrets {
		declared[strings.ToLower(s.Name)] = true
		if _, ok := given[strings.ToLower(s.Name)]; !ok && s.Required {
			c.calledFault(f, call, call.UsesPos, "Secret %s is required, but not provided while calling.", s.Name)
		}
	}
	for _, p := range call.Secrets.Pairs() {
		if p.Key.IsLiteral() && !declared[strings.ToLower(p.Key.Literal().Text())] {
			c.calledFault(f, call, pos(p.Value, p.Key), "Invalid secret, %s is not defined in the referenced workflow.", p.Key.Literal().Text())
		}
	}
}

func (c *checker) permissions(f *file, call *workflow.Job, to *file, granted *workflow.Permissions) {
	if granted == nil {
		return
	}
	if asked, allowed := excess(to.workflow.Permissions, granted); asked != "" {
		c.calledFault(f, call, call.Pos, "Error calling workflow '%s'. The workflow is requesting '%s', but is only allowed '%s'.", call.Uses, asked, allowed)
	}
	for _, n := range to.nodes {
		if asked, allowed := excess(n.def.Permissions, granted); asked != "" {
			c.calledFault(f, call, call.Pos, "Error calling workflow '%s'. The nested job '%s' is requesting '%s', but is only allowed '%s'.", call.Uses, n.def.ID, asked, allowed)
		}
	}
}

func (c *checker) fault(f *file, at workflow.Pos, format string, args ...any) {
	c.faults = append(c.faults, workflow.Finding{Pos: at, Path: f.workflow.Path, Message: fmt.Sprintf(format, args...), Severity: "error"})
}

// calledFault is a mistake that a call and what it calls make together; it stands where the caller wrote it.
func (c *checker) calledFault(f *file, call *workflow.Job, at workflow.Pos, format string, args ...any) {
	if at.Line == 0 {
		at = call.UsesPos
	}
	c.fault(f, at, format, args...)
}

func chain(path []*file) string {
	var names []string
	for _, f := range path {
		names = append(names, f.workflow.Path)
	}
	return strings.Join(names, " -> ")
}

func literalKeys(mapping *workflow.Node) map[string]*workflow.Node {
	out := map[string]*workflow.Node{}
	for _, p := range mapping.Pairs() {
		if p.Key.IsLiteral() {
			out[strings.ToLower(p.Key.Literal().Text())] = p.Value
		}
	}
	return out
}

func hasInput(t *workflow.Trigger, name string) bool {
	for _, in := range t.Inputs {
		if strings.EqualFold(in.Name, name) {
			return true
		}
	}
	return false
}

func pos(nodes ...*workflow.Node) workflow.Pos {
	for _, n := range nodes {
		if n != nil && n.Line > 0 {
			return n.Pos
		}
	}
	return workflow.Pos{}
}

// fits reports whether a literal may be given for an input: strings take any scalar, the rest only their own kind.
func fits(kind string, v expr.Value) bool {
	switch kind {
	case "boolean":
		return v.Kind() == expr.KindBoolean
	case "number":
		return v.Kind() == expr.KindNumber
	default:
		return v.Kind() != expr.KindArray && v.Kind() != expr.KindObject
	}
}
