package agent

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	cfs "github.com/containerd/continuity/fs"
	"github.com/moby/go-archive"
	"github.com/moby/go-archive/compression"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// Files are actions, done one after the other.
type Files struct{ Actions []FileAction }

func (m *Files) code(c *coder) {
	for i := range list(c, &m.Actions) {
		a := &m.Actions[i]
		for _, s := range []*string{&a.Kind, &a.Path, &a.From, &a.Root, &a.Data, &a.ModeText, &a.Owner} {
			c.string(s)
		}
		c.int(&a.Mode)
		at := int(a.Time)
		c.int(&at)
		a.Time = int64(at)
		for _, b := range []*bool{&a.Parents, &a.NotFoundOK, &a.Wildcard, &a.EmptyOK, &a.Contents, &a.Follow, &a.Unpack, &a.Replace} {
			c.bool(b)
		}
		c.strings(&a.Include)
		c.strings(&a.Exclude)
	}
}

// files does what a build asks for. Nothing leads out of here: this process has no other root.
func (a *inside) files(f *frame) error {
	var m Files
	if err := decode(f.body, &m); err != nil {
		return err
	}
	for _, action := range m.Actions {
		if err := action.do(); err != nil {
			return err
		}
	}
	return nil
}

func (a *FileAction) do() error {
	switch a.Kind {
	case FileCopy:
		return a.copy()
	case FileMkdir:
		return a.mkdir()
	case FileMkfile:
		return a.mkfile()
	case FileRemove:
		return a.remove()
	case FileLink:
		return a.link()
	}
	return errFrame
}

// owner reads Owner. A user without a group has the group that /etc/passwd says, or for a number the same.
func (a *FileAction) owner() (*fscopy.User, error) {
	if a.Owner == "" {
		return nil, nil
	}
	name, group, grouped := strings.Cut(a.Owner, ":")
	who, err := lookUser(a.Owner)
	if err != nil {
		return nil, err
	}
	if id, err := strconv.Atoi(name); err == nil && !grouped {
		return &fscopy.User{UID: id, GID: id}, nil
	}
	if grouped && group == "" {
		who.gid = 0
	}
	return &fscopy.User{UID: who.uid, GID: who.gid}, nil
}

func (a *FileAction) chowner() (fscopy.Chowner, error) {
	who, err := a.owner()
	if err != nil || who == nil {
		return nil, err
	}
	return func(*fscopy.User) (*fscopy.User, error) { return who, nil }, nil
}

func (a *FileAction) time() *time.Time {
	if a.Time == -1 {
		return nil
	}
	t := time.Unix(0, a.Time)
	return &t
}

func (a *FileAction) mkdir() error {
	own, err := a.chowner()
	if err != nil {
		return err
	}
	name := path.Join("/", a.Path)
	if a.Parents {
		_, err := fscopy.MkdirAll(name, fs.FileMode(a.Mode)&0o777, own, a.time())
		return err
	}
	if err := os.Mkdir(name, fs.FileMode(a.Mode)&0o777); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return a.finish(name, own)
}

func (a *FileAction) mkfile() error {
	own, err := a.chowner()
	if err != nil {
		return err
	}
	name := path.Join("/", a.Path)
	if err := os.RemoveAll(name); err != nil { // never written through
		return err
	}
	if err := os.WriteFile(name, []byte(a.Data), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(name, fs.FileMode(a.Mode)&0o777); err != nil {
		return err
	}
	return a.finish(name, own)
}

func (a *FileAction) link() error {
	own, err := a.chowner()
	if err != nil {
		return err
	}
	name := path.Join("/", a.Path)
	if err := os.Symlink(a.From, name); err != nil {
		return err
	}
	return a.finish(name, own)
}

func (a *FileAction) finish(name string, own fscopy.Chowner) error {
	if err := fscopy.Chown(name, nil, own); err != nil {
		return err
	}
	return fscopy.Utimes(name, a.time())
}

func (a *FileAction) remove() error {
	names := []string{path.Join("/", a.Path)}
	if a.Wildcard {
		var err error
		if names, err = fscopy.ResolveWildcards("/", keepSlash(a.Path), false); err != nil {
			return err
		}
	}
	for _, name := range names {
		name = path.Join("/", name)
		if name == "/" {
			return errors.New("the root can not be removed")
		}
		if _, err := os.Lstat(name); err != nil && !a.NotFoundOK {
			return err
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// copy is BuildKit's own (solver/llbsolver/file/backend.go), which its copying is a library of.
func (a *FileAction) copy() error {
	own, err := a.chowner()
	if err != nil {
		return err
	}
	from, to := keepSlash(a.From), keepSlash(a.Path)
	if !a.Parents {
		if _, err := os.Lstat(path.Dir(path.Join("/", a.Path))); err != nil {
			return err
		}
	}
	names := []string{from}
	if a.Wildcard {
		if names, err = fscopy.ResolveWildcards(a.Root, from, a.Follow); err != nil {
			return err
		}
		if len(names) == 0 && !a.EmptyOK {
			return fmt.Errorf("%s not found", from)
		}
	}
	options := func(c *fscopy.CopyInfo) {
		c.IncludePatterns, c.ExcludePatterns, c.Chown, c.Utime = a.Include, a.Exclude, own, a.time()
		if a.ModeText != "" {
			c.ModeStr = a.ModeText
		} else if a.Mode != -1 {
			c.Mode = &a.Mode
		}
		c.CopyDirContents, c.FollowLinks, c.AlwaysReplaceExistingDestPaths = a.Contents, a.Follow, a.Replace
	}
	ignore := fscopy.WithXAttrErrorHandler(func(_, _, _ string, _ error) error { return nil }) // not every file system has them
	for _, name := range names {
		if a.Unpack {
			done, err := a.unpackArchive(name, to, own)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := fscopy.Copy(context.Background(), a.Root, name, "/", to, options, ignore); err != nil {
			return a.relative(err)
		}
	}
	return nil
}

// relative takes the place of the source out of an error's path.
func (a *FileAction) relative(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		at.Path = strings.TrimPrefix(at.Path, a.Root)
	}
	return err
}

// unpackArchive unpacks a source that is a tar archive, as ADD does.
func (a *FileAction) unpackArchive(name, to string, own fscopy.Chowner) (bool, error) {
	from, err := cfs.RootPath(a.Root, name)
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(from)
	if err != nil || !info.Mode().IsRegular() || !isArchive(from) {
		return false, nil
	}
	if _, err := fscopy.MkdirAll(to, 0o755, own, a.time()); err != nil {
		return false, err
	}
	file, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer file.Close()
	o := &archive.TarOptions{BestEffortXattrs: true}
	who, err := a.owner()
	if err != nil {
		return false, err
	}
	if who != nil {
		o.ChownOpts = &archive.ChownOpts{UID: who.UID, GID: who.GID}
	}
	return true, archive.Untar(file, to, o)
}

func isArchive(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	r, err := compression.DecompressStream(f)
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil
}

// keepSlash cleans a path but for a slash or a dot at its end, which mean something in copies.
func keepSlash(name string) string {
	clean := path.Join("/", name)
	slash := clean
	if clean != "/" {
		slash += "/"
	}
	switch {
	case strings.HasSuffix(name, "/."):
		return slash + "."
	case strings.HasSuffix(name, "/"):
		return slash
	}
	return clean
}
