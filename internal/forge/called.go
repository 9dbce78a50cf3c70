package forge

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
)

// ReadFile reads a reusable workflow of another repository, named as `uses:` names it: owner/repo/path/file.yml@ref.
func (a *ActionSource) ReadFile(ctx context.Context, uses string) (File, error) {
	found, err := a.Resolve(ctx, uses)
	if err != nil {
		return File{}, err
	}
	root, err := os.OpenRoot(found.Dir)
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", uses, err)
	}
	defer root.Close()
	f, err := root.Open(path.Base(found.Path))
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", uses, pathless(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxWorkflowFile+1))
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", uses, pathless(err))
	}
	if len(data) > maxWorkflowFile {
		return File{}, fmt.Errorf("read %s: more than the limit of %d bytes", uses, maxWorkflowFile)
	}
	return File{Path: uses, Data: data}, nil
}
