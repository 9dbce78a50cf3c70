package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// Builder builds the images of Docker actions.
type Builder interface {
	// BuildAction builds the Dockerfile at a path of a directory of this host, with that directory as context. What the
	// build says goes to out.
	BuildAction(ctx context.Context, dir, dockerfile string, out io.Writer) (container.Image, error)
}

// Where a Docker action finds things (actions/runner src/Runner.Worker/Handlers/ContainerActionHandler.cs).
const (
	actionWorkspace = "/github/workspace"
	actionHome      = "/github/home"
	actionTemp      = "/github/runner_temp"
	actionFiles     = "/github/file_commands"
	actionWorkflow  = "/github/workflow"
)

// imageAction is `uses: docker://IMAGE`.
func imageAction(uses string) *action {
	return &action{uses: uses, manifest: &workflow.Action{Name: uses, Runs: workflow.Runs{Using: "docker", Image: uses}}}
}

// isDockerfile says whether an action's image is to be built (actions/runner Container/DockerUtil.cs).
func isDockerfile(image string) bool {
	name := strings.ToLower(path.Base(image))
	return !strings.HasPrefix(strings.ToLower(image), "docker://") && (strings.HasPrefix(name, "dockerfile.") || strings.HasSuffix(name, "dockerfile"))
}

// useDocker runs a phase of an action in a container.
func (e *execution) useDocker(ctx context.Context, r *stepRun, inputs map[string]string) error {
	img, err := e.actionImage(ctx, r.action)
	if err != nil {
		return err
	}
	files, err := e.openFiles(ctx, r)
	if err != nil {
		return err
	}
	o, err := e.actionOptions(r, inputs, files)
	if err != nil {
		return err
	}
	c, err := container.Open(ctx, e.sb, firstLine(r.def.ContextName)+"-action", img, o)
	if err != nil {
		return err
	}
	err = c.Run(ctx, nil, r.reader, r.reader)
	r.reader.close()
	if bad := c.Close(context.WithoutCancel(ctx)); bad != nil {
		e.log.line("##[warning]%s", bad)
	}
	e.takeFiles(r, files)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		e.log.line("##[debug]Docker Action run completed with exit code %d", exit.Code)
		return errTold // the action itself says why: the runner adds nothing
	}
	return err
}

// actionImage is the image of a Docker action: pulled, or built once a job.
func (e *execution) actionImage(ctx context.Context, a *action) (container.Image, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.image != nil {
		return *a.image, nil
	}
	img, err := e.getActionImage(ctx, a)
	if err == nil {
		a.image = &img
	}
	return img, err
}

func (e *execution) getActionImage(ctx context.Context, a *action) (container.Image, error) {
	name := a.manifest.Runs.Image
	if isDockerfile(name) {
		return e.buildAction(ctx, a)
	}
	if len(name) >= len("docker://") && strings.EqualFold(name[:len("docker://")], "docker://") {
		name = name[len("docker://"):]
	}
	if e.x.Images == nil {
		return container.Image{}, fmt.Errorf("%s: %w", a.uses, sandbox.ErrNoImages)
	}
	e.log.line("##[group]Pull down action image '%s'", name)
	defer e.log.line("##[endgroup]")
	return e.x.Images.Image(ctx, name, nil, e.log)
}

// buildAction builds an action's Dockerfile. A local action is in the machine: it is brought out for that.
func (e *execution) buildAction(ctx context.Context, a *action) (container.Image, error) {
	if e.x.Builder == nil {
		return container.Image{}, fmt.Errorf("%s: %w: it has a Dockerfile, and nothing here builds images", a.uses, sandbox.ErrNoImages)
	}
	e.log.line("##[group]Building docker image")
	defer e.log.line("##[endgroup]")
	e.log.line("Dockerfile for action: '%s'.", path.Join(a.inside, a.manifest.Runs.Image))
	dir := a.dir
	if a.local {
		temp, err := os.MkdirTemp("", "penstock-action-")
		if err != nil {
			return container.Image{}, err
		}
		defer os.RemoveAll(temp)
		if err := e.bringOut(ctx, a.inside, temp); err != nil {
			return container.Image{}, fmt.Errorf("read action %s: %w", a.uses, err)
		}
		dir = filepath.Join(temp, path.Base(a.inside))
	}
	dockerfile := path.Clean(a.manifest.Runs.Image)
	img, err := e.x.Builder.BuildAction(ctx, dir, dockerfile, e.log)
	if err != nil {
		return img, fmt.Errorf("Docker build failed: %w", err)
	}
	return img, nil
}

// bringOut copies a directory of the machine into one of this host, under its own name.
func (e *execution) bringOut(ctx context.Context, from, to string) error {
	files, err := e.sb.Get(ctx, from)
	if err != nil {
		return err
	}
	defer files.Close()
	return sandbox.Unpack(to, files)
}

// actionOptions are how the container of a Docker action is run.
func (e *execution) actionOptions(r *stepRun, inputs map[string]string, files *stepFiles) (*container.Options, error) {
	runs := r.action.manifest.Runs
	scope := e.actionScope(r, inputs)
	env := e.processEnv(r, files)
	for name, value := range inputs {
		env["INPUT_"+strings.ToUpper(strings.ReplaceAll(name, " ", "_"))] = value
	}
	e.addServices(env, r.action, inputs)
	if runs.Env != nil {
		v, err := runs.Env.Eval(e.env0(scope, r.env))
		if err != nil {
			return nil, e.placed(err)
		}
		for _, p := range v.Pairs() {
			if _, ok := env[p.Key]; !ok {
				env[p.Key] = p.Value.Text()
			}
		}
	}
	for name := range e.imageEnv {
		delete(env, name) // of the job's own container, not of this one
	}
	delete(env, "PATH")
	env["HOME"] = actionHome
	o := &container.Options{Env: sortedEnv(e.translated(env)), Dir: actionWorkspace, Mounts: []sandbox.Mount{
		{Target: actionTemp, Source: e.info.Temp},
		{Target: actionHome, Source: path.Join(e.info.Temp, "_github_home")},
		{Target: actionWorkflow, Source: e.info.Files},
		{Target: actionFiles, Source: e.info.Files},
		{Target: actionWorkspace, Source: e.info.Workspace},
	}}
	entrypoint := map[string]string{"pre": runs.PreEntrypoint, "main": runs.Entrypoint, "post": runs.PostEntrypoint}[r.phase]
	if entrypoint == "" && r.phase == "main" {
		entrypoint = inputs["entrypoint"]
	}
	if entrypoint != "" {
		o.Entrypoint = []string{entrypoint}
	}
	var err error
	o.Command, err = e.actionArguments(r, scope, inputs)
	return o, err
}

// actionArguments are what the container's entrypoint is given: nil is the image's own command.
func (e *execution) actionArguments(r *stepRun, s *scope, inputs map[string]string) ([]string, error) {
	runs := r.action.manifest.Runs
	if runs.Args == nil {
		if args := splitArguments(inputs["args"]); len(args) > 0 {
			return args, nil
		}
		return nil, nil
	}
	v, err := runs.Args.Eval(e.env0(s, r.env))
	if err != nil {
		return nil, e.placed(err)
	}
	args := texts(v)
	if v.Kind() != expr.KindArray && v.Text() != "" {
		args = []string{v.Text()}
	}
	return args, nil
}

// translated gives an environment with the machine's paths as the container has them.
func (e *execution) translated(env map[string]string) map[string]string {
	paths := [][2]string{ // what lies in another comes first
		{path.Join(e.info.Temp, "_github_home"), actionHome}, {e.info.Files, actionFiles}, {e.info.Temp, actionTemp}, {e.info.Workspace, actionWorkspace},
	}
	out := maps.Clone(env)
	for name, value := range env {
		for _, p := range paths {
			if rest, ok := strings.CutPrefix(value, p[0]); ok && (rest == "" || rest[0] == '/') {
				out[name] = p[1] + rest
				break
			}
		}
	}
	if name, ok := env["GITHUB_EVENT_PATH"]; ok {
		out["GITHUB_EVENT_PATH"] = path.Join(actionWorkflow, path.Base(name))
	}
	return out
}

// dockerfileAction is an action directory that has a Dockerfile and nothing that describes it.
func dockerfileAction(uses string) *workflow.Action {
	return &workflow.Action{Name: uses, Runs: workflow.Runs{Using: "docker", Image: "Dockerfile"}}
}

// hasDockerfile says whether a directory of this host has a Dockerfile.
func hasDockerfile(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, "Dockerfile"))
	return err == nil && info.Mode().IsRegular()
}

// hasDockerPhase says whether a Docker action has something to do before or after the main steps.
func hasDockerPhase(runs *workflow.Runs, phase string) bool {
	return phase == "pre" && runs.PreEntrypoint != "" || phase == "post" && runs.PostEntrypoint != ""
}
