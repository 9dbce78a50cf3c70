package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

const statePaths = "CACHE_PATHS"

// postCache is the post step of the setup actions: it saves what restoreTool looked for, unless it was there.
func postCache(ctx context.Context, s *Step) error {
	key := s.State[statePrimaryKey]
	var paths []string
	if err := json.Unmarshal([]byte(s.State[statePaths]), &paths); key == "" || err != nil || len(paths) == 0 {
		s.debug("Caching is not asked for, or nothing was looked up")
		return nil
	}
	if s.State[stateMatchedKey] == key {
		s.info("Cache hit occurred on the primary key %s, not saving cache.", key)
		return nil
	}
	there, err := s.list(ctx, paths, 1)
	if err != nil {
		return err
	}
	// An empty directory is as good as none: awaitCache may have made it.
	if !slices.ContainsFunc(there, func(e entry) bool { return !slices.Contains(paths, e.path) }) {
		s.warning("There are no cache folders on the disk: %s. This likely indicates that there are no dependencies to cache. "+
			"Consider removing the cache step if it is not needed.", strings.Join(paths, ", "))
		return nil
	}
	saved, err := s.saveCache(ctx, paths, key)
	if err != nil {
		s.info("[warning]%v", err)
		return nil
	}
	if saved {
		s.info("Cache saved with the key: %s", key)
	}
	return nil
}

// restoreTool restores the directories of a package manager and remembers for postCache what to save.
func restoreTool(ctx context.Context, s *Step, paths []string, key string, restoreKeys ...string) (matched string, err error) {
	if paths, err = withoutFull(ctx, s, paths); err != nil {
		return "", err
	}
	if len(paths) == 0 {
		return "", nil
	}
	text, err := json.Marshal(paths)
	if err != nil {
		return "", err
	}
	s.save(statePaths, string(text))
	s.save(statePrimaryKey, key)
	matched, err = s.restoreCache(ctx, paths, key, restoreKeys, false, true)
	if err != nil {
		return "", err
	}
	if matched != "" {
		s.save(stateMatchedKey, matched)
		s.info("Cache restored from key: %s", matched)
	}
	return matched, nil
}

// withoutFull leaves out the directories that have files already: the machine shows what the user of this host has
// there, which need not and should not be cached a second time.
func withoutFull(ctx context.Context, s *Step, paths []string) ([]string, error) {
	there, err := s.list(ctx, paths, 1)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(paths), func(dir string) bool {
		full := slices.ContainsFunc(there, func(e entry) bool { return e.path != dir && below(e.path, dir) })
		if full {
			s.info("%s is this machine's own, and not cached", dir)
		}
		return full
	}), nil
}

// PostIf is the original's: a failed job saves nothing.
func (setupNode) PostIf() string { return "success()" }

func (setupNode) Post(ctx context.Context, s *Step) error { return postCache(ctx, s) }

// packageManager is one that setup-node can cache for.
type packageManager struct {
	name      string
	lockFiles []string
}

var nodeManagers = []packageManager{
	{"npm", []string{"package-lock.json", "npm-shrinkwrap.json", "yarn.lock"}},
	{"pnpm", []string{"pnpm-lock.yaml"}},
	{"yarn", []string{"yarn.lock"}},
}

// nodeCache restores the package manager's cache if one is asked for, or if package.json names npm.
func nodeCache(ctx context.Context, s *Step) error {
	if s.Host == nil || s.Host.Cache == nil {
		return nil
	}
	name := s.input("cache")
	if name == "" && !strings.EqualFold(s.input("package-manager-cache"), "false") && namesNpm(ctx, s) {
		s.info("Detected npm as the package manager from package.json's packageManager field. " +
			"Auto caching has been enabled for npm. If you want to disable it, set package-manager-cache input to false")
		name = "npm"
	}
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(nodeManagers, func(m packageManager) bool { return m.name == name })
	if i < 0 {
		return fmt.Errorf("Caching for '%s' is not supported", name)
	}
	return nodeManagers[i].restore(ctx, s)
}

var npmName = regexp.MustCompile(`^\^?npm(@.*)?$`)

func namesNpm(ctx context.Context, s *Step) bool {
	text, err := s.read(ctx, path.Join(s.workspace(), "package.json"))
	if err != nil {
		return false
	}
	var p packageJSON
	_ = json.Unmarshal([]byte(text), &p)
	for _, e := range engines(p.DevEngines.PackageManager) {
		if npmName.MatchString(e.Name) {
			return true
		}
	}
	return npmName.MatchString(p.PackageManager)
}

func (m packageManager) restore(ctx context.Context, s *Step) error {
	dependencies := s.lines("cache-dependency-path")
	paths, projects, err := m.directories(ctx, s, dependencies)
	if err != nil {
		return err
	}
	if len(dependencies) == 0 {
		lock, err := m.lockFile(ctx, s)
		if err != nil {
			return err
		}
		dependencies = []string{globEscape(lock)}
	}
	hash, err := s.hashFiles(ctx, dependencies, globbing{descend: true})
	if err != nil {
		return err
	}
	if hash == "" {
		return errors.New("Some specified paths were not resolved, unable to cache dependencies.")
	}
	prefix := fmt.Sprintf("node-cache-%s-%s-%s", s.Sandbox.Info().OS, s.arch(), m.name)
	key := prefix + "-" + hash
	s.output("cache-primary-key", key)
	var restoreKeys []string
	if m.name == "yarn" && yarnLocal(ctx, s, projects) {
		s.info("All dependencies are managed locally by yarn3, the previous cache can be used")
		restoreKeys = []string{prefix}
	}
	matched, err := restoreTool(ctx, s, paths, key, restoreKeys...)
	if err != nil {
		return err
	}
	s.output("cache-hit", fmt.Sprint(matched != ""))
	s.output("cache-matched-key", matched)
	if matched == "" {
		s.info("%s cache is not found", m.name)
	}
	return nil
}

func (m packageManager) lockFile(ctx context.Context, s *Step) (string, error) {
	names, err := s.names(ctx, s.workspace())
	if err != nil {
		return "", err
	}
	for _, lock := range m.lockFiles {
		if slices.Contains(names, lock) {
			return path.Join(s.workspace(), lock), nil
		}
	}
	return "", fmt.Errorf("Dependencies lock file is not found in %s. Supported file patterns: %s", s.workspace(), strings.Join(m.lockFiles, ","))
}

// directories are the cache directories; for yarn those of each project that has one of the dependency files.
func (m packageManager) directories(ctx context.Context, s *Step, dependencies []string) (dirs, projects []string, err error) {
	projects = []string{s.workspace()}
	if m.name == "yarn" && len(dependencies) > 0 {
		found, _, err := s.glob(ctx, dependencies, globbing{descend: true})
		if err != nil {
			return nil, nil, err
		}
		projects = nil
		for _, e := range found {
			if dir := path.Dir(e.path); !slices.Contains(projects, dir) {
				projects = append(projects, dir)
			}
		}
		if len(projects) == 0 {
			s.warning("No existing directories found containing cache-dependency-path=\"%s\"", strings.Join(dependencies, "\n"))
		}
	}
	for _, project := range projects {
		dir, err := m.directory(ctx, s, project)
		if err != nil {
			return nil, nil, err
		}
		if dir = s.abs(dir); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, projects, nil
}

func (m packageManager) directory(ctx context.Context, s *Step, project string) (string, error) {
	ask := func(args ...string) (string, error) {
		s.info("[command]%s", strings.Join(args, " "))
		return s.answer(ctx, project, args...)
	}
	var dir string
	var err error
	switch m.name {
	case "npm":
		dir, err = ask("npm", "config", "get", "cache")
	case "pnpm":
		dir, err = ask("pnpm", "store", "path", "--silent")
	case "yarn":
		var version string
		if version, err = ask("yarn", "--version"); err != nil {
			break
		}
		if strings.HasPrefix(version, "1.") {
			dir, err = ask("yarn", "cache", "dir")
		} else {
			dir, err = ask("yarn", "config", "get", "cacheFolder")
		}
	}
	if err != nil {
		return "", err
	}
	if dir == "" {
		return "", fmt.Errorf("Could not get %s cache folder path", m.name)
	}
	return dir, nil
}

// yarnLocal says that every project keeps its packages itself, so that an older cache does no harm.
func yarnLocal(ctx context.Context, s *Step, projects []string) bool {
	for _, dir := range projects {
		if kind, err := s.kind(ctx, path.Join(dir, ".yarn", "cache")); err != nil || kind == "directory" {
			return false
		}
		if global, err := s.answer(ctx, dir, "yarn", "config", "get", "enableGlobalCache"); err != nil || !strings.Contains(global, "false") {
			return false
		}
	}
	return len(projects) > 0
}
