package expr

import (
	"errors"
	"fmt"
)

// maxMemory is how many bytes one evaluation may hold by GitHub's count (10 MiB): strings as 26 bytes and two for
// each UTF-16 unit, other values as 24.
const maxMemory = 10 * 1024 * 1024

const (
	stringOverhead = 26
	objectSize     = 24
	pointerSize    = 8
)

// errMemory is what a counter gives when it is full; the evaluation turns it into GitHub's message, which names
// the expression.
var errMemory = errors.New("memory")

func memoryError(n *node) error {
	return fmt.Errorf("The maximum allowed memory size was exceeded while evaluating the following expression: %s", n)
}

// counter adds up the memory of one result.
type counter struct{ bytes int }

func (c *counter) add(n int) error {
	c.bytes += n
	if c.bytes > maxMemory {
		return errMemory
	}
	return nil
}

func (c *counter) addString(s string) error { return c.add(stringSize(s)) }

func stringSize(s string) int { return stringOverhead + 2*utf16Len(s) }

func valueSize(v Value) int {
	if v.code == codeString {
		return stringSize(v.text)
	}
	return objectSize
}

// evaluation is one run over a tree. It counts memory as GitHub does: per level of the tree, and what lies deeper
// is given back once a level has its own primitive result.
type evaluation struct {
	env    Env
	root   *node
	levels [maxDepth]int
	top    int // the deepest level that holds something
	total  int
}

// result is a value and how GitHub holds it.
type result struct {
	value Value
	// wrapped is set on primitive values taken out of a context as they are: GitHub counts the wrapper too.
	wrapped bool
	// bytes is the size of a new collection, 0 where the usual one holds.
	bytes int
}

func (ev *evaluation) eval(n *node, level int) (Value, error) {
	r, err := ev.compute(n, level)
	if err != nil {
		if errors.Is(err, errMemory) {
			err = memoryError(n)
		}
		return Value{}, err
	}
	if !ev.account(r, level) {
		return Value{}, memoryError(ev.root)
	}
	return r.value, nil
}

func (ev *evaluation) account(r result, level int) bool {
	size := r.bytes
	if size == 0 {
		size = valueSize(r.value)
	}
	if r.wrapped {
		size += objectSize
	} else if r.value.primitive() {
		for ; ev.top > level; ev.top-- {
			ev.total -= ev.levels[ev.top]
			ev.levels[ev.top] = 0
		}
	}
	ev.top = max(ev.top, level)
	ev.levels[level] += size
	ev.total += size
	return ev.total <= maxMemory
}

func (ev *evaluation) compute(n *node, level int) (result, error) {
	switch n.op {
	case opLiteral, opWildcard:
		return result{value: n.value}, nil
	case opContext:
		return passed(ev.env.Contexts[n.key]), nil
	case opIndex:
		return ev.index(n, level)
	case opCall:
		v, err := ev.call(n, level)
		return result{value: v}, err
	case opNot:
		v, err := ev.eval(n.args[0], level+1)
		return result{value: Bool(!v.Truthy())}, err
	case opAnd, opOr:
		v, err := ev.shortCircuit(n, level)
		return result{value: v}, err
	default:
		v, err := ev.compare(n, level)
		return result{value: v}, err
	}
}

// passed is a value that is handed on from a context.
func passed(v Value) result {
	return result{value: v, wrapped: v.code != codeNull && v.primitive()}
}

// shortCircuit gives the operand that decides: the first falsy one of &&, the first truthy one of ||, or the last.
func (ev *evaluation) shortCircuit(n *node, level int) (Value, error) {
	var v Value
	for _, arg := range n.args {
		var err error
		v, err = ev.eval(arg, level+1)
		if err != nil {
			return Value{}, err
		}
		if v.Truthy() == (n.op == opOr) {
			return v, nil
		}
	}
	return v, nil
}

func (ev *evaluation) compare(n *node, level int) (Value, error) {
	a, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return Value{}, err
	}
	b, err := ev.eval(n.args[1], level+1)
	if err != nil {
		return Value{}, err
	}
	switch n.op {
	case opEqual:
		return Bool(Equal(a, b)), nil
	case opNotEqual:
		return Bool(!Equal(a, b)), nil
	case opGreater:
		return Bool(greater(a, b)), nil
	case opGreaterEqual:
		return Bool(Equal(a, b) || greater(a, b)), nil
	case opLess:
		return Bool(greater(b, a)), nil
	default:
		return Bool(Equal(a, b) || greater(b, a)), nil
	}
}

func (ev *evaluation) call(n *node, level int) (Value, error) {
	if n.builtin != nil {
		return n.builtin.body(ev, n, level)
	}
	args := make([]Value, len(n.args))
	for i, arg := range n.args {
		v, err := ev.eval(arg, level+1)
		if err != nil {
			return Value{}, err
		}
		args[i] = v
	}
	f := ev.env.Functions[n.key]
	if f == nil {
		return Value{}, fmt.Errorf("%s: '%s'", faultFunction, n.name)
	}
	return f(args)
}
