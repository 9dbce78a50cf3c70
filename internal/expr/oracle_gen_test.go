package expr

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// generator makes environments and expressions over them: mostly right, often at the edges, sometimes broken.
type generator struct {
	*rand.Rand
	env Value // what expressions are over
	odd bool  // use what evaluators are known to disagree about, too
}

func pickOf[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

var (
	contextNames = []string{"github", "env", "vars", "secrets", "inputs", "matrix", "strategy", "needs", "steps", "job", "jobs", "runner"}
	keyPool      = []string{"name", "ref", "Event", "a", "b", "c", "b-c", "_x", "items", "HTTP_URL", "os", "node", "two words", "é", "Ж", "", "emoji😀", "dot.ted", "it's", "null", "length"}
	plainStrings = []string{"", "a", "A", "abc", "ABC", "main", "refs/heads/main", "push", "true", "false", "null", "hello world", "Hello World", "{0}", "{{}}", "it's", "a,b", "[1,2]",
		"é", "É", "Жук", "жук", "日本", "😀", "über", "ÜBER", "\t", "\n", "line\r\nbreak", "\"q\"", "back\\slash", "\x01\x1f\x7f", "name", "b-c", "ref"}
	numericStrings = []string{"0", "1", "-1", "1.5", " 2 ", "2\n", "0x1F", "0o17", "1e3", "+5", "-0", ".5", "5.", "Infinity", "-Infinity", "NaN", "1_000", "1,000", "0x", "0xZ", "12abc", "--1", "1e", "."}
	// oddStrings are those where the oracle and GitHub's runner part: see the table of differences.
	oddStrings   = []string{"ß", "ı", "ſ", "\u212A", "ﬁ", "ς", "Σ", "İ", "\uFB03x", "0xFFFFFFFF", "0b1", "0X1", "infinity", "+nan", "1e400", "\u00a01", "\ufeff1", "\u2028", "\u0085", "1\x00"}
	plainNumbers = []string{"0", "1", "2", "3", "10", "-1", "+1", "1.5", "-2.75", ".5", "5.", "0.1", "0.25", "1e3", "1E3", "1e+2", "125e-2", "0x1F", "0xff", "0o17", "-0", "0.0", "00012", "1e400", "-1e400",
		"Infinity", "-Infinity", "NaN", "123456789", "2147483647", "2147483648", "0.0001", "99999999999999", "3.14159265358979"}
	oddNumbers = []string{"1e15", "1e21", "1e-5", "1e-7", "1.7976931348623157e308", "5e-324", "0.1234567890123456789", "123456789012345678", "0xFFFFFFFF", "0x80000000", "0x1FFFFFFFF", "0o37777777777", "0b11", "0X1F", "0O7",
		"+Infinity", "-infinity", "1e", "1e+", "--1", "1.2.3", "0x", "0xG", "0o8", "-", "+", "-0x1", "1a", "1_0", "9007199254740993", "-1e-400"}
)

func (g generator) environment() Value {
	pairs := make([]Pair, len(contextNames))
	for i, name := range contextNames {
		pairs[i] = Pair{name, g.data(1 + g.IntN(4))}
		if g.chance(85) {
			pairs[i].Value = g.object(1 + g.IntN(3))
		}
	}
	return Object(pairs...)
}

func (g generator) object(depth int) Value {
	var pairs []Pair
	for range 1 + g.IntN(7) {
		pairs = append(pairs, Pair{pickOf(g, keyPool...), g.data(depth)})
	}
	if g.odd && g.chance(10) {
		pairs = append(pairs, Pair{pickOf(g, oddStrings...), g.data(depth)})
	}
	if g.chance(3) { // large enough to be indexed
		for i := range 20 {
			pairs = append(pairs, Pair{fmt.Sprintf("Key%d", i), g.data(0)})
		}
	}
	return Object(pairs...)
}

// data is a random value without NaN, infinities and -0, which JSON cannot carry to the oracle.
func (g generator) data(depth int) Value {
	if depth > 0 && g.chance(45) {
		if g.chance(50) {
			return g.object(depth - 1)
		}
		var items []Value
		for range g.IntN(5) {
			items = append(items, g.data(depth-1))
		}
		return Array(items...)
	}
	switch g.IntN(8) {
	case 0:
		return Null()
	case 1:
		return Bool(g.chance(50))
	case 2, 3:
		return Number(g.plainNumber())
	default:
		return String(g.plainString())
	}
}

func (g generator) plainNumber() float64 {
	for {
		f := parseNumber(pickOf(g, plainNumbers...))
		if g.odd && g.chance(20) {
			f = parseNumber(pickOf(g, oddNumbers...))
		}
		if f-f == 0 {
			return f + 0 // no -0: JSON from JavaScript has none
		}
	}
}

func (g generator) plainString() string {
	switch {
	case g.odd && g.chance(20):
		return pickOf(g, oddStrings...)
	case g.chance(25):
		return pickOf(g, numericStrings...)
	case g.chance(5):
		return strings.Repeat(pickOf(g, plainStrings...), g.IntN(40))
	default:
		return pickOf(g, plainStrings...)
	}
}

// source is an expression over an environment.
func (g generator) source() string {
	var s string
	switch {
	case g.chance(2):
		s = g.deep()
	default:
		s = g.expr(3 + g.IntN(7))
	}
	s = g.blank() + s + g.blank()
	if g.chance(12) {
		for range 1 + g.IntN(3) {
			s = g.mutate(s)
		}
	}
	return s
}

func (g generator) blank() string {
	switch g.IntN(12) {
	case 0, 1, 2:
		return " "
	case 3:
		if g.odd && g.chance(3) {
			return pickOf(g, "\v", "\f", "\u00a0", "\u0085", "\u2028", "\ufeff")
		}
		return pickOf(g, "  ", "\t", "\n", "\r\n", " \t ")
	default:
		return ""
	}
}

func (g generator) expr(depth int) string {
	if depth == 0 {
		return g.operand()
	}
	switch n := g.IntN(100); {
	case n < 8:
		return g.operand()
	case n < 30:
		return g.path(depth)
	case n < 34:
		return "!" + g.blank() + g.expr(depth-1)
	case n < 42:
		return "(" + g.blank() + g.expr(depth-1) + g.blank() + ")" + g.steps(Null(), 2, depth)
	case n < 70:
		operator := pickOf(g, "==", "!=", "<", "<=", ">", ">=", "&&", "||", "&&", "||")
		return g.expr(depth-1) + g.blank() + operator + g.blank() + g.expr(depth-1)
	default:
		return g.call(depth)
	}
}

func (g generator) operand() string {
	switch g.IntN(10) {
	case 0:
		if g.chance(2) {
			return pickOf(g, "True", "NULL", "nan")
		}
		return pickOf(g, "null", "true", "false")
	case 1, 2, 3:
		if g.odd && g.chance(25) {
			return pickOf(g, oddNumbers...)
		}
		return pickOf(g, plainNumbers...)
	case 4, 5, 6:
		return quoteLiteral(g.plainString())
	default:
		return g.path(0)
	}
}

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// path goes down from a context, mostly where there is something.
func (g generator) path(depth int) string {
	p := pickOf(g, g.env.Pairs()...)
	if g.chance(1) {
		return g.anyCase(p.Key) + "x"
	}
	return g.anyCase(p.Key) + g.steps(p.Value, 6, depth)
}

func (g generator) anyCase(s string) string {
	switch g.IntN(6) {
	case 0:
		return strings.ToUpper(s)
	case 1:
		return strings.ToUpper(s[:1]) + s[1:]
	default:
		return s
	}
}

// steps goes at most so many steps on, mostly as long as there is something.
func (g generator) steps(at Value, most, depth int) string {
	var b strings.Builder
	for range most {
		if at.Len() == 0 && !g.chance(8) || g.chance(12) {
			break
		}
		step, next := g.step(at, depth)
		b.WriteString(g.blankRarely() + step)
		at = next
	}
	return b.String()
}

func (g generator) blankRarely() string {
	if g.chance(3) {
		return g.blank()
	}
	return ""
}

func (g generator) step(at Value, depth int) (string, Value) {
	switch {
	case g.chance(8):
		next := Null()
		if at.Len() > 0 {
			next = pickOf(g, values(at)...)
		}
		return pickOf(g, ".*", "[*]", "[ * ]", ". *"), next
	case depth > 0 && g.chance(12):
		return "[" + g.expr(depth-1) + "]", Null()
	case at.Kind() == KindObject && at.Len() > 0 && g.chance(92):
		p := pickOf(g, at.Pairs()...)
		if isKeyword(p.Key) && g.chance(70) {
			return "." + g.anyCase(p.Key), p.Value
		}
		return "[" + quoteLiteral(p.Key) + "]", p.Value
	case at.Kind() == KindArray && g.chance(92):
		i := g.IntN(at.Len() + 1)
		return "[" + pickOf(g, fmt.Sprint(i), fmt.Sprint(i), fmt.Sprintf("%d.7", i), fmt.Sprintf("'%d'", i), fmt.Sprintf("%de0", i), pickOf(g, "-1", "1e9", "true", "null", "NaN")) + "]", at.At(i)
	default:
		return pickOf(g, ".missing", ".name", "['a']", "[0]", "[1]", "[NaN]", "[null]", "[99999999999]", ".true"), Null()
	}
}

func (g generator) call(depth int) string {
	sub := func() string { return g.expr(depth - 1 - g.IntN(min(depth, 3))) }
	switch g.IntN(16) {
	case 0, 1:
		return g.invoke("contains", sub(), sub())
	case 2:
		return g.invoke("startsWith", sub(), sub())
	case 3:
		return g.invoke("endsWith", sub(), sub())
	case 4, 5, 6:
		return g.format(sub)
	case 7:
		return g.invoke("join", pickOf(g, []string{sub()}, []string{sub(), sub()}, []string{g.path(0), "', '"})...)
	case 8:
		return g.invoke("toJSON", sub())
	case 9, 10:
		return g.invoke("fromJSON", g.json()) + g.steps(Null(), 2, depth)
	case 11:
		return g.invoke("fromJSON", g.invoke("toJSON", sub())) + g.steps(Null(), 2, depth)
	case 12, 13:
		return g.caseCall(sub)
	case 14:
		return g.invoke("hashFiles", sub())
	default:
		if g.chance(20) { // any function with any number of arguments
			var args []string
			for range g.IntN(5) {
				args = append(args, sub())
			}
			return g.invoke(pickOf(g, "contains", "startsWith", "endsWith", "format", "join", "toJSON", "fromJSON", "case", "hashFiles", "success", "unknown"), args...)
		}
		return g.invoke(pickOf(g, "success", "failure", "always", "cancelled"))
	}
}

func (g generator) invoke(name string, args ...string) string {
	return g.anyCase(name) + g.blankRarely() + "(" + g.blank() + strings.Join(args, g.blank()+","+g.blank()) + g.blank() + ")"
}

func (g generator) format(sub func() string) string {
	count := g.IntN(4)
	var f strings.Builder
	for range g.IntN(6) {
		switch n := g.IntN(20); {
		case n < 8:
			if count > 0 {
				fmt.Fprintf(&f, "{%d}", g.IntN(count))
			}
		case n < 10:
			f.WriteString(pickOf(g, "{{", "}}", "{{}}", "{{{0}}}"))
		case n < 11:
			f.WriteString(pickOf(g, "{", "}", "{}", "{-1}", "{0", "{9}", "{00}", "{ 0}", "{x}", "{0:}", "{0:x}", "{0x}", "{256}", "{0:}}}"))
		default:
			f.WriteString(pickOf(g, plainStrings...))
		}
	}
	args := []string{quoteLiteral(f.String())}
	if g.chance(3) {
		args[0] = sub()
	}
	for range count {
		args = append(args, sub())
	}
	return g.invoke("format", args...)
}

func (g generator) caseCall(sub func() string) string {
	var args []string
	for range 1 + g.IntN(3) {
		args = append(args, pickOf(g, "true", "false", "1 == 1", sub()+" == "+sub(), sub()), sub())
	}
	if g.chance(97) {
		args = append(args, sub())
	}
	return g.invoke("case", args...)
}

// json is a literal with JSON in it, now and then broken.
func (g generator) json() string {
	v := g.data(g.IntN(4))
	text := v.PrettyJSON()
	if g.chance(60) {
		compact, _ := v.MarshalJSON()
		text = string(compact)
	}
	text = pickOf(g, "", "", " ", "\n") + text + pickOf(g, "", "", " ")
	if g.chance(6) {
		text = g.mutate(text)
	}
	if g.odd && g.chance(15) {
		text = pickOf(g, "{'a': 1}", "[1,]", "[1,,2]", "{a:1}", "010", "0x1F", "1 2", "[NaN]", "// c\n1", "[/* c */1]", `{"a":1,"A":2}`, `{"b":1,"2":2,"1":3}`, `{"a":1,"a":2}`, "Infinity", "undefined", "\"a\nb\"", "", " ",
			strings.Repeat("[", 64)+strings.Repeat("]", 64), strings.Repeat("[", 65)+strings.Repeat("]", 65), `"\ud83d\ude00"`, `"\ud83d"`, `"\u0041\/"`, "1e400", "-", "nul", "truex", `{"__proto__":1}`, `{"constructor":1}`)
	}
	return quoteLiteral(text)
}

// deep is an expression around the limits of depth.
func (g generator) deep() string {
	inner, n := g.operand(), 40+g.IntN(20)
	switch g.IntN(6) {
	case 0:
		return strings.Repeat("!", n) + inner
	case 1:
		return strings.Repeat("(", n) + inner + strings.Repeat(")", n)
	case 2:
		return strings.Repeat("join(", n) + inner + strings.Repeat(")", n)
	case 3:
		return "github" + strings.Repeat(pickOf(g, ".a", "[0]", ".*"), n)
	case 4:
		return strings.Repeat(inner+pickOf(g, " == ", " && ", " || ", " < "), n) + inner
	default:
		return strings.Repeat("github[", n) + inner + strings.Repeat("]", n)
	}
}

var mutations = []string{"(", ")", "[", "]", ",", ".", "*", "'", "''", "!", "=", "==", "&", "&&", "|", "||", "<", ">=", " ", "-", "+", "0", "e", "x", "_", "$", "\"", "{", "}", "é", "😀", "true", "NaN", "github", "format("}

// mutate breaks a text at one place.
func (g generator) mutate(s string) string {
	if s == "" {
		return pickOf(g, mutations...)
	}
	i := g.IntN(len(s))
	for !utf8.RuneStart(s[i]) {
		i--
	}
	_, size := utf8.DecodeRuneInString(s[i:])
	switch g.IntN(5) {
	case 0:
		return s[:i] + s[i+size:]
	case 1:
		return s[:i] + pickOf(g, mutations...) + s[i+size:]
	case 2:
		return s[:i]
	case 3:
		return s[:i] + s[i:i+size] + s[i:]
	default:
		return s[:i] + pickOf(g, mutations...) + s[i:]
	}
}
