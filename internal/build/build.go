// Package build makes images of Dockerfiles, on layers and machines of our own: BuildKit's own frontend says what a
// Dockerfile means, and what it asks for is carried out here, each step in a container of one machine, its result a layer.
//
// It never runs a daemon, and knows nothing of jobs.
package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Builder builds images. The fields must not change after the first use.
type Builder struct {
	Images *image.Store
	Layers *layer.Store
	// Provider opens the machine that a build's steps run beside; its machines must be sandbox.Hosting.
	Provider sandbox.Provider
	// Parallel is how many steps run at once; 0 takes one for each core.
	Parallel int

	mu    sync.Mutex
	locks map[string]*sync.Mutex // of cache mounts
}

// Request is one build.
type Request struct {
	// Context is the directory that COPY and ADD take files from; nil is an empty one. It is read, never written.
	Context *os.Root
	// Dockerfile is the text; Name is what errors call it.
	Dockerfile []byte
	Name       string
	// Ignore is the text of .dockerignore; nil reads the context's own.
	Ignore []byte
	// Contexts are further ones by name: a directory, or docker-image://NAME.
	Contexts map[string]string

	Target   string
	Args     map[string]string
	Labels   map[string]string
	Secrets  map[string][]byte
	Hosts    map[string]string // further names, with their addresses
	Platform string            // os/arch; empty is this machine's, and no other can be built
	Offline  bool              // RUN has no network
	NoCache  bool              // nothing is taken from earlier builds
	Stale    []string          // stages of which nothing is
	Pull     bool              // registries are asked even for what is here
	Names    []string          // of the image
	Login    func(registry string) *image.Credentials
}

// Result is what a build made.
type Result struct {
	Image image.Image
	// Warnings are the frontend's, one line each.
	Warnings []string
}

// limits of what is taken of a request.
const (
	maxDockerfile = 4 << 20
	maxSteps      = 5000
)

// Build builds an image. What it does goes to p as it happens. The error of a Dockerfile's mistake, or of a step that
// failed, shows the lines it comes from. What was built until then is there again the next time; no image is made.
func (b *Builder) Build(ctx context.Context, r Request, p *Progress) (*Result, error) {
	if len(r.Dockerfile) > maxDockerfile {
		return nil, fmt.Errorf("%s: more than %d bytes", r.Name, maxDockerfile)
	}
	platform, err := r.platform()
	if err != nil {
		return nil, err
	}
	files, err := openContext(r.Context, r.Ignore, r.Name)
	if err != nil {
		return nil, fmt.Errorf("read the build context: %w", err)
	}
	w := &work{b: b, r: &r, p: p, platform: platform, results: map[edge]*result{}, contexts: map[string]*contextDir{"context": files}}
	defer w.close()
	meant, err := w.read(ctx)
	if err != nil {
		return nil, err
	}
	definition, err := meant.State.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, w.explain(err)
	}
	if err := w.load(definition); err != nil {
		return nil, err
	}
	root, err := w.solve(ctx)
	if err != nil {
		return nil, err
	}
	img, err := w.commit(ctx, root, meant)
	if err != nil {
		return nil, err
	}
	return &Result{Image: img, Warnings: w.warnings}, nil
}

// platform is what is built for.
func (r *Request) platform() (ocispecs.Platform, error) {
	here := platforms.Normalize(ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH})
	if r.Platform == "" {
		return here, nil
	}
	want, err := platforms.Parse(r.Platform)
	if err != nil {
		return here, fmt.Errorf("platform %q: %w", r.Platform, err)
	}
	if want = platforms.Normalize(want); want.OS != here.OS || want.Architecture != here.Architecture {
		return here, fmt.Errorf("platform %s can not be built here: this machine builds %s, and nothing here emulates others", r.Platform, platforms.Format(here))
	}
	return want, nil
}

// work is one build under way.
type work struct {
	b        *Builder
	r        *Request
	p        *Progress
	platform ocispecs.Platform
	contexts map[string]*contextDir

	ops      map[string]*vertex // by digest
	order    []*vertex
	root     edge
	source   *pb.Source
	slots    chan struct{}
	warnings []string

	mu      sync.Mutex
	results map[edge]*result
	machine func() (sandbox.Sandbox, error)
	ended   []func()
	mounted int
}

// read has BuildKit's frontend say what the Dockerfile means.
func (w *work) read(ctx context.Context) (*dockerfile2llb.Result, error) {
	r := w.r
	caps := pb.Caps.CapSet(pb.Caps.All())
	main := llb.Local("context")
	source := llb.NewSourceMap(&main, r.Name, "Dockerfile", r.Dockerfile)
	config := dockerui.Config{BuildArgs: r.Args, Labels: r.Labels, Target: r.Target}
	for _, name := range slices.Sorted(maps.Keys(r.Hosts)) {
		config.ExtraHosts = append(config.ExtraHosts, llb.HostIP{Host: name, IP: parseIP(r.Hosts[name])})
	}
	if r.Offline {
		config.NetworkMode = pb.NetMode_NONE
	}
	text := r.Dockerfile
	if len(r.Contexts) > 0 {
		var err error
		if text, err = w.nameContexts(text); err != nil {
			return nil, err
		}
	}
	meant, err := dockerfile2llb.Dockerfile2LLB(ctx, text, dockerfile2llb.ConvertOpt{
		Config: config, MainContext: &main, SourceMap: source, TargetPlatform: &w.platform, MetaResolver: (*resolver)(w), LLBCaps: &caps,
		Warn: w.warn,
	})
	if err != nil {
		return nil, w.explain(err)
	}
	return meant, nil
}

// commit makes the image.
func (w *work) commit(ctx context.Context, root *result, meant *dockerfile2llb.Result) (image.Image, error) {
	text, err := json.Marshal(meant.Image)
	if err != nil {
		return image.Image{}, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(text, &config); err != nil {
		return image.Image{}, err
	}
	created := time.Now().UTC()
	if meant.Epoch != nil {
		created = *meant.Epoch
	}
	for i := range config.History {
		if config.History[i].Created.IsZero() {
			config.History[i].Created = v1.Time{Time: created}
		}
	}
	step := w.p.begin("exporting to image")
	base, above := root.base, root.above
	img, err := w.b.Images.Commit(ctx, image.Commit{Base: base, Config: config, Layers: above, Names: w.r.Names, Created: created})
	if err != nil {
		step.fail(err)
		return img, err
	}
	step.say("writing image %s", img.ID)
	for _, name := range w.r.Names {
		step.say("naming to %s", name)
	}
	step.done()
	return img, nil
}

// open gives the machine of the build, which is opened for the first step that needs one.
func (w *work) open(ctx context.Context) (sandbox.Sandbox, error) {
	w.mu.Lock()
	if w.machine == nil {
		w.machine = sync.OnceValues(func() (sandbox.Sandbox, error) {
			m, err := w.b.Provider.Open(context.WithoutCancel(ctx), sandbox.Spec{Name: "build", Repo: "build"})
			if err != nil {
				return nil, err
			}
			if _, ok := m.(sandbox.Hosting); !ok {
				m.Close(context.WithoutCancel(ctx))
				return nil, fmt.Errorf("build: %w", sandbox.ErrNoImages)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ended = append(w.ended, func() { m.Close(context.WithoutCancel(ctx)) })
			return m, nil
		})
	}
	open := w.machine
	w.mu.Unlock()
	return open()
}

// place gives a path of the machine that nothing is at.
func (w *work) place(m sandbox.Sandbox) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mounted++
	return path.Join(m.Info().Temp, "build", fmt.Sprint(w.mounted))
}

func (w *work) close() {
	w.mu.Lock()
	ended := w.ended
	w.mu.Unlock()
	for _, end := range slices.Backward(ended) {
		end()
	}
}

// nameContexts puts a stage before the Dockerfile for each further context that is an image, by which its name is found;
// directories are not supported.
func (w *work) nameContexts(text []byte) ([]byte, error) {
	var head strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.r.Contexts)) {
		ref, ok := strings.CutPrefix(w.r.Contexts[name], "docker-image://")
		if !ok {
			return nil, fmt.Errorf("build context %s=%s: only images (docker-image://NAME) can be further contexts here", name, w.r.Contexts[name])
		}
		fmt.Fprintf(&head, "FROM %s AS %s\n", ref, name)
	}
	return append([]byte(head.String()), text...), nil
}

var errUnsupported = errors.New("is not supported here")

// Discard is where progress goes that nobody reads.
var Discard = NewProgress(io.Discard)

// cacheName is the reference under which the layers of a step are kept.
func cacheName(key string) string { return "build/" + key }

// contextPath is a slash-separated path as the context's own.
func contextPath(name string) string { return filepath.ToSlash(path.Clean("/" + name))[1:] }
