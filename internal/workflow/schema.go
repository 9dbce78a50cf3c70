package workflow

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// shape is what a definition describes.
type shape uint8

const (
	shapeNull shape = iota
	shapeBoolean
	shapeNumber
	shapeString
	shapeSequence
	shapeMapping
	shapeOneOf
)

// definition says what a value may be, in the way of GitHub's template schema. Definitions are immutable once the
// schema is compiled.
type definition struct {
	name  string
	shape shape
	grant *grant // contexts and functions that it adds to those of its parents; nil for none

	constants []string // of a string: the only values it may have; nil allows any
	nonEmpty  bool     // of a string

	item       *definition // of a sequence
	properties []property  // of a mapping, in order
	looseKey   *definition // of a mapping: what other keys must be; nil allows no others
	looseValue *definition

	// Of one-of: its members by shape, nested one-ofs spread out. Of the others: the definition itself.
	scalars  []*definition
	sequence *definition
	mappings []*definition
}

// property is a well-known key of a mapping.
type property struct {
	name     string
	required bool
	value    *definition
}

// grant is a set of contexts and functions that expressions may use.
type grant struct {
	contexts  []string
	functions []expr.Signature
}

func (d *definition) property(name string) *property {
	for i := range d.properties {
		if d.properties[i].name == name {
			return &d.properties[i]
		}
	}
	return nil
}

// spread fills in what a definition may be by shape.
func (d *definition) spread() {
	switch d.shape {
	case shapeSequence:
		d.sequence = d
	case shapeMapping:
		d.mappings = []*definition{d}
	case shapeOneOf:
		// parseSchema has collected the members.
	default:
		d.scalars = []*definition{d}
	}
}

func (d *definition) join(member *definition) {
	d.scalars = append(d.scalars, member.scalars...)
	d.mappings = append(d.mappings, member.mappings...)
	if d.sequence == nil {
		d.sequence = member.sequence
	}
}

// matches reports whether a scalar definition takes a literal.
func (d *definition) matches(v expr.Value) bool {
	switch d.shape {
	case shapeNull:
		return v.IsNull()
	case shapeBoolean:
		return v.Kind() == expr.KindBoolean
	case shapeNumber:
		return v.Kind() == expr.KindNumber
	case shapeString:
		if v.Kind() != expr.KindString {
			return false
		}
		if d.constants != nil {
			return slices.Contains(d.constants, v.Text())
		}
		return !d.nonEmpty || v.Text() != ""
	default:
		return false
	}
}

// accept gives a literal as the definition takes it: as it is, or as a string where only that fits.
func (d *definition) accept(v expr.Value) (expr.Value, bool) {
	for _, s := range d.scalars {
		if s.matches(v) {
			return v, true
		}
	}
	if v.Kind() == expr.KindString {
		return v, false
	}
	text := expr.String(v.Text())
	for _, s := range d.scalars {
		if s.matches(text) {
			return text, true
		}
	}
	return v, false
}

// takesOnlyNumbers reports whether the definition wants a number, not its spelling.
func (d *definition) takesOnlyNumbers() bool {
	return len(d.scalars) > 0 && !slices.ContainsFunc(d.scalars, func(s *definition) bool { return s.shape != shapeNumber })
}

// schemaSource is a schema as written in this package: a list of definitions
//
//	name = shape
//
// where a shape is null, boolean, number, string, text (a string that is not empty), any, 'constant',
// strings(a b) (one of these, or a list of them), one-of(a b) (one of these), the name of a definition, [shape] (a
// sequence), { key: shape, key!: shape, *shape: shape } (a mapping; ! is required, * any other key) or several with |
// between. A shape may end with (names) - the contexts and functions that expressions may use from there on; @name
// stands for such a list.
type schemaSource struct {
	text  string
	lists map[string]string
}

// schemaReader compiles a schemaSource.
type schemaReader struct {
	words []string
	lists map[string]string
	named map[string]*definition
	// forward holds definitions that were referred to, as ^name, before they came.
	forward map[string]*definition
}

// compileSchema gives the definitions by name. A mistake in the text is a mistake of this package: it panics, and
// every test sees it.
func compileSchema(src schemaSource) map[string]*definition {
	r := &schemaReader{words: schemaWords(src.text), lists: src.lists, named: map[string]*definition{}, forward: map[string]*definition{}}
	for _, name := range []string{"null", "boolean", "number", "string"} {
		r.named[name] = &definition{name: name, shape: map[string]shape{"null": shapeNull, "boolean": shapeBoolean, "number": shapeNumber, "string": shapeString}[name]}
	}
	r.named["text"] = &definition{name: "text", shape: shapeString, nonEmpty: true}
	anything := &definition{name: "any", shape: shapeOneOf}
	r.named["any"] = anything
	sequence := &definition{name: "sequence", shape: shapeSequence, item: anything}
	mapping := &definition{name: "mapping", shape: shapeMapping, looseKey: r.named["string"], looseValue: anything}
	r.named["sequence"], r.named["mapping"] = sequence, mapping
	for _, d := range r.named {
		d.spread()
	}
	for _, d := range []*definition{r.named["null"], r.named["boolean"], r.named["number"], r.named["string"], sequence, mapping} {
		anything.join(d)
	}
	for len(r.words) > 0 {
		name := r.next()
		r.expect("=")
		r.named[name] = r.shape(name)
	}
	for name, d := range r.forward {
		*d = *r.lookup(name)
	}
	return r.named
}

func schemaWords(text string) []string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		b.WriteString(line + "\n")
	}
	spaced := strings.NewReplacer("=", " = ", "|", " | ", "{", " { ", "}", " } ", "[", " [ ", "]", " ] ", "(", " ( ", ")", " ) ", ":", " : ", "!", " ! ", ",", " ").Replace(b.String())
	return strings.Fields(spaced)
}

func (r *schemaReader) peek() string {
	if len(r.words) == 0 {
		return ""
	}
	return r.words[0]
}

func (r *schemaReader) next() string {
	word := r.peek()
	if word == "" {
		panic("workflow: schema ends early")
	}
	r.words = r.words[1:]
	return word
}

func (r *schemaReader) expect(word string) {
	if got := r.next(); got != word {
		panic(fmt.Sprintf("workflow: schema: %q where %q was expected", got, word))
	}
}

func (r *schemaReader) skip(word string) bool {
	if r.peek() != word {
		return false
	}
	r.words = r.words[1:]
	return true
}

// list reads words up to the closing parenthesis.
func (r *schemaReader) list() []string {
	r.expect("(")
	var words []string
	for !r.skip(")") {
		words = append(words, r.next())
	}
	return words
}

// shape reads one shape with its alternatives and its grant.
func (r *schemaReader) shape(name string) *definition {
	members := []*definition{r.single(name)}
	for r.skip("|") {
		members = append(members, r.single(name))
	}
	d := members[0]
	if len(members) > 1 {
		d = &definition{name: name, shape: shapeOneOf}
		for _, m := range members {
			d.join(m)
		}
	}
	if r.peek() == "(" {
		granted := *d
		granted.name, granted.grant = name, r.grant(r.list())
		if d.shape != shapeOneOf {
			granted.scalars, granted.sequence, granted.mappings = nil, nil, nil
			granted.spread()
		}
		d = &granted
	}
	return d
}

// single reads a shape without alternatives.
func (r *schemaReader) single(name string) *definition {
	switch word := r.next(); {
	case word == "[":
		d := &definition{name: name, shape: shapeSequence}
		d.spread()
		d.item = r.shape(name + "-item")
		r.expect("]")
		return d
	case word == "{":
		return r.mapping(name)
	case word == "strings" || word == "one-of":
		one := &definition{name: name + "-value", shape: shapeString, constants: r.list()}
		one.spread()
		if word == "one-of" {
			return one
		}
		many := &definition{name: name, shape: shapeSequence, item: one}
		many.spread()
		d := &definition{name: name, shape: shapeOneOf}
		d.join(one)
		d.join(many)
		return d
	case strings.HasPrefix(word, "'"):
		d := &definition{name: name, shape: shapeString, constants: []string{strings.Trim(word, "'")}}
		d.spread()
		return d
	default:
		return r.lookup(word)
	}
}

// lookup finds a definition by name. ^name may come later, where only its place is needed: in a sequence.
func (r *schemaReader) lookup(name string) *definition {
	if later, ok := strings.CutPrefix(name, "^"); ok {
		if r.forward[later] == nil {
			r.forward[later] = &definition{}
		}
		return r.forward[later]
	}
	if d := r.named[name]; d != nil {
		return d
	}
	panic("workflow: schema: unknown definition " + name)
}

func (r *schemaReader) mapping(name string) *definition {
	d := &definition{name: name, shape: shapeMapping}
	d.spread()
	for !r.skip("}") {
		key := r.next()
		required := r.skip("!")
		r.expect(":")
		if loose, ok := strings.CutPrefix(key, "*"); ok {
			d.looseKey = r.lookup(loose)
			d.looseValue = r.shape(name + "-value")
			continue
		}
		d.properties = append(d.properties, property{name: key, required: required, value: r.shape(name + "-" + key)})
	}
	return d
}

// functionSignatures are the functions that a grant may name. A plus sign marks the forms of `jobs.<id>.if`, which
// take any number of job IDs.
var functionSignatures = map[string]expr.Signature{
	"always":    {Name: "always"},
	"cancelled": {Name: "cancelled"},
	"failure":   {Name: "failure"},
	"success":   {Name: "success"},
	"failure+":  {Name: "failure", Max: 1<<31 - 1},
	"success+":  {Name: "success", Max: 1<<31 - 1},
	"hashFiles": {Name: "hashFiles", Min: 1, Max: 255},
}

func (r *schemaReader) grant(words []string) *grant {
	g := &grant{}
	for _, word := range words {
		if list, ok := strings.CutPrefix(word, "@"); ok {
			text, known := r.lists[list]
			if !known {
				panic("workflow: schema: unknown list " + word)
			}
			inner := r.grant(strings.Fields(text))
			g.contexts = append(g.contexts, inner.contexts...)
			g.functions = append(g.functions, inner.functions...)
			continue
		}
		if f, ok := functionSignatures[word]; ok {
			g.functions = append(g.functions, f)
			continue
		}
		g.contexts = append(g.contexts, word)
	}
	return g
}

// scope is what expressions at a place may name: the grants of all definitions on the way there.
type scope struct {
	names expr.Names
	inner map[*grant]*scope
}

func newScope() *scope {
	return &scope{names: expr.Names{Contexts: []string{}}, inner: map[*grant]*scope{}}
}

// with is the scope within a definition.
func (s *scope) with(d *definition) *scope {
	if d.grant == nil {
		return s
	}
	if known := s.inner[d.grant]; known != nil {
		return known
	}
	inner := &scope{inner: map[*grant]*scope{}}
	inner.names.Contexts = slices.Clone(s.names.Contexts)
	for _, c := range d.grant.contexts {
		if !slices.Contains(inner.names.Contexts, c) {
			inner.names.Contexts = append(inner.names.Contexts, c)
		}
	}
	inner.names.Functions = slices.Clone(s.names.Functions)
	for _, f := range d.grant.functions {
		if !slices.Contains(inner.names.Functions, f) {
			inner.names.Functions = append(inner.names.Functions, f)
		}
	}
	s.inner[d.grant] = inner
	return inner
}

// empty reports whether no expression is allowed at all.
func (s *scope) empty() bool {
	return len(s.names.Contexts) == 0 && len(s.names.Functions) == 0
}
