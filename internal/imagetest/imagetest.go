// Package imagetest makes images of programs that this machine has from Debian's packages, for tests and benchmarks that
// have no registry to pull from. It is not in the binary.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/penstock-ci/penstock/internal/image"
)

// Tree is the file tree of an image. The first error sticks and is Load's.
type Tree struct {
	files map[string]file // by absolute path
	err   error
}

type file struct {
	mode fs.FileMode // with fs.ModeDir or fs.ModeSymlink
	host string      // the file of this machine that it is
	text string      // or its content, or its target
	uid  int
}

// New gives a tree with Debian's static busybox as its shell and tools, a root user and those that are given as name:id.
func New(users ...string) *Tree {
	t := &Tree{files: map[string]file{}}
	passwd, group := "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n"
	for _, u := range users {
		who, id, _ := strings.Cut(u, ":")
		passwd += fmt.Sprintf("%s:x:%s:%s::/var/lib/%s:/bin/sh\n", who, id, id, who)
		group += fmt.Sprintf("%s:x:%s:\n", who, id)
	}
	t.File("/etc/passwd", passwd, 0o644)
	t.File("/etc/group", group, 0o644)
	t.Dir("/tmp", 0o777|fs.ModeSticky, 0)
	t.host("/bin/busybox", "/bin/busybox")
	out, err := exec.Command("/bin/busybox", "--list").Output()
	t.note(err)
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			t.Link("/bin/"+applet, "busybox")
		}
	}
	return t
}

func (t *Tree) note(err error) {
	if t.err == nil {
		t.err = err
	}
}

// File adds a file.
func (t *Tree) File(name, text string, mode fs.FileMode) *Tree {
	t.files[path.Clean(name)] = file{mode: mode, text: text}
	return t
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) *Tree {
	t.files[path.Clean(name)] = file{mode: fs.ModeSymlink | 0o777, text: target}
	return t
}

// Remove takes a file away.
func (t *Tree) Remove(name string) *Tree {
	delete(t.files, path.Clean(name))
	return t
}

// Dir adds a directory that belongs to a user.
func (t *Tree) Dir(name string, mode fs.FileMode, uid int) *Tree {
	t.files[path.Clean(name)] = file{mode: mode | fs.ModeDir, uid: uid}
	return t
}

// Copy adds files and directories of this machine, at the same paths.
func (t *Tree) Copy(names ...string) *Tree {
	for _, name := range names {
		t.note(filepath.WalkDir(name, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			switch {
			case info.Mode()&fs.ModeSymlink != 0:
				target, err := os.Readlink(p)
				if err != nil {
					return err
				}
				t.Link(p, target)
			case info.IsDir():
				t.Dir(p, info.Mode().Perm(), 0)
			case info.Mode().IsRegular():
				t.host(p, p)
			}
			return nil
		}))
	}
	return t
}

// Programs adds programs of this machine with the libraries that they need.
func (t *Tree) Programs(names ...string) *Tree {
	for _, name := range names {
		real, err := filepath.EvalSymlinks(name)
		t.note(err)
		t.host(name, real)
		t.Libraries(real)
	}
	return t
}

// Libraries adds what programs and libraries of this machine need.
func (t *Tree) Libraries(names ...string) *Tree {
	for _, name := range names {
		out, err := exec.Command("ldd", name).CombinedOutput()
		if strings.Contains(string(out), "not a dynamic executable") || strings.Contains(string(out), "statically linked") {
			continue
		}
		if err != nil {
			t.note(fmt.Errorf("ldd %s: %w: %s", name, err, out))
		}
		for _, word := range strings.Fields(string(out)) {
			if !path.IsAbs(word) {
				continue
			}
			if real, err := filepath.EvalSymlinks(word); err == nil {
				t.host(word, real)
			}
		}
	}
	return t
}

// C adds what programs load of the C library besides what they are linked with: downloaded ones expect it.
func (t *Tree) C() *Tree {
	out, err := exec.Command("ldd", "/usr/bin/env").Output()
	t.note(err)
	for _, word := range strings.Fields(string(out)) {
		if path.Base(word) != "libc.so.6" || !path.IsAbs(word) {
			continue
		}
		for _, name := range []string{"libc.so.6", "librt.so.1", "libpthread.so.0", "libdl.so.2", "libm.so.6", "libutil.so.1", "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2"} {
			t.host(path.Join(path.Dir(word), name), path.Join(path.Dir(word), name))
		}
	}
	return t
}

func (t *Tree) host(name, from string) {
	info, err := os.Stat(from)
	if err != nil {
		t.note(err)
		return
	}
	t.files[path.Clean(name)] = file{mode: info.Mode().Perm(), host: from}
}

// Load makes an image of the tree and puts it into a store.
func (t *Tree) Load(ctx context.Context, store *image.Store, ref string, config v1.Config) (image.Image, error) {
	var archive bytes.Buffer
	if err := t.Write(&archive, ref, config); err != nil {
		return image.Image{}, err
	}
	images, err := store.Load(ctx, &archive)
	if err != nil {
		return image.Image{}, fmt.Errorf("make %s: %w", ref, err)
	}
	return images[0], nil
}

// Write makes an image of the tree as an archive that docker load takes.
func (t *Tree) Write(w io.Writer, ref string, config v1.Config) error {
	var layer bytes.Buffer
	if err := t.tar(&layer); err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	if !slices.ContainsFunc(config.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		config.Env = append(config.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		var c *v1.ConfigFile
		if c, err = img.ConfigFile(); err == nil {
			c = c.DeepCopy()
			c.OS, c.Architecture, c.Config, c.Created = "linux", goarch(), config, v1.Time{Time: time.Unix(1700000000, 0)}
			img, err = mutate.ConfigFile(img, c)
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	tag, err := name.NewTag(ref)
	if err == nil {
		err = tarball.Write(tag, img, w)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	return nil
}

func (t *Tree) tar(w io.Writer) error {
	if t.err != nil {
		return t.err
	}
	for name := range maps.Clone(t.files) {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if _, ok := t.files[dir]; !ok {
				t.Dir(dir, 0o755, 0)
			}
		}
	}
	out := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		if err := t.files[name].write(out, strings.TrimPrefix(name, "/")); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return out.Close()
}

func (f file) write(out *tar.Writer, name string) error {
	mode := int64(f.mode.Perm())
	if f.mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	h := &tar.Header{Name: name, Mode: mode, Uid: f.uid, Gid: f.uid, ModTime: time.Unix(1700000000, 0)}
	var content io.Reader = strings.NewReader(f.text)
	switch {
	case f.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return out.WriteHeader(h)
	case f.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.text
		return out.WriteHeader(h)
	case f.host != "":
		data, err := os.ReadFile(f.host)
		if err != nil {
			return err
		}
		h.Size, content = int64(len(data)), bytes.NewReader(data)
	default:
		h.Size = int64(len(f.text))
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}
