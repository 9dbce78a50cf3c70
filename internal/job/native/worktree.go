package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// WorkTree is a local repository, as checkout puts it into the workspace: the files as they lie in the directory,
// uncommitted changes included, without those that git ignores. It reads the repository once, when it is needed or
// Prepare is called, and never writes it.
type WorkTree struct {
	Dir        string // absolute
	Repository string // owner/name

	once  sync.Once
	state treeState
	err   error
}

// treeState is what git knows of a working tree.
type treeState struct {
	git        bool
	gitDir     string   // of this working tree, absolute
	commonDir  string   // of the repository, absolute; other than gitDir in a linked working tree
	elsewhere  bool     // the repository is not in .git: a linked working tree, a submodule, --separate-git-dir
	commit     string   // HEAD, empty before the first commit
	ignored    []string // paths, slash-separated, relative to root; directories whole
	submodules []submodule
}

type submodule struct {
	path  string // relative to root
	ready bool   // its files are there
}

// Prepare reads what checkout needs to know, so that no job waits for it. Errors are kept for checkout.
func (w *WorkTree) Prepare(ctx context.Context) { _, _ = w.read(ctx) }

// Ignored lists what checkout hides: the paths that git ignores, relative to the root, slash-separated, a directory
// standing for all that is in it.
func (w *WorkTree) Ignored(ctx context.Context) ([]string, error) {
	state, err := w.read(ctx)
	return slices.Clone(state.ignored), err
}

func (w *WorkTree) read(ctx context.Context) (treeState, error) {
	w.once.Do(func() { w.state, w.err = readTree(context.WithoutCancel(ctx), filepath.Clean(w.Dir)) })
	return w.state, w.err
}

// maxIgnored bounds the list of ignored paths, bytes.
const maxIgnored = 32 << 20

func readTree(ctx context.Context, root string) (treeState, error) {
	var state treeState
	dirs, err := gitHere(ctx, root, 64<<10, "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-dir", "--git-common-dir")
	if err != nil {
		if _, statErr := os.Lstat(filepath.Join(root, ".git")); errors.Is(statErr, fs.ErrNotExist) {
			return state, nil // no repository: everything is shown
		}
		return state, err
	}
	lines := strings.Split(strings.TrimSpace(string(dirs)), "\n")
	if len(lines) != 3 {
		return state, fmt.Errorf("git rev-parse: unexpected answer for %s", root)
	}
	if lines[0] != root {
		if same, _ := sameFile(lines[0], root); !same {
			return state, nil // the repository of a directory above
		}
	}
	state.git, state.gitDir, state.commonDir = true, lines[1], lines[2]
	info, err := os.Lstat(filepath.Join(root, ".git"))
	state.elsewhere = err != nil || !info.IsDir()
	var wg sync.WaitGroup
	wg.Go(func() {
		if head, err := gitHere(ctx, root, 1<<10, "rev-parse", "-q", "--verify", "HEAD"); err == nil {
			state.commit = strings.TrimSpace(string(head))
		}
	})
	state.ignored, state.submodules, err = ignored(ctx, root, "", 0)
	wg.Wait()
	return state, err
}

func sameFile(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y), err
}

// maxSubmodules is how deep submodules lie in each other before their content is no longer looked at.
const maxSubmodules = 8

// ignored lists the ignored paths of a repository and of its submodules, which git lists each for itself.
func ignored(ctx context.Context, root, prefix string, depth int) (paths []string, subs []submodule, err error) {
	dir := filepath.Join(root, filepath.FromSlash(prefix))
	out, err := gitHere(ctx, dir, maxIgnored, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
	if err != nil {
		return nil, nil, fmt.Errorf("list ignored files: %w", err)
	}
	for name := range bytes.SplitSeq(out, []byte{0}) {
		p := strings.TrimSuffix(string(name), "/")
		// A directory of ignored files alone is listed, and then its files once more.
		if p != "" && !(len(paths) > 0 && below(path.Join(prefix, p), paths[len(paths)-1])) {
			paths = append(paths, path.Join(prefix, p))
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, ".gitmodules")); err != nil || depth == maxSubmodules {
		return paths, nil, nil
	}
	out, err = gitHere(ctx, dir, 1<<20, "config", "-z", "-f", ".gitmodules", "--get-regexp", `^submodule\..*\.path$`)
	if err != nil {
		return paths, nil, nil // a .gitmodules that names none
	}
	for record := range bytes.SplitSeq(out, []byte{0}) {
		_, name, ok := strings.Cut(string(record), "\n")
		if !ok || !filepath.IsLocal(filepath.FromSlash(name)) {
			continue
		}
		sub := submodule{path: path.Join(prefix, name)}
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(sub.path), ".git")); err == nil {
			sub.ready = true
			more, below, err := ignored(ctx, root, sub.path, depth+1)
			if err != nil {
				return nil, nil, err
			}
			paths, subs = append(paths, more...), append(subs, below...)
		}
		subs = append(subs, sub)
	}
	return paths, subs, nil
}

// gitHere runs git on this host, read only, and gives its standard output of at most limit bytes.
func gitHere(ctx context.Context, dir string, limit int, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ofOtherGit), "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	stdout, stderr := &limited{max: limit}, &limited{max: 4 << 10}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return nil, fmt.Errorf("git %s: %s", args[0], text)
		}
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	if stdout.over {
		return nil, fmt.Errorf("git %s: more than %d bytes of output", args[0], limit)
	}
	return stdout.Bytes(), nil
}

// ofOtherGit finds the variables by which a git that called us, from a hook, binds others to its repository.
func ofOtherGit(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX"}, name)
}
