package expr

import "errors"

// builtin is a function that every expression may call. The body evaluates its arguments itself: GitHub leaves
// those alone that do not matter to the outcome, so their faults do not show.
type builtin struct {
	signature Signature
	body      func(ev *evaluation, n *node, level int) (Value, error)
}

// maxArguments is how many arguments format and case take at most.
const maxArguments = 255

// builtins are the built-in functions by their lower-case names.
var builtins = map[string]*builtin{
	"case":       {Signature{"case", 3, maxArguments}, callCase},
	"contains":   {Signature{"contains", 2, 2}, callContains},
	"endswith":   {Signature{"endsWith", 2, 2}, callEndsWith},
	"format":     {Signature{"format", 1, maxArguments}, callFormat},
	"fromjson":   {Signature{"fromJson", 1, 1}, callFromJSON},
	"join":       {Signature{"join", 1, 2}, callJoin},
	"startswith": {Signature{"startsWith", 2, 2}, callStartsWith},
	"tojson":     {Signature{"toJson", 1, 1}, callToJSON},
}

var errCasePredicate = errors.New("case predicate must evaluate to a boolean value")

func callCase(ev *evaluation, n *node, level int) (Value, error) {
	last := len(n.args) - 1
	for i := 0; i < last; i += 2 {
		when, err := ev.eval(n.args[i], level+1)
		if err != nil {
			return Value{}, err
		}
		if when.code != codeBoolean {
			return Value{}, errCasePredicate
		}
		if when.Truthy() {
			return ev.eval(n.args[i+1], level+1)
		}
	}
	return ev.eval(n.args[last], level+1)
}

func callContains(ev *evaluation, n *node, level int) (Value, error) {
	in, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return Value{}, err
	}
	if in.primitive() {
		return ev.test(in, n.args[1], level, containsFold)
	}
	if len(in.group.items) == 0 {
		return Bool(false), nil
	}
	what, err := ev.eval(n.args[1], level+1)
	if err != nil {
		return Value{}, err
	}
	for _, item := range in.group.items {
		if Equal(what, item) {
			return Bool(true), nil
		}
	}
	return Bool(false), nil
}

func callStartsWith(ev *evaluation, n *node, level int) (Value, error) {
	return ev.testText(n, level, hasPrefixFold)
}

func callEndsWith(ev *evaluation, n *node, level int) (Value, error) {
	return ev.testText(n, level, hasSuffixFold)
}

func (ev *evaluation) testText(n *node, level int, test func(s, part string) bool) (Value, error) {
	in, err := ev.eval(n.args[0], level+1)
	if err != nil || !in.primitive() {
		return Bool(false), err
	}
	return ev.test(in, n.args[1], level, test)
}

// test compares two primitive values as strings.
func (ev *evaluation) test(in Value, part *node, level int, test func(s, part string) bool) (Value, error) {
	what, err := ev.eval(part, level+1)
	if err != nil || !what.primitive() {
		return Bool(false), err
	}
	return Bool(test(in.Text(), what.Text())), nil
}

func callJoin(ev *evaluation, n *node, level int) (Value, error) {
	list, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return Value{}, err
	}
	if list.primitive() {
		return String(list.Text()), nil
	}
	items := list.group.items
	if len(items) == 0 {
		return String(""), nil
	}
	separator := ","
	if len(items) > 1 && len(n.args) > 1 {
		given, err := ev.eval(n.args[1], level+1)
		if err != nil {
			return Value{}, err
		}
		if given.primitive() {
			separator = given.Text()
		}
	}
	return joinItems(items, separator)
}

func joinItems(items []Value, separator string) (Value, error) {
	var text []byte
	var size counter
	for i, item := range items {
		if i > 0 {
			if err := size.addString(separator); err != nil {
				return Value{}, err
			}
			text = append(text, separator...)
		}
		s := item.Text()
		if err := size.addString(s); err != nil {
			return Value{}, err
		}
		text = append(text, s...)
	}
	return String(string(text)), nil
}

func callToJSON(ev *evaluation, n *node, level int) (Value, error) {
	v, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return Value{}, err
	}
	w := jsonWriter{limited: true}
	if err := w.write(v); err != nil {
		return Value{}, err
	}
	return String(string(w.text)), nil
}

func callFromJSON(ev *evaluation, n *node, level int) (Value, error) {
	v, err := ev.eval(n.args[0], level+1)
	if err != nil {
		return Value{}, err
	}
	return parseJSON(v.Text())
}
