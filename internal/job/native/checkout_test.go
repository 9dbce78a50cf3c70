package native

import (
	"bytes"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// gitIn runs git on this host without the user's configuration.
func gitIn(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main",
		"-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newRepo makes a repository with one commit.
func newRepo(t testing.TB, files map[string]string) (dir, sha string) {
	t.Helper()
	dir = t.TempDir()
	gitIn(t, dir, "init", "-q")
	writeFiles(t, dir, files)
	gitIn(t, dir, "add", "-A")
	gitIn(t, dir, "commit", "-q", "-m", "first")
	return dir, gitIn(t, dir, "rev-parse", "HEAD")
}

// here makes a repository the job's own.
func (j *job) here(dir, sha string) {
	j.host.WorkTree = &WorkTree{Dir: dir, Repository: "octo/repo"}
	j.github["sha"] = sha
}

func TestCheckoutIsTheWorkingTree(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir, sha := newRepo(t, map[string]string{"a.txt": "a", "sub/b.txt": "b", ".gitignore": "*.log\nnode_modules/\n/secret\n", "sub/.gitignore": "!keep.log\n"})
		writeFiles(t, dir, map[string]string{
			"a.txt": "changed", "new.txt": "new", "x.log": "x", "sub/keep.log": "k", "node_modules/m/i.js": "m", "secret/key": "s", "sub/node_modules/n": "n",
			".git/hooks/post-checkout": "#!/bin/sh\ntouch /tmp/evil\n",
		})
		gitIn(t, dir, "remote", "add", "origin", "https://user:pass@example.com/octo/repo.git")
		gitIn(t, dir, "config", "http.https://example.com/.extraheader", "AUTHORIZATION: basic c2VjcmV0")
		gitIn(t, dir, "config", "core.hooksPath", "/somewhere")
		gitIn(t, dir, "config", "core.fsmonitor", "true")
		gitIn(t, dir, "config", "alias.x", "!echo \"quoted\"")
		gitIn(t, dir, "config", "branch.we\"ird\\name.merge", "refs/heads/x")
		j.here(dir, sha)
		j.files(map[string]string{"before.txt": "of an earlier step"})
		s, log := j.must("actions/checkout@v4", nil)
		contains(t, log, "Syncing repository: octo/repo")
		if s.Outputs["commit"] != sha || s.Outputs["ref"] != "refs/heads/main" {
			t.Errorf("outputs %v, want %s", s.Outputs, sha)
		}
		got := j.sh(`find . -name .git -prune -o -type f -print | sort | tr '\n' ' '`)
		if want := "./.gitignore ./a.txt ./new.txt ./sub/.gitignore ./sub/b.txt ./sub/keep.log"; got != want {
			t.Errorf("files:\n got %s\nwant %s", got, want)
		}
		if got := j.sh("cat a.txt; git status --short; git log --format=%s; git rev-parse HEAD; git remote get-url origin; git branch --show-current"); got !=
			"changedM a.txt\n?? new.txt\n?? sub/keep.log\nfirst\n"+sha+"\nhttps://example.com/octo/repo.git\nmain" &&
			got != "changed M a.txt\n?? new.txt\n?? sub/keep.log\nfirst\n"+sha+"\nhttps://example.com/octo/repo.git\nmain" {
			t.Errorf("git says:\n%s", got)
		}
		config := j.sh("git config --local --list; ls .git/hooks 2>&1 || :")
		for _, bad := range []string{"extraheader", "hookspath", "fsmonitor", "alias", "post-checkout", "pass"} {
			if strings.Contains(config, bad) {
				t.Errorf("%s came along:\n%s", bad, config)
			}
		}
		contains(t, config, `branch.we"ird\name.merge=refs/heads/x`)
		// What the job does stays in the job.
		j.sh(`echo job >a.txt; rm sub/b.txt; git config user.name J; git config user.email j@x; git add -A; git commit -qm job; git tag job`)
		if text, err := os.ReadFile(filepath.Join(dir, "a.txt")); err != nil || string(text) != "changed" {
			t.Errorf("the working tree holds %q, %v", text, err)
		}
		if got := gitIn(t, dir, "log", "--format=%s"); got != "first" {
			t.Errorf("the repository has %q", got)
		}
	})
}

func TestCheckoutTakesPathAndTheCurrentRef(t *testing.T) {
	j := newJob(t, "none")
	dir, sha := newRepo(t, map[string]string{"a.txt": "a"})
	writeFiles(t, dir, map[string]string{"a.txt": "uncommitted"})
	j.here(dir, sha)
	for _, ref := range []string{"", "main", "refs/heads/main", sha} {
		j.must("actions/checkout@v4", map[string]string{"path": "deep/er", "ref": ref, "repository": "Octo/Repo"})
		if got := j.sh("cat deep/er/a.txt"); got != "uncommitted" {
			t.Errorf("ref %q: %q", ref, got)
		}
	}
	for _, bad := range []map[string]string{{"path": "../out"}, {"path": "/etc"}, {"repository": "x"}, {"repository": "a/b/c"}, {"repository": "-x/y"},
		{"ref": "--upload-pack=evil"}, {"ref": "a b"}, {"github-server-url": "ext::sh"}, {"github-server-url": "file:///"}} {
		if _, _, err := j.run("actions/checkout@v4", bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

func TestCheckoutWithoutGit(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"a.txt": "a", "b/c": "c"})
		j.here(dir, strings.Repeat("0", 40))
		_, log := j.must("actions/checkout@v4", nil)
		contains(t, log, "is no git repository")
		equal(t, "workspace", j.tree("."), []string{"a.txt=a", "b/c=c"})
	})
}

func TestCheckoutOfALinkedWorkingTree(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir, _ := newRepo(t, map[string]string{"a.txt": "a"})
		linked := filepath.Join(t.TempDir(), "linked")
		gitIn(t, dir, "worktree", "add", "-q", "-b", "topic", linked)
		writeFiles(t, linked, map[string]string{"b.txt": "b"})
		gitIn(t, linked, "add", "-A")
		gitIn(t, linked, "commit", "-q", "-m", "second")
		j.here(linked, gitIn(t, linked, "rev-parse", "HEAD"))
		j.must("actions/checkout@v4", nil)
		if got := j.sh("cat a.txt b.txt; git status --short; git branch --show-current; git log --format=%s"); got != "abtopic\nsecond\nfirst" {
			t.Errorf("got %q", got)
		}
	})
}

func TestCheckoutOfARepositoryWhoseGitDirectoryIsElsewhere(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir, sha := newRepo(t, map[string]string{"a.txt": "a"})
		gitIn(t, dir, "init", "-q", "--separate-git-dir", filepath.Join(t.TempDir(), "store.git"))
		j.here(dir, sha)
		j.must("actions/checkout@v4", nil)
		if got := j.sh("cat a.txt; git status --short; git rev-parse HEAD; test -d .git"); got != "a"+sha {
			t.Errorf("separate: %q", got)
		}
		dir, sha = newRepo(t, map[string]string{"b.txt": "b"})
		moved := filepath.Join(t.TempDir(), "moved")
		if err := os.Rename(filepath.Join(dir, ".git"), moved); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(moved, filepath.Join(dir, ".git")); err != nil {
			t.Fatal(err)
		}
		n := j.next()
		n.here(dir, sha)
		n.must("actions/checkout@v4", nil)
		if got := n.sh("cat b.txt; git status --short; git rev-parse HEAD"); got != "b"+sha {
			t.Errorf("a link: %q", got)
		}
	})
}

func TestCheckoutOfSubmodules(t *testing.T) {
	inner, _ := newRepo(t, map[string]string{"i.txt": "i", ".gitignore": "junk\n"})
	dir, _ := newRepo(t, map[string]string{"a.txt": "a"})
	gitIn(t, dir, "submodule", "--quiet", "add", inner, "lib/inner")
	gitIn(t, dir, "commit", "-q", "-m", "submodule")
	writeFiles(t, dir, map[string]string{"lib/inner/junk": "j"})
	sha := gitIn(t, dir, "rev-parse", "HEAD")
	each(t, func(t *testing.T, j *job) {
		j.here(dir, sha)
		j.must("actions/checkout@v4", nil)
		if got := j.sh("ls -A lib/inner; git status --short"); got != "" {
			t.Errorf("without submodules: %q", got)
		}
		j.must("actions/checkout@v4", map[string]string{"submodules": "true"})
		if got := j.sh("cat lib/inner/i.txt; ls lib/inner; git status --short; git -C lib/inner log --format=%s"); got != "ii.txt\nfirst" {
			t.Errorf("with submodules: %q", got)
		}
	})
}

func TestCheckoutOfAnotherRefIsLocal(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir, first := newRepo(t, map[string]string{"a.txt": "first"})
		gitIn(t, dir, "tag", "-a", "v1", "-m", "annotated")
		writeFiles(t, dir, map[string]string{"a.txt": "second", ".gitignore": "x"})
		gitIn(t, dir, "commit", "-qam", "second")
		gitIn(t, dir, "update-ref", "refs/remotes/origin/topic", first)
		j.here(dir, gitIn(t, dir, "rev-parse", "HEAD"))
		for _, ref := range []string{"v1", "refs/tags/v1", "topic", "refs/heads/topic", first} {
			s, log := j.must("actions/checkout@v4", map[string]string{"ref": ref})
			contains(t, log, "is taken from the local repository")
			if got := j.sh("cat a.txt; git status --short; git rev-parse HEAD; git remote get-url origin"); got != "first"+first+"\nhttps://github.com/octo/repo" {
				t.Errorf("%s: %q\n%s", ref, got, log)
			}
			if s.Outputs["commit"] != first {
				t.Errorf("%s: outputs %v", ref, s.Outputs)
			}
			if strings.HasSuffix(ref, "topic") {
				if got := j.sh("git branch --show-current"); got != "topic" {
					t.Errorf("%s: on branch %q", ref, got)
				}
			}
		}
	})
}

// gitServer serves repositories (owner/name below dir) over HTTP and remembers the authorizations it got.
func gitServer(t *testing.T, dir string, allow func(authorization string) bool) (url string, seen func() []string) {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
			"GIT_CONFIG_KEY_1=uploadpack.allowFilter", "GIT_CONFIG_VALUE_1=true"},
	}
	var mu sync.Mutex
	var all []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		all = append(all, r.Header.Get("Authorization"))
		mu.Unlock()
		if !allow(r.Header.Get("Authorization")) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

// hub is a directory of repositories with one, else/where: two commits, a tag, a branch.
func hub(t *testing.T) (dir, first, second string) {
	dir = t.TempDir()
	repo := filepath.Join(dir, "else", "where")
	if err := os.MkdirAll(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	gitIn(t, repo, "init", "-q")
	writeFiles(t, repo, map[string]string{"a.txt": "first", "docs/d.txt": "d", "src/s.txt": "s"})
	gitIn(t, repo, "add", "-A")
	gitIn(t, repo, "commit", "-qm", "first")
	gitIn(t, repo, "tag", "v1")
	first = gitIn(t, repo, "rev-parse", "HEAD")
	writeFiles(t, repo, map[string]string{"a.txt": "second"})
	gitIn(t, repo, "commit", "-qam", "second")
	gitIn(t, repo, "branch", "topic/x", "v1")
	return dir, first, gitIn(t, repo, "rev-parse", "HEAD")
}

func TestCheckoutOfAnotherRepository(t *testing.T) {
	eachNear(t, func(t *testing.T, j *job) {
		dir, first, second := hub(t)
		url, _ := gitServer(t, dir, func(string) bool { return true })
		j.github["server_url"] = url
		for _, c := range []struct {
			with               map[string]string
			text, commits, sha string
			branch             string
		}{
			{map[string]string{}, "second", "1", second, "main"},
			{map[string]string{"ref": "v1"}, "first", "1", first, ""},
			{map[string]string{"ref": "topic/x"}, "first", "1", first, "topic/x"},
			{map[string]string{"ref": "refs/heads/topic/x"}, "first", "1", first, "topic/x"},
			{map[string]string{"ref": second}, "second", "1", second, ""},
			{map[string]string{"fetch-depth": "0"}, "second", "2", second, "main"},
			{map[string]string{"fetch-depth": "0", "ref": first}, "first", "1", first, ""},
			{map[string]string{"fetch-depth": "2", "fetch-tags": "true"}, "second", "2", second, "main"},
		} {
			c.with["repository"], c.with["path"] = "else/where", "other"
			s, log := j.must("actions/checkout@v4", c.with)
			if got := j.sh("cd other; cat a.txt; git rev-list --count HEAD; git branch --show-current; git status --short"); got != strings.TrimSpace(c.text+c.commits+"\n"+c.branch) {
				t.Errorf("%v: got %q\n%s", c.with, got, log)
			}
			if s.Outputs["commit"] != c.sha {
				t.Errorf("%v: outputs %v, want %s", c.with, s.Outputs, c.sha)
			}
		}
		_, log, err := j.run("actions/checkout@v4", map[string]string{"repository": "else/where", "ref": "nope", "path": "other"})
		if err == nil {
			t.Errorf("a missing ref is found:\n%s", log)
		}
		_, _, err = j.run("actions/checkout@v4", map[string]string{"repository": "no/where", "path": "other"})
		if err == nil || !strings.Contains(err.Error(), "no/where") || !strings.Contains(err.Error(), "GITHUB_TOKEN") {
			t.Errorf("a missing repository: %v", err)
		}
	})
}

func TestCheckoutCleansWhatAnEarlierOneLeft(t *testing.T) {
	eachNear(t, func(t *testing.T, j *job) {
		dir, _, _ := hub(t)
		url, _ := gitServer(t, dir, func(string) bool { return true })
		j.github["server_url"] = url
		with := map[string]string{"repository": "else/where"}
		j.must("actions/checkout@v4", with)
		j.sh("echo x >junk; echo x >a.txt; touch .git/index.lock")
		_, log := j.must("actions/checkout@v4", with)
		contains(t, log, "Cleaning the repository")
		if got := j.sh("ls; cat a.txt"); got != "a.txt\ndocs\nsrc\nsecond" {
			t.Errorf("cleaned: %q", got)
		}
		j.sh("echo x >junk")
		with["clean"] = "false"
		j.must("actions/checkout@v4", with)
		if got := j.sh("ls"); !strings.Contains(got, "junk") {
			t.Errorf("not to be cleaned: %q", got)
		}
	})
}

func TestCheckoutSparse(t *testing.T) {
	eachNear(t, func(t *testing.T, j *job) {
		dir, _, _ := hub(t)
		url, _ := gitServer(t, dir, func(string) bool { return true })
		j.github["server_url"] = url
		j.must("actions/checkout@v4", map[string]string{"repository": "else/where", "sparse-checkout": "docs\n", "path": "cone"})
		j.must("actions/checkout@v4", map[string]string{"repository": "else/where", "sparse-checkout": "/src/*", "sparse-checkout-cone-mode": "false", "path": "plain"})
		if got := j.sh("cd cone; find . -name .git -prune -o -type f -print | sort; cd ../plain; find . -name .git -prune -o -type f -print"); got != "./a.txt\n./docs/d.txt\n./src/s.txt" {
			t.Errorf("got %q", got)
		}
		own, sha := newRepo(t, map[string]string{"a.txt": "a", "docs/d.txt": "d", "src/s.txt": "s"})
		j.here(own, sha)
		j.must("actions/checkout@v4", map[string]string{"sparse-checkout": "docs", "path": "own"})
		if got := j.sh("cd own; find . -name .git -prune -o -type f -print | sort; git status --short"); got != "./a.txt\n./docs/d.txt" {
			t.Errorf("own: %q", got)
		}
	})
}

func TestCheckoutKeepsTokensIn(t *testing.T) {
	eachNear(t, func(t *testing.T, j *job) {
		dir, _, _ := hub(t)
		const basic = "basic eC1hY2Nlc3MtdG9rZW46c2VzYW1l" // x-access-token:sesame
		url, _ := gitServer(t, dir, func(a string) bool { return strings.EqualFold(a, basic) })
		j.github["server_url"] = url
		with := map[string]string{"repository": "else/where", "token": "sesame"}
		s, log := j.must("actions/checkout@v4", with)
		contains(t, log, "::add-mask::eC1hY2Nlc3MtdG9rZW46c2VzYW1l")
		if got := j.sh("git ls-remote origin v1 | wc -l; cat .git/config"); !strings.HasPrefix(got, "1") || strings.Contains(got, "eC1h") {
			t.Errorf("persisted: %q", got)
		}
		j.post("actions/checkout@v4", s)
		if left := j.tree(j.box.Info().Temp); strings.Contains(strings.Join(left, " "), "eC1h") {
			t.Errorf("after the job: %v", left)
		}
		with["persist-credentials"] = "false"
		j.must("actions/checkout@v4", with)
		if got := j.sh("GIT_TERMINAL_PROMPT=0 git ls-remote origin v1 2>&1 || echo refused"); !strings.HasSuffix(got, "refused") {
			t.Errorf("not to be persisted: %q", got)
		}
		if left := j.tree(j.box.Info().Temp); strings.Contains(strings.Join(left, " "), "eC1h") {
			t.Errorf("not to be persisted: %v", left)
		}
	})
}

func TestCheckoutTriesWithoutATokenThatIsRefused(t *testing.T) {
	j := newJob(t, "none")
	dir, _, _ := hub(t)
	url, _ := gitServer(t, dir, func(a string) bool { return a == "" })
	j.github["server_url"] = url
	_, log := j.must("actions/checkout@v4", map[string]string{"repository": "else/where", "ref": "main", "token": "stale"})
	contains(t, log, "Trying again without the token")
}

func TestCheckoutFromAMirror(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir, _, _ := hub(t)
		for _, template := range []string{"file://" + dir, "file://" + dir + "/{owner}/{repo}"} {
			j.host.CloneURL = template
			j.must("actions/checkout@v4", map[string]string{"repository": "else/where", "path": "m"})
			if got := j.sh("cat m/a.txt; git -C m remote get-url origin"); got != "secondhttps://github.com/else/where" {
				t.Errorf("%s: %q", template, got)
			}
		}
	})
}

func TestCheckoutRefusesForksInTrustedWorkflows(t *testing.T) {
	j := newJob(t, "none")
	dir, _, _ := hub(t)
	j.host.CloneURL = "file://" + dir
	head := strings.Repeat("b", 40)
	j.github["event_name"] = "pull_request_target"
	j.github["event"] = map[string]any{"repository": map[string]any{"id": 1},
		"pull_request": map[string]any{"head": map[string]any{"sha": head, "repo": map[string]any{"id": 2, "full_name": "else/where"}}}}
	for _, with := range []map[string]string{{"repository": "else/where"}, {"ref": "refs/pull/3/merge"}, {"ref": head}} {
		_, _, err := j.run("actions/checkout@v7", with)
		if err == nil || !strings.Contains(err.Error(), "Refusing to check out fork pull request code from a 'pull_request_target' workflow.") {
			t.Errorf("%v: %v", with, err)
		}
	}
	j.must("actions/checkout@v7", map[string]string{"repository": "else/where", "allow-unsafe-pr-checkout": "true"})
}

func TestWorkTreeLimitsAndNames(t *testing.T) {
	dir, _ := newRepo(t, map[string]string{".gitignore": "i*\n"})
	writeFiles(t, dir, map[string]string{"i a": "", "i\nb": "", "iü/x": "", "d/i": ""})
	got, err := (&WorkTree{Dir: dir, Repository: "o/r"}).Ignored(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ignored", got, []string{"d", "i\nb", "i a", "iü"})
	if _, err := gitHere(t.Context(), dir, 2, "ls-files", "--others", "--ignored", "--exclude-standard", "-z"); err == nil {
		t.Error("an answer over the limit is taken")
	}
}

func TestWorkTreeIgnoresTheGitAround(t *testing.T) {
	dir, sha := newRepo(t, map[string]string{"a.txt": "a"})
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_INDEX_FILE", "/nowhere/index")
	state, err := (&WorkTree{Dir: dir}).read(t.Context())
	if err != nil || state.commit != sha {
		t.Errorf("got %+v, %v", state, err)
	}
}

func FuzzConfigWriter(f *testing.F) {
	f.Add("branch.a\"b\\c.merge", "x\ty\n# ; \"")
	f.Fuzz(func(t *testing.T, key, value string) {
		var w configWriter
		w.set(key, value)
		if w.Len() == 0 || strings.ContainsAny(value, "\r\x00") {
			return
		}
		first, last := strings.Index(key, "."), strings.LastIndex(key, ".")
		plain := strings.Trim(key[:first]+key[last+1:], "abcdefghijklmnopqrstuvwxyz") == "" && last+1 < len(key) && first > 0
		if !plain || strings.ContainsAny(key, "\r\x00") {
			return
		}
		cmd := exec.Command("git", "config", "-z", "-f", "-", "--get", key)
		cmd.Stdin = strings.NewReader(w.String())
		out, err := cmd.Output()
		if err != nil || !bytes.Equal(out, []byte(value+"\x00")) {
			t.Errorf("%q = %q reads as %q, %v", key, value, out, err)
		}
	})
}
