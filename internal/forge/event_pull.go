package forge

import (
	"fmt"
	"strings"
	"time"
)

// Pull is a pull request as payloads tell of it. What git knows of it (commits, files, lines) the event adds.
type Pull struct {
	ID          int64
	Number      int64
	Title, Body string
	Closed      bool // merged or not
	Draft       bool
	Merged      bool
	User        Account // who opened it
	MergedBy    Account // if Merged
	Labels      []Label
	Head, Base  PullEnd
	// MergeCommit is the test merge of an open pull request, the commit on the base branch of a merged one; empty if
	// there is none, because of conflicts.
	MergeCommit string
	Created     time.Time
	Updated     time.Time
	ClosedAt    time.Time // if Closed
}

// PullEnd is one end of a pull request.
type PullEnd struct {
	Branch string // without refs/heads/
	SHA    string // of the base: when it was last compared with the head, of a merged one before the merge
	Owner  string // of the repository or, of a head pushed to refs/for/, who pushed it
}

// Label is a label of a pull request.
type Label struct {
	ID          int64
	Name, Color string // colour: six hexadecimal digits
}

// pull is a payload's pull_request, as GitHub's REST API shows it.
func (s Scene) pull(p Pull) map[string]any {
	state, mergedBy := "open", any(nil)
	if p.Closed {
		state = "closed"
	}
	if p.Merged {
		mergedBy = s.account(p.MergedBy)
	}
	labels := make([]any, len(p.Labels))
	for i, l := range p.Labels {
		labels[i] = s.Label(l)
	}
	page := fmt.Sprintf("%s/pull/%d", s.htmlURL(), p.Number)
	return map[string]any{
		"number": p.Number, "id": p.ID, "state": state, "locked": false, "title": p.Title, "body": orNull(p.Body), "draft": p.Draft,
		"merged": p.Merged, "merged_by": mergedBy, "user": s.account(p.User), "labels": labels,
		"head": s.pullEnd(p.Head), "base": s.pullEnd(p.Base), "merge_commit_sha": orNull(p.MergeCommit),
		"assignee": nil, "assignees": []any{}, "requested_reviewers": []any{}, "requested_teams": []any{}, "milestone": nil, "auto_merge": nil,
		"author_association": "MEMBER", "html_url": page, "diff_url": page + ".diff", "patch_url": page + ".patch",
		"url":        fmt.Sprintf("%s/repos/%s/pulls/%d", s.apiURL(), s.Repository.Name, p.Number),
		"created_at": timeOrNull(p.Created), "updated_at": timeOrNull(p.Updated), "closed_at": timeOrNull(p.ClosedAt),
		"merged_at": mergedAt(p),
	}
}

// Label is a label as payloads show it, also the one that a labeled or unlabeled event is about.
func (s Scene) Label(l Label) map[string]any {
	return map[string]any{"id": l.ID, "name": l.Name, "color": l.Color, "default": false, "description": nil}
}

func (s Scene) pullEnd(e PullEnd) map[string]any {
	owner := e.Owner
	if owner == "" {
		owner, _, _ = strings.Cut(s.Repository.Name, "/")
	}
	return map[string]any{
		"ref": e.Branch, "sha": e.SHA, "label": owner + ":" + e.Branch, "repo": s.repository(), "user": s.account(Account{Login: owner}),
	}
}

func mergedAt(p Pull) any {
	if !p.Merged {
		return nil
	}
	return timeOrNull(p.ClosedAt)
}

// orNull is a text, or JSON's null for none.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}
