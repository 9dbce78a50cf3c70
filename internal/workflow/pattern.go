package workflow

import (
	"fmt"
	"regexp"
	"strings"
)

// maxPattern is how many bytes a filter pattern may have.
const maxPattern = 4096

// MatchPattern reports whether a name fits one of GitHub's filter patterns: * is any characters but /, ** any at all,
// ? makes the character before optional, + repeats it, [] is one of a set, and a backslash takes the special meaning
// away. **/ also stands for nothing. The whole name must fit, with case. A leading ! is for MatchPatterns and no part
// of the pattern here.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#filter-pattern-cheat-sheet
func MatchPattern(pattern, name string) (bool, error) {
	re, err := compilePattern(pattern)
	if err != nil {
		return false, err
	}
	return re.MatchString(name), nil
}

// MatchPatterns reports whether a name is selected by patterns in their order: one that fits selects it, one that fits
// and begins with ! takes it out again; the last one that fits decides. A pattern that cannot be read fits nothing.
func MatchPatterns(patterns []string, name string) bool {
	selected := false
	for _, p := range patterns {
		p, negative := strings.CutPrefix(p, "!")
		if ok, err := MatchPattern(p, name); ok && err == nil {
			selected = !negative
		}
	}
	return selected
}

func compilePattern(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a pattern may have %d bytes, this one has %d", maxPattern, len(pattern))
	}
	re, err := regexp.Compile(patternExpression(pattern))
	if err != nil {
		return nil, fmt.Errorf("the pattern cannot be read: %w", err)
	}
	return re, nil
}

// patternExpression turns a filter pattern into a regular expression.
func patternExpression(pattern string) string {
	var out strings.Builder
	out.WriteString(`(?s)\A`)
	atom := "" // what ? and + apply to
	for rest := pattern; rest != ""; {
		if atom != "" && (rest[0] == '?' || rest[0] == '+') {
			out.WriteString("(?:" + atom + ")" + rest[:1])
			atom, rest = "", rest[1:]
			continue
		}
		out.WriteString(atom)
		atom, rest = patternAtom(rest)
	}
	out.WriteString(atom + `\z`)
	return out.String()
}

// patternAtom reads one piece of a pattern as a regular expression.
func patternAtom(s string) (atom, rest string) {
	switch {
	case strings.HasPrefix(s, "**/"):
		return "(?:.+/)?", s[3:]
	case strings.HasPrefix(s, "**"):
		return ".*", s[2:]
	case s[0] == '*':
		return "[^/]*", s[1:]
	case s[0] == '[':
		if end := strings.IndexByte(s, ']'); end > 1 {
			return patternSet(s[1:end]), s[end+1:]
		}
	case s[0] == '\\' && len(s) > 1:
		s = s[1:]
	}
	r := []rune(s[:min(4, len(s))])[0]
	size := len(string(r))
	if r == '\uFFFD' && !strings.HasPrefix(s, "\uFFFD") {
		return ".", s[1:]
	}
	return regexp.QuoteMeta(s[:size]), s[size:]
}

// patternSet turns what is between [ and ] into a set.
func patternSet(s string) string {
	var out strings.Builder
	out.WriteByte('[')
	runes := []rune(s)
	for i := 0; i < len(runes); i++ {
		if i+2 < len(runes) && runes[i+1] == '-' && runes[i] <= runes[i+2] {
			out.WriteString(quoteInSet(runes[i]) + "-" + quoteInSet(runes[i+2]))
			i += 2
			continue
		}
		out.WriteString(quoteInSet(runes[i]))
	}
	out.WriteByte(']')
	return out.String()
}

func quoteInSet(r rune) string {
	return fmt.Sprintf(`\x{%x}`, r)
}
