package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// clone gets a Git repository for ADD, or as a build context. Git runs in the build's machine: a repository is as
// hostile as a Dockerfile.
func (w *work) clone(ctx context.Context, v *vertex, op *pb.SourceOp) (*result, error) {
	m, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	step := w.p.begin(v.name)
	out, err := w.cloneIn(ctx, m, op, step)
	if err != nil {
		step.fail(err)
		return nil, err
	}
	step.done()
	return out, nil
}

// cloning checks one revision of a repository out; the commit is the last line that it writes.
const cloning = `set -e
git init -q "$1"; cd "$1"
git remote add origin "$2"
if ! git fetch -q --depth 1 --no-tags origin "${3:-HEAD}" 2>/dev/null; then
	git fetch -q origin '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
	git rev-parse --verify -q "$3^{commit}" >.git/FETCH_HEAD || git rev-parse --verify "origin/$3^{commit}" >.git/FETCH_HEAD
fi
git -c advice.detachedHead=false checkout -q "$(cut -c1-40 .git/FETCH_HEAD | head -n 1)"
if [ "$4" ] && [ -f .gitmodules ]; then git submodule -q update --init --recursive --depth 1; fi
git rev-parse HEAD
if [ ! "$5" ]; then find . -name .git -prune -exec rm -rf {} +; fi
`

func (w *work) cloneIn(ctx context.Context, m sandbox.Sandbox, op *pb.SourceOp, step *Step) (*result, error) {
	address := op.Attrs[pb.AttrFullRemoteURL]
	rest := strings.TrimPrefix(op.Identifier, "git://")
	_, fragment, _ := strings.Cut(rest, "#")
	if address == "" {
		address, _, _ = strings.Cut("https://"+rest, "#")
	}
	revision, sub, _ := strings.Cut(fragment, ":")
	if strings.HasPrefix(revision, "-") || strings.HasPrefix(address, "-") {
		return nil, fmt.Errorf("%s: this names no revision", op.Identifier)
	}
	modules, keep := "yes", ""
	if op.Attrs[pb.AttrGitSkipSubmodules] == "true" {
		modules = ""
	}
	if op.Attrs[pb.AttrKeepGitDir] == "true" {
		keep = "yes"
	}
	at := w.place(m)
	if err := m.(sandbox.Layered).Mount(ctx, at); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	env := []string{"PATH=" + m.Info().Path, "HOME=" + m.Info().Temp, "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https:http:git:ssh", "GIT_CONFIG_NOSYSTEM=1"}
	err := m.Exec(ctx, sandbox.Command{
		Args: []string{"/bin/sh", "-c", cloning, "sh", at, address, revision, modules, keep}, Env: env, Dir: "/", Stdout: &out, Stderr: step, Stop: &sandbox.Ladder{},
	})
	tail := step.flush()
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return nil, &failure{tail, fmt.Errorf("get %s: git ended with exit code %d: %s", address, exit.Code, strings.Join(tail, "; "))}
	}
	if err != nil {
		return nil, err
	}
	commit := strings.TrimSpace(out.String())
	if want := op.Attrs[pb.AttrGitChecksum]; want != "" && !strings.HasPrefix(commit, want) {
		return nil, fmt.Errorf("get %s: its commit is %s, and %s was asked for", address, commit, want)
	}
	id, err := m.(sandbox.Layered).Capture(ctx, path.Join(at, path.Join("/", sub)))
	if err != nil {
		return nil, err
	}
	return &result{id: fmt.Sprintf("git:%s %q %q %q", commit, sub, modules, keep), above: []layer.ID{id}}, w.use(id)
}
