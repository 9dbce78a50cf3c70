package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// savedState is what a step found when it began: with the disk, all that is needed to begin it again. No secret is in
// it: their values stand as references.
type savedState struct {
	Env   map[string]string `json:"env,omitempty"` // beyond the workflow's own: what steps have set
	Path  []string          `json:"path,omitempty"`
	Steps expr.Value        `json:"steps"` // the steps context
	steps []expr.Pair       // the same before secrets are hidden
	Posts []savedPost       `json:"posts,omitempty"`
	// Services are the disks of service containers, by ID: layers upon their images.
	Services map[string]layer.ID `json:"services,omitempty"`
	// Order of the main steps: how many were done.
	Done int `json:"done"`
}

// savedPost is a post step that is still to run.
type savedPost struct {
	Index int               `json:"index"` // of the step in the job or the composite action
	State map[string]string `json:"state,omitempty"`
	Steps expr.Value        `json:"steps,omitzero"` // of a composite action
	Posts []savedPost       `json:"posts,omitempty"`
}

// secretMark encloses the name of a secret where its value stood.
const secretMark = "\x00secret:"

// snapshot freezes the disk as it is before a step; empty where that can not be.
func (e *execution) snapshot(ctx context.Context) string {
	l, ok := e.sb.(sandbox.Layered)
	if !ok || e.x.State == nil || len(e.unwaited()) > 0 {
		return ""
	}
	id, err := l.Snapshot(ctx)
	if err != nil {
		if !errors.Is(err, sandbox.ErrBusy) {
			e.log.line("##[debug]no snapshot: %s", err)
		}
		return ""
	}
	return string(id)
}

// StateKey is the key under which the state before a step is kept: what Resume.State names.
func StateKey(run ci.RunID, attempt int, job ci.JobID, number int) string {
	return fmt.Sprintf("runs/%d/state/%d/%x/%d.json", run, attempt, string(job), number)
}

// found is what a step that begins finds. Env, Path and steps hold secrets yet: most steps succeed, and nothing is kept.
func (e *execution) found() *savedState {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &savedState{Env: maps.Clone(e.env), Path: slices.Clone(e.path), Done: e.mainsDone, steps: slices.Clone(e.root.steps)}
	for _, p := range e.posts {
		s.Posts = append(s.Posts, e.hidePost(e.def.Steps, p.def, e.root))
	}
	return s
}

// saveState keeps what a step that failed had found.
func (e *execution) saveState(number int, s *savedState) {
	s.Env, s.Steps = e.hideAll(s.Env), e.hideSteps(s.steps)
	for i, p := range s.Path {
		s.Path[i] = e.hide(p)
	}
	e.writeState(number, s)
	if len(e.beside) > 0 {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.failed == nil {
			e.failed = map[int]*savedState{}
		}
		e.failed[number] = s
	}
}

func (e *execution) writeState(number int, s *savedState) {
	data, err := json.Marshal(s)
	if err == nil {
		keep := slices.Collect(maps.Values(s.Services))
		err = e.x.State.SaveState(e.ctx, StateKey(e.t.Run, e.t.Attempt, e.t.Job, number), data, keep...)
	}
	if err != nil {
		e.log.line("##[debug]state not kept: %s", err)
	}
}

// hidePost is what is kept of a post step. The caller holds mu.
func (e *execution) hidePost(among []*workflow.Step, def *workflow.Step, in *scope) savedPost {
	u := in.uses[def]
	kept := savedPost{Index: slices.Index(among, def), State: e.hideAll(u.state)}
	if u.saved != nil {
		kept.Steps, kept.Posts = u.saved.Steps, u.saved.Posts
	}
	if u.inner != nil {
		kept.Steps = e.hideSteps(u.inner.steps)
		for _, d := range u.inner.posts {
			kept.Posts = append(kept.Posts, e.hidePost(u.inner.action.manifest.Runs.Steps, d, u.inner))
		}
	}
	return kept
}

func (e *execution) hideSteps(steps []expr.Pair) expr.Value {
	pairs := make([]expr.Pair, len(steps))
	for i, p := range steps {
		pairs[i] = expr.Pair{Key: p.Key, Value: e.hideValue(p.Value)}
	}
	return expr.Object(pairs...)
}

// revealInner puts back what was kept of a composite action whose post step is to run. The caller holds mu.
func (e *execution) revealInner(s *scope, kept *savedPost) {
	s.steps = slices.Clone(e.revealValue(kept.Steps).Pairs())
	for _, p := range kept.Posts {
		if steps := s.action.manifest.Runs.Steps; p.Index >= 0 && p.Index < len(steps) {
			s.uses[steps[p.Index]] = &use{state: e.revealAll(p.State), posted: true, saved: &p}
			s.posts = append(s.posts, steps[p.Index])
		}
	}
}

// hide puts a reference where a secret stands.
func (e *execution) hide(text string) string {
	for name, value := range e.t.Secrets {
		if value != "" && strings.Contains(text, value) {
			text = strings.ReplaceAll(text, value, secretMark+name+"\x00")
		}
	}
	return e.mask.text(text) // what a mask covers and no secret is: it can not be had again
}

func (e *execution) hideAll(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = e.hide(v)
	}
	return out
}

// hideValue hides in the strings of an entry of the steps context.
func (e *execution) hideValue(v expr.Value) expr.Value {
	switch v.Kind() {
	case expr.KindString:
		return expr.String(e.hide(v.Text()))
	case expr.KindObject:
		var pairs []expr.Pair
		for _, p := range v.Pairs() {
			pairs = append(pairs, expr.Pair{Key: p.Key, Value: e.hideValue(p.Value)})
		}
		return expr.Object(pairs...)
	}
	return v
}

// reveal puts the secrets back.
func (e *execution) reveal(text string) string {
	if !strings.Contains(text, secretMark) {
		return text
	}
	for name, value := range e.t.Secrets {
		text = strings.ReplaceAll(text, secretMark+name+"\x00", value)
	}
	return text
}

func (e *execution) revealAll(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = e.reveal(v)
	}
	return out
}

func (e *execution) revealValue(v expr.Value) expr.Value {
	switch v.Kind() {
	case expr.KindString:
		return expr.String(e.reveal(v.Text()))
	case expr.KindObject:
		var pairs []expr.Pair
		for _, p := range v.Pairs() {
			pairs = append(pairs, expr.Pair{Key: p.Key, Value: e.revealValue(p.Value)})
		}
		return expr.Object(pairs...)
	}
	return v
}

// restore puts a job where it was before the step it resumes at, and gives the steps that are still to run.
func (e *execution) restore(ctx context.Context, at *ci.Resume, mains []*plannedStep) ([]*plannedStep, error) {
	if e.x.State == nil {
		return nil, errors.New("nothing is kept to go on with")
	}
	data, err := e.x.State.LoadState(ctx, at.State)
	if err != nil {
		return nil, err
	}
	var s savedState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if s.Done > len(mains) {
		return nil, errors.New("the workflow has fewer steps now than were done")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.Copy(e.env, e.revealAll(s.Env))
	for _, p := range s.Path {
		e.path = append(e.path, e.reveal(p))
	}
	e.root.steps = append(e.root.steps, e.revealValue(s.Steps).Pairs()...)
	for _, p := range s.Posts {
		if p.Index >= 0 && p.Index < len(mains) {
			post := *mains[p.Index]
			*post.use = use{state: e.revealAll(p.State), posted: true, saved: &p}
			post.phase, post.cond = "post", postCondition(post.action)
			e.posts = append(e.posts, &post)
		}
	}
	// The steps that are done stand in the list as they were; "Set up job" ran anew.
	for _, old := range at.Steps {
		if old.Phase != "" {
			old.Number = len(e.steps) + 1
			old.Snapshot, old.LogStart, old.LogEnd = "", e.log.offset, e.log.offset
			e.steps = append(e.steps, old)
		}
	}
	e.mainsDone = s.Done
	return mains[s.Done:], nil
}

// ResumeAt is where a failed job goes on: at its failed step if the disk before it was kept, else nowhere.
func ResumeAt(r *ci.Run, j *ci.Job) *ci.Resume {
	if j.Conclusion != ci.Failure || j.Call {
		return nil
	}
	for i, s := range j.Steps {
		if s.Conclusion == ci.Failure && s.Snapshot != "" {
			return &ci.Resume{
				Step: s.Number, Snapshot: s.Snapshot, State: StateKey(r.ID, j.Attempt, j.ID, s.Number), Steps: slices.Clone(j.Steps[:i]), Runner: j.Runner,
			}
		}
	}
	return nil
}
