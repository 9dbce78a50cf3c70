// Package native holds the actions that Penstock carries in Go: checkout, setup-node, setup-python, setup-go,
// cache, upload-artifact, download-artifact, those of Docker's own that build images. They do what the originals do, with the same inputs, outputs and
// messages, on layers instead of archives and without a network where none is needed.
//
// It knows one step of one job. It never evaluates expressions nor decides whether a step runs.
package native

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Action is a native action.
type Action interface {
	// Main runs the step; an error fails it and its text is shown as the original would show it.
	Main(ctx context.Context, s *Step) error
}

// Poster is an Action with a post step. State saved by Main (Step.State) is there again.
type Poster interface {
	Post(ctx context.Context, s *Step) error
}

// PostIf is a Poster whose post step has a condition: the expression of `post-if:` in the original's action.yml,
// for instance "success()". A Poster without it runs always.
type PostIf interface {
	Poster
	PostIf() string
}

// Step is what an action sees of its job, and how it answers.
type Step struct {
	Inputs  map[string]string // by lower-case name, defaults of the action filled in
	Env     map[string]string // of the step
	GitHub  expr.Value        // github context
	Sandbox sandbox.Sandbox
	Log     io.Writer // workflow commands (::error::, ::group::) work in it
	Host    *Host

	Outputs map[string]string // what the step sets; as GITHUB_OUTPUT
	NewEnv  map[string]string // for later steps; as GITHUB_ENV
	NewPath []string          // in front of PATH, the last first; as GITHUB_PATH
	State   map[string]string // kept for Post; as GITHUB_STATE
	Summary string            // Markdown; as GITHUB_STEP_SUMMARY
	Failed  bool              // in Post: the job has failed

	JobName string    // as it is shown
	Began   time.Time // when the job did
}

// Find gives the native version of an action, nil if there is none. repository is owner/name, path the directory
// in it (empty for the root), ref any ref: the natives follow the newest version of the originals, and a commit
// or a version that is meant exactly is had with --no-native.
func Find(repository, path, ref string) Action {
	if ref == "" {
		return nil
	}
	return actions()[actionName(repository, path)]
}

func actions() map[string]Action {
	return map[string]Action{
		"actions/checkout":              checkout{},
		"actions/setup-node":            setupNode{},
		"actions/setup-python":          setupPython{},
		"actions/setup-go":              setupGo{},
		"actions/cache":                 cacheBoth{},
		"actions/cache/restore":         cacheRestore{},
		"actions/cache/save":            cacheSave{},
		"actions/upload-artifact":       uploadArtifact{},
		"actions/upload-artifact/merge": mergeArtifacts{},
		"actions/download-artifact":     downloadArtifact{},
		"codecov/codecov-action":        codecov{},
		"aquasecurity/trivy-action":     trivy{},
		"returntocorp/semgrep-action":   semgrep{},
		"semgrep/semgrep-action":        semgrep{},
		"docker/setup-buildx-action":    setupBuildx{},
		"docker/setup-qemu-action":      setupQEMU{},
		"docker/login-action":           dockerLogin{},
		"docker/build-push-action":      buildPush{},
		"docker/metadata-action":        dockerMetadata{},
		"8398a7/action-slack":           slack{},
	}
}

// actionName is the key of an action: GitHub takes owner and repository without case, the path with it.
func actionName(repository, path string) string {
	name := strings.ToLower(repository)
	if p := strings.Trim(path, "/"); p != "" && p != "." {
		name += "/" + p
	}
	return name
}
