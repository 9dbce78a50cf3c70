package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/pgtest"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// team is a server, its administrator's token, and a working tree of acme/shop.
type team struct {
	t     *testing.T
	s     *Server
	url   string
	token string
	dir   string
	ahead atomic.Int64 // of the system's clock is the server's, a time.Duration
}

// nothing is a job that does nothing, and succeeds.
type nothing struct{}

func (nothing) Run(context.Context, *ci.Task, job.Reporter) ci.Result {
	return ci.Result{Conclusion: ci.Success}
}

// newTeam starts a server whose jobs do nothing.
func newTeam(t *testing.T) *team {
	t.Helper()
	return newTeamOn(t, "sqlite:"+filepath.Join(t.TempDir(), "penstock.db"))
}

// newTeamOn starts one on a database.
func newTeamOn(t *testing.T, database string) *team {
	t.Helper()
	data := t.TempDir()
	st, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	blobs, err := blob.OpenUnsynced(filepath.Join(data, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	keys := auth.NewKeyring(time.Now())
	tm := &team{t: t, dir: t.TempDir()}
	var s *Server
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	s, err = NewServer(t.Context(), ServerOptions{
		Store: st, Blobs: blobs, Artifacts: native.OpenArtifacts(blobs), Keys: func() *auth.Keyring { return keys }, Repositories: filepath.Join(data, "repositories"),
		Actions: &forge.ActionSource{CacheDir: filepath.Join(data, "actions"), URLTemplate: "file:///nowhere", Log: io.Discard}, URL: web.URL,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return time.Now().Add(time.Duration(tm.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Setup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() { s.Work(ctx); done <- struct{}{} }()
	go func() {
		_ = runner.Work(ctx, s.Engine, runner.Runner{Name: "here", Labels: []string{"ubuntu-latest"}}, 2, nothing{})
		done <- struct{}{}
	}()
	t.Cleanup(func() { cancel(); <-done; <-done })
	tm.s, tm.url, tm.token = s, web.URL, token
	tm.git("init", "-q", "-b", "main")
	return tm
}

// git runs git in the working tree and gives what it said.
func (m *team) git(args ...string) string {
	m.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@localhost"}, args...)...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// push commits files, a line "-- name --" before each, and pushes them.
func (m *team) push(branch, files string) string {
	m.t.Helper()
	for _, part := range strings.Split(files, "-- ")[1:] {
		name, text, _ := strings.Cut(part, " --\n")
		path := filepath.Join(m.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	m.git("add", "--all")
	m.git("commit", "-q", "--allow-empty", "-m", "a change")
	return m.git("push", strings.Replace(m.url, "://", "://x:"+m.token+"@", 1)+"/acme/shop", "HEAD:refs/heads/"+branch)
}

// ask makes a request of the REST API, or of another path with an absolute one, and gives status and body.
func (m *team) ask(method, path string, body any) (int, any) {
	m.t.Helper()
	return m.askAs(m.token, method, path, body)
}

func (m *team) askAs(token, method, path string, body any) (int, any) {
	m.t.Helper()
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			m.t.Fatal(err)
		}
		in = strings.NewReader(string(text))
	}
	if !strings.HasPrefix(path, "/api/") {
		path = "/api/v3" + path
	}
	req, err := http.NewRequestWithContext(m.t.Context(), method, m.url+path, in)
	if err != nil {
		m.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "token "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil && len(text) > 0 {
		out = string(text)
	}
	return res.StatusCode, out
}

// runs are the runs, the newest first: "EVENT WORKFLOW BRANCH".
func (m *team) runs() []string {
	m.t.Helper()
	found, err := m.s.Engine.Runs(m.t.Context(), store.Filter{})
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, r := range found {
		out = append(out, fmt.Sprintf("%s %s %s", r.Event, strings.TrimSuffix(filepath.Base(r.Workflow), ".yml"), r.Branch))
	}
	return out
}

// await waits until something is so.
func (m *team) await(what string, so func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: that did not come. Runs: %q", what, m.runs())
		}
	}
}

const doesNothing = "\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps: [run: 'true']\n"

func TestServerSchedules(t *testing.T) {
	m := newTeam(t)
	said := m.push("main", `-- .github/workflows/night.yml --
on:
  schedule:
    - cron: "30 3 * * *"
      timezone: Europe/Berlin
    - cron: "0 0 30 2 *"
    - cron: "0 4 * * *"
      timezone: Europe/Atlantis`+doesNothing)
	for _, want := range []string{"never comes", "Europe/Atlantis"} {
		if !strings.Contains(said, want) {
			t.Errorf("the push says nothing of %q: %s", want, said)
		}
	}
	kept, err := m.s.Store.Schedules(t.Context(), 10)
	if err != nil || len(kept) != 1 {
		t.Fatalf("got %v, %v", kept, err)
	}
	// As if it had been missed for days.
	if err := m.s.Store.Tick(t.Context(), kept[0], time.Now().AddDate(0, 0, -9)); err != nil {
		t.Fatal(err)
	}
	m.s.clock <- struct{}{}
	m.await("a run of the schedule", func() bool { return len(m.runs()) == 1 })
	again, err := m.s.Store.Schedules(t.Context(), 10)
	if err != nil || len(again) != 1 || !again[0].Next.After(time.Now()) {
		t.Fatalf("the schedule waits for %v, %v", again, err)
	}
	m.push("main", "-- .github/workflows/night.yml --\non: push"+doesNothing)
	if kept, err := m.s.Store.Schedules(t.Context(), 10); err != nil || len(kept) != 0 {
		t.Errorf("schedules that are gone: %v, %v", kept, err)
	}
	if got := m.runs(); len(got) != 2 || got[1] != "schedule night main" {
		t.Errorf("got %q", got)
	}
}

// TestServerClockJumps sets the server's clock an hour forward and back, and more: a schedule runs once for what was missed and goes on
// by the new time, and who had a token before still has it.
func TestServerClockJumps(t *testing.T) {
	m := newTeam(t)
	two := time.Until(time.Now().Truncate(5 * time.Minute).Add(2 * time.Minute)) // minutes past a tick, or the next could come by itself
	m.ahead.Store(int64(two))
	m.push("main", "-- .github/workflows/often.yml --\non:\n  schedule:\n    - cron: '*/5 * * * *'"+doesNothing+
		"-- .github/workflows/ci.yml --\non: push\njobs:\n  a:\n    runs-on: elsewhere\n    steps: [run: 'true']\n")
	task, err := m.s.Engine.Lease(t.Context(), ci.Runner{Name: "elsewhere", Labels: []string{"elsewhere"}})
	if err != nil {
		t.Fatal(err)
	}
	next := func() time.Duration { // how long the schedule still waits
		kept, err := m.s.Store.Schedules(t.Context(), 10)
		if err != nil || len(kept) != 1 {
			t.Fatalf("got %v, %v", kept, err)
		}
		return kept[0].Next.Sub(m.s.Now())
	}
	begun := len(m.runs())
	for _, jump := range []struct {
		to   time.Duration
		runs int
	}{{time.Hour, 1}, {0, 0}, {-time.Hour, 0}, {0, 1}, {40 * time.Hour, 1}, {-4 * time.Hour, 0}} {
		m.ahead.Store(int64(two + jump.to))
		for range 3 { // the first wakes it, the second waits meanwhile, and the third comes when it has looked
			m.s.clock <- struct{}{}
		}
		if wait := next(); wait <= 0 || wait > 5*time.Minute {
			t.Errorf("%v ahead the schedule waits for %v", jump.to, wait)
		}
		begun += jump.runs
		if got := len(m.runs()); got != begun {
			t.Errorf("%v ahead there are %d runs, not %d: %q", jump.to, got, begun, m.runs())
		}
		for _, token := range []string{m.token, task.Token} {
			if status, _ := m.askAs(token, "GET", "/repos/acme/shop", nil); status != 200 {
				t.Errorf("%v ahead: %.4s... %d", jump.to, token, status)
			}
		}
	}
}

func TestServerRunsStartRuns(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\nname: CI\non: push"+doesNothing+`-- .github/workflows/deploy.yml --
name: Deploy
on:
  workflow_run: {workflows: [CI], types: [completed], branches: [main]}`+doesNothing+`-- .github/workflows/chain.yml --
name: Chain
on:
  workflow_run: {workflows: [Deploy, Chain], types: [completed]}`+doesNothing)
	m.await("the end of the chain", func() bool { return len(m.runs()) == 4 })
	m.push("other", "")
	m.await("the run of the other branch", func() bool { return m.runs()[0] == "push ci other" })
	_, body := m.ask("GET", "/repos/acme/shop/actions/runs/2", nil)
	if event := body.(map[string]any)["event"]; event != "workflow_run" {
		t.Errorf("run 2 is of %v", event)
	}
	m.await("everything has ended", func() bool {
		active, err := m.s.Store.Active(t.Context())
		return err == nil && len(active) == 0
	})
	if got := m.runs(); len(got) != 5 {
		t.Errorf("got %q: three may start one another, and the branch does not fit", got)
	}
}

func TestServerDeployments(t *testing.T) {
	m := newTeam(t)
	m.push("main", `-- .github/workflows/cd.yml --
on: push
jobs:
  release:
    runs-on: ubuntu-latest
    environment: production
    steps: [run: 'true']
`)
	states := func(deployment any) (out []string) {
		_, list := m.ask("GET", fmt.Sprintf("/repos/acme/shop/deployments/%.0f/statuses", deployment.(map[string]any)["id"]), nil)
		for _, s := range list.([]any) {
			out = append(out, s.(map[string]any)["state"].(string))
		}
		return out
	}
	var deployments []any
	in := func(n int, want string) func() bool {
		return func() bool {
			_, list := m.ask("GET", "/repos/acme/shop/deployments?environment=production", nil)
			deployments = list.([]any)
			return len(deployments) == n && strings.Join(states(deployments[0]), " ") == want
		}
	}
	m.await("a deployment", in(1, "success in_progress"))
	m.push("main", "")
	m.await("another", in(2, "success in_progress"))
	m.await("the first is not in force any more", func() bool { return strings.Join(states(deployments[1]), " ") == "inactive success in_progress" })
}

func TestServerPullRequestsByPush(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: pull_request"+doesNothing)
	remote := strings.Replace(m.url, "://", "://x:"+m.token+"@", 1) + "/acme/shop"
	m.git("commit", "-q", "--allow-empty", "-m", "Add a feature\n\nIt does a lot.")
	if said := m.git("push", remote, "HEAD:refs/for/main"); !strings.Contains(said, "Pull request #1") {
		t.Errorf("the push says %s", said)
	}
	m.git("commit", "-q", "--allow-empty", "-m", "more")
	m.git("push", remote, "HEAD:refs/for/main")
	m.git("push", remote, "HEAD:refs/for/main/other")
	_, list := m.ask("GET", "/repos/acme/shop/pulls", nil)
	var got []string
	for _, p := range list.([]any) {
		p := p.(map[string]any)
		got = append(got, fmt.Sprint(p["number"], " ", p["title"], " ", p["body"], " ", p["head"].(map[string]any)["ref"]))
	}
	if want := "2 more  admin/other, 1 Add a feature It does a lot. admin/for-main"; strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	if said := m.git("push", remote, "main:refs/for/main/none"); !strings.Contains(said, "Pull request #3") {
		t.Errorf("the push says %s", said)
	}
	m.await("the runs", func() bool { return len(m.runs()) == 4 })
	if status, _ := m.ask("PUT", "/repos/acme/shop/pulls/1/merge", map[string]any{}); status != 200 {
		t.Errorf("merge: %d", status)
	}
	for n := 1; n <= 3; n++ { // all have the same commits
		if _, p := m.ask("GET", fmt.Sprintf("/repos/acme/shop/pulls/%d", n), nil); p.(map[string]any)["merged"] != true {
			t.Errorf("pull request %d is not merged", n)
		}
	}
	if said := m.git("push", remote, "HEAD:refs/for/main"); !strings.Contains(said, "has all of this already") {
		t.Errorf("the push says %s", said)
	}
}

// TestServerStrangers has everyone ask who should get nothing.
func TestServerStrangers(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: push"+doesNothing)
	m.await("a run", func() bool { return len(m.runs()) == 1 })
	for _, row := range []struct {
		token, method, path string
		status              int
	}{
		{"", "GET", "/repos/acme/shop", 401},
		{"pst_" + strings.Repeat("0", 36), "GET", "/user", 401},
		{"x' OR '1'='1", "GET", "/user", 401},
		{"eyJhbGciOiJub25lIn0.eyJsZWFzZSI6eyJydW4iOjF9fQ.", "GET", "/repos/acme/shop", 401},
		{"", "GET", "/api/penstock/repos/acme/shop/runs/1", 404},
		{"", "GET", "/api/penstock/repos/acme/shop/runs/1/events", 404},
		{"", "GET", "/api/penstock/repos/acme/shop/runs/1/jobs/a/log", 404},
		{"", "GET", "/api/penstock/users", 401},
		{"", "GET", "/api/penstock/audit", 401},
		{"", "POST", "/api/penstock/runner/lease", 401},
		{m.token, "POST", "/api/penstock/runner/lease", 401},
		{m.token, "GET", "/api/penstock/repos/acme/other/runs/1", 404},
		{m.token, "GET", "/api/penstock/repos/acme/shop/runs/99", 404},
		{m.token, "GET", "/api/penstock/repos/acme/shop/runs/1/jobs/..%2f..%2fa/log", 404},
		{m.token, "GET", "/repos/acme/..%2f..%2fetc", 404},
		{m.token, "GET", "/repos/acme/shop'--", 404},
	} {
		if status, body := m.askAs(row.token, row.method, row.path, nil); status != row.status {
			t.Errorf("%s %s by %.12q: %d, not %d: %v", row.method, row.path, row.token, status, row.status, body)
		}
	}
	// A browser's session is good for nothing that another site's page could have asked for.
	post := func(header string) int {
		req, err := http.NewRequest("POST", m.url+"/api/v3/repos/acme/shop/issues", strings.NewReader(`{"title":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(&http.Cookie{Name: sessionCookie, Value: m.token})
		if header != "" {
			req.Header.Set(header, "1")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if a, b := post(""), post(csrfHeader); a != 401 || b != 201 {
		t.Errorf("a page of another site got %d, our own %d", a, b)
	}
	if status, _ := m.askAs("", "POST", "/api/penstock/login", map[string]any{"token": m.token}); status != 403 {
		t.Errorf("signing in from anywhere: %d", status)
	}
	if status, _ := m.ask("POST", "/repos/acme/shop/issues", map[string]any{"title": strings.Repeat("x", 11<<20)}); status != 413 {
		t.Errorf("a body of 11 MB: %d", status)
	}
}

// TestServerOnPostgres is a team's day on PostgreSQL, which goes away in the middle of it.
func TestServerOnPostgres(t *testing.T) {
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	m := newTeamOn(t, pg.Database(t))
	m.push("main", "-- .github/workflows/ci.yml --\nname: CI\non: [push, pull_request]"+doesNothing+"-- .github/workflows/after.yml --\non:\n  workflow_run: {workflows: [CI], types: [completed]}"+doesNothing)
	m.await("two runs", func() bool { return len(m.runs()) == 2 })
	if err := pg.Crash(); err != nil {
		t.Fatal(err)
	}
	if status, _ := m.ask("GET", "/repos/acme/shop/actions/runs", nil); status < 500 {
		t.Errorf("without a database the API answers %d", status)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	m.await("the database is back", func() bool {
		status, _ := m.ask("GET", "/repos/acme/shop/actions/runs", nil)
		return status == 200
	})
	m.git("commit", "-q", "--allow-empty", "-m", "A feature")
	m.git("push", strings.Replace(m.url, "://", "://x:"+m.token+"@", 1)+"/acme/shop", "HEAD:refs/for/main")
	m.await("all runs", func() bool { return len(m.runs()) == 4 })
	if last, _, err := m.s.Store.VerifyAudit(t.Context()); err != nil || last == 0 {
		t.Errorf("audit: %d records, %v", last, err)
	}
}

// TestServerEvents follows a run as a page does, and comes again where it was.
func TestServerEvents(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: [push, workflow_dispatch]"+doesNothing)
	m.await("the end of the run", func() bool {
		r, err := m.s.Engine.Run(t.Context(), 1)
		return err == nil && r.Status == ci.Completed
	})
	// read gives the IDs of the events of a stream until so many have come.
	read := func(path, last string, n int) (ids []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", m.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "token "+m.token)
		req.Header.Set("Last-Event-ID", last)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); len(ids) < n+1 && lines.Scan(); {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				ids = append(ids, id)
			}
		}
		if len(ids) != n+1 {
			t.Fatalf("%s after %s: got %q, not %d", path, last, ids, n)
		}
		return ids[1:] // the first says where the stream begins
	}
	all := read("/api/penstock/events", "0", 5)
	if strings.Join(all, " ") != "1 2 3 4 5" {
		t.Errorf("got %q", all)
	}
	for _, path := range []string{"/api/penstock/repos/acme/shop/events", "/api/penstock/repos/acme/shop/runs/1/events"} {
		if again := read(path, "3", 2); strings.Join(again, " ") != "4 5" {
			t.Errorf("%s after 3: %q", path, again)
		}
	}
	last, err := m.s.Store.LastRecord(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live := make(chan []string)
	go func() { live <- read("/api/penstock/repos/acme/shop/events", fmt.Sprint(last), 3) }()
	m.ask("POST", "/repos/acme/shop/actions/workflows/ci.yml/dispatches", map[string]any{"ref": "main"})
	select {
	case ids := <-live:
		if ids[0] != fmt.Sprint(last+1) {
			t.Errorf("the run's events begin with %s, not %d", ids[0], last+1)
		}
	case <-time.After(time.Minute):
		t.Error("nothing comes of a run while it runs")
	}
}

// TestServerJobTokens has tokens of jobs asked for what they are not good for.
func TestServerJobTokens(t *testing.T) {
	m := newTeam(t)
	m.push("main", `-- .github/workflows/ci.yml --
on: push
jobs:
  reads:
    runs-on: elsewhere
    permissions: {contents: read}
    steps: [run: 'true']
  nothing:
    runs-on: nowhere
    permissions: {issues: read}
    steps: [run: 'true']
`)
	m.git("push", strings.Replace(m.url, "://", "://x:"+m.token+"@", 1)+"/acme/other", "HEAD:main")
	lease := func(label string) *ci.Task {
		task, err := m.s.Engine.Lease(t.Context(), ci.Runner{Name: label, Labels: []string{label}})
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	reads, nothing := lease("elsewhere"), lease("nowhere")
	clone := func(token, repository string) int {
		req, err := http.NewRequest("GET", m.url+"/"+repository+"/info/refs?service=git-upload-pack", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("x-access-token", token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, row := range []struct {
		token, repository string
		status            int
	}{{reads.Token, "acme/shop", 200}, {reads.Token, "acme/other", 404}, {nothing.Token, "acme/shop", 404}} {
		if got := clone(row.token, row.repository); got != row.status {
			t.Errorf("cloning %s: %d, not %d", row.repository, got, row.status)
		}
	}
	if status, _ := m.askAs(reads.Token, "GET", "/repos/acme/shop/contents/.github/workflows/ci.yml", nil); status != 200 {
		t.Errorf("reading: %d", status)
	}
	for method, path := range map[string]string{"PUT": "/repos/acme/shop/contents/x", "POST": "/repos/acme/shop/issues", "GET": "/repos/acme/shop/actions/secrets"} {
		if status, _ := m.askAs(reads.Token, method, path, map[string]any{"title": "x", "message": "x", "content": ""}); status != 403 {
			t.Errorf("%s %s: %d", method, path, status)
		}
	}
	if status, _ := m.askAs(reads.Token, "GET", "/repos/acme/other", nil); status != 404 {
		t.Errorf("another repository: %d", status)
	}
	// It is signed and names a lease: another lease's name does not pass.
	head, _, _ := strings.Cut(reads.Token, ".")
	if got := clone(head+"."+strings.Split(nothing.Token, ".")[1]+"."+strings.Split(reads.Token, ".")[2], "acme/shop"); got != 401 {
		t.Errorf("a forged token: %d", got)
	}
	l := ci.Lease{Run: reads.Run, Job: reads.Job, ID: reads.Lease}
	if err := m.s.Engine.Report(t.Context(), l, ci.Report{}); err != nil {
		t.Fatal(err)
	}
	if err := m.s.Engine.Finish(t.Context(), l, ci.Result{Conclusion: ci.Success}); err != nil {
		t.Fatal(err)
	}
	if got := clone(reads.Token, "acme/shop"); got != 401 {
		t.Errorf("the token of a job that has ended: %d", got)
	}
}

func TestLimits(t *testing.T) {
	var l limits
	now := time.Now()
	for i := range 30 {
		if ok, _ := l.allow("somebody", 1, 30, now); !ok {
			t.Fatalf("request %d is refused", i)
		}
	}
	if ok, after := l.allow("somebody", 1, 30, now); ok || after <= 0 || after > time.Second {
		t.Errorf("request 31: %v after %s", ok, after)
	}
	if ok, _ := l.allow("another", 1, 30, now); !ok {
		t.Error("one waits for another")
	}
	if ok, _ := l.allow("somebody", 1, 30, now.Add(2*time.Second)); !ok {
		t.Error("the limit is for ever")
	}
	for i := range maxLimited + 10 {
		l.allow(fmt.Sprint(i), 1, 30, now)
	}
	if len(l.of) > maxLimited {
		t.Errorf("%d are remembered", len(l.of))
	}
}

// TestServerStrangersWait tries tokens of nobody's until it is told to wait.
func TestServerStrangersWait(t *testing.T) {
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/user", nil},
		{"POST", "/api/penstock/runner/lease", nil},
		{"POST", "/api/penstock/runner/join", map[string]any{"token": "psg_forged", "name": "r"}},
	} {
		m := newTeam(t)
		waits := false
		for range 2 * strangerBurst {
			status, _ := m.askAs("pst_"+strings.Repeat("0", 36), c.method, c.path, c.body)
			if waits = status == 429; waits {
				break
			}
			if status != 401 {
				t.Fatalf("%s: %d", c.path, status)
			}
		}
		if !waits {
			t.Errorf("%s: nobody is kept waiting", c.path)
		}
		if status, _ := m.ask("GET", "/user", nil); status != 200 {
			t.Errorf("who has a token waits too: %d", status)
		}
	}
}

// TestServerTokensEnd: tokens that have expired, were removed or are narrower than what is asked are good for nothing.
func TestServerTokensEnd(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: push"+doesNothing)
	admin, err := m.s.Store.UserNamed(t.Context(), "admin")
	if err != nil {
		t.Fatal(err)
	}
	add := func(expires time.Time, scopes ...string) string {
		token := auth.NewToken()
		if err := m.s.Store.AddToken(t.Context(), &store.Token{User: admin.ID, Name: "x", Hash: auth.HashToken(token), Scopes: scopes, Created: time.Now(), Expires: expires}); err != nil {
			t.Fatal(err)
		}
		return token
	}
	over, narrow := add(time.Now().Add(-time.Second), "repo"), add(time.Time{}, "user")
	removed := add(time.Time{}, "repo")
	all, err := m.s.Store.Tokens(t.Context(), admin.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.s.Store.DeleteToken(t.Context(), admin.ID, all[len(all)-1].ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token, method, path string
		status              int
	}{
		{over, "GET", "/repos/acme/shop", 401},
		{removed, "GET", "/repos/acme/shop", 401},
		{narrow, "GET", "/user", 200},
		{narrow, "GET", "/repos/acme/shop", 404},
		{narrow, "POST", "/repos/acme/shop/actions/workflows/ci.yml/dispatches", 404},
		{narrow, "GET", "/api/penstock/audit", 403},
		{narrow, "GET", "/api/penstock/users", 403},
	} {
		if status, body := m.askAs(c.token, c.method, c.path, nil); status != c.status {
			t.Errorf("%s %s: %d, not %d: %v", c.method, c.path, status, c.status, body)
		}
	}
}

// TestServerNames: what is SQL, markup or a terminal's commands elsewhere is text here, comes back as it was given and changes nothing else.
func TestServerNames(t *testing.T) {
	m := newTeam(t)
	hostile := "x'); DROP TABLE runs; -- <img src=x onerror=alert(1)> \u202e\x1b[2J%00${{ secrets.X }}"
	branch := "a';DROP--<b>%\""
	m.push("main", "-- .github/workflows/ci.yml --\nname: \"'; DROP TABLE runs; --\"\non: push"+doesNothing)
	m.push(branch, "-- x --\nx\n")
	m.await("two runs", func() bool { return len(m.runs()) == 2 })
	for _, c := range []struct{ path, field string }{{"/repos/acme/shop/issues", "title"}, {"/repos/acme/shop/labels", "name"}} {
		name := hostile
		if c.field == "name" {
			name = "x'); DROP TABLE labels; --<b>" // a label is one line of 50
		}
		status, made := m.ask("POST", c.path, map[string]any{c.field: name, "color": "ffffff"})
		if made, _ := made.(map[string]any); status != 201 || made[c.field] != name {
			t.Errorf("%s: %d %v", c.path, status, made)
		}
	}
	for _, path := range []string{
		"/repos/acme/shop/actions/runs?branch=" + url.QueryEscape("x' OR '1'='1"), "/repos/acme/shop/actions/runs?actor=" + url.QueryEscape("admin'--"),
		"/repos/acme/shop/actions/runs?event=" + url.QueryEscape("push' OR 1=1"),
	} {
		if status, got := m.ask("GET", path, nil); status != 200 || got.(map[string]any)["total_count"] != 0.0 {
			t.Errorf("%s: %d %v", path, status, got)
		}
	}
	status, got := m.ask("GET", "/repos/acme/shop/actions/runs?branch="+url.QueryEscape(branch), nil)
	if status != 200 || got.(map[string]any)["total_count"] != 1.0 {
		t.Errorf("the branch: %d %v", status, got)
	}
	if status, got := m.ask("GET", "/api/penstock/audit?actor="+url.QueryEscape("admin' OR '1'='1"), nil); status != 200 || len(got.([]any)) != 0 {
		t.Errorf("the audit log: %d %v", status, got)
	}
	if len(m.runs()) != 2 {
		t.Errorf("the runs are %q", m.runs())
	}
	// No answer can be taken for a page that runs scripts, or for a terminal's commands.
	for _, path := range []string{"/api/v3/repos/acme/shop/issues", "/api/penstock/repos/acme/shop/runs/2", "/acme/shop", "/acme/shop/actions/runs/2"} {
		req, err := http.NewRequest("GET", m.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "token "+m.token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if kind := res.Header.Get("Content-Type"); err != nil || strings.Contains(kind, "html") || res.Header.Get("X-Content-Type-Options") != "nosniff" || strings.Contains(string(text), "\x1b") {
			t.Errorf("%s: %v %q %q", path, err, kind, text)
		}
	}
}

// TestServerFaultyWorkflows: as on GitHub, a push of a workflow file with mistakes begins a run that has failed and says why.
func TestServerFaultyWorkflows(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/bad.yml --\non: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    stepz: []\n-- .github/workflows/calls.yml --\non: push\njobs:\n  a:\n    uses: ./.github/workflows/none.yml\n"+
		"-- .github/workflows/good.yml --\non: push"+doesNothing)
	status, body := m.ask("GET", "/repos/acme/shop/actions/runs?per_page=10", nil)
	var got []string
	for _, r := range body.(map[string]any)["workflow_runs"].([]any) {
		r := r.(map[string]any)
		got = append(got, fmt.Sprint(r["name"], " ", r["path"], " ", r["status"], " ", r["conclusion"], " ", r["event"]))
	}
	want := []string{
		".github/workflows/good.yml .github/workflows/good.yml completed success push",
		".github/workflows/calls.yml .github/workflows/calls.yml completed failure push",
		".github/workflows/bad.yml .github/workflows/bad.yml completed failure push",
	}
	if status != http.StatusOK || !slices.Equal(got, want) {
		t.Errorf("%d %q, want %q", status, got, want)
	}
	for run, want := range map[int]string{1: "stepz", 2: "none.yml"} {
		r, err := m.s.Engine.Run(t.Context(), ci.RunID(run))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Jobs) > 0 || len(r.Annotations) == 0 || !strings.Contains(r.Annotations[0].Message, want) || !strings.Contains(r.Reason, want) {
			t.Errorf("run %d: %d jobs, %+v, %q; want %s in it", run, len(r.Jobs), r.Annotations, r.Reason, want)
		}
		if status, body := m.ask("POST", fmt.Sprintf("/repos/acme/shop/actions/runs/%d/rerun", run), nil); status != http.StatusForbidden && status != http.StatusConflict && status != http.StatusUnprocessableEntity {
			t.Errorf("another attempt: %d %v", status, body)
		}
		if status, body := m.ask("GET", fmt.Sprintf("/repos/acme/shop/actions/runs/%d/jobs", run), nil); status != http.StatusOK || body.(map[string]any)["total_count"].(float64) != 0 {
			t.Errorf("jobs: %d %v", status, body)
		}
	}
	// Other events do not tell: which ones the file is for can not be known.
	if status, body := m.ask("POST", "/repos/acme/shop/dispatches", map[string]any{"event_type": "x"}); status != http.StatusNoContent {
		t.Errorf("%d %v", status, body)
	}
	if n := len(m.runs()); n != 3 {
		t.Errorf("%d runs", n)
	}
}

// TestServerText: each page is plain text for who asks for no HTML, with nothing in it that a terminal obeys, and not for strangers.
func TestServerText(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: push\nrun-name: \"evil \\e[31mred \\u202e\"\njobs:\n  a:\n    runs-on: nobody-has-this\n    steps: [run: 'true']\n  b:\n    runs-on: ubuntu-latest\n    environment: production\n    steps: [run: 'true']\n")
	m.ask("POST", "/repos/acme/shop/actions/variables", map[string]any{"name": "A", "value": "x\x1b[2Jy"})
	read := func(path, token, accept string) (int, string) {
		req, err := http.NewRequest("GET", m.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		req.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	for path, want := range map[string]string{
		"/":                                    "acme/shop",
		"/acme/shop":                           "evil ?[31mred ?",
		"/acme/shop/actions":                   m.url + "/acme/shop/actions/runs/1",
		"/acme/shop/actions/runs/1":            "Waits for a runner with the label nobody-has-this.",
		"/acme/shop/pulls":                     "No pull requests",
		"/acme/shop/caches":                    "No caches",
		"/acme/shop/settings":                  "x?[2Jy",
		"/acme/shop/environments":              "production",
		"/runners":                             "No runners",
		"/audit":                               "git.push",
		"/acme/shop/actions/runs/1/attempts/1": "evil",
	} {
		status, text := read(path, m.token, "*/*")
		if status != http.StatusOK || !strings.Contains(text, want) || strings.ContainsRune(text, 0x1b) || strings.ContainsRune(text, 0x202e) {
			t.Errorf("%s: %d %q, want %q in it", path, status, text, want)
		}
		if status, text := read(path, "", "*/*"); status < 400 || strings.Contains(text, want) {
			t.Errorf("%s for a stranger: %d %q", path, status, text)
		}
		if _, text := read(path, m.token, "text/html,*/*"); strings.Contains(text, want) {
			t.Errorf("%s for a browser: %q", path, text)
		}
	}
	for _, path := range []string{"/acme/shop/actions/runs/2", "/acme/shop/actions/runs/1/attempts/2", "/acme/shop/actions/runs/1/attempts/x", "/acme/none", "/a/b/c", "/acme/shop/pull/9", "/acme/shop/actions/runs/1/job/77"} {
		if status, text := read(path, m.token, "text/plain"); status != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, status, text)
		}
	}
}

func TestStripped(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\nc":                         "a\tb\nc",
		"\x1b[31mred\x1b[0m":              "red",
		"\x1b]0;title\x07text":            "0;titletext",
		"\x1b[" + strings.Repeat("1", 99): strings.Repeat("1", 99-64),
		"\x1b[\nnext":                     "\nnext",
		"\r\x00\u202e\u200b!":             "!",
		"cut\x1b":                         "cut",
		"\xff":                            "\uFFFD",
	} {
		var out strings.Builder
		if err := stripped(&out, strings.NewReader(in)); err != nil || out.String() != want {
			t.Errorf("%q: %q, %v, want %q", in, out.String(), err, want)
		}
	}
}
