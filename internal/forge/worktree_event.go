package forge

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// Event tells that the named event happens now, here: a push of HEAD, a pull request of this branch into the
// default one, a dispatch. payload replaces GitHub's event payload where given (penstock run -e); the context's
// fields follow it, so a payload with pull_request.head.ref decides head_ref.
func (w *WorkTree) Event(ctx context.Context, name string, payload expr.Value) (*Event, error) {
	made := w.scene().payload(w.payload(name))
	if !payload.IsNull() {
		if payload.Kind() != expr.KindObject {
			return nil, fmt.Errorf("the event payload is %s, not an object", strings.ToLower(string(payload.Kind())))
		}
		for _, p := range payload.Pairs() {
			made = made.With(p.Key, p.Value)
		}
	}
	at := place{ref: w.Ref, sha: w.SHA}
	if strings.HasPrefix(name, "pull_request") {
		pr := made.Property("pull_request")
		at.base, at.head = pr.Property("base").Property("ref").Text(), pr.Property("head").Property("ref").Text()
		if name == "pull_request_target" {
			at.ref = "refs/heads/" + at.base
		} else {
			at.ref = fmt.Sprintf("refs/pull/%s/merge", made.Property("number").Text())
		}
	} else if r := made.Property("ref").Text(); r != "" && (name == "push" || name == "workflow_dispatch") {
		at.ref = r
	}
	ev := w.scene().event(name, at, made)
	ev.Match.CommitMessage = w.Message
	if name == "push" || strings.HasPrefix(name, "pull_request") {
		var err error
		if ev.Match.Paths, ev.Match.PathsKnown, err = w.Changed(ctx); err != nil {
			return nil, err
		}
	}
	return ev, nil
}

// scene is what a working tree knows of where it is; it has no numbers.
func (w *WorkTree) scene() Scene {
	return Scene{
		ServerURL: w.ServerURL, Sender: Account{Login: w.Actor},
		Repository: Repository{Name: w.Repository, DefaultBranch: w.DefaultBranch},
	}
}

// payload is what GitHub would send with the event, as far as a working tree can know it.
func (w *WorkTree) payload(event string) map[string]any {
	p := map[string]any{}
	switch event {
	case "push":
		commit := w.commit()
		p["ref"], p["before"], p["after"] = w.Ref, w.Before, w.SHA
		p["created"], p["deleted"], p["forced"], p["base_ref"] = w.Before == zeroSHA, false, false, nil
		p["compare"] = w.scene().compareURL(w.Before, w.SHA)
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
	return p
}

func (w *WorkTree) commit() map[string]any {
	c := commit{
		sha: w.SHA, message: w.Message, author: w.Author, committer: w.Author,
	}
	made := w.scene().commit(c, true)
	for _, who := range []string{"author", "committer"} {
		made[who].(map[string]any)["username"] = w.Actor
	}
	return made
}

func (w *WorkTree) pullRequest() map[string]any {
	s := w.scene()
	title, body, _ := strings.Cut(w.Message, "\n")
	return s.pull(Pull{
		Number: 1, Title: title, Body: strings.TrimSpace(body), User: s.Sender, MergeCommit: w.SHA,
		Head: PullEnd{Branch: w.Branch(), SHA: w.SHA, Owner: w.Actor},
		Base: PullEnd{Branch: w.DefaultBranch, SHA: w.Before, Owner: w.Actor},
	})
}
