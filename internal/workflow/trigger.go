package workflow

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// Event is what happened, as triggers look at it.
type Event struct {
	Name   string // push, pull_request, ...
	Action string // the activity type: opened, completed, ...; of repository_dispatch the event type
	Ref    string // in full: refs/heads/main, refs/tags/v1
	// BaseRef and HeadRef are the branches of a pull request, without refs/heads/.
	BaseRef, HeadRef string
	Branch           string   // of workflow_run: the branch of the run that ended
	Workflow         string   // of workflow_run: the name of that workflow
	Paths            []string // changed files, relative to the repository
	PathsKnown       bool     // whether Paths are all there are; if not, path filters let the event pass
	Payload          expr.Value
	Schedule         string // of schedule: the cron line that fired; empty for any
	CommitMessage    string
}

// maxPaths is how many changed files path filters look at; an event with more passes them.
const maxPaths = 300

// defaultTypes are the activity types of events that do not run for all of theirs.
var defaultTypes = map[string][]string{
	"pull_request":        {"opened", "synchronize", "reopened"},
	"pull_request_target": {"opened", "synchronize", "reopened"},
}

// Matches reports whether an event starts the workflow, and if not, why.
func (w *Workflow) Matches(ev Event) (ok bool, reason string) {
	t := w.On.Find(ev.Name)
	if t == nil {
		return false, fmt.Sprintf("it does not run on '%s'", ev.Name)
	}
	for _, check := range []func(*Trigger, Event) string{checkSkip, checkTypes, checkRefs, checkPaths, checkSource} {
		if reason := check(t, ev); reason != "" {
			return false, reason
		}
	}
	return true, ""
}

func checkSkip(_ *Trigger, ev Event) string {
	if (ev.Name == "push" || ev.Name == "pull_request") && ShouldSkip(ev.CommitMessage) {
		return "the commit message asks to skip it"
	}
	return ""
}

func checkTypes(t *Trigger, ev Event) string {
	types := t.Types
	if len(types) == 0 {
		types = defaultTypes[ev.Name]
	}
	if len(types) == 0 || ev.Action == "" || slices.Contains(types, ev.Action) {
		return ""
	}
	return fmt.Sprintf("type '%s' is not one of %s", ev.Action, strings.Join(types, ", "))
}

// checkRefs applies the filters on branches and tags.
func checkRefs(t *Trigger, ev Event) string {
	switch ev.Name {
	case "push":
		return checkPushRef(t, ev.Ref)
	case "pull_request", "pull_request_target", "merge_group":
		return checkNames("base branch", strings.TrimPrefix(ev.BaseRef, "refs/heads/"), t.Branches, t.BranchesIgnore)
	case "workflow_run":
		return checkNames("branch", strings.TrimPrefix(ev.Branch, "refs/heads/"), t.Branches, t.BranchesIgnore)
	}
	return ""
}

// checkPushRef holds that a trigger with filters on tags alone does not run for branches, and the reverse.
func checkPushRef(t *Trigger, ref string) string {
	onBranches := len(t.Branches)+len(t.BranchesIgnore) > 0
	onTags := len(t.Tags)+len(t.TagsIgnore) > 0
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		if onBranches && !onTags {
			return fmt.Sprintf("'%s' is a tag and it runs on branches only", tag)
		}
		return checkNames("tag", tag, t.Tags, t.TagsIgnore)
	}
	branch := strings.TrimPrefix(ref, "refs/heads/")
	if onTags && !onBranches {
		return fmt.Sprintf("'%s' is a branch and it runs on tags only", branch)
	}
	return checkNames("branch", branch, t.Branches, t.BranchesIgnore)
}

// checkNames applies a filter and its opposite to one name.
func checkNames(what, name string, only, ignore []string) string {
	if len(only) > 0 && !MatchPatterns(only, name) {
		return fmt.Sprintf("%s '%s' does not match %s", what, name, strings.Join(only, ", "))
	}
	if len(ignore) > 0 && MatchPatterns(ignore, name) {
		return fmt.Sprintf("%s '%s' is ignored by %s", what, name, strings.Join(ignore, ", "))
	}
	return ""
}

// checkPaths applies the filters on changed files. Pushes of tags pass.
func checkPaths(t *Trigger, ev Event) string {
	if !ev.PathsKnown || len(ev.Paths) > maxPaths || strings.HasPrefix(ev.Ref, "refs/tags/") {
		return ""
	}
	if len(t.Paths) > 0 && !slices.ContainsFunc(ev.Paths, compileFilter(t.Paths).selects) {
		return "no changed file matches " + strings.Join(t.Paths, ", ")
	}
	ignored := compileFilter(t.PathsIgnore)
	if len(ignored) > 0 && len(ev.Paths) > 0 && !slices.ContainsFunc(ev.Paths, func(p string) bool { return !ignored.selects(p) }) {
		return "all changed files are ignored by " + strings.Join(t.PathsIgnore, ", ")
	}
	return ""
}

// checkSource applies what single events have besides.
func checkSource(t *Trigger, ev Event) string {
	switch ev.Name {
	case "workflow_run":
		if len(t.Workflows) > 0 && !MatchPatterns(t.Workflows, ev.Workflow) {
			return fmt.Sprintf("workflow '%s' is not one of %s", ev.Workflow, strings.Join(t.Workflows, ", "))
		}
	case "schedule":
		if ev.Schedule != "" && !slices.ContainsFunc(t.Schedules, func(s Schedule) bool { return s.Cron == ev.Schedule }) {
			return fmt.Sprintf("it has no schedule '%s'", ev.Schedule)
		}
	case "image_version":
		image := ev.Payload.Property("image_version")
		if reason := checkNames("image", image.Property("name").Text(), t.Names, nil); reason != "" {
			return reason
		}
		return checkNames("version", image.Property("version").Text(), t.Versions, nil)
	}
	return ""
}
