package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/proxy/daemon"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/toolchain"
)

// machineFlags say what jobs run in.
type machineFlags struct {
	platforms []string
	sandbox   string
	parallel  int
}

// add defines the flags; parallel is the name of the one for how many jobs run at a time.
func (f *machineFlags) add(c *cobra.Command, parallel string) {
	s := c.Flags()
	s.StringArrayVarP(&f.platforms, "platform", "P", nil, "run jobs with this runs-on label in that sandbox, `LABEL=SANDBOX`: host, none, docker, or an image (docker://node:22)")
	s.StringVar(&f.sandbox, "sandbox", "auto", "`KIND` of machine: auto, host (namespaces and layers), docker (containers of a Docker daemon) or none (plain processes in a temporary directory)")
	s.IntVar(&f.parallel, parallel, max(runtime.NumCPU(), 2), "at most `N` jobs at a time")
	_ = c.RegisterFlagCompletionFunc("sandbox", cobra.FixedCompletions([]string{"auto", "host", "docker", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// machines are where jobs run. They are made ready while the repository is read: both take their time.
type machines struct {
	data   string
	layers *layer.Store
	host   func() (*sandbox.Host, error) // the same one each time
	begun  bool                          // host is on its way
}

// openMachines opens what machines keep below a directory.
func (f *machineFlags) openMachines(data string) (*machines, error) {
	layers, err := layer.Open(filepath.Join(data, "layers"))
	if err != nil {
		return nil, err
	}
	m := &machines{data: data, layers: layers}
	m.host = sync.OnceValues(func() (*sandbox.Host, error) { return sandbox.NewHost(layers, ownProgram()) })
	if m.begun = f.sandbox != "none" || len(f.platforms) > 0; m.begun {
		go m.host()
	}
	return m, nil
}

// ownProgram is what machines have of this program: `penstock`, to deploy from a job, and `docker`, for cmd/penstock becomes the
// client of package docker then.
func ownProgram() *sandbox.Program {
	path, err := os.Executable()
	if err != nil {
		return nil // then they have neither
	}
	self, err := daemon.Program()
	if err != nil {
		return nil
	}
	file, err := os.Open(self)
	if err != nil {
		return nil
	}
	return &sandbox.Program{Names: []string{"docker", "penstock"}, Path: path, File: file}
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

// executor is what executes jobs here, with notes for people. Its Services, and what is the user's, are the caller's to add.
func (m *machines) executor(f *machineFlags, c *config.Config, blobs blob.Store, actions *forge.ActionSource) (x *job.Executor, notes []string, err error) {
	host, err := m.nativeHost(blobs, actions)
	if err != nil {
		return nil, nil, err
	}
	pick, notes, err := m.sandboxes(f, c)
	if err != nil {
		return nil, nil, err
	}
	images, err := openImages(m.data, m.layers, c.Images)
	if err != nil {
		return nil, nil, err
	}
	builder := &build.Builder{Images: images, Layers: m.layers, Provider: m.provider(), Parallel: f.parallel, Dir: filepath.Join(m.data, "builds")}
	return &job.Executor{
		Pick: pick, Actions: actions, Host: host, Native: true,
		Images: container.Images{Store: images}, Builder: actionBuilder{builder}, Docker: dockerServices{images, builder, c.Images.Push == config.Send},
		Limits:    sandbox.Limits{Memory: c.Limits.Memory, CPUs: c.Limits.CPUs, Processes: c.Limits.Processes},
		Externals: filepath.Join(m.data, "externals"),
	}, notes, nil
}

// openImages opens the images that machines of this host run.
func openImages(data string, layers *layer.Store, c config.Images) (*image.Store, error) {
	return image.Open(filepath.Join(data, "images"), layers, image.Options{Owner: sandbox.Owner(), Mirrors: c.Mirrors, Insecure: c.Insecure})
}

// nativeHost is what the native actions may use of this machine.
func (m *machines) nativeHost(blobs blob.Store, actions *forge.ActionSource) (*native.Host, error) {
	cache, err := native.OpenCache(filepath.Join(m.data, "caches"), m.layers, 0)
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return &native.Host{
		CloneURL: actions.URLTemplate, Cache: cache, Artifacts: native.OpenArtifacts(blobs), Home: home,
		Coverage: filepath.Join(m.data, "coverage"), Vulnerabilities: filepath.Join(m.data, "osv"), Tools: toolCaches(),
		Toolchains: &toolchain.Source{
			Dir: filepath.Join(m.data, "toolchains"), NodeURL: os.Getenv("NODEJS_ORG_MIRROR"), GoURL: os.Getenv("GO_DOWNLOAD_BASE_URL"), Offline: actions.Offline,
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
func (m *machines) sandboxes(f *machineFlags, c *config.Config) (pick func(labels []string) (job.Place, error), notes []string, err error) {
	byLabel := map[string]string{}
	for _, p := range f.platforms {
		label, kind, ok := strings.Cut(p, "=")
		if !ok || label == "" {
			return nil, nil, withHint(fmt.Errorf("--platform %s: no sandbox", p), "write it as -P LABEL=host, -P LABEL=none, -P LABEL=docker or -P LABEL=docker://IMAGE")
		}
		if kind == "-self-hosted" { // act's word for this machine
			kind = f.sandbox
		}
		byLabel[strings.ToLower(label)] = kind
	}
	place := m.places(f)
	if _, err := place(f.sandbox); err != nil {
		return nil, nil, err
	}
	for _, kind := range byLabel {
		if _, err := place(kind); err != nil {
			return nil, nil, err
		}
	}
	if slices.ContainsFunc(c.RunsOn, func(r config.RunsOn) bool { return r.Machine.Kind == config.Host || r.Machine.Kind == config.Image }) {
		m.begun = true
	}
	if f.sandbox == "auto" {
		if _, err := m.host(); err != nil {
			notes = append(notes, fmt.Sprintf("jobs are not isolated here: %v. They run as plain processes in a temporary directory", err))
		}
	}
	return func(labels []string) (job.Place, error) {
		for _, label := range labels {
			if kind, ok := byLabel[strings.ToLower(label)]; ok {
				return place(kind)
			}
		}
		if r, ok := c.Machine(labels); ok {
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
	}, notes, nil
}

// places gives the machines of a kind: auto, host, none, docker, or those of an image.
func (m *machines) places(f *machineFlags) func(kind string) (job.Place, error) {
	none := sandbox.NewNone(filepath.Join(m.data, "none"))
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
		host, err := m.host()
		switch {
		case err == nil:
			return job.Place{Provider: host, Image: image}, nil
		case kind == "auto":
			return job.Place{Provider: none}, nil
		}
		return job.Place{}, fmt.Errorf("no host sandbox on this machine: %w", err)
	}
}
