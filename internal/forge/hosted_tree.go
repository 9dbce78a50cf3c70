package forge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strconv"
	"strings"
)

const (
	// maxWorkflows is how many files of .github/workflows are read.
	maxWorkflows = 1000
	// maxReadBytes bounds what is read of one commit, bytes.
	maxReadBytes = 256 << 20
)

// Tree reads the files of one commit, through one git that runs as long as it is open. It is for one goroutine.
type Tree struct {
	SHA   string
	cmd   *exec.Cmd
	stop  context.CancelFunc
	in    io.WriteCloser
	out   *bufio.Reader
	left  int64
	broke error // what went wrong with git: nothing can be read any more
}

// Tree opens the files of a commit. The error wraps fs.ErrNotExist if there is no such commit. Close it.
func (b *Bare) Tree(ctx context.Context, sha string) (*Tree, error) {
	if !isSHA(sha) {
		return nil, fmt.Errorf("read commit %.100q of %s: %w", sha, b.Name, fs.ErrNotExist)
	}
	ctx, stop := context.WithCancel(ctx)
	t := &Tree{SHA: sha, stop: stop, left: maxReadBytes}
	t.cmd = command(ctx, b.dir, "cat-file", "--batch-command", "-z")
	out, err := t.cmd.StdoutPipe()
	if err == nil {
		t.out = bufio.NewReader(out)
		t.in, err = t.cmd.StdinPipe()
	}
	if err == nil {
		err = t.cmd.Start()
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("read commit %s of %s: %w", sha, b.Name, err)
	}
	if _, _, err := t.info("^{commit}"); err != nil {
		t.Close()
		return nil, fmt.Errorf("read commit %s of %s: %w", sha, b.Name, err)
	}
	return t, nil
}

// Close ends the git that reads.
func (t *Tree) Close() {
	t.in.Close()
	t.stop()
	_ = t.cmd.Wait() // it was ended
}

// Workflows reads the files of .github/workflows, sorted by name; like GitHub it does not look into directories and not
// through symbolic links. No such directory is no workflows.
func (t *Tree) Workflows() ([]File, error) {
	data, err := t.read(":"+WorkflowDir, "tree")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list workflows at %s: %w", t.SHA, err)
	}
	entries, err := parseTree(data)
	if err != nil {
		return nil, fmt.Errorf("list workflows at %s: %w", t.SHA, err)
	}
	var files []File
	for _, e := range entries {
		if ext := path.Ext(e.name); e.mode != "100644" && e.mode != "100755" || ext != ".yml" && ext != ".yaml" {
			continue
		}
		if len(files) == maxWorkflows {
			return nil, fmt.Errorf("list workflows at %s: more than %d in %s", t.SHA, maxWorkflows, WorkflowDir)
		}
		f, err := t.Read(WorkflowDir + "/" + e.name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Read reads one file; symbolic links are not followed. The error wraps fs.ErrNotExist if there is none of that name.
func (t *Tree) Read(name string) (File, error) {
	if !fs.ValidPath(name) || name == "." {
		return File{}, fmt.Errorf("read %q: not a path inside the repository: %w", name, fs.ErrNotExist)
	}
	data, err := t.read(":"+name, "blob")
	if err != nil {
		return File{}, fmt.Errorf("read %s at %s: %w", name, t.SHA, err)
	}
	return File{Path: name, Data: data}, nil
}

// read reads an object of the wanted kind, named by what follows the commit. How large it is git is asked before.
func (t *Tree) read(what, kind string) ([]byte, error) {
	have, size, err := t.info(what)
	switch {
	case err != nil:
		return nil, err
	case have != kind:
		return nil, fmt.Errorf("it is a %s, not a %s", have, kind)
	case size > maxWorkflowFile:
		return nil, fmt.Errorf("%d bytes, more than the limit of %d", size, maxWorkflowFile)
	case size > t.left:
		return nil, fmt.Errorf("more than %d bytes of one commit are not read", maxReadBytes)
	}
	t.left -= size
	if _, size, err = t.ask("contents", what); err != nil {
		return nil, err
	}
	data := make([]byte, size+1) // a line feed ends it
	if _, err := io.ReadFull(t.out, data); err != nil {
		t.broke = fmt.Errorf("git cat-file: %w", err)
		return nil, t.broke
	}
	return data[:size], nil
}

func (t *Tree) info(what string) (kind string, size int64, err error) { return t.ask("info", what) }

// ask sends a command and reads the first line of its answer: NAME KIND SIZE, or NAME missing. The name that was asked
// for may have line feeds in it; in the answer to a name that is there it is a SHA.
func (t *Tree) ask(command, what string) (kind string, size int64, err error) {
	if t.broke != nil {
		return "", 0, t.broke
	}
	if strings.ContainsAny(what, "\n\x00") {
		return "", 0, fs.ErrNotExist // a line feed would be in git's answer too
	}
	if _, err = io.WriteString(t.in, command+" "+t.SHA+what+"\x00"); err == nil {
		var line string
		if line, err = t.out.ReadString('\n'); err == nil {
			return parseInfo(line)
		}
	}
	t.broke = fmt.Errorf("git cat-file: %w", err)
	return "", 0, t.broke
}

// parseInfo reads the first line of git cat-file's answer.
func parseInfo(line string) (kind string, size int64, err error) {
	f := strings.Fields(line)
	if len(f) < 2 || f[len(f)-1] == "missing" {
		return "", 0, fs.ErrNotExist
	}
	if len(f) != 3 || !isSHA(f[0]) {
		return "", 0, fmt.Errorf("git cat-file: %.200q", line)
	}
	if size, err = strconv.ParseInt(f[2], 10, 64); err != nil || size < 0 {
		return "", 0, fmt.Errorf("git cat-file: %.200q", line)
	}
	return f[1], size, nil
}

// treeEntry is a name in a directory.
type treeEntry struct {
	mode string // octal: 100644 and 100755 files, 120000 a symbolic link, 40000 a directory, 160000 a submodule
	name string
}

// parseTree reads a tree object: `MODE NAME`, a zero byte and twenty bytes of SHA, again and again.
func parseTree(data []byte) ([]treeEntry, error) {
	var entries []treeEntry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, name, named := strings.Cut(string(head), " ")
		if !ok || !named || len(rest) < 20 {
			return nil, errors.New("not a directory of git's")
		}
		entries = append(entries, treeEntry{mode, name})
		data = rest[20:]
	}
	return entries, nil
}
