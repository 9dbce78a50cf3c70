package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const (
	// The follower's place among the records is a document of no repository.
	kindCursor = "cursor"
	serverDocs = ".server"
	// placeEvery is how many records may be read again after a crash. What they led to is done once all the same.
	placeEvery = 100
	// maxChain is how many runs may start one another by workflow_run, as on GitHub.
	maxChain = 3
	// followPause is how long the follower waits before it tries again what failed.
	followPause = 5 * time.Second
)

// Work does what follows from what happened, until ctx ends: runs that other runs start, deployments of jobs, time tables.
// It includes the work of the engine.
func (s *Server) Work(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Engine.Work(ctx)
	}()
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		s.feed(ctx)
	}()
	clock := make(chan struct{})
	go func() {
		defer close(clock)
		s.keepTime(ctx)
	}()
	released := make(chan struct{})
	go func() {
		defer close(released)
		for ctx.Err() == nil {
			if err := s.followReleases(ctx); err != nil && ctx.Err() == nil {
				s.Log.Error("what follows from a release could not be done, it is tried again", "error", err)
			}
			wait(ctx, followPause)
		}
	}()
	sealed := make(chan struct{})
	go func() {
		defer close(sealed)
		s.reseal(ctx)
	}()
	for ctx.Err() == nil {
		if err := s.derive(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("what follows from a run could not be done, it is tried again", "error", err)
		}
		wait(ctx, followPause)
	}
	<-done
	<-clock
	<-fed
	<-released
	<-sealed
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// derive reads the records of all runs from where it was. It ends with ctx, with an error, or where another server has gone
// ahead of this one.
func (s *Server) derive(ctx context.Context) error {
	cursor, err := s.cursor(ctx, "runs", s.Store.LastRecord)
	if err != nil {
		return err
	}
	var at int64
	if err := json.Unmarshal(cursor.Body, &at); err != nil {
		return fmt.Errorf("read the follower's place: %w", err)
	}
	stored := at
	for rec, err := range s.Engine.Tail(ctx, at) {
		if err != nil {
			return err
		}
		acted, err := s.consequences(ctx, rec)
		if errors.Is(err, store.ErrConflict) {
			return nil // another server does the same
		}
		if err != nil {
			return fmt.Errorf("record %d of run %d: %w", rec.Seq, rec.Run, err)
		}
		if !acted && rec.Seq < stored+placeEvery {
			continue
		}
		cursor.Body = fmt.Append(nil, rec.Seq)
		if err := s.Store.SaveDocument(ctx, cursor); errors.Is(err, store.ErrConflict) {
			return nil // another server is further
		} else if err != nil {
			return err
		}
		stored = rec.Seq
	}
	return nil
}

// cursor is the place of the follower of something; on a new server it is the last record.
func (s *Server) cursor(ctx context.Context, name string, lastRecord func(context.Context) (int64, error)) (*store.Document, error) {
	d, err := s.Store.DocumentNamed(ctx, serverDocs, kindCursor, "", name)
	if !errors.Is(err, store.ErrNotFound) {
		return d, err
	}
	last, err := lastRecord(ctx)
	if err != nil {
		return nil, err
	}
	d = &store.Document{Repository: serverDocs, Kind: kindCursor, Name: name, Body: fmt.Append(nil, last)}
	return d, s.Store.AddDocument(ctx, d)
}

// runActions are the actions of workflow_run.
var runActions = map[ci.EventType]string{ci.EventRunCreated: "requested", ci.EventRunRerun: "requested", ci.EventRunCompleted: "completed"}

// consequences does what follows from a record, and says whether there was something to do.
func (s *Server) consequences(ctx context.Context, rec store.Record) (acted bool, err error) {
	e := rec.Event
	action := runActions[e.Type]
	if e.Type == ci.EventRunStatus && e.Status == ci.InProgress {
		action = "in_progress"
	}
	state := deploymentState(e)
	if action == "" && state == "" {
		return false, nil
	}
	if state != "" {
		if deploys, err := s.deploys(ctx, rec.Run); err != nil || !deploys {
			return false, err
		}
	}
	run, err := s.Engine.Run(ctx, rec.Run)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	owner, name, _ := strings.Cut(run.Plan.Repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if state != "" {
		return s.deployed(ctx, repo, run, e, state)
	}
	if e.Type == ci.EventRunCompleted && s.Traces != nil {
		numbers, err := s.numbers(ctx, run)
		if err != nil {
			return false, err
		}
		s.Traces.run(s.URL, run, numbers)
	}
	if e.Type == ci.EventRunCompleted && e.Conclusion == ci.Success && run.Plan.Event == "push" {
		if err := s.deployAfter(ctx, repo, run); err != nil {
			return false, err
		}
	}
	return s.chain(ctx, repo, run, action)
}

// deployAfter releases what a push has brought to a branch, if its last run has succeeded now.
func (s *Server) deployAfter(ctx context.Context, repo store.Repository, run *ci.Run) error {
	github := run.Plan.GitHub
	branch, ok := strings.CutPrefix(github.Property("ref").Text(), "refs/heads/")
	if !ok {
		return nil
	}
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return err
	}
	_, err = s.deployBranch(ctx, bare, repo, asker{login: github.Property("actor").Text(), run: int64(run.ID)}, branch, github.Property("sha").Text())
	return err
}

// maxDeploys bounds what is remembered of runs.
const maxDeploys = 10_000

// deploys says whether a run may have jobs with an environment. Most have none, and are not loaded for each of their jobs.
func (s *Server) deploys(ctx context.Context, id ci.RunID) (bool, error) {
	s.mu.Lock()
	known, ok := s.deploying[id]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	run, err := s.Engine.Run(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	known = slices.ContainsFunc(run.Plan.Files, func(f ci.File) bool { return strings.Contains(f.Text, "environment") })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.deploying) >= maxDeploys {
		clear(s.deploying)
	}
	s.deploying[id] = known
	return known, nil
}

// deploymentState is the state of a deployment that an event of a job brings, if it has one.
func deploymentState(e ci.Event) string {
	switch e.Type {
	case ci.EventJobMoved:
		if e.Status == ci.Waiting {
			return "waiting"
		}
	case ci.EventJobStarted:
		return "in_progress"
	case ci.EventJobCompleted:
		switch e.Conclusion {
		case ci.Success:
			return "success"
		case ci.Cancelled:
			return "error"
		case ci.Failure:
			return "failure"
		}
	}
	return ""
}

// deployed keeps what a job does to its environment.
func (s *Server) deployed(ctx context.Context, repo store.Repository, run *ci.Run, e ci.Event, state string) (bool, error) {
	j := run.Job(e.Job)
	if j == nil || j.Environment == "" || j.Call {
		return false, nil
	}
	if err := s.makeEnvironment(ctx, repo, j.Environment, e.At); err != nil {
		return false, err
	}
	r, err := s.restRepository(repo)
	if err != nil {
		return false, err
	}
	github := run.Plan.GitHub
	return true, s.rest.Deployed(ctx, r, rest.Deployment{
		Key: deploymentKey(run, j), Environment: j.Environment, Ref: github.Property("ref_name").Text(), SHA: github.Property("sha").Text(),
		State: state, URL: e.EnvironmentURL, Log: fmt.Sprintf("%s/actions/runs/%d", r.Web, run.ID), Creator: github.Property("actor").Text(), At: e.At,
	})
}

// makeEnvironment makes an environment that is not there yet: as on GitHub, whoever deploys to one makes it.
func (s *Server) makeEnvironment(ctx context.Context, repo store.Repository, name string, at time.Time) error {
	_, err := s.Store.Environment(ctx, repo.ID, name)
	if errors.Is(err, store.ErrNotFound) {
		_, _, err = s.Store.EditEnvironment(ctx, repo.ID, name, at, func(*store.Environment) error { return nil })
	}
	return err
}

// deploymentKey is the key of a job's deployment.
func deploymentKey(run *ci.Run, j *ci.Job) string {
	return fmt.Sprintf("run %d/%d %s", run.ID, j.Attempt, j.ID)
}

// chain begins the runs that a run starts by workflow_run.
func (s *Server) chain(ctx context.Context, repo store.Repository, run *ci.Run, action string) (bool, error) {
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return false, err
	}
	listens, err := s.listens(ctx, bare, repo, "workflow_run")
	if err != nil || !listens {
		return false, err
	}
	if n, err := s.chained(ctx, run); err != nil || n >= maxChain {
		return false, err
	}
	mark := &store.Document{Repository: repo.FullName(), Kind: "workflow_run", Name: fmt.Sprintf("%d/%d/%s", run.ID, run.Attempt, action), Body: []byte("{}")}
	if err := s.Store.AddDocument(ctx, mark); errors.Is(err, store.ErrExists) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	r, err := s.restRepository(repo)
	if err != nil {
		return false, err
	}
	payload, err := s.rest.RunPayload(ctx, s.URL, r, run)
	if err != nil {
		return false, err
	}
	payload["action"] = action
	by := forge.Account{Login: run.Plan.GitHub.Property("actor").Text()}
	ev, err := bare.Event(ctx, s.scene(repo, by), "workflow_run", payload)
	if err != nil {
		return false, err
	}
	_, err = s.begin(ctx, bare, repo, ev)
	return true, err
}

// chained is how many runs have started one another by workflow_run up to this one.
func (s *Server) chained(ctx context.Context, run *ci.Run) (n int, err error) {
	for ; run.Plan.Event == "workflow_run" && n < maxChain; n++ {
		before := run.Plan.GitHub.Property("event").Property("workflow_run").Property("id").Number()
		if run, err = s.Engine.Run(ctx, ci.RunID(before)); err != nil {
			return n, err
		}
	}
	return n, nil
}

// listens says whether the default branch has a workflow for an event.
func (s *Server) listens(ctx context.Context, bare *forge.Bare, repo store.Repository, event string) (bool, error) {
	sha, err := bare.Resolve(ctx, "refs/heads/"+repo.DefaultBranch)
	if err != nil || sha == "" {
		return false, err
	}
	s.mu.Lock()
	known, ok := s.heard[repo.ID]
	s.mu.Unlock()
	if !ok || known.sha != sha {
		known = listening{sha: sha, events: map[string]bool{}}
		all, err := s.workflows(ctx, bare, sha)
		if err != nil {
			return false, err
		}
		for _, w := range all {
			for _, t := range w.On {
				known.events[t.Event] = true
			}
		}
		s.mu.Lock()
		s.heard[repo.ID] = known
		s.mu.Unlock()
	}
	return known.events[event], nil
}

// listening is the events that the workflows of a commit are for.
type listening struct {
	sha    string
	events map[string]bool
}

// workflows parses the workflows of a commit; those with mistakes are left out.
func (s *Server) workflows(ctx context.Context, bare *forge.Bare, sha string) ([]*workflow.Workflow, error) {
	tree, err := bare.Tree(ctx, sha)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	files, err := tree.Workflows()
	if err != nil {
		return nil, err
	}
	parsed, err := engine.ParseWorkflows(files)
	var mistakes workflow.Errors
	if errors.As(err, &mistakes) {
		err = nil
	}
	return parsed, err
}
