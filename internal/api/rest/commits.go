package rest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

var commitRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/commits", scopes: needs("contents:read"), handle: (*call).listCommits},
	{pattern: "GET /repos/{owner}/{repo}/commits/*", scopes: needs("contents:read"), handle: (*call).commitPage},
	{pattern: "GET /repos/{owner}/{repo}/compare/*", scopes: needs("contents:read"), handle: (*call).compare},
	{pattern: "POST /repos/{owner}/{repo}/commits/{sha}/comments", scopes: needs("contents:write"), handle: (*call).addCommitComment},
}

// gitCommit is a commit as git tells it.
type gitCommit struct {
	sha, tree string
	parents   []string
	author    gitPerson
	committer gitPerson
	message   string
}

type gitPerson struct{ name, email, date string }

func (p gitPerson) object() object {
	date := p.date
	if t, err := time.Parse(time.RFC3339, date); err == nil {
		date = stamp(t)
	}
	return object{"name": p.name, "email": p.email, "date": date}
}

const commitFormat = "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B%x00"

// commits gives what `git log` lists.
func (c *call) commits(args ...string) ([]gitCommit, error) {
	out, err := c.git(append([]string{"log", commitFormat, "--no-show-signature"}, args...)...)
	if err != nil {
		return nil, err
	}
	fields := strings.Split(string(out), "\x00")
	var list []gitCommit
	for ; len(fields) >= 10; fields = fields[10:] {
		list = append(list, gitCommit{
			sha: strings.TrimPrefix(fields[0], "\n"), tree: fields[1], parents: strings.Fields(fields[2]),
			author: gitPerson{fields[3], fields[4], fields[5]}, committer: gitPerson{fields[6], fields[7], fields[8]},
			message: strings.TrimRight(fields[9], "\n"),
		})
	}
	return list, nil
}

var unverified = object{"verified": false, "reason": "unsigned", "signature": nil, "payload": nil, "verified_at": nil}

// gitCommitObject is a commit as git's own part of the API shows it.
func (c *call) gitCommitObject(g gitCommit) object {
	return object{
		"sha": g.sha, "node_id": "commit_" + g.sha, "url": c.url("/git/commits/%s", g.sha), "html_url": c.web("/commit/%s", g.sha),
		"author": g.author.object(), "committer": g.committer.object(), "message": g.message,
		"tree":    object{"sha": g.tree, "url": c.url("/git/trees/%s", g.tree)},
		"parents": c.parents(g), "verification": unverified,
	}
}

func (c *call) parents(g gitCommit) []object {
	out := []object{}
	for _, sha := range g.parents {
		out = append(out, object{"sha": sha, "url": c.url("/commits/%s", sha), "html_url": c.web("/commit/%s", sha)})
	}
	return out
}

// shortCommit is a commit as lists show it.
func (c *call) shortCommit(g gitCommit) object {
	return object{
		"sha": g.sha, "node_id": "commit_" + g.sha, "url": c.url("/commits/%s", g.sha), "html_url": c.web("/commit/%s", g.sha),
		"comments_url": c.url("/commits/%s/comments", g.sha),
		"commit": object{
			"author": g.author.object(), "committer": g.committer.object(), "message": g.message, "comment_count": 0, "verification": unverified,
			"tree": object{"sha": g.tree, "url": c.url("/git/trees/%s", g.tree)}, "url": c.url("/git/commits/%s", g.sha),
		},
		"author": nil, "committer": nil, "parents": c.parents(g),
	}
}

// commitObject is a commit with its files.
func (c *call) commitObject(sha string) (object, error) {
	list, err := c.commits("-1", sha)
	if err != nil || len(list) == 0 {
		return nil, errNotFound
	}
	out := c.shortCommit(list[0])
	base := emptyTree
	if p := list[0].parents; len(p) > 0 {
		base = p[0]
	}
	files, err := c.files(base, sha)
	if err != nil {
		return nil, err
	}
	additions, deletions := lines(files)
	out["stats"] = object{"additions": additions, "deletions": deletions, "total": additions + deletions}
	out["files"] = paged(c, files)
	return out, nil
}

func (c *call) listCommits() (any, error) {
	query := c.r.URL.Query()
	sha, err := c.head(query.Get("sha"))
	if err != nil {
		return nil, errNotFound
	}
	offset, limit := c.page()
	args := []string{fmt.Sprint("--max-count=", limit+1), fmt.Sprint("--skip=", offset)}
	for _, bound := range []string{"since", "until", "author"} {
		if v := query.Get(bound); v != "" {
			args = append(args, "--"+bound+"="+v)
		}
	}
	args = append(args, sha, "--")
	if path := query.Get("path"); path != "" {
		args = append(args, path)
	}
	list, err := c.commits(args...)
	if err != nil {
		return nil, err
	}
	c.link(len(list) > limit)
	out := []object{}
	for _, g := range list[:min(limit, len(list))] {
		out = append(out, c.shortCommit(g))
	}
	return out, nil
}

// commitPage is a commit or, since the names of refs have slashes, what is below it.
func (c *call) commitPage() (any, error) {
	ref := c.part("*")
	for suffix, page := range map[string]func(*call, string) (any, error){
		"/status": (*call).combinedStatus, "/statuses": (*call).statuses, "/check-runs": (*call).checksOfCommit, "/check-suites": (*call).suitesOfCommit,
		"/pulls": (*call).pullsOfCommit, "/comments": (*call).commitComments,
	} {
		name, ok := strings.CutSuffix(ref, suffix)
		if !ok {
			continue
		}
		sha, err := c.resolve(name)
		if err != nil {
			return nil, unprocessable("No commit found for SHA: %s", name)
		}
		return page(c, sha)
	}
	sha, err := c.resolve(ref)
	if err != nil {
		return nil, unprocessable("No commit found for SHA: %s", ref)
	}
	if strings.Contains(c.r.Header.Get("Accept"), ".sha") {
		return &file{contentType: "application/vnd.github.v3.sha; charset=utf-8", content: strings.NewReader(sha)}, nil
	}
	return c.commitObject(sha)
}

const (
	emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	maxFiles  = 3000
	maxPatch  = 64 << 10 // of one file, bytes
)

// files lists what differs between two trees.
func (c *call) files(base, head string) ([]object, error) {
	out, err := c.git("diff", "--no-color", "--no-ext-diff", "-M", "-z", "--raw", "--numstat", "--abbrev=40", "--end-of-options", base, head)
	if err != nil {
		return nil, err
	}
	list, err := parseDiff(string(out))
	if err != nil {
		return nil, err
	}
	list = list[:min(len(list), maxFiles)]
	patches, err := c.patches(base, head)
	if err != nil {
		return nil, err
	}
	files := []object{}
	for i, f := range list {
		o := object{
			"sha": f.sha, "filename": f.name, "status": f.status, "additions": f.additions, "deletions": f.deletions, "changes": f.additions + f.deletions,
			"blob_url": c.web("/blob/%s/%s", head, f.name), "raw_url": c.web("/raw/%s/%s", head, f.name),
			"contents_url": c.url("/contents/%s?ref=%s", f.name, head),
		}
		if f.previous != "" {
			o["previous_filename"] = f.previous
		}
		if i < len(patches) && patches[i] != "" && len(patches[i]) <= maxPatch {
			o["patch"] = patches[i]
		}
		files = append(files, o)
	}
	return files, nil
}

// changedFile is a file that differs between two trees.
type changedFile struct {
	name, previous, status, sha string
	additions, deletions        int
}

var fileStatus = map[byte]string{'A': "added", 'D': "removed", 'M': "modified", 'R': "renamed", 'C': "copied", 'T': "changed"}

// parseDiff reads what `git diff -z --raw --numstat` says: all raw lines, then all numbers, in the same order.
func parseDiff(text string) ([]changedFile, error) {
	parts := strings.Split(text, "\x00")
	var list []changedFile
	take := func() string {
		if len(parts) == 0 {
			return ""
		}
		s := parts[0]
		parts = parts[1:]
		return s
	}
	for len(parts) > 0 && strings.HasPrefix(parts[0], ":") {
		fields := strings.Fields(take())
		if len(fields) != 5 || fields[4] == "" {
			return nil, fmt.Errorf("git diff says %q", fields)
		}
		f := changedFile{status: fileStatus[fields[4][0]], sha: fields[3]}
		if f.status == "removed" {
			f.sha = fields[2]
		}
		if f.status == "renamed" || f.status == "copied" {
			f.previous = take()
		}
		f.name = take()
		list = append(list, f)
	}
	for i := 0; i < len(list) && len(parts) > 0; i++ {
		fields := strings.SplitN(take(), "\t", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("git diff says %q", fields)
		}
		if fields[2] == "" { // of a renamed file the names follow
			take()
			take()
		}
		list[i].additions, _ = strconv.Atoi(fields[0]) // "-" for a binary file
		list[i].deletions, _ = strconv.Atoi(fields[1])
	}
	return list, nil
}

// patches gives the patch of each file that differs, without its head, in the order of files. Binary ones have none.
func (c *call) patches(base, head string) ([]string, error) {
	out, err := c.git("diff", "--no-color", "--no-ext-diff", "-M", "-p", "--end-of-options", base, head)
	if err != nil {
		return nil, err
	}
	return splitPatch(out), nil
}

// splitPatch cuts a patch at its files. No line of a hunk begins as the head of a file does.
func splitPatch(text []byte) []string {
	var list []string
	for _, part := range bytes.Split(append([]byte("\n"), text...), []byte("\ndiff --git "))[1:] {
		patch := ""
		if i := bytes.Index(part, []byte("\n@@ ")); i >= 0 {
			patch = strings.TrimSuffix(string(part[i+1:]), "\n")
		}
		list = append(list, patch)
	}
	return list
}

func lines(files []object) (additions, deletions int) {
	for _, f := range files {
		additions += f["additions"].(int)
		deletions += f["deletions"].(int)
	}
	return additions, deletions
}

// maxCompared is how many commits a comparison lists.
const maxCompared = 250

func (c *call) compare() (any, error) {
	from, to, ok := strings.Cut(c.part("*"), "...")
	if !ok {
		return nil, errNotFound
	}
	base, err := c.resolve(afterOwner(from))
	if err != nil {
		return nil, errNotFound
	}
	head, err := c.resolve(afterOwner(to))
	if err != nil {
		return nil, errNotFound
	}
	forkPoint, err := c.mergeBase(base, head)
	if err != nil {
		return nil, &Error{Status: 404, Message: "No common ancestor between " + from + " and " + to + "."}
	}
	out, err := c.git("rev-list", "--left-right", "--count", base+"..."+head)
	if err != nil {
		return nil, err
	}
	var behind, ahead int
	if _, err := fmt.Sscan(string(out), &behind, &ahead); err != nil {
		return nil, err
	}
	list, err := c.commits("--reverse", fmt.Sprint("--max-count=", maxCompared), base+".."+head)
	if err != nil {
		return nil, err
	}
	commits := []object{}
	for _, g := range list {
		commits = append(commits, c.shortCommit(g))
	}
	files, err := c.files(forkPoint, head)
	if err != nil {
		return nil, err
	}
	ends, err := c.commits("--no-walk=unsorted", base, forkPoint)
	if err != nil || len(ends) == 0 {
		return nil, err
	}
	status := "identical"
	switch {
	case ahead > 0 && behind > 0:
		status = "diverged"
	case ahead > 0:
		status = "ahead"
	case behind > 0:
		status = "behind"
	}
	return object{
		"url": c.url("/compare/%s...%s", from, to), "html_url": c.web("/compare/%s...%s", from, to), "permalink_url": c.web("/compare/%.7s...%.7s", base, head),
		"diff_url": c.web("/compare/%s...%s.diff", from, to), "patch_url": c.web("/compare/%s...%s.patch", from, to),
		"base_commit": c.shortCommit(ends[0]), "merge_base_commit": c.shortCommit(ends[len(ends)-1]), "status": status,
		"ahead_by": ahead, "behind_by": behind, "total_commits": ahead, "commits": commits, "files": files[:min(len(files), 300)],
	}, nil
}

// afterOwner is a branch's name without its owner: there are no forks.
func afterOwner(name string) string {
	if _, branch, ok := strings.Cut(name, ":"); ok {
		return branch
	}
	return name
}

func (c *call) mergeBase(a, b string) (string, error) {
	out, err := c.git("merge-base", a, b)
	return strings.TrimSpace(string(out)), err
}

func (c *call) commitComments(sha string) (any, error) {
	return c.listed(kindCommitNote, &sha, false, c.commitCommentObject)
}

func (c *call) commitCommentObject(d *document) object {
	return d.with(object{
		"user": c.user(d.text("user")), "url": c.url("/comments/%d", d.ID), "html_url": c.web("/commit/%s#commitcomment-%d", d.Parent, d.ID),
	})
}

func (c *call) addCommitComment() (any, error) {
	sha, err := c.resolve(c.part("sha"))
	if err != nil {
		return nil, unprocessable("No commit found for SHA: %s", c.part("sha"))
	}
	text, err := c.required("CommitComment", "body")
	if err != nil {
		return nil, err
	}
	body := object{
		"body": text, "user": c.by.Login, "commit_id": sha, "path": c.in["path"], "line": c.in["line"], "position": c.in["position"],
		"created_at": c.now(), "updated_at": c.now(), "author_association": "NONE",
	}
	d, err := c.add(kindCommitNote, sha, "", body)
	if err != nil {
		return nil, err
	}
	c.tell("comment on commit %.12s: %s", sha, first(text))
	return created(c.commitCommentObject(d)), nil
}
