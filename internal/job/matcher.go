package job

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlclark/regexp2"

	"github.com/penstock-ci/penstock/internal/ci"
)

const (
	// maxMatcherFile bounds a problem matcher file, bytes.
	maxMatcherFile = 1 << 20
	// maxMatchers bounds how many owners may watch a job's output at once.
	maxMatchers = 100
	// matchTimeout bounds one pattern on one line; a matcher that needs longer is removed, as the runner does.
	matchTimeout = time.Second
)

// matcher finds problems in output lines (actions/runner src/Runner.Worker/IssueMatcher.cs). It is immutable.
type matcher struct {
	owner, severity, fromPath string
	patterns                  []matcherPattern
}

// matching is how far a matcher is in the output of one step.
type matching struct {
	*matcher
	state []*problem // of each pattern but the last: what has matched so far
}

type matcherPattern struct {
	re                                                    *regexp2.Regexp
	file, line, column, severity, code, message, fromPath *int
	loop                                                  bool
}

// problem is what a matcher has found, the fields as text.
type problem struct {
	file, line, column, severity, code, message, fromPath string
}

// matcherFile is a problem matcher file as it is written.
type matcherFile struct {
	ProblemMatcher []struct {
		Owner, Severity, FromPath string
		Pattern                   []struct {
			Regexp                                                string
			File, Line, Column, Severity, Code, Message, FromPath *int
			Loop                                                  bool
		}
	}
}

// parseMatchers reads a problem matcher file. The errors are the runner's.
func parseMatchers(data []byte) ([]*matcher, error) {
	if len(data) > maxMatcherFile {
		return nil, fmt.Errorf("the file has more than %d bytes", maxMatcherFile)
	}
	var file matcherFile
	if err := json.Unmarshal(plainJSON(fileText(data)), &file); err != nil {
		return nil, err
	}
	var out []*matcher
	for _, m := range file.ProblemMatcher {
		next := &matcher{owner: m.Owner, severity: m.Severity, fromPath: m.FromPath}
		switch severity := strings.ToLower(m.Severity); {
		case m.Owner == "":
			return nil, errors.New("Owner must not be empty")
		case severity != "" && severity != "error" && severity != "warning" && severity != "notice":
			return nil, fmt.Errorf("Matcher '%s' contains unexpected default severity '%s'", m.Owner, m.Severity)
		case len(m.Pattern) == 0:
			return nil, fmt.Errorf("Matcher '%s' does not contain any patterns", m.Owner)
		}
		set := map[string]bool{}
		for i, p := range m.Pattern {
			if p.Loop && (i != len(m.Pattern)-1 || i == 0) {
				return nil, errors.New("Only the last pattern in a multiline matcher may set 'loop'")
			}
			if p.Loop && p.Message == nil {
				return nil, errors.New("The loop pattern must set 'message'")
			}
			re, err := regexp2.Compile(p.Regexp, regexp2.ECMAScript)
			if err != nil {
				return nil, fmt.Errorf("matcher '%s': %w", m.Owner, err)
			}
			re.MatchTimeout = matchTimeout
			pattern := matcherPattern{re, p.File, p.Line, p.Column, p.Severity, p.Code, p.Message, p.FromPath, p.Loop}
			if err := pattern.check(set); err != nil {
				return nil, err
			}
			next.patterns = append(next.patterns, pattern)
		}
		if !set["message"] {
			return nil, errors.New("At least one pattern must set 'message'")
		}
		if slices.ContainsFunc(out, func(o *matcher) bool { return strings.EqualFold(o.owner, m.Owner) }) {
			return nil, fmt.Errorf("Duplicate owner name '%s'", m.Owner)
		}
		out = append(out, next)
	}
	return out, nil
}

// plainJSON takes out of JSON what the runner's reader allows beyond it: comments, and commas before a closing bracket.
func plainJSON(text string) []byte {
	out := make([]byte, 0, len(text))
	comma := -1 // where in out a comma is that nothing but blanks has followed
	for i := 0; i < len(text); {
		end := i + 1
		switch c := text[i]; {
		case c == '"':
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end+1, len(text))
		case strings.HasPrefix(text[i:], "//"):
			for end < len(text) && text[end] != '\n' {
				end++
			}
			i = end
			continue
		case strings.HasPrefix(text[i:], "/*"):
			if length := strings.Index(text[i+2:], "*/"); length >= 0 {
				i += length + 4
				continue
			}
		case (c == ']' || c == '}') && comma >= 0:
			out[comma] = ' '
		}
		if c := text[i]; c == ',' {
			comma = len(out)
		} else if !strings.ContainsRune(" \t\r\n", rune(c)) {
			comma = -1
		}
		out = append(out, text[i:end]...)
		i = end
	}
	return out
}

// check finds properties that another pattern has set, and groups that the expression does not have.
func (p matcherPattern) check(set map[string]bool) error {
	groups := len(p.re.GetGroupNumbers())
	for _, f := range []struct {
		name  string
		group *int
	}{{"file", p.file}, {"line", p.line}, {"column", p.column}, {"severity", p.severity}, {"code", p.code}, {"message", p.message}, {"fromPath", p.fromPath}} {
		switch {
		case f.group == nil:
		case set[f.name]:
			return fmt.Errorf("The property '%s' is set twice", f.name)
		case *f.group < 0 || *f.group >= groups:
			return fmt.Errorf("The property '%s' is set to %d which is out of range", f.name, *f.group)
		default:
			set[f.name] = true
		}
	}
	return nil
}

// match gives the problem that a line completes, nil if none. An error says that a pattern took too long.
func (m *matching) match(line string) (*problem, error) {
	for i, p := range slices.Backward(m.patterns) {
		var running *problem
		if i > 0 {
			if running = m.state[i-1]; running == nil {
				continue
			}
		}
		found, err := p.re.FindStringMatch(line)
		if err != nil {
			return nil, err
		}
		last := i == len(m.patterns)-1
		switch {
		case found == nil && last && i > 0:
			m.state[i-1] = nil
		case found == nil && !last:
			m.state[i] = nil
		case found != nil && last:
			m.reset()
			if p.loop {
				m.state[i-1] = running
			}
			whole := p.take(running, found)
			whole.severity = cmp.Or(whole.severity, m.severity)
			whole.fromPath = cmp.Or(whole.fromPath, m.fromPath)
			return whole, nil
		case found != nil:
			m.state[i] = p.take(running, found)
		}
	}
	return nil, nil
}

func (m *matching) reset() { clear(m.state) }

func (p matcherPattern) take(running *problem, found *regexp2.Match) *problem {
	out := problem{}
	if running != nil {
		out = *running
	}
	set := func(into *string, group *int) {
		if *into == "" && group != nil && *group >= 0 && *group < found.GroupCount() {
			*into = found.GroupByNumber(*group).String()
		}
	}
	set(&out.file, p.file)
	set(&out.line, p.line)
	set(&out.column, p.column)
	set(&out.severity, p.severity)
	set(&out.code, p.code)
	set(&out.message, p.message)
	set(&out.fromPath, p.fromPath)
	return &out
}

// annotation is the problem as people see it; ok is false for one without a message, or of a severity that GitHub does
// not know. A file out of the workspace is left out.
func (p *problem) annotation(workspace string) (a ci.Annotation, ok bool) {
	a = ci.Annotation{Level: strings.ToLower(p.severity), Message: p.message}
	switch a.Level {
	case "":
		a.Level = "error"
	case "error", "warning", "notice":
	default:
		return a, false
	}
	a.Line, a.Column = digits(p.line), digits(p.column)
	if strings.TrimSpace(p.file) != "" {
		file := p.file
		if !path.IsAbs(file) && strings.TrimSpace(p.fromPath) != "" {
			file = path.Join(path.Dir(p.fromPath), file)
		}
		if !path.IsAbs(file) {
			file = path.Join(workspace, file)
		}
		if inside, ok := strings.CutPrefix(path.Clean(file), workspace+"/"); ok {
			a.File = inside
		}
	}
	return a, strings.TrimSpace(p.message) != ""
}

// digits reads a number as the runner does: without blanks and signs; anything else is 0.
func digits(text string) int {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}
