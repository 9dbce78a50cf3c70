package job

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// watching reports whether every line of a step's output has to be looked at.
func (e *execution) watching(r *stepRun) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.matchers) > 0 || r.stopped != ""
}

// outputLine looks at one line of a step: a command is carried out, a problem noted. It gives what is logged instead.
func (e *execution) outputLine(r *stepRun, line string) ([]byte, bool) {
	if r.stopped != "" {
		if c, ok := parseCommand(line); ok && c.name == strings.ToLower(r.stopped) {
			r.stopped = ""
			return nil, true
		}
		return nil, false
	}
	if c, ok := parseCommand(line); ok {
		if text, done := e.command(r, c, line); done {
			return text, true
		}
	}
	return e.matchProblems(r, line)
}

// command carries out a workflow command; done is false for words that are none, which are plain output.
func (e *execution) command(r *stepRun, c command, line string) (text []byte, done bool) {
	var err error
	switch c.name {
	case "group", "endgroup":
		return []byte("##[" + c.name + "]" + c.data + "\n"), true
	case "debug":
		if e.debug {
			return []byte("##[debug]" + strings.ReplaceAll(c.data, "\n", "\n##[debug]") + "\n"), true
		}
		return nil, true
	case "error", "warning", "notice":
		e.annotate(r.number, annotationOf(c))
		return nil, true
	case "add-mask":
		if strings.TrimSpace(c.data) == "" {
			e.annotate(r.number, ci.Annotation{Level: "warning", Message: "Can't add secret mask for empty string in ##[add-mask] command."})
			return nil, true
		}
		e.mask.add(c.data)
		return []byte("::add-mask::***\n"), true
	case "stop-commands":
		err = r.stop(c.data)
	case "echo":
		switch strings.ToLower(c.data) {
		case "on", "off":
			r.echo = strings.EqualFold(c.data, "on")
		default:
			err = fmt.Errorf("Invalid echo command value. Possible values can be: 'on', 'off'. Current value is: '%s'.", c.data)
		}
	case "set-output":
		e.deprecated(r, c.name)
		err = named(c, func(name string) { r.outputs[name] = c.data })
	case "save-state":
		e.deprecated(r, c.name)
		err = named(c, func(name string) { r.state[name] = c.data })
	case "set-env":
		if err = e.unsecure(r, c.name); err == nil {
			err = named(c, func(name string) { e.setEnv(r, name, c.data) })
		}
	case "add-path":
		if err = e.unsecure(r, c.name); err == nil {
			e.mu.Lock()
			e.path = append(e.path, c.data)
			e.mu.Unlock()
		}
	case "add-matcher":
		err = e.addMatcher(c.data)
	case "remove-matcher":
		err = e.removeMatcher(c)
	default:
		return nil, false
	}
	if err != nil {
		e.failAt(r, fmt.Errorf("Unable to process command '%s' successfully.", line))
		e.failAt(r, err)
		return nil, true
	}
	if r.echo {
		return []byte(line + "\n"), true
	}
	return nil, true
}

// named calls set with the command's name property.
func named(c command, set func(name string)) error {
	if c.props["name"] == "" {
		return fmt.Errorf("Required field 'name' is missing in ##[%s] command.", c.name)
	}
	set(c.props["name"])
	return nil
}

func (e *execution) deprecated(r *stepRun, name string) {
	e.annotate(r.number, ci.Annotation{Level: "warning", Message: fmt.Sprintf("The `%s` command is deprecated and will be disabled soon. Please upgrade to using Environment Files. For more information see: https://github.blog/changelog/2022-10-11-github-actions-deprecating-save-state-and-set-output-commands/", name)})
}

// unsecure refuses a command that lets any output change the environment, unless the job asks for it.
func (e *execution) unsecure(r *stepRun, name string) error {
	if truthy(r.env["ACTIONS_ALLOW_UNSECURE_COMMANDS"]) {
		return nil
	}
	return fmt.Errorf("The `%s` command is disabled. Please upgrade to using Environment Files or opt into unsecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/", name)
}

// commandNames can not end a stop.
var commandNames = []string{"group", "endgroup", "debug", "error", "warning", "notice", "add-mask", "stop-commands", "echo", "set-output",
	"save-state", "set-env", "add-path", "add-matcher", "remove-matcher", "pause-logging"}

func (r *stepRun) stop(token string) error {
	if token == "" || slices.Contains(commandNames, strings.ToLower(token)) {
		return errors.New("You cannot use a endToken that is an empty string, the string 'pause-logging', or another workflow command. For more information see: https://docs.github.com/actions/learn-github-actions/workflow-commands-for-github-actions#example-stopping-and-starting-workflow-commands or opt into insecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS` environment variable to `true`.")
	}
	r.stopped = token
	return nil
}

func annotationOf(c command) ci.Annotation {
	number := func(key string) int {
		n, _ := strconv.Atoi(c.props[key])
		return n
	}
	return ci.Annotation{
		Level: c.name, Message: c.data, Title: c.props["title"], File: c.props["file"],
		Line: number("line"), EndLine: number("endline"), Column: number("col"), EndColumn: number("endcolumn"),
	}
}

func (e *execution) addMatcher(file string) error {
	if file == "" {
		return errors.New("File path must be specified.")
	}
	if !path.IsAbs(file) {
		file = path.Join(e.info.Workspace, file)
	}
	data, err := sandbox.ReadFile(e.ctx, e.sb, file, maxMatcherFile)
	if err != nil {
		return fmt.Errorf("add-matcher %s: %w", file, err)
	}
	matchers, err := parseMatchers(data)
	if err != nil {
		return fmt.Errorf("add-matcher %s: %w", file, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range matchers {
		e.matchers = slices.DeleteFunc(e.matchers, func(o *matcher) bool { return strings.EqualFold(o.owner, m.owner) })
		if len(e.matchers) >= maxMatchers {
			return fmt.Errorf("more than %d problem matchers", maxMatchers)
		}
		e.matchers = append(e.matchers, m)
	}
	return nil
}

func (e *execution) removeMatcher(c command) error {
	owner := c.props["owner"]
	if owner == "" && c.data == "" {
		return errors.New("Either an owner name or a file path must be specified in ##[remove-matcher] command.")
	}
	owners := []string{owner}
	if owner == "" {
		file := c.data
		if !path.IsAbs(file) {
			file = path.Join(e.info.Workspace, file)
		}
		data, err := sandbox.ReadFile(e.ctx, e.sb, file, maxMatcherFile)
		if err != nil {
			return err
		}
		matchers, err := parseMatchers(data)
		if err != nil {
			return err
		}
		owners = owners[:0]
		for _, m := range matchers {
			owners = append(owners, m.owner)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.matchers = slices.DeleteFunc(e.matchers, func(m *matcher) bool {
		return slices.ContainsFunc(owners, func(o string) bool { return strings.EqualFold(o, m.owner) })
	})
	return nil
}

// matchProblems lets the matchers look at a line: one that completes a problem is logged by its severity. A matcher that
// takes too long is removed.
func (e *execution) matchProblems(r *stepRun, line string) ([]byte, bool) {
	e.mu.Lock()
	if len(e.matchers) == 0 {
		e.mu.Unlock()
		return nil, false
	}
	text := escapeCodes.ReplaceAllString(line, "")
	var found *problem
	var slow string
	for _, m := range e.matchers {
		p, err := m.match(text)
		if err != nil {
			slow = m.owner
			break
		}
		if p != nil {
			found = p
			for _, other := range e.matchers { // others that were in the middle of something begin anew
				if other != m {
					other.reset()
				}
			}
			break
		}
	}
	if slow != "" {
		e.matchers = slices.DeleteFunc(e.matchers, func(m *matcher) bool { return m.owner == slow })
	}
	e.mu.Unlock()
	if slow != "" {
		e.annotate(r.number, ci.Annotation{Level: "warning", Message: fmt.Sprintf("Removed issue matcher '%s' because one of its patterns took too long on a line of output.", slow)})
	}
	if found == nil {
		return nil, false
	}
	a, ok := found.annotation(e.info.Workspace)
	if !ok {
		return nil, false
	}
	e.note(r.number, a)
	return []byte("##[" + a.Level + "]" + text + "\n"), true
}

// escapeCodes are the colours of a line, which no pattern should have to know.
var escapeCodes = regexp.MustCompile(`\x1b\[[0-9;]*m`)
