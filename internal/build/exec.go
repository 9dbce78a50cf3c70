package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// buildRef is the name of the trees that are being built, for messages.
const buildRef = "the image being built"

// exec carries out RUN: a container of the machine on the tree so far, whose writes become a layer.
func (w *work) exec(ctx context.Context, op *pb.ExecOp, inputs []*result, step *Step) (*result, layer.ID, error) {
	m, err := w.open(ctx)
	if err != nil {
		return nil, "", err
	}
	on := rootOf(op, inputs)
	e := &execution{w: w, m: m, op: op, inputs: inputs}
	defer e.release()
	if err := e.mounts(ctx); err != nil {
		return nil, "", err
	}
	name := op.Meta.Hostname
	if name == "" {
		name = "buildkitsandbox" // BuildKit's
	}
	c, err := m.(sandbox.Hosting).Contain(ctx, sandbox.Container{Name: name, Image: sandbox.Image{Ref: buildRef, Layers: on.layers()}, Mounts: e.list})
	if err != nil {
		return nil, "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	env, err := e.env()
	if err != nil {
		return nil, "", err
	}
	err = c.Exec(ctx, sandbox.Command{
		Args: op.Meta.Args, Env: env, Dir: op.Meta.Cwd, User: op.Meta.User, Offline: op.Network == pb.NetMode_NONE,
		Stdout: step, Stderr: step, Stop: &sandbox.Ladder{},
	})
	step.flush()
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		if slices.Contains(op.Meta.ValidExitCodes, int32(exit.Code)) {
			err = nil
		} else {
			return nil, "", fmt.Errorf("process %q did not complete successfully: %w", strings.Join(op.Meta.Args, " "), err)
		}
	}
	if err != nil {
		return nil, "", err
	}
	id, err := w.changes(ctx, c)
	if err != nil {
		return nil, "", err
	}
	return on, id, e.keep(ctx)
}

func rootOf(op *pb.ExecOp, inputs []*result) *result {
	return root(&pb.Op{Op: &pb.Op_Exec{Exec: op}}, inputs)
}

// execOutputs puts the one tree that RUN makes where the graph looks for it.
func execOutputs(op *pb.ExecOp, out *result) []*result {
	var all []*result
	for _, m := range op.Mounts {
		if m.Output < 0 {
			continue
		}
		for len(all) <= int(m.Output) {
			all = append(all, nil)
		}
		if m.Dest == "/" {
			all[m.Output] = out
		}
	}
	return all
}

// changes takes what was written as a layer, an empty one too: each step has one. What a step left running is ended.
func (w *work) changes(ctx context.Context, c sandbox.Sandbox) (layer.ID, error) {
	id, err := c.(sandbox.Builder).Changes(ctx)
	if errors.Is(err, sandbox.ErrBusy) {
		return "", errors.New("it left a process running: end it before the step does")
	}
	if err != nil || id != "" {
		return id, err
	}
	scratch, err := w.b.Layers.Scratch()
	if err != nil {
		return "", err
	}
	defer scratch.Release()
	dir := filepath.Join(scratch.Dir(), "empty")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if os.Getuid() == 0 {
		if err := os.Lchown(dir, sandbox.Owner(), sandbox.Owner()); err != nil {
			return "", err
		}
	}
	return w.b.Layers.Add(dir, layer.Layer{Owner: sandbox.Owner()})
}

// execution is what one RUN has beside its root.
type execution struct {
	w      *work
	m      sandbox.Sandbox
	op     *pb.ExecOp
	inputs []*result
	list   []sandbox.Mount
	caches []*cache
}

// cache is a `--mount=type=cache`.
type cache struct {
	id     string
	at     string // in the machine
	unlock func()
}

func (e *execution) release() {
	for _, c := range e.caches {
		c.unlock()
	}
}

// mounts prepares everything that is mounted.
func (e *execution) mounts(ctx context.Context) error {
	if len(e.op.CdiDevices) > 0 {
		return fmt.Errorf("RUN --device %w", errUnsupported)
	}
	if e.op.Security == pb.SecurityMode_INSECURE {
		return fmt.Errorf("RUN --security=insecure %w", errUnsupported)
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
	at, err := e.show(ctx, e.input(m.Input))
	if err != nil {
		return nil, err
	}
	return &sandbox.Mount{Source: path.Join(at, m.Selector), ReadOnly: m.Readonly}, nil
}

func (e *execution) input(i int64) *result {
	if i < 0 || int(i) >= len(e.inputs) {
		return &result{key: "scratch"}
	}
	return e.inputs[i]
}

func (e *execution) show(ctx context.Context, r *result) (string, error) {
	return e.w.show(ctx, e.m, r)
}

// show puts a tree somewhere into the machine.
func (w *work) show(ctx context.Context, m sandbox.Sandbox, r *result) (string, error) {
	if r.local != nil {
		return r.local.bring(ctx, w, m)
	}
	at := w.place(m)
	return at, m.(sandbox.Layered).Mount(ctx, at, r.layers()...)
}

// secret brings a secret into the machine's memory.
func (e *execution) secret(ctx context.Context, o *pb.SecretOpt) (*sandbox.Mount, error) {
	value, ok := e.w.r.Secrets[o.ID]
	if !ok {
		if o.Optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %s: not found", o.ID)
	}
	e.w.mu.Lock()
	e.w.mounted++
	name := path.Join(e.m.Info().Files, fmt.Sprintf("secret-%d", e.w.mounted))
	e.w.mu.Unlock()
	mode := fs.FileMode(o.Mode) & 0o777
	if o.Uid != 0 || o.Gid != 0 {
		mode |= 0o444 // the file is root's: whoever it is meant for reads it all the same
	}
	if err := sandbox.WriteFile(ctx, e.m, name, value, mode); err != nil {
		return nil, err
	}
	return &sandbox.Mount{Source: name, ReadOnly: true}, nil
}

// env is the environment with the secrets that belong into it.
func (e *execution) env() ([]string, error) {
	env := slices.Clone(e.op.Meta.Env)
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

// cacheRef is the reference that keeps a cache mount's content.
func cacheRef(id string) string { return "build-cache/" + id }

// cache mounts what earlier builds left in a cache. One build at a time has it, whatever its sharing: the content is a
// layer, and the last writer's stays.
func (e *execution) cache(ctx context.Context, m *pb.Mount) (*sandbox.Mount, error) {
	id := m.CacheOpt.GetID()
	lock := e.w.b.lock(id)
	lock.Lock()
	c := &cache{id: id, at: e.w.place(e.m), unlock: lock.Unlock}
	e.caches = append(e.caches, c)
	ids, err := e.w.b.Layers.Ref(cacheRef(id))
	if err != nil {
		ids = e.input(m.Input).layers()
	}
	if err := e.m.(sandbox.Layered).Mount(ctx, c.at, ids...); err != nil {
		return nil, err
	}
	return &sandbox.Mount{Source: path.Join(c.at, m.Selector), ReadOnly: m.Readonly}, nil
}

func (b *Builder) lock(id string) *sync.Mutex {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.locks == nil {
		b.locks = map[string]*sync.Mutex{}
	}
	if b.locks[id] == nil {
		b.locks[id] = &sync.Mutex{}
	}
	return b.locks[id]
}

// keep captures the caches of a step that went well.
func (e *execution) keep(ctx context.Context) error {
	for _, c := range e.caches {
		id, err := e.m.(sandbox.Layered).Capture(ctx, c.at)
		if err == nil {
			err = e.w.b.Layers.SetRef(cacheRef(c.id), id)
		}
		if err != nil {
			return fmt.Errorf("keep cache %s: %w", c.id, err)
		}
	}
	return nil
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

func parseIP(s string) net.IP { return net.ParseIP(s) }

// changeFiles carries out COPY, ADD and WORKDIR.
func (w *work) changeFiles(ctx context.Context, op *pb.FileOp, inputs []*result) (*result, layer.ID, error) {
	m, err := w.open(ctx)
	if err != nil {
		return nil, "", err
	}
	on := root(&pb.Op{Op: &pb.Op_File{File: op}}, inputs)
	var actions []agent.FileAction
	var mounts []sandbox.Mount
	for i, a := range op.Actions {
		if i > 0 && int(a.Input) != len(inputs)+i-1 {
			return nil, "", fmt.Errorf("a step that changes several trees at once %w", errUnsupported)
		}
		action, err := fileAction(a)
		if err != nil {
			return nil, "", err
		}
		if a.GetCopy() != nil {
			if a.SecondaryInput < 0 || int(a.SecondaryInput) >= len(inputs) {
				return nil, "", fmt.Errorf("a copy of nothing %w", errUnsupported)
			}
			from := inputs[a.SecondaryInput]
			at, err := w.show(ctx, m, from)
			if err != nil {
				return nil, "", err
			}
			action.Root = fmt.Sprintf("/.penstock-build/%d", i)
			mounts = append(mounts, sandbox.Mount{Target: action.Root, Source: at, ReadOnly: true})
		}
		actions = append(actions, action)
	}
	c, err := m.(sandbox.Hosting).Contain(ctx, sandbox.Container{Name: "build", Image: sandbox.Image{Ref: buildRef, Layers: on.layers()}, Mounts: mounts})
	if err != nil {
		return nil, "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err := c.(sandbox.Builder).Files(ctx, actions); err != nil {
		return nil, "", err
	}
	id, err := w.changes(ctx, c)
	return on, id, err
}

// fileAction translates an action.
func fileAction(a *pb.FileAction) (agent.FileAction, error) {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		c := a.Copy
		return agent.FileAction{
			Kind: agent.FileCopy, Path: c.Dest, From: c.Src, Mode: int(c.Mode), ModeText: c.ModeStr, Owner: owner(c.Owner), Time: c.Timestamp,
			Parents: c.CreateDestPath, Wildcard: c.AllowWildcard, EmptyOK: c.AllowEmptyWildcard, Contents: c.DirCopyContents, Follow: c.FollowSymlink,
			Unpack: c.AttemptUnpackDockerCompatibility, Replace: c.AlwaysReplaceExistingDestPaths, Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
		}, nil
	case *pb.FileAction_Mkdir:
		d := a.Mkdir
		return agent.FileAction{Kind: agent.FileMkdir, Path: d.Path, Mode: int(d.Mode), Owner: owner(d.Owner), Time: d.Timestamp, Parents: d.MakeParents}, nil
	case *pb.FileAction_Mkfile:
		f := a.Mkfile
		return agent.FileAction{Kind: agent.FileMkfile, Path: f.Path, Data: string(f.Data), Mode: int(f.Mode), Owner: owner(f.Owner), Time: f.Timestamp}, nil
	case *pb.FileAction_Rm:
		return agent.FileAction{Kind: agent.FileRemove, Path: a.Rm.Path, NotFoundOK: a.Rm.AllowNotFound, Wildcard: a.Rm.AllowWildcard}, nil
	case *pb.FileAction_Symlink:
		return agent.FileAction{Kind: agent.FileLink, Path: a.Symlink.Newpath, From: a.Symlink.Oldpath, Owner: owner(a.Symlink.Owner), Time: a.Symlink.Timestamp}, nil
	}
	return agent.FileAction{}, fmt.Errorf("a change of files of this kind %w", errUnsupported)
}

// owner writes an owner as user:group.
func owner(o *pb.ChownOpt) string {
	text := func(u *pb.UserOpt) string {
		switch u := u.GetUser().(type) {
		case *pb.UserOpt_ByName:
			return u.ByName.GetName()
		case *pb.UserOpt_ByID:
			return fmt.Sprint(u.ByID)
		}
		return ""
	}
	user, group := text(o.GetUser()), text(o.GetGroup())
	if group != "" {
		return user + ":" + group
	}
	return user
}
