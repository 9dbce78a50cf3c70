package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil/types"

	"github.com/penstock-ci/penstock/internal/image"
)

// gateway is what BuildKit's frontend asks: for the Dockerfile and .dockerignore, and about base images.
type gateway struct {
	*work
	opts map[string]string
}

// The keys of what the frontend is asked for are those of BuildKit's Dockerfile frontend (docs/reference/buildctl.md).
func (w *work) options() (map[string]string, error) {
	r := w.r
	o := map[string]string{"filename": r.Name, "target": r.Target, "platform": w.platform.OS + "/" + w.platform.Architecture}
	for name, value := range r.Args {
		o["build-arg:"+name] = value
	}
	for name, value := range r.Labels {
		o["label:"+name] = value
	}
	if r.Address != "" {
		o["context"] = r.Address
		if r.Dockerfile != nil {
			o["dockerfilekey"] = dockerui.DefaultLocalNameDockerfile
		}
	}
	for name, from := range r.Contexts {
		o["context:"+name] = from
	}
	for name := range r.Dirs {
		o["context:"+name] = "local:" + contextName(name)
	}
	switch {
	case r.NoCache:
		o["no-cache"] = ""
	case len(r.Stale) > 0:
		o["no-cache"] = strings.Join(r.Stale, ",")
	}
	if r.Pull {
		o["image-resolve-mode"] = "pull"
	}
	var hosts []string
	for _, name := range slices.Sorted(maps.Keys(r.Hosts)) {
		hosts = append(hosts, name+"="+r.Hosts[name])
	}
	if len(hosts) > 0 {
		o["add-hosts"] = strings.Join(hosts, ",")
	}
	if len(r.Ulimits) > 0 {
		o["ulimit"] = strings.Join(r.Ulimits, ",")
	}
	if r.Shm > 0 {
		o["shm-size"] = fmt.Sprint(r.Shm)
	}
	if r.Offline {
		o["force-network-mode"] = "none"
	}
	return o, nil
}

// contextName is what the graph calls a further context.
func contextName(name string) string { return "named:" + name }

// openContexts makes known what the build may see.
func (w *work) openContexts() error {
	r := w.r
	for name, root := range r.Dirs {
		w.locals[contextName(name)] = newLocal(root)
	}
	given := newLocal(r.Context)
	given.memory = map[string][]byte{}
	switch {
	case r.Dockerfile != nil:
		given.memory[contextPath(r.Name)] = r.Dockerfile
	case r.Context == nil && r.Address == "":
		return fmt.Errorf("%s: there is no such file, since the build has no context", r.Name)
	}
	if r.Ignore != nil {
		given.memory[contextPath(r.Name)+".dockerignore"] = r.Ignore
	}
	w.locals[dockerui.DefaultLocalNameContext] = newLocal(r.Context)
	w.locals[dockerui.DefaultLocalNameDockerfile] = given
	return nil
}

// read has BuildKit's frontend say what the Dockerfile means.
func (w *work) read(ctx context.Context) (*dockerfile2llb.Result, *llb.Definition, error) {
	opts, err := w.options()
	if err != nil {
		return nil, nil, err
	}
	c, err := dockerui.NewClient(&gateway{work: w, opts: opts})
	if err != nil {
		return nil, nil, err
	}
	source, err := c.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return nil, nil, err
	}
	if len(source.Data) > maxDockerfile {
		return nil, nil, fmt.Errorf("%s: more than %d bytes", w.r.Name, maxDockerfile)
	}
	w.text = source.Data
	if syntax, _, _, ok := parser.DetectSyntax(source.Data); ok && !isDockerfileSyntax(syntax) {
		w.note("# syntax=%s is not used: the Dockerfile is read by BuildKit's own frontend", syntax)
	}
	caps := pb.Caps.CapSet(pb.Caps.All())
	meant, err := dockerfile2llb.Dockerfile2LLB(ctx, source.Data, dockerfile2llb.ConvertOpt{
		Config: c.Config, Client: c, SourceMap: source.SourceMap, TargetPlatform: &w.platform, MetaResolver: &gateway{work: w, opts: opts}, LLBCaps: &caps, Warn: w.warn,
	})
	if err != nil {
		return nil, nil, w.explain(err)
	}
	definition, err := meant.State.Marshal(ctx, llb.Platform(w.platform), llb.WithCaps(caps))
	if err != nil {
		return nil, nil, w.explain(err)
	}
	return meant, definition, nil
}

// isDockerfileSyntax says whether a frontend is BuildKit's own, in whatever version.
func isDockerfileSyntax(ref string) bool {
	full, err := image.FullName(ref)
	if err != nil {
		return false
	}
	repository, _, _ := strings.Cut(strings.TrimPrefix(full, "docker.io/"), ":")
	repository, _, _ = strings.Cut(repository, "@")
	return repository == "docker/dockerfile" || repository == "docker/dockerfile-upstream"
}

// BuildOpts implements client.Client.
func (g *gateway) BuildOpts() client.BuildOpts {
	caps := pb.Caps.CapSet(pb.Caps.All())
	return client.BuildOpts{Opts: maps.Clone(g.opts), LLBCaps: caps, Caps: gwpb.Caps.CapSet(gwpb.Caps.All())}
}

// Solve implements client.Client: the frontend reads files of what a graph makes.
func (g *gateway) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	root, err := g.load(req.Definition.GetDef(), req.Definition.GetMetadata())
	if err != nil {
		return nil, err
	}
	res := client.NewResult()
	res.SetRef(&reference{w: g.work, tree: sync.OnceValues(func() (*result, error) { return g.result(ctx, root) })})
	return res, nil
}

// ResolveImageConfig implements client.Client.
func (g *gateway) ResolveImageConfig(ctx context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	img, config, err := g.resolve(ctx, ref)
	return ref, digest.Digest(img.Digest), config, err
}

// ResolveSourceMetadata implements client.Client.
func (g *gateway) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	ref, ok := strings.CutPrefix(op.Identifier, "docker-image://")
	if !ok {
		return &sourceresolver.MetaResponse{Op: op}, nil
	}
	img, config, err := g.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: digest.Digest(img.Digest), Config: config}}, nil
}

// Inputs implements client.Client.
func (g *gateway) Inputs(context.Context) (map[string]llb.State, error) {
	return nil, nil
}

// NewContainer implements client.Client.
func (g *gateway) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.New("a frontend that runs containers " + errUnsupported.Error())
}

// Warn implements client.Client.
func (g *gateway) Warn(_ context.Context, _ digest.Digest, message string, _ client.WarnOpts) error {
	g.addWarning(message)
	return nil
}

// reference is a tree that the frontend reads files of.
type reference struct {
	w    *work
	tree func() (*result, error)
}

// maxRead bounds the files that the frontend reads, bytes.
const maxRead = 16 << 20

// ToState implements client.Reference.
func (r *reference) ToState() (llb.State, error) { return llb.State{}, errUnsupported }

// Evaluate implements client.Reference.
func (r *reference) Evaluate(context.Context) error {
	_, err := r.tree()
	return err
}

// ReadFile implements client.Reference.
func (r *reference) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	tree, err := r.tree()
	if err != nil {
		return nil, err
	}
	most := maxRead
	if req.Range != nil && req.Range.Length > 0 && req.Range.Length < most {
		most = req.Range.Length
	}
	data, err := r.w.readFile(ctx, tree, req.Filename, req.Range != nil, most)
	if err != nil {
		return nil, err
	}
	if req.Range != nil {
		data = data[min(max(req.Range.Offset, 0), len(data)):]
	}
	return data, nil
}

// StatFile implements client.Reference. The size alone is asked for.
func (r *reference) StatFile(ctx context.Context, req client.StatRequest) (*types.Stat, error) {
	data, err := r.ReadFile(ctx, client.ReadRequest{Filename: req.Path})
	if err != nil {
		return nil, err
	}
	return &types.Stat{Path: req.Path, Size: int64(len(data))}, nil
}

// ReadDir implements client.Reference.
func (r *reference) ReadDir(context.Context, client.ReadDirRequest) ([]*types.Stat, error) {
	return nil, errUnsupported
}
