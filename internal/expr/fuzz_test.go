package expr

import (
	"math"
	"os"
	"strings"
	"testing"
)

// seedExpressions adds the script's expressions to a fuzz target's corpus.
func seedExpressions(f *testing.F) {
	script, err := os.ReadFile("testdata/eval.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range readCases(string(script)) {
		f.Add(c.source)
	}
	f.Add(strings.Repeat("(", 100) + strings.Repeat("!", 100))
	f.Add("\xff'\xfe")
}

// FuzzExpr: no text makes the parser panic; what it takes is parsed the same from its own notation; two evaluations
// agree, stay within bounds and do not change the contexts; a fault lies within the source.
func FuzzExpr(f *testing.F) {
	seedExpressions(f)
	f.Fuzz(func(t *testing.T, source string) {
		e, err := Parse(source, testNames)
		if err != nil {
			fault := err.(*Error)
			if fault.Source != source || fault.Offset < 0 || fault.Offset > len(source) || fault.Message == "" {
				t.Fatalf("bad fault %#v", fault)
			}
			return
		}
		again, err := Parse(e.Source(), testNames)
		if err != nil || again.String() != e.String() {
			t.Fatalf("%q is %s and then %v, %v", source, e, again, err)
		}
		checkNotation(t, e)
		env := testEnv(t)
		before := env.Contexts["github"].PrettyJSON()
		v, err := e.Eval(env)
		w, errAgain := e.Eval(testEnv(t))
		if (err == nil) != (errAgain == nil) || !DeepEqual(v, w) {
			t.Fatalf("%q gives %v, %v and then %v, %v", source, v, err, w, errAgain)
		}
		if after := env.Contexts["github"].PrettyJSON(); after != before {
			t.Fatalf("%q changed its context to %s", source, after)
		}
		if len(v.text) > maxMemory {
			t.Fatalf("%q gives %d bytes", source, len(v.text))
		}
	})
}

// checkNotation parses an expression's own notation, which must be stable and mean the same.
func checkNotation(t *testing.T, e *Expr) {
	notation := e.String()
	if utf16Len(notation) > maxLength || usesStarAsOperand(e.root) {
		return
	}
	again, err := Parse(notation, testNames)
	if err != nil || again.String() != notation {
		t.Fatalf("%q is written %q: %v, %v", e.Source(), notation, again, err)
	}
	v, err := e.Eval(testEnv(t))
	w, errAgain := again.Eval(testEnv(t))
	if !hasWideNumber(e.root) && ((err == nil) != (errAgain == nil) || !DeepEqual(v, w)) {
		t.Fatalf("%q gives %v, %v and as %q %v, %v", e.Source(), v, err, notation, w, errAgain)
	}
}

// usesStarAsOperand tells of github[* == 1], which GitHub's notation puts in parentheses where no * may stand.
func usesStarAsOperand(root *node) bool {
	found := false
	root.walk(func(n *node) {
		for _, arg := range n.args {
			found = found || arg.op == opWildcard && n.op != opIndex
		}
	})
	return found
}

// hasWideNumber tells of numbers that lose digits, or their sign, in GitHub's notation.
func hasWideNumber(root *node) bool {
	found := false
	root.walk(func(n *node) {
		found = found || n.op == opLiteral && n.value.code == codeNumber && !sameNumber(n.value.number, parseNumber(n.value.Text()))
	})
	return found
}

// FuzzTemplate: no text makes the reader panic; text without ${{ is itself; a fault lies within the text; what is
// taken is taken again.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"a ${{ 1 }} b", "${{ '}}' }}", "${{ insert }}", "${{", "}}${{ github.name }}{{'", "${{ 'a''b' }}", "${{ }}", "\xff${{ 1 }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tpl, err := ParseTemplate(source, testNames)
		if err != nil {
			fault := err.(*Error)
			if fault.Message == "" || fault.Start < 0 || fault.Offset < 0 || fault.Offset > len(fault.Source) {
				t.Fatalf("bad fault %#v", fault)
			}
			return
		}
		if !strings.Contains(source, openBraces) && (!tpl.IsLiteral() || tpl.Literal() != source) {
			t.Fatalf("%q became %q", source, tpl.Literal())
		}
		v, err := tpl.Eval(testEnv(t))
		if err == nil && tpl.IsLiteral() && v.Text() != tpl.Literal() {
			t.Fatalf("%q gives %q", source, v.Text())
		}
		if _, err := ParseTemplate(tpl.Source(), testNames); err != nil {
			t.Fatalf("%q was taken and then not: %v", source, err)
		}
	})
}

// FuzzJSON: no text makes either reader panic; what the strict one takes the lenient one takes the same, and both
// give values that survive being written.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{testContext, "[1,,2,]", "{'a':/**/1}", "0x1f", `"\ud83d\ude00\ud83d"`, "-Infinity", "//", "{\"a\":1,\"A\":2}", "[[[[", "1e400", "\"\xff\"", "{a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lenient, lenientErr := parseJSON(text)
		strict, err := FromJSON([]byte(text))
		if err == nil && lenientErr == nil && !DeepEqual(strict, lenient) {
			t.Fatalf("%q is %s and %s", text, strict.PrettyJSON(), lenient.PrettyJSON())
		}
		if lenientErr != nil {
			return
		}
		written, err := lenient.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := FromJSON(written)
		if err != nil || !anyWithin(lenient, func(v Value) bool { return v.number-v.number != 0 }) && !DeepEqual(back, lenient) {
			t.Fatalf("%q is written %s and read %s, %v", text, written, back.PrettyJSON(), err)
		}
		if pretty, err := parseJSON(lenient.PrettyJSON()); err != nil || len(notation(pretty)) == 0 {
			t.Fatalf("%q is printed %s: %v", text, lenient.PrettyJSON(), err)
		}
	})
}

// FuzzNumber: a number printed in 15 digits is read as one at most half a unit of the fifteenth away.
func FuzzNumber(f *testing.F) {
	for _, n := range []float64{0, 1, 0.1, 1e15, 1e-5, 123456789012345678, math.MaxFloat64, 5e-324, -0.5, 999999999999999.9} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n float64) {
		text := Number(n).Text()
		got := String(text).Number()
		if n-n != 0 {
			if !sameNumber(n, got) {
				t.Fatalf("%v is printed %s", n, text)
			}
			return
		}
		digits := strings.TrimLeft(strings.ReplaceAll(strings.TrimPrefix(strings.Split(text, "E")[0], "-"), ".", ""), "0")
		if diff := math.Abs(got - n); diff > math.Abs(n)*5.1e-15 && !math.IsInf(got, 0) && math.Abs(n) > 1e-300 || len(digits) > 15 {
			t.Fatalf("%v is printed %s, which is read as %v", n, text, got)
		}
	})
}
