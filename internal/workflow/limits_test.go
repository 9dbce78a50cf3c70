package workflow

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// mistakesIn gives the messages of a workflow's mistakes with their places.
func mistakesIn(t testing.TB, src string) []string {
	t.Helper()
	_, err := ParseWorkflow("ci.yml", []byte(src))
	var mistakes Errors
	if err != nil && !errors.As(err, &mistakes) {
		t.Fatalf("an error of the wrong type: %v", err)
	}
	out := make([]string, len(mistakes))
	for i, m := range mistakes {
		if m.Path != "ci.yml" || m.Severity != "error" {
			t.Errorf("%+v has no path or severity", m)
		}
		out[i] = m.String()
	}
	return out
}

func TestHostileFiles(t *testing.T) {
	valid := "on: push\njobs: {a: {runs-on: x}}\n"
	deep := func(n int) string { return valid + "env: " + strings.Repeat("[", n) + strings.Repeat("]", n) }
	bomb := "on: push\na: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'h'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+", ", 10), ", ") + "]\n"
	}
	for _, test := range []struct{ name, src, want string }{
		{"10 MB", strings.Repeat("# 10 MB of comment\n", 550_000), "ci.yml: The maximum file size of 1048576 characters has been exceeded"},
		{"just over the limit", strings.Repeat("x", maxFileSize+1), "ci.yml: The maximum file size of 1048576 characters has been exceeded"},
		{"the limit is in characters", valid + "# " + strings.Repeat("é", maxFileSize/2+1000), ""},
		{"no UTF-8", "on: push\nname: a\xff", "ci.yml (Line: 2, Col: 8): The file is not valid UTF-8"},
		{"NUL", "on: push\nname: 😀\x00", "ci.yml (Line: 2, Col: 9): The file holds a NUL character"},
		{"50 levels", strings.Replace(valid, "x}}", "x, strategy: {matrix: {v: ["+strings.Repeat("[", 44)+strings.Repeat("]", 44)+"]}}}}", 1), ""},
		{"51 levels", strings.Replace(valid, "x}}", "x, strategy: {matrix: {v: ["+strings.Repeat("[", 45)+strings.Repeat("]", 45)+"]}}}}", 1), "ci.yml (Line: 2, Col: 92): Maximum object depth exceeded"},
		{"a million brackets", deep(500_000), "ci.yml (Line: 3, Col: 56): Maximum object depth exceeded"},
		{"block nesting", "on: push\nenv:\n" + strings.Repeat("- ", 10_000), "ci.yml (Line: 3, Col: 99): Maximum object depth exceeded"},
		{"aliases that explode", bomb, "Maximum YAML nodes exceeded"},
		{"an alias of itself", "on: push\nenv: &a\n  x: *a\n", "ci.yml (Line: 3, Col: 3): Maximum object depth exceeded"},
		{"too many nodes", "on: push\nenv: {" + strings.Repeat("a: b, ", 60_000) + "}", "Maximum YAML nodes exceeded"},
		{"large values by alias", "on: push\njobs: {a: {runs-on: x, strategy: {matrix: {v: [&a '" + strings.Repeat("x", 500_000) + "'" + strings.Repeat(", *a", 40) + "]}}}}", "Maximum object size exceeded"},
		{"a key of 2000 characters", "on: push\n" + strings.Repeat("k", 2000) + ": x", "ci.yml (Line: 2, Col: 1): While scanning a simple key, could not find expected ':'."},
	} {
		got := mistakesIn(t, test.src)
		if test.want == "" && len(got) > 0 || test.want != "" && !slices.ContainsFunc(got, func(m string) bool { return strings.HasSuffix(m, test.want) }) {
			t.Errorf("%s: got %.300q, want %q", test.name, got, test.want)
		}
	}
}

func TestManyMistakes(t *testing.T) {
	src := "on: push\njobs:\n  a:\n    runs-on: x\n" + strings.Repeat("    nonsense: x\n", 1)
	for i := range 500 {
		src += "    x" + strings.Repeat("y", i%7) + "z: &a" + strings.Repeat("b", i%5) + " 1\n"
	}
	if got := mistakesIn(t, src); len(got) != maxFindings {
		t.Errorf("got %d mistakes, want %d", len(got), maxFindings)
	}
	long := mistakesIn(t, "on: push\njobs: {a: {runs-on: x}}\n"+strings.Repeat("😀", 400)+": x\n")
	if len(long) != 1 || !strings.HasSuffix(long[0], "[...]") || utf16Len(long[0]) > maxMessage+100 {
		t.Errorf("a long message is not cut: %.100q", long)
	}
}

func TestMistakesComeInOrder(t *testing.T) {
	got := mistakesIn(t, `on: push
jobs:
  a:
    runs-on: x
    steps:
      - {run: x, id: 1}
      - {run: x, foo: y}
  b:
    needs: [a]
`)
	want := []string{
		"ci.yml (Line: 6, Col: 22): The identifier '1' is invalid. IDs may only contain alphanumeric characters, '_', and '-'. IDs must start with a letter or '_' and must be less than 100 characters.",
		"ci.yml (Line: 7, Col: 18): Unexpected value 'foo'",
		"ci.yml (Line: 9, Col: 5): There's not enough info to determine what you meant. Add one of these properties: cancel-timeout-minutes, container, continue-on-error, defaults, env, environment, outputs, runs-on, secrets, services, snapshot, steps, timeout-minutes, uses, with",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestLongRuns holds that reading takes time in proportion to the file: some of these would take minutes if it did not.
func TestLongRuns(t *testing.T) {
	const n = 200_000
	for _, run := range []string{"\t", " ", "\n", "- ", "[", "]", ",", "? ", ": ", "'", "\"", "''", "\\", "#", "&a ", "*a ", "!", "!a ", "|\n", "a", "a ", "a\n", "a: ", "a:\n", "--- ", "...\n", "%a\n", "{a: ", "[a,", "\t\n", " \t", "\"\\\n", "é", "${{", "${{ a }}", "}}", "\r"} {
		for _, head := range []string{"", "on: push\n", "a: ", "- ", "a: [", "a: \"", "a: '", "a: |\n", "a: |\n ", "a: x\n  ", "? "} {
			mistakesIn(t, head+strings.Repeat(run, n/len(run)))
		}
	}
}
