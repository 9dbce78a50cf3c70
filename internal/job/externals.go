package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// insideExternals is where a machine that shows an image has this host's Node.js: GitHub's runner brings its own to /__e.
const insideExternals = "/__e/node"

// What a directory of externals holds, besides the libraries by their names.
const (
	externalNode   = "node"
	externalLoader = "ld.so"
)

// lddTime bounds how long the host's ldd may take.
const lddTime = 10 * time.Second

// nodeCommand is how Node.js is started: the machine's own, or in an image this host's, which is brought along. Images
// with another C library run it by the host's loader.
func (e *execution) nodeCommand(ctx context.Context) ([]string, error) {
	layered, ok := e.sb.(sandbox.Layered)
	if !e.inImage || !ok || e.x.Externals == "" {
		return []string{"node"}, nil
	}
	e.mu.Lock()
	known := e.node
	e.mu.Unlock()
	if known != nil {
		return known, nil
	}
	dir, err := externals(ctx, e.x.Externals)
	if err != nil {
		e.log.line("##[debug]Node.js is not brought along: %s", err)
		return []string{"node"}, nil
	}
	if err := layered.Overlay(ctx, insideExternals, dir, nil); err != nil {
		return nil, fmt.Errorf("bring Node.js: %w", err)
	}
	node := []string{insideExternals + "/" + externalNode}
	if err := e.sb.Exec(ctx, sandbox.Command{Args: append(node, "--version"), Dir: "/"}); err != nil {
		node = []string{insideExternals + "/" + externalLoader, "--library-path", insideExternals, node[0]}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.node = node
	return node, nil
}

// externals makes a directory with this host's Node.js and all that it loads, once for each version of it.
func externals(ctx context.Context, parent string) (string, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return "", err
	}
	if node, err = filepath.EvalSymlinks(node); err != nil {
		return "", err
	}
	info, err := os.Stat(node)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", node, info.Size(), info.ModTime()))
	dir := filepath.Join(parent, "node-"+hex.EncodeToString(sum[:10]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	files, err := loaded(ctx, node)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	made, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made)
	if err := os.Chmod(made, 0o755); err != nil {
		return "", err
	}
	files[externalNode] = node
	for name, from := range files {
		if err := copyFile(filepath.Join(made, name), from); err != nil {
			return "", err
		}
	}
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) { // another run was quicker
		if _, there := os.Stat(dir); there != nil {
			return "", err
		}
	}
	return dir, nil
}

// loaded are the libraries of a program of this host, and its loader, by the names that they get.
func loaded(ctx context.Context, program string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lddTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) { // libc.so.6 => /lib/libc.so.6 (0x...), or /lib64/ld-linux-x86-64.so.2 (0x...)
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 3 && fields[1] == "=>" && filepath.IsAbs(fields[2]):
			files[fields[0]] = fields[2]
		case len(fields) >= 1 && filepath.IsAbs(fields[0]):
			files[externalLoader] = fields[0]
		}
	}
	if files[externalLoader] == "" {
		return nil, fmt.Errorf("%s names no loader", program)
	}
	return files, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
