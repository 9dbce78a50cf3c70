package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// keptProgram is a Program as machines get it.
type keptProgram struct {
	Program
	mu   sync.Mutex
	copy string // made once it is needed
}

// at gives a file of the program to mount: its own, or a copy below dir if its own has gone or another is in its place. The
// kernel mounts no file that has no name any more.
func (p *keptProgram) at(dir string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.copy != "" {
		return p.copy, nil
	}
	is, err := p.File.Stat()
	if err != nil {
		return "", err
	}
	if there, err := os.Stat(p.Path); err == nil && os.SameFile(is, there) {
		return p.Path, nil
	}
	name := filepath.Join(dir, "program")
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, io.NewSectionReader(p.File, 0, is.Size()))
	if err := errors.Join(err, to.Chmod(0o755), to.Close()); err != nil {
		os.Remove(name)
		return "", fmt.Errorf("keep a copy of %s, which has been replaced: %w", p.Path, err)
	}
	p.copy = name
	return name, nil
}
