package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// buildFlags are the options of docker build and docker buildx build.
type buildFlags struct {
	file, target, platform, iid, metadata, network string
	tags, args, labels, secrets, hosts, outputs    []string
	contexts, stale                                []string
	noCache, pull, push, load, quiet               bool
}

// idleBuild are options that change nothing here: how it is printed, what attests it, what bounds it, and where caches
// come from: what was built is always taken again.
var (
	idleBuild         = []string{"progress", "builder", "cache-from", "cache-to", "provenance", "sbom", "attest", "allow", "annotation", "ulimit", "shm-size", "cgroup-parent", "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems", "isolation", "security-opt", "ssh", "call", "debug"}
	idleBuildSwitches = []string{"rm", "force-rm", "compress", "squash", "disable-content-trust", "no-cache-filter-all", "check"}
)

func (c *call) build(args []string) error {
	var b buildFlags
	f, err := c.flags("build", args, func(f *pflag.FlagSet) {
		f.StringVarP(&b.file, "file", "f", "", "Name of the Dockerfile")
		f.StringVar(&b.target, "target", "", "Set the target build stage to build")
		f.StringVar(&b.platform, "platform", "", "Set target platform for build")
		f.StringVar(&b.iid, "iidfile", "", "Write the image ID to a file")
		f.StringVar(&b.metadata, "metadata-file", "", "Write build result metadata to a file")
		f.StringVar(&b.network, "network", "", "Set the networking mode for the RUN instructions")
		f.StringArrayVarP(&b.tags, "tag", "t", nil, "Name and optionally a tag")
		f.StringArrayVar(&b.args, "build-arg", nil, "Set build-time variables")
		f.StringArrayVar(&b.labels, "label", nil, "Set metadata for an image")
		f.StringArrayVar(&b.secrets, "secret", nil, "Secret to expose to the build")
		f.StringSliceVar(&b.hosts, "add-host", nil, "Add a custom host-to-IP mapping")
		f.StringArrayVarP(&b.outputs, "output", "o", nil, "Output destination")
		f.StringArrayVar(&b.contexts, "build-context", nil, "Additional build contexts")
		f.StringArrayVar(&b.stale, "no-cache-filter", nil, "Do not cache specified stages")
		f.BoolVar(&b.noCache, "no-cache", false, "Do not use cache when building the image")
		f.BoolVar(&b.pull, "pull", false, "Always attempt to pull all referenced images")
		f.BoolVar(&b.push, "push", false, "Push the image")
		f.BoolVar(&b.load, "load", false, "Keep the image: it always is")
		f.BoolVarP(&b.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
		for _, name := range idleBuild {
			f.StringArray(name, nil, "(no effect here)")
			f.Lookup(name).NoOptDefVal = map[bool]string{true: "true"}[name == "provenance" || name == "sbom"]
		}
		for _, name := range idleBuildSwitches {
			f.Bool(name, false, "(no effect here)")
		}
	})
	if err != nil {
		return err
	}
	if f.NArg() != 1 {
		return &usage{"build", fmt.Errorf("\"docker build\" requires exactly 1 argument")}
	}
	r, err := c.buildRequest(&b, f.Arg(0))
	if err != nil {
		return err
	}
	if r.Context != nil {
		defer r.Context.Close()
	}
	out := build.NewProgress(c.stderr)
	if b.quiet {
		out = build.Discard
	}
	res, err := c.Builder.Build(c.ctx, *r, out)
	if err != nil {
		return fmt.Errorf("failed to build: %w", err)
	}
	for _, w := range res.Warnings {
		fmt.Fprintf(c.stderr, " - %s\n", w)
	}
	if b.quiet {
		fmt.Fprintln(c.stdout, res.Image.ID)
	}
	return c.buildOutputs(&b, res.Image)
}

// buildRequest turns options into a request.
func (c *call) buildRequest(b *buildFlags, from string) (*build.Request, error) {
	r := &build.Request{
		Target: b.target, Platform: b.platform, NoCache: b.noCache, Pull: b.pull, Names: b.tags, Stale: b.stale, Offline: b.network == "none", Login: c.credentials,
		Args: map[string]string{}, Labels: map[string]string{}, Hosts: map[string]string{}, Secrets: map[string][]byte{}, Contexts: map[string]string{}, Name: "Dockerfile",
	}
	for _, kv := range b.args {
		name, value, given := strings.Cut(kv, "=")
		if !given {
			if value, given = c.req.Env[name]; !given {
				continue // an argument that is not set keeps its default
			}
		}
		r.Args[name] = value
	}
	for _, kv := range b.labels {
		name, value, _ := strings.Cut(kv, "=")
		r.Labels[name] = value
	}
	for _, h := range b.hosts {
		name, ip, ok := strings.Cut(strings.Replace(h, "=", ":", 1), ":")
		if !ok {
			return nil, fmt.Errorf("bad format for add-host: %q", h)
		}
		r.Hosts[name] = ip
	}
	for _, kv := range b.contexts {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("invalid build context %q, expected key=value", kv)
		}
		r.Contexts[name] = value
	}
	for _, s := range b.secrets {
		if err := c.buildSecret(r, s); err != nil {
			return nil, err
		}
	}
	return r, c.buildContext(r, b.file, from)
}

// maxSecret bounds a secret of a build, bytes: BuildKit's limit.
const maxSecret = 500 << 10

// buildSecret reads id=NAME[,src=FILE|,env=VARIABLE].
func (c *call) buildSecret(r *build.Request, spec string) error {
	var id, file, env string
	for _, field := range strings.Split(spec, ",") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "id":
			id = value
		case "src", "source":
			file = value
		case "env":
			env = value
		case "type":
		default:
			return fmt.Errorf("failed to parse secret %s: unexpected key '%s'", spec, key)
		}
	}
	if id == "" {
		return fmt.Errorf("failed to parse secret %s: no id", spec)
	}
	if file == "" && env == "" {
		env = id
	}
	if value, ok := c.req.Env[env]; env != "" && ok {
		r.Secrets[id] = []byte(value)
		return nil
	}
	if file == "" {
		return nil // what is missing says so where it is needed
	}
	value, err := sandbox.ReadFile(c.ctx, c.Machine, c.abs(file), maxSecret)
	r.Secrets[id] = value
	return err
}

// maxDockerfile bounds a Dockerfile, bytes.
const maxDockerfile = 4 << 20

// buildContext opens the context and reads the Dockerfile.
func (c *call) buildContext(r *build.Request, file, from string) (err error) {
	switch {
	case from == "-":
		r.Dockerfile, err = io.ReadAll(io.LimitReader(c.stdin, maxDockerfile))
		return err
	case strings.Contains(from, "://") || strings.HasPrefix(from, "git@") || strings.HasPrefix(from, "github.com/"):
		return fmt.Errorf("a build context from %s is not supported here: check the repository out first", from)
	}
	readable, ok := c.Machine.(sandbox.Readable)
	if !ok {
		return errors.New("this machine's files can not be read from outside")
	}
	if r.Context, err = readable.Open(c.abs(from)); err != nil {
		return fmt.Errorf("unable to prepare context: %w", err)
	}
	switch {
	case file == "-":
		r.Dockerfile, err = io.ReadAll(io.LimitReader(c.stdin, maxDockerfile))
	case file == "":
		r.Dockerfile, err = r.Context.ReadFile("Dockerfile")
	default:
		r.Name = file
		r.Dockerfile, err = sandbox.ReadFile(c.ctx, c.Machine, c.abs(file), maxDockerfile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat %s: no such file or directory", path.Join(c.abs(from), "Dockerfile"))
	}
	return err
}

// buildOutputs does what is asked for with the image that was built.
func (c *call) buildOutputs(b *buildFlags, img image.Image) error {
	for _, o := range b.outputs {
		if err := c.buildOutput(b, o, img); err != nil {
			return err
		}
	}
	if b.push {
		for _, tag := range b.tags {
			if err := c.pushOne(tag); err != nil {
				return err
			}
		}
	}
	if b.iid != "" {
		if err := c.write(b.iid, []byte(img.ID)); err != nil {
			return err
		}
	}
	if b.metadata == "" {
		return nil
	}
	names := slices.Clone(b.tags)
	for i, n := range names {
		if full, err := image.FullName(n); err == nil {
			names[i] = full
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"containerimage.digest": img.Digest, "containerimage.config.digest": img.ID, "image.name": strings.Join(names, ","),
		"containerimage.descriptor": map[string]any{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": img.Digest},
	}, "", "  ")
	if err != nil {
		return err
	}
	return c.write(b.metadata, text)
}

func (c *call) buildOutput(b *buildFlags, spec string, img image.Image) error {
	fields := map[string]string{}
	for _, field := range strings.Split(spec, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok { // -o DIR
			key, value = "dest", field
		}
		fields[key] = value
	}
	kind := fields["type"]
	switch {
	case kind == "docker" && fields["dest"] == "", kind == "cacheonly":
	case kind == "image", kind == "registry":
		if name := fields["name"]; name != "" {
			for _, n := range strings.Split(strings.Trim(name, `"`), ",") {
				b.tags = append(b.tags, n)
				if err := c.Images.Tag(img.Digest, n); err != nil {
					return err
				}
			}
		}
		b.push = b.push || kind == "registry" || fields["push"] == "true"
	case kind == "docker", kind == "oci":
		return c.saveTo(fields["dest"], img.Digest)
	default:
		return fmt.Errorf("output type %q is not supported here: use type=docker, image, registry, oci or cacheonly", kind)
	}
	return nil
}

// write puts a small file into the machine.
func (c *call) write(name string, text []byte) error {
	return sandbox.WriteFile(c.ctx, c.Machine, c.abs(name), text, 0o644)
}

// buildxCreate prints the name of the builder, which there is already.
func (c *call) buildxCreate(args []string) error {
	var name string
	_, err := c.flags("buildx create", args, func(f *pflag.FlagSet) {
		f.StringVar(&name, "name", "penstock", "Builder instance name")
		for _, n := range []string{"driver", "driver-opt", "buildkitd-flags", "buildkitd-config", "config", "platform", "node"} {
			f.StringArray(n, nil, "(no effect here)")
		}
		for _, n := range []string{"use", "bootstrap", "append", "leave"} {
			f.Bool(n, false, "(no effect here)")
		}
	})
	if err != nil {
		return err
	}
	return c.say(name + "\n")(nil)
}

func (c *call) buildxInspect([]string) error {
	return c.say("Name:   penstock\nDriver: penstock\n\nNodes:\nName:      penstock\nEndpoint:  none\nStatus:    running\nPlatforms: linux/" + goarch() + "\n")(nil)
}

// imagetools inspects a manifest.
func (c *call) imagetools(args []string) error {
	if len(args) > 1 && args[0] == "inspect" {
		return c.inspect(args[1:])
	}
	return errors.New("docker buildx imagetools is not supported here but for inspect")
}

// keys gives a map's keys in order.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// open is a file of the machine for reading.
func (c *call) open(name string) (*os.File, error) {
	readable, ok := c.Machine.(sandbox.Readable)
	if !ok {
		return nil, errors.New("this machine's files can not be read from outside")
	}
	root, err := readable.Open(path.Dir(c.abs(name)))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(path.Base(name))
}
