package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"go.yaml.in/yaml/v4"
)

// reader reads nodes and keeps the mistakes. How deep it goes is bounded by the sections that there are, so neither
// nesting nor aliases that hold themselves lead it on; entries bounds how often aliases repeat each other.
type reader struct {
	path    string
	found   Errors
	notes   []Finding
	entries int
}

// maxEntries bounds the entries of all mappings and lists, those behind aliases counted each time; maxFindings the
// mistakes that are kept.
const (
	maxEntries  = 10_000
	maxFindings = 100
)

func (r *reader) at(p Pos, format string, args ...any) {
	if len(r.found) < maxFindings {
		r.found = append(r.found, Finding{p, r.path, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) mistake(n *yaml.Node, format string, args ...any) { r.at(place(n), format, args...) }

// note says what is accepted and has no effect.
func (r *reader) note(n *yaml.Node, format string, args ...any) { r.noteAt(place(n), format, args...) }

func (r *reader) noteAt(p Pos, format string, args ...any) {
	if len(r.notes) < maxFindings {
		r.notes = append(r.notes, Finding{p, r.path, fmt.Sprintf(format, args...)})
	}
}

func byPlace(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

func place(n *yaml.Node) Pos { return Pos{n.Line, n.Column} }

// follow gives what an alias stands for; an alias of an alias is none in YAML.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// mapping visits the entries of a mapping whose keys are text and differ, not by case alone. Nothing at all is an empty
// mapping.
func (r *reader) mapping(n *yaml.Node, visit func(key, value *yaml.Node)) {
	r.entriesOf(n, true, visit)
}

// entriesOf is mapping, of keys that may differ by case alone unless fold is set.
func (r *reader) entriesOf(n *yaml.Node, fold bool, visit func(key, value *yaml.Node)) {
	n = follow(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.mistake(n, "A mapping was expected")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := follow(n.Content[i])
		if !r.count(key) {
			return
		}
		if key.Kind != yaml.ScalarNode || key.Value == "" || isNull(key) {
			r.mistake(key, "A key must be text")
			continue
		}
		name := key.Value
		if fold {
			name = strings.ToLower(name)
		}
		if seen[name] {
			r.mistake(key, "'%s' is already defined", key.Value)
			continue
		}
		seen[name] = true
		visit(key, follow(n.Content[i+1]))
	}
}

// section reads a mapping that has keys of its own, and gives the values that are there by key.
func (r *reader) section(n *yaml.Node, fields []field) map[string]*yaml.Node {
	at := map[string]*yaml.Node{}
	r.mapping(n, func(key, value *yaml.Node) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key.Value })
		if i < 0 {
			var known []string
			for _, f := range fields {
				known = append(known, f.key)
			}
			r.mistake(key, "Unexpected value '%s'%s", key.Value, suggest(key.Value, known))
			return
		}
		at[key.Value] = value
		fields[i].read(r, value)
	})
	return at
}

// suggest offers what is nearly the same, else all that there is.
func suggest(text string, known []string) string {
	if len(known) == 0 {
		return ": nothing stands here"
	}
	return cmp.Or(didYouMean(text, known), ": there are "+strings.Join(known, ", "))
}

// didYouMean offers what is nearly the same, or nothing.
func didYouMean(text string, known []string) string {
	best, least := "", max(len(text)/2, 1)+1
	if len(text) > 100 {
		return ""
	}
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(text), strings.ToLower(k), nil); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean '%s'?", best)
}

// list gives the entries of a list; a single text is a list of one, and nothing none.
func (r *reader) list(n *yaml.Node) []*yaml.Node {
	n = follow(n)
	switch {
	case isNull(n):
		return nil
	case n.Kind == yaml.ScalarNode:
		return []*yaml.Node{n}
	case n.Kind != yaml.SequenceNode:
		r.mistake(n, "A list was expected")
		return nil
	}
	var all []*yaml.Node
	for _, e := range n.Content {
		if e = follow(e); !r.count(e) {
			return nil
		}
		all = append(all, e)
	}
	return all
}

func (r *reader) count(n *yaml.Node) bool {
	r.entries++
	if r.entries == maxEntries+1 {
		r.mistake(n, "the file has more than %d entries", maxEntries)
	}
	return r.entries <= maxEntries
}

// scalar says whether n is a single value; what names what is expected.
func (r *reader) scalar(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.mistake(n, "%s was expected", strings.ToUpper(what[:1])+what[1:])
		return false
	}
	return true
}

// text reads a string.
func (r *reader) text(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" {
		r.mistake(n, "Text was expected")
		return "", false
	}
	return n.Value, true
}
