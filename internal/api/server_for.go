package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
)

// pushedFor opens a pull request for what was pushed to refs/for/BRANCH, or refs/for/BRANCH/TOPIC; a later push by the same
// user for the same branch and topic brings it up to date.
func (s *Server) pushedFor(ctx context.Context, bare *forge.Bare, repo store.Repository, p forge.Push, target string, c forge.Change) ([]string, error) {
	base, topic, sha, err := baseOf(ctx, bare, target)
	if err != nil {
		return nil, err
	}
	if sha == "" {
		return []string{fmt.Sprintf("There is no branch %s to merge into", target)}, nil
	}
	if in, err := bare.Contains(ctx, sha, c.New); err != nil || in {
		return []string{fmt.Sprintf("%s has all of this already", base)}, err
	}
	head := p.By.Login + "/for-" + base
	if topic != "" {
		head = p.By.Login + "/" + topic
	}
	r, err := s.restRepository(repo)
	if err != nil {
		return nil, err
	}
	open, err := s.rest.OpenPulls(ctx, r)
	if err != nil {
		return nil, err
	}
	action, extra := "opened", map[string]any(nil)
	var pull rest.Pull
	for _, known := range open {
		if known.HeadRef == head && known.BaseRef == base {
			pull, action, extra = known, "synchronize", map[string]any{"before": known.HeadSHA, "after": c.New}
		}
	}
	if action == "opened" {
		title, body, err := bare.Message(ctx, c.New)
		if err != nil {
			return nil, err
		}
		pull, err = s.rest.OpenPull(ctx, r, rest.Pull{Title: title, Body: body, User: p.By.Login, HeadRef: head, HeadSHA: c.New, BaseRef: base, BaseSHA: sha})
		if err != nil {
			return nil, err
		}
	}
	if pull, err = s.setPull(ctx, bare, r, pull.Number, base, c.New); err != nil {
		return nil, err
	}
	notes := []string{fmt.Sprintf("Pull request #%d: %s/pull/%d", pull.Number, r.Web, pull.Number)}
	more, err := s.pullEvent(ctx, bare, repo, p.By, action, pull, extra)
	return append(notes, more...), err
}

// baseOf finds the branch that a name begins with, the longest there is; what follows it is the topic.
func baseOf(ctx context.Context, bare *forge.Bare, target string) (base, topic, sha string, err error) {
	for base = target; base != ""; {
		if sha, err = bare.Resolve(ctx, "refs/heads/"+base); err != nil || sha != "" {
			return base, strings.TrimPrefix(strings.TrimPrefix(target, base), "/"), sha, err
		}
		at := strings.LastIndexByte(base, '/')
		base = base[:max(at, 0)]
	}
	return "", "", "", nil
}
