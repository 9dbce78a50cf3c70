package forge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxPushCommits is how many commits a push event lists, as GitHub's.
	maxPushCommits = 2048
	// maxNewCommits is how many commits are looked at to tell the new ones from those that another ref has already.
	// GitHub runs workflows whatever their path filters say when a push has more than 1,000.
	maxNewCommits = 1000
)

// Event tells of what happens to the repository besides pushes and pull requests (PushEvent, PullEvent). payload is
// what is the event's own in GitHub's shape, as encoding/json decodes it; repository and sender are added. GitHub's page
// "Events that trigger workflows" says which commit and ref each event runs at:
//
//   - workflow_dispatch: the branch or tag of payload's ref, which may be short
//   - create: the ref of payload's ref and ref_type
//   - release: the tag of release.tag_name
//   - deployment, deployment_status: deployment.sha, and the branch or tag of deployment.ref if it is one
//   - all others (schedule, repository_dispatch, workflow_run, delete, ...): the default branch
//
// The error says so if there is no such ref or commit.
func (b *Bare) Event(ctx context.Context, s Scene, name string, payload map[string]any) (*Event, error) {
	at, err := b.where(ctx, s, name, payload)
	if err != nil {
		return nil, fmt.Errorf("event %s of %s: %w", name, b.Name, err)
	}
	if name == "workflow_dispatch" {
		payload = maps.Clone(payload)
		payload["ref"] = at.ref // in full, as GitHub's
	}
	ev := s.event(name, at, s.payload(payload))
	switch name {
	case "schedule":
		ev.Match.Schedule = textAt(payload, "schedule")
	case "workflow_run":
		ev.Match.Branch, ev.Match.Workflow = textAt(payload, "workflow_run", "head_branch"), textAt(payload, "workflow_run", "name")
	}
	return ev, nil
}

// where is the commit and ref that an event runs at.
func (b *Bare) where(ctx context.Context, s Scene, name string, payload map[string]any) (place, error) {
	ref := "refs/heads/" + s.Repository.DefaultBranch
	switch name {
	case "workflow_dispatch":
		return b.named(ctx, textAt(payload, "ref"))
	case "create":
		ref = "refs/heads/" + textAt(payload, "ref")
		if textAt(payload, "ref_type") == "tag" {
			ref = "refs/tags/" + textAt(payload, "ref")
		}
	case "release":
		ref = "refs/tags/" + textAt(payload, "release", "tag_name")
	case "deployment", "deployment_status":
		at, err := b.named(ctx, textAt(payload, "deployment", "ref"))
		if errors.Is(err, errNoRef) {
			at.ref = "" // it was made for a commit
		} else if err != nil {
			return at, err
		}
		at.sha, err = b.Resolve(ctx, textAt(payload, "deployment", "sha"))
		if err == nil && at.sha == "" {
			err = errors.New("deployment.sha is no commit of it")
		}
		return at, err
	}
	return b.at(ctx, ref)
}

var errNoRef = errors.New("no such branch or tag")

// named finds a branch or a tag by its short or full name; of two with one name it is the branch, as on GitHub.
func (b *Bare) named(ctx context.Context, name string) (place, error) {
	if strings.HasPrefix(name, "refs/") {
		return b.at(ctx, name)
	}
	at, err := b.at(ctx, "refs/heads/"+name)
	if errors.Is(err, errNoRef) {
		at, err = b.at(ctx, "refs/tags/"+name)
	}
	return at, err
}

func (b *Bare) at(ctx context.Context, ref string) (place, error) {
	sha, err := b.Resolve(ctx, ref)
	if err == nil && sha == "" {
		err = fmt.Errorf("%w: %.255q", errNoRef, ref)
	}
	return place{ref: ref, sha: sha}, err
}

// RefEvent is the create or delete event of a change, which a push of a new or deleted branch or tag is besides.
func (b *Bare) RefEvent(ctx context.Context, s Scene, c Change) (*Event, error) {
	short, kind := strings.TrimPrefix(c.Ref, "refs/heads/"), "branch"
	if tag, ok := strings.CutPrefix(c.Ref, "refs/tags/"); ok {
		short, kind = tag, "tag"
	}
	own := map[string]any{"ref": short, "ref_type": kind, "pusher_type": "user"}
	if c.Deleted() {
		return b.Event(ctx, s, "delete", own)
	}
	own["master_branch"], own["description"] = s.Repository.DefaultBranch, nil
	return b.Event(ctx, s, "create", own)
}

// PushEvent is the push event of one change of a branch or tag. Nothing runs for a deletion: its SHA is empty.
//
// Path filters look at what GitHub documents: all that differs between before and after; of a new branch, all that
// differs from the parent of its first commit that no other ref has.
func (b *Bare) PushEvent(ctx context.Context, s Scene, c Change) (*Event, error) {
	pushed, err := b.pushed(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("push event of %s of %s: %w", c.Ref, b.Name, err)
	}
	own := map[string]any{
		"ref": c.Ref, "before": c.Old, "after": c.New, "created": c.Created(), "deleted": c.Deleted(), "forced": pushed.forced,
		"base_ref": nil, "compare": s.compareURL(c.Old, c.New), "commits": []any{}, "head_commit": nil,
		"pusher": map[string]any{"name": s.Sender.Login, "email": s.Sender.email()},
	}
	if c.Created() {
		own["compare"] = fmt.Sprintf("%s/compare/%s", s.htmlURL(), strings.TrimPrefix(strings.TrimPrefix(c.Ref, "refs/heads/"), "refs/tags/"))
	}
	listed := make([]any, len(pushed.commits))
	for i, one := range pushed.commits {
		listed[i] = s.pushCommit(one, pushed.fresh[one.sha] || pushed.allFresh)
	}
	own["commits"] = listed
	at := place{ref: c.Ref}
	if !c.Deleted() {
		own["head_commit"] = s.pushCommit(pushed.head, pushed.fresh[pushed.head.sha] || pushed.allFresh)
		at.sha = pushed.head.sha
	}
	ev := s.event("push", at, s.payload(own))
	ev.Match.Paths, ev.Match.PathsKnown, ev.Match.CommitMessage = pushed.paths, pushed.pathsKnown, pushed.head.message
	return ev, nil
}

// email is the account's address for commits.
func (a Account) email() string {
	if a.Email != "" {
		return a.Email
	}
	return a.Login + "@users.noreply.localhost"
}

// pushCommit is a commit of a push with its files.
func (s Scene) pushCommit(c commit, distinct bool) map[string]any {
	lists := map[string][]any{"added": {}, "removed": {}, "modified": {}}
	for _, f := range c.files {
		kind := "modified"
		switch f.status {
		case 'A':
			kind = "added"
		case 'D':
			kind = "removed"
		}
		lists[kind] = append(lists[kind], f.path)
	}
	made := s.commit(c, distinct)
	for kind, paths := range lists {
		made[kind] = paths
	}
	return made
}

// pushed is what git knows of a push.
type pushed struct {
	head       commit
	commits    []commit // oldest first
	fresh      map[string]bool
	allFresh   bool // so many that they are not told apart
	forced     bool
	paths      []string
	pathsKnown bool
}

func (b *Bare) pushed(ctx context.Context, c Change) (*pushed, error) {
	p := &pushed{}
	var err error
	if !c.Created() && !c.Deleted() {
		if p.forced, err = b.forced(ctx, c); err != nil {
			return nil, err
		}
	}
	if c.Deleted() {
		return p, nil
	}
	sha, err := b.resolve(ctx, c.New)
	if err != nil {
		return nil, err
	}
	if sha == "" {
		return nil, fmt.Errorf("%s is no commit", c.New) // a tag of a file or a directory
	}
	if err := b.readFresh(ctx, p, c, sha); err != nil {
		return nil, err
	}
	if err := b.readCommits(ctx, p, c, sha); err != nil {
		return nil, err
	}
	p.paths, p.pathsKnown, err = b.pushedPaths(ctx, p, c, sha)
	return p, err
}

// forced reports whether a change threw commits away.
func (b *Bare) forced(ctx context.Context, c Change) (bool, error) {
	_, code, err := b.call(ctx, call{codes: []int{1, 128}}, "merge-base", "--is-ancestor", c.Old, c.New)
	return code != 0, err // 128: the old commit is gone or was none
}

// readFresh finds the commits that no other branch or tag has, and that the ref had not before.
func (b *Bare) readFresh(ctx context.Context, p *pushed, c Change, sha string) error {
	args := []string{"rev-list", "--max-count=" + strconv.Itoa(maxNewCommits+1), sha, "--not", "--exclude=" + c.Ref, "--glob=refs/heads", "--exclude=" + c.Ref, "--glob=refs/tags"}
	if old, err := b.resolve(ctx, c.Old); err != nil {
		return err
	} else if !c.Created() && old != "" {
		args = append(args, old)
	}
	out, err := b.git(ctx, args...)
	if err != nil {
		return err
	}
	fresh := strings.Fields(out)
	p.allFresh = len(fresh) > maxNewCommits
	p.fresh = make(map[string]bool, len(fresh))
	for _, f := range fresh {
		p.fresh[f] = true
	}
	return nil
}

// readCommits reads the commits that the event lists and the one it is about. Of a new ref those are the fresh ones.
func (b *Bare) readCommits(ctx context.Context, p *pushed, c Change, sha string) error {
	head, err := b.log(ctx, true, "--max-count=1", sha)
	if err != nil {
		return err
	}
	if len(head) != 1 {
		return fmt.Errorf("commit %s can not be read", sha)
	}
	p.head = head[0]
	if strings.HasPrefix(c.Ref, "refs/tags/") || c.Created() && len(p.fresh) == 0 {
		return nil
	}
	args := []string{"--max-count=" + strconv.Itoa(maxPushCommits), sha}
	if old, err := b.resolve(ctx, c.Old); err != nil {
		return err
	} else if !c.Created() && old != "" {
		args = append(args, "--not", old)
	} else {
		args = append(args, "--not", "--exclude="+c.Ref, "--branches")
	}
	if p.commits, err = b.log(ctx, len(p.fresh) <= maxNewCommits, args...); err != nil {
		return err
	}
	slices.Reverse(p.commits)
	return nil
}

// pushedPaths lists what path filters look at.
func (b *Bare) pushedPaths(ctx context.Context, p *pushed, c Change, sha string) (paths []string, known bool, err error) {
	if p.allFresh || strings.HasPrefix(c.Ref, "refs/tags/") {
		return nil, false, nil
	}
	from, err := b.resolve(ctx, c.Old)
	if c.Created() {
		from, err = b.branchedFrom(ctx, p, sha)
	}
	if err != nil || from == "" {
		return nil, false, err
	}
	return b.differ(ctx, from, sha)
}

// emptyTree is git's name for a directory with nothing in it, which it knows without having it.
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// branchedFrom is what a new branch is compared with: the parent of its deepest fresh commit, nothing at all if that is
// the first of the repository, the branch itself if none is fresh.
func (b *Bare) branchedFrom(ctx context.Context, p *pushed, sha string) (string, error) {
	if len(p.fresh) == 0 {
		return sha, nil
	}
	out, err := b.git(ctx, "rev-list", "--topo-order", "--parents", "--max-count="+strconv.Itoa(maxNewCommits), sha)
	if err != nil {
		return "", err
	}
	from := ""
	for line := range strings.Lines(out) {
		shas := strings.Fields(line)
		if !p.fresh[shas[0]] {
			continue
		}
		from = emptyTree
		if len(shas) > 1 {
			from = shas[1]
		}
	}
	return from, nil
}

// differ lists the paths that differ between two commits. There are more than path filters look at if known is false.
func (b *Bare) differ(ctx context.Context, from, to string) (paths []string, known bool, err error) {
	out, err := b.git(ctx, "diff-tree", "-r", "-z", "--no-commit-id", "--name-only", "--no-renames", from, to)
	if err != nil {
		return nil, false, err
	}
	for p := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		if p != "" {
			paths = append(paths, p)
		}
		if len(paths) > maxFiles {
			return nil, false, nil
		}
	}
	return paths, true, nil
}

// PullEvent is a pull_request or pull_request_target event: what happened to it is the action (opened, synchronize,
// labeled, ...), and what the action adds to the payload is extra: label, changes, before and after.
//
// pull_request runs at the test merge, of a merged one at the base branch; with conflicts there is none, the event's SHA
// is empty and nothing runs, as on GitHub. pull_request_target runs at the base branch. Path filters look at what differs
// between the head and where it left the base branch.
func (b *Bare) PullEvent(ctx context.Context, s Scene, name, action string, p Pull, extra map[string]any) (*Event, error) {
	numbers, err := b.pullNumbers(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("event %s of pull request %d of %s: %w", name, p.Number, b.Name, err)
	}
	pull := s.pull(p)
	pull["commits"], pull["changed_files"], pull["additions"], pull["deletions"] = numbers.commits, numbers.files, numbers.additions, numbers.deletions
	pull["mergeable"], pull["rebaseable"], pull["mergeable_state"] = nil, nil, "unknown"
	if !p.Closed {
		pull["mergeable"], pull["rebaseable"], pull["mergeable_state"] = p.MergeCommit != "", p.MergeCommit != "", "clean"
		if p.MergeCommit == "" {
			pull["mergeable_state"] = "dirty"
		}
	}
	own := map[string]any{"action": action, "number": p.Number, "pull_request": pull}
	for k, v := range extra {
		own[k] = v
	}
	at := place{ref: fmt.Sprintf("%s%d/merge", pullPrefix, p.Number), sha: p.MergeCommit, base: p.Base.Branch, head: p.Head.Branch}
	if name == "pull_request_target" || p.Merged {
		at.ref = "refs/heads/" + p.Base.Branch
	}
	if name == "pull_request_target" {
		at.sha = p.Base.SHA
	}
	ev := s.event(name, at, s.payload(own))
	ev.Match.Paths, ev.Match.PathsKnown, ev.Match.CommitMessage = numbers.paths, numbers.pathsKnown, numbers.message
	return ev, nil
}

// pullNumbers is what git knows of a pull request.
type pullNumbers struct {
	commits, files, additions, deletions int
	paths                                []string
	pathsKnown                           bool
	message                              string // of the head
}

func (b *Bare) pullNumbers(ctx context.Context, p Pull) (n pullNumbers, err error) {
	head, err := b.log(ctx, false, "--max-count=1", p.Head.SHA)
	if err != nil {
		return n, err
	}
	for _, c := range head {
		n.message = c.message
	}
	from, code, err := b.call(ctx, call{codes: []int{1}}, "merge-base", p.Base.SHA, p.Head.SHA)
	if err != nil {
		return n, err
	}
	if code == 1 {
		from = emptyTree // no common history
	}
	count, err := b.git(ctx, "rev-list", "--count", p.Head.SHA, "--not", p.Base.SHA)
	if err != nil {
		return n, err
	}
	if n.commits, err = strconv.Atoi(count); err != nil {
		return n, err
	}
	out, err := b.git(ctx, "diff-tree", "-r", "-z", "--no-commit-id", "--numstat", "--no-renames", from, p.Head.SHA)
	if err != nil {
		return n, err
	}
	n.paths, n.pathsKnown = []string{}, true
	for line := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		f := strings.SplitN(line, "\t", 3)
		if len(f) < 3 {
			continue
		}
		added, _ := strconv.Atoi(f[0]) // "-" of a binary file counts as none
		deleted, _ := strconv.Atoi(f[1])
		n.files, n.additions, n.deletions = n.files+1, n.additions+added, n.deletions+deleted
		if n.files <= maxFiles {
			n.paths = append(n.paths, f[2])
		}
	}
	if n.files > maxFiles {
		n.paths, n.pathsKnown = nil, false
	}
	return n, nil
}

// textAt is a text deep in a decoded object; "" if there is none.
func textAt(o any, path ...string) string {
	for _, p := range path {
		m, _ := o.(map[string]any)
		o = m[p]
	}
	s, _ := o.(string)
	return s
}
