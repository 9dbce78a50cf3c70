package expr

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

const testContext = `{
  "name": "penstock", "two words": 2, "": "empty", "1": "one", "null": "a property may have any name",
  "list": [1, 2, 3],
  "pair": {"left": "l", "right": "r"},
  "jobs": [{"id": 1, "tags": ["a", "b"]}, {"id": 2}, "text"],
  "big": {"key0": 0, "key1": 1, "key2": 2, "key3": 3, "key4": 4, "key5": 5, "key6": 6, "key7": 7, "key8": 8, "key9": 9, "key10": 10, "Key11": 11}
}`

var testNames = Names{
	Contexts:  []string{"github", "env"},
	Functions: []Signature{{"fail", 0, 0}, {"answer", 0, 2}, {"once", 0, 0}},
}

func testEnv(t testing.TB) Env {
	t.Helper()
	github, err := FromJSON([]byte(testContext))
	if err != nil {
		t.Fatal(err)
	}
	calls := 0.0
	return Env{
		Contexts: map[string]Value{"github": github},
		Functions: map[string]Func{
			"fail":   func([]Value) (Value, error) { return Value{}, errors.New("failed") },
			"answer": func([]Value) (Value, error) { return Number(42), nil },
			"once": func([]Value) (Value, error) {
				calls++
				return Number(calls), nil
			},
		},
	}
}

// TestEval runs the cases of testdata/eval.txt.
func TestEval(t *testing.T) {
	script, err := os.ReadFile("testdata/eval.txt")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, c := range readCases(string(script)) {
		count++
		got := "! "
		e, err := Parse(c.source, testNames)
		if err == nil {
			var v Value
			if v, err = e.Eval(testEnv(t)); err == nil {
				got = notation(v)
			}
		}
		if err != nil {
			got += err.Error()
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.source, got, c.want)
		}
	}
	if count < 200 {
		t.Errorf("the script has only %d cases", count)
	}
}

type scriptCase struct{ source, want string }

// readCases reads lines of "expression => outcome". An expression may go over several lines.
func readCases(script string) []scriptCase {
	var cases []scriptCase
	source := ""
	for line := range strings.Lines(script) {
		if source == "" && (strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "") {
			continue
		}
		source += line
		if before, want, ok := strings.Cut(source, " => "); ok {
			cases = append(cases, scriptCase{before, strings.TrimSuffix(want, "\n")})
			source = ""
		}
	}
	return cases
}

// notation writes a value in one line, as JSON but for numbers, and marks what a filter gave.
func notation(v Value) string {
	switch v.Kind() {
	case KindArray:
		var items []string
		for _, item := range v.Items() {
			items = append(items, notation(item))
		}
		mark := ""
		if v.group.filtered {
			mark = "*"
		}
		return mark + "[" + strings.Join(items, ",") + "]"
	case KindObject:
		var pairs []string
		for _, p := range v.Pairs() {
			pairs = append(pairs, String(p.Key).PrettyJSON()+":"+notation(p.Value))
		}
		return "{" + strings.Join(pairs, ",") + "}"
	default:
		return v.PrettyJSON()
	}
}

func TestErrorPlace(t *testing.T) {
	_, err := Parse("'é😀' == unknown", testNames)
	var fault *Error
	if !errors.As(err, &fault) {
		t.Fatalf("got %T", err)
	}
	if got, want := fault.Source[fault.Offset:], "unknown"; got != want {
		t.Errorf("the fault is at %q, want %q", got, want)
	}
}

func TestLimits(t *testing.T) {
	nested := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for _, c := range []struct{ name, source, want string }{
		{"longest", "'" + strings.Repeat("a", 20998) + "'", ""},
		{"too long", "'" + strings.Repeat("a", 20999) + "'", "Exceeded max expression length 21000"},
		{"longest in UTF-16", "'" + strings.Repeat("😀", 10499) + "'", ""},
		{"too long in UTF-16", "'" + strings.Repeat("😀", 10500) + "'", "Exceeded max expression length 21000"},
		{"deepest", nested("!", "true", "", 49), ""},
		{"too deep", nested("!", "true", "", 50), "Exceeded max expression depth 50"},
		{"parentheses are no level", nested("(", "1", ")", 5000), ""},
		{"deepest call", nested("join(", "1", ")", 49), ""},
		{"too deep a call", nested("join(", "1", ")", 50), "Exceeded max expression depth 50"},
		{"too deep a path", "github" + strings.Repeat(".a", 50), "Exceeded max expression depth 50"},
		{"a chain of && is one level", "1" + strings.Repeat(" && 1", 1000), ""},
		{"nested || are one level", "1" + strings.Repeat(" || (1", 100) + strings.Repeat(")", 100), ""},
		{"nested && and || are not", "1" + strings.Repeat(" && (1 || (1", 25) + strings.Repeat("))", 25), "Exceeded max expression depth 50"},
		{"a chain of == is not", "1" + strings.Repeat(" == 1", 50), "Exceeded max expression depth 50"},
		{"most arguments", "format('a'" + strings.Repeat(",1", 254) + ")", ""},
		{"blank", " \t\n", "An expression was expected"},
	} {
		got := ""
		if _, err := Parse(c.source, testNames); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestMemory checks GitHub's bound of 10 MiB, counted as 26 bytes a string and two a UTF-16 unit.
func TestMemory(t *testing.T) {
	env := testEnv(t)
	half := maxMemory / 2
	env.Contexts["env"] = Object(
		Pair{"fits", String(strings.Repeat("a", half-2*objectSize-stringOverhead))},
		// With the context, its wrapper and the name 'edge', exactly the bound.
		Pair{"edge", String(strings.Repeat("a", (maxMemory-2*objectSize-2*stringOverhead-8)/2))},
		Pair{"over", String(strings.Repeat("a", (maxMemory-2*objectSize-2*stringOverhead-8)/2+1))},
		Pair{"many", Array(make([]Value, maxMemory/pointerSize)...)},
		Pair{"some", Array(make([]Value, maxMemory/pointerSize/8)...)},
		Pair{"mega", String(strings.Repeat("a", 1<<20))},
	)
	for _, c := range []struct{ source, want string }{
		{"env.edge", ""},
		{"env.over", "while evaluating the following expression: env.over"},
		{"env.fits == ''", ""},
		{"env.fits == env.mega", "while evaluating the following expression: (env.fits == env.mega)"},
		{"format('{0}{0}{0}{0}', env.mega) == ''", ""},
		{"format('{0}{0}{0}{0}{0}', env.mega) == ''", "while evaluating the following expression: format('{0}{0}{0}{0}{0}', env.mega)"},
		{"join(fromJSON(format('[\"{0}\",\"{0}\"]', env.mega)), env['Mega'])", ""},
		{"toJSON(fromJSON(format('[\"{0}\",1]', env.mega)))", ""},
		{"env.some.*[0]", ""},
		{"env.many.*[0]", "while evaluating the following expression: env.many.*"},
		{"env.*.*", "while evaluating the following expression: env.*.*"},
		{"join(env.some, '')", ""},
		{"join(env.many, '')", "while evaluating the following expression: join(env.many, '')"},
		{"join(env.some, '          ')", "while evaluating the following expression: join(env.some, '          ')"},
		{"toJSON(env.some)", ""},
		{"toJSON(env.many)", "while evaluating the following expression: toJSON(env.many)"},
		{"toJSON(env.fits)", ""},
		{"toJSON(env)", "while evaluating the following expression: toJSON(env)"},
		// What lies below a primitive result is given back.
		{"startsWith(env.mega, 'a') && startsWith(env.mega, 'a') && startsWith(env.mega, 'a') && startsWith(env.mega, 'a') && startsWith(env.mega, 'a') && startsWith(env.mega, 'a')", ""},
	} {
		e, err := Parse(c.source, testNames)
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Eval(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), "maximum allowed memory size was exceeded "+c.want)) {
			t.Errorf("%s: got %v, want %q", c.source, err, c.want)
		}
	}
}

func TestUses(t *testing.T) {
	e, err := Parse("GitHub.ref == env[github.name] && Answer() || contains(env.x, always())", Names{
		Contexts: []string{"github", "env"}, Functions: []Signature{{"always", 0, 0}, {"answer", 0, 0}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.Uses(), []string{"github", "env"}; !slices.Equal(got, want) {
		t.Errorf("Uses: got %v, want %v", got, want)
	}
	for _, c := range []struct {
		functions []string
		want      bool
	}{
		{[]string{"success", "ALWAYS"}, true},
		{[]string{"contains"}, true},
		{[]string{"success", "failure"}, false},
		{nil, false},
	} {
		if got := e.Calls(c.functions...); got != c.want {
			t.Errorf("Calls(%v): got %t, want %t", c.functions, got, c.want)
		}
	}
}

func TestExprString(t *testing.T) {
	for _, c := range []struct{ source, want string }{
		{"a&&b||!c", "((a && b) || !c)"},
		{"a && (b && c)", "(a && b && c)"},
		{"github['ref'].*[0] == 'it''s'", "(github.ref.*[0] == 'it''s')"},
		{"github['two words']", "github['two words']"},
		{"Contains( a,1e3 )", "Contains(a, 1000)"},
		{"(!a).b", "(!a).b"},
		{"a<1==b>=2!=c<=null", "(((a < 1) == (b >= 2)) != (c <= null))"},
	} {
		e, err := Parse(c.source, Names{})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.source, got, c.want)
		}
	}
}

// TestMissingFunction: a function that was allowed and is not given fails when it is called.
func TestMissingFunction(t *testing.T) {
	e, err := Parse("false || absent()", Names{Functions: []Signature{{"absent", 0, 0}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Eval(Env{}); err == nil || err.Error() != "Unrecognized function: 'absent'" {
		t.Errorf("got %v", err)
	}
}

// TestLongInteger: JSON's integers beyond 64 bits may have 380 digits.
func TestLongInteger(t *testing.T) {
	if v, err := parseJSON(strings.Repeat("1", 380)); err != nil || !v.Truthy() {
		t.Errorf("380 digits: got %v", err)
	}
	if v, err := parseJSON(strings.Repeat("1", 381)); err == nil {
		t.Errorf("381 digits: got %s", v.Text())
	}
	if _, err := parseJSON(strings.Repeat("1", 381) + ".0"); err != nil {
		t.Errorf("381 digits and a fraction: got %v", err)
	}
}

// TestNamesNil: no list of contexts allows all of them, but unknown functions stay faults.
func TestNamesNil(t *testing.T) {
	e, err := Parse("anything.goes", Names{})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := e.Eval(Env{}); err != nil || !v.IsNull() {
		t.Errorf("got %v, %v, want null", v, err)
	}
	if _, err := Parse("nothing()", Names{}); err == nil {
		t.Error("an unknown function was taken")
	}
	if _, err := Parse("github", Names{Contexts: []string{}}); err == nil {
		t.Error("a context was taken where none is allowed")
	}
}
