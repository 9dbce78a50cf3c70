package native

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// pattern is one line of a glob as @actions/glob reads it: minimatch with dots matched, without braces and
// extended globs; `!` excludes, a slash at the end means directories alone.
type pattern struct {
	negate, dirOnly bool
	implicit        bool // made by withDescendants: does not match the directory it begins at
	segments        []segment
	search          string // the literal path before the first wildcard
}

// segment matches one name of a path.
type segment struct {
	globstar bool
	literal  string         // where re is nil
	re       *regexp.Regexp // where the name has wildcards
	source   string
}

type patternSet []pattern

// maxPattern bounds a pattern's length in bytes.
const maxPattern = 32 << 10

// parsePattern reads a pattern; a relative one is below cwd, `~` is home.
func parsePattern(text, cwd, home string) (pattern, error) {
	var p pattern
	if len(text) > maxPattern {
		return p, fmt.Errorf("a pattern of %d bytes is longer than %d", len(text), maxPattern)
	}
	original := text
	for strings.HasPrefix(text, "!") {
		p.negate = !p.negate
		text = strings.TrimSpace(text[1:])
	}
	if text == "" {
		return p, fmt.Errorf("pattern cannot be empty")
	}
	for i, name := range split(text) {
		if lit := literal(name); lit == ".." || lit == "." && (i > 0 || strings.HasPrefix(text, "/")) {
			return p, fmt.Errorf("Invalid pattern '%s'. Relative pathing '.' and '..' is not allowed.", original)
		}
	}
	switch {
	case text == "." || strings.HasPrefix(text, "./"):
		text = globEscape(cwd) + text[1:]
	case text == "~" || strings.HasPrefix(text, "~/"):
		text = globEscape(home) + text[1:]
	case !strings.HasPrefix(text, "/"):
		text = globEscape(cwd) + "/" + text
	}
	p.dirOnly = strings.HasSuffix(text, "/")
	p.search = "/"
	searching := true
	for _, name := range split(text) {
		seg, err := parseSegment(name)
		if err != nil {
			return p, fmt.Errorf("Invalid pattern '%s': %w", original, err)
		}
		p.segments = append(p.segments, seg)
		lit := literal(name)
		if searching = searching && lit != ""; searching {
			p.search = path.Join(p.search, lit)
		}
	}
	return p, nil
}

func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" })
}

func parseSegment(name string) (segment, error) {
	if name == "**" {
		return segment{globstar: true, source: name}, nil
	}
	if !strings.ContainsAny(name, `*?[\`) {
		return segment{literal: name, source: name}, nil
	}
	re, err := regexp.Compile(segmentExpression(name))
	return segment{re: re, source: name}, err
}

// segmentExpression writes a name's wildcards as a regular expression. What is no complete set stands for itself.
func segmentExpression(name string) string {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		rest := name[i+size:]
		switch {
		case r == '*':
			if !strings.HasPrefix(rest, "*") {
				b.WriteString(`.*`)
			}
		case r == '?':
			b.WriteByte('.')
		case r == '\\' && rest != "":
			next, n := utf8.DecodeRuneInString(rest)
			b.WriteString(regexp.QuoteMeta(string(next)))
			size += n
		case r == '[':
			if set, n := setExpression(rest); n > 0 {
				b.WriteString(set)
				size += n
				break
			}
			fallthrough
		default:
			b.WriteString(regexp.QuoteMeta(name[i : i+size]))
		}
		i += size
	}
	if strings.Trim(name, "*") == "" {
		return `(?s)\A.+\z`
	}
	b.WriteString(`\z`)
	return b.String()
}

// setExpression reads a set after its opening bracket; n is 0 where it is not closed or not a set.
func setExpression(text string) (re string, n int) {
	var b strings.Builder
	b.WriteByte('[')
	i := 0
	if i < len(text) && (text[i] == '!' || text[i] == '^') {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(text); first = false {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == ']' && !first:
			b.WriteByte(']')
			set := b.String()
			if _, err := regexp.Compile(set); err != nil {
				return "", 0
			}
			return set, i + 1
		case r == '\\' && i+size < len(text):
			next, n := utf8.DecodeRuneInString(text[i+size:])
			b.WriteString(regexp.QuoteMeta(string(next)))
			size += n
		case r == '[' && strings.HasPrefix(text[i:], "[:"):
			end := strings.Index(text[i:], ":]")
			if end < 0 {
				b.WriteString(`\[`)
				break
			}
			size = end + 2
			b.WriteString(text[i : i+size])
		case r == '-':
			b.WriteByte('-')
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
		i += size
	}
	return "", 0
}

// literal is what a name stands for if it has no wildcards, else empty. `[*]` is the literal `*`.
func literal(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '\\' && i+1 < len(name):
			i++
			b.WriteByte(name[i])
		case c == '*' || c == '?':
			return ""
		case c == '[':
			set, end := setLiteral(name[i+1:])
			if len(set) > 1 {
				return ""
			}
			if end > 0 && set != "" {
				b.WriteString(set)
				i += end
				continue
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// setLiteral gives the characters of a set after its opening bracket; end is 0 where it is not closed.
func setLiteral(text string) (set string, end int) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case text[i] == ']':
			return b.String(), i + 1
		default:
			b.WriteByte(text[i])
		}
	}
	return "", 0
}

// globEscape makes a path match itself.
func globEscape(p string) string {
	return strings.NewReplacer(`\`, `\\`, `[`, `[[]`, `?`, `[?]`, `*`, `[*]`).Replace(p)
}

// searchPaths are the literal beginnings of the patterns that include, those below another left out.
func (set patternSet) searchPaths() []string {
	var paths []string
	for _, p := range set {
		if p.negate || slices.Contains(paths, p.search) {
			continue
		}
		above := slices.ContainsFunc(set, func(q pattern) bool {
			return !q.negate && q.search != p.search && below(p.search, q.search)
		})
		if !above {
			paths = append(paths, p.search)
		}
	}
	return paths
}

// depth is how far below the paths that are searched a pattern can reach.
func (set patternSet) depth(searched []string) int {
	depth := 0
	for _, p := range set {
		if slices.ContainsFunc(p.segments, func(s segment) bool { return s.globstar }) {
			return maxDepth
		}
		for _, from := range searched {
			if !p.negate && below(p.search, from) {
				depth = max(depth, len(p.segments)-len(split(from)))
			}
		}
	}
	return depth
}

// below says that p is dir or below it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// withDescendants adds to each pattern the one for all that is below what it names.
func (set patternSet) withDescendants() patternSet {
	var out patternSet
	for _, p := range set {
		out = append(out, p)
		if n := len(p.segments); p.dirOnly || n == 0 || !p.segments[n-1].globstar {
			out = append(out, pattern{
				negate: p.negate, implicit: true, search: p.search,
				segments: append(slices.Clip(p.segments), segment{globstar: true, source: "**"}),
			})
		}
	}
	return out
}

// match says whether an absolute path is found: each pattern in turn adds or takes away.
func (set patternSet) match(p string, dir bool) bool {
	names := split(p)
	found := false
	for _, pat := range set {
		if found != !pat.negate && pat.match(names, dir) {
			found = !pat.negate
		}
	}
	return found
}

func (p pattern) match(names []string, dir bool) bool {
	if p.dirOnly && !dir {
		return false
	}
	n := len(p.segments)
	if !p.implicit && n > 0 && p.segments[n-1].globstar && matchSegments(p.segments[:n-1], names) {
		return true // `/a/**` names /a as well
	}
	return matchSegments(p.segments, names)
}

// matchSegments compares from both ends of each globstar, remembering the last one only: names that follow a
// globstar match earliest, so nothing before it need be tried again.
func matchSegments(segs []segment, names []string) bool {
	si, ni := 0, 0
	star, from := -1, 0
	for ni < len(names) {
		switch {
		case si < len(segs) && segs[si].globstar:
			star, from = si, ni
			si++
		case si < len(segs) && segs[si].match(names[ni]):
			si++
			ni++
		case star >= 0:
			from++
			si, ni = star+1, from
		default:
			return false
		}
	}
	// A globstar at the end stands for at least one name, one before others may stand for none.
	return si == len(segs)
}

func (s segment) match(name string) bool {
	if s.re != nil {
		return s.re.MatchString(name)
	}
	return s.literal == name
}
