package forge

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
	"slices"
	"strings"
)

// Limits on what one commit of an action's repository may unpack to.
const (
	maxTreeBytes = 2 << 30
	maxTreeFiles = 200_000
	maxTreeName  = 4096
	maxTreeDepth = 100
)

// export writes the files of a commit to dir, which appears whole or not at all. They are those of GitHub's tarball,
// export attributes included; submodules are empty.
func (r *repositoryCache) export(ctx context.Context, sha, dir string) (err error) {
	if err := os.MkdirAll(r.trees, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(r.trees, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := r.removeLeftovers(filepath.Base(temp)); err != nil {
		return err
	}
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := runGit(ctx, gitCall{dir: r.git, args: []string{"archive", "--format=tar", sha}, stdout: pw, quiet: true})
		pw.CloseWithError(err)
		done <- err
	}()
	u := unpacking{note: r.a.note, maxFiles: maxTreeFiles, maxBytes: maxTreeBytes}
	if u.root, err = os.OpenRoot(temp); err == nil {
		err = errors.Join(u.all(tar.NewReader(pr)), u.root.Close())
	}
	pr.CloseWithError(errors.Join(err, errStopped))
	if gitErr := <-done; err == nil && gitErr != nil && !errors.Is(gitErr, errStopped) {
		err = gitErr
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, dir)
}

// errStopped ends an archive that is not read on.
var errStopped = errors.New("not read to the end")

// removeLeftovers removes what killed processes were unpacking; the lock is held, so nobody is at it now.
func (r *repositoryCache) removeLeftovers(but string) error {
	entries, err := os.ReadDir(r.trees)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") && e.Name() != but {
			if err := os.RemoveAll(filepath.Join(r.trees, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpacking writes an archive of unknown origin into a directory and nowhere else.
type unpacking struct {
	root *os.Root
	note func(format string, args ...any)

	bytes, maxBytes int64
	files, maxFiles int
}

func (u *unpacking) all(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag == tar.TypeXGlobalHeader || name == "" {
			continue
		}
		if err := checkTreeName(name); err != nil {
			return err
		}
		if u.files++; u.files > u.maxFiles || h.Size > u.maxBytes-u.bytes {
			return fmt.Errorf("more than %d files or %d bytes", u.maxFiles, u.maxBytes)
		}
		u.bytes += h.Size
		if err := u.one(h, name, r); err != nil {
			return err
		}
	}
}

// checkTreeName refuses names that lead out or that git itself would act on.
func checkTreeName(name string) error {
	if !fs.ValidPath(name) || len(name) > maxTreeName || strings.Count(name, "/") > maxTreeDepth || strings.ContainsAny(name, "\\\x00") {
		return fmt.Errorf("a name that is not allowed: %.100q", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") {
			return fmt.Errorf("a name that is not allowed: %.100q", name)
		}
	}
	return nil
}

// staysInside says whether a link can not lead out: up from its own directory and then down, never up again, since
// what it goes down by may itself be a link.
func staysInside(name, target string) bool {
	if path.IsAbs(target) || target == "" || len(target) > maxTreeName || strings.ContainsAny(target, "\\\x00") {
		return false
	}
	up := 0
	parts := strings.Split(target, "/")
	for up < len(parts) && parts[up] == ".." {
		up++
	}
	return up <= strings.Count(name, "/") && !slices.Contains(parts[up:], "..")
}

func (u *unpacking) one(h *tar.Header, name string, content io.Reader) error {
	local := filepath.FromSlash(name)
	if err := u.root.MkdirAll(filepath.Dir(local), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.root.MkdirAll(local, 0o755)
	case tar.TypeSymlink:
		if !staysInside(name, h.Linkname) {
			u.note("The link %s leads out of its repository and is left out", name)
			return nil
		}
		return u.root.Symlink(h.Linkname, local)
	case tar.TypeReg:
		f, err := u.root.OpenFile(local, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(0o644|h.Mode&0o111))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	u.note("%s is neither file, directory nor link and is left out", name)
	return nil
}
