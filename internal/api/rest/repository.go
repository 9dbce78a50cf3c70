package rest

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

var repositoryRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}", handle: (*call).repository},
	{pattern: "GET /repos/{owner}/{repo}/branches", scopes: needs("contents:read"), handle: (*call).branches},
	{pattern: "GET /repos/{owner}/{repo}/branches/*", scopes: needs("contents:read"), handle: (*call).branch},
	{pattern: "GET /repos/{owner}/{repo}/tags", scopes: needs("contents:read"), handle: (*call).tags},
	{pattern: "POST /repos/{owner}/{repo}/dispatches", scopes: needs("contents:write"), handle: (*call).dispatch},
}

func (c *call) repository() (any, error) { return c.repositoryObject(true), nil }

// repositoryLinks are the members that name a part of the repository, by GitHub's names of members.
var repositoryLinks = map[string]string{
	"archive": "/{archive_format}{/ref}", "assignees": "/assignees{/user}", "blobs": "/git/blobs{/sha}", "branches": "/branches{/branch}",
	"collaborators": "/collaborators{/collaborator}", "comments": "/comments{/number}", "commits": "/commits{/sha}",
	"compare": "/compare/{base}...{head}", "contents": "/contents/{+path}", "contributors": "/contributors", "deployments": "/deployments",
	"downloads": "/downloads", "events": "/events", "forks": "/forks", "git_commits": "/git/commits{/sha}", "git_refs": "/git/refs{/sha}",
	"git_tags": "/git/tags{/sha}", "hooks": "/hooks", "issue_comment": "/issues/comments{/number}", "issue_events": "/issues/events{/number}",
	"issues": "/issues{/number}", "keys": "/keys{/key_id}", "labels": "/labels{/name}", "languages": "/languages", "merges": "/merges",
	"milestones": "/milestones{/number}", "notifications": "/notifications{?since,all,participating}", "pulls": "/pulls{/number}",
	"releases": "/releases{/id}", "stargazers": "/stargazers", "statuses": "/statuses/{sha}", "subscribers": "/subscribers",
	"subscription": "/subscription", "tags": "/tags", "teams": "/teams", "trees": "/git/trees{/sha}",
}

// repositoryObject is the repository; whole gives what only its own page has.
func (c *call) repositoryObject(whole bool) object {
	owner, name, _ := strings.Cut(c.repo.Name, "/")
	visibility := "public"
	if c.repo.Private {
		visibility = "private"
	}
	host := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSuffix(c.repo.Web, "/"+c.repo.Name), "https://"), "http://")
	r := object{
		"id": c.repo.ID, "node_id": "repository_" + c.repo.Name, "name": name, "full_name": c.repo.Name, "private": c.repo.Private, "owner": c.user(owner),
		"html_url": c.repo.Web, "description": nil, "fork": false, "url": c.url(""), "homepage": nil, "language": nil, "mirror_url": nil, "license": nil,
		"default_branch": c.repo.DefaultBranch, "visibility": visibility, "archived": false, "disabled": false, "is_template": false, "topics": []string{},
		"has_issues": true, "has_projects": false, "has_wiki": false, "has_pages": false, "has_downloads": false, "has_discussions": false,
		"allow_forking": false, "web_commit_signoff_required": false,
		"git_url": "git://" + host + "/" + c.repo.Name + ".git", "ssh_url": "git@" + host + ":" + c.repo.Name + ".git", "clone_url": c.repo.Web + ".git", "svn_url": c.repo.Web,
		"forks_count": 0, "forks": 0, "stargazers_count": 0, "watchers_count": 0, "watchers": 0, "open_issues_count": 0, "open_issues": 0, "size": 0,
		"created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T00:00:00Z", "pushed_at": "2020-01-01T00:00:00Z",
		"permissions": object{
			"admin": c.Runs != nil && c.by.may(needs("administration:write")), "maintain": c.Runs != nil && c.by.may(needs("administration:write")), "push": c.by.may(needs("contents:write")), "triage": false, "pull": c.by.may(needs("contents:read")),
		},
	}
	for name, path := range repositoryLinks {
		r[name+"_url"] = c.url("%s", path)
	}
	if whole {
		r["network_count"], r["subscribers_count"] = 0, 0
		r["allow_merge_commit"], r["allow_squash_merge"], r["allow_rebase_merge"], r["delete_branch_on_merge"] = true, true, true, false
	}
	return r
}

func (c *call) branches() (any, error) {
	refs, err := c.refs("refs/heads/")
	if err != nil {
		return nil, err
	}
	out := []object{}
	for _, ref := range paged(c, refs) {
		out = append(out, object{
			"name": strings.TrimPrefix(ref.name, "refs/heads/"), "protected": false,
			"commit": object{"sha": ref.sha, "url": c.url("/commits/%s", ref.sha)},
		})
	}
	return out, nil
}

func (c *call) branch() (any, error) {
	name := c.part("*")
	sha, err := c.resolve("refs/heads/" + name)
	if err != nil {
		return nil, &Error{Status: 404, Message: "Branch not found"}
	}
	commit, err := c.commitObject(sha)
	if err != nil {
		return nil, err
	}
	self := c.url("/branches/%s", name)
	return object{
		"name": name, "commit": commit, "protected": false, "protection_url": self + "/protection",
		"protection": object{"enabled": false}, "_links": object{"self": self, "html": c.web("/tree/%s", name)},
	}, nil
}

func (c *call) tags() (any, error) {
	refs, err := c.refs("refs/tags/")
	if err != nil {
		return nil, err
	}
	out := []object{}
	for _, ref := range paged(c, refs) {
		name, sha := strings.TrimPrefix(ref.name, "refs/tags/"), ref.sha
		if ref.peeled != "" {
			sha = ref.peeled
		}
		out = append(out, object{
			"name": name, "node_id": "tag_" + name, "commit": object{"sha": sha, "url": c.url("/commits/%s", sha)},
			"zipball_url": c.url("/zipball/%s", ref.name), "tarball_url": c.url("/tarball/%s", ref.name),
		})
	}
	return out, nil
}

func (c *call) dispatch() (any, error) {
	event, err := c.required("RepositoryDispatch", "event_type")
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(event) > 100 {
		return nil, invalid("RepositoryDispatch", "event_type", "custom", "event_type is too long (maximum is 100 characters)")
	}
	payload, ok := c.in["client_payload"].(object)
	if c.in["client_payload"] != nil && !ok || len(payload) > 10 {
		return nil, invalid("RepositoryDispatch", "client_payload", "invalid", "client_payload is an object of at most 10 members")
	}
	if text, err := json.Marshal(payload); err != nil || len(text) > 64<<10 {
		return nil, invalid("RepositoryDispatch", "client_payload", "custom", "client_payload is larger than 64 KB")
	}
	c.tell("repository_dispatch %s", event)
	return noContent, c.happened(Happening{Event: "repository_dispatch", Action: event, Payload: object{"branch": c.repo.DefaultBranch, "client_payload": c.in["client_payload"]}})
}
