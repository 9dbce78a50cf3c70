package forge

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// repositoryCache is the place of one remote repository in CacheDir: the fetched objects, the commits that names
// stood for, and a directory of files for each commit.
type repositoryCache struct {
	a             *ActionSource
	name          string // owner/repo
	remote, shown string
	git           string // the bare repository
	refs          string // directory of files, one a name
	trees         string // directory of directories, one a commit
	lock          string
}

func (a *ActionSource) repository(name string) (*repositoryCache, error) {
	remote, shown, err := a.address(name)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(a.CacheDir)
	if err != nil {
		return nil, err
	}
	// Readable by people, and apart for each address.
	id := strings.ToLower(strings.ReplaceAll(name, "/", "+")) + "-" + hashName(remote)
	return &repositoryCache{
		a: a, name: name, remote: remote, shown: shown,
		git: filepath.Join(dir, "git", id), refs: filepath.Join(dir, "refs", id),
		trees: filepath.Join(dir, "trees", id), lock: filepath.Join(dir, "locks", id),
	}, nil
}

func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// resolve finds the commit and makes its files be there.
func (a *ActionSource) resolve(ctx context.Context, ref Reference) (Resolved, error) {
	r, err := a.repository(ref.Repository)
	if err != nil {
		return Resolved{}, err
	}
	if fullSHA.MatchString(ref.Ref) {
		root, err := r.tree(ctx, ref.Ref, ref.Ref)
		return Resolved{Root: root, SHA: ref.Ref}, err
	}
	remote, sha, err := r.lookUp(ctx, ref.Ref)
	if err == nil {
		var root string
		if root, err = r.tree(ctx, sha, remote); err == nil {
			r.rememberRef(ref.Ref, sha)
			return Resolved{Root: root, SHA: sha}, nil
		}
	}
	if missing := (*missingRefError)(nil); errors.As(err, &missing) || ctx.Err() != nil {
		return Resolved{}, err
	}
	// The server can not be asked: what the name stood for last time is better than nothing.
	if sha, at := r.rememberedRef(ref.Ref); sha != "" {
		if root := r.have(sha); root != "" {
			a.note("%s@%s is taken from the cache, as it was on %s (%.12s): %v", ref.Repository, ref.Ref, at.Format(time.DateOnly), sha, err)
			return Resolved{Root: root, SHA: sha}, nil
		}
	}
	return Resolved{}, err
}

// missingRefError says that the repository is there and has no such ref.
type missingRefError struct {
	repository, ref string
	near            []string
}

func (e *missingRefError) Error() string {
	text := fmt.Sprintf("unable to find version `%s` of %s", e.ref, e.repository)
	if len(e.near) > 0 {
		text += ". There is " + strings.Join(e.near, ", ")
	}
	return text
}

var errOffline = errors.New("it is not in the cache, and the network is not to be used")

// lookUp asks the server what a name stands for: a tag before a branch. remote is what to fetch.
func (r *repositoryCache) lookUp(ctx context.Context, ref string) (remote, sha string, err error) {
	if r.a.Offline {
		return "", "", errOffline
	}
	names := []string{"refs/tags/" + ref, "refs/heads/" + ref}
	if strings.HasPrefix(ref, "refs/") {
		names = []string{ref}
	}
	found, err := r.list(ctx, append(slices.Clone(names), names[0]+"^{}")...)
	if err != nil {
		return "", "", err
	}
	for _, name := range names {
		if sha := cmp.Or(found[name+"^{}"], found[name]); sha != "" {
			return name, sha, nil
		}
	}
	if shortSHA.MatchString(ref) {
		sha, err := r.expand(ctx, ref)
		if err != nil || sha != "" {
			return sha, sha, err
		}
	}
	all, err := r.list(ctx)
	if err != nil {
		return "", "", err
	}
	return "", "", &missingRefError{repository: r.name, ref: ref, near: nearest(ref, all)}
}

// list gives commits by ref name; without patterns those of all tags and branches.
func (r *repositoryCache) list(ctx context.Context, patterns ...string) (map[string]string, error) {
	args := []string{"ls-remote", "--quiet"}
	if len(patterns) == 0 {
		args = append(args, "--tags", "--heads", "--refs")
	}
	out, err := runGit(ctx, gitCall{args: append(append(args, "--", r.remote), patterns...)})
	if err != nil {
		return nil, r.unreachable(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		sha, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && fullSHA.MatchString(sha) {
			found[name] = sha
		}
	}
	return found, nil
}

// unreachable says what a failed exchange with the server means, as far as git's words tell.
func (r *repositoryCache) unreachable(err error) error {
	text := strings.ToLower(err.Error())
	for _, sign := range []string{"not found", "does not exist", "does not appear to be a git repository", "could not read username", "authentication failed", "permission denied"} {
		if strings.Contains(text, sign) {
			return fmt.Errorf("there is no repository %s, or it may not be read: %w", r.shown, err)
		}
	}
	return fmt.Errorf("%s can not be reached: %w", r.shown, err)
}

// expand finds the commit that begins with a few digits, which takes the whole history. Empty: there is none.
func (r *repositoryCache) expand(ctx context.Context, short string) (string, error) {
	unlock, err := r.locked(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	r.a.note("Fetching the history of %s to find %s; the full commit would be found at once", r.name, short)
	if err := r.fetchAll(ctx); err != nil {
		return "", err
	}
	sha, err := runGit(ctx, gitCall{dir: r.git, args: []string{"rev-parse", "-q", "--verify", "--end-of-options", short + "^{commit}"}, quiet: true})
	if err != nil {
		return "", nil
	}
	return sha, nil
}

// have gives the directory of a commit's files if they are there, and remembers the use in its time.
func (r *repositoryCache) have(sha string) string {
	dir := filepath.Join(r.trees, sha)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // only Prune suffers
	return dir
}

// tree makes the files of a commit be there and gives their directory. remote is what to ask the server for.
func (r *repositoryCache) tree(ctx context.Context, sha, remote string) (string, error) {
	if dir := r.have(sha); dir != "" {
		return dir, nil
	}
	unlock, err := r.locked(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir := r.have(sha); dir != "" {
		return dir, nil // another process made it meanwhile
	}
	if !r.hasCommit(ctx, sha) {
		if r.a.Offline {
			return "", errOffline
		}
		r.a.note("Fetching %s at %.12s from %s", r.name, sha, r.shown)
		if err := r.fetch(ctx, sha, remote); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(r.trees, sha)
	if err := r.export(ctx, sha, dir); err != nil {
		return "", fmt.Errorf("unpack %s at %.12s: %w", r.name, sha, err)
	}
	return dir, nil
}

// locked keeps other processes from the repository until unlock.
func (r *repositoryCache) locked(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(r.lock), 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(r.lock)
	if ok, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", r.lock, err)
	} else if !ok {
		r.a.note("Waiting for another process that is fetching %s", r.name)
		if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for another process that is fetching %s: %w", r.name, err)
		}
	}
	return func() { _ = lock.Unlock() }, r.begin(ctx)
}

// begin makes the bare repository.
func (r *repositoryCache) begin(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(r.git, "HEAD")); err == nil {
		return nil
	}
	if err := os.MkdirAll(r.git, 0o700); err != nil {
		return err
	}
	_, err := runGit(ctx, gitCall{dir: r.git, args: []string{"init", "--quiet", "--bare", "--template=", "."}, quiet: true})
	return err
}

func (r *repositoryCache) hasCommit(ctx context.Context, sha string) bool {
	_, err := runGit(ctx, gitCall{dir: r.git, args: []string{"cat-file", "-e", sha + "^{tree}"}, quiet: true})
	return err == nil
}

// fetch gets one commit without its history; a server that gives no single commits is asked for everything.
func (r *repositoryCache) fetch(ctx context.Context, sha, remote string) error {
	spec := "+" + remote + ":refs/fetched/" + sha
	_, err := runGit(ctx, gitCall{dir: r.git, args: []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--", r.remote, spec}})
	if err == nil && r.hasCommit(ctx, sha) {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	if err != nil && !strings.HasPrefix(remote, "refs/") {
		if _, listErr := r.list(ctx, "HEAD"); listErr != nil {
			return listErr
		}
	}
	if err := r.fetchAll(ctx); err != nil {
		return err
	}
	if !r.hasCommit(ctx, sha) {
		return &missingRefError{repository: r.name, ref: sha}
	}
	return nil
}

func (r *repositoryCache) fetchAll(ctx context.Context) error {
	args := []string{"fetch", "--quiet", "--no-recurse-submodules", "--no-write-fetch-head"}
	if _, err := os.Stat(filepath.Join(r.git, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	args = append(args, "--", r.remote, "+refs/heads/*:refs/remote/heads/*", "+refs/tags/*:refs/remote/tags/*")
	if _, err := runGit(ctx, gitCall{dir: r.git, args: args}); err != nil {
		return r.unreachable(err)
	}
	return nil
}

// remembered is what a name stood for.
type remembered struct {
	Ref string    `json:"ref"`
	SHA string    `json:"sha"`
	At  time.Time `json:"at"`
}

// rememberRef keeps what a name stands for, for the time without a network. That it can not is no matter now.
func (r *repositoryCache) rememberRef(ref, sha string) {
	text, err := json.Marshal(remembered{ref, sha, time.Now()})
	if err != nil || os.MkdirAll(r.refs, 0o700) != nil {
		return
	}
	name := filepath.Join(r.refs, hashName(ref)+".json")
	temp, err := os.CreateTemp(r.refs, ".new-*")
	if err != nil {
		return
	}
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
}

func (r *repositoryCache) rememberedRef(ref string) (sha string, at time.Time) {
	text, err := os.ReadFile(filepath.Join(r.refs, hashName(ref)+".json"))
	if err != nil {
		return "", time.Time{}
	}
	var was remembered
	if json.Unmarshal(text, &was) != nil || was.Ref != ref || !fullSHA.MatchString(was.SHA) {
		return "", time.Time{}
	}
	return was.SHA, was.At
}

// nearest gives up to five names like ref, the likest first.
func nearest(ref string, all map[string]string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var names []candidate
	for full := range all {
		name := strings.TrimPrefix(strings.TrimPrefix(full, "refs/tags/"), "refs/heads/")
		names = append(names, candidate{name, distance(strings.ToLower(ref), strings.ToLower(name))})
	}
	slices.SortFunc(names, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(b.name, a.name))
	})
	var near []string
	for _, c := range names {
		if len(near) < 5 && !slices.Contains(near, c.name) {
			near = append(near, c.name)
		}
	}
	return near
}

// distance is how many letters two short names differ in (Levenshtein).
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Prune removes what was not used since before: files of commits, and the objects of repositories without any.
func (a *ActionSource) Prune(ctx context.Context, before time.Time) error {
	root := filepath.Join(a.CacheDir, "trees")
	repositories, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune actions: %w", err)
	}
	for _, repository := range repositories {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := a.pruneRepository(repository.Name(), before); err != nil {
			return fmt.Errorf("prune actions: %w", err)
		}
	}
	return nil
}

func (a *ActionSource) pruneRepository(id string, before time.Time) error {
	lock := flock.New(filepath.Join(a.CacheDir, "locks", id))
	if ok, err := lock.TryLock(); err != nil || !ok {
		return nil // in use
	}
	defer lock.Unlock()
	trees := filepath.Join(a.CacheDir, "trees", id)
	commits, err := os.ReadDir(trees)
	if err != nil {
		return err
	}
	left := 0
	for _, c := range commits {
		info, err := c.Info()
		if err != nil || info.ModTime().After(before) {
			left++
			continue
		}
		if err := os.RemoveAll(filepath.Join(trees, c.Name())); err != nil {
			return err
		}
	}
	if left > 0 {
		return nil
	}
	return errors.Join(os.RemoveAll(filepath.Join(a.CacheDir, "git", id)), os.RemoveAll(filepath.Join(a.CacheDir, "refs", id)), os.Remove(trees))
}
