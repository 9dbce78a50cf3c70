package api

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/npmtest"
	"github.com/penstock-ci/penstock/internal/store"
)

// events is a workflow that runs on all that the API can do, and says of what it ran in its name.
const events = `name: Events
on:
  repository_dispatch: {types: [rebuild]}
  pull_request: {types: [labeled, unlabeled, edited, closed, reopened]}
  issues:
  issue_comment:
  release: {types: [created, published, released]}
  deployment:
  deployment_status:
run-name: ${{ github.event_name }} ${{ github.event.action }} ${{ github.event.label.name }}${{ github.event.client_payload.why }}${{ github.event.deployment_status.state }}
` + doesNothing

// TestRESTTeam has octokit administer a repository of a server, holds every answer to GitHub's own description of its API,
// and looks at the runs that began.
func TestRESTTeam(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- .github/workflows/push.yml --\non: push"+doesNothing+"-- .github/workflows/events.yml --\n"+events+`-- .github/workflows/deploy.yml --
on: workflow_dispatch
jobs:
  deploy:
    environment: production
    runs-on: ubuntu-latest
    steps: [run: 'true']
`)
	m.push("topic", "-- one.txt --\none\n")
	mona := &store.User{Login: "mona", Created: time.Now()}
	if err := m.s.Store.AddUser(t.Context(), mona); err != nil {
		t.Fatal(err)
	}
	reader, err := m.s.newToken(t.Context(), mona.ID, "test", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "dist", "report"} {
		var expires time.Time
		if name == "old" {
			expires = time.Now().Add(-time.Hour)
		}
		_, err := m.s.Artifacts.Create(t.Context(), native.Artifact{Run: "1", Attempt: "1", Name: name, Expires: expires}, func(w io.Writer) error {
			_, err := io.WriteString(w, "bytes of "+name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for key, size := range map[string]int{"npm-1": 1, "npm-2": 2, "go-1": 3} {
		s := &session{repository: "acme/shop", scopes: []string{"refs/heads/main"}}
		if _, err := m.s.Runtime.caches.add(t.Context(), s, "v", key, func(w io.Writer) error {
			_, err := w.Write(make([]byte, size))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	far := &store.Runner{Name: "far", OS: "Linux", Arch: "X64", Labels: []string{"big"}, Hash: []byte("hash"), Created: time.Now(), Seen: time.Now()}
	if err := m.s.Store.AddRunner(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "team.mjs")
	cmd.Dir = npmtest.Install(t, filepath.Join("testdata", "rest"))
	cmd.Env = append(os.Environ(), "GITHUB_API_URL="+m.url+"/api/v3", "TOKEN="+m.token, "READER="+reader, "MONA="+strconv.FormatInt(mona.ID, 10))
	var out, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), warnings.String())
	}
	var said struct {
		Saw     map[string]any
		Faults  []any
		Checked float64
	}
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, f := range said.Faults {
		t.Error(f)
	}
	if said.Checked < 65 {
		t.Errorf("only %v answers were held to GitHub's description", said.Checked)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "rest_team_saw.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[name] = value
	}
	found, err := m.s.Store.Runs(t.Context(), store.Filter{Workflow: ".github/workflows/events.yml", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var began []string
	for _, r := range found {
		began = append(began, strings.TrimSpace(r.Name))
	}
	slices.Reverse(began)
	said.Saw["runs"] = began
	for _, name := range slices.Sorted(maps.Keys(said.Saw)) {
		var line bytes.Buffer
		enc := json.NewEncoder(&line)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(said.Saw[name]); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(line.String()); got != want[name] {
			t.Errorf("%s %s\nnot %s", name, got, want[name])
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s was not seen", name)
	}
}

// TestRESTMergesOnce has many merge a pull request at once, in the way that could be done twice.
func TestRESTMergesOnce(t *testing.T) {
	m := newTeam(t)
	m.push("main", "-- a.txt --\na\n")
	m.push("topic", "-- b.txt --\nb\n")
	if status, body := m.ask("POST", "/repos/acme/shop/pulls", map[string]any{"title": "One", "head": "topic", "base": "main"}); status != 201 {
		t.Fatalf("got %d %v", status, body)
	}
	// Another server is at it; after a while it is taken for dead.
	claim := func(ago time.Duration) {
		t.Helper()
		d, err := m.s.Store.DocumentNamed(t.Context(), "acme/shop", "issue", "", "1")
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		if err := json.Unmarshal(d.Body, &body); err != nil {
			t.Fatal(err)
		}
		body["pull"].(map[string]any)["merging"] = time.Now().Add(-ago).UTC().Format(time.RFC3339)
		if d.Body, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
		if err := m.s.Store.SaveDocument(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	claim(time.Minute)
	if status, body := m.ask("PUT", "/repos/acme/shop/pulls/1/merge", nil); status != 405 || body.(map[string]any)["message"] != "Merge already in progress" {
		t.Errorf("got %d %v", status, body)
	}
	claim(3 * time.Minute)
	statuses := make(chan int)
	const callers = 8
	for range callers {
		go func() {
			status, _ := m.ask("PUT", "/repos/acme/shop/pulls/1/merge", map[string]any{"merge_method": "squash"})
			statuses <- status
		}()
	}
	count := map[int]int{}
	for range callers {
		count[<-statuses]++
	}
	if count[200] != 1 || count[405] != callers-1 {
		t.Errorf("got %v, want one 200 and else 405", count)
	}
	m.git("checkout", "-q", "-b", "clash", "HEAD~1")
	m.push("clash", "-- b.txt --\nanother\n")
	if status, body := m.ask("POST", "/repos/acme/shop/pulls", map[string]any{"title": "Two", "head": "clash", "base": "main"}); status != 201 {
		t.Fatalf("got %d %v", status, body)
	}
	for range 2 { // what can not be merged is not claimed
		if status, body := m.ask("PUT", "/repos/acme/shop/pulls/2/merge", nil); status != 405 || body.(map[string]any)["message"] != "Pull Request is not mergeable" {
			t.Errorf("got %d %v", status, body)
		}
	}
	_, commits := m.ask("GET", "/repos/acme/shop/commits", nil)
	if n := len(commits.([]any)); n != 2 {
		t.Errorf("main has %d commits, want 2", n)
	}
	_, body := m.ask("GET", "/repos/acme/shop/pulls/1", nil)
	pull := body.(map[string]any)
	if pull["commits"] != 1.0 || pull["changed_files"] != 1.0 || pull["merged"] != true {
		t.Errorf("it has %v commits, %v files, merged %v", pull["commits"], pull["changed_files"], pull["merged"])
	}
}
