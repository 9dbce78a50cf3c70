package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// dockerContainer is a running container whose first process does nothing.
type dockerContainer struct {
	d     *Docker
	name  string // at the daemon
	image *dockerImage
	info  Info
	home  string // the directory of commands that name none
	here  bool   // the daemon's processes are this host's, and this user may end them
	close func() error

	mu     sync.Mutex
	closed bool
}

// dockerMachine is an open machine of Docker.
type dockerMachine struct {
	dockerContainer
	network string   // made for this machine alone; empty if it joined another
	targets []string // where its volumes are mounted
	volumes map[string]string

	hosting  sync.Mutex
	contains []*dockerContainer
	beside   func() error // lets go of what local opened
}

// A machine's directories are where GitHub's runner mounts them in job containers (actions/runner ContainerInfo.cs), each
// on a volume of its own so that containers beside it can have them too.
const (
	dockerWork  = "/__w"
	dockerTemp  = "/__w/_temp"
	dockerTools = "/__t"
	dockerHome  = "/github/home"
	dockerFiles = "/run/runner"
)

func newDockerMachine(d *Docker, image *dockerImage, spec Spec) *dockerMachine {
	workspace := path.Join(dockerWork, spec.Repo, spec.Repo)
	m := &dockerMachine{
		dockerContainer: dockerContainer{d: d, name: dockerName(spec.Name), image: image, home: workspace},
		targets:         []string{dockerWork, workspace, dockerTemp, dockerTools, dockerHome, dockerFiles},
		beside:          func() error { return nil },
	}
	m.info = Info{
		Provider: "docker", OS: image.os, Arch: image.arch, Path: image.path,
		Workspace: workspace, Temp: dockerTemp, ToolCache: dockerTools, Home: dockerHome, Files: dockerFiles,
	}
	m.close = sync.OnceValue(m.end)
	return m
}

func (m *dockerMachine) start(ctx context.Context, spec Spec) error {
	network := m.d.o.Network
	if network == "" {
		m.network = m.name
		network = m.name
		if _, err := m.d.api.NetworkCreate(ctx, m.network, client.NetworkCreateOptions{Driver: "bridge", Labels: m.d.labels(spec.Name)}); err != nil {
			return fmt.Errorf("make a network: %w", err)
		}
	}
	host := &container.HostConfig{NetworkMode: container.NetworkMode(network), Resources: resources(spec.Limits)}
	for _, name := range spec.Names {
		host.ExtraHosts = append(host.ExtraHosts, name+":127.0.0.1")
	}
	for _, target := range m.targets {
		var driver *mount.Driver
		if target == dockerFiles {
			driver = inMemory
		}
		host.Mounts = append(host.Mounts, anonymous(target, m.d.labels(spec.Name), driver))
	}
	if err := m.run(ctx, spec.Name, &container.Config{Hostname: spec.Name}, host, nil); err != nil {
		return err
	}
	got, err := m.d.api.ContainerInspect(ctx, m.name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	m.volumes = map[string]string{}
	for _, v := range got.Container.Mounts {
		m.volumes[path.Clean(v.Destination)] = v.Name
	}
	return nil
}

// inMemory makes a volume that is never on disk.
var inMemory = &mount.Driver{Name: "local", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=256m,mode=0755"}}

// resources gives limits in Docker's words.
func resources(l Limits) container.Resources {
	tasks := int64(l.Processes)
	if tasks == 0 {
		tasks = defaultTasks
	}
	return container.Resources{Memory: l.Memory, MemorySwap: l.Memory, NanoCPUs: int64(l.CPUs * 1e9), PidsLimit: &tasks}
}

// defaultTasks guards against fork bombs where a spec says nothing.
const defaultTasks = 8192

// run makes and starts the container. Its first process is docker-init, which takes in orphans, over one that sleeps.
// aliases are links to be made in it before.
func (c *dockerContainer) run(ctx context.Context, label string, config *container.Config, host *container.HostConfig, aliases []alias) error {
	config.Image = c.image.id
	config.User = "0"
	config.WorkingDir = "/"
	config.Entrypoint = c.image.sleeper()
	config.Env = c.image.unset(nil)
	config.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
	config.Labels = c.d.labels(label)
	yes := true
	host.Init = &yes
	if _, err := c.d.api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: config, HostConfig: host, Name: c.name}); err != nil {
		return fmt.Errorf("make a container: %w", err)
	}
	if files := c.image.additions(aliases); files != nil {
		_, err := c.d.api.CopyToContainer(ctx, c.name, client.CopyToContainerOptions{DestinationPath: "/", Content: files, AllowOverwriteDirWithFile: true})
		if err != nil {
			return fmt.Errorf("prepare a container: %w", err)
		}
	}
	if _, err := c.d.api.ContainerStart(ctx, c.name, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start a container: %w", err)
	}
	return nil
}

// noServices tells the user what a machine lacks whose network this process can not listen in.
const noServices = "the Docker daemon does not run on this host for this user: actions find no services of this runner, such as artifacts and caches"

// Info implements Sandbox.
func (c *dockerContainer) Info() Info { return c.info }

// Close implements Sandbox.
func (c *dockerContainer) Close(context.Context) error { return c.close() }

func (c *dockerContainer) end() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
	defer cancel()
	return c.d.removeContainer(ctx, c.name)
}

func (m *dockerMachine) end() error {
	m.hosting.Lock()
	contains := m.contains
	m.contains = nil
	beside := m.beside
	m.beside = func() error { return nil }
	m.hosting.Unlock()
	err := beside()
	for _, c := range contains {
		err = errors.Join(err, c.close())
	}
	err = errors.Join(err, m.dockerContainer.end())
	if m.network != "" {
		ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
		defer cancel()
		err = errors.Join(err, m.d.removeNetwork(ctx, m.network))
	}
	m.d.forget(m)
	if err != nil {
		return fmt.Errorf("close a machine: %w", err)
	}
	return nil
}

// removeContainer ends a container and removes it with its anonymous volumes. One that is not there is removed.
func (d *Docker) removeContainer(ctx context.Context, id string) error {
	for {
		_, err := d.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if !errdefs.IsConflict(err) { // another one is removing it: this ends when it has
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *Docker) removeNetwork(ctx context.Context, id string) error {
	if _, err := d.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// alive is an error once the container is closed.
func (c *dockerContainer) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the machine is closed")
	}
	return nil
}

// Contain implements Hosting. Without Image.Ref the container shows the machine's own image. It has the machine's network and with it its host name. What it can share of the
// machine's files is what lies on volumes: the directories that Info names, and /__w.
func (m *dockerMachine) Contain(ctx context.Context, c Container) (Sandbox, error) {
	sb, err := m.contain(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start a container for %s: %w", c.Name, err)
	}
	return sb, nil
}

func (m *dockerMachine) contain(ctx context.Context, spec Container) (*dockerContainer, error) {
	if !specName.MatchString(spec.Name) {
		return nil, fmt.Errorf("the name %q is no host name", spec.Name)
	}
	if err := errors.Join(context.Cause(ctx), m.alive()); err != nil {
		return nil, err
	}
	image := m.image
	var err error
	switch {
	case spec.Image.Ref != "":
		image, err = m.d.image(ctx, spec.Image.Ref)
	case len(spec.Image.Layers) > 0:
		err = fmt.Errorf("show layers without a name: %w", ErrNoImages)
	}
	if err != nil {
		return nil, err
	}
	mounts, aliases, err := m.shares(ctx, spec.Mounts)
	if err != nil {
		return nil, err
	}
	c := &dockerContainer{d: m.d, name: dockerName(spec.Name), image: image, home: "/", here: m.here}
	c.info = Info{Provider: "docker", OS: image.os, Arch: image.arch, Path: image.path}
	c.close = sync.OnceValue(c.end)
	m.hosting.Lock()
	m.contains = append(m.contains, c)
	m.hosting.Unlock()
	host := &container.HostConfig{NetworkMode: container.NetworkMode("container:" + m.name), Resources: resources(spec.Limits), Mounts: mounts}
	if err = m.alive(); err == nil { // it may have been closed before it knew of c
		err = c.run(ctx, spec.Name, &container.Config{}, host, aliases)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// alias is a link in a container.
type alias struct{ from, to string }

// shares turns mounts into Docker's.
func (m *dockerMachine) shares(ctx context.Context, wanted []Mount) (mounts []mount.Mount, aliases []alias, err error) {
	s := &sharing{m: m, hidden: map[mount.Mount]bool{}}
	for _, w := range wanted {
		w.Target = path.Clean(w.Target)
		if !path.IsAbs(w.Target) || w.Target == "/" {
			return nil, nil, fmt.Errorf("mount at %q: not an absolute path below the root", w.Target)
		}
		if w.Source == "" {
			size := w.Size
			if size == 0 {
				size = 64 << 20
			}
			s.mounts = append(s.mounts, mount.Mount{Type: mount.TypeTmpfs, Target: w.Target, ReadOnly: w.ReadOnly, TmpfsOptions: &mount.TmpfsOptions{SizeBytes: size}})
			continue
		}
		w.Source = path.Clean(w.Source)
		if err := s.volume(ctx, w); err != nil {
			return nil, nil, fmt.Errorf("mount %s at %s: %w", w.Source, w.Target, err)
		}
	}
	return s.mounts, s.aliases, nil
}

type sharing struct {
	m       *dockerMachine
	mounts  []mount.Mount
	aliases []alias
	hidden  map[mount.Mount]bool // whole volumes that aliases lead into
}

// volume shares the volume that w.Source lies on, and those mounted below it.
func (s *sharing) volume(ctx context.Context, w Mount) error {
	at, rest := s.m.volumeOf(w.Source)
	if at == "" {
		return fmt.Errorf("Docker shares only what lies below %s: put it there", strings.Join(s.m.targets, ", "))
	}
	if rest != "" {
		if err := s.m.makeDir(ctx, w.Source); err != nil {
			return err
		}
	}
	switch {
	case rest == "":
		s.add(mount.Mount{Type: mount.TypeVolume, Source: s.m.volumes[at], Target: w.Target, ReadOnly: w.ReadOnly}, "")
	case s.m.d.hasSubpath():
		s.add(mount.Mount{Type: mount.TypeVolume, Source: s.m.volumes[at], Target: w.Target, ReadOnly: w.ReadOnly}, rest)
	default:
		s.alias(at, rest, w)
	}
	for _, other := range s.m.targets {
		if below, ok := strings.CutPrefix(other, w.Source+"/"); ok {
			s.add(mount.Mount{Type: mount.TypeVolume, Source: s.m.volumes[other], Target: path.Join(w.Target, below), ReadOnly: w.ReadOnly}, "")
		}
	}
	return nil
}

func (s *sharing) add(v mount.Mount, subpath string) {
	v.VolumeOptions = &mount.VolumeOptions{NoCopy: true, Subpath: subpath}
	s.mounts = append(s.mounts, v)
}

// alias shows a part of a volume where the daemon can mount only whole ones: by a link into the whole. A bind mount of
// the volume's place on the daemon's host would follow links that the job has put there, out of the volume.
func (s *sharing) alias(at, rest string, w Mount) {
	hide := mount.Mount{Type: mount.TypeVolume, Source: s.m.volumes[at], Target: path.Join("/run/penstock", s.m.volumes[at]), ReadOnly: w.ReadOnly}
	if w.ReadOnly {
		hide.Target += "-ro"
	}
	if !s.hidden[hide] {
		s.hidden[hide] = true
		s.add(hide, "")
	}
	s.aliases = append(s.aliases, alias{w.Target, path.Join(hide.Target, rest)})
}

// volumeOf gives the mount point of the volume that a path lies on, and what is left of the path there.
func (m *dockerMachine) volumeOf(name string) (at, rest string) {
	for _, target := range m.targets {
		if name == target {
			return target, ""
		}
		if below, ok := strings.CutPrefix(name, target+"/"); ok && len(target) > len(at) {
			at, rest = target, below
		}
	}
	return at, rest
}
