package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// DefaultActionsURL is where actions are fetched from unless ActionSource says otherwise.
const DefaultActionsURL = "https://github.com"

// ActionSource fetches actions and called workflows from git repositories into a directory, from which they come
// without a network from then on. It may be used by any number of goroutines, and its directory by any number of
// processes. The fields must not change after the first use.
type ActionSource struct {
	// CacheDir is where everything is kept; it is made when it is needed.
	CacheDir string
	// URLTemplate is where repositories are: a base URL, or one with {owner} and {repo} in it, or a directory.
	// Schemes are https, http, ssh, git and file. Empty is DefaultActionsURL.
	URLTemplate string
	// Overrides are directories of this machine to take instead of a repository, by "owner/repo" or
	// "owner/repo@ref", without case; or instead of one action of it, by "owner/repo/path" or "owner/repo/path@ref", the
	// path with its case. What says most counts.
	Overrides map[string]string
	// Offline asks no server: what is not in CacheDir is an error.
	Offline bool
	// Log takes a line for each thing that may last, and notes; nil for none.
	Log io.Writer

	flight singleflight.Group
	mu     sync.Mutex
	recent map[string]answered
}

// answered is a Resolve that needs no repeating for a while.
type answered struct {
	Resolved
	at time.Time
}

// sameAnswer is how long a name stands for the commit it was found at, so that the jobs of a run agree.
const sameAnswer = time.Minute

// Resolved is a reference to an action, or to a called workflow, and where its files are.
type Resolved struct {
	// Root is the directory of the repository's files, Dir the action's directory in it or, for a called workflow,
	// the one that its file is in. They are shared and must not be written.
	Root, Dir string
	// SHA is the commit, Ref the ref as written, Repository owner/name as written, Path the rest of the reference:
	// slash-separated, empty for the repository's root. SHA is empty for an override outside git.
	SHA, Ref, Repository, Path string
}

// Reference is a `uses:` taken apart.
type Reference struct{ Repository, Path, Ref string }

var (
	ownerName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)
	fullSHA   = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
	shortSHA  = regexp.MustCompile(`^[0-9a-f]{7,63}$`)
)

// ParseReference reads owner/repo[/path]@ref.
func ParseReference(uses string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("Expected format {org}/{repo}[/path]@ref. Actual '%s': %s", uses, why)
	}
	name, ref, ok := strings.Cut(uses, "@")
	if !ok || ref == "" {
		return bad("no @ref")
	}
	parts := strings.SplitN(strings.TrimSuffix(name, "/"), "/", 3)
	if len(parts) < 2 {
		return bad("no repository")
	}
	for _, p := range parts[:2] {
		if !ownerName.MatchString(p) {
			return bad(fmt.Sprintf("%q is no name of an owner or repository", p))
		}
	}
	r := Reference{Repository: parts[0] + "/" + parts[1], Ref: ref}
	if len(parts) == 3 {
		if r.Path = path.Clean(parts[2]); r.Path == "." {
			r.Path = ""
		}
		if r.Path != "" && (!fs.ValidPath(r.Path) || strings.ContainsAny(r.Path, "\\\x00")) {
			return bad("the path leaves the repository")
		}
	}
	if err := checkRef(ref); err != nil {
		return bad(err.Error())
	}
	return r, nil
}

// checkRef refuses what git would not take as a name, and what it might take as an option.
func checkRef(ref string) error {
	switch {
	case strings.HasPrefix(ref, "-"), strings.HasPrefix(ref, "/"), strings.HasSuffix(ref, "/"), strings.HasSuffix(ref, "."),
		strings.HasSuffix(ref, ".lock"), strings.Contains(ref, ".."), strings.Contains(ref, "//"), strings.Contains(ref, "@{"),
		strings.ContainsAny(ref, " ~^:?*[\\\x7f@"), strings.ContainsFunc(ref, func(r rune) bool { return r < ' ' }), len(ref) > 500:
		return fmt.Errorf("%.80q is no ref", ref)
	}
	return nil
}

// Resolve gives the files of owner/repo[/path]@ref. ref is a tag, a branch, or a commit in full or in part. A name is
// asked for at the server; if that fails it is the commit seen last, with a note in Log. A full commit that was
// fetched before needs no network. The error says what is missing and what there is instead.
func (a *ActionSource) Resolve(ctx context.Context, uses string) (Resolved, error) {
	ref, err := ParseReference(uses)
	if err != nil {
		return Resolved{}, err
	}
	key := strings.ToLower(ref.Repository) + "@" + ref.Ref
	if dir, own := a.override(ref); dir != "" {
		if own {
			ref.Path = ""
		}
		return fromDirectory(ctx, ref, dir)
	}
	a.mu.Lock()
	last, ok := a.recent[key]
	a.mu.Unlock()
	if !ok || time.Since(last.at) > sameAnswer {
		got, err := a.share(ctx, key, ref)
		if err != nil {
			return Resolved{}, fmt.Errorf("Unable to resolve action `%s`: %w", uses, err)
		}
		last.Resolved = got
	}
	res := last.Resolved
	res.Repository, res.Ref, res.Path = ref.Repository, ref.Ref, ref.Path
	return res, res.locate(uses)
}

// share resolves once for all who ask at the same time. One who gives up does not stop the others.
func (a *ActionSource) share(ctx context.Context, key string, ref Reference) (Resolved, error) {
	ch := a.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxFetch)
		defer cancel()
		res, err := a.resolve(ctx, ref)
		if err == nil {
			a.mu.Lock()
			if a.recent == nil {
				a.recent = map[string]answered{}
			}
			a.recent[key] = answered{res, time.Now()}
			a.mu.Unlock()
		}
		return res, err
	})
	select {
	case <-ctx.Done():
		return Resolved{}, context.Cause(ctx)
	case r := <-ch:
		res, _ := r.Val.(Resolved)
		return res, r.Err
	}
}

// Overridden says whether a directory is taken instead of what ref refers to.
func (a *ActionSource) Overridden(ref Reference) bool {
	dir, _ := a.override(ref)
	return dir != ""
}

// override is the directory to take instead of a reference, empty for none. own says that it is the action's own and
// not its repository's.
func (a *ActionSource) override(ref Reference) (dir string, own bool) {
	most := -1
	for key, d := range a.Overrides {
		name, at, pinned := strings.Cut(key, "@")
		parts := append(strings.SplitN(name, "/", 3), "", "")
		if !strings.EqualFold(parts[0]+"/"+parts[1], ref.Repository) || pinned && !strings.EqualFold(at, ref.Ref) || parts[2] != "" && parts[2] != ref.Path {
			continue
		}
		says := 0
		if pinned {
			says++
		}
		if parts[2] != "" {
			says += 2
		}
		if says > most {
			most, dir, own = says, d, parts[2] != ""
		}
	}
	return dir, own
}

func fromDirectory(ctx context.Context, ref Reference, dir string) (Resolved, error) {
	root, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(root)
	}
	if err != nil {
		return Resolved{}, fmt.Errorf("the directory given for %s: %w", ref.Repository, err)
	}
	res := Resolved{Root: root, Ref: ref.Ref, Repository: ref.Repository, Path: ref.Path}
	if sha, err := runGit(ctx, gitCall{dir: root, args: []string{"rev-parse", "-q", "--verify", "HEAD"}}); err == nil {
		res.SHA = sha
	}
	return res, res.locate(ref.Repository + "@" + ref.Ref)
}

// locate finds the action's directory and says what is missing in it.
func (r *Resolved) locate(uses string) error {
	root, err := os.OpenRoot(r.Root)
	if err != nil {
		return fmt.Errorf("open the files of %s: %w", uses, err)
	}
	defer root.Close()
	dir := cmp.Or(r.Path, ".")
	if ext := path.Ext(dir); ext == ".yml" || ext == ".yaml" {
		if info, err := root.Stat(filepath.FromSlash(dir)); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("%s: there is no file %s%s", uses, dir, instead(root, path.Dir(dir), "workflows", isWorkflow))
		}
		r.Dir = filepath.Join(r.Root, filepath.FromSlash(path.Dir(dir)))
		return nil
	}
	r.Dir = filepath.Join(r.Root, filepath.FromSlash(dir))
	for _, name := range []string{"action.yml", "action.yaml", "Dockerfile", "dockerfile"} {
		if info, err := root.Stat(filepath.Join(filepath.FromSlash(dir), name)); err == nil && info.Mode().IsRegular() {
			return nil
		}
	}
	return fmt.Errorf("Can't find 'action.yml', 'action.yaml' or 'Dockerfile' for action '%s'.%s", uses, instead(root, ".", "actions", isAction))
}

func isWorkflow(p string) string {
	if ext := path.Ext(p); ext == ".yml" || ext == ".yaml" {
		return p
	}
	return ""
}

func isAction(p string) string {
	if base := path.Base(p); base == "action.yml" || base == "action.yaml" {
		return path.Dir(p)
	}
	return ""
}

// instead tells of up to five of what there is below a directory, for an error's end.
func instead(root *os.Root, dir, what string, pick func(p string) string) string {
	const most, deepest = 5, 4
	var found []string
	_ = fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case d.IsDir() && (strings.Count(p, "/") >= deepest || d.Name() == "node_modules"):
			return fs.SkipDir
		case len(found) == most:
			return fs.SkipAll
		case !d.IsDir():
			if name := pick(p); name != "" && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
		return nil
	})
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf(" The repository has these %s: %s", what, strings.Join(found, ", "))
}

// address is the URL of a repository and the same without a password, for people.
func (a *ActionSource) address(repository string) (remote, shown string, err error) {
	owner, name, _ := strings.Cut(repository, "/")
	template := cmp.Or(a.URLTemplate, DefaultActionsURL)
	if filepath.IsAbs(template) {
		template = "file://" + filepath.ToSlash(template)
	}
	remote = strings.NewReplacer("{owner}", owner, "{repo}", name).Replace(template)
	if remote == template {
		remote = strings.TrimSuffix(template, "/") + "/" + owner + "/" + name
	}
	u, err := url.Parse(remote)
	if err != nil || !slices.Contains([]string{"https", "http", "ssh", "git", "file"}, u.Scheme) || u.Scheme != "file" && u.Host == "" {
		return "", "", errors.New("the actions URL must begin with https://, http://, ssh://, git:// or file://, or be an absolute directory")
	}
	return remote, u.Redacted(), nil
}

func (a *ActionSource) note(format string, args ...any) {
	if a.Log != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		fmt.Fprintf(a.Log, format+"\n", args...)
	}
}
