package workflow

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/penstock-ci/penstock/internal/expr"
)

// What the reader says, in GitHub's words (actions/runner TemplateStrings).
const (
	sayUnexpectedSequence = "A sequence was not expected"
	sayUnexpectedMapping  = "A mapping was not expected"
	sayNoExpression       = "A template expression is not allowed in this context"
	sayEmpty              = "The file is empty"
	sayScalarKey          = "Expected a scalar value as the key of a mapping"
	sayDepth              = "Maximum object depth exceeded"
	saySize               = "Maximum object size exceeded"
	sayNodes              = "Maximum YAML nodes exceeded"
)

// maxFindings is how many mistakes are listed; a file with more is not read for them all.
const maxFindings = 100

// maxMessage is how many UTF-16 units of a message are kept, as GitHub does.
const maxMessage = 500

// findings collects mistakes and warnings.
type findings struct {
	path     string
	errors   Errors
	warnings []Finding
	muted    map[Pos]bool // places where nothing more is to be said
}

// mute keeps later mistakes from being noted where there is one already: they would follow from it.
func (f *findings) mute() {
	f.muted = make(map[Pos]bool, len(f.errors))
	for _, e := range f.errors {
		f.muted[e.Pos] = true
	}
}

func (f *findings) fail(pos Pos, message string) {
	if len(f.errors) < maxFindings && !f.muted[pos] {
		f.errors = append(f.errors, Finding{Pos: pos, Path: f.path, Message: shorten(message), Severity: "error"})
	}
}

func (f *findings) failf(pos Pos, format string, args ...any) {
	f.fail(pos, fmt.Sprintf(format, args...))
}

func (f *findings) warn(pos Pos, message string) {
	if len(f.warnings) < maxFindings {
		f.warnings = append(f.warnings, Finding{Pos: pos, Path: f.path, Message: shorten(message), Severity: "warning"})
	}
}

func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	units := utf16.Encode([]rune(message))
	if len(units) <= maxMessage {
		return message
	}
	return string(utf16.Decode(units[:maxMessage])) + "[...]"
}

// reader turns a YAML document into nodes, checking them against a schema as GitHub's template reader does
// (actions/runner TemplateReader). It goes on after a mistake.
type reader struct {
	*findings
	depth, nodes, bytes int
	stopped             bool // a limit was passed: the rest of the file is not read
}

// readDocument reads a file by a schema. The node is nil if there is nothing to read.
func readDocument(f *findings, src []byte, root *definition) *Node {
	doc, mistake := readYAML(src)
	if mistake != nil {
		f.fail(mistake.Pos, mistake.Message)
		return nil
	}
	if doc == nil {
		f.fail(Pos{}, sayEmpty)
		return nil
	}
	r := &reader{findings: f}
	return r.read(doc, root, newScope().with(root))
}

// stop reports that a limit was passed, once.
func (r *reader) stop(pos Pos, message string) {
	if !r.stopped {
		r.fail(pos, message)
	}
	r.stopped = true
}

// enter counts a node and its memory; it is false when there is no room for it.
func (r *reader) enter(n *yamlNode, bytes int) bool {
	if r.stopped {
		return false
	}
	r.nodes++
	if n.kind != yamlScalar {
		r.nodes++ // its end counts too
	}
	if r.nodes > maxNodes {
		r.stop(n.Pos, sayNodes)
		return false
	}
	r.bytes += bytes
	if r.bytes > maxMemory {
		r.stop(n.Pos, saySize)
		return false
	}
	return true
}

const (
	objectSize     = 24 // bytes that GitHub counts for a value
	stringOverhead = 26 // and for a string, besides two for each character
)

func (r *reader) read(n *yamlNode, d *definition, s *scope) *Node {
	switch n.kind {
	case yamlSequence:
		return r.sequence(n, d, s)
	case yamlMapping:
		return r.mapping(n, d, s)
	default:
		return r.scalar(n, d, s)
	}
}

func (r *reader) scalar(n *yamlNode, d *definition, s *scope) *Node {
	if !r.enter(n, objectSize+stringOverhead+2*len(n.value)) {
		return &Node{Pos: n.Pos, def: d}
	}
	out := r.parseScalar(n, s)
	out.def = d
	if out.kind != nodeLiteral {
		if out.kind == nodeInsert {
			r.fail(n.Pos, "Unexpected value '${{ insert }}'")
		} else if s.empty() {
			r.fail(n.Pos, sayNoExpression)
		}
		return out
	}
	r.validate(out, d)
	r.checkSpelling(n, out, d)
	return out
}

// validate makes a literal what its definition wants.
func (r *reader) validate(n *Node, d *definition) {
	v, ok := d.accept(n.value)
	if !ok {
		r.failf(n.Pos, "Unexpected value '%s'", v.Text())
	}
	n.value = v
}

// parseScalar reads a scalar's literal or its expressions.
func (r *reader) parseScalar(n *yamlNode, s *scope) *Node {
	out := &Node{Pos: n.Pos, source: n.value}
	v, err := n.literal()
	if err != nil {
		r.fail(n.Pos, err.Error())
	}
	out.value = v
	if v.Kind() != expr.KindString || !strings.Contains(v.Text(), "${{") {
		return out
	}
	if isInsert(v.Text()) {
		out.kind = nodeInsert
		return out
	}
	template, err := expr.ParseTemplate(v.Text(), s.names)
	if err != nil {
		var fault *expr.Error
		errors.As(err, &fault)
		r.fail(n.Pos, fault.Message)
		return out
	}
	if template.IsLiteral() {
		out.value = expr.String(template.Literal())
		return out
	}
	out.kind, out.template, out.value = nodeExpression, template, expr.Null()
	return out
}

// isInsert reports whether a scalar is the directive ${{ insert }}.
func isInsert(text string) bool {
	inner, ok := strings.CutPrefix(text, "${{")
	if !ok {
		return false
	}
	inner, ok = strings.CutSuffix(inner, "}}")
	return ok && strings.TrimSpace(inner) == "insert"
}

func (r *reader) sequence(n *yamlNode, d *definition, s *scope) *Node {
	out := &Node{Pos: n.Pos, kind: nodeSequence, def: d}
	if !r.enter(n, objectSize) || !r.deeper(n) {
		return out
	}
	defer r.higher()
	if d.sequence == nil {
		r.fail(n.Pos, sayUnexpectedSequence)
		r.skip(n.items)
		return out
	}
	item := d.sequence.item
	inner := s.with(item)
	for _, child := range n.items {
		if r.stopped {
			break
		}
		out.items = append(out.items, r.read(child, item, inner))
	}
	return out
}

func (r *reader) deeper(n *yamlNode) bool {
	if r.depth >= maxDepth {
		r.stop(n.Pos, sayDepth)
		return false
	}
	r.depth++
	return true
}

func (r *reader) higher() { r.depth-- }

// skip counts what is not read.
func (r *reader) skip(nodes []*yamlNode) {
	for _, n := range nodes {
		if !r.enter(n, 0) || !r.deeper(n) {
			return
		}
		r.skip(n.items)
		r.higher()
	}
}

// mapping reads a mapping. Its keys narrow down which of several definitions is meant.
func (r *reader) mapping(n *yamlNode, d *definition, s *scope) *Node {
	out := &Node{Pos: n.Pos, kind: nodeMapping, def: d}
	if !r.enter(n, objectSize) || !r.deeper(n) {
		return out
	}
	defer r.higher()
	if len(d.mappings) == 0 {
		r.fail(n.Pos, sayUnexpectedMapping)
		r.skip(n.items)
		return out
	}
	m := mappingReader{reader: r, out: out, scope: s, keys: map[string]bool{}, candidates: slices.Clone(d.mappings)}
	for i := 0; i+1 < len(n.items) && !r.stopped; i += 2 {
		m.pair(n.items[i], n.items[i+1])
	}
	if !r.stopped {
		m.finish(n.Pos)
	}
	return out
}

// mappingReader is the state within one mapping.
type mappingReader struct {
	*reader
	out           *Node
	scope         *scope
	keys          map[string]bool // seen, folded
	candidates    []*definition
	expressionKey bool
}

func (m *mappingReader) pair(rawKey, rawValue *yamlNode) {
	if rawKey.kind != yamlScalar {
		m.fail(rawKey.Pos, sayScalarKey)
		m.skip([]*yamlNode{rawKey, rawValue})
		return
	}
	if !m.enter(rawKey, objectSize+stringOverhead+2*len(rawKey.value)) {
		return
	}
	key := m.parseScalar(rawKey, m.scope)
	if key.kind != nodeLiteral {
		m.expressionPair(key, rawValue)
		return
	}
	name := key.value.Text()
	key.value = expr.String(name)
	if folded := strings.ToUpper(name); m.keys[folded] {
		m.failf(key.Pos, "'%s' is already defined", name)
		m.skip([]*yamlNode{rawValue})
		return
	} else {
		m.keys[folded] = true
	}
	value := m.match(key)
	if value == nil {
		m.failf(key.Pos, "Unexpected value '%s'", name)
		m.skip([]*yamlNode{rawValue})
		return
	}
	m.out.pairs = append(m.out.pairs, NodePair{key, m.read(rawValue, value, m.scope.with(value))})
}

// match finds what the value of a key must be, nil where the key is not allowed.
func (m *mappingReader) match(key *Node) *definition {
	value, narrowed := narrow(m.candidates, key.value.Text())
	if value != nil {
		m.candidates = narrowed
		return value
	}
	first := m.candidates[0]
	if first.looseKey == nil {
		return nil
	}
	m.validate(key, first.looseKey)
	return first.looseValue
}

// narrow finds a well-known key in the definitions and gives those that have it.
func narrow(candidates []*definition, key string) (value *definition, narrowed []*definition) {
	for _, c := range candidates {
		if p := c.property(key); p != nil {
			if value == nil {
				value = p.value
			}
			narrowed = append(narrowed, c)
		}
	}
	return value, narrowed
}

func (m *mappingReader) expressionPair(key *Node, rawValue *yamlNode) {
	m.expressionKey = true
	if m.scope.empty() {
		m.fail(key.Pos, sayNoExpression)
		m.skip([]*yamlNode{rawValue})
		return
	}
	value := anything()
	if len(m.candidates) == 1 && len(m.candidates[0].properties) == 0 && m.candidates[0].looseKey != nil {
		value = m.candidates[0].looseValue
	}
	m.out.pairs = append(m.out.pairs, NodePair{key, m.read(rawValue, value, m.scope.with(value))})
}

// finish checks a mapping as a whole.
func (m *mappingReader) finish(pos Pos) {
	m.out.def = m.candidates[0]
	if len(m.candidates) > 1 {
		m.failf(pos, "There's not enough info to determine what you meant. Add one of these properties: %s", strings.Join(distinctive(m.candidates), ", "))
		return
	}
	if m.expressionKey {
		return
	}
	for _, p := range m.candidates[0].properties {
		if p.required && !m.keys[strings.ToUpper(p.name)] {
			m.failf(pos, "Required property is missing: %s", p.name)
		}
	}
}

// distinctive are the keys that only one of the definitions has, sorted.
func distinctive(candidates []*definition) []string {
	hits := map[string]int{}
	for _, c := range candidates {
		for _, p := range c.properties {
			hits[p.name]++
		}
	}
	var names []string
	for name, n := range hits {
		if n == 1 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkSpelling warns of an unquoted number that the file will not see as it is written: 3.10 is 3.1.
func (r *reader) checkSpelling(n *yamlNode, out *Node, d *definition) {
	if !n.plain || n.tag != "" || d.takesOnlyNumbers() || n.value == "" || !strings.ContainsRune("+-.0123456789", rune(n.value[0])) {
		return
	}
	v, err := n.literal()
	if err != nil || v.Kind() != expr.KindNumber || v.Text() == n.value {
		return
	}
	r.warn(n.Pos, fmt.Sprintf("%s without quotes is the number %s; write '%s' to keep it as it is", n.value, v.Text(), n.value))
}

// sorted are the mistakes in the order of the file.
func (f *findings) sorted() Errors {
	slices.SortStableFunc(f.errors, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return f.errors
}
