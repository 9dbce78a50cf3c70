package expr

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// difference is a known way in which the oracle, GitHub's TypeScript, is not GitHub's runner (C#), which is the
// truth. explains tells whether a mismatch is of this way, as narrowly as can be told; examples pin it: the test
// fails if the oracle no longer answers so, or if we do not answer as the runner does.
type difference struct {
	name     string
	explains func(w *witness) bool
	examples []example
}

// example is an expression over no contexts. Outcomes are written as the value's JSON, or as "! " and the message.
type example struct{ source, runner, oracle string }

var differences = []difference{
	{"the runner tells the first fault from the left; the oracle reads all tokens first and names later", func(w *witness) bool {
		return w.bothParse() && w.ours.column > 0 && w.theirs.column > w.ours.column
	}, []example{
		{"foo == 'open", "! Unrecognized named-value: 'foo'", "! Unexpected symbol: ''open'"},
		{"foo(", "! Unrecognized function: 'foo'", "! Unexpected end of expression: '('"},
	}},
	{"the runner tells a wrong number of arguments at the parenthesis, the oracle at the name", func(w *witness) bool {
		fault, _, _ := strings.Cut(w.ours.text, ":")
		return w.bothParse() && slices.Contains([]string{faultTooFew, faultTooMany, faultEven}, fault) && strings.HasPrefix(w.theirs.text, fault+": '") &&
			strings.TrimSpace(w.source[:w.ours.fault.Offset]) != "" && w.theirs.column < w.ours.column
	}, []example{
		{"contains('a')", "! Too few parameters supplied: '('", "! Too few parameters supplied: 'contains'"},
		{"success(1)", "! Too many parameters supplied: '('", "! Too many parameters supplied: 'success'"},
		{"case(true, 1, false, 2)", "! Even number of parameters supplied, requires an odd number of parameters: '('", "! Even number of parameters supplied, requires an odd number of parameters: 'case'"},
	}},
	{"the runner says when an expression ends too early, the oracle of an open bracket that EOF is unexpected", func(w *witness) bool {
		return w.bothParse() && strings.HasPrefix(w.ours.text, faultEnd) && w.theirs.text == "Unexpected symbol: 'EOF'" && w.theirs.column >= w.ours.column
	}, []example{{"format('a'", "! Unexpected end of expression: ''a''", "! Unexpected symbol: 'EOF'"}}},
	{"a string in a fault is told by the runner as written, by the oracle as its value", func(w *witness) bool {
		fault, raw, _ := strings.Cut(w.ours.text, ": ")
		return w.bothParse() && w.ours.column == w.theirs.column && len(raw) >= 4 && raw[1] == '\'' &&
			w.theirs.text == fault+": '"+strings.Replace(raw[2:len(raw)-2], "''", "'", 1)+"'"
	}, []example{{"1 'a'", "! Unexpected symbol: ''a''", "! Unexpected symbol: 'a'"}}},
	{"a point that no property may follow is refused by the runner alone, by the oracle with what follows", func(w *witness) bool {
		return w.bothParse() && w.ours.column == w.theirs.column && w.ours.text == "Unexpected symbol: '.'" && strings.HasPrefix(w.theirs.text, "Unexpected symbol: '.")
	}, []example{{"github..a", "! Unexpected symbol: '.'", "! Unexpected symbol: '.a'"}, {"'a'.b", "! Unexpected symbol: '.'", "! Unexpected symbol: '.b'"}}},
	{"the oracle takes a comma before the closing parenthesis", func(w *witness) bool {
		return w.ours.text == "Unexpected symbol: ')'" && strings.HasSuffix(strings.TrimRightFunc(w.source[:w.ours.fault.Offset], unicode.IsSpace), ",")
	}, []example{{"join('a',)", "! Unexpected symbol: ')'", `"a"`}}},
	{"the runner counts the levels of the tree, the oracle those of its parser", func(w *witness) bool {
		return (strings.HasPrefix(w.theirs.text, faultDepth) || w.ours.text == faultDepth) && strings.Count(deepMarks.Replace(w.source), "\x00") >= 40
	}, []example{
		{strings.Repeat("(", 60) + "1" + strings.Repeat(")", 60), "1", "! Exceeded max expression depth 50: '('"},
		{"1" + strings.Repeat(" == 1", 60), "! Exceeded max expression depth 50", "true"},
	}},
	{"an expression may begin with * in an index for the runner", func(w *witness) bool {
		return w.theirs.stage == "parse" && starIndex.MatchString(w.source)
	}, []example{{"github[* == 1]", "null", "! Unexpected symbol: '=='"}}},
	{"numbers in an expression are read by .NET in the runner, by JavaScript in the oracle", func(w *witness) bool {
		return slices.ContainsFunc(numberToken.FindAllString(w.source, -1), isOddNumber)
	}, []example{
		{"0b1", "! Unexpected symbol: '0b1'", "1"},
		{"0xFFFFFFFF", "-1", "4294967295"},
		{"-infinity", "-Infinity", "! Unexpected symbol: '-infinity'"},
	}},
	{"strings become numbers by .NET in the runner, by JavaScript in the oracle", func(w *witness) bool {
		return !w.anyParse() && w.uses(func(v Value) bool { return v.code == codeString && isOddNumber(v.text) })
	}, []example{{"'0X1' == 1", "false", "true"}, {"'0xFFFFFFFF' == -1", "true", "false"}, {"'infinity' == Infinity", "true", "false"}}},
	{"numbers have 15 significant digits in the runner's texts, 15 fractional ones in the oracle's", func(w *witness) bool {
		return !w.anyParse() && w.uses(func(v Value) bool { return v.code == codeNumber && isWide(v.number) })
	}, []example{
		{"format('{0}', 1e21)", `"1E+21"`, `"1e+21"`},
		{"format('{0}', 0.00001)", `"1E-05"`, `"0.00001"`},
		{"format('{0}', 123456789012345678)", `"1.23456789012346E+17"`, `"123456789012345680"`},
	}},
	{"case is ignored letter by letter in the runner, with JavaScript's special cases in the oracle", func(w *witness) bool {
		return !w.anyParse() && w.uses(func(v Value) bool { return v.code == codeString && strings.ContainsAny(v.text, specialLetters) })
	}, []example{
		{"startsWith('ß', 'ss')", "false", "true"},
		{"'ſ' == 's'", "false", "true"},
		{"contains('\u212A', 'k')", "false", "true"},
		{"contains('ς', 'σ')", "true", "false"},
	}},
	{"only the first quote doubled in a string is one for the oracle", func(w *witness) bool {
		return slices.ContainsFunc(stringLiteral.FindAllString(w.source, -1), func(s string) bool { return strings.Count(s[1:len(s)-1], "''") > 1 })
	}, []example{{"'a''b''c'", `"a'b'c"`, `"a'b''c"`}}},
	{"an argument, an item or an index that does not matter is not evaluated by the runner", func(w *witness) bool {
		return w.theirs.stage == "eval" && w.hasFailure(w.theirs.text)
	}, []example{
		{"case(true, 1, fromJSON('x'))", "1", "! Error parsing JSON when evaluating fromJson"},
		{"format('a', fromJSON('x'))", `"a"`, "! Error parsing JSON when evaluating fromJson"},
		{"github.a[fromJSON('x')]", "null", "! could not evaluate index for index access: Error parsing JSON when evaluating fromJson"},
	}},
	{"fromJSON takes in the runner what Newtonsoft takes, and keeps the order of keys", func(w *witness) bool {
		return !w.anyParse() && w.hasArgument("fromjson", func(v Value) bool { return isOddJSON(v.Text()) })
	}, []example{
		{"fromJSON('[''a'',]')", "[\n  \"a\"\n]", "! Error parsing JSON when evaluating fromJson"},
		{"fromJSON('1 2')", "1", "! Error parsing JSON when evaluating fromJson"},
		{"fromJSON('{\"a\":1,\"A\":2}')", "{\n  \"a\": 2\n}", "{\n  \"a\": 1\n}"},
		{"fromJSON('{\"b\":1,\"1\":2}')", "{\n  \"b\": 1,\n  \"1\": 2\n}", "{\n  \"1\": 2,\n  \"b\": 1\n}"},
		{"fromJSON('" + strings.Repeat("[", 65) + strings.Repeat("]", 65) + "').a", "! Error parsing fromJson: The reader's MaxDepth of 64 has been exceeded. Path '" + strings.Repeat("[0]", 64) + "', line 1, position 65.", "null"},
	}},
	{"toJSON writes NaN and the infinities as they are in the runner, and escapes three line ends", func(w *witness) bool {
		return !w.anyParse() && w.hasArgument("tojson", func(v Value) bool {
			return anyWithin(v, func(v Value) bool {
				return v.code == codeNumber && v.number-v.number != 0 || hasText(v, func(s string) bool { return strings.ContainsAny(s, "\u0085\u2028\u2029") })
			})
		})
	}, []example{
		{"toJSON(NaN)", `"NaN"`, `"null"`},
		{"toJSON('\u2028')", `"\"\\u2028\""`, "\"\\\"\\u2028\\\"\""},
	}},
	{"the place of an argument in format holds nothing but its number for the runner", func(w *witness) bool {
		return !w.anyParse() && w.hasArgument("format", func(v Value) bool { return oddPlace.MatchString(v.Text()) })
	}, []example{
		{"format('{0x}', 1)", "! The following format string is invalid: {0x}", `"1"`},
		{"format('{0:x}', 1)", "! The format specifiers 'x' are not valid for objects of type 'Number'", `"1"`},
		{"format('{256}', 1)", "! The following format string is invalid: {256}", "! The following format string references more arguments than were supplied: {256}"},
	}},
	{"blanks are those of .NET in the runner", func(w *witness) bool {
		return strings.ContainsAny(w.source, "\v\f\u0085\u00a0\u2028\u2029\ufeff")
	}, []example{{"\u00a0'a'", `"a"`, "! Unexpected symbol: '\u00a0'a''"}}},
	{"the oracle finds JavaScript's own properties in its tables", func(w *witness) bool {
		return strings.Contains(w.source, "constructor") || strings.Contains(w.source, "__proto__")
	}, []example{{"fromJSON('{\"constructor\":1}').constructor", "1", "null"}}},
	{"the runner bounds the memory of an evaluation", func(w *witness) bool {
		return w.ours.stage == "eval" && strings.HasPrefix(w.ours.text, "The maximum allowed memory size was exceeded")
	}, nil},
}

// specialLetters are those that the generator uses of the letters with a case mapping of more than one letter, of
// context, or of one direction only.
const specialLetters = "ßıſ\u212Aﬁﬃςσ\u03A3\u0130"

var (
	deepMarks     = strings.NewReplacer("(", "\x00", "[", "\x00", ".", "\x00", "!", "\x00", "==", "\x00", "&&", "\x00", "||", "\x00", "<", "\x00", ">", "\x00")
	starIndex     = regexp.MustCompile(`\[\s*\*\s*[^\]\s]`)
	stringLiteral = regexp.MustCompile(`'(?:[^']|'')*'`)
	numberToken   = regexp.MustCompile(`[-+.0-9][^\s()\[\],!><=&|]*`)
	// JavaScript keeps half a surrogate pair, which UTF-8 cannot.
	escapedSurrogate = regexp.MustCompile(`\\u[dD][89a-fA-F]`)

	oddPlace = regexp.MustCompile(`\{\d+[^}\d]|\{0*(25[6-9]|2[6-9]\d|[3-9]\d\d|\d{4,})`)
)

// witness is a mismatch with what can be learned about it.
type witness struct {
	source       string
	env          Env
	ours, theirs outcome
	known        bool
	parts        []evaluated
}

// evaluated is a part of the expression on its own.
type evaluated struct {
	node *node
	v    Value
	err  error
}

func (w *witness) bothParse() bool { return w.ours.stage == "parse" && w.theirs.stage == "parse" }

func (w *witness) anyParse() bool { return w.ours.stage == "parse" || w.theirs.stage == "parse" }

func (w *witness) evaluate() []evaluated {
	if w.known {
		return w.parts
	}
	w.known = true
	if e, err := Parse(w.source, oracleNames); err == nil {
		e.root.walk(func(n *node) {
			ev := evaluation{env: w.env, root: n}
			v, err := ev.eval(n, 0)
			w.parts = append(w.parts, evaluated{n, v, err})
		})
	}
	return w.parts
}

// uses looks at every value that an operator or a function of the expression takes, at the items of the arrays
// among them and at all that toJSON prints.
func (w *witness) uses(is func(Value) bool) bool {
	parts := w.evaluate()
	values := map[*node]Value{}
	for _, p := range parts {
		values[p.node] = p.v
	}
	for _, p := range parts {
		for _, arg := range p.node.args {
			v := values[arg]
			if is(v) || slices.ContainsFunc(v.Items(), is) || p.node.key == "tojson" && anyWithin(v, is) {
				return true
			}
		}
	}
	return false
}

// hasArgument looks at the first arguments of a function's calls.
func (w *witness) hasArgument(function string, is func(Value) bool) bool {
	parts := w.evaluate()
	for _, call := range parts {
		if call.node.key != function || call.node.op != opCall {
			continue
		}
		for _, p := range parts {
			if p.node == call.node.args[0] && p.err == nil && is(p.v) {
				return true
			}
		}
	}
	return false
}

// hasFailure reports whether a part fails on its own as the oracle says the whole does.
func (w *witness) hasFailure(message string) bool {
	return slices.ContainsFunc(w.evaluate(), func(p evaluated) bool { return p.err != nil && sameFailure(p.err.Error(), message) })
}

func anyWithin(v Value, is func(Value) bool) bool {
	return is(v) || slices.ContainsFunc(v.Items(), func(v Value) bool { return anyWithin(v, is) }) ||
		slices.ContainsFunc(v.Pairs(), func(p Pair) bool { return anyWithin(p.Value, is) })
}

// hasText looks at a string, and at the keys of an object.
func hasText(v Value, is func(string) bool) bool {
	return v.code == codeString && is(v.text) || slices.ContainsFunc(v.Pairs(), func(p Pair) bool { return is(p.Key) })
}

func sameNumber(a, b float64) bool {
	return a == b && math.Signbit(a) == math.Signbit(b) || a != a && b != b
}

// sameFailure compares messages of evaluation: those of fromJSON have words of their own in each evaluator.
func sameFailure(ours, theirs string) bool {
	const index = "could not evaluate index for index access: "
	for strings.HasPrefix(theirs, index) {
		theirs = theirs[len(index):]
	}
	if strings.HasPrefix(ours, "Error parsing fromJson: ") {
		return theirs == "Error parsing JSON when evaluating fromJson" || theirs == "empty input"
	}
	return ours == theirs
}

// jsNumber is JavaScript's Number(s).
func jsNumber(s string) float64 {
	s = strings.TrimFunc(s, func(r rune) bool { return r == '\ufeff' || r != '\u0085' && unicode.IsSpace(r) })
	switch s {
	case "":
		return 0
	case "Infinity", "+Infinity":
		return math.Inf(1)
	case "-Infinity":
		return math.Inf(-1)
	}
	if len(s) > 2 && s[0] == '0' && strings.ContainsAny(s[1:2], "xXoObB") {
		if n, err := strconv.ParseUint(s, 0, 64); err == nil && !strings.Contains(s, "_") {
			return float64(n)
		}
		return nan
	}
	if scanDecimal(s) != len(s) {
		return nan
	}
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

func isOddNumber(s string) bool { return !sameNumber(parseNumber(s), jsNumber(s)) }

// isWide reports whether a number reads otherwise in 15 significant digits than in JavaScript.
func isWide(f float64) bool {
	if f == 0 || f-f != 0 {
		return false
	}
	shortest := strconv.FormatFloat(math.Abs(f), 'e', -1, 64)
	mantissa, exponent, _ := strings.Cut(shortest, "e")
	e, _ := strconv.Atoi(exponent)
	digits := len(strings.Replace(mantissa, ".", "", 1))
	return digits > 15 || e >= 15 || e < -4 || digits-1-e > 15
}

// isOddJSON reports whether the two readers of JSON may part over a text.
func isOddJSON(text string) bool {
	if !json.Valid([]byte(text)) || escapedSurrogate.MatchString(text) {
		return true
	}
	odd := false
	check := func(pairs []string) {
		seen := map[string]bool{}
		for _, key := range pairs {
			folded := foldKey(key)
			number, err := strconv.ParseUint(key, 10, 32)
			odd = odd || seen[folded] || err == nil && strconv.FormatUint(number, 10) == key || key == "__proto__" || key == "constructor"
			seen[folded] = true
		}
	}
	depth := walkJSON(json.NewDecoder(strings.NewReader(text)), check)
	return odd || depth > maxParseDepth
}

// walkJSON visits the keys of every object, duplicates included, and gives the depth.
func walkJSON(d *json.Decoder, keys func([]string)) int {
	token, err := d.Token()
	if err != nil {
		return 0
	}
	deepest := 0
	switch token {
	case json.Delim('['):
		for d.More() {
			deepest = max(deepest, walkJSON(d, keys))
		}
	case json.Delim('{'):
		var own []string
		for d.More() {
			key, _ := d.Token()
			own = append(own, key.(string))
			deepest = max(deepest, walkJSON(d, keys))
		}
		keys(own)
	default:
		return 0
	}
	_, _ = d.Token()
	return deepest + 1
}

// maxExplained is the share of cases, in percent, that may need a difference to explain them.
const maxExplained = 15

func judge(t *testing.T, environments []Value, cases []oracleCase, answers []outcome) {
	agreed, explained := map[string]int{}, map[string]int{}
	differing, wrong := 0, 0
	for i, c := range cases {
		env := oracleEnv(environments[c.environment])
		ours, theirs := ourOutcome(c.source, env), answers[i]
		if agree(ours, theirs) {
			agreed[ours.stage]++
			continue
		}
		if name := explain(&witness{source: c.source, env: env, ours: ours, theirs: theirs}); name != "" {
			explained[name]++
			differing++
			continue
		}
		if wrong++; wrong <= 10 {
			t.Errorf("expression %q\nover %s\nours   %v\noracle %v", c.source, usedContexts(c.source, environments[c.environment]), ours, theirs)
		}
	}
	t.Logf("agreed: %v; explained: %d", agreed, differing)
	for _, d := range differences {
		t.Logf("%6d  %s", explained[d.name], d.name)
	}
	if wrong > 0 {
		t.Errorf("%d of %d cases disagree with GitHub's evaluator without a reason in the table", wrong, len(cases))
	}
	if differing*100 > len(cases)*maxExplained {
		t.Errorf("%d of %d cases needed an explanation: the table explains too much", differing, len(cases))
	}
}

// usedContexts is the part of an environment that an expression may read.
func usedContexts(source string, environment Value) string {
	var used []Pair
	for _, p := range environment.Pairs() {
		if containsFold(source, p.Key) {
			used = append(used, p)
		}
	}
	text, _ := Object(used...).MarshalJSON()
	return string(text)
}

func agree(ours, theirs outcome) bool {
	if ours.stage != theirs.stage {
		return false
	}
	if ours.stage == "eval" {
		return sameFailure(ours.text, theirs.text)
	}
	return ours.text == theirs.text && ours.column == theirs.column
}

func explain(w *witness) string {
	for _, d := range differences {
		if d.explains(w) {
			return d.name
		}
	}
	return ""
}

// TestOracleDifferences pins each row of the table: what the oracle says, and that we say what the runner does.
func TestOracleDifferences(t *testing.T) {
	environment := Object(Pair{"github", Object()})
	var cases []oracleCase
	var examples []example
	for _, d := range differences {
		for _, e := range d.examples {
			cases = append(cases, oracleCase{0, e.source})
			examples = append(examples, e)
		}
	}
	answers := askOracle(t, []Value{environment}, cases)
	for i, e := range examples {
		if want := e.oracle; canonicalExample(t, want) != answers[i].text {
			t.Errorf("%s: the oracle says %v, the table %s", e.source, answers[i], want)
		}
		if got := ourOutcome(e.source, oracleEnv(environment)); got.text != canonicalExample(t, e.runner) {
			t.Errorf("%s: got %v, want %s", e.source, got, e.runner)
		}
	}
}

// canonicalExample turns an example's outcome into what outcome.text would be.
func canonicalExample(t *testing.T, s string) string {
	if message, ok := strings.CutPrefix(s, "! "); ok {
		return message
	}
	v, err := parseJSON(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(appendCanonical(nil, v))
}
