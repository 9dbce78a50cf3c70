package workflow

import "strings"

func (c *converter) steps(n *Node) []*Step {
	ids := &idBuilder{}
	steps := make([]*Step, 0, len(n.items))
	for _, item := range n.items {
		steps = append(steps, c.step(item, ids))
	}
	for _, s := range steps {
		s.ContextName = s.ID
		if s.ID == "" {
			s.ContextName = ids.build("__" + defaultID(s))
			if s.ContextName == "" {
				c.fail(s.Pos, "Unable to create a unique name")
			}
		}
	}
	return steps
}

func (c *converter) step(n *Node, ids *idBuilder) *Step {
	s := &Step{Pos: n.Pos}
	var condition *Node
	for _, p := range n.pairs {
		v := p.Value
		switch p.Key.text() {
		case "id":
			s.ID = v.text()
			if s.ID != "" {
				if message := ids.know(s.ID); message != "" {
					c.fail(v.Pos, message)
				}
			}
		case "name":
			s.Name = v
		case "if":
			condition = v
		case "env":
			s.Env = v
		case "continue-on-error":
			s.ContinueOnError = v
		case "timeout-minutes":
			s.TimeoutMinutes = v
		case "run":
			s.Run = v
		case "shell":
			s.Shell = v
		case "working-directory":
			s.WorkingDirectory = v
		case "uses":
			c.checkUses(v)
			s.Uses, s.UsesPos = v.text(), v.Pos
		case "with":
			s.With = v
		case "background":
			s.Background = v.isTrue()
		case "wait":
			s.Wait = v.names()
			for _, target := range s.Wait {
				c.checkTarget(target, s.ID, ids)
			}
		case "wait-all":
			s.WaitAll = true
			if v.kind == nodeLiteral && !v.value.IsNull() && !v.value.Truthy() {
				c.fail(v.Pos, "The value of 'wait-all' must be true or omitted")
			}
		case "cancel":
			s.Cancel = &Name{v.Pos, v.text()}
			c.checkTarget(*s.Cancel, s.ID, ids)
		case "parallel":
			s.Parallel = c.parallel(n, v)
		}
	}
	s.If = c.condition(condition, n.Pos, stepConditionNames())
	return s
}

// checkUses checks the form of the name of an action.
func (c *converter) checkUses(n *Node) {
	uses := n.text()
	if strings.HasPrefix(uses, dockerPrefix) || isLocal(uses) || isSelfRepository(uses) || n.kind != nodeLiteral {
		return
	}
	if actionName(uses) == "" {
		c.failf(n.Pos, "Expected format {org}/{repo}[/path]@ref. Actual '%s'", uses)
	}
}

func isLocal(uses string) bool {
	return strings.HasPrefix(uses, "./") || strings.HasPrefix(uses, `.\`)
}

// isSelfRepository reports whether an action is in the repository of the file that uses it: $/path.
func isSelfRepository(uses string) bool {
	path, ok := strings.CutPrefix(uses, "$/")
	return ok && strings.Trim(path, "/") != ""
}

// actionName is owner/repo of owner/repo/path@ref, "" where the form is another.
func actionName(uses string) string {
	path, ref, ok := strings.Cut(uses, "@")
	if !ok || ref == "" || strings.Contains(ref, "@") {
		return ""
	}
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' })
	if len(parts) < 2 {
		return ""
	}
	return parts[0] + "/" + parts[1]
}

// checkTarget checks the ID of a step that is waited for or cancelled: a step further up.
func (c *converter) checkTarget(target Name, own string, ids *idBuilder) {
	switch {
	case strings.HasPrefix(target.Text, "__"):
		c.failf(target.Pos, "The identifier '%s' is invalid. IDs starting with '__' are reserved.", target.Text)
	case own != "" && strings.EqualFold(target.Text, own):
		c.failf(target.Pos, "Step '%s' cannot reference itself", own)
	case !ids.taken[strings.ToUpper(target.Text)]:
		c.failf(target.Pos, "Step references unknown step ID '%s'", target.Text)
	}
}

// parallel reads the steps of a group, which may only run something.
func (c *converter) parallel(step, n *Node) []*Step {
	steps := c.steps(n)
	for i, s := range steps {
		switch {
		case n.items[i].Get("background") != nil:
			c.fail(step.Pos, "'background' is not allowed inside a parallel block. Steps in a parallel block are automatically run as background steps.")
		case s.Wait != nil:
			c.fail(step.Pos, "'wait' is not allowed inside a parallel block.")
		case s.WaitAll:
			c.fail(step.Pos, "'wait-all' is not allowed inside a parallel block.")
		case s.Cancel != nil:
			c.fail(step.Pos, "'cancel' is not allowed inside a parallel block.")
		case s.Parallel != nil:
			c.fail(step.Pos, "Nested 'parallel' blocks are not allowed.")
		}
	}
	return steps
}

// defaultID is what a step without an ID is called after.
func defaultID(s *Step) string {
	switch {
	case s.Wait != nil:
		return "wait"
	case s.WaitAll:
		return "wait-all"
	case s.Cancel != nil:
		return "cancel"
	case s.Parallel != nil:
		return "parallel"
	case s.Run != nil || s.Uses == "":
		return "run"
	case isLocal(s.Uses):
		return "self"
	case isSelfRepository(s.Uses):
		return "selfRepository"
	}
	if image, ok := strings.CutPrefix(s.Uses, dockerPrefix); ok && image != "" {
		return image
	}
	if name := actionName(s.Uses); name != "" {
		return name
	}
	return "run"
}
