package rest

import (
	"strings"

	"github.com/penstock-ci/penstock/internal/store"
)

var generalRoutes = []route{
	{pattern: "GET /", handle: (*call).root},
	{pattern: "GET /meta", handle: (*call).meta},
	{pattern: "GET /rate_limit", handle: (*call).rateLimit},
	{pattern: "GET /user", handle: (*call).self},
	{pattern: "GET /users/{login}", handle: (*call).someone},
}

func (c *call) root() (any, error) {
	return object{
		"current_user_url": c.url("/user"), "rate_limit_url": c.url("/rate_limit"), "user_url": c.url("/users/{user}"),
		"repository_url": c.url("/repos/{owner}/{repo}"),
	}, nil
}

// version is that of the GitHub Enterprise Server whose API this is like: gh asks before it uses what came later.
const version = "3.20.0"

func (c *call) meta() (any, error) {
	return object{"verifiable_password_authentication": false, "installed_version": version}, nil
}

// rateLimit is that of GitHub's tokens for jobs; nobody is held to it here.
func (c *call) rateLimit() (any, error) {
	rate := object{"limit": 15000, "used": 0, "remaining": 15000, "reset": c.Now().Unix() + 3600}
	return object{
		"resources": object{"core": rate, "search": rate, "graphql": rate, "integration_manifest": rate, "actions_runner_registration": rate},
		"rate":      rate,
	}, nil
}

func (c *call) self() (any, error) { return c.person(c.by.Login, true), nil }

func (c *call) someone() (any, error) {
	login := c.part("login")
	if c.Runs != nil && c.account(login) == nil && !strings.HasSuffix(login, "[bot]") {
		return nil, errNotFound
	}
	return c.person(login, true), nil
}

// account is the user of a name, nil if the server has none.
func (c *call) account(login string) *store.User {
	if c.Runs == nil {
		return nil
	}
	if u, ok := c.accounts[login]; ok {
		return u
	}
	var account *store.User
	if u, err := c.Store.UserNamed(c.ctx, login); err == nil {
		account = &u
	}
	if c.accounts == nil {
		c.accounts = map[string]*store.User{}
	}
	c.accounts[login] = account
	return account
}

// user is somebody in few words, nil for nobody.
func (c *call) user(login string) any {
	if login == "" {
		return nil
	}
	return c.person(login, false)
}

// person is somebody; whole gives all of the account.
func (c *call) person(login string, whole bool) object {
	base := c.origin() + c.Prefix + "/users/" + login
	kind := "User"
	if strings.HasSuffix(login, "[bot]") {
		kind = "Bot"
	}
	u := object{
		"login": login, "id": 0, "node_id": "user_" + login, "avatar_url": "", "gravatar_id": "", "url": base, "html_url": c.origin() + "/" + login,
		"type": kind, "site_admin": false, "user_view_type": "public", "events_url": base + "/events{/privacy}",
		"gists_url": base + "/gists{/gist_id}", "starred_url": base + "/starred{/owner}{/repo}", "following_url": base + "/following{/other_user}",
	}
	made := "2020-01-01T00:00:00Z"
	if account := c.account(login); account != nil {
		u["login"], u["id"], u["site_admin"], made = account.Login, account.ID, account.Admin, stamp(account.Created)
	}
	for _, part := range []string{"followers", "subscriptions", "received_events"} {
		u[part+"_url"] = base + "/" + part
	}
	u["organizations_url"], u["repos_url"] = base+"/orgs", base+"/repos"
	if whole {
		for _, part := range []string{"name", "company", "blog", "location", "email", "hireable", "bio", "twitter_username"} {
			u[part] = nil
		}
		u["blog"] = ""
		u["public_repos"], u["public_gists"], u["followers"], u["following"] = 0, 0, 0, 0
		u["created_at"], u["updated_at"] = made, made
	}
	return u
}
