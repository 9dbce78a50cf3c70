package workflow

import (
	"slices"

	"github.com/penstock-ci/penstock/internal/expr"
)

// Node is a value in a file that may hold expressions: a scalar, a sequence or a mapping. It is immutable. All methods
// work on a nil *Node, which is what the file does not say: null.
type Node struct {
	Pos
	kind     nodeKind
	value    expr.Value     // of a literal scalar, as its key takes it
	template *expr.Template // of an expression
	source   string         // of a scalar, as written
	items    []*Node
	pairs    []NodePair
	def      *definition // what GitHub's schema allows here; nil for anything
}

// NodePair is a key of a mapping with its value.
type NodePair struct{ Key, Value *Node }

type nodeKind uint8

const (
	nodeLiteral nodeKind = iota
	nodeExpression
	nodeInsert // the key ${{ insert }}
	nodeSequence
	nodeMapping
)

// Kind is "null", "boolean", "number", "string", "sequence", "mapping" or "expression", which is a scalar with ${{ }}.
func (n *Node) Kind() string {
	if n == nil {
		return string(expr.KindNull)
	}
	switch n.kind {
	case nodeSequence:
		return "sequence"
	case nodeMapping:
		return "mapping"
	case nodeExpression, nodeInsert:
		return "expression"
	default:
		return string(n.value.Kind())
	}
}

// IsLiteral reports whether there is no expression anywhere in the node.
func (n *Node) IsLiteral() bool {
	return !n.any(func(m *Node) bool { return m.kind == nodeExpression || m.kind == nodeInsert })
}

// Literal is the value of a literal node; expressions within count as null.
func (n *Node) Literal() expr.Value {
	if n == nil {
		return expr.Null()
	}
	switch n.kind {
	case nodeSequence:
		items := make([]expr.Value, len(n.items))
		for i, item := range n.items {
			items[i] = item.Literal()
		}
		return expr.Array(items...)
	case nodeMapping:
		pairs := make([]expr.Pair, 0, len(n.pairs))
		for _, p := range n.pairs {
			if p.Key.kind == nodeLiteral {
				pairs = append(pairs, expr.Pair{Key: p.Key.value.Text(), Value: p.Value.Literal()})
			}
		}
		return expr.Object(pairs...)
	default:
		return n.value
	}
}

// Pairs are the pairs of a mapping, nil for the rest. Callers must not write to them.
func (n *Node) Pairs() []NodePair {
	if n == nil {
		return nil
	}
	return n.pairs
}

// Items are the items of a sequence, nil for the rest. Callers must not write to them.
func (n *Node) Items() []*Node {
	if n == nil {
		return nil
	}
	return n.items
}

// Get is the value of a mapping's key as the file writes it, nil if there is none.
func (n *Node) Get(key string) *Node {
	for _, p := range n.Pairs() {
		if p.Key.kind == nodeLiteral && p.Key.value.Text() == key {
			return p.Value
		}
	}
	return nil
}

// Source is a scalar as the file gives it, ${{ }} and all; empty for collections.
func (n *Node) Source() string {
	if n == nil {
		return ""
	}
	return n.source
}

// Calls reports whether an expression anywhere in the node calls one of the functions.
func (n *Node) Calls(functions ...string) bool {
	return n.any(func(m *Node) bool { return m.template != nil && m.template.Calls(functions...) })
}

// Uses are the contexts that expressions in the node name, in lower case, each once, in order.
func (n *Node) Uses() []string {
	var names []string
	n.any(func(m *Node) bool {
		if m.template != nil {
			for _, name := range m.template.Uses() {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		return false
	})
	return names
}

// any reports whether found holds for the node or one within, keys and all, in file order.
func (n *Node) any(found func(*Node) bool) bool {
	if n == nil {
		return false
	}
	if found(n) {
		return true
	}
	for _, item := range n.items {
		if item.any(found) {
			return true
		}
	}
	for _, p := range n.pairs {
		if p.Key.any(found) || p.Value.any(found) {
			return true
		}
	}
	return false
}
