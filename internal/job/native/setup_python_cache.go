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

// PostIf is the original's: a failed job saves nothing.
func (setupPython) PostIf() string { return "success()" }

func (setupPython) Post(ctx context.Context, s *Step) error { return postCache(ctx, s) }

// pythonCache restores the cache of pip, pipenv or poetry.
func pythonCache(ctx context.Context, s *Step, name, version string) error {
	defaults := map[string]string{"pip": "**/requirements.txt", "pipenv": "**/Pipfile.lock", "poetry": "**/poetry.lock"}
	standard, ok := defaults[name]
	if !ok {
		return fmt.Errorf("Caching for '%s' is not supported", name)
	}
	patterns := s.lines("cache-dependency-path")
	if len(patterns) == 0 {
		patterns = []string{standard}
	}
	hash, err := s.hashFiles(ctx, patterns, globbing{descend: true})
	if err != nil {
		return err
	}
	listed := strings.Join(patterns, ",")
	if name == "pip" && hash == "" {
		listed += " or **/pyproject.toml"
		if hash, err = s.hashFiles(ctx, []string{"**/pyproject.toml"}, globbing{descend: true}); err != nil {
			return err
		}
	}
	if hash == "" {
		return fmt.Errorf("No file in %s matched to [%s], make sure you have checked out the target repository", s.workspace(), listed)
	}
	info := s.Sandbox.Info()
	prefix := fmt.Sprintf("setup-python-%s-%s%s-python-%s-%s", info.OS, s.arch(), linuxName(ctx, s), version, name)
	key, restoreKeys := prefix+"-"+hash, []string(nil)
	var dirs []string
	switch name {
	case "pip":
		restoreKeys = []string{prefix}
		dirs, err = pipDirectories(ctx, s)
	case "pipenv":
		dirs = []string{path.Join(s.home(), ".local/share/virtualenvs")}
	case "poetry":
		key = prefix + "-v2-" + hash
		dirs, err = poetryDirectories(ctx, s, patterns)
	}
	if err != nil {
		return err
	}
	matched, err := restoreTool(ctx, s, dirs, key, restoreKeys...)
	if err != nil {
		return err
	}
	if matched == "" {
		s.info("%s cache is not found", name)
	}
	s.output("cache-hit", fmt.Sprint(matched == key))
	return nil
}

// linuxName is the distribution's part of the original's keys: "-12-debian".
func linuxName(ctx context.Context, s *Step) string {
	if s.Sandbox.Info().OS != "Linux" {
		return ""
	}
	text, err := s.read(ctx, "/etc/os-release")
	if err != nil {
		return ""
	}
	field := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `="?([^"\n]*)"?$`).FindStringSubmatch(text)
		if m == nil {
			return ""
		}
		return m[1]
	}
	return "-" + field("VERSION_ID") + "-" + cmpOr(field("ID"), "Linux")
}

func pipDirectories(ctx context.Context, s *Step) ([]string, error) {
	s.info("[command]pip cache dir")
	dir, err := s.answer(ctx, s.workspace(), "pip", "cache", "dir")
	if err != nil || dir == "" {
		return nil, errors.Join(errors.New("Could not get cache folder path for pip package manager"), err)
	}
	return []string{s.abs(dir)}, nil
}

// poetryDirectories are where poetry keeps the virtual environments of the projects that have a lock file.
func poetryDirectories(ctx context.Context, s *Step, patterns []string) ([]string, error) {
	found, _, err := s.glob(ctx, patterns, globbing{descend: true})
	if err != nil {
		return nil, err
	}
	var dirs []string
	add := func(dir string) {
		if dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	seen := map[string]bool{}
	for _, e := range found {
		project := path.Dir(e.path)
		if e.dir || seen[project] {
			continue
		}
		seen[project] = true
		out, err := s.answer(ctx, project, "poetry", "config", "--list")
		if err != nil {
			return nil, errors.Join(errors.New("Could not get cache folder path for poetry package manager"), err)
		}
		config := poetryConfig(out)
		cache, _ := config["cache-dir"].(string)
		envs, _ := config["virtualenvs.path"].(string)
		add(strings.ReplaceAll(envs, "{cache-dir}", cache))
		if inProject, _ := config["virtualenvs.in-project"].(bool); inProject {
			add(path.Join(project, ".venv"))
		}
	}
	return dirs, nil
}

// poetryConfig reads `name = value  # comment` lines, the values being JSON.
func poetryConfig(text string) map[string]any {
	config := map[string]any{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		name, value, ok := strings.Cut(line, "=")
		var v any
		if ok && json.Unmarshal([]byte(strings.TrimSpace(value)), &v) == nil {
			config[strings.TrimSpace(name)] = v
		}
	}
	return config
}
