package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
)

// kindAsked marks what a release was asked for by, so that it is asked for once.
const kindAsked = "release asked"

// release plans and begins a release.
func (s *Server) release(ctx context.Context, repo store.Repository, by asker, ask ReleaseRequest) (cd.ReleaseID, error) {
	p, err := s.plan(ctx, repo, by, ask)
	if err != nil {
		return 0, err
	}
	p.plan.Deployment = by.deployment
	fronts, err := json.Marshal(p.fronts)
	if err == nil {
		err = s.undisputed(ctx, p.plan, fronts)
	}
	if err != nil {
		return 0, err
	}
	id, err := s.Releases.Begin(ctx, p.plan, fronts, p.secrets)
	if errors.Is(err, engine.ErrNoMachine) {
		return 0, notReleased("%w", err)
	}
	if err != nil {
		return 0, err
	}
	return id, s.audit(ctx, by.login, "release.begin", repo.FullName()+"/environments/"+p.plan.Environment, map[string]any{"release": id, "sha": p.plan.SHA, "reason": ask.Reason})
}

// deployedBy begins a release for a deployment that was made by GitHub's API, if penstock.yaml has its environment.
func (s *Server) deployedBy(ctx context.Context, repo store.Repository, by asker, payload map[string]any) error {
	d, _ := payload["deployment"].(map[string]any)
	id, _ := d["id"].(float64)
	environment, _ := d["environment"].(string)
	sha, _ := d["sha"].(string)
	task, _ := d["task"].(string)
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil || task != "deploy" {
		return err
	}
	c, err := configAt(ctx, bare, sha)
	if err != nil || c == nil {
		return err // it is for a workflow, or for somebody else
	}
	if _, ok := c.Environment(environment); !ok {
		return nil
	}
	by.deployment = int64(id)
	ask := ReleaseRequest{Environment: environment, Ref: sha}
	ask.Reason, _ = d["description"].(string)
	_, err = s.release(ctx, repo, by, ask)
	if errors.Is(err, errRelease) {
		return s.told(ctx, repo, rest.Deployment{ID: by.deployment, Environment: environment, State: "error", Description: clipDescription(err.Error()), Creator: by.login, At: s.now()})
	}
	return err
}

// configAt reads the penstock.yaml of a commit; nil if there is none that can be read.
func configAt(ctx context.Context, bare *forge.Bare, sha string) (*config.Config, error) {
	tree, err := bare.Tree(ctx, sha)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	c, err := readConfig(tree)
	if errors.Is(err, errRelease) {
		return nil, nil
	}
	return c, err
}

// maxDescription is how long the description of a deployment's state may be, as on GitHub.
const maxDescription = 140

func clipDescription(text string) string {
	text = strings.TrimSpace(text)
	if r := []rune(text); len(r) > maxDescription {
		text = string(r[:maxDescription-1]) + "…"
	}
	return text
}

func (s *Server) told(ctx context.Context, repo store.Repository, d rest.Deployment) error {
	r, err := s.restRepository(repo)
	if err != nil {
		return err
	}
	return s.rest.Deployed(ctx, r, d)
}

// followReleases does what follows from what happens to releases, from where it was, until ctx ends.
func (s *Server) followReleases(ctx context.Context) error {
	cursor, err := s.cursor(ctx, "releases", s.Store.LastReleaseRecord)
	if err != nil {
		return err
	}
	var at int64
	if err := json.Unmarshal(cursor.Body, &at); err != nil {
		return fmt.Errorf("read the place among the releases: %w", err)
	}
	for rec, err := range s.Releases.Tail(ctx, at) {
		if err != nil {
			return err
		}
		if rec.Event.Type != cd.EventBegan && rec.Event.Type != cd.EventMoved {
			continue
		}
		if err := s.releaseMoved(ctx, rec); err != nil {
			return fmt.Errorf("record %d of release %d: %w", rec.Seq, rec.Release, err)
		}
		cursor.Body = fmt.Append(nil, rec.Seq)
		if err := s.Store.SaveDocument(ctx, cursor); errors.Is(err, store.ErrConflict) {
			return nil // another server is further
		} else if err != nil {
			return err
		}
	}
	return nil
}

// releaseMoved keeps what a release does as a deployment of GitHub's API.
func (s *Server) releaseMoved(ctx context.Context, rec store.ReleaseRecord) error {
	r, err := s.Releases.Release(ctx, rec.Release)
	if err != nil {
		return err
	}
	owner, name, _ := strings.Cut(r.Plan.Repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	state := releaseState(rec.Event, r.Release)
	if state == "" {
		return nil
	}
	d := rest.Deployment{
		ID: r.Plan.Deployment, Key: fmt.Sprintf("release %d", r.ID), Environment: r.Plan.Environment, Ref: r.Plan.Ref, SHA: r.Plan.SHA, State: state,
		Log: s.releaseView(r).Page, Description: clipDescription(rec.Event.Text), Creator: r.Plan.By, At: rec.Event.At,
	}
	for _, service := range r.Plan.Services {
		if urls := urlsOf(s.ProxyURL, r, service.Name); len(urls) > 0 && d.URL == "" {
			d.URL = urls[0]
		}
	}
	return s.told(ctx, repo, d)
}

// releaseState is the state of a deployment that an event of a release brings, "" for none.
func releaseState(e cd.Event, r *cd.Release) string {
	if e.Type == cd.EventBegan {
		if r.Plan.Gate != nil {
			return "waiting"
		}
		return "in_progress"
	}
	switch e.Phase {
	case cd.Preparing, cd.Launching:
		return "in_progress"
	case cd.Watching, cd.Live:
		return "success"
	case cd.Reverting, cd.Failed:
		return "failure"
	case cd.Aborted:
		return "error"
	case cd.Superseded:
		return "inactive"
	}
	return ""
}

// deployBranch releases to the environments that a branch deploys to by itself, once every run of its push has succeeded.
func (s *Server) deployBranch(ctx context.Context, bare *forge.Bare, repo store.Repository, by asker, branch, sha string) (notes []string, err error) {
	c, err := configAt(ctx, bare, sha)
	if err != nil || c == nil {
		return nil, err
	}
	for i := range c.Environments {
		e := &c.Environments[i]
		if !e.Deploys(branch) {
			continue
		}
		ready, err := s.passed(ctx, repo, branch, sha)
		if err != nil {
			return notes, err
		}
		if !ready {
			return notes, nil
		}
		mark := &store.Document{Repository: repo.FullName(), Kind: kindAsked, Parent: strings.ToLower(e.Name), Name: branch + "@" + sha, Body: []byte("{}")}
		if err := s.Store.AddDocument(ctx, mark); errors.Is(err, store.ErrExists) {
			continue
		} else if err != nil {
			return notes, err
		}
		id, err := s.release(ctx, repo, by, ReleaseRequest{Environment: e.Name, Ref: branch, sha: sha})
		switch {
		case errors.Is(err, errRelease):
			notes = append(notes, err.Error())
			s.Log.Warn("a push was not released", "repository", repo.FullName(), "environment", e.Name, "error", err)
		case err != nil:
			return notes, errors.Join(err, s.Store.DeleteDocument(ctx, mark.ID))
		default:
			notes = append(notes, fmt.Sprintf("Release %d to %s: %s/%s/environments/%s", id, e.Name, s.URL, repo.FullName(), e.Name))
		}
	}
	return notes, nil
}

// passed says whether every run that a push to a branch has begun has succeeded; a push that begins none has.
func (s *Server) passed(ctx context.Context, repo store.Repository, branch, sha string) (bool, error) {
	runs, err := s.Engine.Runs(ctx, store.Filter{Repository: repo.FullName(), SHA: sha, Branch: branch, Event: "push", Limit: 100})
	if err != nil {
		return false, err
	}
	for _, r := range runs {
		if r.Conclusion != "success" {
			return false, nil
		}
	}
	return true, nil
}

// urlsOf are where a service of a release is found by who reaches the proxy at a URL.
func urlsOf(proxy string, r store.Release, service string) []string {
	var fronts []deploy.Front
	if json.Unmarshal(r.Extra, &fronts) != nil || proxy == "" {
		return []string{}
	}
	scheme, rest, _ := strings.Cut(proxy, "://")
	_, port, ported := strings.Cut(rest, ":")
	urls := []string{}
	for _, f := range fronts {
		if f.Service != service {
			continue
		}
		for _, host := range f.Hosts {
			if strings.HasPrefix(host, "*") {
				continue
			}
			if ported {
				host += ":" + port
			}
			urls = append(urls, scheme+"://"+host+f.Path)
		}
	}
	return urls
}

// proxyFor is where who makes a request reaches the proxy: a job at the address where it reaches the server.
func (s *Server) proxyFor(r *http.Request) string {
	if s.ProxyURL != "" && visitorOf(r).session != nil {
		return "http://" + r.Host
	}
	return s.ProxyURL
}

// released passes what a job asks of a host that is not the server's own on to the proxy: by the loopback of its machine it
// reaches nothing else of this host.
func (s *Server) released(own http.Handler) http.Handler {
	target, err := url.Parse(s.ProxyURL)
	if s.ProxyURL == "" || err != nil {
		return own
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
		r.Out.Host = r.In.Host
	}, FlushInterval: -1}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if net.ParseIP(host) != nil || host == "localhost" {
			own.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})
}

// now is the time as it is stored.
func (s *Server) now() time.Time { return s.Now().UTC() }
