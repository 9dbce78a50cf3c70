package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// layout is what a machine's disk is made of.
type layout struct {
	places []*place // the root first
	next   int      // number of the next upper directory
	last   layer.ID // the snapshot that the disk is equal to, unless something was written; empty if there is none
	broken error    // why the disk can be frozen no more
}

// place is one part of a machine's disk: an overlay, or a plain directory if it has nothing below.
type place struct {
	at      string
	like    string        // the host's directory whose owner and mode the place has, if any
	lowers  []agent.Lower // the host's part, the topmost first
	nest    bool          // the store lies in it
	layers  []layer.ID    // what lies on that, frozen, the lowest first
	upper   string        // where writes go, relative to the store
	mounted bool          // by Mount
	beneath bool          // what was there in the machine shows through
	dir     string        // the host's directory, of Overlay
	hide    []string      // and what is left out of it
}

// layOut prepares the directories of a machine and gives the mounts that it begins with: those of every machine, on
// the layers that saved has for them.
func (m *machine) layOut(saved map[string][]layer.ID) ([]agent.Mount, error) {
	for _, d := range []string{"u", "w"} {
		if err := os.Mkdir(filepath.Join(m.scratch.Dir(), d), 0o700); err != nil {
			return nil, err
		}
	}
	var mounts []agent.Mount
	for _, b := range m.basePlaces() {
		p := &place{at: b.at, lowers: b.lowers, nest: b.nest, like: b.like, layers: saved[b.at]}
		if b.at == "/" && len(p.layers) == 0 {
			p.layers = distinct(m.spec.Image.Layers)
		}
		mount, err := m.mount(p)
		if err != nil {
			return nil, err
		}
		m.places = append(m.places, p)
		mounts = append(mounts, mount)
	}
	mounts = append(mounts, agent.Mount{At: insideFiles, Memory: maxFiles})
	if m.spec.Image.Ref != "" || m.h.program == nil {
		return mounts, nil
	}
	file, err := m.h.program.at(m.h.work.Dir())
	if err != nil {
		return nil, err
	}
	for _, name := range m.h.program.Names {
		mounts = append(mounts, agent.Mount{At: insidePrograms + "/" + name, Bind: file})
	}
	return mounts, nil
}

// basePlaces are the places that a machine has from its beginning: the host's, or the root of an image.
func (m *machine) basePlaces() []*basePlace {
	if m.spec.Image.Ref != "" {
		return m.h.base.image
	}
	return m.h.base.places
}

// mount gives a place a fresh upper directory and tells how to mount it.
func (m *machine) mount(p *place) (agent.Mount, error) {
	m.next++
	return m.overlayOf(p, m.scratch.Dir(), m.next)
}

// distinct gives the layers of an image each once, where it has one several times: the kernel takes none twice, and what
// the topmost has is seen.
func distinct(ids []layer.ID) []layer.ID {
	var once []layer.ID
	for i, id := range ids {
		if !slices.Contains(ids[i+1:], id) {
			once = append(once, id)
		}
	}
	return once
}

// overlayOf prepares the n-th overlay with its writes in a scratch directory.
func (m *machine) overlayOf(p *place, scratch string, number int) (agent.Mount, error) {
	n := strconv.Itoa(number)
	upper, work := filepath.Join(scratch, "u", n), filepath.Join(scratch, "w", n)
	if err := os.Mkdir(upper, 0o700); err != nil {
		return agent.Mount{}, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return agent.Mount{}, err
	}
	if err := m.dress(upper, p); err != nil {
		return agent.Mount{}, err
	}
	p.upper = m.relative(upper)
	mount := agent.Mount{At: p.at, Upper: p.upper, Work: m.relative(work), Beneath: p.beneath}
	for i := len(p.layers) - 1; i >= 0; i-- {
		mount.Lowers = append(mount.Lowers, agent.Lower{Path: layer.Path(p.layers[i])})
	}
	mount.Lowers = append(mount.Lowers, p.lowers...)
	if p.nest {
		mount.Nested = len(p.lowers)
	}
	return mount, nil
}

// dress gives an upper directory the owner and mode that the place has: those of its topmost layer, of the host's
// directory, or of the machine's root.
func (m *machine) dress(upper string, p *place) error {
	if len(p.layers) > 0 {
		return sameOwner(filepath.Join(m.h.layers.Dir(), layer.Path(p.layers[len(p.layers)-1])), upper)
	}
	mode, uid, gid := os.FileMode(0o755), 0, 0
	if p.like != "" {
		var err error
		if mode, uid, gid, err = m.h.insideOwner(p.like); err != nil {
			return err
		}
	}
	return m.h.give(upper, mode, uid, gid)
}

// relative shortens a path in the store for the warden.
func (m *machine) relative(name string) string {
	short, err := filepath.Rel(m.h.layers.Dir(), name)
	if err != nil {
		return name
	}
	return short
}
