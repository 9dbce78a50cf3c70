package cli

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api"
)

const (
	demoRepository  = "demo/prompt-stack"
	demoEnvironment = "production"
	// visitEvery is how often a visitor of the demo's production asks for something.
	visitEvery = 25 * time.Millisecond
	// approveAfter is how long the demo leaves an approval to whoever looks at it.
	approveAfter = 3 * time.Second
)

// tour is what the demo shows of releases: what CI has built goes to staging, is tried there, and to production; a good change
// is promoted step by step, and a bad one is taken back at its first.
type tour struct {
	ready
	releaseFlags
	repository string // a clone
	out        io.Writer
}

// tell says what happens next.
func (t *tour) tell(format string, args ...any) {
	fmt.Fprintf(t.out, "  %s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// run goes through it all.
func (t *tour) run(ctx context.Context) error {
	t.tell("CI runs; then the workflow Release takes what it has built to staging, and tries it there")
	if err := t.approve(ctx); err != nil {
		return err
	}
	first, err := t.settled(ctx, 1)
	if err != nil {
		return err
	}
	t.tell("v%d serves: %s", first.Number, first.Page)
	visiting, end := context.WithCancel(ctx)
	defer end()
	go t.visit(visiting)
	files, err := t.artifact(ctx)
	if err != nil {
		return err
	}
	t.tell("A good change is released as a canary: a part of the visitors gets it, then more, then all")
	if _, err := t.change(ctx, files, "Say what the service is", `title="Prompt-Stack"`, `title="Prompt-Stack", description="Prompts with blanks"`); err != nil {
		return err
	}
	good, err := t.settled(ctx, first.Number+1)
	if err != nil {
		return err
	}
	t.tell("v%d: %s", good.Number, good.Outcome)
	t.tell("A bad change is released: every third request of it fails")
	if _, err := t.change(ctx, files, "Count the visitors", "    @app.get(\"/health\")\n", badChange+"    @app.get(\"/health\")\n"); err != nil {
		return err
	}
	bad, err := t.settled(ctx, good.Number+1)
	if err != nil {
		return err
	}
	t.tell("v%d: %s: %s", bad.Number, bad.Outcome, firstLine(bad.Reason))
	if err := t.louder(ctx); err != nil {
		return err
	}
	t.tell("v%d serves as before. Try penstock rollback, or look at the page: %s", good.Number, bad.Page)
	<-visiting.Done()
	return nil
}

// louder pushes to the pull request, whose checks run from then on: not before, for the machine had enough to do.
func (t *tour) louder(ctx context.Context) error {
	return gitIn(ctx, t.repository, []string{"checkout", "--quiet", "greeting"}, []string{"commit", "--quiet", "--allow-empty", "--message", "Say it louder"},
		[]string{"push", "--quiet", "origin", "HEAD:refs/for/main"}, []string{"checkout", "--quiet", "main"})
}

// badChange is put into the example: not into its health check, or it would never take traffic.
const badChange = `    visitors = iter(range(1_000_000_000))

    @app.middleware("http")
    async def count(request, call_next):
        if request.url.path != "/health" and next(visitors) % 3 == 2:
            raise RuntimeError("the counter is stuck")
        return await call_next(request)

`

// approve opens the gate of production, unless somebody does so first.
func (t *tour) approve(ctx context.Context) error {
	for {
		var runs struct {
			WorkflowRuns []struct {
				ID           int64
				Name, Status string
				Conclusion   string
			} `json:"workflow_runs"`
		}
		if err := t.call(ctx, "GET", "/api/v3/repos/"+demoRepository+"/actions/runs?per_page=50", nil, &runs); err != nil {
			return err
		}
		for _, r := range runs.WorkflowRuns {
			if r.Conclusion == "failure" && (r.Name == "CI" || r.Name == "Release") {
				return fmt.Errorf("%s has failed: %s/%s/actions/runs/%d", r.Name, t.URL, demoRepository, r.ID)
			}
			if r.Name != "Release" {
				continue
			}
			switch r.Status {
			case "completed":
				return nil
			case "waiting":
				t.tell("It is well in staging. Production waits for an approval: give it on %s/%s/actions/runs/%d, or it is given in %s", t.URL, demoRepository, r.ID, approveAfter)
				if err := t.pause(ctx, approveAfter); err != nil {
					return err
				}
				return t.review(ctx, r.ID)
			}
		}
		if err := t.pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

func (t *tour) review(ctx context.Context, run int64) error {
	at := fmt.Sprintf("/api/v3/repos/%s/actions/runs/%d/pending_deployments", demoRepository, run)
	var pending []struct{ Environment struct{ ID int64 } }
	if err := t.call(ctx, "GET", at, nil, &pending); err != nil || len(pending) == 0 {
		return err // somebody has given it
	}
	return t.call(ctx, "POST", at, map[string]any{"environment_ids": []int64{pending[0].Environment.ID}, "state": "approved", "comment": "It is a demo"}, nil)
}

func (t *tour) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// settled waits until it is known how a version of production has ended.
func (t *tour) settled(ctx context.Context, number int64) (api.ReleaseView, error) {
	for {
		var all []api.ReleaseView
		at, err := t.path(ctx, "/environments/%s/history", demoEnvironment)
		if err == nil {
			err = t.call(ctx, "GET", at, nil, &all)
		}
		if err != nil {
			return api.ReleaseView{}, err
		}
		if i := slices.IndexFunc(all, func(r api.ReleaseView) bool { return r.Number >= number && r.Outcome != "" }); i >= 0 {
			return all[i], nil
		}
		if err := t.pause(ctx, 200*time.Millisecond); err != nil {
			return api.ReleaseView{}, err
		}
	}
}

// visit is visitors of production, until ctx ends.
func (t *tour) visit(ctx context.Context) {
	proxy, err := url.Parse(t.ProxyURL)
	if err != nil {
		return
	}
	for i := 0; t.pause(ctx, visitEvery) == nil; i++ {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+proxy.Host+[]string{"/api/prompts", "/", "/api/prompts"}[i%3], nil)
		if err != nil {
			return
		}
		req.Host = "prompt-stack.localhost"
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
}

// artifact fetches what CI has built of the back end.
func (t *tour) artifact(ctx context.Context) (*zip.Reader, error) {
	var list struct {
		Artifacts []struct {
			ID   int64
			Name string
		}
	}
	if err := t.call(ctx, "GET", "/api/v3/repos/"+demoRepository+"/actions/artifacts?name=api", nil, &list); err != nil {
		return nil, err
	}
	if len(list.Artifacts) == 0 {
		return nil, errors.New("CI has left no artifact of the back end")
	}
	res, err := t.ask(ctx, "GET", fmt.Sprintf("/api/v3/repos/%s/actions/artifacts/%d/zip", demoRepository, list.Artifacts[0].ID), nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(data), int64(len(data)))
}

// change commits a change of the back end, pushes it, and releases it with what CI has built of the rest.
func (t *tour) change(ctx context.Context, built *zip.Reader, message, from, to string) (api.ReleaseView, error) {
	var begun api.ReleaseView
	main := filepath.Join(t.repository, "backend", "app", "main.py")
	text, err := os.ReadFile(main)
	if err != nil {
		return begun, err
	}
	if err := os.WriteFile(main, []byte(strings.Replace(string(text), from, to, 1)), 0o644); err != nil {
		return begun, err
	}
	err = gitIn(ctx, t.repository, []string{"commit", "--quiet", "--all", "--message", message + " [skip ci]"}, []string{"push", "--quiet", "origin", "HEAD:main"})
	if err != nil {
		return begun, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(t.repository), "release-")
	if err != nil {
		return begun, err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, built); err != nil {
		return begun, err
	}
	if err := os.RemoveAll(filepath.Join(dir, "app")); err != nil {
		return begun, err
	}
	if err := os.CopyFS(filepath.Join(dir, "app"), os.DirFS(filepath.Join(t.repository, "backend", "app"))); err != nil {
		return begun, err
	}
	digest, err := t.handIn(ctx, dir)
	if err != nil {
		return begun, err
	}
	at, err := t.path(ctx, "/releases")
	if err != nil {
		return begun, err
	}
	ask := api.ReleaseRequest{Environment: demoEnvironment, Services: []string{"api"}, Ref: "main", Artifacts: map[string]string{"api": digest}, Reason: message}
	if err := t.call(ctx, "POST", at, ask, &begun); err != nil || begun.Gate == nil {
		return begun, err
	}
	if at, err = t.path(ctx, "/releases/%d/approve", begun.ID); err != nil {
		return begun, err
	}
	return begun, t.call(ctx, "POST", at, api.ReleaseAction{Reason: "It is a demo"}, &begun)
}

// guard makes production an environment that the demo's administrator has to approve.
func guard(ctx context.Context, told ready) error {
	server := serverFlags{url: told.URL, token: told.Token}
	var me struct{ ID int64 }
	if err := server.call(ctx, "GET", "/api/v3/user", nil, &me); err != nil {
		return err
	}
	rules := map[string]any{"reviewers": []any{map[string]any{"type": "User", "id": me.ID}}}
	return server.call(ctx, "PUT", "/api/v3/repos/"+demoRepository+"/environments/"+demoEnvironment, rules, nil)
}
