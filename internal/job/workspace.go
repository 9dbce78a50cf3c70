package job

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/job/native"
)

// hashFiles is the function of that name: it reads the workspace inside the machine.
func (e *execution) hashFiles(args []expr.Value) (expr.Value, error) {
	var patterns []string
	for _, a := range args {
		patterns = append(patterns, a.Text())
	}
	s := &native.Step{Sandbox: e.sb, Log: io.Discard, Env: map[string]string{"HOME": e.info.Home, "PATH": e.info.Path}}
	sum, err := s.HashFiles(e.ctx, patterns)
	if err != nil {
		return expr.Null(), fmt.Errorf("hashFiles: %w", err)
	}
	return expr.String(sum), nil
}

// writeBack copies what --write-back asks for from the workspace into the working tree.
func (e *execution) writeBack(ctx context.Context) error {
	for _, name := range e.x.WriteBack {
		err := e.writeBackOne(ctx, filepath.ToSlash(filepath.Clean(name)))
		if errors.Is(err, fs.ErrNotExist) {
			e.log.line("Nothing to write back: this job's workspace has no %s", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("write back %s: %w", name, err)
		}
	}
	return nil
}

// writeBackOne copies one file or directory. Nothing can lead it out of the working tree: links of the job's own neither.
func (e *execution) writeBackOne(ctx context.Context, name string) error {
	if !filepath.IsLocal(name) {
		return errors.New("the path leads out of the workspace")
	}
	root, err := os.OpenRoot(e.x.Host.WorkTree.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := e.sb.Get(ctx, path.Join(e.info.Workspace, name))
	if err != nil {
		return err
	}
	defer in.Close()
	parent := path.Dir(name)
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		target := filepath.FromSlash(path.Join(parent, h.Name))
		if !filepath.IsLocal(target) {
			return fmt.Errorf("'%s' leads out of the workspace", h.Name)
		}
		if err := writeEntry(root, target, h, r); err != nil {
			return err
		}
	}
}

func writeEntry(root *os.Root, target string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(target, 0o755)
	case tar.TypeSymlink:
		_ = root.Remove(target)
		return root.Symlink(h.Linkname, target)
	case tar.TypeReg:
		if err := root.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		_ = root.Remove(target) // a file is replaced, never written through
		f, err := root.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, os.FileMode(h.Mode)&0o777)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, content); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
	return nil // devices, pipes and sockets stay where they are
}
