package job

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// watching reports whether every line of a step's output has to be looked at.
func (e *execution) watching() bool { return e.watchers.Load() > 0 }

// outputLine looks at one line of a step. It gives what carries it out if it is a command or completes a problem, which
// then gives what is logged instead of it.
func (e *execution) outputLine(r *stepRun, line string) func() []byte {
	if c, ok := parseCommand(line, r.knows); ok {
		switch {
		case r.stopped == "":
			return func() []byte { return e.command(r, c, line) }
		case c.name == strings.ToLower(r.stopped):
			return func() []byte {
				r.stopped = ""
				return []byte(line + "\n")
			}
		}
	}
	return e.matchProblems(r, line)
}

// knows reports whether a name is a command's: those that GitHub has, and the token that ends a stop.
func (r *stepRun) knows(name string) bool {
	return slices.Contains(commandNames, name) || r.stopped != "" && name == strings.ToLower(r.stopped)
}

// commandNames are the commands there are.
var commandNames = []string{"group", "endgroup", "debug", "error", "warning", "notice", "add-mask", "stop-commands", "echo", "set-output",
	"save-state", "set-env", "add-path", "add-matcher", "remove-matcher"}

// quietCommands are those that echo does not show.
var quietCommands = []string{"debug", "error", "warning", "notice", "add-mask"}

// command carries out a workflow command and gives what it logs. One that goes wrong fails the step.
func (e *execution) command(r *stepRun, c command, line string) []byte {
	quiet := slices.Contains(quietCommands, c.name)
	var text []byte
	if r.echo && !quiet && c.name != "stop-commands" {
		text = []byte(line + "\n")
	}
	more, err := e.obey(r, c, line)
	if err != nil {
		e.log.write(text)
		if quiet {
			line = c.name
		}
		if c.name != "stop-commands" {
			e.failAt(r, fmt.Errorf("Unable to process command '%s' successfully.", line))
		}
		e.failAt(r, err)
		r.refused = true
		return nil
	}
	return append(text, more...)
}

// obey does what a command says.
func (e *execution) obey(r *stepRun, c command, line string) (text []byte, err error) {
	switch c.name {
	case "group":
		return []byte("##[group]" + c.data + "\n"), nil
	case "endgroup":
		return []byte("##[endgroup]\n"), nil
	case "debug":
		if e.debug {
			text = []byte("##[debug]" + strings.ReplaceAll(strings.ReplaceAll(c.data, "\r\n", "\n"), "\n", "\n##[debug]") + "\n")
		}
		return text, nil
	case "error", "warning", "notice":
		e.annotate(r.number, e.annotationOf(c))
	case "add-mask":
		return e.addMask(r, c.data), nil
	case "stop-commands":
		return []byte(line + "\n"), e.stop(r, c.data)
	case "echo":
		switch value := strings.ToLower(strings.TrimSpace(c.data)); {
		case c.data == "":
			return nil, errors.New("Value cannot be null. (Parameter 'value')")
		case value != "on" && value != "off":
			return nil, fmt.Errorf("Invalid echo command value. Possible values can be: 'on', 'off'. Current value is: '%s'.", c.data)
		default:
			r.echo = value == "on"
		}
	case "set-output":
		e.deprecated(r, c.name)
		return nil, named(c, func(name string) { setFold(r.outputs, name, c.data) })
	case "save-state":
		e.deprecated(r, c.name)
		return nil, named(c, func(name string) { setFold(r.use.state, name, c.data) })
	case "set-env":
		if err := e.unsecure(r, c.name); err != nil {
			return nil, err
		}
		return nil, named(c, func(name string) {
			e.setEnv(r, name, c.data, "Can't update NODE_OPTIONS environment variable using ::set-env:: command.")
		})
	case "add-path":
		if err := e.unsecure(r, c.name); err != nil {
			return nil, err
		}
		if c.data == "" {
			return nil, errors.New("Value cannot be null. (Parameter 'path')")
		}
		e.addPaths(r, c.data)
	case "add-matcher":
		return nil, e.addMatcher(r, c.data)
	case "remove-matcher":
		return nil, e.removeMatcher(r, c)
	}
	return nil, nil
}

func (e *execution) addMask(r *stepRun, value string) []byte {
	if strings.TrimSpace(value) == "" {
		e.warn(r, "Can't add secret mask for empty string in ##[add-mask] command.")
		return nil
	}
	e.mask.add(value)
	if r.echo {
		return []byte("::add-mask::***\n")
	}
	return nil
}

func (e *execution) warn(r *stepRun, text string) {
	e.annotate(r.number, ci.Annotation{Level: "warning", Message: text})
}

// setFold sets a value under a name whose case does not count: the newest spelling stays.
func setFold(m map[string]string, name, value string) {
	for old := range m {
		if strings.EqualFold(old, name) {
			delete(m, old)
		}
	}
	m[name] = value
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
	e.warn(r, fmt.Sprintf("The `%s` command is deprecated and will be disabled soon. Please upgrade to using Environment Files. For more information see: https://github.blog/changelog/2022-10-11-github-actions-deprecating-save-state-and-set-output-commands/", name))
}

// unsecure refuses a command that lets any output change the environment, unless the job asks for it.
func (e *execution) unsecure(r *stepRun, name string) error {
	if strings.EqualFold(strings.TrimSpace(r.env["ACTIONS_ALLOW_UNSECURE_COMMANDS"]), "true") {
		return nil
	}
	return fmt.Errorf("The `%s` command is disabled. Please upgrade to using Environment Files or opt into unsecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/", name)
}

const sayStopToken = "You cannot use a endToken that is an empty string, the string 'pause-logging', or another workflow command. For more information see: https://docs.github.com/actions/learn-github-actions/workflow-commands-for-github-actions#example-stopping-and-starting-workflow-commands or opt into insecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS` environment variable to `true`."

// minHiddenToken is how long a token that ends a stop must be to be masked from then on.
const minHiddenToken = 7

// stop lets no command through until the token comes, whose case does not count.
func (e *execution) stop(r *stepRun, token string) error {
	bad := token == "" || strings.EqualFold(token, "pause-logging") || slices.Contains(commandNames, strings.ToLower(token))
	if bad && !truthy(r.env["ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS"]) {
		return errors.New(sayStopToken)
	}
	if len(token) >= minHiddenToken {
		e.mask.add(token)
	}
	r.stopped = token
	return nil
}

// annotationOf reads an error, warning or notice. Places that contradict themselves are dropped as the runner does
// (ActionCommandManager.cs ValidateLinesAndColumns).
func (e *execution) annotationOf(c command) ci.Annotation {
	number := func(key string) (int, bool) {
		n, err := strconv.Atoi(strings.TrimSpace(c.props[key]))
		return n, err == nil
	}
	a := ci.Annotation{Level: c.name, Message: c.data, Title: c.props["title"], File: strings.TrimPrefix(c.props["file"], e.info.Workspace+"/")}
	var line, endLine, column, endColumn bool
	a.Line, line = number("line")
	a.EndLine, endLine = number("endline")
	a.Column, column = number("col")
	a.EndColumn, endColumn = number("endcolumn")
	if endLine && !line {
		a.Line, line = a.EndLine, true
	}
	if endColumn && !column {
		a.Column, column = a.EndColumn, true
	}
	if !line || endLine && a.Line != a.EndLine {
		a.Column, a.EndColumn = 0, 0
	}
	if endLine && a.EndLine < a.Line {
		a.Line, a.EndLine = 0, 0
	}
	if endColumn && a.EndColumn < a.Column {
		a.Column, a.EndColumn = 0, 0
	}
	return a
}

// loadMatchers reads a problem matcher file of the machine.
func (e *execution) loadMatchers(file string) ([]*matcher, error) {
	if !path.IsAbs(file) {
		file = path.Join(e.info.Workspace, file)
	}
	data, err := sandbox.ReadFile(e.ctx, e.sb, file, maxMatcherFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("Could not find file '%s'.", file)
	}
	if err != nil {
		return nil, err
	}
	return parseMatchers(data)
}

// addMatcher lets the matchers of a file watch the job's output from now on, before those that do already.
func (e *execution) addMatcher(r *stepRun, file string) error {
	if file == "" {
		e.warn(r, "File path must be specified.")
		return nil
	}
	matchers, err := e.loadMatchers(file)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range matchers {
		rest := without(e.matchers, m.owner)
		if len(rest) >= maxMatchers {
			return fmt.Errorf("more than %d problem matchers", maxMatchers)
		}
		e.matchers = append([]*matcher{m}, rest...)
	}
	e.watchers.Store(int32(len(e.matchers)))
	return nil
}

func (e *execution) removeMatcher(r *stepRun, c command) error {
	owner := c.props["owner"]
	owners := []string{owner}
	switch {
	case owner != "" && c.data != "":
		e.warn(r, "Either specify an owner name or a file path in ##[remove-matcher] command. Both values cannot be set.")
		return nil
	case owner == "" && c.data == "":
		e.warn(r, "Either an owner name or a file path must be specified in ##[remove-matcher] command.")
		return nil
	case owner == "":
		matchers, err := e.loadMatchers(c.data)
		if err != nil {
			return err
		}
		owners = owners[:0]
		for _, m := range matchers {
			owners = append(owners, m.owner)
		}
	}
	e.removeMatchers(owners...)
	return nil
}

func (e *execution) removeMatchers(owners ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.matchers = without(e.matchers, owners...)
	e.watchers.Store(int32(len(e.matchers)))
}

// without gives the matchers of other owners, in a slice of its own: steps hold on to the old one.
func without(matchers []*matcher, owners ...string) []*matcher {
	return slices.DeleteFunc(slices.Clone(matchers), func(m *matcher) bool {
		return slices.ContainsFunc(owners, func(o string) bool { return strings.EqualFold(o, m.owner) })
	})
}

// matchProblems lets the matchers look at a line. A matcher that takes too long is removed.
func (e *execution) matchProblems(r *stepRun, line string) func() []byte {
	e.mu.Lock()
	now := e.matchers
	e.mu.Unlock()
	if len(now) == 0 {
		return nil
	}
	r.follow(now)
	text := line
	if strings.Contains(line, "\x1b[") {
		text = escapeCodes.ReplaceAllString(line, "")
	}
	for _, m := range now {
		p, err := r.progress[m].match(text)
		if err != nil {
			e.removeMatchers(m.owner)
			return func() []byte {
				e.warn(r, fmt.Sprintf("Removing issue matcher '%s'. A pattern took too long on a line of output.", m.owner))
				return []byte(line + "\n")
			}
		}
		if p == nil {
			continue
		}
		for other, state := range r.progress { // others that were in the middle of something begin anew
			if other != m {
				state.reset()
			}
		}
		if a, ok := p.annotation(e.info.Workspace); ok {
			return func() []byte {
				e.note(r.number, a)
				return []byte("##[" + a.Level + "]" + text + "\n")
			}
		}
	}
	return nil
}

// follow begins to watch for the matchers that are new to the step, and forgets those that are gone.
func (r *stepRun) follow(now []*matcher) {
	if r.progress == nil {
		r.progress = map[*matcher]*matching{}
	}
	for _, m := range now {
		if r.progress[m] == nil {
			r.progress[m] = &matching{matcher: m, state: make([]*problem, len(m.patterns)-1)}
		}
	}
	if len(r.progress) > len(now) {
		maps.DeleteFunc(r.progress, func(m *matcher, _ *matching) bool { return !slices.Contains(now, m) })
	}
}

// escapeCodes are the colours of a line, which no pattern should have to know.
var escapeCodes = regexp.MustCompile(`\x1b\[[0-9;]*m?`)
