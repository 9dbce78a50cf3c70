package expr

import "math"

// index evaluates a.b, a[b] and a.*. Whatever has no such part gives null; what a "*" gave is an array that hands
// every further index on to its items and drops those without an answer.
func (ev *evaluation) index(n *node, level int) (result, error) {
	left, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return result{}, err
	}
	star := n.args[1].op == opWildcard
	if left.primitive() {
		if star {
			return result{value: filtered(nil)}, nil
		}
		return result{}, nil
	}
	at, err := ev.eval(n.args[1], level+1)
	if err != nil {
		return result{}, err
	}
	switch {
	case left.group.filtered:
		return filterEach(left.group.items, at, star)
	case star:
		return filterAll(left)
	default:
		v, _ := pick(left, at)
		return passed(v), nil
	}
}

func filtered(items []Value) Value {
	return Value{code: codeArray, group: &group{items: items, filtered: true}}
}

// pick is the part of a collection that an index names.
func pick(v, at Value) (Value, bool) {
	if v.code == codeObject {
		if !at.primitive() {
			return Value{}, false
		}
		return v.Lookup(at.Text())
	}
	i, ok := arrayIndex(at.Number())
	if !ok || i >= len(v.group.items) {
		return Value{}, false
	}
	return v.group.items[i], true
}

// arrayIndex floors an index; NaN, negative and too large ones are none.
func arrayIndex(f float64) (int, bool) {
	if !(f >= 0) {
		return 0, false
	}
	f = math.Floor(f)
	if f > math.MaxInt32 {
		return 0, false
	}
	return int(f), true
}

// filterAll gives all values of an array or an object.
func filterAll(v Value) (result, error) {
	size := counter{}
	if err := size.add(objectSize + pointerSize*v.Len()); err != nil {
		return result{}, err
	}
	return result{value: filtered(values(v)), bytes: size.bytes}, nil
}

func values(v Value) []Value {
	if v.code == codeArray {
		return v.group.items
	}
	items := make([]Value, len(v.group.pairs))
	for i, p := range v.group.pairs {
		items[i] = p.Value
	}
	return items
}

func filterEach(from []Value, at Value, star bool) (result, error) {
	var items []Value
	var size counter
	for _, item := range from {
		if item.primitive() {
			continue
		}
		before := len(items)
		if star {
			items = append(items, values(item)...)
		} else if v, ok := pick(item, at); ok {
			items = append(items, v)
		}
		if err := size.add(pointerSize * (len(items) - before)); err != nil {
			return result{}, err
		}
	}
	return result{value: filtered(items), bytes: size.bytes}, nil
}
