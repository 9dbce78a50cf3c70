package rest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

var refRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/git/ref/*", scopes: needs("contents:read"), handle: (*call).getRef},
	{pattern: "GET /repos/{owner}/{repo}/git/matching-refs/*", scopes: needs("contents:read"), handle: (*call).matchingRefs},
	{pattern: "POST /repos/{owner}/{repo}/git/refs", scopes: needs("contents:write"), handle: (*call).createRef},
	{pattern: "PATCH /repos/{owner}/{repo}/git/refs/*", scopes: needs("contents:write"), handle: (*call).updateRef},
	{pattern: "DELETE /repos/{owner}/{repo}/git/refs/*", scopes: needs("contents:write"), handle: (*call).deleteRef},
	{pattern: "GET /repos/{owner}/{repo}/git/commits/{sha}", scopes: needs("contents:read"), handle: (*call).gitCommit},
	{pattern: "GET /repos/{owner}/{repo}/git/trees/*", scopes: needs("contents:read"), handle: (*call).tree},
	{pattern: "GET /repos/{owner}/{repo}/git/blobs/{sha}", scopes: needs("contents:read"), handle: (*call).blobOf},
}

func (c *call) refObject(ref gitRef) object {
	return object{
		"ref": ref.name, "node_id": "ref_" + ref.name, "url": c.url("/git/%s", ref.name),
		"object": object{"sha": ref.sha, "type": ref.kind, "url": c.url("/git/%ss/%s", ref.kind, ref.sha)},
	}
}

// oneRef is the ref of the name in the path, which is without "refs/".
func (c *call) oneRef() (gitRef, error) {
	name := "refs/" + c.part("*")
	refs, err := c.refs(name)
	if err != nil {
		return gitRef{}, err
	}
	for _, ref := range refs {
		if ref.name == name {
			return ref, nil
		}
	}
	return gitRef{}, errNotFound
}

func (c *call) getRef() (any, error) {
	ref, err := c.oneRef()
	if err != nil {
		return nil, err
	}
	return c.refObject(ref), nil
}

func (c *call) matchingRefs() (any, error) {
	refs, err := c.refs("refs/" + c.part("*"))
	if err != nil {
		return nil, err
	}
	out := []object{}
	for _, ref := range paged(c, refs) {
		out = append(out, c.refObject(ref))
	}
	return out, nil
}

// noCommit is what a ref is that is not there.
const noCommit = "0000000000000000000000000000000000000000"

var fullSHA = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// unprocessable is an answer of one sentence to a request that makes no sense.
func unprocessable(format string, args ...any) *Error {
	return &Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(format, args...)}
}

// newSHA is the object that the request's body names.
func (c *call) newSHA() (sha, kind string, err error) {
	if sha, err = c.required("Reference", "sha"); err != nil {
		return "", "", err
	}
	if !fullSHA.MatchString(sha) {
		return "", "", unprocessable("The sha parameter must be exactly 40 characters and contain only [0-9a-f].")
	}
	out, err := c.git("cat-file", "-t", sha)
	if err != nil {
		return "", "", unprocessable("Object does not exist")
	}
	return sha, strings.TrimSpace(string(out)), nil
}

func (c *call) createRef() (any, error) {
	name, err := c.required("Reference", "ref")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(name, "refs/") || strings.Count(name, "/") < 2 || !c.writable(name) {
		return nil, unprocessable("Reference name must start with 'refs' and have at least two slashes, and be one that may be written.")
	}
	sha, kind, err := c.newSHA()
	if err != nil {
		return nil, err
	}
	if err := c.setRef(name, noCommit, sha); err != nil {
		return nil, unprocessable("Reference already exists")
	}
	c.tell("new ref %s at %.12s", name, sha)
	return created(c.refObject(gitRef{name: name, sha: sha, kind: kind})), nil
}

// writable says whether a ref may be written by its name: branches, tags and notes, as on GitHub.
func (c *call) writable(name string) bool {
	if !goodRef(name) || strings.HasPrefix(name, "refs/pull/") {
		return false
	}
	_, err := c.git("check-ref-format", name)
	return err == nil
}

func (c *call) updateRef() (any, error) {
	ref, err := c.oneRef()
	if err != nil || !c.writable(ref.name) {
		return nil, unprocessable("Reference does not exist")
	}
	sha, kind, err := c.newSHA()
	if err != nil {
		return nil, err
	}
	if !c.yes("force", false) {
		if _, err := c.git("merge-base", "--is-ancestor", ref.sha, sha); err != nil {
			return nil, unprocessable("Update is not a fast forward")
		}
	}
	if err := c.setRef(ref.name, ref.sha, sha); err != nil {
		return nil, unprocessable("Reference cannot be updated")
	}
	c.tell("%s moves to %.12s", ref.name, sha)
	ref.sha, ref.kind = sha, kind
	return c.refObject(ref), nil
}

func (c *call) deleteRef() (any, error) {
	ref, err := c.oneRef()
	if err != nil || !c.writable(ref.name) {
		return nil, unprocessable("Reference does not exist")
	}
	if err := c.setRef(ref.name, ref.sha, noCommit); err != nil {
		return nil, unprocessable("Reference cannot be deleted")
	}
	c.tell("%s is deleted", ref.name)
	return noContent, nil
}

func (c *call) gitCommit() (any, error) {
	sha, err := c.resolve(c.part("sha"))
	if err != nil {
		return nil, errNotFound
	}
	commits, err := c.commits("-1", sha)
	if err != nil || len(commits) == 0 {
		return nil, errNotFound
	}
	return c.gitCommitObject(commits[0]), nil
}

const maxTree = 100_000 // entries, as GitHub's limit is

func (c *call) tree() (any, error) {
	sha, err := c.resolveAs(c.part("*"), "tree")
	if err != nil {
		return nil, errNotFound
	}
	args := []string{"ls-tree", "-z", "-l"}
	if c.r.URL.Query().Has("recursive") {
		args = append(args, "-r", "-t")
	}
	out, err := c.git(append(args, sha)...)
	if err != nil {
		return nil, err
	}
	entries, truncated := []object{}, false
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		e, ok := parseTreeLine(line)
		if !ok {
			continue
		}
		if truncated = len(entries) == maxTree; truncated {
			break
		}
		entry := object{"path": e.path, "mode": e.mode, "type": e.kind, "sha": e.sha, "url": c.url("/git/%ss/%s", e.kind, e.sha)}
		if e.kind == "blob" {
			entry["size"] = e.size
		}
		entries = append(entries, entry)
	}
	return object{"sha": sha, "url": c.url("/git/trees/%s", sha), "tree": entries, "truncated": truncated}, nil
}

// treeEntry is one line of `git ls-tree -l`.
type treeEntry struct {
	mode, kind, sha, path string
	size                  int64
}

func parseTreeLine(line string) (treeEntry, bool) {
	head, path, ok := strings.Cut(line, "\t")
	parts := strings.Fields(head)
	if !ok || len(parts) != 4 {
		return treeEntry{}, false
	}
	size, _ := strconv.ParseInt(parts[3], 10, 64) // "-" for what is no file
	return treeEntry{mode: parts[0], kind: parts[1], sha: parts[2], path: path, size: size}, true
}

func (c *call) blobOf() (any, error) {
	sha := c.part("sha")
	if !fullSHA.MatchString(sha) {
		return nil, errNotFound
	}
	data, err := c.git("cat-file", "blob", sha)
	if err != nil {
		return nil, errNotFound
	}
	return object{
		"sha": sha, "node_id": "blob_" + sha, "size": len(data), "url": c.url("/git/blobs/%s", sha), "encoding": "base64",
		"content": base64.StdEncoding.EncodeToString(data),
	}, nil
}
