package expr

import "testing"

func TestEval(t *testing.T) {
	ctx, err := FromJSON([]byte(`{"a":{"b":[1,2,{"c":"x"}]},"s":"Hello","n":1.5}`))
	if err != nil {
		t.Fatal(err)
	}
	env := Env{Contexts: map[string]Value{"github": ctx}}
	for _, c := range []struct{ src, want string }{
		{"1 == 1 && 'a' || 'b'", `"a"`},
		{"github.a.b[2].C", `"x"`},
		{"github.*.b", `[
  [
    1,
    2,
    {
      "c": "x"
    }
  ]
]`},
		{"format('{0}-{1}{{}}', github.s, github.n)", `"Hello-1.5{}"`},
		{"!(1 > 2) == true", "true"},
		{"fromJSON('[1,2.50,1e21]')[2]", "1E+21"},
		{"case(false, 1, true, 2, 3)", "2"},
		{"0xff", "255"}, {"0o17", "15"}, {"-0", "0"}, {".5", "0.5"}, {"1e-7", "1E-07"}, {"123456789012345680", "1.23456789012346E+17"},
		{"0.1", "0.1"}, {"1234.5678", "1234.5678"}, {"0.000123", "0.000123"}, {"-Infinity", "-Infinity"}, {"NaN", "NaN"},
	} {
		e, err := Parse(c.src, Names{})
		if err != nil {
			t.Errorf("%s: %v", c.src, err)
			continue
		}
		got, err := e.Eval(env)
		if err != nil || got.PrettyJSON() != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.src, got.PrettyJSON(), err, c.want)
		}
	}
}

func TestTemplate(t *testing.T) {
	tpl, err := ParseTemplate("a ${{ 1 }} {b} '${{ 'x}}''' }}'", Names{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpl.Eval(Env{})
	if want := "a 1 {b} 'x}}''"; err != nil || got.Text() != want {
		t.Errorf("got %q, %v, want %q", got.Text(), err, want)
	}
}
