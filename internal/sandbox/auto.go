package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

// Auto gives the best provider that this machine allows: host, else none with its files below dir. note says why it is
// not host, for the user; it is empty otherwise.
func Auto(store *layer.Store, dir string) (p Provider, note string) {
	h, err := NewHost(store, nil)
	if err != nil {
		return NewNone(dir), fmt.Sprintf("jobs run without isolation, as processes of yours: %v", err)
	}
	return h, ""
}

// Close releases what a provider holds, if it holds anything. Machines that are still open end.
func Close(p Provider) error {
	if c, ok := p.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// WriteFile writes a file in a machine, with its parents, in the name of the machine's root: directly where path is
// below Info.Files and the machine is Direct, else by Put. What is there already is replaced.
func WriteFile(ctx context.Context, sb Sandbox, name string, data []byte, mode os.FileMode) error {
	name = path.Clean(name)
	if rel, ok := belowFiles(sb, name); ok {
		if w, ok := sb.(directWriter); ok {
			return w.writeDirect(rel, data, mode)
		}
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err := t.WriteHeader(&tar.Header{Name: path.Base(name), Mode: int64(mode.Perm()), Size: int64(len(data)), ModTime: time.Now()})
	if err == nil {
		_, err = t.Write(data)
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return sb.Put(ctx, path.Dir(name), &b)
}

// directWriter is a machine that writes below Info.Files itself, so that the owner is right.
type directWriter interface {
	writeDirect(rel string, data []byte, mode os.FileMode) error
}

// ErrTooBig is returned by ReadFile for a file above the limit.
var ErrTooBig = errors.New("file too big")

// ReadFile reads a regular file of a machine: directly where path is below Info.Files and the machine is Direct, else by
// Get. A file of more than limit bytes is ErrTooBig; one that is not there is fs.ErrNotExist.
func ReadFile(ctx context.Context, sb Sandbox, name string, limit int64) ([]byte, error) {
	name = path.Clean(name)
	if rel, ok := belowFiles(sb, name); ok {
		return readDirect(sb.(Direct).Files(), rel, limit)
	}
	stream, err := sb.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	t := tar.NewReader(stream)
	h, err := t.Next()
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if err == io.EOF || h.Typeflag != tar.TypeReg { // Get leaves devices, pipes and sockets out
		return nil, fmt.Errorf("read %s: not a regular file", name)
	}
	data, err := readLimited(t, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func belowFiles(sb Sandbox, name string) (string, bool) {
	d, ok := sb.(Direct)
	if !ok || d.Files() == nil {
		return "", false
	}
	return strings.CutPrefix(name, path.Clean(sb.Info().Files)+"/")
}

func readDirect(root *os.Root, rel string, limit int64) ([]byte, error) {
	info, err := root.Stat(rel) // opening a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", rel)
	}
	f, err := root.OpenFile(rel, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var data []byte
	if err == nil {
		data, err = readLimited(f, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", rel, err)
	}
	return data, nil
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooBig, limit)
	}
	return data, err
}

// writeDirect writes a file below a root that the job writes too: what is in its place is replaced, never followed.
func writeDirect(root *os.Root, rel string, data []byte, mode os.FileMode, own func(*os.File) error) error {
	dir := path.Dir(rel)
	if dir != "." {
		if err := mkdirDirect(root, dir, own); err != nil {
			return err
		}
	}
	if err := root.Remove(rel); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode.Perm())
	}
	if err == nil {
		err = own(f)
	}
	return errors.Join(err, f.Close())
}

// mkdirDirect makes a directory and those above it, each belonging to the machine's root.
func mkdirDirect(root *os.Root, dir string, own func(*os.File) error) error {
	info, err := root.Stat(dir)
	if err == nil && info.IsDir() {
		return nil
	}
	if up := path.Dir(dir); up != "." {
		if err := mkdirDirect(root, up, own); err != nil {
			return err
		}
	}
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(own(f), f.Close())
}
