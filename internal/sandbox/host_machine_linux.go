package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
)

// machine is an open machine of Host.
type machine struct {
	h       *Host
	spec    Spec
	scratch *layer.Scratch
	files   *os.Root // the host's side of Info.Temp
	agent   *agent.Client
	life    *agent.Call // its second answer says that the machine has ended
	id      int         // the warden's number for it
	notes   []string

	disk sync.RWMutex // held for writing while the disk is rearranged; commands start with it held for reading
	layout

	close func() error
}

// Open implements Provider.
func (h *Host) Open(ctx context.Context, spec Spec) (Sandbox, error) {
	m, err := h.open(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("open a machine for %s: %w", spec.Name, err)
	}
	return m, nil
}

func (h *Host) open(ctx context.Context, spec Spec) (_ *machine, err error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	m := &machine{h: h, spec: spec}
	m.close = sync.OnceValue(m.end)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.scratch, err = h.layers.Scratch(); err != nil {
		return nil, err
	}
	mounts, err := m.layOut()
	if err != nil {
		return nil, err
	}
	if err := m.start(ctx, mounts); err != nil {
		return nil, err
	}
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// start has the warden make the machine.
func (m *machine) start(ctx context.Context, mounts []agent.Mount) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	if m.agent, err = agent.NewClient(ours); err != nil {
		ours.Close()
		return err
	}
	if m.life, err = m.h.warden.Start(agent.OpOpen, &agent.Open{Mounts: mounts}, int(theirs.Fd())); err != nil {
		return err
	}
	var opened agent.Opened
	if _, err := m.life.Wait(ctx, &opened); err != nil {
		m.life.End()
		m.life = nil
		return err
	}
	m.id = opened.Machine
	return nil
}

func (m *machine) begin(ctx context.Context) error {
	processes := m.spec.Limits.Processes
	if processes == 0 {
		processes = defaultProcesses
	}
	if _, err := m.agent.Do(ctx, agent.OpBegin, &agent.Begin{Hostname: m.spec.Name, Processes: processes}, nil); err != nil {
		return err
	}
	_, err := m.agent.Do(ctx, agent.OpMkdir, &agent.Mkdir{Path: m.workspace()}, &agent.Made{})
	return err
}

func (m *machine) workspace() string { return insideWork + "/" + m.spec.Repo + "/" + m.spec.Repo }

// Close implements Sandbox.
func (m *machine) Close(context.Context) error { return m.close() }

func (m *machine) end() error {
	var err error
	if m.life != nil {
		ctx := context.Background() // the kernel ends a killed process
		if _, err = m.h.warden.Do(ctx, agent.OpKill, &agent.Number{N: m.id}, nil); err == nil {
			_, err = m.life.Wait(ctx, &agent.Ended{})
		}
		if errors.Is(err, agent.ErrGone) {
			err = nil // the warden ended, and the machine with it
		}
		m.life.End()
	}
	if m.agent != nil {
		m.agent.Close()
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
	return Info{
		Provider: "host", OS: system, Arch: arch,
		Workspace: m.workspace(), Temp: insideTemp, ToolCache: insideTools, Home: insideHome,
		Path: m.h.base.path, Notes: m.notes,
	}
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

// layout is what a machine's disk is made of.
type layout struct {
	places []*place // the root first
	next   int      // number of the next upper directory
}

// place is one overlay of a machine.
type place struct {
	at     string
	lowers []agent.Lower // the host's part, the topmost first
	like   string        // the host's directory whose owner and mode the place has
	layers []layer.ID    // what earlier snapshots and captures froze, the lowest first
	upper  string        // number of its writable directory, in the scratch directory
}

// layOut prepares the directories of a fresh machine and gives its mounts.
func (m *machine) layOut() ([]agent.Mount, error) {
	for _, p := range m.h.base.places {
		m.places = append(m.places, &place{at: p.at, lowers: p.lowers, like: p.like})
	}
	for _, d := range []string{"u", "w", "temp"} {
		if err := os.Mkdir(filepath.Join(m.scratch.Dir(), d), 0o700); err != nil {
			return nil, err
		}
	}
	temp := filepath.Join(m.scratch.Dir(), "temp")
	if err := m.h.give(temp, 0o755, 0, 0); err != nil {
		return nil, err
	}
	var err error
	if m.files, err = os.OpenRoot(temp); err != nil {
		return nil, err
	}
	var mounts []agent.Mount
	for _, p := range m.places {
		mount, err := m.mount(p)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return append(mounts, agent.Mount{At: insideTemp, Bind: temp}), nil
}

// mount gives a place a fresh upper directory and tells how to mount it.
func (m *machine) mount(p *place) (agent.Mount, error) {
	m.next++
	p.upper = strconv.Itoa(m.next)
	upper, work := filepath.Join(m.scratch.Dir(), "u", p.upper), filepath.Join(m.scratch.Dir(), "w", p.upper)
	if err := os.Mkdir(upper, 0o755); err != nil {
		return agent.Mount{}, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return agent.Mount{}, err
	}
	mode, uid, gid := os.FileMode(0o755), 0, 0
	if p.like != "" {
		var err error
		if mode, uid, gid, err = m.h.insideOwner(p.like); err != nil {
			return agent.Mount{}, err
		}
	}
	if err := m.h.give(upper, mode, uid, gid); err != nil {
		return agent.Mount{}, err
	}
	mount := agent.Mount{At: p.at, Upper: m.relative(upper), Work: m.relative(work)}
	for i := len(p.layers) - 1; i >= 0; i-- {
		mount.Lowers = append(mount.Lowers, agent.Lower{Path: layer.Path(p.layers[i])})
	}
	mount.Lowers = append(mount.Lowers, p.lowers...)
	return mount, nil
}

// relative shortens a path in the store for the warden.
func (m *machine) relative(name string) string {
	short, err := filepath.Rel(m.h.layers.Dir(), name)
	if err != nil {
		return name
	}
	return short
}
