package workflow

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/expr"
)

// jobOf parses a workflow of one job, given by its keys.
func jobOf(t testing.TB, keys string) *Job {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(keys) {
		b.WriteString("    " + line)
	}
	w, err := ParseWorkflow("ci.yml", []byte("on: push\njobs:\n  a:\n    runs-on: x\n"+b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return w.Jobs[0]
}

func testEnv(t testing.TB) expr.Env {
	t.Helper()
	github, err := expr.FromJSON([]byte(`{"ref":"main","n":3.10,"list":["a","b"],"map":{"X":1,"y":true},"deep":{"Z":{"q":[1]}},"none":null,"yes":true}`))
	if err != nil {
		t.Fatal(err)
	}
	return expr.Env{Contexts: map[string]expr.Value{"github": github}}
}

func TestEval(t *testing.T) {
	for _, test := range []struct{ name, keys, want string }{
		{"a literal string", "env: {A: x}", `{"A":"x"}`},
		{"numbers and words become strings where strings are wanted", "env: {A: 3.10, B: true, C: null, D: 0x10}", `{"A":"3.1","B":"true","C":"","D":"16"}`},
		{"so do expressions", "env: {A: '${{ github.n }}', B: '${{ github.yes }}', C: '${{ github.none }}'}", `{"A":"3.1","B":"true","C":""}`},
		{"text around", "env: {A: 'v${{ github.n }}-${{ github.ref }}'}", `{"A":"v3.1-main"}`},
		{"a whole mapping", "env: ${{ github.map }}", `{"X":"1","y":"true"}`},
		{"insert", "env:\n  A: b\n  ${{ insert }}: ${{ github.map }}\n  Z: z", `{"A":"b","X":"1","y":"true","Z":"z"}`},
		{"a key", "env: {'${{ github.ref }}': x, '${{ github.n }}': y}", `{"main":"x","3.1":"y"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := jobOf(t, test.keys).Env.Eval(testEnv(t))
			if err != nil {
				t.Fatal(err)
			}
			if got := jsonOf(t, v); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestEvalOfOtherKeys(t *testing.T) {
	for _, test := range []struct{ keys, want string }{
		{"strategy: {matrix: {v: ['${{ github.list }}', c, '${{ github.n }}'], w: '${{ github.list }}'}}", `{"v":["a","b","c",3.1],"w":["a","b"]}`},
		{"strategy: {matrix: {v: [1, 2.50, '3', true, null, {a: [b]}]}}", `{"v":[1,2.5,"3",true,null,{"a":["b"]}]}`},
		{"strategy: {matrix: '${{ fromJSON(''{\"a\":[1],\"include\":[{\"a\":2}]}'') }}'}", `{"a":[1],"include":[{"a":2}]}`},
		{"strategy: {matrix: {include: ['${{ github.map }}', {'${{ insert }}': '${{ github.deep }}'}]}}", `{"include":[{"X":1,"y":true},{"Z":{"q":[1]}}]}`},
	} {
		v, err := jobOf(t, test.keys).Strategy.Matrix.Eval(testEnv(t))
		if err != nil {
			t.Errorf("%s: %v", test.keys, err)
		} else if got := jsonOf(t, v); got != test.want {
			t.Errorf("%s: got %s, want %s", test.keys, got, test.want)
		}
	}
	runsOn := map[string]string{
		"runs-on: ['${{ github.list }}', x]":                                  `["a","b","x"]`,
		"runs-on: ${{ github.list }}":                                         `["a","b"]`,
		"runs-on: {group: '${{ github.ref }}', labels: '${{ github.list }}'}": `{"group":"main","labels":["a","b"]}`,
		"runs-on: ${{ fromJSON('{\"group\":1,\"labels\":[true]}') }}":         `{"group":"1","labels":["true"]}`,
	}
	for keys, want := range runsOn {
		w, err := ParseWorkflow("ci.yml", []byte("on: push\njobs:\n  a:\n    "+keys+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := w.Jobs[0].RunsOn.Eval(testEnv(t))
		if err != nil {
			t.Errorf("%s: %v", keys, err)
		} else if got := jsonOf(t, v); got != want {
			t.Errorf("%s: got %s, want %s", keys, got, want)
		}
	}
}

func TestEvalErrors(t *testing.T) {
	for _, test := range []struct{ keys, want string }{
		{"env: ${{ github.list }}", "(Line: 5, Col: 10): A sequence was not expected"},
		{"env: ${{ github.ref }}", "(Line: 5, Col: 10): Unexpected value 'main'"},
		{"env: {A: '${{ github.map }}'}", "(Line: 5, Col: 14): A mapping was not expected"},
		{"env: {A: '${{ github.list }}'}", "(Line: 5, Col: 14): A sequence was not expected"},
		{"env: {A: '${{ fromJSON(''x'') }}'}", "(Line: 5, Col: 14): Error parsing fromJson"},
		{"env: {'${{ insert }}': x}", "(Line: 5, Col: 28): Expected a mapping"},
		{"env: {x: 1, '${{ insert }}': '${{ github.map }}'}", "(Line: 5, Col: 34): 'X' is already defined"},
		{"env: {'${{ github.map }}': x}", "(Line: 5, Col: 11): Expected a scalar value"},
		{"env: {'${{ github.none }}': x}", "(Line: 5, Col: 11): Unexpected value ''"},
		{"environment: {'${{ insert }}': '${{ github.map }}'}", "(Line: 5, Col: 36): Unexpected value 'X'"},
		{"environment: {'${{ insert }}': '${{ fromJSON(''{\"deployment\":false}'') }}'}", "(Line: 5, Col: 18): Required property is missing: name"},
		{"concurrency: {group: '${{ github.ref }}', cancel-in-progress: '${{ github.n }}'}", "(Line: 5, Col: 67): Unexpected value '3.1'"},
		{"concurrency: {group: '${{ github.none }}'}", "(Line: 5, Col: 26): Unexpected value ''"},
		{"timeout-minutes: ${{ github.ref }}", "(Line: 5, Col: 22): Unexpected value 'main'"},
		{"timeout-minutes: ${{ github.list }}", "(Line: 5, Col: 22): A sequence was not expected"},
	} {
		j := jobOf(t, test.keys)
		n := slices.DeleteFunc([]*Node{j.Env, j.Concurrency, j.Environment, j.TimeoutMinutes}, func(n *Node) bool { return n == nil })[0]
		_, err := n.Eval(testEnv(t))
		var failure *EvalError
		if !errors.As(err, &failure) || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s:\n got %v\nwant %s", test.keys, err, test.want)
		}
	}
}

// TestEvalMemory holds that aliases cannot multiply a large value.
func TestEvalMemory(t *testing.T) {
	env := testEnv(t)
	env.Contexts["github"] = env.Contexts["github"].With("big", expr.String(strings.Repeat("x", 1<<20)))
	j := jobOf(t, "strategy:\n  matrix:\n    v: [&a '${{ github.big }}'"+strings.Repeat(", *a", 20)+"]\n")
	_, err := j.Strategy.Matrix.Eval(env)
	var failure *EvalError
	if !errors.As(err, &failure) || failure.Message != saySize {
		t.Errorf("got %v, want %s", err, saySize)
	}
}

func TestNode(t *testing.T) {
	env := jobOf(t, "env: {A: one, B: 'x ${{ github.ref }}', C: '${{ secrets.X && matrix.y && github.z }}', D: '${{ format(''{0}'', github.a) }}', '${{ vars.k }}': v}").Env
	if got, want := env.Uses(), []string{"github", "secrets", "matrix", "vars"}; !slices.Equal(got, want) {
		t.Errorf("Uses: got %v, want %v", got, want)
	}
	if !env.Calls("FORMAT") || env.Calls("hashFiles") {
		t.Error("Calls does not find what is called")
	}
	if env.Kind() != "mapping" || env.IsLiteral() || len(env.Pairs()) != 5 || env.Items() != nil {
		t.Error("a mapping is not taken for one")
	}
	a, b := env.Get("A"), env.Get("B")
	if a.Kind() != "string" || !a.IsLiteral() || a.Literal().Text() != "one" || a.Source() != "one" || a.Pos != (Pos{5, 14}) {
		t.Errorf("A: %+v", a)
	}
	if b.Kind() != "expression" || b.IsLiteral() || !b.Literal().IsNull() || b.Source() != "x ${{ github.ref }}" {
		t.Errorf("B: %+v", b)
	}
	if got := jsonOf(t, env.Literal()); got != `{"A":"one","B":null,"C":null,"D":null}` {
		t.Errorf("Literal: got %s", got)
	}
	if env.Get("missing") != nil {
		t.Error("Get finds what is not there")
	}
	matrix := jobOf(t, "strategy: {matrix: {v: [1, true, null, x]}}").Strategy.Matrix.Get("v")
	var kinds []string
	for _, item := range matrix.Items() {
		kinds = append(kinds, item.Kind())
	}
	if got := strings.Join(kinds, " "); matrix.Kind() != "sequence" || got != "number boolean null string" || jsonOf(t, matrix.Literal()) != `[1,true,null,"x"]` {
		t.Errorf("items: got %s", got)
	}
}

func TestNilNode(t *testing.T) {
	var n *Node
	v, err := n.Eval(expr.Env{})
	if err != nil || !v.IsNull() || n.Kind() != "null" || !n.IsLiteral() || !n.Literal().IsNull() || n.Pairs() != nil || n.Items() != nil ||
		n.Get("x") != nil || n.Source() != "" || n.Calls("x") || n.Uses() != nil {
		t.Error("a nil node is not null")
	}
}
