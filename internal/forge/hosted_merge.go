package forge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrNotMergeable says that a pull request has conflicts, or nothing in common with its base branch.
	ErrNotMergeable = errors.New("the pull request has conflicts with its base branch")
	// ErrMoved says that a branch is not, or not any more, what the caller takes it for.
	ErrMoved = errors.New("the branch has changed since")
	// ErrNothing says that there is nothing to merge: the base branch has all of it.
	ErrNothing = errors.New("there is nothing to merge")
)

// maxRebase is how many commits of a pull request are rebased.
const maxRebase = 250

// PullState is what the refs of a pull request are after SetPull.
type PullState struct {
	Head  string // refs/pull/N/head
	Base  string // the base branch then
	Merge string // refs/pull/N/merge, the test merge; empty with conflicts, then there is no such ref
}

// SetPull brings the refs of an open pull request up to date: refs/pull/N/head is the commit, refs/pull/N/merge is what
// merging it into the branch would give. It is called when the pull request is opened or reopened, and when its head or
// its base branch has changed. The same two commits give the same merge.
//
// The error wraps ErrMoved if there is no such branch, or if it changed meanwhile: then call again.
func (b *Bare) SetPull(ctx context.Context, number int64, branch, head string) (PullState, error) {
	state, err := b.setPull(ctx, number, branch, head)
	if err != nil {
		return PullState{}, fmt.Errorf("update pull request %d of %s: %w", number, b.Name, err)
	}
	return state, nil
}

func (b *Bare) setPull(ctx context.Context, number int64, branch, head string) (PullState, error) {
	base, err := b.branch(ctx, branch)
	if err != nil {
		return PullState{}, err
	}
	headRef, mergeRef := fmt.Sprintf("%s%d/head", pullPrefix, number), fmt.Sprintf("%s%d/merge", pullPrefix, number)
	now, err := b.refs(ctx, headRef, mergeRef)
	if err != nil {
		return PullState{}, err
	}
	state := PullState{Head: head, Base: base}
	state.Merge, err = b.testMerge(ctx, base, head)
	if err != nil && !errors.Is(err, ErrNotMergeable) {
		return PullState{}, err
	}
	var changes []Change
	for ref, want := range map[string]string{headRef: head, mergeRef: state.Merge} {
		if now[ref] != want {
			changes = append(changes, Change{Ref: ref, Old: orZero(now[ref]), New: orZero(want)})
		}
	}
	return state, b.updateRefs(ctx, changes...)
}

// branch gives the commit of a branch.
func (b *Bare) branch(ctx context.Context, name string) (string, error) {
	sha, err := b.Resolve(ctx, "refs/heads/"+name)
	if err == nil && sha == "" {
		err = fmt.Errorf("%w: there is no branch %q", ErrMoved, name)
	}
	return sha, err
}

// testMerge makes the merge of refs/pull/N/merge with GitHub's message. It is dated as the head is, so that the same two
// commits give the same merge.
func (b *Bare) testMerge(ctx context.Context, base, head string) (string, error) {
	tree, err := b.mergeTree(ctx, base, head)
	if err != nil {
		return "", err
	}
	commits, err := b.log(ctx, false, "--max-count=1", head)
	if err != nil || len(commits) != 1 {
		return "", errors.Join(err, fmt.Errorf("commit %s can not be read", head))
	}
	who := commits[0].committer
	return b.commitTree(ctx, commit{
		tree: tree, parents: []string{base, head}, message: "Merge " + head + " into " + base + "\n", author: who, committer: who,
	})
}

// mergeTree merges two commits and gives the tree. The error is ErrNotMergeable for conflicts.
func (b *Bare) mergeTree(ctx context.Context, ours, theirs string) (string, error) {
	if _, code, err := b.call(ctx, call{codes: []int{1}}, "merge-base", ours, theirs); err != nil {
		return "", err
	} else if code == 1 {
		return "", ErrNotMergeable // unrelated histories
	}
	out, code, err := b.call(ctx, call{codes: []int{1}}, "merge-tree", "--write-tree", "--no-messages", ours, theirs)
	if err != nil {
		return "", err
	}
	if code == 1 {
		return "", ErrNotMergeable
	}
	return out, nil
}

// MergeMethod is one of GitHub's ways to merge a pull request.
type MergeMethod string

// The methods, as GitHub's API calls them.
const (
	MergeCommit MergeMethod = "merge"
	MergeSquash MergeMethod = "squash"
	MergeRebase MergeMethod = "rebase"
)

// Merge is a pull request to be merged.
type Merge struct {
	Number       int64
	Method       MergeMethod
	Base         string // the branch
	Head         string // the commit
	HeadLabel    string // OWNER/BRANCH, for the message
	Title        string // of the pull request
	CommitTitle  string // instead of GitHub's; empty: GitHub's
	CommitText   *string
	By           Account
	At           time.Time
	ExpectedBase string // what the branch must be; empty: whatever it is
}

// Merge merges a pull request into its base branch and gives the branch's new commit. It is a push by who merges, with
// the pull request's number in it: Pushed has been told of it when Merge returns, or is told later.
//
// The error wraps ErrNotMergeable, ErrNothing or ErrMoved.
func (b *Bare) Merge(ctx context.Context, m Merge) (string, error) {
	sha, err := b.merge(ctx, m)
	if err != nil {
		return "", fmt.Errorf("merge pull request %d of %s: %w", m.Number, b.Name, err)
	}
	return sha, nil
}

func (b *Bare) merge(ctx context.Context, m Merge) (string, error) {
	base, err := b.branch(ctx, m.Base)
	if err != nil {
		return "", err
	}
	if m.ExpectedBase != "" && base != m.ExpectedBase {
		return "", ErrMoved
	}
	commits, err := b.log(ctx, false, "--reverse", "--topo-order", "--max-count="+strconv.Itoa(maxPushCommits), m.Head, "--not", base)
	if err != nil {
		return "", err
	}
	if len(commits) == 0 {
		return "", ErrNothing
	}
	var sha string
	switch m.Method {
	case MergeCommit:
		sha, err = b.mergeInto(ctx, m, base)
	case MergeSquash:
		sha, err = b.squashOnto(ctx, m, base, commits)
	case MergeRebase:
		sha, err = b.rebaseOnto(ctx, m, base, commits)
	default:
		err = fmt.Errorf("%q is no way to merge: use merge, squash or rebase", m.Method)
	}
	if err != nil {
		return "", err
	}
	return sha, b.change(ctx, Push{
		By: m.By, At: m.At, Pull: m.Number, Changes: []Change{{Ref: "refs/heads/" + m.Base, Old: base, New: sha}},
	})
}

// by is who merges as author of a commit.
func (m Merge) by() Author {
	name := m.By.Name
	if name == "" {
		name = m.By.Login
	}
	return Author{Name: name, Email: m.By.email(), Date: m.At.UTC().Format(time.RFC3339)}
}

// message is what the caller wants said, or else what GitHub says.
func (m Merge) message(title, text string) string {
	if m.CommitTitle != "" {
		title = m.CommitTitle
	}
	if m.CommitText != nil {
		text = *m.CommitText
	}
	return strings.TrimRight(title+"\n\n"+text, "\n") + "\n"
}

func (b *Bare) mergeInto(ctx context.Context, m Merge, base string) (string, error) {
	tree, err := b.mergeTree(ctx, base, m.Head)
	if err != nil {
		return "", err
	}
	return b.commitTree(ctx, commit{
		tree: tree, parents: []string{base, m.Head}, author: m.by(), committer: m.by(),
		message: m.message(fmt.Sprintf("Merge pull request #%d from %s", m.Number, m.HeadLabel), m.Title),
	})
}

// squashOnto makes one commit of all. Of a single one it keeps the message, of several it lists them, as GitHub.
func (b *Bare) squashOnto(ctx context.Context, m Merge, base string, commits []commit) (string, error) {
	tree, err := b.mergeTree(ctx, base, m.Head)
	if err != nil {
		return "", err
	}
	title, text := m.Title, ""
	if len(commits) == 1 {
		title, text, _ = strings.Cut(commits[0].message, "\n")
		text = strings.TrimLeft(text, "\n")
	} else {
		for _, c := range commits {
			text += "* " + c.message + "\n\n"
		}
	}
	return b.commitTree(ctx, commit{
		tree: tree, parents: []string{base}, author: commits[0].author, committer: m.by(),
		message: m.message(fmt.Sprintf("%s (#%d)", title, m.Number), text),
	})
}

// rebaseOnto makes the commits again on top of the base branch, each with its author and its message. Merges among them
// and what the branch has already are left out, as by git rebase.
func (b *Bare) rebaseOnto(ctx context.Context, m Merge, base string, commits []commit) (string, error) {
	if len(commits) > maxRebase {
		return "", fmt.Errorf("%w: %d commits are too many to rebase, merge or squash them", ErrNotMergeable, len(commits))
	}
	onto, err := b.log(ctx, false, "--max-count=1", base)
	if err != nil || len(onto) != 1 {
		return "", errors.Join(err, fmt.Errorf("commit %s can not be read", base))
	}
	tip := onto[0]
	for _, c := range commits {
		if len(c.parents) != 1 {
			if len(c.parents) == 0 {
				return "", ErrNotMergeable
			}
			continue
		}
		tree, err := b.pick(ctx, tip, c, m.by())
		if err != nil {
			return "", err
		}
		if tree == tip.tree {
			continue
		}
		next := commit{tree: tree, parents: []string{tip.sha}, message: c.message + "\n", author: c.author, committer: m.by()}
		if next.sha, err = b.commitTree(ctx, next); err != nil {
			return "", err
		}
		tip = next
	}
	if tip.sha == base {
		return "", ErrNothing
	}
	return tip.sha, nil
}

// pick gives the tree of a commit's change on top of another commit. git merge-tree finds the base of a merge itself:
// so the commit is merged with one that has the other's files and the commit's parent.
func (b *Bare) pick(ctx context.Context, onto, c commit, by Author) (string, error) {
	beside, err := b.commitTree(ctx, commit{tree: onto.tree, parents: c.parents, message: "beside\n", author: by, committer: by})
	if err != nil {
		return "", err
	}
	return b.mergeTree(ctx, beside, c.sha)
}

// UpdateRefs changes branches and tags for somebody who does not push, all or none, as a push of theirs would. The error
// wraps ErrMoved if one of them is not what Old says.
func (b *Bare) UpdateRefs(ctx context.Context, by Account, at time.Time, changes ...Change) error {
	for _, c := range changes {
		if err := checkChange(c); err != nil || !strings.HasPrefix(c.Ref, "refs/heads/") && !strings.HasPrefix(c.Ref, "refs/tags/") {
			return errors.Join(err, fmt.Errorf("update %s of %s: only branches and tags are changed so", c.Ref, b.Name))
		}
	}
	if err := b.change(ctx, Push{By: by, At: at, Changes: changes}); err != nil {
		return fmt.Errorf("update refs of %s: %w", b.Name, err)
	}
	return nil
}

// change makes a push of our own: with the journal, the lock and the telling of one that comes from outside. An error of
// telling is not one of changing: it is told later.
func (b *Bare) change(ctx context.Context, p Push) error {
	held, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer held.release()
	var names []string
	for _, c := range p.Changes {
		names = append(names, c.Ref)
	}
	now, err := b.refs(ctx, names...)
	if err != nil {
		return err
	}
	for _, c := range p.Changes {
		if orZero(now[c.Ref]) != c.Old || c.Old == c.New {
			return fmt.Errorf("%w: %s is %s", ErrMoved, c.Ref, orZero(now[c.Ref]))
		}
	}
	if err := b.begin(p); err != nil {
		return err
	}
	changed := b.updateRefs(ctx, p.Changes...)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := b.settle(after); err != nil {
		return errors.Join(changed, err)
	}
	held.release()
	if changed == nil {
		_, _ = b.deliver(after) // the push stays in the journal and is told of by the next one or by Recover
	}
	return changed
}

func orZero(sha string) string {
	if sha == "" {
		return zeroSHA
	}
	return sha
}
