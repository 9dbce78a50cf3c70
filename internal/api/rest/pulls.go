package rest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/store"
)

var (
	readPulls  = needs("pull-requests:read")
	writePulls = needs("pull-requests:write")
)

var pullRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/pulls", scopes: readPulls, handle: (*call).listPulls},
	{pattern: "POST /repos/{owner}/{repo}/pulls", scopes: writePulls, handle: (*call).addPull},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}", scopes: readPulls, handle: (*call).getPull},
	{pattern: "PATCH /repos/{owner}/{repo}/pulls/{number:[0-9]+}", scopes: writePulls, handle: (*call).updatePull},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}/merge", scopes: readPulls, handle: (*call).isMerged},
	{pattern: "PUT /repos/{owner}/{repo}/pulls/{number:[0-9]+}/merge", scopes: needs("contents:write"), handle: (*call).merge, audit: "pull_request.merge"},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}/files", scopes: readPulls, handle: (*call).pullFiles},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}/commits", scopes: readPulls, handle: (*call).pullCommits},
	{pattern: "POST /repos/{owner}/{repo}/pulls/{number:[0-9]+}/requested_reviewers", scopes: writePulls, handle: (*call).requestReviewers},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}/reviews", scopes: readPulls, handle: (*call).reviews},
	{pattern: "POST /repos/{owner}/{repo}/pulls/{number:[0-9]+}/reviews", scopes: writePulls, handle: (*call).addReview},
	{pattern: "GET /repos/{owner}/{repo}/pulls/{number:[0-9]+}/comments", scopes: readPulls, handle: (*call).reviewComments},
	{pattern: "POST /repos/{owner}/{repo}/pulls/{number:[0-9]+}/comments", scopes: writePulls, handle: (*call).addReviewComment},
}

// pull finds a pull request by the number in the path.
func (c *call) pull() (*document, error) {
	d, err := c.issue()
	if err == nil && d.body["pull"] == nil {
		err = errNotFound
	}
	return d, err
}

// pullPart is a text of what makes an issue a pull request: head_ref, head_sha, base_ref, base_sha.
func (d *document) pullPart(member string) string {
	pull, _ := d.body["pull"].(object)
	s, _ := pull[member].(string)
	return s
}

// side is an end of a pull request.
func (c *call) side(d *document, end string) object {
	owner, _, _ := strings.Cut(c.repo.Name, "/")
	ref := d.pullPart(end + "_ref")
	return object{"ref": ref, "sha": d.pullPart(end + "_sha"), "label": owner + ":" + ref, "repo": c.repositoryObject(false), "user": c.user(owner)}
}

// pullObject is a pull request; whole gives what only its own page has.
func (c *call) pullObject(d *document, whole bool) object {
	issue := c.issueObject(d)
	pull, _ := d.body["pull"].(object)
	self, page := c.url("/pulls/%s", d.Name), c.web("/pull/%s", d.Name)
	o := object{"auto_merge": nil, "requested_teams": []object{}, "merge_commit_sha": pull["merge_commit_sha"], "merged_at": pull["merged_at"], "draft": pull["draft"] == true}
	for _, member := range []string{
		"id", "node_id", "number", "state", "locked", "title", "user", "body", "labels", "milestone", "created_at", "updated_at", "closed_at", "assignee",
		"assignees", "author_association", "active_lock_reason",
	} {
		o[member] = issue[member]
	}
	reviewers := []any{}
	for _, login := range names(pull["reviewers"]) {
		reviewers = append(reviewers, c.user(login))
	}
	o["requested_reviewers"] = reviewers
	addresses := map[string]string{
		"url": self, "html_url": page, "diff_url": page + ".diff", "patch_url": page + ".patch", "issue_url": c.url("/issues/%s", d.Name),
		"commits_url": self + "/commits", "review_comments_url": self + "/comments", "review_comment_url": c.url("/pulls/comments{/number}"),
		"comments_url": c.url("/issues/%s/comments", d.Name), "statuses_url": c.url("/statuses/%s", d.pullPart("head_sha")),
	}
	for member, address := range addresses {
		o[member] = address
	}
	o["_links"] = object{
		"self": object{"href": self}, "html": object{"href": page}, "issue": object{"href": addresses["issue_url"]},
		"comments": object{"href": addresses["comments_url"]}, "review_comments": object{"href": addresses["review_comments_url"]},
		"review_comment": object{"href": addresses["review_comment_url"]}, "commits": object{"href": addresses["commits_url"]},
		"statuses": object{"href": addresses["statuses_url"]},
	}
	o["head"], o["base"] = c.side(d, "head"), c.side(d, "base")
	if whole {
		c.addNumbers(o, d, issue["comments"])
	}
	return o
}

// addNumbers gives a pull request what is counted.
func (c *call) addNumbers(o object, d *document, comments any) {
	pull, _ := d.body["pull"].(object)
	merged := pull["merged"] == true
	o["merged"], o["merged_by"], o["mergeable"], o["rebaseable"], o["mergeable_state"] = merged, nil, true, nil, "clean"
	if by, ok := pull["merged_by"].(string); ok && merged {
		o["merged_by"], o["mergeable"], o["mergeable_state"] = c.user(by), nil, "unknown"
	}
	o["maintainer_can_modify"], o["comments"] = false, comments
	o["review_comments"], o["commits"], o["additions"], o["deletions"], o["changed_files"] = 0, 0, 0, 0, 0
	if notes, err := c.all(kindNote, &d.Name, false); err == nil {
		o["review_comments"] = len(notes)
	}
	base, head, err := c.span(d)
	if err != nil {
		return
	}
	if files, err := c.files(base, head); err == nil {
		o["changed_files"] = len(files)
		o["additions"], o["deletions"] = lines(files)
	}
	if list, err := c.commits(base + ".." + head); err == nil {
		o["commits"] = len(list)
	}
}

// span are the commits that a pull request goes from, which is where it left its base, and to.
func (c *call) span(d *document) (base, head string, err error) {
	base, head = d.pullPart("base_sha"), d.pullPart("head_sha")
	if !fullSHA.MatchString(base) || !fullSHA.MatchString(head) {
		return "", "", errNotFound
	}
	if from, err := c.mergeBase(base, head); err == nil {
		base = from
	}
	return base, head, nil
}

func (c *call) getPull() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	if accept := c.r.Header.Get("Accept"); strings.Contains(accept, "diff") || strings.Contains(accept, "patch") {
		base, head, err := c.span(d)
		if err != nil {
			return nil, err
		}
		out, err := c.git("diff", "--no-color", "--no-ext-diff", "-M", base, head)
		if err != nil {
			return nil, err
		}
		return &file{contentType: "application/vnd.github.v3.diff; charset=utf-8", content: strings.NewReader(string(out))}, nil
	}
	return c.pullObject(d, true), nil
}

func (c *call) listPulls() (any, error) {
	query := c.r.URL.Query()
	found, err := c.issues(func(d *document) bool {
		if d.body["pull"] == nil {
			return false
		}
		head := afterOwner(query.Get("head"))
		return (head == "" || head == d.pullPart("head_ref")) && (query.Get("base") == "" || query.Get("base") == d.pullPart("base_ref"))
	})
	if err != nil {
		return nil, err
	}
	return shown(paged(c, found), func(d *document) object { return c.pullObject(d, false) }), nil
}

func (c *call) pullsOfCommit(sha string) (any, error) {
	found, err := c.all(kindIssue, nil, true)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(d *document) bool {
		return d.body["pull"] == nil || (d.pullPart("head_sha") != sha && d.pullPart("merge_commit_sha") != sha)
	})
	return shown(paged(c, found), func(d *document) object { return c.pullObject(d, false) }), nil
}

func (c *call) addPull() (any, error) {
	body, err := c.issueBody("PullRequest")
	if err != nil {
		return nil, err
	}
	head, err := c.required("PullRequest", "head")
	if err != nil {
		return nil, err
	}
	base, err := c.required("PullRequest", "base")
	if err != nil {
		return nil, err
	}
	head = afterOwner(head)
	headSHA, err := c.resolve("refs/heads/" + head)
	if err != nil {
		return nil, invalid("PullRequest", "head", "invalid", "")
	}
	baseSHA, err := c.resolve("refs/heads/" + base)
	if err != nil {
		return nil, invalid("PullRequest", "base", "invalid", "")
	}
	if _, err := c.git("merge-base", "--is-ancestor", headSHA, baseSHA); err == nil {
		return nil, invalid("PullRequest", "", "custom", fmt.Sprintf("No commits between %s and %s", base, head))
	}
	open, err := c.issues(func(d *document) bool { return d.pullPart("head_ref") == head && d.pullPart("base_ref") == base })
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, invalid("PullRequest", "", "custom", fmt.Sprintf("A pull request already exists for %s.", head))
	}
	body["pull"] = object{
		"head_ref": head, "head_sha": headSHA, "base_ref": base, "base_sha": baseSHA, "draft": c.yes("draft", false),
		"merged": false, "merged_at": nil, "merge_commit_sha": nil,
	}
	d, err := c.newIssue(body)
	if err != nil {
		return nil, err
	}
	c.tell("new pull request #%s, %s into %s: %s", d.Name, head, base, first(d.text("title")))
	if err := c.happened(Happening{Event: "pull_request", Action: "opened", Number: numberOf(d)}); err != nil {
		return nil, err
	}
	if d, err = c.named(kindIssue, "", d.Name); err != nil { // with its merge commit
		return nil, err
	}
	return created(c.pullObject(d, true)), nil
}

func (c *call) updatePull() (any, error) {
	var was issueWas
	d, err := c.change(c.pull, func(d *document) error {
		was = lookAt(d)
		if pullOf(d).Merged && c.in["state"] == "open" {
			return invalid("PullRequest", "state", "invalid", "a pull request that is merged can not be opened again")
		}
		if base, err := c.text("base", ""); err != nil {
			return err
		} else if base != "" {
			sha, err := c.resolve("refs/heads/" + base)
			if err != nil {
				return invalid("PullRequest", "base", "invalid", "")
			}
			pull, _ := d.body["pull"].(object)
			pull["base_ref"], pull["base_sha"] = base, sha
		}
		return c.setIssue(d)
	})
	if err != nil {
		return nil, err
	}
	c.tell("pull request #%s is changed (%s)", d.Name, strings.Join(sortedKeys(c.in), ", "))
	if err := c.issueChanged(was, d); err != nil {
		return nil, err
	}
	if d, err = c.pull(); err != nil { // with what became of its commits
		return nil, err
	}
	return c.pullObject(d, true), nil
}

func (c *call) pullFiles() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	base, head, err := c.span(d)
	if err != nil {
		return nil, err
	}
	files, err := c.files(base, head)
	if err != nil {
		return nil, err
	}
	return paged(c, files), nil
}

func (c *call) pullCommits() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	base, head, err := c.span(d)
	if err != nil {
		return nil, err
	}
	list, err := c.commits("--reverse", fmt.Sprint("--max-count=", maxCompared), base+".."+head)
	if err != nil {
		return nil, err
	}
	out := []object{}
	for _, g := range paged(c, list) {
		out = append(out, c.shortCommit(g))
	}
	return out, nil
}

func (c *call) requestReviewers() (any, error) {
	wanted := names(c.in["reviewers"])
	d, err := c.change(c.pull, func(d *document) error {
		pull, _ := d.body["pull"].(object)
		have := names(pull["reviewers"])
		for _, login := range wanted {
			if !slices.Contains(have, login) {
				have = append(have, login)
			}
		}
		pull["reviewers"] = have
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.tell("review of #%s is asked of %s", d.Name, strings.Join(wanted, ", "))
	return created(c.pullObject(d, false)), nil
}

func (c *call) reviewObject(d *document) object {
	page := c.web("/pull/%s#pullrequestreview-%d", d.Parent, d.ID)
	pull := c.url("/pulls/%s", d.Parent)
	return d.with(object{
		"user": c.user(d.text("user")), "html_url": page, "pull_request_url": pull, "author_association": "OWNER",
		"_links": object{"html": object{"href": page}, "pull_request": object{"href": pull}},
	})
}

func (c *call) reviews() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	return c.listed(kindReview, &d.Name, false, c.reviewObject)
}

// reviewStates are what a review becomes by its event.
var reviewStates = map[string]string{"": "PENDING", "APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}

func (c *call) addReview() (any, error) {
	pull, err := c.pull()
	if err != nil {
		return nil, err
	}
	event, err := c.oneOf("PullRequestReview", "event", "", "", "APPROVE", "REQUEST_CHANGES", "COMMENT")
	if err != nil {
		return nil, err
	}
	body, err := c.text("body", "")
	if err != nil {
		return nil, err
	}
	d, err := c.add(kindReview, pull.Name, "", object{
		"body": body, "state": reviewStates[event], "user": c.by.Login, "commit_id": pull.pullPart("head_sha"), "submitted_at": c.now(),
	})
	if err != nil {
		return nil, err
	}
	c.tell("review of #%s: %s %s", pull.Name, strings.ToLower(d.text("state")), first(body))
	return c.reviewObject(d), nil
}

func (c *call) noteObject(d *document) object {
	self, page, pull := c.url("/pulls/comments/%d", d.ID), c.web("/pull/%s#discussion_r%d", d.Parent, d.ID), c.url("/pulls/%s", d.Parent)
	return d.with(object{
		"user": c.user(d.text("user")), "url": self, "html_url": page, "pull_request_url": pull, "author_association": "OWNER",
		"_links": object{"self": object{"href": self}, "html": object{"href": page}, "pull_request": object{"href": pull}},
	})
}

func (c *call) reviewComments() (any, error) {
	d, err := c.pull()
	if err != nil {
		return nil, err
	}
	return c.listed(kindNote, &d.Name, false, c.noteObject)
}

func (c *call) addReviewComment() (any, error) {
	pull, err := c.pull()
	if err != nil {
		return nil, err
	}
	body, err := c.required("PullRequestReviewComment", "body")
	if err != nil {
		return nil, err
	}
	path, err := c.required("PullRequestReviewComment", "path")
	if err != nil {
		return nil, err
	}
	head := pull.pullPart("head_sha")
	side, err := c.text("side", "RIGHT")
	if err != nil {
		return nil, err
	}
	d, err := c.add(kindNote, pull.Name, "", object{
		"body": body, "path": path, "line": c.in["line"], "side": side, "start_line": c.in["start_line"], "user": c.by.Login, "commit_id": head, "original_commit_id": head,
		"diff_hunk": "", "pull_request_review_id": nil, "created_at": c.now(), "updated_at": c.now(),
	})
	if err != nil {
		return nil, err
	}
	c.tell("comment on %s in #%s: %s", path, pull.Name, first(body))
	return created(c.noteObject(d)), nil
}

// Pull is a pull request as others than the API's clients need it.
type Pull struct {
	ID, Number                         int64
	Title, Body, User                  string
	Closed, Draft, Merged              bool
	HeadRef, HeadSHA, BaseRef, BaseSHA string
	MergeCommit                        string
	Labels                             []string
	Created, Updated                   time.Time
}

func pullOf(d *document) Pull {
	pull, _ := d.body["pull"].(object)
	date := func(member string) time.Time {
		t, _ := time.Parse(time.RFC3339, d.text(member))
		return t
	}
	return Pull{
		ID: d.ID, Number: numberOf(d), Title: d.text("title"), Body: d.text("body"), User: d.text("user"), Closed: d.text("state") == "closed",
		Draft: pull["draft"] == true, Merged: pull["merged"] == true, HeadRef: d.pullPart("head_ref"), HeadSHA: d.pullPart("head_sha"),
		BaseRef: d.pullPart("base_ref"), BaseSHA: d.pullPart("base_sha"), MergeCommit: d.pullPart("merge_commit_sha"), Labels: d.list("labels"),
		Created: date("created_at"), Updated: date("updated_at"),
	}
}

// Pull gives a pull request. The error wraps store.ErrNotFound if there is none of the number.
func (a *API) Pull(ctx context.Context, repo *Repository, number int64) (Pull, error) {
	c := &call{API: a, ctx: ctx, by: &Caller{}, repo: repo}
	d, err := c.named(kindIssue, "", text(number))
	if err == nil && d.body["pull"] == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return Pull{}, err
	}
	return pullOf(d), nil
}

// OpenPulls gives the open pull requests of a repository.
func (a *API) OpenPulls(ctx context.Context, repo *Repository) ([]Pull, error) {
	c := &call{API: a, ctx: ctx, by: &Caller{}, repo: repo}
	all, err := c.all(kindIssue, nil, false)
	if err != nil {
		return nil, err
	}
	var open []Pull
	for _, d := range all {
		if d.body["pull"] != nil && d.text("state") == "open" {
			open = append(open, pullOf(d))
		}
	}
	return open, nil
}

// SetPullCommits stores what became of a pull request's commits.
func (a *API) SetPullCommits(ctx context.Context, repo *Repository, number int64, head, base, merge string) (Pull, error) {
	c := &call{API: a, ctx: ctx, by: &Caller{}, repo: repo}
	d, err := c.change(func() (*document, error) { return c.named(kindIssue, "", text(number)) }, func(d *document) error {
		pull, ok := d.body["pull"].(object)
		if !ok {
			return store.ErrNotFound
		}
		pull["head_sha"], pull["base_sha"], pull["merge_commit_sha"] = head, base, orNull(merge)
		d.body["updated_at"] = c.now()
		return nil
	})
	if err != nil {
		return Pull{}, err
	}
	return pullOf(d), nil
}
