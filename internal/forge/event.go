package forge

import (
	"context"
	"fmt"
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
}

// Event tells that the named event happens now, here: a push of HEAD, a pull request of this branch into the
// default one, a dispatch. payload replaces GitHub's event payload where given (penstock run -e); the context's
// fields follow it, so a payload with pull_request.head.ref decides head_ref.
func (w *WorkTree) Event(ctx context.Context, name string, payload expr.Value) (*Event, error) {
	made := w.payload(name)
	if !payload.IsNull() {
		if payload.Kind() != expr.KindObject {
			return nil, fmt.Errorf("the event payload is %s, not an object", strings.ToLower(string(payload.Kind())))
		}
		for _, p := range payload.Pairs() {
			made = made.With(p.Key, p.Value)
		}
	}
	sha, ref, base, head := w.SHA, w.Ref, "", ""
	if strings.HasPrefix(name, "pull_request") {
		pr := made.Property("pull_request")
		base, head = pr.Property("base").Property("ref").Text(), pr.Property("head").Property("ref").Text()
		if name == "pull_request_target" {
			ref = "refs/heads/" + base
		} else {
			ref = fmt.Sprintf("refs/pull/%s/merge", made.Property("number").Text())
		}
	} else if r := made.Property("ref").Text(); r != "" && (name == "push" || name == "workflow_dispatch") {
		ref = r
	}
	ev := &Event{Match: workflow.Event{
		Name: name, Action: made.Property("action").Text(), Ref: ref, BaseRef: base, HeadRef: head,
		Payload: made, CommitMessage: w.Message,
	}}
	if name == "push" || strings.HasPrefix(name, "pull_request") {
		var err error
		if ev.Match.Paths, ev.Match.PathsKnown, err = w.Changed(ctx); err != nil {
			return nil, err
		}
	}
	ev.GitHub = w.context(name, ref, sha, base, head, made)
	return ev, nil
}

// context is the github context's part that the repository and the event decide.
func (w *WorkTree) context(event, ref, sha, base, head string, payload expr.Value) expr.Value {
	owner, _, _ := strings.Cut(w.Repository, "/")
	refName, refType := ref, "branch"
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/pull/"} {
		refName = strings.TrimPrefix(refName, prefix)
	}
	if strings.HasPrefix(ref, "refs/tags/") {
		refType = "tag"
	}
	api, graphql := w.ServerURL+"/api/v3", w.ServerURL+"/api/graphql"
	if w.ServerURL == "https://github.com" {
		api, graphql = "https://api.github.com", "https://api.github.com/graphql"
	}
	s := expr.String
	return expr.Object(
		expr.Pair{Key: "ref", Value: s(ref)},
		expr.Pair{Key: "sha", Value: s(sha)},
		expr.Pair{Key: "repository", Value: s(w.Repository)},
		expr.Pair{Key: "repository_owner", Value: s(owner)},
		expr.Pair{Key: "repository_owner_id", Value: s("0")},
		expr.Pair{Key: "repositoryUrl", Value: s("git://" + strings.TrimPrefix(w.ServerURL, "https://") + "/" + w.Repository + ".git")},
		expr.Pair{Key: "retention_days", Value: s("90")},
		expr.Pair{Key: "repository_visibility", Value: s("private")},
		expr.Pair{Key: "repository_id", Value: s("0")},
		expr.Pair{Key: "actor_id", Value: s("0")},
		expr.Pair{Key: "actor", Value: s(w.Actor)},
		expr.Pair{Key: "triggering_actor", Value: s(w.Actor)},
		expr.Pair{Key: "head_ref", Value: s(head)},
		expr.Pair{Key: "base_ref", Value: s(base)},
		expr.Pair{Key: "event_name", Value: s(event)},
		expr.Pair{Key: "server_url", Value: s(w.ServerURL)},
		expr.Pair{Key: "api_url", Value: s(api)},
		expr.Pair{Key: "graphql_url", Value: s(graphql)},
		expr.Pair{Key: "ref_name", Value: s(refName)},
		expr.Pair{Key: "ref_protected", Value: expr.Bool(false)},
		expr.Pair{Key: "ref_type", Value: s(refType)},
		expr.Pair{Key: "secret_source", Value: s("Actions")},
		expr.Pair{Key: "event", Value: payload},
	)
}

// payload is what GitHub would send with the event, as far as a working tree can know it.
func (w *WorkTree) payload(event string) expr.Value {
	p := map[string]any{"repository": w.repository(), "sender": w.account(w.Actor)}
	switch event {
	case "push":
		commit := w.commit()
		p["ref"], p["before"], p["after"] = w.Ref, w.Before, w.SHA
		p["created"], p["deleted"], p["forced"], p["base_ref"] = w.Before == zeroSHA, false, false, nil
		p["compare"] = fmt.Sprintf("%s/compare/%.12s...%.12s", w.htmlURL(), w.Before, w.SHA)
		p["commits"], p["head_commit"] = []any{commit}, commit
		p["pusher"] = map[string]any{"name": w.Actor, "email": w.Author.Email}
	case "pull_request", "pull_request_target":
		p["action"], p["number"] = "opened", 1
		p["pull_request"] = w.pullRequest()
	case "workflow_dispatch":
		p["ref"], p["inputs"], p["workflow"] = w.Ref, nil, nil
	case "repository_dispatch":
		p["action"], p["branch"], p["client_payload"] = "dispatch", w.DefaultBranch, map[string]any{}
	case "schedule":
		p["schedule"] = ""
	case "release":
		p["action"] = "published"
		p["release"] = map[string]any{"tag_name": w.Branch(), "name": w.Branch(), "draft": false, "prerelease": false, "target_commitish": w.SHA}
	}
	v, err := expr.FromGo(p)
	if err != nil {
		panic(err) // only JSON's own types are in p
	}
	return v
}

func (w *WorkTree) repository() map[string]any {
	owner, _, _ := strings.Cut(w.Repository, "/")
	return map[string]any{
		"id": 0, "name": w.Name(), "full_name": w.Repository, "private": true, "owner": w.account(owner),
		"html_url": w.htmlURL(), "clone_url": w.htmlURL() + ".git", "default_branch": w.DefaultBranch,
		"master_branch": w.DefaultBranch, "fork": false, "url": w.htmlURL(),
	}
}

func (w *WorkTree) account(login string) map[string]any {
	return map[string]any{"login": login, "id": 0, "type": "User", "html_url": w.ServerURL + "/" + login}
}

func (w *WorkTree) commit() map[string]any {
	who := map[string]any{"name": w.Author.Name, "email": w.Author.Email, "username": w.Actor}
	return map[string]any{
		"id": w.SHA, "message": w.Message, "timestamp": w.Author.Date, "author": who, "committer": who,
		"url": w.htmlURL() + "/commit/" + w.SHA, "distinct": true,
	}
}

func (w *WorkTree) pullRequest() map[string]any {
	title, body, _ := strings.Cut(w.Message, "\n")
	head := map[string]any{"ref": w.Branch(), "sha": w.SHA, "label": w.Actor + ":" + w.Branch(), "repo": w.repository()}
	base := map[string]any{"ref": w.DefaultBranch, "sha": w.Before, "label": w.Actor + ":" + w.DefaultBranch, "repo": w.repository()}
	return map[string]any{
		"number": 1, "id": 0, "state": "open", "title": title, "body": strings.TrimSpace(body), "draft": false,
		"merged": false, "user": w.account(w.Actor), "head": head, "base": base, "labels": []any{},
		"merge_commit_sha": w.SHA, "html_url": w.htmlURL() + "/pull/1",
	}
}

func (w *WorkTree) htmlURL() string { return w.ServerURL + "/" + w.Repository }
