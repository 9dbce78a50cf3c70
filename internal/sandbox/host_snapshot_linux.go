package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// flattenAt is the number of layers of one place at which they are made into one: a stack is a page of text when it is
// mounted, and every layer makes walking a tree slower.
const flattenAt = 48

// snapshot is the note of a layer that stands for a whole disk. It has no files of its own; the layers below are all
// that the places name.
type snapshot struct {
	Places []savedPlace `json:"places"`
}

type savedPlace struct {
	At      string     `json:"at"`
	Layers  []layer.ID `json:"layers,omitempty"`
	Mounted bool       `json:"mounted,omitempty"`
	Dir     string     `json:"dir,omitempty"`
	Hide    []string   `json:"hide,omitempty"`
	Base    bool       `json:"base,omitempty"`
}

// base gives the layers of the places that every machine has.
func (s *snapshot) base() map[string][]layer.ID {
	layers := map[string][]layer.ID{}
	for _, p := range s.Places {
		if p.Base {
			layers[p.At] = p.Layers
		}
	}
	return layers
}

// Snapshot implements Layered. The disk is the machine's own and the places of Mount and Overlay. What the host's part of it is when a machine begins with the snapshot, it is then: the tools of this machine and the files of
// an overlaid directory as they are at that time.
func (m *machine) Snapshot(ctx context.Context) (layer.ID, error) {
	m.disk.Lock()
	defer m.disk.Unlock()
	id, err := m.snapshot(ctx)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", m.spec.Name, err)
	}
	return id, nil
}

func (m *machine) snapshot(ctx context.Context) (layer.ID, error) {
	if m.broken != nil {
		return "", m.broken
	}
	if !m.used.Load() {
		var err error
		if m.last == "" {
			m.last, err = m.describe()
		}
		return m.last, err
	}
	if m.shares() {
		return "", ErrBusy
	}
	if err := m.idle(ctx); err != nil {
		return "", err
	}
	dirty := m.dirty(m.places)
	if len(dirty) == 0 && m.last != "" {
		return m.last, nil
	}
	if err := m.freeze(ctx, dirty); err != nil {
		m.broken = err
		return "", err
	}
	var err error
	m.last, err = m.describe()
	return m.last, err
}

// idle returns ErrBusy while a process of an earlier command is alive.
func (m *machine) idle(ctx context.Context) error {
	var idle agent.Flags
	if _, err := m.agent.Do(ctx, agent.OpIdle, nil, &idle); err != nil {
		return err
	}
	if len(idle.Flags) != 1 || !idle.Flags[0] {
		return ErrBusy
	}
	return nil
}

// dirty gives those of the places that were written to: whose upper directory has something in it, or can not be
// looked into any more.
func (m *machine) dirty(places []*place) []*place {
	var dirty []*place
	for _, p := range places {
		d, err := os.Open(filepath.Join(m.h.layers.Dir(), p.upper))
		if err == nil {
			_, err = d.Readdirnames(1)
			d.Close()
		}
		if err != io.EOF {
			dirty = append(dirty, p)
		}
	}
	return dirty
}

// freeze makes layers of what was written to places, and has writes go on top. If it fails the disk can not be frozen
// again: something goes on writing to a layer.
func (m *machine) freeze(ctx context.Context, places []*place) error {
	if len(places) == 0 {
		return nil
	}
	req := &agent.Attach{Machine: m.id}
	for _, p := range places {
		mount, err := m.freezeOne(p)
		if err != nil {
			return err
		}
		req.Mounts = append(req.Mounts, mount)
	}
	_, err := m.h.warden.Do(ctx, agent.OpSwap, req, nil)
	return err
}

func (m *machine) freezeOne(p *place) (agent.Mount, error) {
	whole := p.mounted && !p.beneath && len(p.layers) == 0
	id, err := m.h.layers.Add(filepath.Join(m.h.layers.Dir(), p.upper), layer.Layer{Below: p.layers, Whole: whole, Owner: m.h.owner})
	if err != nil {
		return agent.Mount{}, err
	}
	p.layers = append(slices.Clip(p.layers), id)
	if len(p.layers) >= flattenAt {
		if flat, err := m.h.layers.Flatten(p.layers...); err == nil { // else the stack grows, and may yet be mounted
			p.layers = []layer.ID{flat}
		}
	}
	if err := m.scratch.Use(p.layers[len(p.layers)-1]); err != nil {
		return agent.Mount{}, err
	}
	return m.mount(p)
}

// describe makes the layer that stands for the disk as it is.
func (m *machine) describe() (layer.ID, error) {
	var s snapshot
	var below []layer.ID
	for i, p := range m.places {
		s.Places = append(s.Places, savedPlace{
			At: p.at, Layers: p.layers, Mounted: p.mounted, Dir: p.dir, Hide: p.hide, Base: i < len(m.basePlaces()),
		})
		below = append(below, p.layers...)
	}
	note, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	m.next++
	dir := filepath.Join(m.scratch.Dir(), "u", fmt.Sprintf("%d-disk", m.next))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	id, err := m.h.layers.Add(dir, layer.Layer{Below: below, Owner: m.h.owner, Note: note})
	if err != nil {
		return "", err
	}
	return id, m.scratch.Use(id)
}

// copyOut copies a directory of the machine to the scratch directory. The machine itself copies: links lead nowhere
// else.
func (m *machine) copyOut(ctx context.Context, from string) (string, error) {
	m.next++
	dir := filepath.Join(m.scratch.Dir(), "u", fmt.Sprintf("%d-copy", m.next))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := m.h.give(dir, 0o755, 0, 0); err != nil {
		return "", err
	}
	return dir, m.copyBetween(ctx, dir, func(at string) *agent.Paths { return &agent.Paths{Paths: []string{from, at}} })
}

// copyBetween shows a directory of the host to the machine for the time of a copy.
func (m *machine) copyBetween(ctx context.Context, dir string, paths func(at string) *agent.Paths) (err error) {
	at := "/dev/." + path.Base(dir) // a file system of its own, which no snapshot covers
	if _, err := m.agent.Do(ctx, agent.OpMkdir, &agent.Mkdir{Path: at}, &agent.Made{}); err != nil {
		return err
	}
	req := &agent.Attach{Machine: m.id, Mounts: []agent.Mount{{At: at, Bind: dir}}}
	if _, err := m.h.warden.Do(ctx, agent.OpAttach, req, nil); err != nil {
		return err
	}
	_, err = m.agent.Do(ctx, agent.OpCopy, paths(at), nil)
	_, bad := m.h.warden.Do(context.WithoutCancel(ctx), agent.OpDetach, req, nil)
	return errors.Join(err, bad)
}

// Capture implements Layered. If no process of an earlier command is alive and nothing is mounted below, what Mount put
// at the path is renamed, and of a directory that the job made the parts of the frozen disk are shown; else the files
// are copied.
func (m *machine) Capture(ctx context.Context, at string) (layer.ID, error) {
	m.disk.Lock()
	defer m.disk.Unlock()
	id, err := m.capture(ctx, path.Clean(at))
	if err != nil {
		return "", fmt.Errorf("capture %s: %w", at, err)
	}
	return id, nil
}

func (m *machine) capture(ctx context.Context, at string) (layer.ID, error) {
	p := m.mountedAt(at)
	if p != nil {
		err := m.idle(ctx)
		if err != nil && !errors.Is(err, ErrBusy) {
			return "", err
		}
		if err == nil {
			m.last = ""
			if err := m.freeze(ctx, []*place{p}); err != nil {
				m.broken = err
				return "", err
			}
			return p.layers[len(p.layers)-1], nil
		}
	}
	if id, err := m.capturePart(ctx, at); id != "" || err != nil {
		return id, err
	}
	dir, err := m.copyOut(ctx, at)
	if err != nil {
		return "", err
	}
	id, err := m.h.layers.Add(dir, layer.Layer{Whole: true, Owner: m.h.owner})
	if err != nil {
		return "", err
	}
	return id, m.scratch.Use(id)
}

// mountedAt gives the place of Mount at a path, if its layers are all that is there.
func (m *machine) mountedAt(at string) *place {
	var found *place
	for _, p := range m.places {
		switch {
		case p.at == at:
			found = p
		case found != nil && within(at, p.at):
			return nil
		}
	}
	if found == nil || !found.mounted || found.beneath {
		return nil
	}
	return found
}

// load reads a snapshot, and keeps its layers while the machine lives.
func (m *machine) load(id layer.ID) (*snapshot, error) {
	s := &snapshot{}
	if id == "" {
		return s, nil
	}
	l, err := m.h.layers.Layer(id)
	if err != nil {
		return nil, err
	}
	if l.Note == nil {
		return nil, fmt.Errorf("layer %s is no snapshot of a machine", id)
	}
	if err := json.Unmarshal(l.Note, s); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if l.Owner != m.h.owner {
		return nil, fmt.Errorf("snapshot %s holds the files of another user", id)
	}
	return s, m.scratch.Use(append(l.Below, id)...)
}

// restore puts back what a snapshot has beyond the places of every machine.
func (m *machine) restore(ctx context.Context) error {
	for _, p := range m.saved.Places {
		var err error
		switch {
		case p.Base:
		case p.Mounted:
			err = m.Mount(ctx, p.At, p.Layers...)
		default:
			err = m.overlay(ctx, p.At, p.Dir, p.Hide, p.Layers)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
