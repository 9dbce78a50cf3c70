package native

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// checkoutHere lays the local working tree over set.dir and gives the commit that HEAD names.
func checkoutHere(ctx context.Context, s *Step, set checkoutSettings) (commit string, err error) {
	tree := s.Host.WorkTree
	state, err := tree.read(ctx)
	if err != nil {
		return "", fmt.Errorf("read the working tree %s: %w", tree.Dir, err)
	}
	s.info("The working tree of this machine is checked out as it is: uncommitted changes included, ignored files left out")
	hide := slices.Clone(state.ignored)
	if !set.submodules {
		for _, sub := range state.submodules {
			hide = append(hide, sub.path)
		}
	}
	if state.git {
		hide = append(hide, hiddenOfGit(state)...)
	}
	if layered, ok := s.Sandbox.(sandbox.Layered); ok {
		err = overlayTree(ctx, s, layered, tree.Dir, state, set.dir, hide)
	} else {
		err = copyTree(ctx, s, tree.Dir, state, set.dir, hide)
	}
	if err != nil {
		return "", fmt.Errorf("put the working tree into %s: %w", set.dir, err)
	}
	if !state.git {
		s.warning("%s is no git repository: git commands in the job will fail", tree.Dir)
		return state.commit, nil
	}
	if err := settleTree(ctx, s, set, state); err != nil {
		return "", err
	}
	return state.commit, nil
}

// hiddenOfGit is what of the repository's own files stays on the host: hooks would run in the job, locks would stop
// it, other working trees are none of its business. The configuration is written anew, without credentials.
func hiddenOfGit(state treeState) []string {
	if state.elsewhere {
		return []string{".git"} // what leads to the repository: that is put in its place
	}
	return inRepository(".git/")
}

func inRepository(prefix string) []string {
	names := []string{"config", "config.worktree", "hooks", "index.lock", "HEAD.lock", "config.lock", "worktrees", "FETCH_HEAD"}
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

func overlayTree(ctx context.Context, s *Step, layered sandbox.Layered, root string, state treeState, dir string, hide []string) error {
	if err := layered.Overlay(ctx, dir, root, hide); err != nil {
		return err
	}
	if state.git && state.elsewhere {
		return layered.Overlay(ctx, dir+"/.git", state.commonDir, inRepository(""))
	}
	return nil
}

// settleTree makes a repository of its own of what was laid over the directory: configuration, safe.directory, the
// index of a linked working tree, sparse patterns, submodules, credentials.
func settleTree(ctx context.Context, s *Step, set checkoutSettings, state treeState) error {
	config, err := treeConfig(ctx, s, set, state)
	if err != nil {
		return err
	}
	files := []file{{name: ".git/config", data: config}}
	if state.gitDir != state.commonDir {
		for _, name := range []string{"HEAD", "index"} {
			data, err := os.ReadFile(filepath.Join(state.gitDir, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			files = append(files, file{name: ".git/" + name, data: string(data)})
		}
	}
	if !set.submodules {
		for _, sub := range state.submodules {
			files = append(files, file{name: sub.path + "/"})
		}
	}
	if err := s.put(ctx, set.dir, files...); err != nil {
		return err
	}
	if err := trustDirectory(ctx, s, set); err != nil {
		return err
	}
	if len(set.sparse) > 0 {
		if err := sparseCheckout(ctx, s, set); err != nil {
			return err
		}
	}
	if set.submodules && slices.ContainsFunc(state.submodules, func(sub submodule) bool { return !sub.ready }) {
		return updateSubmodules(ctx, s, set, nil)
	}
	return nil
}

// trustDirectory makes git take a directory whose files are another user's than the one inside.
func trustDirectory(ctx context.Context, s *Step, set checkoutSettings) error {
	if !set.safe {
		return nil
	}
	if _, err := s.answer(ctx, set.dir, "git", "rev-parse", "--git-dir"); err == nil || !strings.Contains(err.Error(), "dubious ownership") {
		return nil // trusted already, or no git inside
	}
	s.info("Adding repository directory to the git global config as a safe directory")
	_, err := s.answer(ctx, set.dir, "git", "config", "--global", "--add", "safe.directory", set.dir)
	return err
}

// keptConfig says which of the repository's settings the job sees. Whatever holds credentials, runs commands or
// leads to files of the host is left out.
func keptConfig(key string) bool {
	section, rest, _ := strings.Cut(key, ".")
	name := rest[strings.LastIndex(rest, ".")+1:]
	switch section {
	case "core":
		return slices.Contains([]string{"repositoryformatversion", "filemode", "bare", "logallrefupdates", "symlinks",
			"ignorecase", "precomposeunicode", "autocrlf", "eol", "safecrlf", "abbrev", "sparsecheckout", "sparsecheckoutcone"}, name)
	case "extensions", "index":
		return !strings.EqualFold(name, "worktreeconfig")
	case "remote":
		return slices.Contains([]string{"url", "fetch", "promisor", "partialclonefilter", "tagopt"}, name)
	case "branch":
		return slices.Contains([]string{"remote", "merge", "rebase"}, name)
	case "submodule":
		return slices.Contains([]string{"url", "active", "path"}, name)
	}
	return false
}

// treeConfig writes the configuration of the repository as the job sees it.
func treeConfig(ctx context.Context, s *Step, set checkoutSettings, state treeState) (string, error) {
	out, err := gitHere(ctx, state.commonDir, 4<<20, "config", "-z", "--no-includes", "-f", filepath.Join(state.commonDir, "config"), "--list")
	if err != nil {
		return "", fmt.Errorf("read the repository's configuration: %w", err)
	}
	var b configWriter
	for record := range bytes.SplitSeq(out, []byte{0}) {
		key, value, ok := strings.Cut(string(record), "\n")
		if !ok || !keptConfig(key) {
			continue
		}
		if strings.HasSuffix(key, ".url") {
			value = withoutCredentials(value)
		}
		b.set(key, value)
	}
	b.set("gc.auto", "0")
	// The overlay shows other inodes than the index remembers; comparing them would make git read every file.
	b.set("core.checkstat", "minimal")
	b.set("core.trustctime", "false")
	if set.persist && set.token != "" {
		file, err := s.writeCredentials(ctx, set)
		if err != nil {
			return "", err
		}
		b.set("include.path", file)
	}
	return b.String(), nil
}

// configWriter writes git's configuration format.
type configWriter struct{ strings.Builder }

func (w *configWriter) set(key, value string) {
	first, last := strings.Index(key, "."), strings.LastIndex(key, ".")
	if first < 0 || strings.ContainsAny(key, "\n\x00") || strings.Contains(value, "\x00") {
		return
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`)
	if first == last {
		fmt.Fprintf(w, "[%s]\n", key[:first])
	} else {
		inSection := strings.NewReplacer(`\`, `\\`, `"`, `\"`) // a tab stays a tab here
		fmt.Fprintf(w, "[%s \"%s\"]\n", key[:first], inSection.Replace(key[first+1:last]))
	}
	fmt.Fprintf(w, "\t%s = \"%s\"\n", key[last+1:], quote.Replace(value))
}

// withoutCredentials takes user and password out of a URL.
func withoutCredentials(remote string) string {
	scheme, rest, ok := strings.Cut(remote, "://")
	if !ok || scheme == "ssh" {
		return remote
	}
	host, tail, slash := strings.Cut(rest, "/")
	host = host[strings.LastIndex(host, "@")+1:]
	if slash {
		host += "/"
	}
	return scheme + "://" + host + tail
}

// copyTree puts the working tree into the machine as an archive, where the machine has no layers.
func copyTree(ctx context.Context, s *Step, root string, state treeState, dir string, hide []string) error {
	if err := s.clear(ctx, dir); err != nil {
		return err
	}
	hidden := make(map[string]bool, len(hide))
	for _, h := range hide {
		hidden[h] = true
	}
	return s.putTar(ctx, dir, func(w *tar.Writer) error {
		if err := packDir(ctx, w, root, "", hidden); err != nil || !state.git || !state.elsewhere {
			return err
		}
		skip := map[string]bool{}
		for _, name := range inRepository(".git/") {
			skip[name] = true
		}
		return packDir(ctx, w, state.commonDir, ".git", skip)
	})
}

// packDir writes a directory of this host to an archive under prefix. Files that vanish meanwhile are left out, as
// are sockets, devices and the like.
func packDir(ctx context.Context, w *tar.Writer, root, prefix string, hidden map[string]bool) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		to := path.Join(prefix, filepath.ToSlash(rel))
		if hidden[to] {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if to == "." {
			return nil
		}
		return packFile(w, name, to)
	})
}

func packFile(w *tar.Writer, name, to string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &tar.Header{Name: to, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, to+"/"
		return w.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		if h.Linkname, err = os.Readlink(name); err != nil {
			return err
		}
		h.Typeflag = tar.TypeSymlink
		return w.WriteHeader(h)
	case !info.Mode().IsRegular():
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	// A file that is written meanwhile may be longer or shorter than it was: its size in the archive holds.
	n, err := io.Copy(w, io.LimitReader(f, h.Size))
	for err == nil && n < h.Size {
		var more int
		more, err = w.Write(make([]byte, min(h.Size-n, 64<<10)))
		n += int64(more)
	}
	return err
}
