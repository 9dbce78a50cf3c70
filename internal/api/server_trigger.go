package api

import (
	"cmp"
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
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// kindPush marks pushes whose runs have begun: a push may be told of twice.
const kindPush = "push"

// pushed begins the runs that a push leads to. What it gives is shown to who pushed.
func (s *Server) pushed(ctx context.Context, p forge.Push) ([]string, error) {
	owner, name, _ := strings.Cut(p.Repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if err != nil {
		return nil, err
	}
	mark := &store.Document{Repository: repo.FullName(), Kind: kindPush, Name: fmt.Sprint(p.Number), Body: []byte("{}")}
	if _, err := s.Store.DocumentNamed(ctx, mark.Repository, kindPush, "", mark.Name); err == nil {
		return nil, nil
	}
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return nil, err
	}
	var notes []string
	refs := map[string]any{}
	for _, c := range p.Changes {
		refs[c.Ref] = c.New
	}
	if err := s.audit(ctx, p.By.Login, "git.push", repo.FullName(), refs); err != nil {
		return nil, err
	}
	for _, c := range p.Changes {
		more, err := s.changed(ctx, bare, repo, p, c)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	if err := s.Store.AddDocument(ctx, mark); err != nil && !errors.Is(err, store.ErrExists) {
		return nil, err
	}
	slices.Sort(notes) // a mistake is found by each event of a push
	return slices.Compact(notes), nil
}

// changed begins the runs that one change of a ref leads to.
func (s *Server) changed(ctx context.Context, bare *forge.Bare, repo store.Repository, p forge.Push, c forge.Change) ([]string, error) {
	if target, ok := c.For(); ok {
		return s.pushedFor(ctx, bare, repo, p, target, c)
	}
	scene := s.scene(repo, p.By)
	ev, err := bare.PushEvent(ctx, scene, c)
	if err != nil {
		return nil, err
	}
	notes, err := s.trigger(ctx, bare, repo, ev)
	if err != nil {
		return nil, err
	}
	if c.Created() || c.Deleted() {
		ev, err := bare.RefEvent(ctx, scene, c)
		if err != nil {
			return nil, err
		}
		more, err := s.trigger(ctx, bare, repo, ev)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	branch, ok := strings.CutPrefix(c.Ref, "refs/heads/")
	if ok && branch == repo.DefaultBranch {
		more, err := s.setSchedules(ctx, bare, repo, c.New)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	if !ok || c.Deleted() {
		return notes, nil
	}
	released, err := s.deployBranch(ctx, bare, repo, asker{login: p.By.Login}, branch, c.New)
	if err != nil {
		return nil, err
	}
	notes = append(notes, released...)
	more, err := s.synchronize(ctx, bare, repo, p, branch, c)
	return append(notes, more...), err
}

// synchronize brings the open pull requests of a branch up to date.
func (s *Server) synchronize(ctx context.Context, bare *forge.Bare, repo store.Repository, p forge.Push, branch string, c forge.Change) ([]string, error) {
	r, err := s.restRepository(repo)
	if err != nil {
		return nil, err
	}
	open, err := s.rest.OpenPulls(ctx, r)
	if err != nil {
		return nil, err
	}
	var notes []string
	for _, pull := range open {
		if pull.HeadRef != branch && pull.BaseRef != branch {
			continue
		}
		head := pull.HeadSHA
		if pull.HeadRef == branch {
			head = c.New
		}
		if pull.BaseRef == branch {
			merged, err := s.merged(ctx, bare, p, pull, c)
			if err != nil {
				return nil, err
			}
			if merged {
				if pull, err = s.rest.SetMerged(ctx, r, pull.Number, c.New, p.By.Login); err != nil {
					return nil, err
				}
				more, err := s.pullEvent(ctx, bare, repo, p.By, "closed", pull, nil)
				if err != nil {
					return nil, err
				}
				notes = append(notes, more...)
				continue
			}
		}
		if pull, err = s.setPull(ctx, bare, r, pull.Number, pull.BaseRef, head); err != nil {
			return nil, err
		}
		if pull.HeadRef != branch {
			continue
		}
		extra := map[string]any{"before": c.Old, "after": c.New}
		more, err := s.pullEvent(ctx, bare, repo, p.By, "synchronize", pull, extra)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	return notes, nil
}

// merged says whether a push brought a pull request's commits into its base: as its merge, or with whatever else.
func (s *Server) merged(ctx context.Context, bare *forge.Bare, p forge.Push, pull rest.Pull, c forge.Change) (bool, error) {
	if p.Pull == pull.Number {
		return true, nil
	}
	return bare.Contains(ctx, c.New, pull.HeadSHA)
}

func (s *Server) setPull(ctx context.Context, bare *forge.Bare, r *rest.Repository, number int64, base, head string) (rest.Pull, error) {
	state, err := bare.SetPull(ctx, number, base, head)
	if err != nil {
		return rest.Pull{}, err
	}
	return s.rest.SetPullCommits(ctx, r, number, state.Head, state.Base, state.Merge)
}

// pullEvent begins the runs of an event of a pull request.
func (s *Server) pullEvent(ctx context.Context, bare *forge.Bare, repo store.Repository, by forge.Account, action string, p rest.Pull, extra map[string]any) ([]string, error) {
	var labels []forge.Label
	for _, name := range p.Labels {
		labels = append(labels, forge.Label{Name: name, Color: "ededed"})
	}
	pull := forge.Pull{
		ID: p.ID, Number: p.Number, Title: p.Title, Body: p.Body, Closed: p.Closed, Draft: p.Draft, Merged: p.Merged, User: forge.Account{Login: p.User}, Labels: labels,
		Head: forge.PullEnd{Branch: p.HeadRef, SHA: p.HeadSHA, Owner: repo.Owner}, Base: forge.PullEnd{Branch: p.BaseRef, SHA: p.BaseSHA, Owner: repo.Owner},
		MergeCommit: p.MergeCommit, Created: p.Created, Updated: p.Updated,
	}
	var notes []string
	for _, event := range []string{"pull_request", "pull_request_target"} {
		ev, err := bare.PullEvent(ctx, s.scene(repo, by), event, action, pull, extra)
		if err != nil {
			return nil, err
		}
		more, err := s.trigger(ctx, bare, repo, ev)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
	}
	return notes, nil
}

func (s *Server) scene(repo store.Repository, by forge.Account) forge.Scene {
	return forge.Scene{ServerURL: s.URL, Sender: by, Repository: forge.Repository{
		ID: repo.ID, Name: repo.FullName(), Owner: forge.Account{Login: repo.Owner}, DefaultBranch: repo.DefaultBranch, Public: !repo.Private, Archived: repo.Archived,
	}}
}

// happened begins the runs of what was done by the API.
func (s *Server) happened(ctx context.Context, by *rest.Caller, r *rest.Repository, h rest.Happening) error {
	repo, err := s.Store.Repository(ctx, r.ID)
	if err != nil {
		return err
	}
	bare, err := s.hosted.Open(r.Name)
	if err != nil {
		return err
	}
	if h.Event != "pull_request" {
		return s.happenedElse(ctx, by, repo, bare, h)
	}
	pull, err := s.rest.Pull(ctx, r, h.Number)
	if err != nil {
		return err
	}
	if !pull.Closed {
		if pull, err = s.setPull(ctx, bare, r, h.Number, pull.BaseRef, pull.HeadSHA); err != nil {
			return err
		}
	}
	_, err = s.pullEvent(ctx, bare, repo, forge.Account{Login: by.Login}, h.Action, pull, h.Payload)
	return err
}

// happenedElse begins the runs of what was done to anything but a pull request.
func (s *Server) happenedElse(ctx context.Context, by *rest.Caller, repo store.Repository, bare *forge.Bare, h rest.Happening) error {
	text, err := json.Marshal(h.Payload)
	if err != nil {
		return err
	}
	payload := map[string]any{}
	if err := json.Unmarshal(text, &payload); err != nil {
		return err
	}
	payload["action"] = h.Action
	if sha, err := bare.Resolve(ctx, "refs/heads/"+repo.DefaultBranch); err != nil || sha == "" {
		return err // nothing was pushed yet
	}
	if h.Event == "deployment" {
		if err := s.deployedBy(ctx, repo, asker{login: by.Login}, payload); err != nil {
			return err
		}
	}
	ev, err := bare.Event(ctx, s.scene(repo, forge.Account{Login: by.Login}), h.Event, payload)
	if err != nil {
		return err
	}
	if h.Event == "repository_dispatch" { // a job's token may do this, as on GitHub
		_, err = s.begin(ctx, bare, repo, ev)
	} else {
		_, err = s.trigger(ctx, bare, repo, ev)
	}
	return err
}

// merge merges a pull request. That it is merged is found when the push is told.
func (s *Server) merge(ctx context.Context, bare *forge.Bare, by *rest.Caller, m rest.Merge) (string, error) {
	sha, err := bare.Merge(ctx, forge.Merge{
		Number: m.Number, Method: forge.MergeMethod(m.Method), Base: m.Base, Head: m.Head, HeadLabel: m.HeadLabel, Title: m.Title, CommitTitle: m.CommitTitle,
		CommitText: m.CommitMessage, By: forge.Account{Login: by.Login}, At: time.Now().UTC(),
	})
	if errors.Is(err, forge.ErrNotMergeable) || errors.Is(err, forge.ErrNothing) || errors.Is(err, forge.ErrMoved) {
		err = fmt.Errorf("%w: %w", rest.ErrNotMergeable, err)
	}
	return sha, err
}

// trigger begins a run of each workflow that an event starts. Mistakes in a workflow file keep that file from running and
// are told; they are no error.
//
// What a job's token does starts nothing, as on GitHub, or one push could go on for ever.
func (s *Server) trigger(ctx context.Context, bare *forge.Bare, repo store.Repository, ev *forge.Event) (notes []string, err error) {
	if ev.SHA == "" || ev.GitHub.Property("actor").Text() == botLogin {
		return nil, nil
	}
	return s.begin(ctx, bare, repo, ev)
}

// begin is trigger, whoever is the actor.
func (s *Server) begin(ctx context.Context, bare *forge.Bare, repo store.Repository, ev *forge.Event) (notes []string, err error) {
	tree, err := bare.Tree(ctx, ev.SHA)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	files, err := tree.Workflows()
	if err != nil {
		return nil, err
	}
	start, err := s.start(ctx, repo, tree, ev)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		note, err := s.triggerOne(ctx, repo, start, f)
		if err != nil {
			return nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
	}
	return notes, nil
}

// start is what runs of an event begin with.
func (s *Server) start(ctx context.Context, repo store.Repository, tree *forge.Tree, ev *forge.Event) (*engine.Start, error) {
	vars := map[string]string{}
	for _, scope := range []store.Scope{{Owner: repo.Owner}, {Repository: repo.ID}} {
		all, err := s.Store.Variables(ctx, scope)
		if err != nil {
			return nil, err
		}
		for _, v := range all {
			if v.Shows(repo.ID, repo.Private) {
				vars[v.Name] = v.Value
			}
		}
	}
	r, err := s.restRepository(repo)
	if err != nil {
		return nil, err
	}
	environments, err := s.rest.Environments(ctx, r)
	if err != nil {
		return nil, err
	}
	return &engine.Start{
		Event: ev, Repository: repo.FullName(), Ref: ev.GitHub.Property("ref").Text(), SHA: ev.SHA, Read: readAt(tree), Actions: s.Actions, Vars: expr.FromStrings(vars), Environments: environments,
	}, nil
}

// triggerOne begins a run of one workflow if the event starts it, and says so. A push of a file that can not run begins one that
// has failed and says why, as on GitHub.
func (s *Server) triggerOne(ctx context.Context, repo store.Repository, start *engine.Start, f forge.File) (note string, err error) {
	parsed, err := engine.ParseWorkflows([]forge.File{f})
	if mistakes := workflow.Errors(nil); errors.As(err, &mistakes) {
		if start.Event.Match.Name != "push" {
			return "", nil // which events it is for can not be known
		}
		return s.beginFaulty(ctx, repo, start, f.Path, mistakes)
	}
	if err != nil {
		return "", err
	}
	w := parsed[0]
	name := cmp.Or(w.Name, w.Path)
	known, err := s.Store.PutWorkflow(ctx, repo.ID, w.Path, name, time.Now().UTC())
	if err != nil {
		return "", err
	}
	if ok, _ := w.Matches(start.Event.Match); !ok || known.State != "active" {
		return "", nil
	}
	plan, err := start.Plan(ctx, w)
	if err != nil {
		return s.beginFaulty(ctx, repo, start, w.Path, err)
	}
	id, err := s.Engine.Trigger(ctx, plan)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s/%s/actions/runs/%d", name, s.URL, repo.FullName(), id), nil
}

// beginFaulty begins the run that tells what is wrong with a workflow file.
func (s *Server) beginFaulty(ctx context.Context, repo store.Repository, start *engine.Start, path string, mistakes error) (note string, err error) {
	known, err := s.Store.PutWorkflow(ctx, repo.ID, path, path, time.Now().UTC())
	if err != nil || known.State != "active" {
		return "", err
	}
	id, err := s.Engine.Trigger(ctx, start.FaultyPlan(path, mistakes))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v\n%s: %s/%s/actions/runs/%d", mistakes, path, s.URL, repo.FullName(), id), nil
}

// dispatch begins a run of a workflow by workflow_dispatch.
func (s *Server) dispatch(ctx context.Context, by *rest.Caller, r *rest.Repository, path, ref string, inputs map[string]string) (ci.RunID, error) {
	repo, err := s.Store.Repository(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	bare, err := s.hosted.Open(r.Name)
	if err != nil {
		return 0, err
	}
	ev, err := bare.Event(ctx, s.scene(repo, forge.Account{Login: by.Login}), "workflow_dispatch", map[string]any{"ref": ref, "workflow": path, "inputs": nil})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", rest.ErrDispatch, err)
	}
	tree, err := bare.Tree(ctx, ev.SHA)
	if err != nil {
		return 0, err
	}
	defer tree.Close()
	f, err := tree.Read(path)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", rest.ErrDispatch, err)
	}
	parsed, err := engine.ParseWorkflows([]forge.File{f})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", rest.ErrDispatch, err)
	}
	if parsed[0].On.Find("workflow_dispatch") == nil {
		return 0, fmt.Errorf("%w: Workflow does not have 'workflow_dispatch' trigger", rest.ErrDispatch)
	}
	start, err := s.start(ctx, repo, tree, ev)
	if err != nil {
		return 0, err
	}
	start.Inputs = inputs
	plan, err := start.Plan(ctx, parsed[0])
	if err != nil {
		return 0, fmt.Errorf("%w: %w", rest.ErrDispatch, err)
	}
	return s.Engine.Trigger(ctx, plan)
}
