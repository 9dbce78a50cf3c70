package auth

import (
	"cmp"
	"maps"
)

// Permissions are what the token of a job allows, by GitHub's names. The zero value allows nothing but metadata.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#permissions
type Permissions struct {
	levels map[string]string
}

// grantable has for every permission the most that a job can have of it.
var grantable = map[string]string{
	"actions": "write", "artifact-metadata": "write", "attestations": "write", "checks": "write", "contents": "write",
	"deployments": "write", "discussions": "write", "id-token": "write", "issues": "write", "models": "read", "packages": "write",
	"pages": "write", "pull-requests": "write", "repository-projects": "write", "security-events": "write", "statuses": "write",
	"vulnerability-alerts": "read",
}

var rank = map[string]int{"": 0, "none": 0, "read": 1, "write": 2}

// ParsePermissions takes the permissions of a task: read or write by name, nil where the workflow does not say. Then the
// default of the repository holds: everything if it is permissive, else to read contents and packages. What is not known
// is left out.
func ParsePermissions(levels map[string]string, permissive bool) Permissions {
	if levels == nil && permissive {
		p := Permissions{levels: maps.Clone(grantable)}
		delete(p.levels, "id-token") // has to be asked for
		return p
	}
	if levels == nil {
		levels = map[string]string{"contents": "read", "packages": "read"}
	}
	p := Permissions{levels: map[string]string{}}
	for name, level := range levels {
		most := grantable[name]
		if rank[level] > rank[most] {
			level = most
		}
		if rank[level] > 0 {
			p.levels[name] = level
		}
	}
	return p
}

// Allows reports whether a permission is given at a level, "read" or "write". Who may write may read. Metadata may always
// be read.
func (p Permissions) Allows(name, level string) bool {
	have := p.levels[name]
	if name == "metadata" {
		have = "read"
	}
	return rank[level] > 0 && rank[have] >= rank[level]
}

// ForFork gives what is left for a pull request from a fork: nothing can be written, and no identity be proven.
func (p Permissions) ForFork() Permissions {
	left := Permissions{levels: map[string]string{}}
	for name := range p.levels {
		if name != "id-token" {
			left.levels[name] = "read"
		}
	}
	return left
}

// Levels gives the permissions by name, as the first lines of a job's log and GitHub's API list them.
func (p Permissions) Levels() map[string]string {
	levels := maps.Clone(p.levels)
	if levels == nil {
		levels = map[string]string{}
	}
	levels["metadata"] = cmp.Or(levels["metadata"], "read")
	return levels
}
