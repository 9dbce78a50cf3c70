package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// capturePart makes a layer of a directory that the job has made somewhere in a place, without a copy: it freezes the
// place and has the new layer show the parts of the frozen ones. It gives no ID where that can not be: a process of an
// earlier command is alive, something is mounted at or below the directory, or files of the host are in it.
func (m *machine) capturePart(ctx context.Context, at string) (layer.ID, error) {
	p := m.around(at)
	if p == nil {
		return "", nil
	}
	if err := m.idle(ctx); err != nil {
		if errors.Is(err, ErrBusy) {
			err = nil
		}
		return "", err
	}
	name := strings.TrimPrefix(strings.TrimPrefix(at, p.at), "/")
	if m.ofHost(p, name) {
		return "", nil
	}
	m.last = ""
	if err := m.freeze(ctx, m.dirty([]*place{p})); err != nil {
		m.broken = err
		return "", err
	}
	parts, err := m.partsOf(p, name)
	if err != nil || len(parts) == 0 {
		return "", err
	}
	var below []layer.ID
	for _, of := range parts {
		id, err := m.h.layers.View(of, name, layer.Layer{Below: below, Whole: len(below) == 0, Owner: m.h.owner})
		if err != nil {
			return "", err
		}
		below = append(below, id)
	}
	return below[len(below)-1], m.scratch.Use(below...)
}

// around gives the place that a path lies in, if no place begins at it or below it.
func (m *machine) around(at string) *place {
	var best *place
	for _, p := range m.places {
		switch {
		case within(at, p.at):
			return nil
		case within(p.at, at) && (best == nil || len(p.at) >= len(best.at)):
			best = p
		}
	}
	if best == nil || best.beneath {
		return nil
	}
	return best
}

// ofHost says whether the host's part of a place has anything at a path.
func (m *machine) ofHost(p *place, name string) bool {
	for _, lower := range p.lowers {
		dir := lower.Path
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(m.h.layers.Dir(), dir)
		}
		switch look(dir, name) {
		case nothingThere:
		case hiddenThere:
			return false
		default:
			return true
		}
	}
	return false
}

// partsOf gives those of a place's frozen layers that a directory is made of, the lowest first.
func (m *machine) partsOf(p *place, name string) ([]layer.ID, error) {
	stack, err := m.h.layers.Stack(p.layers...)
	if err != nil {
		return nil, err
	}
	var parts []layer.ID
	for _, l := range stack {
		switch look(filepath.Join(m.h.layers.Dir(), layer.Path(l.ID)), name) {
		case hiddenThere:
			parts = nil
		case wholeThere:
			parts = []layer.ID{l.ID}
		case partThere:
			parts = append(parts, l.ID)
		case nothingThere:
		default:
			return nil, nil // no directory: a copy says what it is
		}
	}
	return parts, nil
}

// sight is what a layer has at a path.
type sight string

const (
	nothingThere sight = "nothing" // what lies below shows
	hiddenThere  sight = "hidden"  // what lies below is gone
	partThere    sight = "part"    // a directory, merged with those below
	wholeThere   sight = "whole"   // a directory that hides those below
	otherThere   sight = "other"   // a file, or what we can not see
)

// look finds out what a layer, or a directory of the host, has at a path.
func look(dir, name string) sight {
	whole := false
	for part := range strings.SplitSeq(name, "/") {
		dir = filepath.Join(dir, part)
		info, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && whole:
			return hiddenThere
		case errors.Is(err, fs.ErrNotExist):
			return nothingThere
		case err != nil:
			return otherThere
		case isWhiteout(info):
			return hiddenThere
		case !info.IsDir():
			return otherThere
		}
		whole = whole || isOpaqueDir(dir)
	}
	if whole {
		return wholeThere
	}
	return partThere
}

func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func isOpaqueDir(dir string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(dir, "user.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}
