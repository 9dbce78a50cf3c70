package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// maxContextFiles bounds what a build context may have.
const maxContextFiles = 2_000_000

// local is a build context: a directory of this host, out of which nothing is followed, and files that are given as
// text.
type local struct {
	root   *os.Root  // nil if it is empty
	fs     fsutil.FS // root's
	memory map[string][]byte
}

func newLocal(root *os.Root) *local {
	if root == nil {
		return &local{}
	}
	return &local{root: root, fs: contextFS{fsutil.NewRootFS(fsutil.NewRoot(root)), root}}
}

// contextFS is a directory as fsutil sees it, with links that are looked at themselves, wherever they lead.
type contextFS struct {
	fsutil.FS
	root *os.Root
}

// Walk implements fsutil.FS.
func (c contextFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	name := contextPath(target)
	if name == "" {
		return c.FS.Walk(ctx, target, fn)
	}
	info, err := c.root.Lstat(name)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return c.FS.Walk(ctx, target, fn)
	}
	to, err := c.root.Readlink(name)
	if err != nil {
		return err
	}
	return fn(name, &fsutil.DirEntryInfo{Stat: &types.Stat{Path: name, Mode: uint32(info.Mode()), Linkname: to, Size: int64(len(to)), ModTime: info.ModTime().UnixNano()}}, nil)
}

// readFile reads one file, at most so many bytes; cut cuts a larger one, which is an error else.
func (l *local) readFile(name string, cut bool, most int) ([]byte, error) {
	name = contextPath(name)
	if data, ok := l.memory[name]; ok {
		return data[:min(len(data), most)], nil
	}
	if l.root == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return readRegular(l.root, name, cut, most)
}

func readRegular(root *os.Root, name string, cut bool, most int) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(data) > most {
		if data = data[:most]; !cut {
			err = fmt.Errorf("%s: more than %d bytes", name, most)
		}
	}
	return data, err
}

// readFile reads one file of a tree for the frontend.
func (w *work) readFile(ctx context.Context, r *result, name string, cut bool, most int) ([]byte, error) {
	if r.files != nil {
		return r.files.from.readFile(name, cut, most)
	}
	layers := r.layers()
	for i := len(layers) - 1; i >= 0; i-- {
		root, err := w.b.Layers.Open(layers[i])
		if err != nil {
			return nil, err
		}
		data, err := readRegular(root, contextPath(name), cut, most)
		root.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// contextPath is a slash-separated path, relative to the root that it starts from.
func contextPath(name string) string { return path.Clean("/" + filepath.ToSlash(name))[1:] }

// tree is what a step sees of a build context: what .dockerignore leaves of it, and that just so far as any step asks
// for it.
type tree struct {
	from   *local
	filter *fsutil.FilterOpt
	ref    string // of the layer that the build before made of such a tree

	listed func(context.Context) ([]contextFile, error)
	layer  func(context.Context) (layer.ID, error)

	mu    sync.Mutex
	files []contextFile
	sums  map[string]string // content by path
}

type contextFile struct {
	name   string // slash-separated, relative
	mode   fs.FileMode
	size   int64
	time   int64  // nanoseconds
	target string // of a link
}

// tree gives what a source of the graph names.
func (w *work) tree(l *local, name string, attrs map[string]string) (*tree, error) {
	t := &tree{from: l, filter: &fsutil.FilterOpt{}, sums: map[string]string{}}
	for key, to := range map[string]*[]string{
		pb.AttrIncludePatterns: &t.filter.IncludePatterns, pb.AttrExcludePatterns: &t.filter.ExcludePatterns, pb.AttrFollowPaths: &t.filter.FollowPaths,
	} {
		if text := attrs[key]; text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return nil, fmt.Errorf("read the build graph: %w", err)
			}
		}
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q", w.r.Scope, w.r.Name, name, t.filter.IncludePatterns, t.filter.ExcludePatterns, t.filter.FollowPaths))
	t.ref = contextRefs + hex.EncodeToString(key[:])
	t.listed = onceWith(t.list)
	t.layer = onceWith(func(ctx context.Context) (layer.ID, error) { return t.write(ctx, w) })
	return t, nil
}

// list reads the directory, parents before what is in them.
func (t *tree) list(ctx context.Context) ([]contextFile, error) {
	if t.from.fs == nil {
		return nil, nil
	}
	filtered, err := fsutil.NewFilterFS(t.from.fs, t.filter)
	if err != nil {
		return nil, fmt.Errorf("read the build context: %w", err)
	}
	var files []contextFile
	err = filtered.Walk(ctx, "", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*types.Stat)
		if !ok {
			return fmt.Errorf("%s: what it is is not known", name)
		}
		f := contextFile{name: filepath.ToSlash(name), mode: fs.FileMode(st.Mode), size: st.Size, time: st.ModTime, target: st.Linkname}
		switch {
		case f.mode.IsRegular():
			f.target = "" // of a hard link: each name is a file of its own here
		case f.mode.IsDir(), f.mode&fs.ModeSymlink != 0:
		default:
			return nil // devices, pipes and sockets are left out
		}
		if files = append(files, f); len(files) > maxContextFiles {
			return fmt.Errorf("more than %d files", maxContextFiles)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the build context: %w", err)
	}
	t.files = files
	return files, nil
}

// sum is the content of what the paths name, wildcards included: names, modes, links, bytes. Times do not count. A path
// through a link takes everything in: it may lead anywhere in the context.
func (t *tree) sum(paths []string) (string, error) {
	all := len(paths) == 0
	sum := sha256.New()
	for _, p := range paths {
		picked, whole := pick(t.files, contextPath(p))
		all = all || whole
		fmt.Fprintf(sum, "%q %d\n", p, len(picked))
		if err := t.sumFiles(sum, picked); err != nil {
			return "", err
		}
	}
	if all {
		if err := t.sumFiles(sum, t.files); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (t *tree) sumFiles(sum io.Writer, files []contextFile) error {
	for _, f := range files {
		fmt.Fprintf(sum, "%q %v %q", f.name, f.mode, f.target)
		if f.mode.IsRegular() {
			content, err := t.content(f.name)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, " %s", content)
		}
		fmt.Fprintln(sum)
	}
	return nil
}

// content is the hash of a file's bytes.
func (t *tree) content(name string) (string, error) {
	t.mu.Lock()
	known, ok := t.sums[name]
	t.mu.Unlock()
	if ok {
		return known, nil
	}
	text, err := hashFile(t.from.root, name)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	t.sums[name] = text
	t.mu.Unlock()
	return text, nil
}

// pick gives the files at and below a path; whole says that they can not be told from the names.
func pick(files []contextFile, p string) (picked []contextFile, whole bool) {
	if p == "" || p == "." {
		return nil, true
	}
	parts := strings.Split(p, "/")
	for _, f := range files {
		have := strings.SplitN(f.name, "/", len(parts)+1)
		n := min(len(parts), len(have))
		match := true
		for i := range n {
			ok, err := path.Match(parts[i], have[i])
			if match = ok && err == nil; !match {
				break
			}
		}
		if match && f.mode&fs.ModeSymlink != 0 {
			return nil, true // what is asked for, or a directory on the way to it, is a link
		}
		if match && len(have) >= len(parts) {
			picked = append(picked, f)
		}
	}
	return picked, false
}

// maxRemembered is the largest number of files of a context whose layer the next one is made of.
const maxRemembered = 50_000

// write makes a layer of the tree. All belongs to root, as in BuildKit. What is as it was in the layer of the build
// before is that one's, without a copy.
func (t *tree) write(ctx context.Context, w *work) (layer.ID, error) {
	id, err := t.writeAs(ctx, w)
	if err != nil {
		return "", fmt.Errorf("copy the build context: %w", err)
	}
	return id, w.use(id)
}

func (t *tree) writeAs(ctx context.Context, w *work) (layer.ID, error) {
	sums, err := t.remember()
	if err != nil {
		return "", err
	}
	before := t.before(w)
	if before.same(sums) {
		return before.id, nil
	}
	dir, err := w.scratchDir()
	if err != nil {
		return "", err
	}
	if err := t.writeFiles(ctx, dir, sums, before); err != nil {
		return "", err
	}
	l := layer.Layer{Owner: sandbox.Owner()}
	if sums != nil {
		if l.Note, err = json.Marshal(sums); err != nil {
			return "", err
		}
	}
	id, err := w.b.Layers.Add(dir, l)
	if err == nil && sums != nil {
		err = w.b.Layers.SetRef(t.ref, id)
	}
	return id, err
}

// earlierContext is the layer of the build before, and what its files are.
type earlierContext struct {
	id   layer.ID
	dir  string
	sums map[string]string
}

func (e *earlierContext) same(sums map[string]string) bool {
	return e.id != "" && sums != nil && maps.Equal(e.sums, sums)
}

// before gives the layer of the build before; an empty one if there is none.
func (t *tree) before(w *work) *earlierContext {
	e := &earlierContext{}
	id, ok := w.kept(t.ref)
	if !ok {
		return e
	}
	l, err := w.b.Layers.Layer(id)
	if err != nil || l.Owner != sandbox.Owner() || json.Unmarshal(l.Note, &e.sums) != nil {
		return &earlierContext{}
	}
	e.id, e.dir = id, filepath.Join(w.b.Layers.Dir(), layer.Path(id))
	return e
}

// remember tells what each file is, its time included; nil for too many.
func (t *tree) remember() (map[string]string, error) {
	if len(t.files) > maxRemembered {
		return nil, nil
	}
	sums := make(map[string]string, len(t.files))
	for _, f := range t.files {
		content := f.target
		if f.mode.IsRegular() {
			var err error
			if content, err = t.content(f.name); err != nil {
				return nil, err
			}
		}
		sums[f.name] = fmt.Sprintf("%v %d %s", f.mode, f.time, content)
	}
	return sums, nil
}

func (t *tree) writeFiles(ctx context.Context, dir string, sums map[string]string, before *earlierContext) error {
	var dirs []contextFile
	for _, f := range t.files {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		name := filepath.FromSlash(f.name)
		to := filepath.Join(dir, name)
		var err error
		switch {
		case f.mode.IsDir():
			err = os.Mkdir(to, 0o700)
			dirs = append(dirs, f)
		case before.id != "" && before.sums[f.name] == sums[f.name] && os.Link(filepath.Join(before.dir, name), to) == nil:
			continue
		case f.mode&fs.ModeSymlink != 0:
			err = os.Symlink(f.target, to)
		default:
			err = t.copyFile(f, to)
		}
		if err == nil && !f.mode.IsDir() {
			err = f.finish(to)
		}
		if err != nil {
			return err
		}
	}
	for _, f := range slices.Backward(dirs) { // what is in them is there
		if err := f.finish(filepath.Join(dir, filepath.FromSlash(f.name))); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) copyFile(f contextFile, to string) error {
	in, err := openRegular(t.from.root, f.name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// finish gives a file that was made its owner, mode and time.
func (f *contextFile) finish(name string) error {
	if err := ownByRoot(name); err != nil {
		return err
	}
	if f.mode&fs.ModeSymlink == 0 {
		mode := f.mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
		if err := os.Chmod(name, mode); err != nil {
			return err
		}
	}
	return setTime(name, time.Unix(0, f.time))
}

// makeDir makes a directory that is root's inside machines.
func makeDir(name string) (string, error) {
	if err := os.Mkdir(name, 0o755); err != nil {
		return "", err
	}
	return name, ownByRoot(name)
}
