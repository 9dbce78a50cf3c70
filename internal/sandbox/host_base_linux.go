package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// base is what every fresh machine shows of this host: its tools read through overlays, beneath a layer of our own
// that leaves out what no job should see. The layer is made once and used again while the host is as it was.
type base struct {
	places []*basePlace // the root first, parents before what is in them
	image  []*basePlace // of a machine or container that shows an image: the root alone, what every image has beneath
	path   string
	hosts  hostsFile
}

type basePlace struct {
	at     string
	lowers []agent.Lower
	like   string // the host's directory that it shows, if any
	nest   bool   // the store lies in that directory
}

// baseDir is where the store has what is remembered of the host.
const baseDir = "base"

// topDirs are the directories of the root that hold a system's tools. Everything else there is data.
var topDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt", "nix"}

// prepareBase looks at the host and makes the layer.
func (h *Host) prepareBase() (*base, error) {
	b := &baseBuilder{h: h, mask: map[string]*entry{}}
	if err := b.survey(); err != nil {
		return nil, err
	}
	dir, err := b.materialize()
	if err != nil {
		return nil, fmt.Errorf("make the machines' base: %w", err)
	}
	beneath, err := h.imageBase()
	if err != nil {
		return nil, fmt.Errorf("make what lies beneath images: %w", err)
	}
	result := &base{path: b.path, hosts: readHosts()}
	if h.program != nil {
		result.path = insidePrograms + ":" + result.path
	}
	result.image = []*basePlace{{at: "/", lowers: []agent.Lower{{Path: filepath.Join(beneath, maskName("/"))}}}}
	for _, s := range b.shown {
		p := &basePlace{at: s.at, nest: s.nest}
		if s.masked {
			p.lowers = append(p.lowers, agent.Lower{Path: filepath.Join(dir, maskName(s.at))})
		}
		if s.dir != "" {
			p.like = s.dir
			p.lowers = append(p.lowers, agent.Lower{Path: s.dir, Host: true})
		}
		result.places = append(result.places, p)
	}
	return result, nil
}

// imageBase makes the layer that lies beneath images: the places of what a machine has beyond them.
func (h *Host) imageBase() (string, error) {
	b := &baseBuilder{h: h, mask: map[string]*entry{}, shown: []*shown{{at: "/", masked: true}}}
	for path, mode := range map[string]os.FileMode{
		"/proc": 0o555, "/sys": 0o555, "/dev": 0o755, "/run": 0o755, "/tmp": 0o777 | os.ModeSticky, "/etc": 0o755, insideFiles: 0o755,
	} {
		b.put(path, &entry{kind: kindDir, mode: mode})
	}
	for _, name := range []string{"/etc/hosts", "/etc/resolv.conf"} { // mounts go there
		b.put(name, &entry{kind: kindFile, mode: 0o644})
	}
	return b.materialize()
}

// baseBuilder collects what a fresh machine shows.
type baseBuilder struct {
	h     *Host
	shown []*shown
	mask  map[string]*entry // absolute path inside -> what our layer has there
	path  string
}

// shown is one place of a machine.
type shown struct {
	at     string // inside
	dir    string // of the host; empty for the root
	masked bool
	nest   bool
}

// entry is one file of our layer.
type entry struct {
	kind     entryKind
	mode     os.FileMode
	uid, gid int // inside
	data     string
}

type entryKind string

const (
	kindDir      entryKind = "dir"
	kindOpaque   entryKind = "opaque"   // a directory that hides the host's
	kindWhiteout entryKind = "whiteout" // nothing, whatever the host has
	kindFile     entryKind = "file"
	kindLink     entryKind = "link"
)

func maskName(at string) string {
	if at == "/" {
		return "root"
	}
	return "in" + strings.ReplaceAll(at, "/", "-")
}

func (b *baseBuilder) survey() error {
	b.shown = []*shown{{at: "/", masked: true}}
	b.skeleton()
	for _, name := range topDirs {
		if err := b.top(name); err != nil {
			return err
		}
	}
	if b.h.program != nil {
		for _, name := range b.h.program.Names {
			b.put(insidePrograms+"/"+name, &entry{kind: kindFile, mode: 0o755}) // mounts go there
		}
	}
	b.tools()
	if err := b.etc(); err != nil {
		return err
	}
	b.secrets()
	slices.SortStableFunc(b.shown, func(x, y *shown) int { return strings.Compare(x.at, y.at) })
	for _, s := range b.shown {
		if s.dir != "" && within(s.dir, b.h.layers.Dir()) {
			s.nest = true
			b.put(b.h.layers.Dir(), &entry{kind: kindWhiteout})
		}
	}
	return nil
}

// skeleton is the part of the root that is no tool of the host.
func (b *baseBuilder) skeleton() {
	for path, mode := range map[string]os.FileMode{
		"/proc": 0o555, "/sys": 0o555, "/dev": 0o755, "/run": 0o755, "/run/lock": 0o777 | os.ModeSticky, "/tmp": 0o777 | os.ModeSticky,
		"/home": 0o755, insideHome: 0o755, insideWork: 0o755, insideTemp: 0o755, insideFiles: 0o755, "/root": 0o700,
		"/mnt": 0o755, "/media": 0o755, "/srv": 0o755, "/boot": 0o755,
	} {
		b.put(path, &entry{kind: kindDir, mode: mode})
	}
}

// top shows a directory of the root; links there stay links.
func (b *baseBuilder) top(name string) error {
	path := "/" + name
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if name == "opt" || name == "var" {
			b.put(path, &entry{kind: kindDir, mode: 0o755})
		}
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		b.put(path, &entry{kind: kindLink, data: target})
		return nil
	}
	b.show(path, path)
	return nil
}

// show makes a directory of the host visible at a path inside.
func (b *baseBuilder) show(at, dir string) {
	b.shown = append(b.shown, &shown{at: at, dir: dir})
	for p := at; p != "/"; p = filepath.Dir(p) {
		if b.mask[p] == nil && b.placeOf(p).at == "/" {
			b.mask[p] = &entry{kind: kindDir, mode: 0o755}
		}
	}
	b.put(at, &entry{kind: kindDir, mode: 0o755})
}

// placeOf gives the place that a path inside belongs to: a place's own mount point belongs to what it is mounted on.
func (b *baseBuilder) placeOf(path string) *shown {
	best := b.shown[0]
	for _, s := range b.shown {
		if len(s.at) > len(best.at) && s.at != path && within(s.at, path) {
			best = s
		}
	}
	return best
}

// put adds a file of our layer, with the directories that lead to it as the host has them.
func (b *baseBuilder) put(path string, e *entry) {
	place := b.placeOf(path)
	place.masked = true
	b.mask[path] = e
	for dir := filepath.Dir(path); dir != place.at && dir != "/"; dir = filepath.Dir(dir) {
		if b.mask[dir] != nil {
			continue
		}
		b.mask[dir] = b.likeHost(place, dir)
	}
}

// likeHost describes a directory as the host has it, so that our layer does not change it.
func (b *baseBuilder) likeHost(place *shown, dir string) *entry {
	e := &entry{kind: kindDir, mode: 0o755}
	if place.dir == "" {
		return e
	}
	if mode, uid, gid, err := b.h.insideOwner(place.dir + strings.TrimPrefix(dir, place.at)); err == nil {
		e.mode, e.uid, e.gid = mode, uid, gid
	}
	return e
}

// within says whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// materialize gives the directory with the layer, relative to the store. It is named for its content.
func (b *baseBuilder) materialize() (string, error) {
	paths := make([]string, 0, len(b.mask))
	sum := sha256.New()
	for p := range b.mask {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		e := b.mask[p]
		fmt.Fprintf(sum, "%q %q %s %o %d %d %q\n", b.placeOf(p).at, p, e.kind, e.mode, e.uid, e.gid, e.data)
	}
	fmt.Fprintf(sum, "%d\n", b.h.owner)
	name := filepath.Join(baseDir, hex.EncodeToString(sum.Sum(nil))[:20])
	dir := filepath.Join(b.h.layers.Dir(), name)
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		return name, os.Chtimes(dir, now, now)
	}
	made := filepath.Join(b.h.work.Dir(), filepath.Base(name))
	if err := b.write(made, paths); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return "", err
	}
	return name, nil
}

func (b *baseBuilder) write(dir string, paths []string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, s := range b.shown {
		root := &entry{kind: kindDir, mode: 0o755}
		if s.dir != "" {
			root = b.likeHost(s, s.at)
		}
		if err := b.writeEntry(filepath.Join(dir, maskName(s.at)), root); err != nil {
			return err
		}
	}
	for _, p := range paths { // parents sort before what is in them
		place := b.placeOf(p)
		name := filepath.Join(dir, maskName(place.at), strings.TrimPrefix(p, place.at))
		if err := b.writeEntry(name, b.mask[p]); err != nil {
			return err
		}
	}
	return nil
}

func (b *baseBuilder) writeEntry(name string, e *entry) error {
	mode := e.mode
	switch e.kind {
	case kindDir, kindOpaque:
		if err := os.Mkdir(name, 0o700); err != nil {
			return err
		}
		if e.kind == kindOpaque {
			if err := layer.SetOpaque(name); err != nil {
				return err
			}
		}
	case kindWhiteout:
		return layer.Whiteout(name)
	case kindLink:
		mode |= os.ModeSymlink
		if err := os.Symlink(e.data, name); err != nil {
			return err
		}
	case kindFile:
		if err := os.WriteFile(name, []byte(e.data), 0o600); err != nil {
			return err
		}
	}
	return b.h.give(name, mode, e.uid, e.gid)
}
