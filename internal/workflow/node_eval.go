package workflow

import (
	"fmt"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// EvalError says why a node has no value.
type EvalError struct {
	Pos
	Message string // in GitHub's words
}

func (e *EvalError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("(Line: %d, Col: %d): %s", e.Line, e.Column, e.Message)
}

// Eval gives the value of the whole node. Expressions become values of the type that the key wants: where a string is
// wanted the number 3.1 is "3.1". In a sequence an expression that gives an array stands for its items; the key
// ${{ insert }} stands for the pairs of its value. The error is an *EvalError. The value of a nil *Node is null.
func (n *Node) Eval(env expr.Env) (expr.Value, error) {
	if n == nil {
		return expr.Null(), nil
	}
	e := evaluator{env: env}
	return e.node(n, n.def)
}

// evaluator is one run of Eval. It counts memory as the reader does, so that aliases cannot multiply large values.
type evaluator struct {
	env   expr.Env
	bytes int
}

func (e *evaluator) node(n *Node, d *definition) (expr.Value, error) {
	switch n.kind {
	case nodeSequence:
		return e.sequence(n)
	case nodeMapping:
		return e.mapping(n)
	case nodeExpression:
		v, err := e.expression(n)
		if err != nil {
			return expr.Null(), err
		}
		return e.conform(v, d, n.Pos)
	default:
		return n.value, e.count(n.value, n.Pos)
	}
}

func (e *evaluator) expression(n *Node) (expr.Value, error) {
	v, err := n.template.Eval(e.env)
	if err != nil {
		return expr.Null(), &EvalError{Pos: n.Pos, Message: err.Error()}
	}
	return v, nil
}

func (e *evaluator) count(v expr.Value, pos Pos) error {
	e.bytes += objectSize
	if v.Kind() == expr.KindString {
		e.bytes += stringOverhead + 2*len(v.Text())
	}
	if e.bytes > maxMemory {
		return &EvalError{Pos: pos, Message: saySize}
	}
	return nil
}

func (e *evaluator) sequence(n *Node) (expr.Value, error) {
	items := make([]expr.Value, 0, len(n.items))
	for _, item := range n.items {
		if item.kind != nodeExpression {
			v, err := e.node(item, item.def)
			if err != nil {
				return expr.Null(), err
			}
			items = append(items, v)
			continue
		}
		v, err := e.expression(item)
		if err != nil {
			return expr.Null(), err
		}
		several := []expr.Value{v}
		if v.Kind() == expr.KindArray {
			several = v.Items()
		}
		for _, one := range several {
			if one, err = e.conform(one, item.def, item.Pos); err != nil {
				return expr.Null(), err
			}
			items = append(items, one)
		}
	}
	return expr.Array(items...), e.count(expr.Null(), n.Pos)
}

func (e *evaluator) mapping(n *Node) (expr.Value, error) {
	o := objectBuilder{evaluator: e, pos: n.Pos, seen: map[string]bool{}}
	if n.def != nil {
		o.candidates = n.def.mappings
	}
	dynamic := false
	for _, p := range n.pairs {
		if p.Key.kind != nodeLiteral {
			dynamic = true
		}
		if err := o.pair(p); err != nil {
			return expr.Null(), err
		}
	}
	if dynamic {
		if err := o.finish(); err != nil {
			return expr.Null(), err
		}
	}
	return expr.Object(o.pairs...), e.count(expr.Null(), n.Pos)
}

// conform makes a value that came from an expression what the definition wants.
func (e *evaluator) conform(v expr.Value, d *definition, pos Pos) (expr.Value, error) {
	if d == nil {
		return v, e.count(v, pos)
	}
	switch v.Kind() {
	case expr.KindArray:
		if d.sequence == nil {
			return expr.Null(), &EvalError{Pos: pos, Message: sayUnexpectedSequence}
		}
		items := make([]expr.Value, 0, v.Len())
		for _, item := range v.Items() {
			item, err := e.conform(item, d.sequence.item, pos)
			if err != nil {
				return expr.Null(), err
			}
			items = append(items, item)
		}
		return expr.Array(items...), e.count(expr.Null(), pos)
	case expr.KindObject:
		if len(d.mappings) == 0 {
			return expr.Null(), &EvalError{Pos: pos, Message: sayUnexpectedMapping}
		}
		o := objectBuilder{evaluator: e, pos: pos, seen: map[string]bool{}, candidates: d.mappings}
		for _, p := range v.Pairs() {
			if err := o.add(p.Key, p.Value, pos); err != nil {
				return expr.Null(), err
			}
		}
		if err := o.finish(); err != nil {
			return expr.Null(), err
		}
		return expr.Object(o.pairs...), e.count(expr.Null(), pos)
	default:
		got, ok := d.accept(v)
		if !ok {
			return expr.Null(), &EvalError{Pos: pos, Message: fmt.Sprintf("Unexpected value '%s'", v.Text())}
		}
		return got, e.count(got, pos)
	}
}

// objectBuilder collects the pairs of one mapping.
type objectBuilder struct {
	*evaluator
	pos        Pos
	pairs      []expr.Pair
	seen       map[string]bool
	candidates []*definition // what the mapping may be; none for anything
}

// pair adds a pair of a node.
func (o *objectBuilder) pair(p NodePair) error {
	switch p.Key.kind {
	case nodeLiteral:
		key := p.Key.value.Text()
		if _, narrowed := narrow(o.candidates, key); len(narrowed) > 0 {
			o.candidates = narrowed
		}
		v, err := o.node(p.Value, p.Value.def)
		if err != nil {
			return err
		}
		return o.keep(key, v, p.Key.Pos)
	case nodeInsert:
		v, err := o.node(p.Value, nil)
		if err != nil {
			return err
		}
		if v.Kind() != expr.KindObject {
			return &EvalError{Pos: p.Value.Pos, Message: "Expected a mapping"}
		}
		for _, inner := range v.Pairs() {
			if err := o.add(inner.Key, inner.Value, p.Value.Pos); err != nil {
				return err
			}
		}
		return nil
	default:
		key, err := o.expression(p.Key)
		if err != nil {
			return err
		}
		if key.Kind() == expr.KindArray || key.Kind() == expr.KindObject {
			return &EvalError{Pos: p.Key.Pos, Message: "Expected a scalar value"}
		}
		v, err := o.node(p.Value, nil)
		if err != nil {
			return err
		}
		return o.add(key.Text(), v, p.Key.Pos)
	}
}

// add takes a pair whose key or value came from an expression.
func (o *objectBuilder) add(key string, v expr.Value, pos Pos) error {
	value, narrowed := narrow(o.candidates, key)
	switch {
	case len(o.candidates) == 0:
	case value != nil:
		o.candidates = narrowed
	case o.candidates[0].looseKey != nil:
		if _, ok := o.candidates[0].looseKey.accept(expr.String(key)); !ok {
			return &EvalError{Pos: pos, Message: fmt.Sprintf("Unexpected value '%s'", key)}
		}
		value = o.candidates[0].looseValue
	default:
		return &EvalError{Pos: pos, Message: fmt.Sprintf("Unexpected value '%s'", key)}
	}
	v, err := o.conform(v, value, pos)
	if err != nil {
		return err
	}
	return o.keep(key, v, pos)
}

func (o *objectBuilder) keep(key string, v expr.Value, pos Pos) error {
	folded := strings.ToUpper(key)
	if o.seen[folded] {
		return &EvalError{Pos: pos, Message: fmt.Sprintf("'%s' is already defined", key)}
	}
	o.seen[folded] = true
	o.pairs = append(o.pairs, expr.Pair{Key: key, Value: v})
	return o.count(expr.String(key), pos)
}

// finish checks that a mapping of well-known keys is whole.
func (o *objectBuilder) finish() error {
	if len(o.candidates) > 1 {
		return &EvalError{Pos: o.pos, Message: "There's not enough info to determine what you meant. Add one of these properties: " + strings.Join(distinctive(o.candidates), ", ")}
	}
	for _, c := range o.candidates {
		for _, p := range c.properties {
			if p.required && !o.seen[strings.ToUpper(p.name)] {
				return &EvalError{Pos: o.pos, Message: "Required property is missing: " + p.name}
			}
		}
	}
	return nil
}
