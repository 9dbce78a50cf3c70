package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Paths inside every host machine.
const (
	insideHome  = "/home/runner"
	insideWork  = insideHome + "/work"
	insideTemp  = insideWork + "/_temp"
	insideTools = "/opt/hostedtoolcache"
	insideFiles = "/run/runner"

	insidePrograms = "/run/penstock/bin"
)

// maxFiles bounds what a job may write to Info.Files, bytes: its command files. It is memory.
const maxFiles = 256 << 20

// Paths inside a machine that shows an image, as they are in GitHub's job containers (actions/runner
// ContainerInfo.cs).
const (
	imageHome  = "/github/home"
	imageWork  = "/__w"
	imageTemp  = imageWork + "/_temp"
	imageTools = "/__t"
)

// machine is an open machine of Host.
type machine struct {
	inner
	spec    Spec
	scratch *layer.Scratch
	files   *os.Root    // Info.Files
	life    *agent.Call // its second answer says that the machine has ended
	id      int         // the warden's number for it
	notes   []string
	relay   *relay
	group   *group
	saved   *snapshot // what it begins with

	layout

	beside     sync.Mutex
	containers map[*hostContainer]bool // that are open
	closed     bool                    // there can be no more

	close func() error
}

// Open implements Provider.
func (h *Host) Open(ctx context.Context, spec Spec) (Sandbox, error) {
	m, err := h.open(ctx, spec)
	if errors.Is(err, agent.ErrGone) {
		next, bad := h.successor(ctx)
		if next != nil {
			return next.Open(ctx, spec)
		}
		err = errors.Join(err, bad)
	}
	if err != nil {
		return nil, fmt.Errorf("open a machine for %s: %w", spec.Name, err)
	}
	return m, nil
}

func (h *Host) open(ctx context.Context, spec Spec) (_ *machine, err error) {
	if err := errors.Join(spec.check(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	var m *machine
	if spec.From == "" && spec.Image.Ref == "" {
		m = h.takeFirst()
	}
	if m == nil {
		if m, err = h.make(spec); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	m.spec = spec
	m.dir = m.workspace()
	if m.group, err = newGroup(string(layer.NewID()), spec.Limits); err == nil {
		err = m.group.add(m.id)
	}
	if errors.Is(err, errNoLimits) {
		m.notes = append(m.notes, err.Error())
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	if err := m.restore(ctx); err != nil {
		return nil, fmt.Errorf("restore the disk of %s: %w", spec.From, err)
	}
	return m, nil
}

// make makes a machine up to what its name and limits are needed for.
func (h *Host) make(spec Spec) (_ *machine, err error) {
	m := &machine{inner: inner{h: h}, spec: spec}
	m.close = sync.OnceValue(m.end)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.scratch, err = h.layers.Scratch(); err != nil {
		return nil, err
	}
	if err := m.scratch.Use(spec.Image.Layers...); err != nil {
		return nil, fmt.Errorf("show %s: %w", spec.Image.Ref, err)
	}
	if m.saved, err = m.load(spec.From); err != nil {
		return nil, err
	}
	mounts, err := m.layOut(m.saved.base())
	if err != nil {
		return nil, err
	}
	return m, m.start(mounts)
}

// makeFirst makes a machine before anyone asks: the first user waits longest, while this machine is still idle.
func (h *Host) makeFirst() {
	h.first = make(chan *machine, 1)
	go func() {
		m, err := h.make(Spec{Name: "first"})
		if err != nil {
			m = nil // who asks for one will hear why
		}
		h.first <- m
	}()
	h.spare.Store(true)
}

// takeFirst gives the machine that was made in advance, once; nil if there is none.
func (h *Host) takeFirst() *machine {
	if !h.spare.Swap(false) {
		return nil
	}
	return <-h.first
}

// start has the warden make the machine.
func (m *machine) start(mounts []agent.Mount) (err error) {
	if m.life, err = m.h.warden.Start(agent.OpOpen, &agent.Open{Mounts: mounts}); err != nil {
		return err
	}
	var opened agent.Opened
	files, err := m.life.Wait(context.Background(), &opened) // a machine that is made must be known, to end it
	if err == nil && len(files) != 2 {
		err = errors.New("a socket and a directory were to come")
	}
	if err != nil {
		m.life.End()
		m.life = nil
		return err
	}
	m.id = opened.Machine
	if m.agent, err = agent.NewClient(files[0]); err != nil {
		files[0].Close()
	}
	defer files[1].Close()
	var unopened error
	m.files, unopened = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", files[1].Fd()))
	return errors.Join(err, unopened)
}

func (m *machine) begin(ctx context.Context) error {
	begin := &agent.Begin{Hostname: m.spec.Name, Processes: m.spec.Limits.Processes, Dirs: []string{m.workspace()}}
	if m.spec.From == "" {
		begin.Hosts = m.h.base.hosts.with(append([]string{m.spec.Name}, m.spec.Names...)...)
	}
	if m.spec.Image.Ref != "" {
		begin.Dirs = append(begin.Dirs, imageHome, imageTemp, imageTools)
		begin.Resolver = resolvFile()
	}
	if begin.Processes == 0 {
		begin.Processes = defaultProcesses
	}
	var begun agent.Begun
	sockets, err := m.agent.Do(ctx, agent.OpBegin, begin, &begun)
	if err != nil {
		return err
	}
	if begun.Unreachable != "" {
		m.notes = append(m.notes, "this machine reaches no network but its own: "+begun.Unreachable)
	}
	return m.openNetwork(sockets)
}

func (m *machine) workspace() string {
	work := insideWork
	if m.spec.Image.Ref != "" {
		work = imageWork
	}
	return work + "/" + m.spec.Repo + "/" + m.spec.Repo
}

// Close implements Sandbox.
func (m *machine) Close(context.Context) error { return m.close() }

func (m *machine) end() error {
	err := m.endContainers()
	if m.life != nil {
		ctx := context.Background() // the kernel ends a killed process
		_, bad := m.h.warden.Do(ctx, agent.OpKill, &agent.Number{N: m.id}, nil)
		if bad == nil {
			_, bad = m.life.Wait(ctx, &agent.Ended{})
		}
		if !errors.Is(bad, agent.ErrGone) { // then the warden ended, and the machine with it
			err = errors.Join(err, bad)
		}
		m.life.End()
	}
	if m.agent != nil {
		m.agent.Close()
	}
	m.group.remove()
	if m.relay != nil {
		m.relay.close()
	}
	if m.files != nil {
		m.files.Close()
	}
	if m.scratch != nil {
		err = errors.Join(err, m.scratch.Release())
	}
	if err != nil {
		return fmt.Errorf("close the machine of %s: %w", m.spec.Name, err)
	}
	return nil
}

// Info implements Sandbox.
func (m *machine) Info() Info {
	system, arch := osArch()
	info := Info{
		Provider: "host", OS: system, Arch: arch,
		Workspace: m.workspace(), Temp: insideTemp, Files: insideFiles, ToolCache: insideTools, Home: insideHome,
		Path: m.h.base.path, Notes: m.notes,
	}
	if m.spec.Image.Ref != "" {
		info.Temp, info.ToolCache, info.Home, info.Path = imageTemp, imageTools, imageHome, agent.DefaultPath
	}
	return info
}

// Files implements Direct.
func (m *machine) Files() *os.Root { return m.files }

func (m *machine) writeDirect(rel string, data []byte, mode os.FileMode) error {
	return writeDirect(m.files, rel, data, mode, func(f *os.File) error {
		if !m.h.shifted() {
			return nil
		}
		return f.Chown(m.h.owner, m.h.owner)
	})
}
