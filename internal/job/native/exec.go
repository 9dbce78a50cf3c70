package native

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// maxAnswer bounds what an action keeps of a command's output or of a small file it reads, bytes.
const maxAnswer = 64 << 20

// run runs a command in the machine with its output in the log, announced as the originals announce theirs.
func (s *Step) run(ctx context.Context, dir string, args ...string) error {
	return s.runEnv(ctx, dir, nil, args...)
}

func (s *Step) runEnv(ctx context.Context, dir string, env []string, args ...string) error {
	s.info("[command]%s", strings.Join(args, " "))
	err := s.Sandbox.Exec(ctx, sandbox.Command{Args: args, Env: s.environ(env...), Dir: dir, Stdout: s.Log, Stderr: s.Log})
	return commandError(args[0], err)
}

// answer runs a command and gives its standard output without blanks around it. A failed one's error is what it
// said on standard error.
func (s *Step) answer(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := s.answerEnv(ctx, dir, nil, args...)
	return strings.TrimSpace(out), err
}

func (s *Step) answerEnv(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	stdout, stderr := &limited{max: maxAnswer}, &limited{max: 64 << 10}
	err := s.Sandbox.Exec(ctx, sandbox.Command{Args: args, Env: s.environ(env...), Dir: dir, Stdout: stdout, Stderr: stderr})
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return stdout.String(), &saidError{text, err}
		}
		return stdout.String(), &saidError{fmt.Sprintf("The '%s' command failed with exit code: %d", strings.Join(args, " "), exit.Code), err}
	}
	if err == nil && stdout.over {
		err = fmt.Errorf("%s: more than %d bytes of output", args[0], stdout.max)
	}
	return stdout.String(), err
}

// saidError is a failed command that explained itself.
type saidError struct {
	text string
	err  error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.err }

// commandError is how the originals put a command's failure.
func commandError(name string, err error) error {
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &saidError{fmt.Sprintf("The process '%s' failed with exit code %d", name, exit.Code), err}
	}
	return err
}

// limited is a buffer that drops what is over its limit and remembers that it did.
type limited struct {
	kept bytes.Buffer // not embedded: its ReadFrom would take everything
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.kept.Len(); len(p) > room {
		l.over = true
		l.kept.Write(p[:room])
		return len(p), nil
	}
	return l.kept.Write(p)
}

func (l *limited) String() string { return l.kept.String() }

func (l *limited) Bytes() []byte { return l.kept.Bytes() }

// file is a file to be written into the machine. A name that ends in a slash is a directory, a link is symbolic.
type file struct {
	name string // relative
	data string
	mode int64 // 0 is 0644
	link string
}

// put writes files below an absolute directory of the machine.
func (s *Step) put(ctx context.Context, dir string, files ...file) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	now := time.Now()
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: now}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case f.mode == 0:
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if _, err := io.WriteString(w, f.data); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.Sandbox.Put(ctx, dir, &b)
}

// putTar puts what pack writes into the machine, below dir.
func (s *Step) putTar(ctx context.Context, dir string, pack func(w *tar.Writer) error) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffered := bufio.NewWriterSize(pw, 1<<20)
		w := tar.NewWriter(buffered)
		err := pack(w)
		if err == nil {
			err = errors.Join(w.Close(), buffered.Flush())
		}
		pw.CloseWithError(err)
	}()
	err := s.Sandbox.Put(ctx, dir, pr)
	pr.CloseWithError(err)
	<-done
	return err
}

// read reads a small file of the machine, symbolic links followed. The error of a missing one is fs.ErrNotExist.
func (s *Step) read(ctx context.Context, p string) (string, error) {
	out, err := s.answerEnv(ctx, "/", nil, "cat", "--", p)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return "", &fs.PathError{Op: "read", Path: p, Err: fs.ErrNotExist}
	}
	return out, err
}

// names lists a directory of the machine, sorted.
func (s *Step) names(ctx context.Context, dir string) ([]string, error) {
	entries, err := s.list(ctx, []string{dir}, 1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.path != dir {
			names = append(names, path.Base(e.path))
		}
	}
	slices.Sort(names)
	return names, nil
}

// kind says what is at a path of the machine: "" for nothing, else "file" or "directory", links followed.
func (s *Step) kind(ctx context.Context, p string) (string, error) {
	entries, err := s.list(ctx, []string{p}, 0)
	switch {
	case err != nil:
		return "", err
	case len(entries) == 0:
		return "", nil
	case entries[0].dir:
		return "directory", nil
	}
	return "file", nil
}

// clear leaves an empty directory at a path of the machine, the directory itself kept.
func (s *Step) clear(ctx context.Context, dir string) error {
	if err := s.put(ctx, path.Dir(dir), file{name: path.Base(dir) + "/"}); err != nil {
		return err
	}
	_, err := s.answer(ctx, "/", "find", dir, "-mindepth", "1", "-maxdepth", "1", "-exec", "rm", "-rf", "--", "{}", "+")
	return err
}

// remove removes files of the machine; missing ones are no error.
func (s *Step) remove(ctx context.Context, files ...string) error {
	_, err := s.answer(ctx, "/", append([]string{"rm", "-f", "--"}, files...)...)
	return err
}
