package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Mount implements Layered.
func (m *machine) Mount(ctx context.Context, at string, ids ...layer.ID) error {
	stack, err := m.h.layers.Stack(ids...)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", at, err)
	}
	p := &place{at: path.Clean(at), mounted: true}
	for _, l := range stack {
		if l.Owner != m.h.owner {
			return fmt.Errorf("mount at %s: layer %s holds the files of another user", at, l.ID)
		}
		p.layers = append(p.layers, l.ID)
	}
	if err := m.scratch.Use(p.layers...); err != nil {
		return fmt.Errorf("mount at %s: %w", at, err)
	}
	if err := m.attach(ctx, p); err != nil {
		return fmt.Errorf("mount at %s: %w", at, err)
	}
	return nil
}

// Overlay implements Layered.
func (m *machine) Overlay(ctx context.Context, at, dir string, hide []string) error {
	return m.overlay(ctx, at, dir, hide, nil)
}

// overlay puts a directory of the host into the machine, with layers upon it.
func (m *machine) overlay(ctx context.Context, at, dir string, hide []string, layers []layer.ID) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("overlay %s: %w", dir, err)
	}
	p := &place{at: path.Clean(at), like: real, dir: real, hide: slices.Clone(hide), layers: layers}
	if within(real, m.h.layers.Dir()) {
		rel, err := filepath.Rel(real, m.h.layers.Dir())
		if err != nil {
			return fmt.Errorf("overlay %s: %w", dir, err)
		}
		hide = append(slices.Clone(hide), rel)
		p.nest = true
	}
	if len(hide) > 0 {
		mask, err := m.maskOf(real, hide)
		if err != nil {
			return fmt.Errorf("overlay %s: %w", dir, err)
		}
		p.lowers = append(p.lowers, agent.Lower{Path: mask})
	}
	p.lowers = append(p.lowers, agent.Lower{Path: real, Host: true})
	if err := m.attach(ctx, p); err != nil {
		return fmt.Errorf("overlay %s at %s: %w", dir, at, err)
	}
	return nil
}

// attach puts a new place into the machine.
func (m *machine) attach(ctx context.Context, p *place) error {
	if !path.IsAbs(p.at) || p.at == "/" {
		return fmt.Errorf("%q is no absolute path below the root", p.at)
	}
	m.disk.Lock()
	defer m.disk.Unlock()
	var made agent.Made
	if _, err := m.agent.Do(ctx, agent.OpMkdir, &agent.Mkdir{Path: p.at}, &made); err != nil {
		return err
	}
	mount, err := m.mount(p)
	if err != nil {
		return err
	}
	if p.mounted && !made.Empty {
		p.beneath, mount.Beneath = true, true
	}
	if len(mount.Lowers) == 0 && !mount.Beneath {
		mount.Bind, mount.Upper, mount.Work = mount.Upper, "", ""
	}
	req := &agent.Attach{Machine: m.id, Mounts: []agent.Mount{mount}}
	if _, err := m.h.warden.Do(ctx, agent.OpAttach, req, nil); err != nil {
		return err
	}
	m.places = append(m.places, p)
	m.used.Store(true)
	m.last = ""
	return nil
}

// maskOf makes a layer that leaves paths out of a directory of the host. It is relative to the store.
func (m *machine) maskOf(dir string, hide []string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	m.disk.Lock()
	m.next++
	mask := filepath.Join(m.scratch.Dir(), "u", fmt.Sprintf("%d-mask", m.next))
	m.disk.Unlock()
	if err := m.copyDir(mask, dir); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(slices.Values(hide)) { // what is above comes first
		if err := m.hide(mask, dir, root, path.Clean(name)); err != nil {
			return "", fmt.Errorf("hide %s: %w", name, err)
		}
	}
	return m.relative(mask), nil
}

// hide leaves out one path. What is not there needs no hiding.
func (m *machine) hide(mask, dir string, root *os.Root, name string) error {
	if !filepath.IsLocal(name) || name == "." {
		return errors.New("not a path below the directory")
	}
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info == nil {
		return err
	}
	parts := strings.Split(name, "/")
	for i := 1; i < len(parts); i++ {
		up := strings.Join(parts[:i], "/")
		if info, err := root.Lstat(up); err != nil || !info.IsDir() {
			return errors.Join(err, errors.New("the path leads through a symbolic link"))
		}
		made, err := os.Lstat(filepath.Join(mask, up))
		if err == nil && !made.IsDir() {
			return nil // hidden with what is above
		}
		if err == nil {
			continue
		}
		if err := m.copyDir(filepath.Join(mask, up), filepath.Join(dir, up)); err != nil {
			return err
		}
	}
	err = layer.Whiteout(filepath.Join(mask, name))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// copyDir makes a directory with the owner and mode of one of the host.
func (m *machine) copyDir(name, like string) error {
	mode, uid, gid, err := m.h.insideOwner(like)
	if err != nil {
		return err
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	return m.h.give(name, mode, uid, gid)
}
