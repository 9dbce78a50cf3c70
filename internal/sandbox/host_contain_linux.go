package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// hostContainer is a container beside a machine.
type hostContainer struct {
	inner
	m       *machine
	spec    Container
	scratch *layer.Scratch
	upper   string      // where writes to the root go
	life    *agent.Call // its second answer says that the container has ended
	id      int         // the warden's number for it
	made    []string    // in the root, for mounts

	group *group // of its own; the machine's if it has no limits

	changed bool         // Changes has taken the writes
	stop    func() error // ends all processes
	close   func() error
}

// sharedMounts are what all containers have of their machine: the network is the same.
var sharedMounts = []Mount{
	{Target: "/etc/hosts", Source: "/etc/hosts"}, {Target: "/etc/resolv.conf", Source: "/etc/resolv.conf"},
	{Target: "/sys", Source: "/sys", ReadOnly: true},
}

// defaultMemory is the size of a mount in memory that says none, bytes.
const defaultMemory = 64 << 20

// Contain implements Hosting.
func (m *machine) Contain(ctx context.Context, spec Container) (Sandbox, error) {
	c, err := m.contain(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start container %s: %w", spec.Name, err)
	}
	return c, nil
}

func (m *machine) contain(ctx context.Context, spec Container) (_ *hostContainer, err error) {
	if err := errors.Join(spec.check(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	c := &hostContainer{inner: inner{h: m.h, dir: "/"}, m: m, spec: spec}
	c.stop, c.close = sync.OnceValue(c.kill), sync.OnceValue(c.end)
	if err := m.admit(c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.scratch, err = m.h.layers.Scratch(); err != nil {
		return nil, err
	}
	if err := c.scratch.Use(spec.Image.Layers...); err != nil {
		return nil, fmt.Errorf("show %s: %w", spec.Image.Ref, err)
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	if c.group, err = newGroup(string(layer.NewID()), spec.Limits); err != nil && !errors.Is(err, errNoLimits) {
		return nil, err
	}
	in := c.group
	if in == nil {
		in = m.group
	}
	if err := in.add(c.id); err != nil {
		return nil, err
	}
	begin := &agent.Begin{Hostname: spec.Name, Processes: spec.Limits.Processes}
	if begin.Processes == 0 {
		begin.Processes = defaultProcesses
	}
	if _, err := c.agent.Do(ctx, agent.OpBegin, begin, &agent.Begun{}); err != nil {
		return nil, err
	}
	for _, mount := range append(slices.Clone(sharedMounts), spec.Mounts...) {
		if err := c.attach(ctx, mount); err != nil {
			return nil, fmt.Errorf("mount %s: %w", mount.Target, err)
		}
	}
	return c, nil
}

// admit notes that the machine has a container.
func (m *machine) admit(c *hostContainer) error {
	m.beside.Lock()
	defer m.beside.Unlock()
	if m.closed {
		return agent.ErrGone
	}
	if m.containers == nil {
		m.containers = map[*hostContainer]bool{}
	}
	m.containers[c] = true
	return nil
}

// shares says whether a container that is open shows a part of the machine's disk.
func (m *machine) shares() bool {
	m.beside.Lock()
	defer m.beside.Unlock()
	for c := range m.containers {
		if slices.ContainsFunc(c.spec.Mounts, func(mount Mount) bool { return mount.Source != "" }) {
			return true
		}
	}
	return false
}

// endContainers closes the containers that are open, all at once.
func (m *machine) endContainers() error {
	m.beside.Lock()
	open := m.containers
	m.containers, m.closed = nil, true
	m.beside.Unlock()
	var ending sync.WaitGroup
	errs := make(chan error, len(open))
	for c := range open {
		ending.Go(func() { errs <- c.close() })
	}
	ending.Wait()
	close(errs)
	var err error
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

func (c *Container) check() error {
	if !specName.MatchString(c.Name) {
		return fmt.Errorf("the name %q is no host name", c.Name)
	}
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" || m.Source != "" && !path.IsAbs(m.Source) {
			return fmt.Errorf("mount %q at %q: not absolute paths below the root", m.Source, m.Target)
		}
	}
	return nil
}

// start has the warden make the container.
func (c *hostContainer) start() error {
	mounts, err := c.roots()
	if err != nil {
		return err
	}
	if c.life, err = c.h.warden.Start(agent.OpOpen, &agent.Open{Mounts: mounts, Beside: c.m.id}); err != nil {
		return err
	}
	var opened agent.Opened
	files, err := c.life.Wait(context.Background(), &opened) // a container that is made must be known, to end it
	if err == nil && len(files) != 1 {
		err = errors.New("a socket was to come")
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		c.life.End()
		c.life = nil
		return err
	}
	c.id = opened.Machine
	if c.agent, err = agent.NewClient(files[0]); err != nil {
		files[0].Close()
	}
	return err
}

// roots prepares the overlays: the image's, or those of the host.
func (c *hostContainer) roots() ([]agent.Mount, error) {
	places := c.h.base.image
	if c.spec.Image.Ref == "" {
		places = c.h.base.places
	}
	c.upper = filepath.Join(c.scratch.Dir(), "u", "0")
	for _, dir := range []string{"u", "w"} {
		if err := os.Mkdir(filepath.Join(c.scratch.Dir(), dir), 0o700); err != nil {
			return nil, err
		}
	}
	var mounts []agent.Mount
	for i, b := range places {
		p := &place{at: b.at, lowers: b.lowers, nest: b.nest, like: b.like}
		if b.at == "/" {
			p.layers = distinct(c.spec.Image.Layers)
		}
		mount, err := c.m.overlayOf(p, c.scratch.Dir(), i)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// attach puts a mount into the container.
func (c *hostContainer) attach(ctx context.Context, m Mount) error {
	mount := agent.Mount{At: path.Clean(m.Target), Source: m.Source, ReadOnly: m.ReadOnly}
	var source agent.Made
	if m.Source != "" {
		if _, err := c.m.agent.Do(ctx, agent.OpMkdir, &agent.Mkdir{Path: m.Source}, &source); err != nil {
			return err
		}
	} else if mount.Memory = int(m.Size); m.Size <= 0 {
		mount.Memory = defaultMemory
	}
	var made agent.Paths
	if _, err := c.agent.Do(ctx, agent.OpPoint, &agent.Point{Path: mount.At, File: source.File}, &made); err != nil {
		return err
	}
	c.made = append(c.made, made.Paths...)
	_, err := c.h.warden.Do(ctx, agent.OpAttach, &agent.Attach{Machine: c.id, Mounts: []agent.Mount{mount}}, nil)
	return err
}

// Info implements Sandbox.
func (c *hostContainer) Info() Info {
	system, arch := osArch()
	return Info{Provider: "host", OS: system, Arch: arch, Path: agent.DefaultPath}
}

// Close implements Sandbox.
func (c *hostContainer) Close(context.Context) error { return c.close() }

func (c *hostContainer) end() error {
	c.m.beside.Lock()
	delete(c.m.containers, c)
	c.m.beside.Unlock()
	err := c.stop()
	if c.scratch != nil {
		err = errors.Join(err, c.scratch.Release())
	}
	if err != nil {
		return fmt.Errorf("close container %s: %w", c.spec.Name, err)
	}
	return nil
}

// kill ends all processes of the container.
func (c *hostContainer) kill() error {
	var err error
	if c.life != nil {
		ctx := context.Background() // the kernel ends a killed process
		if _, err = c.h.warden.Do(ctx, agent.OpKill, &agent.Number{N: c.id}, nil); err == nil {
			_, err = c.life.Wait(ctx, &agent.Ended{})
		}
		if errors.Is(err, agent.ErrGone) {
			err = nil // the warden ended, and the container with it
		}
		c.life.End()
	}
	if c.agent != nil {
		c.agent.Close()
	}
	c.group.remove()
	return err
}

// Files implements Builder.
func (c *hostContainer) Files(ctx context.Context, actions []agent.FileAction) error {
	c.disk.RLock()
	defer c.disk.RUnlock()
	_, err := c.agent.Do(ctx, agent.OpFiles, &agent.Files{Actions: actions}, nil)
	return err
}

// Changes implements Changed.
func (c *hostContainer) Changes(ctx context.Context) (layer.ID, error) {
	return c.take(ctx, c.idle)
}

// Finish implements Builder.
func (c *hostContainer) Finish(ctx context.Context) (layer.ID, error) {
	return c.take(ctx, func(ctx context.Context) error { return context.Cause(ctx) })
}

func (c *hostContainer) take(ctx context.Context, ready func(context.Context) error) (layer.ID, error) {
	id, err := c.changes(ctx, ready)
	if err != nil {
		return "", fmt.Errorf("take the changes of container %s: %w", c.spec.Name, err)
	}
	return id, nil
}

// idle returns ErrBusy while a process is alive.
func (c *hostContainer) idle(ctx context.Context) error {
	var idle agent.Flags
	if _, err := c.agent.Do(ctx, agent.OpIdle, nil, &idle); err != nil {
		return err
	}
	if len(idle.Flags) != 1 || !idle.Flags[0] {
		return ErrBusy
	}
	return nil
}

func (c *hostContainer) changes(ctx context.Context, ready func(context.Context) error) (layer.ID, error) {
	c.disk.Lock()
	defer c.disk.Unlock()
	if c.changed {
		return "", errors.New("they have been taken")
	}
	if err := ready(ctx); err != nil {
		return "", err
	}
	c.changed = true
	if err := c.stop(); err != nil { // with its mount namespace the overlay goes
		return "", err
	}
	if err := c.removeMade(); err != nil {
		return "", err
	}
	if entries, err := os.ReadDir(c.upper); err != nil || len(entries) == 0 {
		return "", err
	}
	id, err := c.h.layers.Add(c.upper, layer.Layer{Below: c.spec.Image.Layers, Owner: c.h.owner})
	if err != nil {
		return "", err
	}
	return id, c.m.scratch.Use(id)
}

// removeMade takes away what was made for mounts, where nothing else was put into it.
func (c *hostContainer) removeMade() error {
	root, err := os.OpenRoot(c.upper)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range slices.Backward(c.made) {
		info, err := root.Lstat(name[1:])
		if err == nil && (info.IsDir() || info.Mode().IsRegular() && info.Size() == 0) {
			_ = root.Remove(name[1:]) // a directory that something was put into stays
		}
	}
	return nil
}
