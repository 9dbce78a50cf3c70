package rest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
)

var contentRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/contents/*", scopes: needs("contents:read"), handle: (*call).contents},
	{pattern: "GET /repos/{owner}/{repo}/contents", scopes: needs("contents:read"), handle: (*call).contents},
	{pattern: "PUT /repos/{owner}/{repo}/contents/*", scopes: needs("contents:write"), handle: (*call).putContents},
	{pattern: "DELETE /repos/{owner}/{repo}/contents/*", scopes: needs("contents:write"), handle: (*call).deleteContents},
	{pattern: "GET /repos/{owner}/{repo}/readme", scopes: needs("contents:read"), handle: (*call).readme},
	{pattern: "GET /repos/{owner}/{repo}/tarball/*", scopes: needs("contents:read"), handle: (*call).tarball},
	{pattern: "GET /repos/{owner}/{repo}/zipball/*", scopes: needs("contents:read"), handle: (*call).zipball},
}

// goodPath is a path of a tree: relative, without parts that climb.
func goodPath(p string) (string, bool) {
	p = strings.TrimSuffix(p, "/")
	return p, p == "" || (path.Clean("/"+p) == "/"+p && !strings.ContainsRune(p, 0) && len(p) <= 4096)
}

// entries lists what a commit has at a path: the entry itself, or with a slash at its end what is in it.
func (c *call) entries(sha, at string) ([]treeEntry, error) {
	args := []string{"ls-tree", "-z", "-l", "--full-tree", sha}
	if at != "" {
		args = append(args, "--", at)
	}
	out, err := c.git(args...)
	if err != nil {
		return nil, err
	}
	var list []treeEntry
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if e, ok := parseTreeLine(line); ok {
			list = append(list, e)
		}
	}
	return list, nil
}

// maxContents is the size up to which contents are in an answer, bytes, as on GitHub; above it only the raw file is given.
const maxContents = 1 << 20

func (c *call) contents() (any, error) {
	ref := c.r.URL.Query().Get("ref")
	sha, err := c.head(ref)
	if err != nil {
		return nil, &Error{Status: http.StatusNotFound, Message: "No commit found for the ref " + ref}
	}
	if ref == "" {
		ref = c.repo.DefaultBranch
	}
	at, ok := goodPath(c.part("*"))
	if !ok {
		return nil, errNotFound
	}
	if at != "" {
		found, err := c.entries(sha, at)
		if err != nil || len(found) != 1 {
			return nil, errNotFound
		}
		if found[0].kind != "tree" {
			return c.fileContents(found[0], ref)
		}
		at += "/"
	}
	found, err := c.entries(sha, at)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, e := range found {
		list = append(list, c.contentObject(e, ref))
	}
	return list, nil
}

func (c *call) contentObject(e treeEntry, ref string) object {
	kind := map[string]string{"tree": "dir", "commit": "submodule"}[e.kind]
	if kind == "" {
		kind = "file"
		if e.mode == "120000" {
			kind = "symlink"
		}
	}
	self, git, page := c.url("/contents/%s?ref=%s", e.path, ref), c.url("/git/%ss/%s", e.kind, e.sha), c.web("/blob/%s/%s", ref, e.path)
	o := object{
		"type": kind, "size": e.size, "name": path.Base(e.path), "path": e.path, "sha": e.sha, "url": self, "git_url": git, "html_url": page,
		"download_url": nil, "_links": object{"self": self, "git": git, "html": page},
	}
	if kind == "file" {
		o["download_url"] = c.web("/raw/%s/%s", ref, e.path)
	}
	return o
}

func (c *call) fileContents(e treeEntry, ref string) (any, error) {
	o := c.contentObject(e, ref)
	if e.kind == "commit" {
		o["submodule_git_url"] = nil
		return o, nil
	}
	data, err := c.git("cat-file", "blob", e.sha)
	if err != nil {
		return nil, err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "raw") {
		return &file{contentType: "application/vnd.github.raw; charset=utf-8", content: bytes.NewReader(data)}, nil
	}
	switch {
	case o["type"] == "symlink":
		o["target"] = string(data)
	case len(data) > maxContents:
		o["encoding"], o["content"] = "none", ""
	default:
		o["encoding"], o["content"] = "base64", wrapped(data)
	}
	return o, nil
}

// wrapped is base64 in lines of sixty, as GitHub sends it.
func wrapped(data []byte) string {
	text := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	for len(text) > 60 {
		b.WriteString(text[:60] + "\n")
		text = text[60:]
	}
	if text != "" {
		b.WriteString(text + "\n")
	}
	return b.String()
}

func (c *call) readme() (any, error) {
	ref := c.r.URL.Query().Get("ref")
	sha, err := c.head(ref)
	if err != nil {
		return nil, errNotFound
	}
	found, err := c.entries(sha, "")
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		name := strings.ToLower(e.path)
		if e.kind == "blob" && (name == "readme" || strings.HasPrefix(name, "readme.")) {
			return c.fileContents(e, ref)
		}
	}
	return nil, errNotFound
}

func (c *call) putContents() (any, error) {
	text, err := c.text("content", "")
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(text))
	if err != nil {
		return nil, unprocessable("content is not valid Base64")
	}
	return c.commitFile(data, false)
}

func (c *call) deleteContents() (any, error) { return c.commitFile(nil, true) }

// commitFile makes a commit on a branch that writes or removes one file.
func (c *call) commitFile(data []byte, remove bool) (any, error) {
	message, err := c.required("Contents", "message")
	if err != nil {
		return nil, err
	}
	branch, err := c.text("branch", c.repo.DefaultBranch)
	if err != nil {
		return nil, err
	}
	at, ok := goodPath(c.part("*"))
	if !ok || at == "" || strings.EqualFold(strings.SplitN(at, "/", 2)[0], ".git") {
		return nil, unprocessable("path is not one of a file")
	}
	ref := "refs/heads/" + branch
	parent, err := c.resolve(ref)
	if err != nil {
		return nil, &Error{Status: http.StatusNotFound, Message: "Branch " + branch + " not found"}
	}
	found, err := c.entries(parent, at)
	if err != nil {
		return nil, err
	}
	was, _ := c.text("sha", "")
	switch {
	case len(found) == 0 && remove:
		return nil, errNotFound
	case len(found) > 0 && was == "":
		return nil, unprocessable("Invalid request.\n\n\"sha\" wasn't supplied.")
	case len(found) > 0 && was != found[0].sha:
		return nil, &Error{Status: http.StatusConflict, Message: at + " does not match " + was}
	}
	sha, err := c.writeCommit(parent, ref, at, message, data, remove)
	if err != nil {
		return nil, err
	}
	list, err := c.commits("-1", sha)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := object{"content": nil, "commit": c.gitCommitObject(list[0])}
	verb := "removes"
	if !remove {
		verb = "writes"
		if found, err = c.entries(sha, at); err != nil || len(found) != 1 {
			return nil, err
		}
		out["content"] = c.contentObject(found[0], branch)
	}
	c.tell("commit on %s %s %s: %s", branch, verb, at, first(message))
	if !remove && was == "" {
		return created(out), nil
	}
	return out, nil
}

// writeCommit makes the commit with an index of its own and moves the branch from its parent to it.
func (c *call) writeCommit(parent, ref, at, message string, data []byte, remove bool) (string, error) {
	person := c.committer()
	run := func(in io.Reader, args ...string) (string, error) {
		out, err := c.gitIn(true, in, person, args...)
		return strings.TrimSpace(string(out)), err
	}
	tree, err := c.writeTree(run, parent, strings.Split(at, "/"), data, remove)
	if err != nil {
		return "", err
	}
	if tree == "" {
		tree = emptyTree
	}
	sha, err := run(strings.NewReader(message), "commit-tree", tree, "-p", parent)
	if err != nil {
		return "", err
	}
	if err := c.setRef(ref, parent, sha); err != nil {
		return "", &Error{Status: http.StatusConflict, Message: "the branch has moved meanwhile"}
	}
	return sha, nil
}

// writeTree writes a tree anew with one file written or removed, from the file up: one tree a folder. It gives "" for a
// tree that nothing is left in.
func (c *call) writeTree(run func(io.Reader, ...string) (string, error), treeish string, parts []string, data []byte, remove bool) (string, error) {
	var list string
	if treeish != "" {
		var err error
		if list, err = run(nil, "ls-tree", "-z", treeish); err != nil {
			return "", err
		}
	}
	var kept strings.Builder
	mode, below := "100644", ""
	for line := range strings.SplitSeq(list, "\x00") {
		head, name, _ := strings.Cut(line, "\t")
		if name != parts[0] {
			if name != "" {
				kept.WriteString(line + "\x00")
			}
			continue
		}
		fields := strings.Fields(head)
		if len(fields) == 3 && fields[1] == "tree" {
			below = fields[2]
		} else if len(fields) == 3 && fields[0] == "100755" {
			mode = fields[0]
		}
	}
	var sha string
	var err error
	switch {
	case len(parts) > 1:
		if sha, err = c.writeTree(run, below, parts[1:], data, remove); sha != "" {
			kept.WriteString(fmt.Sprintf("040000 tree %s\t%s\x00", sha, parts[0]))
		}
	case !remove:
		if sha, err = run(bytes.NewReader(data), "hash-object", "-w", "--stdin"); err == nil {
			kept.WriteString(fmt.Sprintf("%s blob %s\t%s\x00", mode, sha, parts[0]))
		}
	}
	if err != nil || kept.Len() == 0 {
		return "", err
	}
	return run(strings.NewReader(kept.String()), "mktree", "-z")
}

// committer is the environment that says who commits: who the request says, else the caller.
func (c *call) committer() []string {
	var env []string
	for _, role := range []string{"committer", "author"} {
		name, email := c.by.Login, c.by.Login+"@users.noreply.github.com"
		for _, member := range []string{"committer", role} {
			if who, ok := c.in[member].(object); ok {
				if s, ok := who["name"].(string); ok && s != "" {
					name = s
				}
				if s, ok := who["email"].(string); ok && s != "" {
					email = s
				}
			}
		}
		upper := "GIT_" + strings.ToUpper(role)
		date := fmt.Sprintf("%d +0000", c.Now().Unix())
		env = append(env, upper+"_NAME="+oneLine(name), upper+"_EMAIL="+oneLine(email), upper+"_DATE="+date)
	}
	return env
}

// oneLine takes out what may not be in a variable that becomes a line of a commit.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == '<' || r == '>' {
			return -1
		}
		return r
	}, s)
}

func (c *call) tarball() (any, error) { return c.archive("tar.gz", "application/x-gzip") }

func (c *call) zipball() (any, error) { return c.archive("zip", "application/zip") }

// archive packs a commit below a folder that is named as GitHub names it.
func (c *call) archive(format, contentType string) (any, error) {
	sha, err := c.head(c.part("*"))
	if err != nil {
		return nil, errNotFound
	}
	folder := strings.ReplaceAll(c.repo.Name, "/", "-") + "-" + sha[:7]
	data, err := c.git("archive", "--format="+format, "--prefix="+folder+"/", sha)
	if err != nil {
		return nil, err
	}
	c.w.Header().Set("Content-Disposition", "attachment; filename="+folder+"."+format)
	return &file{contentType: contentType, content: bytes.NewReader(data)}, nil
}
