package build

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// buildRef is the name of the trees that are being built, for messages.
const buildRef = "the image being built"

// sandboxName is the host name of RUN, BuildKit's.
const sandboxName = "buildkitsandbox"

// execution is one RUN.
type execution struct {
	w      *work
	m      sandbox.Sandbox
	op     *pb.ExecOp
	inputs []*result
	list   []sandbox.Mount
	caches map[string]*cacheUse // by id
	ended  []func()
}

// exec carries out RUN: a container of the machine on the tree so far, whose writes become a layer.
func (w *work) exec(ctx context.Context, op *pb.ExecOp, inputs []*result, step *Step) (layer.ID, error) {
	m, err := w.open(ctx)
	if err != nil {
		return "", err
	}
	on, err := w.layered(ctx, root(&pb.Op{Op: &pb.Op_Exec{Exec: op}}, inputs))
	if err != nil {
		return "", err
	}
	e := &execution{w: w, m: m, op: op, inputs: inputs, caches: map[string]*cacheUse{}}
	defer e.release()
	if err := e.mounts(ctx); err != nil {
		return "", err
	}
	id, err := e.run(ctx, on, step)
	for _, c := range e.caches { // what a step that failed has put there is of use all the same
		err = errors.Join(err, c.keep(context.WithoutCancel(ctx), w))
	}
	return id, err
}

func (e *execution) run(ctx context.Context, on *result, step *Step) (layer.ID, error) {
	env, err := e.env()
	if err != nil {
		return "", err
	}
	name := e.op.Meta.Hostname
	if name == "" {
		name = sandboxName
	}
	layers, err := e.w.stack(on.layers(), maxStack)
	if err != nil {
		return "", err
	}
	c, err := e.m.(sandbox.Hosting).Contain(ctx, sandbox.Container{Name: name, Image: sandbox.Image{Ref: buildRef, Layers: layers}, Mounts: e.list})
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	args := limited(e.op.Meta.Args, e.op.Meta.Ulimit)
	err = c.Exec(ctx, sandbox.Command{
		Args: args, Env: env, Dir: e.op.Meta.Cwd, User: e.op.Meta.User, Offline: e.op.Network == pb.NetMode_NONE,
		Stdout: step, Stderr: step, Stop: &sandbox.Ladder{},
	})
	tail := step.flush()
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		if !slices.Contains(e.op.Meta.ValidExitCodes, int32(exit.Code)) {
			return "", &failure{tail, fmt.Errorf("process %q did not complete successfully: exit code: %d", strings.Join(e.op.Meta.Args, " "), exit.Code)}
		}
		err = nil
	}
	if err != nil {
		return "", err
	}
	return e.w.changes(ctx, c, on)
}

// changes takes what was written as a layer, an empty one too: each step has one. What a step left running is ended.
func (w *work) changes(ctx context.Context, c sandbox.Sandbox, on *result) (layer.ID, error) {
	id, err := c.(sandbox.Builder).Finish(ctx)
	if err != nil {
		return "", err
	}
	if id == "" {
		dir, err := w.scratchDir()
		if err != nil {
			return "", err
		}
		return w.b.Layers.Add(dir, layer.Layer{Owner: sandbox.Owner()})
	}
	if len(on.layers()) == 0 {
		return id, w.b.bare(id)
	}
	return id, nil
}

func (e *execution) release() {
	for _, end := range slices.Backward(e.ended) {
		end()
	}
}

// env is the environment with the secrets that belong into it.
func (e *execution) env() ([]string, error) {
	env := slices.Clone(e.op.Meta.Env)
	if p := e.op.Meta.ProxyEnv; p != nil {
		for _, v := range [][2]string{{"http_proxy", p.HttpProxy}, {"https_proxy", p.HttpsProxy}, {"ftp_proxy", p.FtpProxy}, {"no_proxy", p.NoProxy}, {"all_proxy", p.AllProxy}} {
			if v[1] != "" {
				env = append(env, v[0]+"="+v[1], strings.ToUpper(v[0])+"="+v[1])
			}
		}
	}
	for _, s := range e.op.Secretenv {
		value, ok := e.w.r.Secrets[s.ID]
		if !ok && !s.Optional {
			return nil, fmt.Errorf("secret %s: not found", s.ID)
		}
		if ok {
			env = append(env, s.Name+"="+string(value))
		}
	}
	return env, nil
}

// flags are the options of the shell's ulimit for Docker's names, with the unit that it counts in, bytes.
var flags = map[string]struct {
	option string
	unit   int64
}{
	"core": {"c", 512}, "cpu": {"t", 1}, "data": {"d", 1024}, "fsize": {"f", 512}, "memlock": {"l", 1024}, "nofile": {"n", 1}, "stack": {"s", 1024}, "rss": {"m", 1024},
}

// limited has a shell set the limits that are asked for, before it becomes the command: the image must have one. Of
// names that shells do not know nothing is set.
func limited(args []string, limits []*pb.Ulimit) []string {
	var script strings.Builder
	for _, l := range limits {
		f, ok := flags[l.Name]
		if !ok {
			continue
		}
		value := func(n int64) string {
			if n < 0 {
				return "unlimited"
			}
			return fmt.Sprint(n / f.unit)
		}
		fmt.Fprintf(&script, "ulimit -S -%s %s && ulimit -H -%s %s && ", f.option, value(l.Soft), f.option, value(l.Hard))
	}
	if script.Len() == 0 {
		return args
	}
	return append([]string{"/bin/sh", "-c", script.String() + `exec "$@"`, "sh"}, args...)
}

// mounts prepares everything that is mounted.
func (e *execution) mounts(ctx context.Context) error {
	if len(e.op.CdiDevices) > 0 {
		return fmt.Errorf("RUN --device %w", errUnsupported)
	}
	if e.op.Security == pb.SecurityMode_INSECURE {
		return fmt.Errorf("RUN --security=insecure %w", errUnsupported)
	}
	if err := e.lockCaches(ctx); err != nil {
		return err
	}
	for _, m := range e.op.Mounts {
		if m.Dest == "/" {
			continue
		}
		mount, err := e.mount(ctx, m)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		if mount != nil {
			mount.Target = path.Join("/", m.Dest)
			if !path.IsAbs(m.Dest) {
				mount.Target = path.Join("/", e.op.Meta.Cwd, m.Dest)
			}
			e.list = append(e.list, *mount)
		}
	}
	if len(e.op.Meta.ExtraHosts) == 0 {
		return nil
	}
	return e.hosts(ctx)
}

// mount prepares one; nil if it is optional and there is none.
func (e *execution) mount(ctx context.Context, m *pb.Mount) (*sandbox.Mount, error) {
	switch m.MountType {
	case pb.MountType_TMPFS:
		return &sandbox.Mount{Size: m.TmpfsOpt.GetSize()}, nil
	case pb.MountType_SECRET:
		return e.secret(ctx, m.SecretOpt)
	case pb.MountType_SSH:
		if m.SSHOpt.GetOptional() {
			return nil, nil
		}
		return nil, fmt.Errorf("the agent of SSH %w: give a key as a secret (--mount=type=secret) instead", errUnsupported)
	case pb.MountType_CACHE:
		return e.cache(ctx, m)
	}
	on, err := e.w.layered(ctx, input(e.inputs, m.Input))
	if err != nil {
		return nil, err
	}
	var at string
	if m.Readonly {
		at, err = e.w.show(ctx, e.m, on)
	} else { // what is written is thrown away: nobody else may see it
		at, err = e.w.mount(ctx, e.m, on)
	}
	if err != nil {
		return nil, err
	}
	return &sandbox.Mount{Source: path.Join(at, path.Join("/", m.Selector)), ReadOnly: m.Readonly}, nil
}

// hosts gives the step an /etc/hosts of its own.
func (e *execution) hosts(ctx context.Context) error {
	text, err := sandbox.ReadFile(ctx, e.m, "/etc/hosts", 1<<20)
	if err != nil {
		return err
	}
	for _, h := range e.op.Meta.ExtraHosts {
		text = fmt.Appendf(text, "%s\t%s\n", h.IP, h.Host)
	}
	name := e.w.place(e.m)
	if err := sandbox.WriteFile(ctx, e.m, name, text, 0o644); err != nil {
		return err
	}
	e.list = append(e.list, sandbox.Mount{Target: "/etc/hosts", Source: name})
	return nil
}

// shown is a tree at a path of the machine.
type shown struct {
	at func(context.Context) (string, error)
}

// show puts a tree somewhere into the machine, once, to be read.
func (w *work) show(ctx context.Context, m sandbox.Sandbox, r *result) (string, error) {
	w.mu.Lock()
	s := w.shown[r.id]
	if s == nil {
		s = &shown{onceWith(func(ctx context.Context) (string, error) { return w.mount(ctx, m, r) })}
		w.shown[r.id] = s
	}
	w.mu.Unlock()
	return s.at(ctx)
}

// mount puts a tree somewhere into the machine; what is written there is seen nowhere else.
func (w *work) mount(ctx context.Context, m sandbox.Sandbox, r *result) (string, error) {
	layers := distinct(r.layers())
	if len(layers) > maxStack { // what layers lie on counts there too
		flat, err := w.stack(layers, len(layers))
		if err != nil {
			return "", err
		}
		layers = flat
	}
	at := w.place(m)
	return at, m.(sandbox.Layered).Mount(ctx, at, layers...)
}

// maxStack is how many layers are mounted at once: the kernel takes a page of text.
const maxStack = 100

// stack gives a stack that can be mounted: of a higher one the lowest layers, so many, are made into one.
func (w *work) stack(layers []layer.ID, lowest int) ([]layer.ID, error) {
	for layers = distinct(layers); len(layers) > maxStack; {
		lowest = min(lowest, len(layers))
		lower := layers[:lowest]
		key := fmt.Sprint(lower)
		w.mu.Lock()
		flat := w.flat[key]
		if flat == nil {
			flat = sync.OnceValues(func() (layer.ID, error) { return w.b.Layers.Flatten(lower...) })
			w.flat[key] = flat
		}
		w.mu.Unlock()
		id, err := flat()
		if err == nil {
			err = w.use(id)
		}
		if err != nil {
			return nil, err
		}
		layers = append([]layer.ID{id}, layers[lowest:]...)
	}
	return layers, nil
}

// layered makes layers of a tree that is files of a build context; others are that already.
func (w *work) layered(ctx context.Context, r *result) (*result, error) {
	if r.files == nil {
		return r, nil
	}
	id, err := r.files.layer(ctx)
	if err != nil {
		return nil, err
	}
	return nothing.with(id, layerID(id)), nil
}
