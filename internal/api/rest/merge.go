package rest

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Merge is how a pull request is to be merged.
type Merge struct {
	Number        int64
	Method        string // merge, squash, rebase
	Base, Head    string // the branch, and the commit
	HeadLabel     string // owner/branch
	Title         string // of the pull request
	CommitTitle   string // instead of the usual one; empty: that
	CommitMessage *string
}

// ErrNotMergeable says that a pull request can not be merged as it is, and why.
var ErrNotMergeable = errors.New("the pull request is not mergeable")

func (c *call) isMerged() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	if !pullOf(d).Merged {
		return nil, errNotFound
	}
	return noContent, nil
}

func (c *call) merge() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	p := pullOf(d)
	if p.Closed || p.Draft || c.repo.Merge == nil {
		return nil, &Error{Status: http.StatusMethodNotAllowed, Message: "Pull Request is not mergeable"}
	}
	m := Merge{Number: p.Number, Base: p.BaseRef, Head: p.HeadSHA, HeadLabel: ownerOf(c.repo.Name) + "/" + p.HeadRef, Title: p.Title}
	if m.Method, err = c.oneOf("PullRequest", "merge_method", "merge", "merge", "squash", "rebase"); err != nil {
		return nil, err
	}
	if m.CommitTitle, err = c.text("commit_title", ""); err != nil {
		return nil, err
	}
	if c.in["commit_message"] != nil {
		message, err := c.text("commit_message", "")
		if err != nil {
			return nil, err
		}
		m.CommitMessage = &message
	}
	if sha, err := c.text("sha", p.HeadSHA); err != nil {
		return nil, err
	} else if sha != p.HeadSHA {
		return nil, &Error{Status: http.StatusConflict, Message: "Head branch was modified. Review and try the merge again."}
	}
	if err := c.claimMerge(); err != nil {
		return nil, err
	}
	sha, err := c.repo.Merge(c.ctx, c.by, m)
	if err != nil {
		err = errors.Join(err, c.releaseMerge())
	}
	if errors.Is(err, ErrNotMergeable) {
		return nil, &Error{Status: http.StatusMethodNotAllowed, Message: "Pull Request is not mergeable"}
	}
	if err != nil {
		return nil, err
	}
	return object{"sha": sha, "merged": true, "message": "Pull Request successfully merged"}, nil
}

// maxMerging is how long a pull request stays claimed by a merge whose server has died.
const maxMerging = 2 * time.Minute

// claimMerge marks the pull request, so that nobody else merges it meanwhile: two squashes would be two commits.
func (c *call) claimMerge() error {
	_, err := c.change(c.pull, func(d *document) error {
		pull, _ := d.body["pull"].(object)
		claimed, _ := pull["merging"].(string)
		at, err := time.Parse(time.RFC3339, claimed)
		switch {
		case d.text("state") == "closed":
			return &Error{Status: http.StatusMethodNotAllowed, Message: "Pull Request is not mergeable"}
		case err == nil && c.Now().Sub(at) < maxMerging:
			return &Error{Status: http.StatusMethodNotAllowed, Message: "Merge already in progress"}
		}
		pull["merging"] = c.now()
		return nil
	})
	return err
}

func (c *call) releaseMerge() error {
	of := *c
	of.ctx = context.WithoutCancel(c.ctx)
	_, err := of.change(of.pull, func(d *document) error {
		pull, _ := d.body["pull"].(object)
		delete(pull, "merging")
		return nil
	})
	return err
}

// SetMerged closes a pull request whose commits are in its base as of a commit.
func (a *API) SetMerged(ctx context.Context, repo *Repository, number int64, sha, by string) (Pull, error) {
	c := &call{API: a, ctx: ctx, by: &Caller{}, repo: repo}
	d, err := c.change(func() (*document, error) { return c.named(kindIssue, "", text(number)) }, func(d *document) error {
		pull, _ := d.body["pull"].(object)
		if pull == nil || pull["merged"] == true {
			return nil
		}
		delete(pull, "merging")
		pull["merged"], pull["merged_at"], pull["merge_commit_sha"], pull["merged_by"] = true, c.now(), sha, by
		d.body["state"], d.body["closed_at"], d.body["closed_by"], d.body["updated_at"] = "closed", c.now(), by, c.now()
		return nil
	})
	if err != nil {
		return Pull{}, err
	}
	return pullOf(d), nil
}
