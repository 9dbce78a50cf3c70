package workflow

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
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
	return compileFilter(patterns).selects(name)
}

// filter is patterns ready for use.
type filter []filterPart

type filterPart struct {
	negative bool
	re       *regexp.Regexp
}

func compileFilter(patterns []string) filter {
	out := make(filter, 0, len(patterns))
	for _, p := range patterns {
		positive, negative := strings.CutPrefix(p, "!")
		if re, err := compilePattern(positive); err == nil {
			out = append(out, filterPart{negative, re})
		}
	}
	return out
}

func (f filter) selects(name string) bool {
	for i := len(f) - 1; i >= 0; i-- {
		if f[i].re.MatchString(name) {
			return !f[i].negative
		}
	}
	return false
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
	for rest := pattern; rest != ""; {
		var atom string
		atom, rest = patternAtom(rest)
		optional, repeated := false, false
		for rest != "" && (rest[0] == '?' || rest[0] == '+') {
			optional = optional || rest[0] == '?'
			repeated = repeated || rest[0] == '+'
			rest = rest[1:]
		}
		switch {
		case optional && repeated:
			atom = "(?:" + atom + ")*"
		case optional:
			atom = "(?:" + atom + ")?"
		case repeated:
			atom = "(?:" + atom + ")+"
		}
		out.WriteString(atom)
	}
	out.WriteString(`\z`)
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
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError {
		return ".", s[size:] // in names too, what is no UTF-8 is one character
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
