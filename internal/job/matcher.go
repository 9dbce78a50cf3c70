package job

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
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

// matcher finds problems in output lines (actions/runner src/Runner.Worker/IssueMatcher.cs).
type matcher struct {
	owner, severity, fromPath string
	patterns                  []matcherPattern
	state                     []*problem // of each pattern but the last: what has matched so far
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

// parseMatchers reads a problem matcher file.
func parseMatchers(data []byte) ([]*matcher, error) {
	if len(data) > maxMatcherFile {
		return nil, fmt.Errorf("the file has more than %d bytes", maxMatcherFile)
	}
	var file struct {
		ProblemMatcher []struct {
			Owner, Severity, FromPath string
			Pattern                   []struct {
				Regexp                                                string
				File, Line, Column, Severity, Code, Message, FromPath *int
				Loop                                                  bool
			}
		}
	}
	if err := json.Unmarshal([]byte(fileText(data)), &file); err != nil {
		return nil, err
	}
	var out []*matcher
	for _, m := range file.ProblemMatcher {
		if m.Owner == "" {
			return nil, errors.New("Owner must not be empty")
		}
		if slices.ContainsFunc(out, func(o *matcher) bool { return strings.EqualFold(o.owner, m.Owner) }) {
			return nil, fmt.Errorf("Duplicate owner name '%s'", m.Owner)
		}
		if len(m.Pattern) == 0 {
			return nil, fmt.Errorf("Matcher '%s' does not contain any patterns", m.Owner)
		}
		next := &matcher{owner: m.Owner, severity: m.Severity, fromPath: m.FromPath, state: make([]*problem, len(m.Pattern)-1)}
		message := false
		for i, p := range m.Pattern {
			if p.Loop && (i != len(m.Pattern)-1 || i == 0) {
				return nil, fmt.Errorf("Only the last pattern in a multiline matcher may set 'loop'")
			}
			message = message || p.Message != nil
			re, err := regexp2.Compile(p.Regexp, regexp2.ECMAScript)
			if err != nil {
				return nil, fmt.Errorf("matcher '%s': %w", m.Owner, err)
			}
			re.MatchTimeout = matchTimeout
			next.patterns = append(next.patterns, matcherPattern{re, p.File, p.Line, p.Column, p.Severity, p.Code, p.Message, p.FromPath, p.Loop})
		}
		if !message {
			return nil, fmt.Errorf("At least one pattern in '%s' must set 'message'", m.Owner)
		}
		out = append(out, next)
	}
	return out, nil
}

// match gives the problem that a line completes, nil if none. An error says that a pattern took too long.
func (m *matcher) match(line string) (*problem, error) {
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

func (m *matcher) reset() { clear(m.state) }

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

// annotation is the problem as people see it; ok is false for a severity that GitHub does not know.
func (p *problem) annotation(workspace string) (ci.Annotation, bool) {
	a := ci.Annotation{Level: "error", Message: strings.TrimSpace(p.message)}
	switch strings.ToLower(p.severity) {
	case "", "error":
	case "warning", "notice":
		a.Level = strings.ToLower(p.severity)
	default:
		return a, false
	}
	if p.code != "" {
		a.Message = strings.TrimSpace(p.code + ": " + a.Message)
	}
	a.Line, _ = strconv.Atoi(p.line)
	a.Column, _ = strconv.Atoi(p.column)
	if p.file != "" {
		file := strings.ReplaceAll(p.file, `\`, "/")
		if !strings.HasPrefix(file, "/") && p.fromPath != "" {
			if dir := p.fromPath[:strings.LastIndexByte(p.fromPath, '/')+1]; dir != "" {
				file = dir + file
			}
		}
		a.File = strings.TrimPrefix(strings.TrimPrefix(file, workspace+"/"), "./")
	}
	return a, a.Message != ""
}
