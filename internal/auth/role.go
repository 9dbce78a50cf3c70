package auth

import "slices"

// Role is what a member may do in a repository. Each role includes those before it; the zero value is nobody's.
// https://docs.github.com/en/organizations/managing-user-access-to-your-organizations-repositories/managing-repository-roles/repository-roles-for-an-organization
type Role string

// The roles. GitHub's triage, between read and write, is not among them.
const (
	NoRole   Role = ""
	Read     Role = "read"     // see everything
	Write    Role = "write"    // push, run and cancel workflows
	Maintain Role = "maintain" // settings that can not do harm
	Admin    Role = "admin"    // everything: secrets, environments, members
)

var roles = []Role{NoRole, Read, Write, Maintain, Admin}

// Valid reports whether there is such a role.
func (r Role) Valid() bool { return slices.Index(roles, r) > 0 }

// Allows reports whether a role includes another. Nothing that is no role includes or is included.
func (r Role) Allows(need Role) bool {
	return r.Valid() && need.Valid() && slices.Index(roles, r) >= slices.Index(roles, need)
}
