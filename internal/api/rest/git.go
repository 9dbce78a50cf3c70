package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// maxGit bounds what git may say, bytes.
const maxGit = 64 << 20

// git runs git in the repository and gives its standard output.
func (c *call) git(args ...string) ([]byte, error) { return c.gitIn(false, nil, nil, args...) }

// gitIn runs git with an input and an environment; with write its refs may be changed.
func (c *call) gitIn(write bool, in io.Reader, env []string, args ...string) ([]byte, error) {
	dir, err := c.repo.Git(c.ctx, write)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C", "GIT_LITERAL_PATHSPECS=1"), env...)
	out, said := &bounded{left: maxGit, full: cancel}, &bounded{left: 4096, full: func() {}}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(said.Bytes()))
	}
	return out.Bytes(), nil
}

// bounded takes so many bytes and no more.
type bounded struct {
	bytes.Buffer
	left int
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Buffer.Write(p[:n])
	if n < len(p) {
		b.full()
	}
	return len(p), nil
}

// refName is what may name a commit: none of git's ways to walk from one commit to another.
var refName = regexp.MustCompile(`^[A-Za-z0-9_][^\x00-\x20\x7f~^:?*\[\\]*$`)

func goodRef(ref string) bool {
	return len(ref) <= 1024 && refName.MatchString(ref) && !strings.Contains(ref, "..") && !strings.Contains(ref, "@{")
}

var errNoCommit = errors.New("no such commit")

// resolve gives the commit that a branch, a tag, a ref or a SHA names.
func (c *call) resolve(ref string) (string, error) { return c.resolveAs(ref, "commit") }

func (c *call) resolveAs(ref, kind string) (string, error) {
	if !goodRef(ref) {
		return "", errNoCommit
	}
	names := []string{ref}
	if !strings.HasPrefix(ref, "refs/") { // a branch before a tag, and what begins like a path of refs is one
		names = []string{"refs/heads/" + ref, "refs/tags/" + ref, "refs/" + ref, ref}
	}
	for _, name := range names {
		out, err := c.git("rev-parse", "--verify", "--quiet", "--end-of-options", name+"^{"+kind+"}")
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
		if c.ctx.Err() != nil {
			return "", c.ctx.Err()
		}
	}
	return "", errNoCommit
}

// head is the commit that a request's ref names, the default branch's where there is none. The working tree's own commit
// answers for a default branch that is not there.
func (c *call) head(ref string) (string, error) {
	if ref != "" {
		return c.resolve(ref)
	}
	sha, err := c.resolve("refs/heads/" + c.repo.DefaultBranch)
	if err != nil {
		sha, err = c.resolve("HEAD")
	}
	return sha, err
}

// gitRef is a ref.
type gitRef struct {
	name, sha, kind string
	peeled          string // the commit that an annotated tag names
}

// maxRefs bounds the refs that are listed.
const maxRefs = 10_000

// refs lists those whose names begin with prefix.
func (c *call) refs(prefix string) ([]gitRef, error) {
	if prefix != "" && !goodRef(prefix+"x") {
		return nil, errNotFound
	}
	// A pattern of for-each-ref ends at a slash: what begins alike is looked through here.
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	out, err := c.git("for-each-ref", fmt.Sprint("--count=", maxRefs), "--format=%(refname) %(objectname) %(objecttype) %(*objectname)", dir)
	if err != nil {
		return nil, err
	}
	refs := []gitRef{}
	for line := range strings.Lines(string(out)) {
		parts := strings.Split(strings.TrimRight(line, "\n"), " ")
		if len(parts) == 4 && strings.HasPrefix(parts[0], prefix) {
			refs = append(refs, gitRef{parts[0], parts[1], parts[2], parts[3]})
		}
	}
	return refs, nil
}
