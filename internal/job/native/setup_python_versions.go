package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// pythonVersions are the versions asked for: of python-version, of the file that python-version-file names, or of
// .python-version.
func pythonVersions(ctx context.Context, s *Step) ([]string, error) {
	versions, from := s.lines("python-version"), s.input("python-version-file")
	if len(versions) > 0 {
		if from != "" {
			s.warning("Both python-version and python-version-file inputs are specified, only python-version will be used.")
		}
		return versions, nil
	}
	if from == "" {
		s.info("[warning]Neither 'python-version' nor 'python-version-file' inputs were supplied. Attempting to find '.python-version' file.")
		text, err := s.read(ctx, s.abs(".python-version"))
		if errors.Is(err, fs.ErrNotExist) {
			s.info("[warning].python-version doesn't exist.")
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return pythonPlain(s, ".python-version", text), nil
	}
	text, err := s.read(ctx, s.abs(from))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("The specified python version file at: %s doesn't exist.", from)
	}
	if err != nil {
		return nil, err
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	switch name := path.Base(from); {
	case strings.HasSuffix(name, ".toml"):
		return pythonTOML(s, from, text)
	case strings.Contains(name, ".tool-versions"):
		return pythonTools(s, from, text), nil
	case strings.Contains(name, "Pipfile"):
		return pythonPipfile(s, from, text)
	}
	return pythonPlain(s, from, text), nil
}

func pythonPlain(s *Step, name, text string) []string {
	var versions []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r", "\n"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		version, _, _ := strings.Cut(line, "/") // of pyenv-virtualenv: 3.10/envs/name
		versions = append(versions, version)
	}
	s.info("Resolved %s as %s", name, strings.Join(versions, ", "))
	return versions
}

// pythonTOML reads pyproject.toml: requires-python of the project, else poetry's.
func pythonTOML(s *Step, name, text string) ([]string, error) {
	var p struct {
		Project *struct {
			Requires string `toml:"requires-python"`
		}
		Tool struct {
			Poetry struct {
				Dependencies struct{ Python any }
			}
		}
	}
	if _, err := toml.Decode(text, &p); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	version, _ := p.Tool.Poetry.Dependencies.Python.(string)
	if p.Project != nil {
		version = p.Project.Requires
	}
	s.info("Extracted %s from %s", version, name)
	version = strings.ReplaceAll(version, ",", " ")
	if version == "" || versionRange(version) == nil {
		s.debug("The version %s is not valid SemVer range", version)
		return nil, nil
	}
	return []string{version}, nil
}

var pythonToolLine = regexp.MustCompile(`(?m)^\s*python\s*v?\s*(\S+)\s*$`)

func pythonTools(s *Step, name, text string) []string {
	if m := pythonToolLine.FindStringSubmatch(text); m != nil {
		return []string{m[1]}
	}
	s.warning("No Python version found in %s", name)
	return nil
}

func pythonPipfile(s *Step, name, text string) ([]string, error) {
	var p struct {
		Requires struct {
			Full  string `toml:"python_full_version"`
			Minor string `toml:"python_version"`
		}
	}
	if _, err := toml.Decode(text, &p); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	version := cmpOr(p.Requires.Full, p.Requires.Minor)
	if version == "" {
		s.warning("No Python version found in %s", name)
		return nil, nil
	}
	s.info("Extracted %s from %s", version, name)
	return []string{version}, nil
}
