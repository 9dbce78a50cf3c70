package rest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/store"
)

var (
	readIssues  = needs("issues:read", "pull-requests:read")
	writeIssues = needs("issues:write", "pull-requests:write")
)

var issueRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/issues", scopes: readIssues, handle: (*call).listIssues},
	{pattern: "POST /repos/{owner}/{repo}/issues", scopes: needs("issues:write"), handle: (*call).addIssue},
	{pattern: "GET /repos/{owner}/{repo}/issues/{number:[0-9]+}", scopes: readIssues, handle: (*call).getIssue},
	{pattern: "PATCH /repos/{owner}/{repo}/issues/{number:[0-9]+}", scopes: writeIssues, handle: (*call).updateIssue},
	{pattern: "GET /repos/{owner}/{repo}/issues/{number:[0-9]+}/comments", scopes: readIssues, handle: (*call).issueComments},
	{pattern: "POST /repos/{owner}/{repo}/issues/{number:[0-9]+}/comments", scopes: writeIssues, handle: (*call).addComment},
	{pattern: "POST /repos/{owner}/{repo}/issues/{number:[0-9]+}/assignees", scopes: writeIssues, handle: (*call).addAssignees},
	{pattern: "DELETE /repos/{owner}/{repo}/issues/{number:[0-9]+}/assignees", scopes: writeIssues, handle: (*call).removeAssignees},
	{pattern: "POST /repos/{owner}/{repo}/issues/{number:[0-9]+}/reactions", scopes: writeIssues, handle: (*call).react},
	{pattern: "GET /repos/{owner}/{repo}/issues/comments", scopes: readIssues, handle: (*call).allComments},
	{pattern: "GET /repos/{owner}/{repo}/issues/comments/{id:[0-9]+}", scopes: readIssues, handle: (*call).getComment},
	{pattern: "PATCH /repos/{owner}/{repo}/issues/comments/{id:[0-9]+}", scopes: writeIssues, handle: (*call).updateComment},
	{pattern: "DELETE /repos/{owner}/{repo}/issues/comments/{id:[0-9]+}", scopes: writeIssues, handle: (*call).deleteComment},
	{pattern: "POST /repos/{owner}/{repo}/issues/comments/{id:[0-9]+}/reactions", scopes: writeIssues, handle: (*call).reactToComment},
}

// issue finds an issue or a pull request by the number in the path.
func (c *call) issue() (*document, error) {
	n, err := c.number("number")
	if err != nil {
		return nil, err
	}
	return c.named(kindIssue, "", text(n))
}

// issueNumber is the number in the path of an issue that is there, or that may be there where issues are not known.
func (c *call) issueNumber() (int64, error) {
	n, err := c.number("number")
	if err != nil {
		return 0, err
	}
	_, err = c.named(kindIssue, "", text(n))
	if errors.Is(err, store.ErrNotFound) && c.repo.AnyIssue {
		err = nil
	}
	return n, err
}

// newIssue stores an issue with the next number.
func (c *call) newIssue(body object) (*document, error) {
	for {
		n, err := c.Store.NextNumber(c.ctx, c.repo.Name)
		if err != nil {
			return nil, err
		}
		d, err := c.add(kindIssue, "", text(n), body)
		if errors.Is(err, store.ErrExists) { // one that an event told of
			continue
		}
		return d, err
	}
}

// issueBody is a new issue or pull request as the request describes it.
func (c *call) issueBody(resource string) (object, error) {
	title, err := c.required(resource, "title")
	if err != nil {
		return nil, err
	}
	body := object{
		"title": title, "body": nil, "state": "open", "state_reason": nil, "user": c.by.Login, "labels": []any{}, "assignees": []any{}, "locked": false,
		"created_at": c.now(), "updated_at": c.now(), "closed_at": nil, "closed_by": "",
	}
	if err := c.copyTexts(body, "body"); err != nil {
		return nil, err
	}
	for _, member := range []string{"labels", "assignees"} {
		body[member] = names(c.in[member])
	}
	return body, c.fewNames(&document{body: body})
}

// maxNames is how many labels, and how many assignees, an issue may have: runs may begin with each.
const maxNames = 100

func (c *call) fewNames(d *document) error {
	for _, member := range []string{"labels", "assignees"} {
		if list, ok := d.body[member].([]string); ok && len(list) > maxNames {
			return invalid("Issue", member, "custom", fmt.Sprintf("there may be %d %s", maxNames, member))
		}
	}
	return nil
}

func (c *call) addIssue() (any, error) {
	body, err := c.issueBody("Issue")
	if err != nil {
		return nil, err
	}
	d, err := c.newIssue(body)
	if err != nil {
		return nil, err
	}
	c.tell("new issue #%s: %s", d.Name, first(d.text("title")))
	if err := c.issueHappened(d, "opened", nil); err != nil {
		return nil, err
	}
	was := lookAt(d)
	was.labels, was.assignees = nil, nil
	return created(c.issueObject(d)), c.issueChanged(was, d)
}

func (c *call) getIssue() (any, error) {
	d, err := c.issue()
	if err != nil {
		return nil, err
	}
	return c.issueObject(d), nil
}

// list gives a member that is a list of strings.
func (d *document) list(member string) []string { return names(d.body[member]) }

func (c *call) issueObject(d *document) object {
	labels := []object{}
	for _, name := range d.list("labels") {
		labels = append(labels, c.labelOf(name))
	}
	assignees, first := []any{}, any(nil)
	for _, login := range d.list("assignees") {
		assignees = append(assignees, c.user(login))
		first = assignees[0]
	}
	number := d.Name
	page, self := c.web("/issues/%s", number), c.url("/issues/%s", number)
	o := d.with(object{
		"number": numberOf(d), "user": c.user(d.text("user")), "closed_by": c.user(d.text("closed_by")), "labels": labels, "assignees": assignees, "assignee": first,
		"milestone": nil, "comments": c.countComments(number), "author_association": "OWNER", "active_lock_reason": nil, "url": self,
		"repository_url": c.url(""), "labels_url": self + "/labels{/name}", "comments_url": self + "/comments", "events_url": self + "/events",
	})
	if _, ok := d.body["pull"]; ok {
		page = c.web("/pull/%s", number)
		pull, _ := d.body["pull"].(object)
		o["pull_request"] = object{
			"url": c.url("/pulls/%s", number), "html_url": page, "diff_url": page + ".diff", "patch_url": page + ".patch", "merged_at": pull["merged_at"],
		}
		o["draft"] = pull["draft"] == true
		delete(o, "pull")
	}
	o["html_url"] = page
	return o
}

func numberOf(d *document) (n int64) {
	_, _ = fmt.Sscan(d.Name, &n) // issues are named by their number
	return n
}

func (c *call) countComments(number string) int {
	found, err := c.all(kindComment, &number, false)
	if err != nil {
		return 0
	}
	return len(found)
}

// issues lists those that the request's query chooses.
func (c *call) issues(keep func(*document) bool) ([]*document, error) {
	query := c.r.URL.Query()
	state := query.Get("state")
	if state == "" {
		state = "open"
	}
	found, err := c.all(kindIssue, nil, query.Get("direction") != "asc")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(d *document) bool {
		return (state != "all" && d.text("state") != state) || !keep(d)
	}), nil
}

func (c *call) listIssues() (any, error) {
	query := c.r.URL.Query()
	found, err := c.issues(func(d *document) bool {
		if by := query.Get("creator"); by != "" && by != d.text("user") {
			return false
		}
		if to := query.Get("assignee"); to != "" && to != "*" && !slices.Contains(d.list("assignees"), to) {
			return false
		}
		for _, label := range strings.Split(query.Get("labels"), ",") {
			if label != "" && !slices.Contains(d.list("labels"), label) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return shown(paged(c, found), c.issueObject), nil
}

// setIssue takes over what the request says of an issue or a pull request.
func (c *call) setIssue(d *document) error {
	if err := c.copyTexts(d.body, "title", "body", "state_reason"); err != nil {
		return err
	}
	if c.in["state"] != nil {
		state, err := c.oneOf("Issue", "state", "", "open", "closed")
		if err != nil {
			return err
		}
		if state != d.text("state") {
			d.body["closed_at"], d.body["closed_by"] = nil, ""
			if state == "closed" {
				d.body["closed_at"], d.body["closed_by"] = c.now(), c.by.Login
			}
		}
		d.body["state"] = state
	}
	for _, member := range []string{"labels", "assignees"} {
		if v, ok := c.in[member]; ok {
			d.body[member] = names(v)
		}
	}
	d.body["updated_at"] = c.now()
	return c.fewNames(d)
}

func (c *call) updateIssue() (any, error) {
	var was issueWas
	d, err := c.change(c.issue, func(d *document) error {
		was = lookAt(d)
		return c.setIssue(d)
	})
	if err != nil {
		return nil, err
	}
	c.tell("issue #%s is changed (%s)", d.Name, strings.Join(sortedKeys(c.in), ", "))
	return c.issueObject(d), c.issueChanged(was, d)
}

func (c *call) addAssignees() (any, error) {
	return c.assign(func(have, named []string) []string {
		for _, login := range named {
			if !slices.Contains(have, login) {
				have = append(have, login)
			}
		}
		return have
	})
}

func (c *call) removeAssignees() (any, error) {
	return c.assign(func(have, named []string) []string {
		return slices.DeleteFunc(have, func(s string) bool { return slices.Contains(named, s) })
	})
}

func (c *call) assign(change func(have, named []string) []string) (any, error) {
	named := names(c.in["assignees"])
	var was issueWas
	d, err := c.change(c.issue, func(d *document) error {
		was = lookAt(d)
		d.body["assignees"] = change(d.list("assignees"), named)
		return c.fewNames(d)
	})
	if err != nil {
		return nil, err
	}
	c.tell("assignees of #%s: %s", d.Name, strings.Join(d.list("assignees"), ", "))
	if err := c.issueChanged(was, d); err != nil {
		return nil, err
	}
	if c.r.Method == "POST" {
		return created(c.issueObject(d)), nil
	}
	return c.issueObject(d), nil
}

func (c *call) commentObject(d *document) object {
	return d.with(object{
		"user": c.user(d.text("user")), "url": c.url("/issues/comments/%d", d.ID), "issue_url": c.url("/issues/%s", d.Parent),
		"html_url": c.web("/issues/%s#issuecomment-%d", d.Parent, d.ID), "performed_via_github_app": nil, "author_association": "OWNER",
	})
}

// maxText is how long the text of a comment, an issue or a release may be, characters, as on GitHub.
const maxText = 65_536

func (c *call) commentText() (string, error) {
	body, err := c.required("IssueComment", "body")
	if err == nil && len([]rune(body)) > maxText {
		err = invalid("IssueComment", "body", "custom", fmt.Sprintf("body is too long (maximum is %d characters)", maxText))
	}
	return body, err
}

func (c *call) addComment() (any, error) {
	number, err := c.issueNumber()
	if err != nil {
		return nil, err
	}
	body, err := c.commentText()
	if err != nil {
		return nil, err
	}
	d, err := c.add(kindComment, text(number), "", object{"body": body, "user": c.by.Login, "created_at": c.now(), "updated_at": c.now()})
	if err != nil {
		return nil, err
	}
	c.tell("comment on #%d: %s", number, first(body))
	return created(c.commentObject(d)), c.commentHappened(d, "created")
}

func (c *call) issueComments() (any, error) {
	number, err := c.issueNumber()
	if err != nil {
		return nil, err
	}
	parent := text(number)
	return c.listed(kindComment, &parent, false, c.commentObject)
}

func (c *call) allComments() (any, error) {
	return c.listed(kindComment, nil, c.r.URL.Query().Get("direction") == "desc", c.commentObject)
}

func (c *call) getComment() (any, error) {
	d, err := c.byID(kindComment, "id")
	if err != nil {
		return nil, err
	}
	return c.commentObject(d), nil
}

func (c *call) updateComment() (any, error) {
	body, err := c.commentText()
	if err != nil {
		return nil, err
	}
	d, err := c.change(func() (*document, error) { return c.byID(kindComment, "id") }, func(d *document) error {
		d.body["body"], d.body["updated_at"] = body, c.now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.tell("comment on #%s is changed: %s", d.Parent, first(body))
	return c.commentObject(d), c.commentHappened(d, "edited")
}

func (c *call) deleteComment() (any, error) {
	d, err := c.remove(kindComment, "id")
	if err != nil {
		return nil, err
	}
	c.tell("comment on #%s is deleted", d.Parent)
	return noContent, c.commentHappened(d, "deleted")
}

func (c *call) react() (any, error) {
	number, err := c.issueNumber()
	if err != nil {
		return nil, err
	}
	return c.addReaction("#" + text(number))
}

func (c *call) reactToComment() (any, error) {
	d, err := c.byID(kindComment, "id")
	if err != nil {
		return nil, err
	}
	return c.addReaction("comment " + text(d.ID))
}

func (c *call) addReaction(to string) (any, error) {
	content, err := c.oneOf("Reaction", "content", "", "+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
	if err != nil {
		return nil, err
	}
	d, err := c.add(kindReaction, to, "", object{"content": content, "user": c.by.Login, "created_at": c.now()})
	if err != nil {
		return nil, err
	}
	c.tell("reaction %s to %s", content, to)
	return created(d.with(object{"user": c.user(d.text("user"))})), nil
}
