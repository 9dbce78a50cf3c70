package native

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// content is a file that is being read.
type content struct {
	io.Reader
	size     int64
	mode     int64 // permissions
	modified time.Time
}

// stream reads files of the machine one after the other, links followed, and gives each to use with its place in
// files.
func (s *Step) stream(ctx context.Context, files []entry, use func(i int, c content) error) error {
	if s.direct() {
		for i, e := range files {
			if err := useFile(ctx, i, e, use); err != nil {
				return err
			}
		}
		return nil
	}
	done, err := s.streamWhereTheyAre(ctx, files, use)
	if err != nil || done == len(files) {
		return err
	}
	return s.streamTar(ctx, files[done:], func(i int, c content) error { return use(done+i, c) })
}

// streamWhereTheyAre reads files in the machine's own directories, where they can be seen from here. It gives how many
// were read: it stops at the first that is not plainly there, such as one behind a link that leads out of its directory.
func (s *Step) streamWhereTheyAre(ctx context.Context, files []entry, use func(i int, c content) error) (int, error) {
	readable, ok := s.Sandbox.(sandbox.Readable)
	if !ok {
		return 0, nil
	}
	root, err := readable.Open(s.workspace())
	if err != nil {
		return 0, nil
	}
	defer root.Close()
	for i, e := range files {
		if err := context.Cause(ctx); err != nil {
			return i, err
		}
		name, below := strings.CutPrefix(e.path, s.workspace()+"/")
		if !below {
			return i, nil
		}
		f, err := root.Open(name)
		if err != nil {
			return i, nil
		}
		info, err := f.Stat()
		if err == nil && info.Mode().IsRegular() {
			err = use(i, content{f, info.Size(), int64(info.Mode().Perm()), info.ModTime()})
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return i, err
		}
	}
	return len(files), nil
}

// streamTar reads files through the machine's tar.
func (s *Step) streamTar(ctx context.Context, files []entry, use func(i int, c content) error) error {
	if len(files) == 0 {
		return nil
	}
	var list bytes.Buffer
	for _, e := range files {
		list.WriteString(e.path)
		list.WriteByte(0)
	}
	pr, pw := io.Pipe()
	stderr := &limited{max: 4 << 10}
	done := make(chan error, 1)
	go func() {
		err := s.Sandbox.Exec(ctx, sandbox.Command{
			Args: []string{"tar", "--create", "--file=-", "--absolute-names", "--dereference", "--hard-dereference", "--format=pax",
				"--no-recursion", "--null", "--verbatim-files-from", "--files-from=-"},
			Env: s.environ("LC_ALL=C"), Dir: "/", Stdin: &list, Stdout: pw, Stderr: stderr,
		})
		if err != nil {
			if text := strings.TrimSpace(stderr.String()); text != "" {
				err = fmt.Errorf("read files of the machine: %s: %w", text, err)
			}
		}
		pw.CloseWithError(err)
		done <- err
	}()
	err := useTar(tar.NewReader(pr), files, use)
	if err == nil {
		_, err = io.Copy(io.Discard, pr) // the end of the archive
	}
	pr.CloseWithError(err)
	return errors.Join(err, <-done)
}

// useTar gives the members of an archive to use. They come in the order of files; what has vanished is missing.
func useTar(r *tar.Reader, files []entry, use func(i int, c content) error) error {
	next := 0
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for next < len(files) && files[next].path != h.Name {
			next++
		}
		if next == len(files) {
			return fmt.Errorf("the machine's tar gave %q, which was not asked for", h.Name)
		}
		if h.Typeflag != tar.TypeReg {
			next++
			continue
		}
		if err := use(next, content{r, h.Size, h.Mode & 0o777, h.ModTime}); err != nil {
			return err
		}
		next++
	}
}

func useFile(ctx context.Context, i int, e entry, use func(i int, c content) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	f, err := os.Open(filepath.FromSlash(e.path))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return use(i, content{f, info.Size(), int64(info.Mode().Perm()), info.ModTime()})
}

// HashFiles is the runner's function hashFiles: the digest of the digests of the workspace's files that the patterns
// name, in the order of a walk; empty if there is none. Directories behind links are looked into only if the first
// pattern is the option --follow-symbolic-links.
func (s *Step) HashFiles(ctx context.Context, patterns []string) (string, error) {
	follow := false
	if len(patterns) > 0 && strings.HasPrefix(patterns[0], "--") {
		if !strings.EqualFold(patterns[0], "--follow-symbolic-links") {
			return "", fmt.Errorf("Invalid glob option %s, avaliable option: '--follow-symbolic-links'.", patterns[0])
		}
		follow, patterns = true, patterns[1:]
	}
	return s.hashFiles(ctx, strings.Split(strings.Join(patterns, "\n"), "\n"), globbing{descend: true, keepLinks: !follow})
}

// hashFiles is hashFiles of @actions/glob, which the originals use for their keys with links followed.
func (s *Step) hashFiles(ctx context.Context, patterns []string, how globbing) (string, error) {
	found, _, err := s.glob(ctx, patterns, how)
	if err != nil {
		return "", err
	}
	var files []entry
	for _, e := range found {
		switch {
		case e.dir:
		case !below(e.path, s.workspace()):
			s.debug("Ignore '%s' since it is not under GITHUB_WORKSPACE.", e.path)
		default:
			files = append(files, e)
		}
	}
	if len(files) == 0 {
		return "", nil
	}
	all := sha256.New()
	err = s.stream(ctx, files, func(_ int, c content) error {
		one := sha256.New()
		if _, err := io.Copy(one, c); err != nil {
			return err
		}
		all.Write(one.Sum(nil))
		return nil
	})
	return hex.EncodeToString(all.Sum(nil)), err
}
