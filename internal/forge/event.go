package forge

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// Event is something that happened in a repository, in GitHub's shape.
type Event struct {
	// Match is what workflows' triggers are compared with.
	Match workflow.Event
	// GitHub is the github context without what only a run has: run_id, run_number, workflow, token, job.
	GitHub expr.Value
	// SHA is the commit that the event runs at and that its workflows are read at, as github.sha. It is empty where
	// there is none and nothing runs: a pull request with conflicts.
	SHA string
}

// Scene is where an event happens and who makes it happen: what a payload says of every event.
type Scene struct {
	ServerURL  string // without a slash at the end
	Repository Repository
	Sender     Account
}

// Repository is what a payload says of a repository.
type Repository struct {
	ID            int64
	Name          string // OWNER/NAME
	Owner         Account
	DefaultBranch string // without refs/heads/
	Public        bool
	Archived      bool
}

// Account is a person, an organisation or a program, as payloads and commits name it.
type Account struct {
	Login string `json:"login"`
	ID    int64  `json:"id"`
	Type  string `json:"type,omitempty"`  // User where empty; Organization, Bot
	Name  string `json:"name,omitempty"`  // for commits; Login where empty
	Email string `json:"email,omitempty"` // for commits; LOGIN@users.noreply.localhost where empty
}

// place is what of the github context depends on where an event happens.
type place struct {
	ref        string // in full
	sha        string
	base, head string // of a pull request: branches without refs/heads/
}

// event puts together an event from its payload.
func (s Scene) event(name string, at place, payload expr.Value) *Event {
	return &Event{
		Match: workflow.Event{
			Name: name, Action: payload.Property("action").Text(), Ref: at.ref, BaseRef: at.base, HeadRef: at.head, Payload: payload,
		},
		GitHub: s.context(name, at, payload),
		SHA:    at.sha,
	}
}

// context is the github context's part that the repository and the event decide.
func (s Scene) context(event string, at place, payload expr.Value) expr.Value {
	owner, _, _ := strings.Cut(s.Repository.Name, "/")
	refName, refType := at.ref, "branch"
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/pull/"} {
		refName = strings.TrimPrefix(refName, prefix)
	}
	if strings.HasPrefix(at.ref, "refs/tags/") {
		refType = "tag"
	}
	text := expr.String
	id := func(n int64) expr.Value { return text(strconv.FormatInt(n, 10)) }
	return expr.Object(
		expr.Pair{Key: "ref", Value: text(at.ref)},
		expr.Pair{Key: "sha", Value: text(at.sha)},
		expr.Pair{Key: "repository", Value: text(s.Repository.Name)},
		expr.Pair{Key: "repository_owner", Value: text(owner)},
		expr.Pair{Key: "repository_owner_id", Value: id(s.Repository.Owner.ID)},
		expr.Pair{Key: "repositoryUrl", Value: text(s.gitURL())},
		expr.Pair{Key: "retention_days", Value: text("90")},
		expr.Pair{Key: "repository_visibility", Value: text(s.Repository.visibility())},
		expr.Pair{Key: "repository_id", Value: id(s.Repository.ID)},
		expr.Pair{Key: "actor_id", Value: id(s.Sender.ID)},
		expr.Pair{Key: "actor", Value: text(s.Sender.Login)},
		expr.Pair{Key: "triggering_actor", Value: text(s.Sender.Login)},
		expr.Pair{Key: "head_ref", Value: text(at.head)},
		expr.Pair{Key: "base_ref", Value: text(at.base)},
		expr.Pair{Key: "event_name", Value: text(event)},
		expr.Pair{Key: "server_url", Value: text(s.ServerURL)},
		expr.Pair{Key: "api_url", Value: text(s.apiURL())},
		expr.Pair{Key: "graphql_url", Value: text(s.graphqlURL())},
		expr.Pair{Key: "ref_name", Value: text(refName)},
		expr.Pair{Key: "ref_protected", Value: expr.Bool(false)},
		expr.Pair{Key: "ref_type", Value: text(refType)},
		expr.Pair{Key: "secret_source", Value: text("Actions")},
		expr.Pair{Key: "event", Value: payload},
	)
}

// payload makes a payload of what is particular to an event and what every event says.
func (s Scene) payload(own map[string]any) expr.Value {
	whole := map[string]any{"repository": s.repository(), "sender": s.account(s.Sender)}
	if s.Repository.Owner.Type == "Organization" {
		whole["organization"] = s.account(s.Repository.Owner)
	}
	for k, v := range own {
		whole[k] = v
	}
	v, err := expr.FromGo(whole)
	if err != nil {
		panic(err) // only JSON's own types are in it, and what callers give was decoded from JSON
	}
	return v
}

func (s Scene) repository() map[string]any {
	r := s.Repository
	owner, name, _ := strings.Cut(r.Name, "/")
	if r.Owner.Login == "" {
		r.Owner.Login = owner
	}
	return map[string]any{
		"id": r.ID, "name": name, "full_name": r.Name, "private": !r.Public, "visibility": r.visibility(), "owner": s.account(r.Owner),
		"html_url": s.htmlURL(), "clone_url": s.htmlURL() + ".git", "git_url": s.gitURL(), "default_branch": r.DefaultBranch,
		"master_branch": r.DefaultBranch, "fork": false, "archived": r.Archived, "disabled": false, "url": s.htmlURL(),
	}
}

func (s Scene) account(a Account) map[string]any {
	kind := a.Type
	if kind == "" {
		kind = "User"
	}
	return map[string]any{"login": a.Login, "id": a.ID, "type": kind, "html_url": s.ServerURL + "/" + a.Login, "site_admin": false}
}

func (s Scene) htmlURL() string { return s.ServerURL + "/" + s.Repository.Name }

func (s Scene) gitURL() string {
	_, host, _ := strings.Cut(s.ServerURL, "://")
	return "git://" + host + "/" + s.Repository.Name + ".git"
}

func (s Scene) apiURL() string {
	if s.ServerURL == "https://github.com" {
		return "https://api.github.com"
	}
	return s.ServerURL + "/api/v3"
}

func (s Scene) graphqlURL() string {
	if s.ServerURL == "https://github.com" {
		return "https://api.github.com/graphql"
	}
	return s.ServerURL + "/api/graphql"
}

func (r Repository) visibility() string {
	if r.Public {
		return "public"
	}
	return "private"
}

// compareURL is the page of what lies between two commits.
func (s Scene) compareURL(before, after string) string {
	return fmt.Sprintf("%s/compare/%.12s...%.12s", s.htmlURL(), before, after)
}
