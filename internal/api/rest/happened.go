package rest

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/penstock-ci/penstock/internal/store"
)

// Happening is something that was done by the API and that workflows may run on.
type Happening struct {
	Event, Action string // as in GitHub's events: pull_request, opened
	Number        int64  // of the issue or pull request; 0 where there is none
	// Payload is what the event has besides the repository and the sender, of JSON's own types: what forge.Bare.Event
	// takes. That of a pull_request has only what it has besides the pull request: a label, changes.
	Payload map[string]any
}

// happened tells of what was done.
func (c *call) happened(h Happening) error {
	if c.Happened == nil {
		return nil
	}
	text, err := json.Marshal(h.Payload)
	if err != nil {
		return err
	}
	h.Payload = object{}
	if err := json.Unmarshal(text, &h.Payload); err != nil {
		return err
	}
	if h.Payload == nil {
		h.Payload = object{}
	}
	if h.Action != "" {
		h.Payload["action"] = h.Action
	}
	return c.Happened(c.ctx, c.by, c.repo, h)
}

// issueHappened tells of what was done to an issue or a pull request; extra is what the event has besides that.
func (c *call) issueHappened(d *document, action string, extra object) error {
	if c.Happened == nil {
		return nil
	}
	h := Happening{Event: "pull_request", Action: action, Number: numberOf(d), Payload: extra}
	if d.body["pull"] == nil {
		h.Event, h.Payload = "issues", object{"issue": c.issueObject(d)}
		for k, v := range extra {
			h.Payload[k] = v
		}
	}
	return c.happened(h)
}

// issueWas is what of an issue or a pull request events tell the change of.
type issueWas struct {
	title, body, state, base string
	labels, assignees        []string
}

func lookAt(d *document) issueWas {
	return issueWas{d.text("title"), d.text("body"), d.text("state"), d.pullPart("base_ref"), d.list("labels"), d.list("assignees")}
}

// issueChanged tells of all that is not as it was.
func (c *call) issueChanged(was issueWas, d *document) error {
	if c.Happened == nil {
		return nil
	}
	now := lookAt(d)
	type event struct {
		action string
		extra  object
	}
	var events []event
	changes := object{}
	if now.title != was.title {
		changes["title"] = object{"from": was.title}
	}
	if now.body != was.body {
		changes["body"] = object{"from": was.body}
	}
	if now.base != was.base {
		changes["base"] = object{"ref": object{"from": was.base}}
	}
	if len(changes) > 0 {
		events = append(events, event{"edited", object{"changes": changes}})
	}
	for _, name := range without(now.labels, was.labels) {
		events = append(events, event{"labeled", object{"label": c.labelOf(name)}})
	}
	for _, name := range without(was.labels, now.labels) {
		events = append(events, event{"unlabeled", object{"label": c.labelOf(name)}})
	}
	for _, login := range without(now.assignees, was.assignees) {
		events = append(events, event{"assigned", object{"assignee": c.user(login)}})
	}
	for _, login := range without(was.assignees, now.assignees) {
		events = append(events, event{"unassigned", object{"assignee": c.user(login)}})
	}
	if now.state != was.state {
		events = append(events, event{map[string]string{"open": "reopened", "closed": "closed"}[now.state], nil})
	}
	for _, e := range events {
		if err := c.issueHappened(d, e.action, e.extra); err != nil {
			return err
		}
	}
	return nil
}

// without are those of a list that are not in another.
func without(list, other []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(other, s) {
			out = append(out, s)
		}
	}
	return out
}

// commentHappened tells of what was done to a comment of an issue or a pull request.
func (c *call) commentHappened(d *document, action string) error {
	if c.Happened == nil {
		return nil
	}
	issue, err := c.named(kindIssue, "", d.Parent)
	if errors.Is(err, store.ErrNotFound) {
		return nil // of an issue that is GitHub's
	}
	if err != nil {
		return err
	}
	return c.happened(Happening{
		Event: "issue_comment", Action: action, Number: numberOf(issue), Payload: object{"issue": c.issueObject(issue), "comment": c.commentObject(d)},
	})
}

// releaseHappened tells of what was done to a release. Of a draft nobody is told, as on GitHub.
// https://docs.github.com/en/actions/reference/workflows-and-actions/events-that-trigger-workflows#release
func (c *call) releaseHappened(d *document, actions ...string) error {
	if c.Happened == nil || d.yes("draft") {
		return nil
	}
	for _, action := range actions {
		if err := c.happened(Happening{Event: "release", Action: action, Payload: object{"release": c.releaseObject(d)}}); err != nil {
			return err
		}
	}
	return nil
}

// published are the actions of a release that everybody sees from now on.
func published(d *document) []string {
	if d.yes("prerelease") {
		return []string{"published", "prereleased"}
	}
	return []string{"published", "released"}
}
