package expr

import (
	"maps"
	"slices"
	"sync/atomic"
)

// Kind is the type of a value, in GitHub's words without case.
type Kind string

// The six kinds there are. Null, booleans, numbers and strings are primitive.
const (
	KindNull    Kind = "null"
	KindBoolean Kind = "boolean"
	KindNumber  Kind = "number"
	KindString  Kind = "string"
	KindArray   Kind = "array"
	KindObject  Kind = "object"
)

// code is Kind in a byte, for the evaluator's switches.
type code uint8

const (
	codeNull code = iota
	codeBoolean
	codeNumber
	codeString
	codeArray
	codeObject
)

var kindOfCode = [...]Kind{KindNull, KindBoolean, KindNumber, KindString, KindArray, KindObject}

// titleOfCode is how a kind reads inside GitHub's messages, and what a collection becomes as a string.
var titleOfCode = [...]string{"Null", "Boolean", "Number", "String", "Array", "Object"}

// Value is what an expression is made of and yields. It is immutable and may be shared between goroutines;
// the zero Value is null. Arrays and objects have an identity, which is all that == compares of them.
type Value struct {
	code   code
	number float64 // of a number; 1 for true
	text   string  // of a string
	group  *group  // of an array or an object
}

// group is the body of an array or an object.
type group struct {
	items    []Value
	pairs    []Pair
	index    atomic.Pointer[map[string]int] // folded key -> place in pairs, built at need
	filtered bool                           // the array came from "*": a further index applies to each item
}

// Pair is a key of an object with its value.
type Pair struct {
	Key   string
	Value Value
}

// indexFrom is how many pairs an object has before a look-up builds an index over them.
const indexFrom = 9

// Null is the null value, the same as Value{}.
func Null() Value { return Value{} }

// Bool is true or false.
func Bool(b bool) Value {
	if b {
		return Value{code: codeBoolean, number: 1}
	}
	return Value{code: codeBoolean}
}

// Number is a number; NaN and the infinities are allowed.
func Number(f float64) Value { return Value{code: codeNumber, number: f} }

// String is a string.
func String(s string) Value { return Value{code: codeString, text: s} }

// Array is a new array of the items. It keeps the slice: callers must not write to it afterwards.
func Array(items ...Value) Value {
	return Value{code: codeArray, group: &group{items: items}}
}

// Object is a new object of the pairs, in their order. Keys ignore case; of equal keys the first wins.
func Object(pairs ...Pair) Value {
	g := &group{pairs: slices.Clone(pairs)}
	if len(pairs) < indexFrom {
		for i := 1; i < len(g.pairs); {
			if findPair(g.pairs[:i], g.pairs[i].Key) >= 0 {
				g.pairs = slices.Delete(g.pairs, i, i+1)
				continue
			}
			i++
		}
		return Value{code: codeObject, group: g}
	}
	index := make(map[string]int, len(pairs))
	kept := g.pairs[:0]
	for _, p := range g.pairs {
		folded := foldKey(p.Key)
		if _, ok := index[folded]; ok {
			continue
		}
		index[folded] = len(kept)
		kept = append(kept, p)
	}
	clear(g.pairs[len(kept):])
	g.pairs = kept
	g.index.Store(&index)
	return Value{code: codeObject, group: g}
}

// FromStrings is an object of strings, its keys sorted.
func FromStrings(m map[string]string) Value {
	pairs := make([]Pair, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, Pair{k, String(m[k])})
	}
	return Object(pairs...)
}

// Kind is the value's kind.
func (v Value) Kind() Kind { return kindOfCode[v.code] }

// IsNull reports whether v is null.
func (v Value) IsNull() bool { return v.code == codeNull }

// primitive reports whether v is neither an array nor an object.
func (v Value) primitive() bool { return v.code < codeArray }

// Truthy is how GitHub reads a value as a condition: false, 0, -0, NaN, the empty string and null are false.
func (v Value) Truthy() bool {
	switch v.code {
	case codeNull:
		return false
	case codeBoolean:
		return v.number != 0
	case codeNumber:
		return v.number != 0 && v.number == v.number
	case codeString:
		return v.text != ""
	default:
		return true
	}
}

// Text is the value as a string, as GitHub converts it: null is empty, numbers have up to 15 significant
// digits, collections are the words Array and Object.
func (v Value) Text() string {
	switch v.code {
	case codeNull:
		return ""
	case codeBoolean:
		if v.number != 0 {
			return "true"
		}
		return "false"
	case codeNumber:
		return formatNumber(v.number)
	case codeString:
		return v.text
	default:
		return titleOfCode[v.code]
	}
}

// Number is the value as a number, as GitHub converts it: null, false and "" are 0, true is 1, a string that is
// no number and every collection are NaN.
func (v Value) Number() float64 {
	switch v.code {
	case codeNull:
		return 0
	case codeBoolean, codeNumber:
		return v.number
	case codeString:
		return parseNumber(v.text)
	default:
		return nan
	}
}

// Len is how many items an array or pairs an object has; 0 for the other kinds.
func (v Value) Len() int {
	if v.group == nil {
		return 0
	}
	return len(v.group.items) + len(v.group.pairs)
}

// At is the array's item i, null if v is no array or i is out of range.
func (v Value) At(i int) Value {
	if v.code != codeArray || i < 0 || i >= len(v.group.items) {
		return Value{}
	}
	return v.group.items[i]
}

// Lookup finds the object's value of a key, without case. It is false for a missing key and for other kinds.
func (v Value) Lookup(key string) (Value, bool) {
	if v.code != codeObject {
		return Value{}, false
	}
	i := v.group.find(key)
	if i < 0 {
		return Value{}, false
	}
	return v.group.pairs[i].Value, true
}

// Property is Lookup that gives null for what is missing.
func (v Value) Property(key string) Value {
	found, _ := v.Lookup(key)
	return found
}

// Pairs are the object's pairs in order, nil for other kinds. Callers must not write to them.
func (v Value) Pairs() []Pair {
	if v.group == nil {
		return nil
	}
	return v.group.pairs
}

// Items are the array's items, nil for other kinds. Callers must not write to them.
func (v Value) Items() []Value {
	if v.group == nil {
		return nil
	}
	return v.group.items
}

// With is a copy of the object with the key set: an equal key keeps its place and spelling, a new one comes last.
// On anything but an object it begins a new one.
func (v Value) With(key string, val Value) Value {
	if v.code != codeObject {
		return Object(Pair{key, val})
	}
	pairs := make([]Pair, len(v.group.pairs), len(v.group.pairs)+1)
	copy(pairs, v.group.pairs)
	if i := v.group.findOnce(key); i >= 0 {
		pairs[i].Value = val
	} else {
		pairs = append(pairs, Pair{key, val})
	}
	return Value{code: codeObject, group: &group{pairs: pairs}}
}

// findOnce is find for an object that will hardly be asked again: it builds no index.
func (g *group) findOnce(key string) int {
	if g.index.Load() == nil {
		return findPair(g.pairs, key)
	}
	return g.find(key)
}

// find is the place of a key among the pairs, -1 if there is none.
func (g *group) find(key string) int {
	if len(g.pairs) < indexFrom {
		return findPair(g.pairs, key)
	}
	index := g.index.Load()
	if index == nil {
		built := make(map[string]int, len(g.pairs))
		for i, p := range g.pairs {
			built[foldKey(p.Key)] = i
		}
		g.index.Store(&built)
		index = &built
	}
	if i, ok := (*index)[foldKey(key)]; ok {
		return i
	}
	return -1
}

func findPair(pairs []Pair, key string) int {
	for i := range pairs {
		if equalFold(pairs[i].Key, key) {
			return i
		}
	}
	return -1
}

// Equal is GitHub's ==. Strings ignore case, values of different kinds become numbers, NaN equals nothing, and
// collections are equal only to themselves.
func Equal(a, b Value) bool {
	a, b = coerce(a, b)
	if a.code != b.code {
		return false
	}
	switch a.code {
	case codeNull:
		return true
	case codeBoolean, codeNumber:
		return a.number == b.number
	case codeString:
		return equalFold(a.text, b.text)
	default:
		return a.group == b.group
	}
}

// coerce brings two values to one kind where GitHub's comparisons do: the primitives become numbers unless they
// are of one kind already.
func coerce(a, b Value) (Value, Value) {
	if a.code == b.code {
		return a, b
	}
	aNumeric, bNumeric := a.code <= codeNumber, b.code <= codeNumber
	if aNumeric && (bNumeric || b.code == codeString) || bNumeric && a.code == codeString {
		return Number(a.Number()), Number(b.Number())
	}
	return a, b
}

// greater is GitHub's >.
func greater(a, b Value) bool {
	a, b = coerce(a, b)
	if a.code != b.code {
		return false
	}
	switch a.code {
	case codeBoolean, codeNumber:
		return a.number > b.number
	case codeString:
		return compareFold(a.text, b.text) > 0
	default:
		return false
	}
}

// DeepEqual compares structure: kinds must agree, strings and keys ignore no case, the order of pairs does not
// matter, and NaN equals NaN. It is for tests and tools; expressions compare by Equal.
func DeepEqual(a, b Value) bool {
	if a.code != b.code {
		return false
	}
	switch a.code {
	case codeNumber:
		return a.number == b.number || a.number != a.number && b.number != b.number
	case codeString:
		return a.text == b.text
	case codeArray:
		return a.group == b.group || slices.EqualFunc(a.group.items, b.group.items, DeepEqual)
	case codeObject:
		return a.group == b.group || equalPairs(a.group, b.group)
	default:
		return a.number == b.number
	}
}

func equalPairs(a, b *group) bool {
	if len(a.pairs) != len(b.pairs) {
		return false
	}
	for _, p := range a.pairs {
		i := b.find(p.Key)
		if i < 0 || b.pairs[i].Key != p.Key || !DeepEqual(p.Value, b.pairs[i].Value) {
			return false
		}
	}
	return true
}
