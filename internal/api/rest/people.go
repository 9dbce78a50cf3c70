package rest

import (
	"errors"
	"net/http"
	"strings"
)

var peopleRoutes = []route{
	{pattern: "GET /user/repos", handle: (*call).listRepositories},
	{pattern: "POST /user/repos", handle: (*call).createRepository, audit: "repo.create"},
	{pattern: "POST /orgs/{org}/repos", handle: (*call).createRepository, audit: "repo.create"},
	{pattern: "GET /orgs/{org}/repos", handle: (*call).listRepositories},
	{pattern: "GET /repos/{owner}/{repo}/collaborators", scopes: needs("metadata:read"), handle: (*call).collaborators},
	{pattern: "PUT /repos/{owner}/{repo}/collaborators/{login}", scopes: needs("administration:write"), handle: (*call).addCollaborator, audit: "repo.add_member"},
	{pattern: "DELETE /repos/{owner}/{repo}/collaborators/{login}", scopes: needs("administration:write"), handle: (*call).removeCollaborator, audit: "repo.remove_member"},
	{pattern: "GET /repos/{owner}/{repo}/collaborators/{login}/permission", handle: (*call).collaborator},
}

var (
	// ErrExists and ErrName say why a repository can not be made.
	ErrExists = errors.New("name already exists on this account")
	ErrName   = errors.New("not a name for a repository")
)

func (c *call) listRepositories() (any, error) {
	if c.Repositories == nil {
		return nil, errNotFound
	}
	org := c.part("org")
	var all []*Repository
	for after := int64(0); len(all) < maxList; {
		some, err := c.Repositories(c.ctx, c.by, after)
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			break
		}
		after = some[len(some)-1].ID
		for _, r := range some {
			if r.Name != "" && (org == "" || strings.EqualFold(ownerOf(r.Name), org)) {
				all = append(all, r)
			}
		}
	}
	list := []object{}
	for _, r := range paged(c, all) {
		of := *c
		of.repo = r
		list = append(list, of.repositoryObject(false))
	}
	return list, nil
}

func ownerOf(name string) string {
	owner, _, _ := strings.Cut(name, "/")
	return owner
}

func (c *call) createRepository() (any, error) {
	name, err := c.required("Repository", "name")
	if err != nil {
		return nil, err
	}
	if c.Create == nil {
		return nil, errNotFound
	}
	owner := c.part("org")
	if owner == "" {
		owner = c.by.Login
	}
	if !c.by.Admin && !strings.EqualFold(owner, c.by.Login) {
		return nil, &Error{Status: http.StatusForbidden, Message: "You need admin access to create a repository for " + owner}
	}
	r, err := c.Create(c.ctx, c.by, owner+"/"+name, c.yes("private", true))
	switch {
	case errors.Is(err, ErrExists):
		return nil, invalid("Repository", "name", "custom", ErrExists.Error())
	case errors.Is(err, ErrName):
		return nil, invalid("Repository", "name", "custom", err.Error())
	case err != nil:
		return nil, err
	}
	c.repo = r
	return created(c.repositoryObject(true)), nil
}

// levels are GitHub's permissions of a role: its old names, which clients know.
var levels = map[string]string{"none": "none", "read": "read", "write": "write", "maintain": "write", "admin": "admin"}

// collaborator is what somebody may do. A local repository has one owner, who may write.
func (c *call) collaborator() (any, error) {
	login := c.part("login")
	user := c.person(login, false)
	if c.Runs == nil {
		c.addRole(user, "write")
		return object{"permission": "write", "role_name": "write", "user": user}, nil
	}
	account := c.account(login)
	if account == nil {
		return nil, errNotFound
	}
	role, err := c.Store.Role(c.ctx, c.repo.ID, account.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case account.Admin:
		role = "admin"
	case role == "" && !c.repo.Private:
		role = "read"
	case role == "":
		role = "none"
	}
	c.addRole(user, role)
	return object{"permission": levels[role], "role_name": role, "user": user}, nil
}

// addRole says of somebody what they may do in the repository.
func (c *call) addRole(user object, role string) {
	write := role == "write" || role == "maintain" || role == "admin"
	user["role_name"] = role
	user["permissions"] = object{
		"pull": role != "none", "triage": write, "push": write, "maintain": role == "maintain" || role == "admin", "admin": role == "admin",
	}
}

func (c *call) collaborators() (any, error) {
	members, err := c.Store.Members(c.ctx, c.repo.ID)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, m := range members {
		u := c.person(m.User.Login, false)
		c.addRole(u, m.Role)
		list = append(list, u)
	}
	return paged(c, list), nil
}

// addCollaborator gives a user of the server a role at once: nobody is invited.
func (c *call) addCollaborator() (any, error) {
	role, err := c.oneOf("Repository", "permission", "push", "pull", "push", "maintain", "admin", "read", "write")
	if err != nil {
		return nil, err
	}
	if names := map[string]string{"pull": "read", "push": "write"}; names[role] != "" {
		role = names[role]
	}
	account := c.account(c.part("login"))
	if account == nil {
		return nil, errNotFound
	}
	return noContent, c.Store.SetMember(c.ctx, c.repo.ID, account.ID, role)
}

func (c *call) removeCollaborator() (any, error) {
	account := c.account(c.part("login"))
	if account == nil {
		return nil, errNotFound
	}
	return noContent, c.Store.RemoveMember(c.ctx, c.repo.ID, account.ID)
}
