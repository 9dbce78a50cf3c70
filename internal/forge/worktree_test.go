package forge

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/expr"
)

// inTree runs git commands, one a string, in a directory.
func inTree(t *testing.T, dir string, commands ...string) {
	t.Helper()
	for _, c := range commands {
		cmd := exec.Command("git", strings.Fields(c)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@localhost")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", c, err, out)
		}
	}
}

func openTree(t *testing.T, dir string) *WorkTree {
	t.Helper()
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	w, err := OpenWorkTree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWorkTreeOutsideGit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := openTree(t, dir)
	if w.Git || w.Repository != "local/my-app" || w.SHA != zeroSHA || w.Ref != "refs/heads/main" {
		t.Errorf("%+v", w)
	}
	if _, known, err := w.Changed(t.Context()); known || err != nil {
		t.Errorf("changed paths known: %v, %v", known, err)
	}
	if _, err := OpenWorkTree(t.Context(), filepath.Join(dir, "nothere")); err == nil {
		t.Error("a directory that does not exist was opened")
	}
}

func TestWorkTreeReadsGit(t *testing.T) {
	dir := t.TempDir()
	inTree(t, dir, "init -q -b trunk")
	if w := openTree(t, dir); w.Ref != "refs/heads/trunk" || w.SHA != zeroSHA || w.DefaultBranch != "trunk" {
		t.Errorf("before the first commit: %s at %s, default %s", w.Ref, w.SHA, w.DefaultBranch)
	}
	inTree(t, dir, "commit -q --allow-empty -m one", "commit -q --allow-empty -m two", "config user.name Some_One")
	w := openTree(t, dir)
	if w.Ref != "refs/heads/trunk" || w.Message != "two" || w.Actor != "Some_One" || len(w.SHA) != 40 || w.Before == zeroSHA || w.Before == w.SHA {
		t.Errorf("%+v", w)
	}
	sub := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := openTree(t, sub); got.Root != w.Root {
		t.Errorf("from a directory inside: %s, want %s", got.Root, w.Root)
	}
	inTree(t, dir, "tag v1", "checkout -q v1")
	if got := openTree(t, dir).Ref; got != "refs/tags/v1" {
		t.Errorf("on a tag: %s", got)
	}
}

func TestWorkTreeNamesItsRepository(t *testing.T) {
	for remote, want := range map[string][2]string{
		"https://github.com/acme/app.git":          {"acme/app", "https://github.com"},
		"git@github.com:acme/app.git":              {"acme/app", "https://github.com"},
		"ssh://git@git.example.org:2222/acme/app/": {"acme/app", "https://git.example.org"},
		"https://user:secret@example.org/a/acme/x": {"acme/x", "https://example.org"},
		"/srv/git/acme/app.git":                    {"local/tree", "https://github.com"},
		"../app":                                   {"local/tree", "https://github.com"},
	} {
		dir := filepath.Join(t.TempDir(), "tree")
		inTree(t, t.TempDir(), "init -q -b main "+dir)
		inTree(t, dir, "remote add origin "+remote)
		w := openTree(t, dir)
		if got := [2]string{w.Repository, w.ServerURL}; got != want {
			t.Errorf("%s: %v, want %v", remote, got, want)
		}
	}
}

func TestWorkTreeListsWhatChanged(t *testing.T) {
	upstream, dir := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	inTree(t, upstream, "init -q -b main", "commit -q --allow-empty -m one")
	inTree(t, upstream, "clone -q . "+dir)
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("committed")
	inTree(t, dir, "add committed", "commit -q -m two")
	write("staged")
	write("untracked")
	write("ignored")
	write(".gitignore")
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("ignored\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	inTree(t, dir, "add staged")
	w := openTree(t, dir)
	paths, known, err := w.Changed(t.Context())
	if err != nil || !known || !slices.Equal(paths, []string{".gitignore", "committed", "staged", "untracked"}) {
		t.Errorf("changed: %v, %v, %v", paths, known, err)
	}
}

func TestWorkTreeReadsOnlyInside(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".github", "workflows", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"b.yaml": "b", "a.yml": "a", "notes.txt": "x", "sub/c.yml": "c"} {
		if err := os.WriteFile(filepath.Join(dir, ".github", "workflows", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w := openTree(t, dir)
	files, err := w.Workflows()
	if err != nil || len(files) != 2 || files[0].Path != ".github/workflows/a.yml" || string(files[1].Data) != "b" {
		t.Errorf("workflows: %v, %v", files, err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out", "../x", ".github", "nothere"} {
		if f, err := w.Read(name); err == nil {
			t.Errorf("%s was read: %d bytes", name, len(f.Data))
		}
	}
}

func TestEventContexts(t *testing.T) {
	dir := t.TempDir()
	inTree(t, dir, "init -q -b main", "commit -q --allow-empty -m one", "checkout -q -b topic", "remote add origin https://github.com/acme/app")
	w := openTree(t, dir)
	for _, c := range []struct{ event, payload, want string }{
		{"push", "null", "push refs/heads/topic topic branch   "},
		{"push", `{"ref": "refs/tags/v2"}`, "push refs/tags/v2 v2 tag   "},
		{"pull_request", "null", "pull_request refs/pull/1/merge 1/merge branch topic main opened"},
		{"pull_request", `{"action": "closed", "number": 9, "pull_request": {"head": {"ref": "h"}, "base": {"ref": "b"}}}`, "pull_request refs/pull/9/merge 9/merge branch h b closed"},
		{"pull_request_target", "null", "pull_request_target refs/heads/main main branch topic main opened"},
	} {
		payload, err := expr.FromJSON([]byte(c.payload))
		if err != nil {
			t.Fatal(err)
		}
		ev, err := w.Event(t.Context(), c.event, payload)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range []string{"event_name", "ref", "ref_name", "ref_type", "head_ref", "base_ref"} {
			got = append(got, ev.GitHub.Property(name).Text())
		}
		got = append(got, ev.GitHub.Property("event").Property("action").Text())
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.event, c.payload, got, c.want)
		}
	}
	if _, err := w.Event(t.Context(), "push", expr.Array()); err == nil {
		t.Error("a payload that is no object was taken")
	}
}
