package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// flood is 100 MB of JSON, counted as it goes out: the client may still send when it has its answer.
type flood struct{ sent atomic.Int64 }

func (f *flood) Read(p []byte) (int, error) {
	sent := f.sent.Load()
	if sent >= 100<<20 {
		return 0, io.EOF
	}
	n := copy(p, bytes.Repeat([]byte("["), len(p)))
	if sent == 0 {
		copy(p, `{"title":"`)
	}
	f.sent.Add(int64(n))
	return n, nil
}

// TestServerLargeBodies sends 100 MB of JSON, of a length that is not told before, to whatever reads JSON, by strangers and by those who
// may: all are refused before it has come, and nothing changes.
func TestServerLargeBodies(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: push\njobs:\n  a:\n    runs-on: elsewhere\n    steps: [run: 'true']\n")
	far := auth.NewToken()
	if err := m.s.Store.AddRunner(t.Context(), &store.Runner{Name: "elsewhere", Labels: []string{"elsewhere"}, Hash: auth.HashToken(far), Created: time.Now(), Seen: time.Now()}); err != nil {
		t.Fatal(err)
	}
	task, err := m.s.Engine.Lease(t.Context(), ci.Runner{Name: "elsewhere", Labels: []string{"elsewhere"}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := m.s.Store.LastRecord(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ token, method, path string }{
		{"", "POST", "/api/penstock/login"},
		{"", "POST", runner.QueuePath + "/join"},
		{"", "POST", "/api/v3/repos/acme/shop/issues"},
		{m.token, "POST", "/api/v3/repos/acme/shop/issues"},
		{m.token, "PUT", "/api/v3/repos/acme/shop/contents/x"},
		{m.token, "POST", "/api/v3/repos/acme/shop/actions/workflows/ci.yml/dispatches"},
		{m.token, "POST", "/api/penstock/users"},
		{m.token, "POST", "/api/graphql"},
		{far, "POST", runner.QueuePath + "/lease"},
		{far, "POST", runner.QueuePath + "/report"},
		{far, "POST", runner.QueuePath + "/finish"},
		{far, "POST", runner.QueuePath + "/log?run=1&job=a&lease=" + string(task.Lease) + "&offset=0"},
		{task.Token, "POST", twirpPath + "ArtifactService/CreateArtifact"},
		{task.Token, "POST", cacheV1Path + "caches"},
		{task.Token, "POST", "/api/v3/repos/acme/shop/issues"},
	} {
		body := &flood{}
		req, err := http.NewRequestWithContext(t.Context(), c.method, m.url+c.path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(csrfHeader, "1")
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s: %v", c.path, err) // it must be told, not cut
			continue
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if ok := c.path == "/api/graphql"; !ok && (res.StatusCode < 400 || res.StatusCode >= 500) {
			t.Errorf("%s: %s %s", c.path, res.Status, text)
		}
		if sent := body.sent.Load(); sent > 40<<20 {
			t.Errorf("%s: %d bytes were taken", c.path, sent)
		}
	}
	if after, err := m.s.Store.LastRecord(t.Context()); err != nil || after != before {
		t.Errorf("record %d became %d, %v", before, after, err)
	}
}

// TestServerOtherRepositories: what is of one repository is not to be had by the name of another, nor by who may read only that, and
// looks to them as what is not there.
func TestServerOtherRepositories(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/ci.yml --\non: push"+doesNothing)
	m.await("the end of the run", func() bool {
		r, err := m.s.Engine.Run(t.Context(), 1)
		return err == nil && r.Status == ci.Completed
	})
	m.git("push", strings.Replace(m.url, "://", "://x:"+m.token+"@", 1)+"/acme/other", "HEAD:main")
	m.git("push", strings.Replace(m.url, "://", "://x:"+m.token+"@", 1)+"/acme/shop", "HEAD:feature", "HEAD:v1")
	artifact, err := m.s.Artifacts.Create(t.Context(), native.Artifact{Run: "1", Attempt: "1", Name: "thing"}, func(w io.Writer) error {
		_, err := io.WriteString(w, "x")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	id := func(method, path string, body map[string]any) any {
		status, made := m.ask(method, "/repos/acme/shop"+path, body)
		if status/100 != 2 {
			t.Fatalf("%s %s: %d %v", method, path, status, made)
		}
		of, _ := made.(map[string]any)
		return of["id"]
	}
	id("POST", "/issues", map[string]any{"title": "x"})
	comment := id("POST", "/issues/1/comments", map[string]any{"body": "x"})
	release := id("POST", "/releases", map[string]any{"tag_name": "v2"})
	deployment := id("POST", "/deployments", map[string]any{"ref": "main", "environment": "e", "required_contexts": []string{}})
	id("PUT", "/environments/e", nil)
	id("POST", "/labels", map[string]any{"name": "l", "color": "ffffff"})
	id("POST", "/actions/variables", map[string]any{"name": "V", "value": "x"})
	check := id("POST", "/check-runs", map[string]any{"name": "c", "head_sha": strings.TrimSpace(m.git("rev-parse", "HEAD"))})
	_, jobs := m.ask("GET", "/repos/acme/shop/actions/runs/1/jobs", nil)
	job := jobs.(map[string]any)["jobs"].([]any)[0].(map[string]any)["id"]
	alice := &store.User{Login: "alice", Created: time.Now()}
	if err := m.s.Store.AddUser(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	hers, err := m.s.newToken(t.Context(), alice.ID, "hers", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := m.ask("PUT", "/repos/acme/other/collaborators/alice", map[string]any{"permission": "admin"}); status/100 != 2 {
		t.Fatal(status, body)
	}

	begun := m.runs()
	const shop, other = "/repos/acme/shop", "/repos/acme/other"
	whole := func(v any) string { return fmt.Sprintf("%.0f", v) }
	for _, path := range []string{
		"/actions/runs/1", "/actions/runs/1/attempts/1", "/actions/runs/1/jobs", "/actions/runs/1/attempts/1/jobs", "/actions/runs/1/artifacts",
		"/actions/runs/1/pending_deployments", "/actions/runs/1/approvals", "/actions/runs/1/logs", "/actions/jobs/" + whole(job), "/actions/jobs/" + whole(job) + "/logs",
		fmt.Sprintf("/actions/artifacts/%d", artifact.ID), fmt.Sprintf("/actions/artifacts/%d/zip", artifact.ID),
		"/issues/1", "/issues/1/comments", "/issues/comments/" + whole(comment), "/releases/" + whole(release), "/releases/tags/v2", "/deployments/" + whole(deployment),
		"/deployments/" + whole(deployment) + "/statuses", "/environments/e", "/environments/e/deployment-branch-policies", "/labels/l", "/actions/variables/V",
		"/check-runs/" + whole(check), "/check-runs/" + whole(check) + "/annotations", "/check-runs/" + whole(job), "/git/ref/tags/v2", "/branches/feature",
		"/api/penstock/repos/acme/shop/runs/1", "/api/penstock/repos/acme/shop/runs/1/jobs/a/log",
	} {
		of := func(repo string) string {
			if strings.HasPrefix(path, "/api/") {
				return strings.Replace(path, shop, repo, 1)
			}
			return repo + path
		}
		if status, body := m.ask("GET", of(shop), nil); status != 200 {
			t.Errorf("%s: %d %v", of(shop), status, body)
		}
		for token, repo := range map[string]string{m.token: other, hers: shop} {
			_, nothing := m.askAs(token, "GET", strings.Replace(of(repo), "acme", "nobody", 1), nil)
			if status, body := m.askAs(token, "GET", of(repo), nil); status != 404 || token == hers && fmt.Sprint(body) != fmt.Sprint(nothing) {
				t.Errorf("%s by %.6s: %d %v", of(repo), token, status, body)
			}
		}
		if status, body := m.askAs(hers, "GET", of(other), nil); status != 404 {
			t.Errorf("%s by who administers it: %d %v", of(other), status, body)
		}
	}
	for _, c := range []struct{ method, path string }{
		{"POST", "/actions/runs/1/rerun"}, {"POST", "/actions/runs/1/rerun-failed-jobs"}, {"POST", "/actions/jobs/" + whole(job) + "/rerun"}, {"POST", "/actions/runs/1/cancel"},
		{"DELETE", fmt.Sprintf("/actions/artifacts/%d", artifact.ID)}, {"PATCH", "/issues/comments/" + whole(comment)}, {"DELETE", "/issues/comments/" + whole(comment)},
		{"DELETE", "/releases/" + whole(release)}, {"DELETE", "/deployments/" + whole(deployment)}, {"PATCH", "/check-runs/" + whole(check)}, {"DELETE", "/labels/l"}, {"DELETE", "/git/refs/tags/v2"},
		{"POST", "/actions/workflows/ci.yml/disable/x"}, {"DELETE", "/environments/e"}, {"DELETE", "/actions/variables/V"},
	} {
		for _, repo := range []string{shop, other} {
			if status, body := m.askAs(hers, c.method, repo+c.path, map[string]any{"body": "x", "title": "x"}); status != 404 && status != 422 {
				t.Errorf("%s %s: %d %v", c.method, repo+c.path, status, body)
			}
		}
	}
	for _, path := range []string{"/orgs/acme/actions/secrets", "/orgs/acme/actions/variables", "/orgs/acme/actions/secrets/public-key"} {
		if status, body := m.askAs(hers, "GET", path, nil); status != 403 && status != 404 {
			t.Errorf("%s: %d %v", path, status, body)
		}
	}
	if status, body := m.askAs(hers, "GET", "/user/repos", nil); status != 200 || len(body.([]any)) != 1 {
		t.Errorf("her repositories: %d %v", status, body)
	}
	if status, body := m.ask("GET", shop+"/issues/comments/"+whole(comment), nil); status != 200 || body.(map[string]any)["body"] != "x" {
		t.Errorf("the comment: %d %v", status, body)
	}
	if now := m.runs(); len(now) != len(begun) {
		t.Errorf("there are runs %q, not %q", now, begun)
	}
}
