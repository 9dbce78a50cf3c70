// Package build makes images of Dockerfiles, on layers and machines of our own: BuildKit's own frontend says what a
// Dockerfile means, and what it asks for is carried out here, each step in a container of one machine, its result a layer.
//
// It never runs a daemon, and knows nothing of jobs.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Builder builds images. The fields must not change after the first use. Several processes may build on the same stores
// at once.
type Builder struct {
	Images *image.Store
	Layers *layer.Store
	// Provider opens the machine that a build's steps run beside; its machines must be sandbox.Hosting.
	Provider sandbox.Provider
	// Dir is where processes lock cache mounts against each other and note what was used when; empty locks within this
	// process alone, and what was made is used at that time.
	Dir string
	// Parallel is how many steps run at once; 0 takes one for each core.
	Parallel int
	// Private lets ADD fetch from this machine's own services: from loopback and link-local addresses.
	Private bool

	mu    sync.Mutex
	locks map[string]chan struct{} // of cache mounts: one token each
}

// Request is one build.
type Request struct {
	// Context is the directory that COPY and ADD take files from; nil is an empty one. It is read, never written, and
	// nothing is followed out of it.
	Context *os.Root
	// Address is a context elsewhere, instead: a Git repository, or an archive or a Dockerfile (https://…).
	Address string
	// Dockerfile is the text; nil reads Name in the context. Name is also what errors call it; empty is "Dockerfile".
	Dockerfile []byte
	Name       string
	// Ignore is the text of .dockerignore; nil reads Name.dockerignore or .dockerignore in the context.
	Ignore []byte
	// Contexts are further ones by name: docker-image://NAME, or an address. Dirs are those that are directories.
	Contexts map[string]string
	Dirs     map[string]*os.Root

	Target   string
	Args     map[string]string
	Labels   map[string]string
	Secrets  map[string][]byte // by id, for RUN --mount=type=secret; they are never kept
	Hosts    map[string]string // further names, with their addresses
	Ulimits  []string          // NAME=SOFT[:HARD]
	Shm      int64             // bytes of /dev/shm in RUN; 0 takes 64 MiB
	Offline  bool              // RUN has no network
	Platform string            // os/arch; empty is this machine's, and no other can be built
	NoCache  bool              // nothing is taken from earlier builds
	Stale    []string          // stages of which nothing is taken
	Pull     bool              // registries are asked even for what is here

	// Scope is whose cache mounts RUN has: builds of another one share none of them.
	Scope string

	// Names are the image's; it has none else, until Prune.
	Names []string
	// TreeOnly makes no image: the result is for Export.
	TreeOnly bool

	// CacheFrom are steps of builds elsewhere that are taken in before this one, as WriteCache wrote them.
	CacheFrom []CacheSource
	// Login gives the credentials for a registry's host; nil takes the usual places.
	Login func(registry string) *image.Credentials
}

// Result is what a build made.
type Result struct {
	// Image is zero for TreeOnly.
	Image image.Image
	Names []string // full
	// Warnings are those of BuildKit's linter, one line each.
	Warnings []string

	tree  []layer.ID
	steps []cachedStep
}

// limits of what is taken of a request.
const (
	maxDockerfile = 4 << 20
	maxSteps      = 5000
)

// Build builds an image. What it does goes to p as it happens. The error is an *Error if a line of the Dockerfile is to
// blame. Steps that went well are there again the next time; nothing else stays of a build that fails.
func (b *Builder) Build(ctx context.Context, r Request, p *Progress) (*Result, error) {
	if r.Name == "" {
		r.Name = "Dockerfile"
	}
	if len(r.Dockerfile) > maxDockerfile {
		return nil, fmt.Errorf("%s: more than %d bytes", r.Name, maxDockerfile)
	}
	platform, err := r.platform()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(r.Names))
	for _, name := range r.Names {
		full, err := image.FullName(name)
		if err != nil {
			return nil, err
		}
		names = append(names, full)
	}
	w := newWork(b, &r, p, platform)
	defer w.close()
	if err := w.openContexts(); err != nil {
		return nil, err
	}
	for _, from := range r.CacheFrom {
		w.takeCache(ctx, from)
	}
	meant, root, err := w.solve(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{Names: names, Warnings: w.warnings, tree: root.layers(), steps: w.cachedSteps()}
	if r.TreeOnly {
		return res, nil
	}
	res.Image, err = w.commit(ctx, root, meant, names)
	return res, err
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
	locals   map[string]*local // build contexts by the name that the graph has for them
	slots    chan struct{}

	source *pb.Source
	text   []byte // the Dockerfile

	mu       sync.Mutex
	vertices map[string]*vertex // by digest
	scratch  *layer.Scratch     // keeps what the build uses
	machine  func() (sandbox.Sandbox, error)
	ended    []func()
	places   int
	shown    map[string]*shown
	caches   map[string]*sharedCache
	steps    []cachedStep
	imported map[string]layer.ID // steps of elsewhere, by reference
	flat     map[string]func() (layer.ID, error)
	pulled   map[string]func() (image.Image, error)
	warnings []string
}

func newWork(b *Builder, r *Request, p *Progress, platform ocispecs.Platform) *work {
	parallel := b.Parallel
	if parallel <= 0 {
		parallel = runtime.NumCPU()
	}
	return &work{
		b: b, r: r, p: p, platform: platform, slots: make(chan struct{}, parallel), locals: map[string]*local{}, vertices: map[string]*vertex{},
		shown: map[string]*shown{}, caches: map[string]*sharedCache{}, imported: map[string]layer.ID{}, flat: map[string]func() (layer.ID, error){}, pulled: map[string]func() (image.Image, error){},
	}
}

// use keeps layers from being collected until the build ends.
func (w *work) use(ids ...layer.ID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.scratch == nil {
		scratch, err := w.b.Layers.Scratch()
		if err != nil {
			return err
		}
		w.scratch = scratch
		w.ended = append(w.ended, func() { _ = scratch.Release() }) // removed by whoever opens the store next, at the latest
	}
	return w.scratch.Use(ids...)
}

// scratchDir makes a new directory for a layer.
func (w *work) scratchDir() (string, error) {
	if err := w.use(); err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places++
	return makeDir(path.Join(w.scratch.Dir(), fmt.Sprint(w.places)))
}

// open gives the machine of the build, which is opened for the first step that needs one.
func (w *work) open(ctx context.Context) (sandbox.Sandbox, error) {
	w.mu.Lock()
	if w.machine == nil {
		w.machine = sync.OnceValues(func() (sandbox.Sandbox, error) {
			m, err := w.b.Provider.Open(ctx, sandbox.Spec{Name: "build", Repo: "build"})
			if err != nil {
				return nil, err
			}
			if _, ok := m.(sandbox.Hosting); !ok {
				return nil, errors.Join(fmt.Errorf("build: %w", sandbox.ErrNoImages), m.Close(context.WithoutCancel(ctx)))
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ended = append(w.ended, func() { _ = m.Close(context.WithoutCancel(ctx)) }) // what it would tell is of no use any more
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
	w.places++
	return path.Join(m.Info().Temp, "build", fmt.Sprint(w.places))
}

func (w *work) close() {
	w.mu.Lock()
	ended := w.ended
	w.mu.Unlock()
	for _, end := range slices.Backward(ended) {
		end()
	}
}

var errUnsupported = errors.New("is not supported here")
