package native

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// input is an input without the blanks around it, as the originals read theirs.
func (s *Step) input(name string) string { return strings.TrimSpace(s.Inputs[strings.ToLower(name)]) }

// required is an input that must not be empty.
func (s *Step) required(name string) (string, error) {
	v := s.input(name)
	if v == "" {
		return "", fmt.Errorf("Input required and not supplied: %s", name)
	}
	return v, nil
}

// flag is an input of YAML's core booleans; anything else is an error (core.getBooleanInput).
func (s *Step) flag(name string) (bool, error) {
	switch s.input(name) {
	case "true", "True", "TRUE":
		return true, nil
	case "false", "False", "FALSE":
		return false, nil
	}
	return false, fmt.Errorf("Input does not meet YAML 1.2 \"Core Schema\" specification: %s\n"+
		"Support boolean input list: `true | True | TRUE | false | False | FALSE`", name)
}

// loose is an input that is true when it says true in any case, and otherwise false.
func (s *Step) loose(name string) bool { return strings.EqualFold(s.input(name), "true") }

// lines is an input of several lines, blank ones left out.
func (s *Step) lines(name string) []string {
	var lines []string
	for line := range strings.SplitSeq(s.input(name), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// patterns is lines with the blanks after an exclamation mark taken out.
func (s *Step) patterns(name string) []string {
	lines := s.lines(name)
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "!"); ok {
			lines[i] = "!" + strings.TrimSpace(rest)
		}
	}
	return lines
}

// number is an input that JavaScript's parseInt takes; ok is false for an empty one.
func (s *Step) number(name string) (n int, ok bool, err error) {
	text := s.input(name)
	if text == "" {
		return 0, false, nil
	}
	digits := strings.TrimLeft(text, "+-")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(digits)
	}
	if n, err = strconv.Atoi(text[:len(text)-len(digits)] + digits[:end]); err != nil {
		return 0, false, fmt.Errorf("Invalid %s", name)
	}
	return n, true, nil
}

func (s *Step) info(format string, args ...any) { fmt.Fprintf(s.Log, format+"\n", args...) }

func (s *Step) warning(format string, args ...any) {
	s.command("warning", fmt.Sprintf(format, args...))
}

func (s *Step) debug(format string, args ...any) { s.command("debug", fmt.Sprintf(format, args...)) }

// mask hides a value that the action has made from a secret.
func (s *Step) mask(value string) { s.command("add-mask", value) }

func (s *Step) command(name, data string) {
	fmt.Fprintf(s.Log, "::%s::%s\n", name, strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(data))
}

// group folds what do writes; the group is closed however do ends.
func (s *Step) group(title string, do func() error) error {
	s.command("group", title)
	defer s.info("::endgroup::")
	return do()
}

func (s *Step) output(name, value string) { set(&s.Outputs, name, value) }

func (s *Step) save(name, value string) { set(&s.State, name, value) }

// export sets a variable for this step's commands and for later steps.
func (s *Step) export(name, value string) { set(&s.NewEnv, name, value) }

// addPath puts a directory in front of PATH, for this step's commands and for later steps.
func (s *Step) addPath(dir string) { s.NewPath = append(s.NewPath, dir) }

func set(m *map[string]string, name, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[name] = value
}

// variable is an environment variable as the step's commands see it.
func (s *Step) variable(name string) string {
	if v, ok := s.NewEnv[name]; ok {
		return v
	}
	return s.Env[name]
}

// environ is the environment of the step's commands: the step's own, with what the action has changed so far and
// anything in extra (KEY=VALUE) over it.
func (s *Step) environ(extra ...string) []string {
	info := s.Sandbox.Info()
	all := map[string]string{"HOME": info.Home, "PATH": info.Path, "RUNNER_TEMP": info.Temp}
	for k, v := range s.Env {
		all[k] = v
	}
	for k, v := range s.NewEnv {
		all[k] = v
	}
	for _, dir := range s.NewPath {
		all["PATH"] = dir + ":" + all["PATH"]
	}
	for _, kv := range extra {
		k, v, _ := strings.Cut(kv, "=")
		all[k] = v
	}
	env := make([]string, 0, len(all))
	for k, v := range all {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}

// workspace is where the original would find itself: GITHUB_WORKSPACE.
func (s *Step) workspace() string { return s.Sandbox.Info().Workspace }

// home is the home directory of the step's commands.
func (s *Step) home() string {
	if h := s.variable("HOME"); strings.HasPrefix(h, "/") {
		return h
	}
	return s.Sandbox.Info().Home
}

// abs makes a path absolute as the originals do: `~` is the home directory, the rest is relative to the workspace.
func (s *Step) abs(p string) string {
	switch {
	case p == "~" || strings.HasPrefix(p, "~/"):
		return path.Join(s.home(), p[1:])
	case path.IsAbs(p):
		return path.Clean(p)
	}
	return path.Join(s.workspace(), p)
}

// github is a field of the github context as text: github("event", "number").
func (s *Step) github(names ...string) string {
	v := s.GitHub
	for _, name := range names {
		v = v.Property(name)
	}
	return v.Text()
}

// arch is the machine's architecture in Node's words, which the originals use in names and keys.
func (s *Step) arch() string {
	switch a := s.Sandbox.Info().Arch; a {
	case "X64", "ARM64", "ARM":
		return strings.ToLower(a)
	case "X86":
		return "ia32"
	default:
		return strings.ToLower(a)
	}
}
