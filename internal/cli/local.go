package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/toolchain"
)

// local is a whole Penstock in this process: an engine on an in-memory store, a runner and its sandboxes, and the
// history that stays.
type local struct {
	*machines
	tree     *forge.WorkTree
	config   *config.Config
	history  *history
	store    *store.Store
	engine   *engine.Engine
	executor *job.Executor
	github   *api.LocalGitHub
	secrets  map[string]string
	parallel int
	notes    []string // for the user, once

	work sync.WaitGroup // the engine's own work and the runner
	stop context.CancelFunc
}

// machines are where jobs run. They are made ready while the repository is read: both take their time.
type machines struct {
	data   string
	layers *layer.Store
	host   func() (*sandbox.Host, error) // the same one each time
	begun  bool                          // host is on its way
}

func (f *runFlags) openMachines() (*machines, error) {
	data, err := dataDir()
	if err != nil {
		return nil, err
	}
	layers, err := layer.Open(filepath.Join(data, "layers"))
	if err != nil {
		return nil, err
	}
	m := &machines{data: data, layers: layers}
	m.host = sync.OnceValues(func() (*sandbox.Host, error) { return sandbox.NewHost(layers, dockerProgram()) })
	if m.begun = f.sandbox != "none" || len(f.platforms) > 0; m.begun {
		go m.host()
	}
	return m, nil
}

// dockerProgram shows this program as `docker` to machines: cmd/penstock becomes the client of package docker then.
func dockerProgram() map[string]string {
	self, err := os.Executable()
	if err != nil {
		return nil // then there is no docker command inside
	}
	return map[string]string{"docker": self}
}

// provider is the host's machines, prepared when the first is opened.
func (m *machines) provider() sandbox.Provider { return lazyHost{m.host} }

type lazyHost struct {
	host func() (*sandbox.Host, error)
}

// Open implements sandbox.Provider.
func (l lazyHost) Open(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	h, err := l.host()
	if err != nil {
		return nil, err
	}
	return h.Open(ctx, spec)
}

func (m *machines) close() {
	if m.begun {
		if h, err := m.host(); err == nil {
			h.Close()
		}
	}
	m.layers.Close()
}

// open makes everything ready that runs stand on.
func (f *runFlags) open(ctx context.Context, c *cobra.Command, m *machines, tr *triggered) (*local, error) {
	l := &local{machines: m, tree: tr.tree, config: tr.config, parallel: f.parallel}
	if f.parallel < 1 {
		return nil, withHint(fmt.Errorf("--parallel %d: at least one job must run", f.parallel), "leave it out for one job a core")
	}
	for _, path := range f.writeBack {
		if !filepath.IsLocal(path) {
			return nil, withHint(fmt.Errorf("--write-back %s: the path leads out of the workspace", path), "name it relative to the workspace, e.g. --write-back dist")
		}
	}
	var err error
	if l.secrets, err = f.readSecrets(c); err != nil {
		return nil, err
	}
	env, err := namedValues(f.env, f.envFile, f.dir, "--env")
	if err != nil {
		return nil, err
	}
	if l.history, err = openHistory(m.data); err != nil {
		return nil, err
	}
	l.history.layers = m.layers
	if l.store, err = store.Open(ctx, "sqlite::memory:"); err != nil {
		l.close()
		return nil, err
	}
	host, err := l.nativeHost(f)
	if err != nil {
		l.close()
		return nil, err
	}
	pick, err := l.sandboxes(f)
	if err != nil {
		l.close()
		return nil, err
	}
	images, err := openImages(m.data, m.layers, l.config.Images)
	if err != nil {
		l.close()
		return nil, err
	}
	tree := api.LocalRepository{Root: l.tree.Root, Name: l.tree.Repository, DefaultBranch: l.tree.DefaultBranch, Web: l.tree.ServerURL + "/" + l.tree.Repository}
	if l.github, err = api.NewLocalGitHub(l.store, tree, filepath.Join(m.data, "tmp")); err != nil {
		l.close()
		return nil, err
	}
	builder := &build.Builder{Images: images, Layers: m.layers, Provider: m.provider(), Parallel: f.parallel, Dir: filepath.Join(m.data, "builds")}
	l.executor = &job.Executor{
		Pick: pick, Actions: tr.actions, Host: host, Native: !f.noNative, Env: env, State: l.history,
		Images: container.Images{Store: images}, Builder: actionBuilder{builder}, Docker: dockerServices{images, builder, l.config.Images.Push == config.Send},
		Limits:    sandbox.Limits{Memory: l.config.Limits.Memory, CPUs: l.config.Limits.CPUs, Processes: l.config.Limits.Processes},
		Services:  api.NewRuntime(l.history.blobs, host.Artifacts, l.tree.Root, l.github),
		WriteBack: f.writeBack, Externals: filepath.Join(l.data, "externals"),
	}
	return l, nil
}

// openImages opens the images that machines of this host run.
func openImages(data string, layers *layer.Store, c config.Images) (*image.Store, error) {
	return image.Open(filepath.Join(data, "images"), layers, image.Options{Owner: sandbox.Owner(), Mirrors: c.Mirrors, Insecure: c.Insecure})
}

// nativeHost is what the native actions may use of this machine.
func (l *local) nativeHost(f *runFlags) (*native.Host, error) {
	cache, err := native.OpenCache(filepath.Join(l.data, "caches"), l.layers, 0)
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return &native.Host{
		WorkTree: &native.WorkTree{Dir: l.tree.Root, Repository: l.tree.Repository}, CloneURL: f.actionsURL,
		Cache: cache, Artifacts: native.OpenArtifacts(l.history.blobs), Home: home,
		Coverage: filepath.Join(l.data, "coverage"), Vulnerabilities: filepath.Join(l.data, "osv"), Tools: toolCaches(),
		Toolchains: &toolchain.Source{
			Dir: filepath.Join(l.data, "toolchains"), NodeURL: os.Getenv("NODEJS_ORG_MIRROR"), GoURL: os.Getenv("GO_DOWNLOAD_BASE_URL"), Offline: f.offline,
		},
	}, nil
}

// toolCaches are this host's directories with tools as GitHub's runners keep them.
func toolCaches() []string {
	var dirs []string
	for _, dir := range []string{os.Getenv("RUNNER_TOOL_CACHE"), os.Getenv("AGENT_TOOLSDIRECTORY"), "/opt/hostedtoolcache"} {
		if filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// dockerImage is what begins an image where a kind of sandbox is asked for.
const dockerImage = "docker://"

// sandboxes says where a job runs, by its labels: what -P says of them, else penstock.yaml.
func (l *local) sandboxes(f *runFlags) (func(labels []string) (job.Place, error), error) {
	byLabel := map[string]string{}
	for _, p := range f.platforms {
		label, kind, ok := strings.Cut(p, "=")
		if !ok || label == "" {
			return nil, withHint(fmt.Errorf("--platform %s: no sandbox", p), "write it as -P LABEL=host, -P LABEL=none, -P LABEL=docker or -P LABEL=docker://IMAGE")
		}
		if kind == "-self-hosted" { // act's word for this machine
			kind = f.sandbox
		}
		byLabel[strings.ToLower(label)] = kind
	}
	place := l.places(f)
	if _, err := place(f.sandbox); err != nil {
		return nil, err
	}
	for _, kind := range byLabel {
		if _, err := place(kind); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(l.config.RunsOn, func(r config.RunsOn) bool { return r.Machine.Kind == config.Host || r.Machine.Kind == config.Image }) {
		l.begun = true
	}
	if f.sandbox == "auto" {
		if _, err := l.host(); err != nil {
			l.notes = append(l.notes, fmt.Sprintf("jobs are not isolated here: %v. They run as plain processes in a temporary directory", err))
		}
	}
	return func(labels []string) (job.Place, error) {
		for _, label := range labels {
			if kind, ok := byLabel[strings.ToLower(label)]; ok {
				return place(kind)
			}
		}
		if r, ok := l.config.Machine(labels); ok {
			kind := string(r.Machine.Kind)
			if r.Machine.Kind == config.Image {
				kind = dockerImage + r.Machine.Image
			}
			p, err := place(kind)
			if err != nil {
				err = fmt.Errorf("%s (Line: %d, Col: %d): runs-on %s: %w", config.Name, r.Line, r.Column, r.Label, err)
			}
			return p, err
		}
		for _, label := range labels {
			if name, _, _ := strings.Cut(strings.ToLower(label), "-"); name == "windows" || name == "macos" {
				return job.Place{}, fmt.Errorf("runs-on %s is not this machine; -P %s=host runs the job here all the same", label, label)
			}
		}
		return place(f.sandbox)
	}, nil
}

// places gives the machines of a kind: auto, host, none, docker, or those of an image.
func (l *local) places(f *runFlags) func(kind string) (job.Place, error) {
	none := sandbox.NewNone(filepath.Join(l.data, "none"))
	daemon := sync.OnceValues(func() (*sandbox.Docker, error) { return sandbox.NewDocker(sandbox.DockerOptions{}) })
	docker := func(image string) (job.Place, error) {
		d, err := daemon()
		if err != nil {
			return job.Place{}, err
		}
		return job.Place{Provider: d, Image: image}, nil
	}
	return func(kind string) (job.Place, error) {
		image, of := "", strings.HasPrefix(kind, dockerImage)
		if of {
			image = kind[len(dockerImage):]
		}
		switch {
		case kind == "none":
			return job.Place{Provider: none}, nil
		case kind == "docker":
			return docker("")
		case of && f.sandbox == "docker":
			return docker(image)
		case kind != "auto" && kind != "host" && !of:
			return job.Place{}, withHint(fmt.Errorf("no sandbox is called '%s'", kind), "there are auto, host, none, docker, and docker://IMAGE for a label")
		}
		host, err := l.host()
		switch {
		case err == nil:
			return job.Place{Provider: host, Image: image}, nil
		case kind == "auto":
			return job.Place{Provider: none}, nil
		}
		return job.Place{}, fmt.Errorf("no host sandbox on this machine: %w", err)
	}
}

func (l *local) close() {
	if l.stop != nil {
		l.stop()
	}
	l.work.Wait()
	if l.github != nil {
		l.github.Close()
	}
	if l.store != nil {
		l.store.Close()
	}
	if l.history != nil {
		l.history.blobs.Close()
	}
}

// begin starts the engine and the runner; runs that are triggered from now on are worked on.
func (l *local) begin(ctx context.Context, first ci.RunID) error {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	e, err := engine.New(ctx, l.store, l.history.blobs, engine.Options{
		FirstRun: first, Log: quiet,
		Secrets: func(context.Context, string, string) (map[string]string, error) { return l.secrets, nil },
		Token:   func(context.Context, *ci.Task) (string, error) { return l.secrets["GITHUB_TOKEN"], nil },
	})
	l.engine = e
	return err
}

// work starts what carries the runs forward.
func (l *local) startWork(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.work.Go(func() { _ = l.engine.Work(ctx) })
	l.work.Go(func() { _ = runner.Work(ctx, l.engine, runner.Runner{Name: hostName()}, l.parallel, l.executor) })
}

// start triggers a run for each plan.
func (l *local) start(ctx context.Context, plans []*ci.Plan) ([]*ci.Run, error) {
	first, err := l.history.allocate(len(plans))
	if err != nil {
		return nil, err
	}
	if err := l.begin(ctx, first); err != nil {
		return nil, err
	}
	var runs []*ci.Run
	for _, p := range plans {
		id, err := l.engine.Trigger(ctx, p)
		if err != nil {
			return nil, err
		}
		r, err := l.engine.Run(ctx, id)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// resume takes the last run of this repository up again where it failed.
func (l *local) resume(ctx context.Context) ([]*ci.Run, error) {
	p, err := l.history.load(0, l.tree.Root)
	if err != nil {
		return nil, err
	}
	r := p.Run
	if r.Status == ci.Completed && r.Conclusion != ci.Failure && r.Conclusion != ci.Cancelled {
		return nil, withHint(fmt.Errorf("run %d did not fail: there is nothing to go on with", r.ID), "penstock run starts a new one")
	}
	if err := l.begin(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := l.engine.Import(ctx, r); err != nil {
		return nil, err
	}
	again := ci.Rerun{By: l.tree.Actor, Failed: true, Resume: map[ci.JobID]ci.Resume{}}
	for _, j := range r.Jobs {
		if at := resumeAt(r, j); at != nil {
			again.Resume[j.ID] = *at
		}
	}
	if err := l.engine.Update(ctx, r.ID, again); err != nil {
		return nil, err
	}
	run, err := l.engine.Run(ctx, r.ID)
	return []*ci.Run{run}, err
}

// resumeAt is where a failed job goes on: at its failed step if the disk before it was kept, else nowhere.
func resumeAt(r *ci.Run, j *ci.Job) *ci.Resume {
	if j.Conclusion != ci.Failure || j.Call {
		return nil
	}
	for i, s := range j.Steps {
		if s.Conclusion == ci.Failure && s.Snapshot != "" {
			return &ci.Resume{
				Step: s.Number, Snapshot: s.Snapshot, State: job.StateKey(r.ID, j.Attempt, j.ID, s.Number), Steps: slices.Clone(j.Steps[:i]),
			}
		}
	}
	return nil
}

// stepLog reads the log of a step that has ended.
func (l *local) stepLog(r *ci.Run, j *ci.Job, s *ci.Step) []byte {
	f, err := l.engine.Log(r.ID, j.Attempt, j.ID)
	if f == nil || err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, s.LogStart, s.LogEnd-s.LogStart))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return data
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "here"
	}
	return name
}
