package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/npmtest"
	"github.com/penstock-ci/penstock/internal/store"
)

// hub is a working tree with a pull request, whose jobs ask for GitHub's API.
type hub struct {
	t          *testing.T
	root       string
	base, head string // commits
	rt         *Runtime
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{t: t, root: t.TempDir()}
	h.git("init", "--quiet", "--initial-branch=main")
	h.write("README.md", "# Hello\n")
	h.git("add", ".")
	h.git("commit", "--quiet", "--message=first")
	h.git("tag", "v1.0.0")
	h.base = h.git("rev-parse", "HEAD")
	h.git("checkout", "--quiet", "-b", "topic/one")
	h.write("src/a b.txt", "one\ntwo\n")
	h.git("add", ".")
	h.git("commit", "--quiet", "--message=second")
	h.head = h.git("rev-parse", "HEAD")

	st, err := store.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	local, err := NewLocalGitHub(st, LocalRepository{Root: h.root, Name: "octo/repo", DefaultBranch: "main", Web: "https://github.com/octo/repo"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.Close() })
	h.rt = NewRuntime(blobs, native.OpenArtifacts(blobs), "", local)
	return h
}

func (h *hub) git(args ...string) string {
	h.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=mona", "-c", "user.email=mona@example.com"}, args...)...)
	cmd.Dir = h.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (h *hub) write(name, text string) {
	h.t.Helper()
	file := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// task is a job of the pull request.
func (h *hub) task(permissions map[string]string) *ci.Task {
	h.t.Helper()
	end := func(ref, sha string) map[string]any { return map[string]any{"ref": ref, "sha": sha} }
	event, err := expr.FromGo(map[string]any{"number": 1, "pull_request": map[string]any{
		"number": 1, "title": "A change", "body": "", "user": map[string]any{"login": "mona"}, "labels": []any{}, "draft": false,
		"head": end("topic/one", h.head), "base": end("main", h.base),
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	github := expr.FromStrings(map[string]string{"ref": "refs/pull/1/merge"}).With("event", event)
	return &ci.Task{Run: 1, Attempt: 1, Job: "job", Repository: "octo/repo", GitHub: github, Permissions: permissions}
}

// client runs the script and gives what it saw, and where the answers are not as described.
func (h *hub) client(address job.ServiceAddress) (saw map[string]any, faults []any, checked float64) {
	h.t.Helper()
	cmd := exec.Command("node", "use.mjs")
	cmd.Dir = npmtest.Install(h.t, filepath.Join("testdata", "rest"))
	cmd.Env = append(os.Environ(), "GITHUB_API_URL="+address.API+"/v3", "GITHUB_GRAPHQL_URL="+address.API+"/graphql", "TOKEN="+address.Token,
		"GITHUB_REPOSITORY=octo/repo", "GITHUB_SERVER_URL=https://github.com", "BASE="+h.base, "HEAD="+h.head)
	var out, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("%v\n%s%s", err, out.String(), warnings.String())
	}
	var said struct {
		Saw     map[string]any
		Faults  []any
		Checked float64
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &said); err != nil {
		h.t.Fatalf("%v\n%s", err, out.String())
	}
	return said.Saw, said.Faults, said.Checked
}

// TestRESTClients has octokit and three majors of @actions/github use the API, and holds every answer to GitHub's own
// description of it.
func TestRESTClients(t *testing.T) {
	h := newHub(t)
	refs, status := h.git("for-each-ref"), h.git("status", "--porcelain")
	l := listen(t)
	address, stop := h.rt.Serve(l, h.task(nil))
	saw, faults, checked := h.client(address)
	notes := strings.Join(stop(), "\n")
	for _, f := range faults {
		t.Error(f)
	}
	if checked < 75 {
		t.Errorf("only %v answers were held to GitHub's description", checked)
	}
	want := map[string]string{}
	text, err := os.ReadFile(filepath.Join("testdata", "rest_saw.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[name] = value
	}
	for _, name := range slices.Sorted(maps.Keys(saw)) {
		got, err := json.Marshal(saw[name])
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want[name] {
			t.Errorf("%s %s\nnot %s", name, got, want[name])
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s was not seen", name)
	}
	for _, told := range []string{"Recorded, not sent to GitHub:", "status ci/test of", "new issue #2: A fault", "comment on #2: first", "and ", "not answered here", "GET /repos/octo/repo/vulnerability-alerts"} {
		if !strings.Contains(notes, told) {
			t.Errorf("the notes do not tell %q:\n%s", told, notes)
		}
	}
	if h.git("for-each-ref") != refs || h.git("status", "--porcelain") != status {
		t.Error("the repository of the user has changed")
	}
}

// TestRESTPermissions has a job ask for more than its permissions give.
func TestRESTPermissions(t *testing.T) {
	h := newHub(t)
	address, stop := h.rt.Serve(listen(t), h.task(map[string]string{"contents": "read", "issues": "write"}))
	defer stop()
	for _, test := range []struct {
		method, path, body string
		status             int
		accepted           string
	}{
		{"GET", "/repos/octo/repo/contents/README.md", "", 200, ""},
		{"POST", "/repos/octo/repo/issues/1/comments", `{"body":"x"}`, 201, ""},
		{"POST", "/repos/octo/repo/statuses/" + h.head, `{"state":"success"}`, 403, "statuses=write"},
		{"PUT", "/repos/octo/repo/contents/x", `{"message":"x","content":""}`, 403, "contents=write"},
		{"POST", "/repos/octo/repo/git/refs", `{"ref":"refs/heads/x","sha":"` + h.head + `"}`, 403, "contents=write"},
		{"GET", "/repos/octo/repo/pulls", "", 403, "pull-requests=read"},
		{"GET", "/repos/octo/repo/commits/main/check-runs", "", 403, "checks=read"},
		{"POST", "/repos/octo/repo/deployments", `{"ref":"main"}`, 403, "deployments=write"},
		{"GET", "/repos/octo/other", "", 404, ""},
	} {
		answer := ask(t, address, test.method, test.path, test.body)
		if answer.StatusCode != test.status || answer.Header.Get("X-Accepted-GitHub-Permissions") != test.accepted {
			t.Errorf("%s %s: %s, accepted permissions %q", test.method, test.path, answer.Status, answer.Header.Get("X-Accepted-GitHub-Permissions"))
		}
	}
}

// TestRESTHostile sends what no client sends.
func TestRESTHostile(t *testing.T) {
	h := newHub(t)
	address, stop := h.rt.Serve(listen(t), h.task(nil))
	defer stop()
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/repos/octo/repo/issues", strings.Repeat(" ", 11<<20), 413},
		{"POST", "/repos/octo/repo/issues", `null`, 422},
		{"POST", "/repos/octo/repo/issues", `{"title":{}}`, 422},
		{"POST", "/repos/octo/repo/issues", strings.Repeat("[", 100_000), 400},
		{"POST", "/repos/octo/repo/issues/1/comments", fmt.Sprintf(`{"body":%q}`, strings.Repeat("x", 65_537)), 422},
		{"GET", "/repos/octo/repo/contents/%2e%2e/%2e%2e/etc/passwd", "", 404},
		{"GET", "/repos/octo/repo/contents/README.md?ref=--output=x", "", 404},
		{"GET", "/repos/octo/repo/contents/README.md?ref=HEAD@{1}", "", 404},
		{"GET", "/repos/octo/repo/commits/--all", "", 422},
		{"GET", "/repos/octo/repo/commits?author=--output=x&path=--all", "", 200},
		{"GET", "/repos/octo/repo/compare/main...--all", "", 404},
		{"GET", "/repos/octo/repo/git/trees/:README.md", "", 404},
		{"GET", "/repos/octo/repo/git/matching-refs/heads/*", "", 404},
		{"POST", "/repos/octo/repo/git/refs", `{"ref":"refs/pull/1/head","sha":"` + h.head + `"}`, 422},
		{"POST", "/repos/octo/repo/git/refs", `{"ref":"refs/heads/-x y","sha":"` + h.head + `"}`, 422},
		{"POST", "/repos/octo/repo/git/refs", `{"ref":"refs/heads/x","sha":"` + strings.Repeat("0", 40) + `"}`, 422},
		{"PUT", "/repos/octo/repo/contents/.git/config", `{"message":"x","content":""}`, 422},
		{"PUT", "/repos/octo/repo/contents/x", `{"message":"x","content":"!"}`, 422},
		{"GET", "/repos/octo/repo/issues/99999999999999999999", "", 404},
		{"GET", "/repos/octo/repo/issues?per_page=-1&page=999999999999", "", 200},
		{"POST", "/repos/octo/repo/releases", `{"tag_name":"../../x"}`, 422},
	} {
		if answer := ask(t, address, test.method, test.path, test.body); answer.StatusCode != test.status {
			t.Errorf("%s %s %.60s: %s, not %d", test.method, test.path, test.body, answer.Status, test.status)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ask sends a request with the job's token and gives the answer without its body.
func ask(t *testing.T, address job.ServiceAddress, method, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address.API+"/v3"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+address.Token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer
}
