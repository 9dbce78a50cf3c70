package expr

import (
	"strings"
	"testing"
)

const benchSource = "github.event_name == 'push' && startsWith(github.ref, 'refs/heads/') && contains(fromJSON('[\"main\",\"dev\"]'), github.ref_name)"

func benchEnv(b *testing.B) Env {
	b.Helper()
	github, err := FromJSON([]byte(`{"event_name":"push","ref":"refs/heads/main","ref_name":"main","sha":"2ce6b095f4cceb616efed52266e3e3c0367ba795"}`))
	if err != nil {
		b.Fatal(err)
	}
	return Env{Contexts: map[string]Value{"github": github}}
}

func BenchmarkParse(b *testing.B) {
	names := Names{Contexts: []string{"env", "vars", "needs", "github"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(benchSource, names); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEval(b *testing.B) {
	env := benchEnv(b)
	e, err := Parse(benchSource, Names{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if v, err := e.Eval(env); err != nil || !v.Truthy() {
			b.Fatal(v, err)
		}
	}
}

func BenchmarkTemplate(b *testing.B) {
	env := benchEnv(b)
	tpl, err := ParseTemplate(strings.Repeat("echo building ${{ github.sha }} of ${{ github.ref_name }}\n", 10), Names{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpl.Eval(env); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromJSON(b *testing.B) {
	data := []byte("[" + strings.Repeat(testContext+",", 100) + "1]")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := FromJSON(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkToJSON(b *testing.B) {
	v, err := FromJSON([]byte("[" + strings.Repeat(testContext+",", 100) + "1]"))
	if err != nil {
		b.Fatal(err)
	}
	e, err := Parse("toJSON(github)", Names{})
	if err != nil {
		b.Fatal(err)
	}
	env := Env{Contexts: map[string]Value{"github": v}}
	b.SetBytes(int64(len(v.PrettyJSON())))
	for b.Loop() {
		if _, err := e.Eval(env); err != nil {
			b.Fatal(err)
		}
	}
}
