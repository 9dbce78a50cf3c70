package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// LocalGitHub answers GitHub's REST API to the jobs of a working tree. It is read from the repository as it lies there.
// What jobs write is kept until Close, so that later reads see it, and sent nowhere: neither the repository nor GitHub
// changes.
type LocalGitHub struct {
	api     *rest.API
	repo    rest.Repository
	root    string // of the working tree
	scratch string
	blobs   blob.Store

	mu    sync.Mutex
	clone string // what is written to, once something was
}

// LocalRepository is the repository of a working tree: its directory, its name as owner/name, and the page of it.
type LocalRepository struct{ Root, Name, DefaultBranch, Web string }

// NewLocalGitHub makes one that keeps documents in st and all else in a new directory below temp.
func NewLocalGitHub(st *store.Store, r LocalRepository, temp string) (*LocalGitHub, error) {
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(temp, "github-")
	if err != nil {
		return nil, err
	}
	blobs, err := blob.OpenUnsynced(filepath.Join(scratch, "assets"))
	if err != nil {
		return nil, err
	}
	g := &LocalGitHub{root: r.Root, scratch: scratch, blobs: blobs}
	g.repo = rest.Repository{Name: r.Name, DefaultBranch: r.DefaultBranch, Private: true, Web: r.Web, AnyIssue: true, Git: g.git}
	g.api = rest.New(rest.Options{
		Store: st, Blobs: blobs, Prefix: "/api/v3", Uploads: "/api/uploads", Now: time.Now,
		Repository: func(_ context.Context, _ *rest.Caller, name string) (*rest.Repository, error) {
			if !strings.EqualFold(name, g.repo.Name) {
				return nil, rest.ErrNoRepository
			}
			return &g.repo, nil
		},
	})
	return g, nil
}

// Close removes what was written.
func (g *LocalGitHub) Close() error {
	_ = g.blobs.Close() // it goes with the rest
	return os.RemoveAll(g.scratch)
}

// git is the user's repository until something is written: then a clone of it, which shares its objects.
func (g *LocalGitHub) git(ctx context.Context, write bool) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.clone != "" {
		return g.clone, nil
	}
	if !write {
		return g.root, nil
	}
	clone := filepath.Join(g.scratch, "repository.git")
	cmd := exec.CommandContext(ctx, "git", "clone", "--quiet", "--bare", "--shared", "--no-hardlinks", "--", g.root, clone)
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(clone) // or the next try fails on it
		return "", fmt.Errorf("clone the repository to write to it: %w: %s", err, out)
	}
	g.clone = clone
	return clone, nil
}

// know makes the pull request or the issue that a job's event is about known.
func (g *LocalGitHub) know(t *ci.Task) error {
	event, err := json.Marshal(t.GitHub.Property("event"))
	if err != nil {
		return err
	}
	return g.api.Know(context.Background(), &g.repo, event)
}

// serve answers a job, or nobody.
func (g *LocalGitHub) serve(w http.ResponseWriter, r *http.Request, s *session) {
	if r.URL.Path == "/api/graphql" {
		writeJSON(w, http.StatusOK, map[string]any{"data": nil, "errors": []any{map[string]any{
			"type":    "NOT_IMPLEMENTED",
			"message": "Here is no GraphQL. With a token of GitHub's (penstock run -s GITHUB_TOKEN) jobs reach GitHub's own API.",
		}}})
		return
	}
	var by *rest.Caller
	if s != nil {
		by = &rest.Caller{Login: botLogin, Only: s.repository, Permissions: s.permissions, Told: s.told.tell, Unknown: s.told.miss}
	}
	g.api.ServeHTTP(w, r, by)
}

// botLogin is who a job's token acts for.
const botLogin = "github-actions[bot]"

// told is what a job changed by the API, in words for people.
type told struct {
	mu     sync.Mutex
	lines  []string
	more   int
	missed []string
}

// maxTold bounds the changes that are told one by one.
const maxTold = 20

func (t *told) tell(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == maxTold {
		t.more++
		return
	}
	t.lines = append(t.lines, what)
}

// miss notes a request that there is no answer to here.
func (t *told) miss(request string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.missed) < maxTold && !slices.Contains(t.missed, request) {
		t.missed = append(t.missed, request)
	}
}

// notes are for the job's summary.
func (t *told) notes() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	if len(t.lines) > 0 {
		lines := t.lines
		if t.more > 0 {
			lines = append(lines, fmt.Sprintf("and %d more", t.more))
		}
		out = append(out, "Recorded, not sent to GitHub:\n"+strings.Join(lines, "\n"))
	}
	if len(t.missed) > 0 {
		out = append(out, "Asked of GitHub's API and not answered here (penstock run -s GITHUB_TOKEN reaches the real one):\n"+strings.Join(t.missed, "\n"))
	}
	return out
}
