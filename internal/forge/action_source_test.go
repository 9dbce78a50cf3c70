package forge

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// remote is a directory of repositories, as a server has them.
type remote struct {
	t   *testing.T
	dir string
}

func newRemote(t *testing.T) *remote { return &remote{t, t.TempDir()} }

func (r *remote) git(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main",
		"-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(outsideGit(os.Environ()), "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files (name -> text; a text of "-> x" is a link to x, of "" removes) and commits them.
func (r *remote) commit(repository string, files map[string]string) (sha string) {
	r.t.Helper()
	dir := filepath.Join(r.dir, repository)
	if _, err := os.Stat(dir); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			r.t.Fatal(err)
		}
		r.git(dir, "init", "-q")
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			r.t.Fatal(err)
		}
		os.Remove(name)
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, name)
		} else if text != "" {
			mode := os.FileMode(0o644)
			if strings.HasPrefix(text, "#!") {
				mode = 0o755
			}
			err = os.WriteFile(name, []byte(text), mode)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.git(dir, "add", "-A")
	r.git(dir, "commit", "-q", "--allow-empty", "-m", "change")
	return r.git(dir, "rev-parse", "HEAD")
}

func (r *remote) tag(repository string, args ...string) {
	r.git(filepath.Join(r.dir, repository), append([]string{"tag"}, args...)...)
}

func source(t *testing.T, template string) (*ActionSource, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return &ActionSource{CacheDir: t.TempDir(), URLTemplate: template, Log: log}, log
}

const anAction = "name: a\nruns: {using: composite, steps: []}\n"

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestActionSourceResolvesTagBranchAndCommit(t *testing.T) {
	r := newRemote(t)
	first := r.commit("o/act", map[string]string{"action.yml": anAction, "run.sh": "#!/bin/sh\n", "sub/dir/action.yaml": anAction, "lib": "-> sub/dir"})
	r.tag("o/act", "-a", "v1", "-m", "annotated")
	second := r.commit("o/act", map[string]string{"action.yml": anAction + "# second\n"})
	r.tag("o/act", "v2")
	r.git(filepath.Join(r.dir, "o/act"), "branch", "feature/x")
	r.git(filepath.Join(r.dir, "o/act"), "branch", "v1") // a tag counts before a branch of the same name

	for _, template := range []string{r.dir, "file://" + r.dir, "file://" + r.dir + "/{owner}/{repo}"} {
		a, _ := source(t, template)
		for _, c := range []struct{ uses, sha, path string }{
			{"o/act@v1", first, ""}, {"o/act@v2", second, ""}, {"o/act@feature/x", second, ""}, {"o/act@refs/heads/main", second, ""},
			{"o/act@" + first, first, ""}, {"o/act@" + first[:9], first, ""}, {"o/act/sub/dir@v1", first, "sub/dir"}, {"O/ACT/sub/dir/@v1", first, "sub/dir"},
		} {
			got, err := a.Resolve(t.Context(), c.uses)
			if err != nil {
				t.Errorf("%s from %s: %v", c.uses, template, err)
				continue
			}
			if got.SHA != c.sha || got.Path != c.path || got.Dir != filepath.Join(got.Root, c.path) {
				t.Errorf("%s from %s: got %+v, want %s in %q", c.uses, template, got, c.sha, c.path)
			}
		}
		got, err := a.Resolve(t.Context(), "o/act@v1")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(got.Root, "run.sh")); err != nil || info.Mode().Perm()&0o111 == 0 {
			t.Errorf("run.sh: %v, %v: want it executable", info, err)
		}
		if target, err := os.Readlink(filepath.Join(got.Root, "lib")); err != nil || target != "sub/dir" {
			t.Errorf("lib leads to %q, %v", target, err)
		}
	}
}

func TestActionSourceWorksOfflineAfterwards(t *testing.T) {
	r := newRemote(t)
	sha := r.commit("o/act", map[string]string{"action.yml": anAction})
	r.tag("o/act", "v1")
	a, _ := source(t, r.dir)
	if _, err := a.Resolve(t.Context(), "o/act@v1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.dir, r.dir+".gone"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir + ".gone") })
	for _, offline := range []bool{false, true} {
		log := &bytes.Buffer{}
		b := &ActionSource{CacheDir: a.CacheDir, URLTemplate: a.URLTemplate, Offline: offline, Log: log}
		got, err := b.Resolve(t.Context(), "o/act@v1")
		if err != nil || got.SHA != sha {
			t.Fatalf("offline %v: got %+v, %v", offline, got, err)
		}
		if !strings.Contains(log.String(), "from the cache, as it was on") {
			t.Errorf("offline %v: no note of the age in %q", offline, log)
		}
		log.Reset()
		if _, err := b.Resolve(t.Context(), "o/act@"+sha); err != nil || log.Len() > 0 {
			t.Errorf("offline %v: a commit gives %v and says %q", offline, err, log)
		}
		if _, err := b.Resolve(t.Context(), "o/act@main"); err == nil {
			t.Errorf("offline %v: a ref never seen is found", offline)
		}
	}
}

func TestActionSourceFollowsAMovedBranch(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"action.yml": anAction})
	a, _ := source(t, r.dir)
	before, err := a.Resolve(t.Context(), "o/act@main")
	if err != nil {
		t.Fatal(err)
	}
	sha := r.commit("o/act", map[string]string{"action.yml": anAction + "# moved\n"})
	if again, err := a.Resolve(t.Context(), "o/act@main"); err != nil || again.SHA != before.SHA {
		t.Errorf("within a run: got %s, %v, want the same commit %s", again.SHA, err, before.SHA)
	}
	b := &ActionSource{CacheDir: a.CacheDir, URLTemplate: a.URLTemplate}
	if after, err := b.Resolve(t.Context(), "o/act@main"); err != nil || after.SHA != sha {
		t.Errorf("in the next run: got %s, %v, want %s", after.SHA, err, sha)
	}
}

func TestActionSourceErrorsSayWhatThereIs(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"tools/build/action.yml": anAction, ".github/workflows/ci.yml": "on: push\n"})
	r.tag("o/act", "v1.2.0")
	r.tag("o/act", "v1")
	a, _ := source(t, r.dir)
	for _, c := range []struct {
		uses string
		want []string
	}{
		{"o/none@v1", []string{"Unable to resolve action `o/none@v1`", "no repository", "o/none"}},
		{"o/act@v11", []string{"unable to find version `v11` of o/act", "v1,"}},
		{"o/act@v1", []string{"Can't find 'action.yml', 'action.yaml' or 'Dockerfile' for action 'o/act@v1'.", "tools/build"}},
		{"o/act/tools/@v1", []string{"Can't find 'action.yml'", "tools/build"}},
		{"o/act/.github/workflows/cd.yml@v1", []string{"no file .github/workflows/cd.yml", ".github/workflows/ci.yml"}},
		{"o/act@" + strings.Repeat("a", 40), []string{"unable to find version"}},
	} {
		_, err := a.Resolve(t.Context(), c.uses)
		if err == nil {
			t.Errorf("%s: no error", c.uses)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", c.uses, err, want)
			}
		}
	}
	if got, err := a.Resolve(t.Context(), "o/act/.github/workflows/ci.yml@v1"); err != nil || read(t, got.Dir, "ci.yml") != "on: push\n" {
		t.Errorf("a called workflow: %+v, %v", got, err)
	}
}

func TestActionSourceTakesOverrides(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "action.yml"), []byte(anAction), 0o644); err != nil {
		t.Fatal(err)
	}
	a := &ActionSource{CacheDir: t.TempDir(), Offline: true, Overrides: map[string]string{"O/Act": dir, "o/pinned@v1": dir}}
	for uses, ok := range map[string]bool{"o/act@anything": true, "o/pinned@v1": true, "o/pinned@v2": false} {
		got, err := a.Resolve(t.Context(), uses)
		if ok != (err == nil) || ok && got.Dir != dir {
			t.Errorf("%s: got %+v, %v", uses, got, err)
		}
	}
}

func TestActionSourceTakesTheOverrideThatSaysMost(t *testing.T) {
	root := t.TempDir()
	a := &ActionSource{CacheDir: t.TempDir(), Offline: true, Overrides: map[string]string{}}
	for key, dir := range map[string]string{"o/many": "many", "o/many@v1": "many1", "o/many/sub": "sub", "O/Many/sub@v2": "sub2"} {
		a.Overrides[key] = filepath.Join(root, dir)
		for _, d := range []string{dir, dir + "/sub", dir + "/other"} {
			if err := errors.Join(os.MkdirAll(filepath.Join(root, d), 0o755), os.WriteFile(filepath.Join(root, d, "action.yml"), []byte(anAction), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for uses, want := range map[string]string{
		"o/many@v9": "many", "o/many@v1": "many1", "o/many/sub@v1": "sub", "o/many/sub@v2": "sub2", "o/many/other@v1": "many1/other", "o/many/other@v2": "many/other",
	} {
		got, err := a.Resolve(t.Context(), uses)
		if err != nil || got.Dir != filepath.Join(root, want) {
			t.Errorf("%s: got %s, %v, want %s", uses, got.Dir, err, want)
		}
	}
}

func TestActionSourceLeavesOutLinksThatLeadOut(t *testing.T) {
	r := newRemote(t)
	r.commit("o/evil", map[string]string{
		"action.yml": anAction, "abs": "-> /etc/passwd", "up": "-> ../../../../etc/passwd", "ok": "-> action.yml",
		"a/b/c/down": "-> ../../../top", "top/x": "x", "sneaky": "-> a/b/c/down/../../..", "a/back": "-> ../action.yml",
	})
	a, log := source(t, r.dir)
	got, err := a.Resolve(t.Context(), "o/evil@main")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"abs": false, "up": false, "ok": true, "a/b/c/down": true, "sneaky": false, "a/back": true} {
		if _, err := os.Lstat(filepath.Join(got.Root, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	if !strings.Contains(log.String(), "leads out of its repository") {
		t.Errorf("nothing said: %q", log)
	}
}

// treeObject writes a tree object that git itself would not make.
func (r *remote) treeObject(dir, mode, name, sha string) string {
	raw, err := hex.DecodeString(sha)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.t.TempDir(), "tree")
	if err := os.WriteFile(file, append([]byte(mode+" "+name+"\x00"), raw...), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return r.git(dir, "hash-object", "-t", "tree", "--literally", "-w", file)
}

func TestActionSourceRefusesHostileTrees(t *testing.T) {
	for _, name := range []string{"..", ".git", ".GIT", "a\\b"} {
		t.Run(strings.ReplaceAll(name, "\\", "backslash"), func(t *testing.T) {
			r := newRemote(t)
			r.commit("o/evil", map[string]string{"action.yml": anAction})
			dir := filepath.Join(r.dir, "o/evil")
			blob := r.git(dir, "rev-parse", "HEAD:action.yml")
			inner := r.treeObject(dir, "100644", "hooks", blob)
			tree := r.treeObject(dir, "40000", name, inner)
			sha := r.git(dir, "commit-tree", "-m", "evil", tree)
			r.git(dir, "update-ref", "refs/heads/evil", sha)
			a, _ := source(t, r.dir)
			if got, err := a.Resolve(t.Context(), "o/evil@evil"); err == nil {
				t.Fatalf("unpacked: %+v", got)
			}
			left, _ := filepath.Glob(filepath.Join(a.CacheDir, "trees", "*", "*"))
			hidden, _ := filepath.Glob(filepath.Join(a.CacheDir, "trees", "*", ".*"))
			for _, p := range append(left, hidden...) {
				if base := filepath.Base(p); base != "." && base != ".." {
					t.Errorf("left behind: %s", p)
				}
			}
		})
	}
}

func TestActionSourceDoesNotFollowSubmodules(t *testing.T) {
	r := newRemote(t)
	r.commit("o/inner", map[string]string{"secret": "s"})
	r.commit("o/act", map[string]string{"action.yml": anAction})
	r.git(filepath.Join(r.dir, "o/act"), "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", filepath.Join(r.dir, "o/inner"), "inner")
	r.commit("o/act", nil)
	a, _ := source(t, r.dir)
	got, err := a.Resolve(t.Context(), "o/act@main")
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Join(got.Root, "inner")); err != nil || len(entries) > 0 {
		t.Errorf("inner holds %v, %v, want an empty directory", entries, err)
	}
}

func TestActionSourceIgnoresTheGitAround(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"action.yml": anAction})
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_INDEX_FILE", "/nowhere/index")
	a, _ := source(t, r.dir)
	if _, err := a.Resolve(t.Context(), "o/act@main"); err != nil {
		t.Error(err)
	}
}

// serve gives the remote over HTTP by git's own backend.
func (r *remote) serve(allow func(*http.Request) bool) *httptest.Server {
	r.t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Stderr: io.Discard,
		Env:    []string{"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !allow(req) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	r.t.Cleanup(s.Close)
	return s
}

func TestActionSourceOverHTTP(t *testing.T) {
	r := newRemote(t)
	first := r.commit("o/act", map[string]string{"action.yml": anAction})
	r.commit("o/act", map[string]string{"action.yml": anAction + "#\n"})
	r.tag("o/act", "v1")
	s := r.serve(func(*http.Request) bool { return true })
	for _, template := range []string{s.URL, s.URL + "/{owner}/{repo}/.git"} {
		a, log := source(t, template)
		for _, uses := range []string{"o/act@v1", "o/act@main", "o/act@" + first} {
			if _, err := a.Resolve(t.Context(), uses); err != nil {
				t.Errorf("%s from %s: %v", uses, template, err)
			}
		}
		if !strings.Contains(log.String(), "Fetching o/act at") {
			t.Errorf("no progress: %q", log)
		}
		if _, err := a.Resolve(t.Context(), "o/none@v1"); err == nil || !strings.Contains(err.Error(), "there is no repository") {
			t.Errorf("a missing repository: %v", err)
		}
	}
}

func TestActionSourceAsksForNoPassword(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"action.yml": anAction})
	s := r.serve(func(req *http.Request) bool { _, p, _ := req.BasicAuth(); return p == "sesame" })
	a, _ := source(t, s.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := a.Resolve(ctx, "o/act@main"); err == nil || !strings.Contains(err.Error(), "may not be read") {
		t.Errorf("got %v", err)
	}
	b, log := source(t, strings.Replace(s.URL, "http://", "http://user:sesame@", 1))
	if _, err := b.Resolve(ctx, "o/act@main"); err != nil {
		t.Errorf("with a password in the URL: %v", err)
	}
	_, err := b.Resolve(ctx, "o/none@main")
	if err == nil || strings.Contains(log.String()+err.Error(), "sesame") {
		t.Errorf("the password is told: %q, %v", log, err)
	}
}

// TestMain lets the test binary be another process: one that resolves, or a server that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TEST_SERVE"); dir != "" {
		fmt.Fprintln(os.Stderr, serveUntilKilled(dir))
		os.Exit(1)
	}
	if uses := os.Getenv("TEST_RESOLVE"); uses != "" {
		a := &ActionSource{CacheDir: os.Getenv("TEST_CACHE"), URLTemplate: os.Getenv("TEST_URL")}
		got, err := a.Resolve(context.Background(), uses)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(got.SHA)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestActionSourceSharedByProcessesAndGoroutines(t *testing.T) {
	r := newRemote(t)
	sha := r.commit("o/act", map[string]string{"action.yml": anAction, "dist/index.js": strings.Repeat("x", 1<<20)})
	r.tag("o/act", "v1")
	a, _ := source(t, r.dir)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "TEST_RESOLVE=o/act@v1", "TEST_CACHE="+a.CacheDir, "TEST_URL="+r.dir)
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != sha {
				t.Errorf("process: %s, %v", out, err)
			}
		})
		wg.Go(func() {
			if got, err := a.Resolve(t.Context(), "o/act@v1"); err != nil || got.SHA != sha {
				t.Errorf("goroutine: %+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if trees, _ := filepath.Glob(filepath.Join(a.CacheDir, "trees", "*", "*")); len(trees) != 1 {
		t.Errorf("trees: %v, want one", trees)
	}
}

func TestActionSourceCleansUpAfterAKill(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"action.yml": anAction})
	a, _ := source(t, r.dir)
	cache, err := a.repository("o/act")
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(cache.trees, ".new-123")
	if err := os.MkdirAll(filepath.Join(half, "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Resolve(t.Context(), "o/act@main"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("what a killed process left is still there")
	}
}

func TestActionSourcePrune(t *testing.T) {
	r := newRemote(t)
	r.commit("o/old", map[string]string{"action.yml": anAction})
	r.commit("o/new", map[string]string{"action.yml": anAction})
	a, _ := source(t, r.dir)
	old, err := a.Resolve(t.Context(), "o/old@main")
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := a.Resolve(t.Context(), "o/new@main")
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().AddDate(0, -2, 0)
	if err := os.Chtimes(old.Root, long, long); err != nil {
		t.Fatal(err)
	}
	if err := a.Prune(t.Context(), time.Now().AddDate(0, -1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old.Root); err == nil {
		t.Error("the unused one is still there")
	}
	if _, err := os.Stat(fresh.Root); err != nil {
		t.Errorf("the used one: %v", err)
	}
	b := &ActionSource{CacheDir: a.CacheDir, URLTemplate: a.URLTemplate}
	if _, err := b.Resolve(t.Context(), "o/old@main"); err != nil {
		t.Errorf("fetched again: %v", err)
	}
}

func TestActionSourceCancelled(t *testing.T) {
	r := newRemote(t)
	r.commit("o/act", map[string]string{"action.yml": anAction})
	reached, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		close(reached)
		<-release
	}))
	t.Cleanup(func() { close(release); s.Close() })
	a, _ := source(t, s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := a.Resolve(ctx, "o/act@main")
		done <- err
	}()
	<-reached
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

func TestParseReference(t *testing.T) {
	for uses, want := range map[string]Reference{
		"actions/checkout@v4":             {"actions/checkout", "", "v4"},
		"a/b/c/d@main":                    {"a/b", "c/d", "main"},
		"a/b/.github/workflows/x.yml@r/1": {"a/b", ".github/workflows/x.yml", "r/1"},
		"a/b/@v1":                         {"a/b", "", "v1"},
		"a/b/./c@v1":                      {"a/b", "c", "v1"},
	} {
		got, err := ParseReference(uses)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", uses, got, err, want)
		}
	}
	for _, uses := range []string{
		"", "a", "a/b", "a/b@", "a@v1", "/b@v1", "a/@v1", "a/b@-v1", "a/b@--upload-pack=x", "-a/b@v1", "a/-b@v1", "../b@v1", "a/..@v1",
		"a/b/../c@v1", "a/b/../../c@v1", "a/b/c\\d@v1", "a/b@v1@v2", "a/b@v 1", "a/b@v1..v2", "a/b@v1~1", "a/b@v1^{}", "a/b@x:y", "a/b@v1\n",
		"a b/c@v1", "a/b@v1.lock", "a/b@/v1", "https://x/y@v1",
	} {
		if got, err := ParseReference(uses); err == nil {
			t.Errorf("%q is taken: %+v", uses, got)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("actions/checkout@v4")
	f.Add("a/b/../../c@-x")
	f.Fuzz(func(t *testing.T, uses string) {
		r, err := ParseReference(uses)
		if err != nil {
			return
		}
		if strings.HasPrefix(r.Ref, "-") || strings.HasPrefix(r.Repository, "-") || strings.Count(r.Repository, "/") != 1 {
			t.Errorf("%q gives %+v", uses, r)
		}
		if r.Path != "" && !fs.ValidPath(r.Path) {
			t.Errorf("%q leaves the repository: %+v", uses, r)
		}
	})
}

func archive(t testing.TB, headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Size = 0
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Name: "../a", Typeflag: tar.TypeReg}))
	f.Add(archive(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}))
	f.Add(archive(f, tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../d"}, tar.Header{Name: "d/l/l/x", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		inside := filepath.Join(parent, "inside")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := unpacking{root: root, note: func(string, ...any) {}, maxFiles: 100, maxBytes: 1 << 20}
		_ = u.all(tar.NewReader(bytes.NewReader(data)))
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Errorf("outside there is %v", entries)
		}
	})
}

func TestUnpackLimits(t *testing.T) {
	data := archive(t, tar.Header{Name: "a", Typeflag: tar.TypeReg}, tar.Header{Name: "b", Typeflag: tar.TypeReg}, tar.Header{Name: "c", Typeflag: tar.TypeReg})
	for _, c := range []struct {
		files int
		bytes int64
		ok    bool
	}{{3, 3, true}, {2, 3, false}, {3, 2, false}} {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		u := unpacking{root: root, note: func(string, ...any) {}, maxFiles: c.files, maxBytes: c.bytes}
		if err := u.all(tar.NewReader(bytes.NewReader(data))); (err == nil) != c.ok {
			t.Errorf("%d files, %d bytes: %v", c.files, c.bytes, err)
		}
		root.Close()
	}
}
