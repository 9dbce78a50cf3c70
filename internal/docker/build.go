package docker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// buildFlags are the options of docker build and docker buildx build.
type buildFlags struct {
	file, target, platform, iid, metadata, network, shm string
	tags, args, labels, secrets, hosts, outputs         []string
	contexts, stale, ulimits, cacheFrom, cacheTo        []string
	noCache, pull, push, load, quiet                    bool
}

// idleBuild are options that change nothing here: how it is printed, what attests it, and what bounds it.
var (
	idleBuild         = []string{"progress", "builder", "provenance", "sbom", "attest", "allow", "annotation", "cgroup-parent", "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems", "isolation", "security-opt", "ssh", "call", "debug"}
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
		f.StringArrayVar(&b.ulimits, "ulimit", nil, "Ulimit options")
		f.StringVar(&b.shm, "shm-size", "", "Shared memory size for build containers")
		f.StringArrayVar(&b.cacheFrom, "cache-from", nil, "External cache sources")
		f.StringArrayVar(&b.cacheTo, "cache-to", nil, "Cache export destinations")
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
	return c.buildAndDeliver(&b, r)
}

// buildRequest turns options into a request.
func (c *call) buildRequest(b *buildFlags, from string) (*build.Request, error) {
	r := &build.Request{
		Target: b.target, Platform: b.platform, NoCache: b.noCache, Pull: b.pull, Names: b.tags, Stale: b.stale, Offline: b.network == "none", Login: c.credentials,
		Ulimits: b.ulimits, Dirs: map[string]*os.Root{}, Args: map[string]string{}, Labels: map[string]string{}, Hosts: map[string]string{}, Secrets: map[string][]byte{}, Contexts: map[string]string{}, Name: "Dockerfile",
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
		if err := c.furtherContext(r, name, value); err != nil {
			return nil, err
		}
	}
	if b.shm != "" {
		size, err := units.RAMInBytes(b.shm)
		if err != nil {
			return nil, fmt.Errorf("invalid argument %q for \"--shm-size\" flag: %w", b.shm, err)
		}
		r.Shm = size
	}
	if err := c.cacheSources(r, b.cacheFrom); err != nil {
		return nil, err
	}
	for _, s := range b.secrets {
		if err := c.buildSecret(r, s); err != nil {
			return nil, err
		}
	}
	return r, c.buildContext(r, b.file, from)
}

// isAddress says whether a build context is elsewhere.
func isAddress(from string) bool {
	return strings.Contains(from, "://") || strings.HasPrefix(from, "git@") || strings.HasPrefix(from, "github.com/")
}

// furtherContext takes --build-context NAME=VALUE.
func (c *call) furtherContext(r *build.Request, name, value string) error {
	if isAddress(value) {
		r.Contexts[name] = value
		return nil
	}
	root, err := c.openDir(value)
	if err != nil {
		return fmt.Errorf("unable to prepare context %s: %w", name, err)
	}
	r.Dirs[name] = root
	return nil
}

// openDir opens a directory of the machine.
func (c *call) openDir(name string) (*os.Root, error) {
	readable, ok := c.Machine.(sandbox.Readable)
	if !ok {
		return nil, errors.New("this machine's files can not be read from outside")
	}
	return readable.Open(c.abs(name))
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
	case isAddress(from):
		r.Address = from
		switch file {
		case "":
		case "-":
			r.Dockerfile, err = io.ReadAll(io.LimitReader(c.stdin, maxDockerfile))
		default:
			r.Name = file // of the repository
		}
		return err
	}
	if r.Context, err = c.openDir(from); err != nil {
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
	root, err := c.openDir(path.Dir(c.abs(name)))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(path.Base(name))
}
