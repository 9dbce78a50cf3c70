package expr

import "strings"

// GitHub's limits (actions/runner ExpressionConstants): a source of at most 21000 UTF-16 units, a tree of at most
// 50 levels.
const (
	maxLength = 21000
	maxDepth  = 50
)

type op uint8

const (
	opLiteral op = iota
	opContext
	opWildcard
	opIndex
	opCall
	opNot
	opNotEqual
	opGreater
	opGreaterEqual
	opLess
	opLessEqual
	opEqual
	opAnd
	opOr
)

// node is a part of a parsed expression. It does not change once the tree is built.
type node struct {
	op      op
	value   Value    // opLiteral
	name    string   // of a context, a function or an operator, as written
	key     string   // opContext, opCall: in lower case
	builtin *builtin // opCall; nil for a function of the caller's
	format  *layout  // opCall of format whose first argument is a literal
	args    []*node
}

type operator struct {
	op         op
	precedence int
	operands   int
}

var operators = map[string]operator{
	"!":  {opNot, 16, 1},
	">":  {opGreater, 11, 2},
	">=": {opGreaterEqual, 11, 2},
	"<":  {opLess, 11, 2},
	"<=": {opLessEqual, 11, 2},
	"==": {opEqual, 10, 2},
	"!=": {opNotEqual, 10, 2},
	"&&": {opAnd, 6, 2},
	"||": {opOr, 5, 2},
}

// precedence of an operator token; closing ones bind least.
func (t token) precedence() int {
	switch t.kind {
	case tokenStartIndex, tokenStartParameters, tokenDereference:
		return 19
	case tokenOperator:
		return operators[t.raw].precedence
	default:
		return 1
	}
}

// isOperator reports whether the token goes to the stack of operators, not of operands.
func (t token) isOperator() bool {
	return t.kind >= tokenStartGroup && t.kind <= tokenDereference || t.kind == tokenOperator
}

// parser builds a tree as GitHub's does: two stacks, one of operands and one of operators waiting for theirs.
type parser struct {
	lexer     lexer
	names     Names
	operands  []*node
	operators []token
	last      token
}

// parse is the tree of a source that is not blank.
func parse(src string, names Names) (*node, error) {
	if utf16Len(src) > maxLength {
		return nil, &Error{Message: faultLength, Source: src}
	}
	p := parser{lexer: lexer{src: src}, names: names}
	for {
		t, ok := p.lexer.next()
		if !ok {
			break
		}
		if err := p.push(t); err != nil {
			return nil, err
		}
		p.last = t
	}
	if p.last.kind == tokenNone {
		return nil, &Error{Message: faultEmpty, Source: src}
	}
	if p.unfinished() {
		return nil, p.fail(faultEnd, p.last)
	}
	for len(p.operators) > 0 {
		p.reduce()
	}
	root := p.operands[0]
	if root.deeperThan(maxDepth) {
		return nil, &Error{Message: faultDepth, Source: src}
	}
	return root, nil
}

func (p *parser) fail(fault string, t token) error { return newError(p.lexer.src, fault, t) }

func (p *parser) push(t token) error {
	switch {
	case t.kind == tokenUnexpected:
		return p.fail(faultSymbol, t)
	case t.isOperator():
		return p.pushOperator(t)
	default:
		return p.pushOperand(t)
	}
}

func (p *parser) pushOperand(t token) error {
	n := &node{value: t.value}
	switch t.kind {
	case tokenProperty:
		n.value = String(t.raw)
	case tokenWildcard:
		n.op, n.value = opWildcard, String("*")
	case tokenContext:
		n.op, n.name, n.key = opContext, t.raw, strings.ToLower(t.raw)
		if !p.names.hasContext(n.key) {
			return p.fail(faultContext, t)
		}
	case tokenFunction:
		n.op, n.name, n.key = opCall, t.raw, strings.ToLower(t.raw)
		n.builtin = builtins[n.key]
		if _, ok := p.names.function(n.key); !ok {
			return p.fail(faultFunction, t)
		}
	}
	p.operands = append(p.operands, n)
	return nil
}

func (p *parser) pushOperator(t token) error {
	if t.kind != tokenStartGroup && t.raw != "!" {
		p.reduceFor(t)
	}
	switch t.kind {
	case tokenEndGroup:
		p.popOperator()
	case tokenEndIndex:
		p.apply(p.popOperator())
	case tokenEndParameters:
		return p.endCall()
	default:
		p.operators = append(p.operators, t)
	}
	return nil
}

// reduceFor applies the waiting operators that bind at least as tightly as t.
func (p *parser) reduceFor(t token) {
	for len(p.operators) > 0 {
		switch top := p.operators[len(p.operators)-1]; top.kind {
		case tokenStartGroup, tokenStartIndex, tokenStartParameters, tokenSeparator:
			return
		default:
			if t.precedence() > top.precedence() {
				return
			}
			p.reduce()
		}
	}
}

func (p *parser) reduce() { p.apply(p.popOperator()) }

func (p *parser) popOperator() token {
	t := p.operators[len(p.operators)-1]
	p.operators = p.operators[:len(p.operators)-1]
	return t
}

func (p *parser) popOperands(count int) []*node {
	rest := len(p.operands) - count
	taken := append([]*node(nil), p.operands[rest:]...)
	p.operands = p.operands[:rest]
	return taken
}

// apply replaces an operator's operands by its node. Nested && and || become one, which matters to the depth.
func (p *parser) apply(t token) {
	if t.kind == tokenStartIndex || t.kind == tokenDereference {
		p.operands = append(p.operands, &node{op: opIndex, args: p.popOperands(2)})
		return
	}
	o := operators[t.raw]
	n := &node{op: o.op, name: t.raw}
	for _, arg := range p.popOperands(o.operands) {
		if (o.op == opAnd || o.op == opOr) && arg.op == o.op {
			n.args = append(n.args, arg.args...)
			continue
		}
		n.args = append(n.args, arg)
	}
	p.operands = append(p.operands, n)
}

// endCall gives a function the arguments since its "(" and checks how many they are.
func (p *parser) endCall() error {
	count := 0
	if p.last.kind != tokenStartParameters {
		count = 1
	}
	start := p.popOperator()
	for ; start.kind == tokenSeparator; start = p.popOperator() {
		count++
	}
	args := p.popOperands(count)
	call := p.operands[len(p.operands)-1]
	call.args = args
	signature, _ := p.names.function(call.key)
	switch {
	case count < signature.Min:
		return p.fail(faultTooFew, start)
	case count > signature.Max:
		return p.fail(faultTooMany, start)
	case call.key == "case" && count%2 == 0:
		return p.fail(faultEven, start)
	}
	if call.key == "format" && args[0].op == opLiteral {
		call.format = newLayout(args[0].value.Text(), count-1)
	}
	return nil
}

// unfinished reports whether the source ends where more must follow.
func (p *parser) unfinished() bool {
	if len(p.lexer.open) > 0 {
		return true
	}
	switch p.last.kind {
	case tokenEndGroup, tokenEndIndex, tokenEndParameters:
		return false
	default:
		return p.last.isOperator()
	}
}

// deeperThan reports whether the tree has more than limit levels.
func (n *node) deeperThan(limit int) bool {
	if limit == 0 {
		return true
	}
	for _, arg := range n.args {
		if arg.deeperThan(limit - 1) {
			return true
		}
	}
	return false
}

// walk visits the node and everything below it.
func (n *node) walk(visit func(*node)) {
	visit(n)
	for _, arg := range n.args {
		arg.walk(visit)
	}
}

func (n Names) hasContext(key string) bool {
	if n.Contexts == nil {
		return true
	}
	for _, c := range n.Contexts {
		if strings.EqualFold(c, key) {
			return true
		}
	}
	return false
}

func (n Names) function(key string) (Signature, bool) {
	if b, ok := builtins[key]; ok {
		return b.signature, true
	}
	for _, s := range n.Functions {
		if strings.EqualFold(s.Name, key) {
			return s, true
		}
	}
	return Signature{}, false
}

func (n *node) String() string {
	var b strings.Builder
	n.write(&b)
	return b.String()
}

// write appends the expression in GitHub's own notation, every operator in parentheses.
func (n *node) write(b *strings.Builder) {
	switch n.op {
	case opLiteral, opWildcard:
		writeLiteral(b, n)
	case opContext:
		b.WriteString(n.name)
	case opIndex:
		n.writeIndex(b)
	case opCall:
		b.WriteString(n.name)
		n.writeArgs(b, ", ")
	case opNot:
		b.WriteByte('!')
		n.args[0].write(b)
	default:
		n.writeArgs(b, " "+n.name+" ")
	}
}

func (n *node) writeArgs(b *strings.Builder, separator string) {
	b.WriteByte('(')
	for i, arg := range n.args {
		if i > 0 {
			b.WriteString(separator)
		}
		arg.write(b)
	}
	b.WriteByte(')')
}

func (n *node) writeIndex(b *strings.Builder) {
	base, index := n.args[0], n.args[1]
	if base.op == opLiteral || base.op == opNot {
		b.WriteByte('(')
		base.write(b)
		b.WriteByte(')')
	} else {
		base.write(b)
	}
	switch {
	case index.op == opWildcard:
		b.WriteString(".*")
	case index.op == opLiteral && index.value.code == codeString && isKeyword(index.value.text):
		b.WriteByte('.')
		b.WriteString(index.value.text)
	default:
		b.WriteByte('[')
		index.write(b)
		b.WriteByte(']')
	}
}

func writeLiteral(b *strings.Builder, n *node) {
	switch {
	case n.op == opWildcard:
		b.WriteByte('*')
	case n.value.code == codeNull:
		b.WriteString("null")
	case n.value.code == codeString:
		b.WriteByte('\'')
		b.WriteString(strings.ReplaceAll(n.value.text, "'", "''"))
		b.WriteByte('\'')
	default:
		b.WriteString(n.value.Text())
	}
}
