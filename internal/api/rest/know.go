package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/penstock-ci/penstock/internal/store"
)

// Know makes the issue or the pull request that an event's payload tells of known to the API, if it is not so already.
func (a *API) Know(ctx context.Context, repo *Repository, payload []byte) error {
	var event object
	if err := json.Unmarshal(payload, &event); err != nil {
		return fmt.Errorf("read the event: %w", err)
	}
	told, isPull := event["pull_request"].(object)
	if !isPull {
		told, _ = event["issue"].(object)
	}
	n, _ := told["number"].(float64)
	if n < 1 {
		return nil
	}
	c := &call{API: a, ctx: ctx, by: &Caller{}, repo: repo}
	body := object{
		"title": textIn(told, "title"), "body": told["body"], "state": "open", "state_reason": nil, "user": textIn(told, "user", "login"), "labels": names(told["labels"]),
		"assignees": []string{}, "locked": false, "created_at": c.now(), "updated_at": c.now(), "closed_at": nil, "closed_by": "",
	}
	if isPull {
		body["pull"] = object{
			"head_ref": textIn(told, "head", "ref"), "head_sha": textIn(told, "head", "sha"), "base_ref": textIn(told, "base", "ref"), "base_sha": textIn(told, "base", "sha"),
			"draft": told["draft"] == true, "merged": false, "merged_at": nil, "merge_commit_sha": told["merge_commit_sha"],
		}
	}
	_, err := c.add(kindIssue, "", text(int64(n)), body)
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

// textIn is a text deep in an object, "" if there is none.
func textIn(o any, path ...string) string {
	for _, p := range path {
		m, _ := o.(object)
		o = m[p]
	}
	s, _ := o.(string)
	return s
}
