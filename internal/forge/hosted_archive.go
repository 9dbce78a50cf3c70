package forge

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// archiveTimeout bounds how long an archive may take.
const archiveTimeout = 10 * time.Minute

// Archive writes the files of a commit below a directory of it (slash-separated; "." is all) as a tar stream, without times and
// owners: the same bytes for the same files. The error wraps fs.ErrNotExist if there is no such commit or directory.
func (b *Bare) Archive(ctx context.Context, sha, dir string, w io.Writer) error {
	missing := fmt.Errorf("read %.100q of commit %.100q: %w", dir, sha, fs.ErrNotExist)
	if !isSHA(sha) || !fs.ValidPath(dir) {
		return missing
	}
	tree, prefix := sha+":", ""
	if dir != "." {
		tree, prefix = tree+dir, dir+"/"
	}
	kind, _, err := b.call(ctx, call{codes: []int{128}}, "cat-file", "-t", tree)
	if err != nil {
		return err
	}
	if kind != "tree" {
		return missing
	}
	ctx, cancel := context.WithTimeout(ctx, archiveTimeout)
	defer cancel()
	cmd := command(ctx, b.dir, "archive", "--format=tar", sha, "--", prefix+".")
	if dir == "." {
		cmd = command(ctx, b.dir, "archive", "--format=tar", sha)
	}
	stderr := &bounded{max: 64 << 10}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("git archive: %w", err)
	}
	err = timeless(out, prefix, w)
	if err != nil {
		cancel() // or it would wait for who reads
	}
	if ended := cmd.Wait(); err == nil && ended != nil {
		err = errors.Join(ctx.Err(), ended)
		if text := strings.TrimSpace(stderr.String()); text != "" && ctx.Err() == nil {
			err = errors.New(text)
		}
	}
	if err != nil {
		return fmt.Errorf("git archive: %w", err)
	}
	return nil
}

// timeless copies a tar stream, what stands below a prefix, with nothing in it that tells when it was made.
func timeless(in io.Reader, prefix string, w io.Writer) error {
	from, to := tar.NewReader(in), tar.NewWriter(w)
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return to.Close()
		}
		if err != nil {
			return err
		}
		name, below := strings.CutPrefix(h.Name, prefix)
		if h.Typeflag == tar.TypeXGlobalHeader || !below || name == "" {
			continue
		}
		if err := to.WriteHeader(&tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o755}); err != nil {
			return err
		}
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
}
