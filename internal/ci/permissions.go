package ci

import (
	"cmp"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/workflow"
)

// scopes are those of GitHub's tokens, in the order in which it compares them.
var scopes = []string{
	"actions", "artifact-metadata", "attestations", "checks", "contents", "deployments", "discussions", "issues",
	"packages", "pages", "pull-requests", "repository-projects", "statuses", "security-events", "id-token", "models",
	"vulnerability-alerts",
}

// readOnly are the scopes that can not be written.
var readOnly = []string{"models", "vulnerability-alerts"}

// effective are the permissions of a job, nil for the default: its own, else its workflow's, else what the caller of the
// workflow lets it have, which neither may exceed.
func effective(allowed, ofWorkflow, ofJob *workflow.Permissions) *workflow.Permissions {
	asked := cmp.Or(ofJob, ofWorkflow)
	if asked == nil || allowed == nil {
		return cmp.Or(asked, allowed)
	}
	p := &workflow.Permissions{Pos: asked.Pos, Default: "none", Scopes: map[string]string{}}
	for _, s := range scopes {
		p.Scopes[s] = lower(level(asked, s), level(allowed, s))
	}
	return p
}

// level is what permissions give for a scope.
func level(p *workflow.Permissions, scope string) string {
	l, ok := p.Scopes[scope]
	if !ok {
		l = cmp.Or(p.Default, "none")
	}
	if l == "write" && slices.Contains(readOnly, scope) {
		return "read"
	}
	return l
}

var levels = []string{"none", "read", "write"}

func lower(a, b string) string {
	if slices.Index(levels, b) < slices.Index(levels, a) {
		return b
	}
	return a
}

// excess lists in GitHub's words what is asked for beyond what is allowed, and what would be.
func excess(asked, allowed *workflow.Permissions) (want, have string) {
	if asked == nil {
		return "", ""
	}
	var wants, haves []string
	for _, s := range scopes {
		a, b := level(asked, s), level(allowed, s)
		if lower(a, b) != a {
			wants, haves = append(wants, s+": "+a), append(haves, s+": "+b)
		}
	}
	return strings.Join(wants, ", "), strings.Join(haves, ", ")
}

// describe tells permissions apart.
func describe(p *workflow.Permissions) string {
	if p == nil {
		return "default"
	}
	var b strings.Builder
	for _, s := range scopes {
		b.WriteString(level(p, s)[:1])
	}
	return b.String()
}

// permissions are those of a job's token by scope, nil for the default.
func (r *Run) permissions(j *Job) map[string]string {
	p := r.allowed(j)
	if p == nil {
		return nil
	}
	out := map[string]string{}
	for _, s := range scopes {
		if l := level(p, s); l != "none" {
			out[s] = l
		}
	}
	return out
}

func (r *Run) allowed(j *Job) *workflow.Permissions {
	var above *workflow.Permissions
	if call := r.Job(j.Parent); call != nil {
		above = r.allowed(call)
	}
	f := r.Plan.parsed.byUses[j.File]
	return effective(above, f.workflow.Permissions, f.byID[strings.ToLower(j.Def)].def.Permissions)
}
