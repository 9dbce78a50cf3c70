package workflow

import (
	"strings"
)

func (c *converter) jobs(n *Node) []*Job {
	jobs := make([]*Job, 0, len(n.pairs))
	for _, p := range n.pairs {
		if p.Key.kind == nodeLiteral {
			jobs = append(jobs, c.job(p.Key, p.Value))
		}
	}
	if n.kind == nodeMapping {
		c.checkNeeds(n.Pos, jobs)
	}
	return jobs
}

func (c *converter) job(key, n *Node) *Job {
	j := &Job{Pos: key.Pos, ID: key.text()}
	if message := new(idBuilder).know(j.ID); message != "" {
		c.fail(key.Pos, message)
	}
	var condition *Node
	for _, p := range n.pairs {
		v := p.Value
		switch p.Key.text() {
		case "name":
			j.Name = v
		case "needs":
			j.Needs = v.names()
		case "if":
			condition = v
		case "strategy":
			j.Strategy = c.strategy(v)
		case "runs-on":
			c.checkRunsOn(v)
			j.RunsOn = v
		case "permissions":
			j.Permissions = c.permissions(v)
		case "environment":
			j.Environment = v
		case "concurrency":
			c.concurrency(v)
			j.Concurrency = v
		case "outputs":
			j.Outputs = v
		case "env":
			j.Env = v
		case "defaults":
			j.Defaults = c.defaults(v)
		case "container":
			c.checkContainer(v, false)
			j.Container = v
		case "services":
			c.checkServices(v)
			j.Services = v
		case "snapshot":
			c.checkSnapshot(v)
			j.Snapshot = v
		case "timeout-minutes":
			j.TimeoutMinutes = v
		case "cancel-timeout-minutes":
			j.CancelTimeout = v
		case "continue-on-error":
			j.ContinueOnError = v
		case "steps":
			j.Steps = c.steps(v)
		case "uses":
			c.checkCall(v)
			j.Uses, j.UsesPos = v.text(), v.Pos
		case "with":
			j.With = v
		case "secrets":
			if v.kind == nodeLiteral {
				j.InheritSecrets = true
			} else {
				j.Secrets = v
			}
		}
	}
	j.If = c.condition(condition, key.Pos, jobConditionNames())
	return j
}

// checkNeeds finds jobs that can never start.
func (c *converter) checkNeeds(pos Pos, jobs []*Job) {
	known := make(map[string]bool, len(jobs))
	for _, j := range jobs {
		known[strings.ToUpper(j.ID)] = true
	}
	done := reachable(jobs)
	if len(done) == 0 {
		c.fail(pos, "The workflow must contain at least one job with no dependencies.")
		return
	}
	for _, j := range jobs {
		if done[strings.ToUpper(j.ID)] {
			continue
		}
		for _, need := range j.Needs {
			switch folded := strings.ToUpper(need.Text); {
			case done[folded]:
			case known[folded]:
				c.failf(need.Pos, "Job '%s' depends on job '%s' which creates a cycle in the dependency graph.", j.ID, need.Text)
			default:
				c.failf(need.Pos, "Job '%s' depends on unknown job '%s'.", j.ID, need.Text)
			}
		}
	}
}

// reachable are the jobs that start when all that can finish do, by folded ID.
func reachable(jobs []*Job) map[string]bool {
	dependents := map[string][]*Job{}
	missing := map[*Job]int{}
	done := map[string]bool{}
	var ready []*Job
	for _, j := range jobs {
		missing[j] = len(j.Needs)
		for _, need := range j.Needs {
			folded := strings.ToUpper(need.Text)
			dependents[folded] = append(dependents[folded], j)
		}
		if len(j.Needs) == 0 {
			ready = append(ready, j)
		}
	}
	for len(ready) > 0 {
		folded := strings.ToUpper(ready[0].ID)
		ready = ready[1:]
		if done[folded] {
			continue
		}
		done[folded] = true
		for _, j := range dependents[folded] {
			if missing[j]--; missing[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	return done
}

// checkCall checks the form of the name of a reusable workflow, as GitHub's editors do.
func (c *converter) checkCall(n *Node) {
	if n.kind != nodeLiteral {
		return
	}
	if reason := callMistake(n.text()); reason != "" {
		c.failf(n.Pos, "Invalid workflow reference '%s': %s", n.text(), reason)
	}
}

// callMistake says what is wrong with the name of a reusable workflow: ./.github/workflows/x.yml, $/.github/... or
// owner/repo/.github/workflows/x.yml@ref. "" is nothing.
func callMistake(uses string) string {
	local, isLocal := strings.CutPrefix(uses, "./")
	self, isSelf := strings.CutPrefix(uses, "$/")
	switch {
	case isLocal && !inWorkflows(local):
		return "local workflow references must be rooted in '.github/workflows'"
	case isSelf && !inWorkflows(self):
		return "self repository workflows must be rooted in '.github/workflows'"
	case isLocal && strings.Contains(uses, "@"):
		return "cannot specify version when calling local workflows"
	case isSelf && strings.Contains(uses, "@"):
		return "cannot specify version when calling self repository workflows"
	case isLocal:
		return workflowFileMistake(local)
	case isSelf:
		return workflowFileMistake(self)
	}
	path, ref, _ := strings.Cut(uses, "@")
	if ref == "" {
		return "no version specified"
	}
	if strings.Contains(ref, "@") {
		return "too many '@' in workflow reference"
	}
	at := strings.Index(path, ".github/workflows")
	if at < 0 || !inWorkflows(path[at:]) {
		return "references to workflows must be rooted in '.github/workflows'"
	}
	if parts := strings.FieldsFunc(path[:at], func(r rune) bool { return r == '/' }); len(parts) != 2 {
		return "references to workflows must be prefixed with format 'owner/repository/' or './' for local workflows"
	}
	return workflowFileMistake(path[at:])
}

func inWorkflows(path string) bool {
	return strings.HasPrefix(path, ".github/workflows/") || strings.HasPrefix(path, ".github/workflows-lab/")
}

// workflowFileMistake says what is wrong with a path within .github/workflows.
func workflowFileMistake(path string) string {
	parts := strings.Split(path, "/")
	name := parts[len(parts)-1]
	switch {
	case !strings.HasSuffix(name, ".yml") && !strings.HasSuffix(name, ".yaml"):
		return "workflow file should have either a '.yml' or '.yaml' file extension"
	case len(parts) != 3:
		return "workflows must be defined at the top level of the .github/workflows/ directory"
	case name == ".yml" || name == ".yaml":
		return "invalid workflow file name"
	}
	return ""
}

func (c *converter) checkRunsOn(n *Node) {
	c.checkKeys(n, "job runs-on property name")
	group := n.Get("group")
	if !group.isText() {
		return
	}
	name := group.text()
	const hint = "Please use 'organization/' or 'enterprise/' prefix to target a single runner group."
	parts := strings.Split(name, "/")
	switch {
	case len(parts) == 1:
	case len(parts) == 2 && parts[1] == "":
		c.failf(group.Pos, "Invalid runs-on group name '%s'.", name)
	case len(parts) == 2 && (parts[0] == "org" || parts[0] == "organization" || parts[0] == "ent" || parts[0] == "enterprise"):
	default:
		c.failf(group.Pos, "Invalid runs-on group name '%s'. %s", name, hint)
	}
}

const dockerPrefix = "docker://"

// checkContainer refuses a container without an image. `container: ”` is none at all, for a service that is a
// mistake.
func (c *converter) checkContainer(n *Node, service bool) {
	if !n.IsLiteral() {
		return
	}
	image := n
	if n.kind == nodeMapping {
		image = n.Get("image")
	}
	name, prefixed := strings.CutPrefix(image.text(), dockerPrefix)
	if name == "" && (prefixed || service) {
		c.fail(n.Pos, "Container image cannot be empty")
	}
}

func (c *converter) checkServices(n *Node) {
	if !n.IsLiteral() {
		return
	}
	for _, p := range n.pairs {
		c.checkContainer(p.Value, true)
	}
}

func (c *converter) checkSnapshot(n *Node) {
	c.checkKeys(n, "job snapshot key")
	if condition := n.Get("if"); condition != nil {
		c.condition(condition, condition.Pos, stepConditionNames())
	}
	version := n.Get("version")
	if !version.isText() {
		return
	}
	major, ok := strings.CutSuffix(version.text(), ".*")
	if !ok || major == "" || !onlyDigits(major, "0123456789") || len(major) > 9 {
		c.failf(n.Pos, "Expected format '{major-version}.*' Actual '%s'", version.text())
	}
}

func (c *converter) strategy(n *Node) *Strategy {
	s := &Strategy{Pos: n.Pos, Matrix: n.Get("matrix"), FailFast: n.Get("fail-fast"), MaxParallel: n.Get("max-parallel")}
	if s.Matrix != nil {
		c.checkMatrix(s.Matrix)
	}
	return s
}

// checkMatrix checks what is known of a matrix before it runs.
func (c *converter) checkMatrix(n *Node) {
	if n.kind != nodeMapping {
		return
	}
	vectors, includes := false, false
	for _, p := range n.pairs {
		switch key := p.Key.text(); {
		case p.Key.kind != nodeLiteral:
			vectors = true
		case key == "include":
			includes = len(p.Value.items) > 0 || !p.Value.IsLiteral()
		case key == "exclude":
		default:
			vectors = true
			if p.Value.kind == nodeSequence && len(p.Value.items) == 0 {
				c.failf(p.Value.Pos, "Matrix vector '%s' does not contain any values", key)
			}
		}
	}
	if !vectors && !includes {
		c.fail(n.Pos, "Matrix must define at least one vector")
		return
	}
	if n.IsLiteral() {
		c.checkCells(n)
	}
}

// checkCells builds a matrix that is literal through and through, for the mistakes that only building shows.
func (c *converter) checkCells(n *Node) {
	m, err := newMatrix(n.Literal())
	if err != nil {
		return // a part has the wrong type: the reader has said so
	}
	for i, item := range n.Get("include").Items() {
		if len(item.pairs) == 0 && item.kind == nodeMapping && i < len(m.include) {
			c.fail(item.Pos, "Matrix include mapping does not contain any values")
		}
	}
	for _, item := range n.Get("exclude").Items() {
		if item.kind == nodeMapping && len(item.pairs) == 0 {
			c.fail(item.Pos, "Matrix exclude filter must not be empty")
		}
		for _, p := range item.pairs {
			if _, ok := m.vectors.Lookup(p.Key.text()); !ok {
				c.failf(p.Key.Pos, "Matrix exclude key '%s' does not match any key within the matrix", p.Key.text())
			}
		}
	}
	if m.size() > maxCells {
		c.failf(n.Pos, "%s", sayTooManyCells)
	}
}
