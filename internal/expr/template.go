package expr

import (
	"strconv"
	"strings"
	"unicode"
)

// Template is a scalar of a workflow file that may hold ${{ }}. It is immutable and safe for concurrent use.
type Template struct {
	source  string
	literal string
	expr    *Expr // nil for a literal
}

const (
	openBraces  = "${{"
	closeBraces = "}}"
)

// segment is a stretch of a template: text, or the expression within ${{ }}.
type segment struct {
	text  string
	start int   // of an expression: where it begins in the template
	expr  *Expr // nil for text
}

// ParseTemplate reads a scalar by the rules of GitHub's template reader: an expression ends at the first }} outside
// single quotes; a scalar that is one expression keeps its type; text around or several expressions are joined by
// format(), whose limits (21000 characters, 254 expressions) hold for the whole. A scalar that is only a string
// literal in ${{ }} is a literal. Faults are of type *Error, the first from the left.
func ParseTemplate(s string, names Names) (*Template, error) {
	if !strings.Contains(s, openBraces) {
		return &Template{source: s, literal: s}, nil
	}
	segments, err := splitTemplate(s, names)
	if err != nil {
		return nil, err
	}
	if len(segments) > 1 {
		return joinSegments(s, segments, names)
	}
	e := segments[0].expr
	if e.root.op == opLiteral && e.root.value.code == codeString {
		return &Template{source: s, literal: e.root.value.text}, nil
	}
	return &Template{source: s, expr: e}, nil
}

// splitTemplate cuts a scalar at its ${{ and }} and parses what is between.
func splitTemplate(s string, names Names) ([]segment, error) {
	var segments []segment
	for rest := 0; rest < len(s); {
		open := strings.Index(s[rest:], openBraces)
		if open < 0 {
			return append(segments, segment{text: s[rest:]}), nil
		}
		if open > 0 {
			segments = append(segments, segment{text: s[rest : rest+open]})
		}
		start := rest + open + len(openBraces)
		length := expressionLength(s[start:])
		if length < 0 {
			return nil, &Error{Message: faultNotClosed, Source: s, Offset: rest + open}
		}
		rest = start + length + len(closeBraces)
		raw := s[start : start+length]
		text := strings.TrimLeftFunc(raw, unicode.IsSpace)
		seg := segment{text: strings.TrimRightFunc(text, unicode.IsSpace), start: start + len(raw) - len(text)}
		if err := seg.parse(names, start == len(openBraces) && rest == len(s)); err != nil {
			return nil, err
		}
		segments = append(segments, seg)
	}
	return segments, nil
}

// expressionLength is how long an expression is up to the }} outside quotes, -1 if there is none.
func expressionLength(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'':
			quoted = !quoted
		case !quoted && strings.HasPrefix(s[i:], closeBraces):
			return i
		}
	}
	return -1
}

// parse reads a segment's expression; whole says that nothing stands around it.
func (seg *segment) parse(names Names, whole bool) error {
	if err := seg.checkDirective(whole); err != nil {
		return err
	}
	e, err := Parse(seg.text, names)
	if fault, ok := err.(*Error); ok {
		fault.Start = seg.start
	}
	seg.expr = e
	return err
}

// checkDirective refuses ${{ insert }}, which only a mapping's key may be.
func (seg *segment) checkDirective(whole bool) error {
	const directive = "insert"
	after, ok := strings.CutPrefix(seg.text, directive)
	if !ok || after != "" && skipBlanks(after, 0) == 0 {
		return nil
	}
	message := faultDirective
	if after != "" {
		message = "Exactly 0 parameter(s) were expected following the directive 'insert'. Actual parameter count: " + strconv.Itoa(countParameters(after))
	} else if whole {
		message = "Unexpected value '${{ insert }}'"
	}
	return &Error{Message: message, Source: seg.text, Start: seg.start}
}

// countParameters counts words apart by blanks outside quotes and parentheses.
func countParameters(s string) int {
	count, depth, quoted, inWord := 0, 0, false, false
	for _, r := range s {
		if unicode.IsSpace(r) && !quoted && depth == 0 {
			inWord = false
			continue
		}
		switch {
		case r == '\'':
			quoted = !quoted
		case r == '(' && !quoted:
			depth++
		case r == ')' && !quoted:
			depth--
		}
		if !inWord {
			count++
		}
		inWord = true
	}
	return count
}

// joinSegments makes the template of segments that are right in themselves.
func joinSegments(s string, segments []segment, names Names) (*Template, error) {
	var format, args strings.Builder
	escape := strings.NewReplacer("'", "''", "{", "{{", "}", "}}")
	count := 0
	for _, seg := range segments {
		if seg.expr == nil {
			_, _ = escape.WriteString(&format, seg.text) // a strings.Builder does not fail
			continue
		}
		format.WriteString("{" + strconv.Itoa(count) + "}")
		args.WriteString(", " + seg.text)
		count++
	}
	e, err := Parse("format('"+format.String()+"'"+args.String()+")", names)
	if err != nil {
		return nil, err
	}
	return &Template{source: s, expr: e}, nil
}

// Eval gives a template's value: a literal as a string, a lone expression with its own kind, anything else a string.
func (t *Template) Eval(env Env) (Value, error) {
	if t.expr == nil {
		return String(t.literal), nil
	}
	return t.expr.Eval(env)
}

// Expr is the expression that the template evaluates, format() round several; nil for a literal.
func (t *Template) Expr() *Expr { return t.expr }

// IsLiteral reports whether the template holds no expression that must be evaluated.
func (t *Template) IsLiteral() bool { return t.expr == nil }

// Literal is the text of a literal template, "" for others.
func (t *Template) Literal() string { return t.literal }

// Source is the scalar as it was given to ParseTemplate.
func (t *Template) Source() string { return t.source }

// Calls is Expr.Calls over all expressions of the template.
func (t *Template) Calls(functions ...string) bool {
	return t.expr != nil && t.expr.Calls(functions...)
}

// Uses is Expr.Uses over all expressions of the template.
func (t *Template) Uses() []string {
	if t.expr == nil {
		return nil
	}
	return t.expr.Uses()
}
