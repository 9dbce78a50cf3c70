package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// WorkflowDir is where a repository keeps its workflows.
const WorkflowDir = ".github/workflows"

// maxWorkflowFile bounds what is read of one workflow file, bytes. It is above the parser's own limit, so that the
// parser is the one that says no.
const maxWorkflowFile = 16 << 20

// zeroSHA is git's name for no commit.
const zeroSHA = "0000000000000000000000000000000000000000"

// WorkTree is a repository as it lies in a directory: the commit that is checked out and, on top of it, whatever
// has not been committed yet.
type WorkTree struct {
	Root          string // absolute
	Repository    string // owner/name, from the remote "origin"; local/DIRECTORY without one
	ServerURL     string // of the remote, https://github.com without one
	SHA           string // of HEAD; forty zeros before the first commit and outside git
	Ref           string // refs/heads/main, refs/tags/v1 when HEAD is exactly that tag and on no branch
	DefaultBranch string
	Actor         string
	Author        Author
	Message       string // of HEAD
	Before        string // what HEAD is compared with for a push: the upstream, the default branch, the parent; may be zeros
	Git           bool   // false: a directory that is no git repository
}

// Author is who wrote HEAD.
type Author struct{ Name, Email, Date string }

// OpenWorkTree reads the repository that dir lies in. A directory outside git is a repository without commits.
func OpenWorkTree(ctx context.Context, dir string) (*WorkTree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if info, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open repository: %s is not a directory", abs)
	}
	w := &WorkTree{Root: abs, SHA: zeroSHA, Before: zeroSHA, Ref: "refs/heads/main", DefaultBranch: "main", ServerURL: "https://github.com"}
	w.Actor = systemUser()
	err = w.readGit(ctx)
	if err != nil && !strings.Contains(err.Error(), "not a git repository") {
		return nil, fmt.Errorf("open repository %s: %w", abs, err)
	}
	w.Repository = cmp.Or(w.Repository, "local/"+repositoryName(filepath.Base(w.Root)))
	return w, nil
}

// readGit asks git for everything at once: few calls that do not wait for each other, since each costs milliseconds that
// every run waits for.
func (w *WorkTree) readGit(ctx context.Context) error {
	dir := w.Root
	var top, head, config, refs string
	var notGit error
	var wg sync.WaitGroup
	wg.Go(func() { top, notGit = git(ctx, dir, "rev-parse", "--show-toplevel") })
	ask := func(into *string, args ...string) {
		wg.Go(func() { *into, _ = git(ctx, dir, args...) }) // what git can not say keeps its default
	}
	ask(&head, "log", "-1", "--no-show-signature", "--decorate=full", "--format=%H%x00%P%x00%an%x00%ae%x00%aI%x00%D%x00%B", "HEAD")
	ask(&config, "config", "--get-regexp", `^(remote\.origin\.url|github\.user|user\.name)$`)
	ask(&refs, "for-each-ref", "--format=%(refname)%00%(symref)", "refs/heads/main", "refs/heads/master", "refs/remotes/origin/HEAD")
	wg.Wait()
	if notGit != nil {
		return notGit
	}
	w.Git, w.Root = true, filepath.FromSlash(top)
	w.readConfig(config)
	parent := w.readHead(ctx, head)
	w.DefaultBranch = w.defaultBranch(refs)
	w.Before = cmp.Or(w.upstream(ctx), w.mergeBase(ctx), parent, zeroSHA)
	return nil
}

// readHead takes HEAD's commit and what points at it from git log's answer, empty before the first commit.
func (w *WorkTree) readHead(ctx context.Context, head string) (parent string) {
	f := strings.SplitN(head, "\x00", 7)
	if len(f) < 7 {
		if branch, err := git(ctx, w.Root, "symbolic-ref", "-q", "HEAD"); err == nil {
			w.Ref = branch
		}
		return ""
	}
	w.SHA, w.Author, w.Message = f[0], Author{f[2], f[3], f[4]}, strings.TrimSpace(f[6])
	for ref := range strings.SplitSeq(f[5], ", ") {
		if branch, ok := strings.CutPrefix(ref, "HEAD -> "); ok {
			w.Ref = branch
			break
		}
		if tag, ok := strings.CutPrefix(ref, "tag: "); ok && strings.HasPrefix(f[5], "HEAD,") {
			w.Ref = tag // on no branch: exactly a tag
			break
		}
	}
	parent, _, _ = strings.Cut(f[1], " ")
	return parent
}

// readConfig takes the remote and the user from git config's answer.
func (w *WorkTree) readConfig(config string) {
	var user string
	for line := range strings.Lines(config) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "remote.origin.url":
			w.readRemote(value)
		case "github.user":
			w.Actor, user = value, value
		case "user.name":
			if user == "" {
				w.Actor = repositoryName(value)
			}
		}
	}
}

// defaultBranch is the remote's, else main or master if there is one, else the branch that is checked out.
func (w *WorkTree) defaultBranch(refs string) string {
	var local string
	for line := range strings.Lines(refs) {
		name, target, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\x00")
		if b, ok := strings.CutPrefix(target, "refs/remotes/origin/"); ok {
			return b
		}
		if local == "" {
			local = strings.TrimPrefix(name, "refs/heads/")
		}
	}
	return cmp.Or(local, strings.TrimPrefix(w.Ref, "refs/heads/"))
}

// upstream is the commit that the branch has on its remote, unless it is HEAD itself.
func (w *WorkTree) upstream(ctx context.Context) string {
	if w.Repository == "" || !strings.HasPrefix(w.Ref, "refs/heads/") {
		return "" // without a remote there is none
	}
	out, _ := git(ctx, w.Root, "rev-parse", "-q", "--verify", "@{upstream}")
	return other(out, w.SHA)
}

// readRemote takes the repository's name and server from a remote's URL of any of git's forms.
func (w *WorkTree) readRemote(remote string) {
	host, path := "", ""
	if u, err := url.Parse(remote); err == nil && u.Host != "" {
		host, path = u.Hostname(), u.Path
	} else if before, after, ok := strings.Cut(remote, ":"); ok && !strings.Contains(before, "/") {
		_, host, _ = cutLast(before, "@")
		path = after
	} else {
		path = remote // a directory
	}
	parts := strings.Split(strings.Trim(strings.TrimSuffix(strings.TrimRight(path, "/"), ".git"), "/"), "/")
	if len(parts) >= 2 && host != "" {
		w.Repository = parts[len(parts)-2] + "/" + parts[len(parts)-1]
		w.ServerURL = "https://" + host
	}
}

// mergeBase is where the branch left the default branch, empty on the default branch itself.
func (w *WorkTree) mergeBase(ctx context.Context) string {
	if w.Branch() == w.DefaultBranch || w.SHA == zeroSHA {
		return ""
	}
	for _, base := range []string{"refs/remotes/origin/" + w.DefaultBranch, "refs/heads/" + w.DefaultBranch} {
		if out, err := git(ctx, w.Root, "merge-base", "HEAD", base); err == nil {
			return other(out, w.SHA)
		}
	}
	return ""
}

// Branch is the short name of Ref.
func (w *WorkTree) Branch() string {
	return strings.TrimPrefix(strings.TrimPrefix(w.Ref, "refs/heads/"), "refs/tags/")
}

// Name is the repository's name without its owner.
func (w *WorkTree) Name() string {
	_, name, _ := strings.Cut(w.Repository, "/")
	return name
}

// Changed lists the paths that differ between Before and the working tree, uncommitted and untracked ones included.
// known is false when there is nothing to compare with: then path filters let everything through, as on GitHub.
func (w *WorkTree) Changed(ctx context.Context) (paths []string, known bool, err error) {
	if !w.Git || w.Before == zeroSHA {
		return nil, false, nil
	}
	tracked, err := git(ctx, w.Root, "diff", "--name-only", "-z", "--no-renames", w.Before, "--")
	if err != nil {
		return nil, false, fmt.Errorf("list changed files: %w", err)
	}
	untracked, err := git(ctx, w.Root, "ls-files", "--others", "--exclude-standard", "-z")
	if err != nil {
		return nil, false, fmt.Errorf("list changed files: %w", err)
	}
	for p := range strings.SplitSeq(tracked+untracked, "\x00") {
		if p != "" {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), true, nil
}

// File is a file of the repository.
type File struct {
	Path string // slash-separated, relative to the root
	Data []byte
}

// Workflows reads the files below .github/workflows, sorted by name; like GitHub it does not look into
// directories. No such directory is no workflows.
func (w *WorkTree) Workflows() ([]File, error) {
	entries, err := os.ReadDir(filepath.Join(w.Root, filepath.FromSlash(WorkflowDir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list workflows: %w", err)
	}
	var files []File
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".yml" && ext != ".yaml" {
			continue
		}
		f, err := w.Read(WorkflowDir + "/" + e.Name())
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Read reads one file. The name may not lead out of the repository, through symbolic links either.
func (w *WorkTree) Read(name string) (File, error) {
	root, err := os.OpenRoot(w.Root)
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", name, err)
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(name))
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", name, pathless(err))
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("read %s: not a regular file", name)
	}
	if info.Size() > maxWorkflowFile {
		return File{}, fmt.Errorf("read %s: %d bytes, more than the limit of %d", name, info.Size(), maxWorkflowFile)
	}
	data, err := root.ReadFile(filepath.FromSlash(name))
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", name, pathless(err))
	}
	return File{Path: name, Data: data}, nil
}

// pathless takes the path off an error whose message names it already.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// repositoryName turns any text into what GitHub takes as a name: letters, digits, '-', '_' and '.'.
func repositoryName(s string) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, s), "-.")
	return cmp.Or(name, "repository")
}

func systemUser() string {
	if u, err := user.Current(); err == nil {
		return repositoryName(u.Username)
	}
	return "local"
}

// other is s unless it equals not.
func other(s, not string) string {
	if s == not {
		return ""
	}
	return s
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}
