package auth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// includedIn has for every scope of a token the scope that includes it, "" for none.
// https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps
var includedIn = map[string]string{
	"repo": "", "repo:status": "repo", "repo_deployment": "repo", "public_repo": "repo", "repo:invite": "repo", "security_events": "repo",
	"workflow": "", "delete_repo": "", "gist": "", "notifications": "",
	"admin:repo_hook": "", "write:repo_hook": "admin:repo_hook", "read:repo_hook": "write:repo_hook",
	"admin:org": "", "write:org": "admin:org", "read:org": "write:org", "manage_runners:org": "admin:org",
	"admin:public_key": "", "write:public_key": "admin:public_key", "read:public_key": "write:public_key",
	"admin:org_hook": "",
	"user":           "", "read:user": "user", "user:email": "user", "user:follow": "user",
	"project": "", "read:project": "project",
	"write:packages": "", "read:packages": "write:packages", "delete:packages": "",
	"audit_log": "", "read:audit_log": "audit_log",
	"site_admin": "",
}

// Scopes are what a token is good for, at most: what its user may not do, it can not either. The zero value is none.
type Scopes struct {
	set map[string]bool
}

// ParseScopes reads the names of scopes as GitHub has them. The error names the first that is not known.
func ParseScopes(names []string) (Scopes, error) {
	s := Scopes{set: make(map[string]bool, len(names))}
	for _, name := range names {
		if _, ok := includedIn[name]; !ok {
			return Scopes{}, fmt.Errorf("there is no scope %.60q: scopes are %s", name, strings.Join(slices.Sorted(maps.Keys(includedIn)), ", "))
		}
		s.set[name] = true
	}
	return s, nil
}

// Allows reports whether the scopes have one, by its name or by one that includes it.
func (s Scopes) Allows(scope string) bool {
	for scope != "" {
		if s.set[scope] {
			return true
		}
		scope = includedIn[scope]
	}
	return false
}

// Names gives the scopes in order, as they were given.
func (s Scopes) Names() []string { return slices.Sorted(maps.Keys(s.set)) }

// String is the scopes as in the header X-OAuth-Scopes.
func (s Scopes) String() string { return strings.Join(s.Names(), ", ") }
