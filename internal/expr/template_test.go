package expr

import (
	"errors"
	"strings"
	"testing"
)

func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		source, want string
		literal      bool
	}{
		// literals
		{"", `""`, true},
		{"plain {{ }} $ {", `"plain {{ }} $ {"`, true},
		{"${ { 1 } }", `"${ { 1 } }"`, true},
		{"${{ 'it''s {0}' }}", `"it's {0}"`, true},
		{"${{ '' }}", `""`, true},
		// one expression keeps its kind
		{"${{ 1 }}", "1", false},
		{"${{1}}", "1", false},
		{"${{\u00a0 true \n}}", "true", false},
		{"${{ github.list }}", "[1,2,3]", false},
		{"${{ github.missing }}", "null", false},
		{"${{ '}}' == '}}' }}", "true", false},
		{"${{ format('{0}}}', 1) }}", `"1}"`, false},
		// anything around makes a string
		{" ${{ 1 }}", `" 1"`, false},
		{"${{ 1 }}\n", `"1\n"`, false},
		{"${{ 1 }}${{ true }}", `"1true"`, false},
		{"a'{b}${{ null }}{0}'", `"a'{b}{0}'"`, false},
		{"${{ github.list }}-${{ github }}", `"Array-Object"`, false},
		{"é${{ github.name }}😀${{ 'x' }}}}", `"épenstock😀x}}"`, false},
		{"${{ 'a' }}${{ 'b' }}", `"ab"`, false},
		{"${{ '${{ 1 }}' }}", `"${{ 1 }}"`, true},
		{"$${{ 1 }}", `"$1"`, false},
	} {
		tpl, err := ParseTemplate(c.source, testNames)
		if err != nil {
			t.Errorf("%q: %v", c.source, err)
			continue
		}
		v, err := tpl.Eval(testEnv(t))
		if got := notation(v); err != nil || got != c.want {
			t.Errorf("%q: got %s, %v, want %s", c.source, got, err, c.want)
		}
		if got := tpl.Source(); got != c.source {
			t.Errorf("Source: got %q, want %q", got, c.source)
		}
		if got := tpl.IsLiteral(); got != c.literal || got && tpl.Literal() != v.Text() {
			t.Errorf("%q: IsLiteral is %t, Literal %q, want %t", c.source, got, tpl.Literal(), c.literal)
		}
	}
}

func TestTemplateFaults(t *testing.T) {
	const open = "The expression is not closed. An unescaped ${{ sequence was found, but the closing }} sequence was not found."
	for _, c := range []struct {
		source, message string
		at              string // what stands at the place of the fault
	}{
		{"a ${{ 1", open, "${{ 1"},
		{"${{ '}}", open, "${{ '}}"},
		{"${{ 1 }} ${{ } }", open, "${{ } }"},
		{"${{}}", "An expression was expected", "}}"},
		{"a ${{ \n }}", "An expression was expected", "}}"},
		{"run ${{ github.name }} ${{  unknown }}", "Unrecognized named-value: 'unknown'. Located at position 1 within expression: unknown", "unknown }}"},
		{"${{ github.name == }}", "Unexpected end of expression: '=='. Located at position 13 within expression: github.name ==", "== }}"},
		{"${{ bad( }} ${{ 1", "Unrecognized function: 'bad'. Located at position 1 within expression: bad(", "bad( }}"},
		{"${{ insert }}", "Unexpected value '${{ insert }}'", "insert }}"},
		{"a ${{ insert }}", faultDirective, "insert }}"},
		{"${{ insert 'a b' (c d) }}", "Exactly 0 parameter(s) were expected following the directive 'insert'. Actual parameter count: 2", "insert 'a b'"},
		{strings.Repeat("a", 21000) + "${{ 1 }}", "Exceeded max expression length 21000", ""},
		{strings.Repeat("${{ 1 }}", 255), "Too many parameters supplied: '('. Located at position 7 within expression: format('", ""},
	} {
		tpl, err := ParseTemplate(c.source, testNames)
		var fault *Error
		if !errors.As(err, &fault) {
			t.Errorf("%.60q: got %v, %v, want %q", c.source, tpl, err, c.message)
			continue
		}
		if !strings.HasPrefix(fault.Message, c.message) {
			t.Errorf("%.60q: got %q, want %q", c.source, fault.Message, c.message)
		}
		if got := c.source[fault.Start+fault.Offset:]; c.at != "" && !strings.HasPrefix(got, c.at) {
			t.Errorf("%.60q: the fault is at %q, want %q", c.source, got, c.at)
		}
	}
}

func TestTemplateLimits(t *testing.T) {
	for _, source := range []string{
		strings.Repeat("a", 1<<20), // no expression, no limit
		strings.Repeat("${{ 1 }}", 254),
		strings.Repeat("a", 20000) + "${{ github.name }}",
		"${{ insertion }}",
	} {
		if _, err := ParseTemplate(source, Names{}); err != nil {
			t.Errorf("%.40q: %v", source, err)
		}
	}
}

func TestTemplateCalls(t *testing.T) {
	tpl, err := ParseTemplate("${{ github.name }} ${{ answer() }} ${{ env.X }}", testNames)
	if err != nil {
		t.Fatal(err)
	}
	if !tpl.Calls("ANSWER") || tpl.Calls("fail") {
		t.Error("Calls is wrong")
	}
	if got := strings.Join(tpl.Uses(), " "); got != "github env" {
		t.Errorf("Uses: got %q, want %q", got, "github env")
	}
}
