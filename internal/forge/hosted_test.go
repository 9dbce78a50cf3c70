package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// site is hosted repositories behind a real listener, with a repository acme/app.
type site struct {
	*Hosted
	url string

	mu     sync.Mutex
	pushes []Push
	fail   error
	may    func(Change) error
}

func openSite(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{may: func(Change) error { return nil }}
	var err error
	if s.Hosted, err = OpenHosted(dir, HostedOptions{Pushed: s.take}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	server.Config.ErrorLog = log.New(panics{t}, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// panics fails a test for what net/http says of a panic.
type panics struct{ t *testing.T }

func (p panics) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte("panic")) {
		p.t.Errorf("the server: %s", text)
	}
	return len(text), nil
}

func newSite(t *testing.T) (*site, *Bare) {
	t.Helper()
	s := openSite(t, t.TempDir())
	b, err := s.Create(t.Context(), "acme/app", "main")
	if err != nil {
		t.Fatal(err)
	}
	return s, b
}

func (s *site) take(_ context.Context, p Push) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	s.pushes = append(s.pushes, p)
	return []string{fmt.Sprintf("push %d is known", p.Number)}, nil
}

// allow says from now on what may be pushed.
func (s *site) allow(may func(Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.may = may
}

// failWith makes whoever is told of pushes fail from now on.
func (s *site) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	asked, ok := ParseGitRequest(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	by := Visitor{Account: Account{Login: "ann", ID: 7, Email: "ann@localhost"}}
	if r.Header.Get("X-Reader") == "" {
		s.mu.Lock()
		by.May = s.may
		s.mu.Unlock()
	}
	s.ServeGit(w, r, asked, by)
}

// told gives the pushes that were told of since it was last asked.
func (s *site) told() []Push {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.pushes
	s.pushes = nil
	return told
}

// clone makes a working tree whose origin is the repository.
func (s *site) clone(t *testing.T, name string) *tree {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clone")
	tr := &tree{t: t, dir: dir}
	if out, err := gitCommand(filepath.Dir(dir), "clone", "-q", s.url+"/"+name, dir).CombinedOutput(); err != nil {
		t.Fatalf("clone: %v\n%s", err, out)
	}
	return tr
}

// tree is a working tree of somebody who pushes.
type tree struct {
	t   *testing.T
	dir string
}

func gitCommand(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=C", "GIT_COMMITTER_EMAIL=c@localhost",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	return cmd
}

// try runs git and gives all it said.
func (tr *tree) try(args ...string) (string, error) {
	out, err := gitCommand(tr.dir, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// git runs git, which must succeed.
func (tr *tree) git(args ...string) string {
	tr.t.Helper()
	out, err := tr.try(args...)
	if err != nil {
		tr.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// commit writes a file, or removes it if there is no text, and commits that. It gives the commit.
func (tr *tree) commit(name, text, message string) string {
	tr.t.Helper()
	path := filepath.Join(tr.dir, name)
	if text == "" {
		tr.git("rm", "-q", name)
	} else {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tr.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			tr.t.Fatal(err)
		}
		tr.git("add", name)
	}
	tr.git("commit", "-q", "-m", message)
	return tr.git("rev-parse", "HEAD")
}

// changes writes the changes of pushes as REF OLD NEW with seven digits.
func changes(pushes []Push) []string {
	var all []string
	for _, p := range pushes {
		for _, c := range p.Changes {
			all = append(all, fmt.Sprintf("%d %s %.7s %.7s", p.Number, c.Ref, c.Old, c.New))
		}
	}
	return all
}

func wantChanges(t *testing.T, got []Push, want ...string) {
	t.Helper()
	if g := changes(got); !slices.Equal(g, want) {
		t.Errorf("told of\n%s\nwant\n%s", strings.Join(g, "\n"), strings.Join(want, "\n"))
	}
}

func TestHostedNames(t *testing.T) {
	for _, name := range []string{"acme/app", "a/.github", "A-b_c/x.y-z_1", "a/..x", strings.Repeat("a", 39) + "/b"} {
		if err := CheckName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "app", "/app", "acme/", "acme/..", "acme/.", "../app", "./app", ".hooks/app", "acme/app/x", "acme/a b", "acme/app.git", "acme/app.GIT",
		"acme/x.wiki", "api/app", "Metrics/x", "-a/b", "acme/a\x00b", "acme/a\nb", "ac\\me/b", "acme/é", strings.Repeat("a", 40) + "/b", "a/" + strings.Repeat("b", 101),
	} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestHostedCreateRenameDelete(t *testing.T) {
	s, b := newSite(t)
	if _, err := s.Create(t.Context(), "Acme/APP", "main"); !errors.Is(err, ErrRepositoryExists) {
		t.Errorf("a second of the same name: %v", err)
	}
	if _, err := s.Create(t.Context(), "acme/../x", "main"); !errors.Is(err, ErrName) {
		t.Errorf("a name that leads out: %v", err)
	}
	for _, branch := range []string{"", "a..b", "-x", "a b", "HEAD", strings.Repeat("a", 40)} {
		if _, err := s.Create(t.Context(), "acme/x", branch); err == nil {
			t.Errorf("a branch called %q was taken", branch)
		}
	}
	if _, err := s.Create(t.Context(), "acme/other", "trunk"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, []string{"acme/app", "acme/other"}) {
		t.Errorf("list: %v, %v", got, err)
	}
	if err := s.Rename(t.Context(), "acme/app", "acme/other"); !errors.Is(err, ErrRepositoryExists) {
		t.Errorf("renamed onto another: %v", err)
	}
	if err := s.Rename(t.Context(), "acme/app", "new/Name"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("acme/app"); !errors.Is(err, ErrNoRepository) {
		t.Errorf("the old name: %v", err)
	}
	if _, err := b.lock(t.Context()); !errors.Is(err, ErrNoRepository) {
		t.Errorf("a repository that moved was locked: %v", err)
	}
	if err := s.Delete(t.Context(), "NEW/name"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "new/name"); !errors.Is(err, ErrNoRepository) {
		t.Errorf("deleted twice: %v", err)
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, []string{"acme/other"}) {
		t.Errorf("list: %v, %v", got, err)
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, ".trash", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in the trash: %v, %v", left, err)
	}
}

func TestHostedPushAndFetch(t *testing.T) {
	s, _ := newSite(t)
	a := s.clone(t, "acme/app")
	one := a.commit("a.txt", "1\n", "one")
	if out := a.git("push", "origin", "HEAD:main"); !strings.Contains(out, "remote: push 1 is known") {
		t.Errorf("the pusher was not told: %s", out)
	}
	wantChanges(t, s.told(), "1 refs/heads/main 0000000 "+one[:7])
	two := a.commit("a.txt", "2\n", "two")
	a.git("tag", "-a", "-m", "v1", "v1")
	a.git("push", "-q", "origin", "HEAD:main", "v1", "HEAD:refs/heads/topic")
	got := s.told()
	if len(got) != 1 || len(got[0].Changes) != 3 || got[0].By.Login != "ann" || got[0].By.ID != 7 || got[0].At.IsZero() || got[0].Repository != "acme/app" {
		t.Errorf("told of %+v", got)
	}
	a.git("commit", "-q", "--amend", "-m", "two again")
	if out, err := a.try("push", "origin", "HEAD:main"); err == nil || !strings.Contains(out, "non-fast-forward") {
		t.Errorf("a push that throws commits away: %v\n%s", err, out)
	}
	a.git("push", "-q", "--force", "origin", "HEAD:main")
	a.git("push", "-q", "origin", ":topic", ":v1")
	amended := a.git("rev-parse", "HEAD")
	got = s.told()
	if len(got) != 2 || len(got[1].Changes) != 2 || got[0].Changes[0] != (Change{"refs/heads/main", two, amended}) || !got[1].Changes[0].Deleted() {
		t.Errorf("told of %v", changes(got))
	}
	if out, err := a.try("push", "origin", ":main"); err == nil || !strings.Contains(out, "deletion of the current branch prohibited") {
		t.Errorf("the default branch was deleted: %v\n%s", err, out)
	}
	if got := s.told(); len(got) != 0 {
		t.Errorf("told of a push that was refused: %v", changes(got))
	}
	for _, version := range []string{"0", "1", "2"} {
		dir := filepath.Join(t.TempDir(), "c")
		out, err := gitCommand(a.dir, "-c", "protocol.version="+version, "clone", "-q", "--depth=1", s.url+"/acme/app.git", dir).CombinedOutput()
		if err != nil {
			t.Errorf("shallow clone by version %s: %v\n%s", version, err, out)
		}
		c := &tree{t: t, dir: dir}
		if got := c.git("rev-list", "--all", "--count"); got != "1" {
			t.Errorf("version %s: a clone of depth 1 has %s commits", version, got)
		}
		sha := c.commit("v"+version, "x", "by version "+version)
		c.git("-c", "protocol.version="+version, "push", "-q", "origin", "HEAD:shallow"+version)
		if got := s.told(); len(got) != 1 || got[0].Changes[0].New != sha {
			t.Errorf("version %s: told of %v", version, changes(got))
		}
		c.git("-c", "protocol.version="+version, "fetch", "-q", "--unshallow")
		c.git("-c", "protocol.version="+version, "fetch", "-q", "origin", one) // any commit, by its name
	}
	partial := filepath.Join(t.TempDir(), "p")
	if out, err := gitCommand(a.dir, "clone", "-q", "--filter=blob:none", "--no-checkout", s.url+"/acme/app", partial).CombinedOutput(); err != nil || strings.Contains(string(out), "filter") {
		t.Errorf("partial clone: %v\n%s", err, out)
	}
}
