package native

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// cacheBoth is actions/cache: restores in main, saves in post.
type cacheBoth struct{}

// cacheRestore is actions/cache/restore.
type cacheRestore struct{}

// cacheSave is actions/cache/save.
type cacheSave struct{}

// The names under which the originals keep what Post needs (actions/cache src/constants.ts).
const (
	statePrimaryKey = "CACHE_KEY"
	stateMatchedKey = "CACHE_RESULT"
)

func (cacheBoth) Main(ctx context.Context, s *Step) error {
	err := restoreStep(ctx, s)
	s.save(statePrimaryKey, s.Outputs["cache-primary-key"])
	s.save(stateMatchedKey, s.Outputs["cache-matched-key"])
	return err
}

// PostIf is the original's: a failed job saves nothing.
func (cacheBoth) PostIf() string { return "success()" }

func (cacheBoth) Post(ctx context.Context, s *Step) error {
	primary := s.State[statePrimaryKey]
	if primary == "" {
		primary = s.input("key")
	}
	if primary == "" {
		s.info("[warning]Key is not specified.")
		return nil
	}
	if s.State[stateMatchedKey] == primary {
		s.info("Cache hit occurred on the primary key %s, not saving cache.", primary)
		return nil
	}
	saveStep(ctx, s, primary)
	return nil
}

func (cacheRestore) Main(ctx context.Context, s *Step) error { return restoreStep(ctx, s) }

func (cacheSave) Main(ctx context.Context, s *Step) error {
	key := s.input("key")
	if key == "" {
		s.info("[warning]Key is not specified.")
		return nil
	}
	if !saveStep(ctx, s, key) {
		s.warning("Cache save failed.")
	}
	return nil
}

// saveStep saves and says how that went; it never fails the step.
func saveStep(ctx context.Context, s *Step, key string) bool {
	saved, err := s.saveCache(ctx, s.patterns("path"), key)
	if err != nil {
		s.info("[warning]%v", err)
		return false
	}
	if saved {
		s.info("Cache saved with key: %s", key)
	}
	return saved
}

// restoreStep is restoreImpl of the original.
func restoreStep(ctx context.Context, s *Step) error {
	if s.github("ref") == "" {
		s.info("[warning]Event Validation Error: The event type %s is not supported because it's not tied to a branch or tag ref.", s.github("event_name"))
		return nil
	}
	key, err := s.required("key")
	if err != nil {
		return err
	}
	s.output("cache-primary-key", key)
	restoreKeys := s.patterns("restore-keys")
	if _, err := s.required("path"); err != nil {
		return err
	}
	lookup := s.loose("lookup-only")
	matched, err := s.restoreCache(ctx, s.patterns("path"), key, restoreKeys, lookup, false)
	if err != nil {
		return err
	}
	if matched == "" {
		if s.loose("fail-on-cache-miss") {
			return fmt.Errorf("Failed to restore cache entry. Exiting as fail-on-cache-miss is set. Input key: %s", key)
		}
		s.info("Cache not found for input keys: %s", strings.Join(append([]string{key}, restoreKeys...), ", "))
		return nil
	}
	s.output("cache-matched-key", matched)
	s.output("cache-hit", fmt.Sprint(matched == key))
	if lookup {
		s.info("Cache found and can be restored from key: %s", matched)
	} else {
		s.info("Cache restored from key: %s", matched)
	}
	return nil
}

// maxKeys and maxKey are the limits of the original.
const (
	maxKeys = 10
	maxKey  = 512
)

func checkCacheKey(key string) error {
	if len([]rune(key)) > maxKey {
		return fmt.Errorf("Key Validation Error: %s cannot be larger than 512 characters.", key)
	}
	if strings.Contains(key, ",") {
		return fmt.Errorf("Key Validation Error: %s cannot contain commas.", key)
	}
	return nil
}

// restoreCache restores the paths from the first of the keys that is found and gives the key that matched, empty for
// a miss. What goes wrong in the store is a warning and a miss: a cache is never needed. own says that the paths are a
// package manager's own cache, which may be there already or be empty and makes no difference to the job but in time.
func (s *Step) restoreCache(ctx context.Context, paths []string, key string, restoreKeys []string, lookup, own bool) (matched string, err error) {
	if len(paths) == 0 {
		return "", errors.New("Path Validation Error: At least one directory or file path is required")
	}
	keys := append([]string{key}, restoreKeys...)
	if len(keys) > maxKeys {
		return "", errors.New("Key Validation Error: Keys are limited to a maximum of 10.")
	}
	for _, k := range keys {
		if err := checkCacheKey(k); err != nil {
			return "", err
		}
	}
	if s.Host == nil || s.Host.Cache == nil {
		return "", nil
	}
	found, err := s.Host.Cache.find(s.cacheScopes(), s.cacheVersion(paths), keys)
	if err != nil {
		s.warning("Failed to restore: %v", err)
		return "", nil
	}
	if found != nil && lookup {
		s.info("Lookup only - skipping download")
		return found.Key, nil
	}
	if found == nil {
		if !lookup && own {
			s.awaitCache(ctx, paths)
		}
		return "", nil
	}
	if found.Key == key {
		s.info("Cache hit for: %s", found.Key)
	} else {
		s.info("Cache hit for restore-key: %s", found.Key)
	}
	for _, part := range found.Parts {
		if err := s.restorePart(ctx, part); err != nil {
			if ctx.Err() != nil {
				return "", err
			}
			s.warning("Failed to restore: %v", err)
			return "", nil
		}
	}
	s.info("Cache restored successfully")
	return found.Key, nil
}

// cacheScopes are the scopes whose caches this run may restore: of its own ref, of the branch it is to be merged
// into, and of the default branch. The first is where it saves.
func (s *Step) cacheScopes() []string {
	repository := strings.ToLower(s.github("repository"))
	refs := []string{s.github("ref")}
	if base := s.github("base_ref"); base != "" {
		refs = append(refs, "refs/heads/"+base)
	}
	if branch := s.github("event", "repository", "default_branch"); branch != "" {
		refs = append(refs, "refs/heads/"+branch)
	}
	var scopes []string
	for _, ref := range refs {
		if scope := repository + " " + ref; !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// layers is the machine as one on layers, if it is one and its layers can be kept.
func (s *Step) layers() (sandbox.Layered, bool) {
	if s.Host == nil || s.Host.Cache == nil || s.Host.Cache.layers == nil {
		return nil, false
	}
	layered, ok := s.Sandbox.(sandbox.Layered)
	return layered, ok
}

// cacheVersion is the version of paths on this machine. A machine may have its workspace and its home anywhere, so
// paths that name them are taken as relative to them.
func (s *Step) cacheVersion(paths []string) string {
	_, layered := s.layers()
	general := slices.Clone(paths)
	for i, p := range general {
		bare := strings.TrimPrefix(p, "!")
		for _, base := range []struct{ name, dir string }{{".", s.workspace()}, {"~", s.home()}} {
			if below(bare, base.dir) {
				general[i] = strings.TrimSuffix(p, bare) + base.name + strings.TrimPrefix(bare, base.dir)
				break
			}
		}
	}
	return cacheVersion(general, layered)
}

// place is the absolute path that a part of a cache belongs to.
func (s *Step) place(p cachePart) (string, error) {
	base := map[string]string{"workspace": s.workspace(), "home": s.home(), "": "/"}[p.Base]
	if base == "" || path.IsAbs(p.Path) || p.Path != "." && !fsValid(p.Path) {
		return "", fmt.Errorf("the cache's index names a path that is not allowed: %q in %q", p.Path, p.Base)
	}
	return path.Join(base, p.Path), nil
}

func fsValid(p string) bool {
	return p != "" && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../")
}

// part begins the description of what is at an absolute path, independent of where this machine has its workspace.
func (s *Step) part(abs string) cachePart {
	for _, base := range []struct{ name, dir string }{{"workspace", s.workspace()}, {"home", s.home()}} {
		if below(abs, base.dir) {
			rel := strings.TrimPrefix(strings.TrimPrefix(abs, base.dir), "/")
			if rel == "" {
				rel = "."
			}
			return cachePart{Base: base.name, Path: rel}
		}
	}
	return cachePart{Path: strings.TrimPrefix(abs, "/")}
}

func (s *Step) restorePart(ctx context.Context, part cachePart) error {
	at, err := s.place(part)
	if err != nil {
		return err
	}
	if part.Pack == "" {
		layered, ok := s.layers()
		if !ok || part.Layer == "" {
			return errors.New("the cache's index names nothing that this machine takes")
		}
		return layered.Mount(ctx, at, part.Layer)
	}
	r, err := s.Host.Cache.unpack(part.Pack)
	if err != nil {
		return err
	}
	defer r.Close()
	s.info("Cache Size: ~%d MB (%d B)", (part.Size+1<<19)>>20, part.Size)
	return s.Sandbox.Put(ctx, at, r)
}

// awaitCache makes room for a package manager's cache: an empty layer at each of its directories, so that saving it is
// a rename and that what the machine had there already is not saved. Other caches get none: a job may decide by
// whether the directory is there. Where it fails it is no matter, saving then copies.
func (s *Step) awaitCache(ctx context.Context, dirs []string) {
	layered, ok := s.layers()
	if !ok {
		return
	}
	for _, dir := range dirs {
		if err := layered.Mount(ctx, dir); err != nil {
			s.debug("no layer at %s: %v", dir, err)
		}
	}
}

// saveCache saves what the paths name under key, in the scope of the run's ref. saved is false if it was not, with
// the reason in the log or as error.
func (s *Step) saveCache(ctx context.Context, paths []string, key string) (saved bool, err error) {
	if err := checkCacheKey(key); err != nil {
		return false, err
	}
	if s.Host == nil || s.Host.Cache == nil {
		return false, nil
	}
	found, _, err := s.glob(ctx, paths, globbing{})
	if err != nil {
		return false, err
	}
	if len(found) == 0 {
		return false, errors.New("Path Validation Error: Path(s) specified in the action for caching do(es) not exist, hence no cache is being saved.")
	}
	e := cacheEntry{Scope: s.cacheScopes()[0], Version: s.cacheVersion(paths), Key: key}
	taken := fmt.Sprintf("Failed to save: Unable to reserve cache with key %s, another job may be creating this cache.", key)
	if s.Host.Cache.has(e.Scope, e.Version, key) {
		s.info("%s", taken)
		return false, nil
	}
	var files []entry
	covered := ""
	for _, item := range found {
		if covered != "" && below(item.path, covered) {
			continue
		}
		if !item.dir {
			files = append(files, item)
			continue
		}
		covered = item.path
		part, err := s.saveDirectory(ctx, item.path)
		if err != nil {
			s.warning("Failed to save: %v", err)
			return false, nil
		}
		e.Parts = append(e.Parts, part)
	}
	parts, err := s.saveFiles(ctx, files)
	if err != nil {
		s.warning("Failed to save: %v", err)
		return false, nil
	}
	e.Parts = append(e.Parts, parts...)
	switch err := s.Host.Cache.add(e); {
	case errors.Is(err, ErrCacheExists):
		s.info("%s", taken)
		return false, nil
	case err != nil:
		s.warning("Failed to save: %v", err)
		return false, nil
	}
	return true, nil
}

// saveDirectory keeps a directory: as a layer where the machine has layers, else packed.
func (s *Step) saveDirectory(ctx context.Context, dir string) (cachePart, error) {
	part := s.part(dir)
	if layered, ok := s.layers(); ok {
		var err error
		part.Layer, err = layered.Capture(ctx, dir)
		return part, err
	}
	stream, err := s.Sandbox.Get(ctx, dir)
	if err != nil {
		return part, err
	}
	defer stream.Close()
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(stripFirst(tar.NewReader(stream), tar.NewWriter(pw)))
	}()
	part.Pack, part.Size, err = s.Host.Cache.pack(ctx, pr)
	pr.CloseWithError(err)
	<-done
	return part, err
}

// stripFirst copies an archive without the first name of each path: Get's names begin with the directory itself.
func stripFirst(r *tar.Reader, w *tar.Writer) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return w.Close()
		}
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		if rest == "" {
			continue
		}
		h.Name = rest
		if h.Typeflag == tar.TypeLink {
			_, h.Linkname, _ = strings.Cut(strings.TrimPrefix(h.Linkname, "./"), "/")
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

// saveFiles packs single files, those of the workspace, of the home directory and others apart.
func (s *Step) saveFiles(ctx context.Context, files []entry) ([]cachePart, error) {
	groups := map[string][]entry{}
	var parts []cachePart
	for _, f := range files {
		base := s.part(f.path).Base
		groups[base] = append(groups[base], f)
	}
	for _, base := range []string{"workspace", "home", ""} {
		if len(groups[base]) == 0 {
			continue
		}
		part := cachePart{Base: base, Path: "."}
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w := tar.NewWriter(pw)
			err := s.stream(ctx, groups[base], func(i int, c content) error {
				h := &tar.Header{Name: s.part(groups[base][i].path).Path, Mode: c.mode, Size: c.size, Typeflag: tar.TypeReg, ModTime: c.modified, Format: tar.FormatPAX}
				if err := w.WriteHeader(h); err != nil {
					return err
				}
				_, err := io.Copy(w, c)
				return err
			})
			pw.CloseWithError(errors.Join(err, w.Close()))
		}()
		var err error
		part.Pack, part.Size, err = s.Host.Cache.pack(ctx, pr)
		pr.CloseWithError(err)
		<-done
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}
