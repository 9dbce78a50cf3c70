package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Limits of a build context.
const (
	maxContextFiles = 2_000_000
	maxIgnoreFile   = 1 << 20
)

// contextDir is a directory of this host that a build may see, without what .dockerignore names. Nothing is followed out
// of it.
type contextDir struct {
	root  *os.Root
	files []contextFile // parents before what is in them

	mu   sync.Mutex
	sums map[string]string // content by path

	once sync.Once
	at   string // in the machine
	err  error
}

type contextFile struct {
	name   string // slash-separated, relative
	mode   fs.FileMode
	size   int64
	target string // of a link
}

// openContext lists a build context. ignore is the text of .dockerignore; nil reads the context's own: the Dockerfile's
// (Dockerfile.dockerignore) or the common one.
func openContext(root *os.Root, ignore []byte, dockerfile string) (*contextDir, error) {
	c := &contextDir{root: root, sums: map[string]string{}}
	if root == nil {
		return c, nil
	}
	for _, name := range []string{path.Base(dockerfile) + ".dockerignore", ".dockerignore"} {
		if ignore != nil {
			break
		}
		f, err := root.Open(name)
		if err != nil {
			continue
		}
		ignore, err = io.ReadAll(io.LimitReader(f, maxIgnoreFile))
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	patterns, err := ignorefile.ReadAll(strings.NewReader(string(ignore)))
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	if err := c.list(".", matcher, patternmatcher.MatchInfo{}); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *contextDir) list(dir string, ignored *patternmatcher.PatternMatcher, above patternmatcher.MatchInfo) error {
	f, err := c.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		out, match, err := ignored.MatchesUsingParentResults(filepath.FromSlash(name), above)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !out {
			if err := c.add(name, info); err != nil {
				return err
			}
		}
		if info.IsDir() && (!out || ignored.Exclusions()) {
			at := len(c.files)
			if err := c.list(name, ignored, match); err != nil {
				return err
			}
			if out && len(c.files) > at { // something in it is taken back in: so is the way to it
				c.files = slices.Insert(c.files, at, contextFile{name: name, mode: info.Mode()})
			}
		}
	}
	return nil
}

func (c *contextDir) add(name string, info fs.FileInfo) error {
	if len(c.files) >= maxContextFiles {
		return fmt.Errorf("more than %d files", maxContextFiles)
	}
	f := contextFile{name: name, mode: info.Mode(), size: info.Size()}
	switch {
	case f.mode.IsRegular(), f.mode.IsDir():
	case f.mode&fs.ModeSymlink != 0:
		var err error
		if f.target, err = c.root.Readlink(name); err != nil {
			return err
		}
	default:
		return nil // devices, pipes and sockets are left out, as BuildKit's transfer does with sockets
	}
	c.files = append(c.files, f)
	return nil
}

// sum is the content of what the paths name, wildcards included: names, modes, links, bytes. Times do not count. A path
// through a link, or one that is not there, takes everything in: it may lead anywhere in the context.
func (c *contextDir) sum(paths []string) (string, error) {
	all := len(paths) == 0
	var picked []contextFile
	for _, p := range paths {
		some, whole := c.pick(contextPath(p))
		all = all || whole
		picked = append(picked, some...)
	}
	if all {
		picked = c.files
	}
	sum := sha256.New()
	for _, f := range picked {
		fmt.Fprintf(sum, "%q %v %q", f.name, f.mode, f.target)
		if f.mode.IsRegular() {
			content, err := c.content(f.name)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(sum, " %s", content)
		}
		fmt.Fprintln(sum)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// pick gives the files at and below a path; whole says that they can not be told.
func (c *contextDir) pick(p string) (picked []contextFile, whole bool) {
	if p == "" || p == "." {
		return nil, true
	}
	parts := strings.Split(p, "/")
	for _, f := range c.files {
		have := strings.Split(f.name, "/")
		match := true
		for i, part := range parts {
			if i >= len(have) {
				match = false
				if f.mode&fs.ModeSymlink != 0 {
					return nil, true // a directory on the way is a link
				}
				break
			}
			if ok, err := path.Match(part, have[i]); err != nil || !ok {
				match = false
				break
			}
		}
		if match {
			if f.mode&fs.ModeSymlink != 0 {
				return nil, true
			}
			picked = append(picked, f)
		}
	}
	return picked, false
}

// content is the hash of a file's bytes.
func (c *contextDir) content(name string) (string, error) {
	c.mu.Lock()
	known, ok := c.sums[name]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	f, err := c.root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	text := hex.EncodeToString(sum.Sum(nil))
	c.mu.Lock()
	c.sums[name] = text
	c.mu.Unlock()
	return text, nil
}

// bring copies the context into the build's machine, once; it gives where it is there. All belongs to root, as in
// BuildKit.
func (c *contextDir) bring(ctx context.Context, w *work, m sandbox.Sandbox) (string, error) {
	c.once.Do(func() {
		at := w.place(m)
		r, out := io.Pipe()
		go func() { out.CloseWithError(c.write(out)) }()
		c.err = m.Put(ctx, at, r)
		r.Close()
		c.at = at
	})
	return c.at, c.err
}

func (c *contextDir) write(to io.Writer) error {
	out := tar.NewWriter(to)
	for _, f := range c.files {
		info, err := c.root.Lstat(f.name)
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, f.target)
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = f.name, 0, 0, "", ""
		if info.IsDir() {
			h.Name += "/"
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			if err := c.copyTo(out, f.name, info.Size()); err != nil {
				return err
			}
		}
	}
	return out.Close()
}

// copyTo copies as much of a file as its header has said.
func (c *contextDir) copyTo(out io.Writer, name string, size int64) error {
	f, err := c.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(out, io.LimitReader(f, size))
	if err == nil && n != size {
		err = fmt.Errorf("%s: it was changed while it was read", name)
	}
	return err
}
