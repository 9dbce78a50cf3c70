package workflow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/expr"
)

// matrixOf reads the value of a matrix as the file would give it.
func matrixOf(t testing.TB, yaml string) expr.Value {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(yaml) {
		b.WriteString("        " + line)
	}
	w, err := ParseWorkflow("ci.yml", []byte("on: push\njobs:\n  test:\n    runs-on: x\n    strategy:\n      matrix:\n"+b.String()))
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.Jobs[0].Strategy.Matrix.Eval(expr.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestExpandMatrix(t *testing.T) {
	for _, test := range []struct{ name, yaml, want string }{
		{"cross product, the first key slowest", "os: [linux, windows]\narch: [x64, x86, arm]\n",
			"linux x64|linux x86|linux arm|windows x64|windows x86|windows arm"},
		{"exclude", "arch: [x64, x86]\nos: [linux, windows]\nexclude: [{arch: x86, os: linux}]\n",
			"x64 linux|x64 windows|x86 windows"},
		{"exclude in part, ignoring case", "arch: [x64, x86]\nos: [linux, windows]\nexclude: [{arch: X86}]\n", "x64 linux|x64 windows"},
		{"exclude by loose equality", "v: [1, 2]\nexclude: [{v: '1'}]\n", "2"},
		{"exclude within values", "v: [{n: 1, a: x}, {n: 2, a: x}]\nexclude: [{v: {n: 1}}]\n", `{"n":2,"a":"x"}`},
		{"exclude all", "v: [1]\nexclude: [{v: 1}]\n", ""},
		// https://docs.github.com/en/actions/using-jobs/using-a-matrix-for-your-jobs#expanding-or-adding-matrix-configurations
		{"the example of GitHub's page", `fruit: [apple, pear]
animal: [cat, dog]
include:
  - color: green
  - color: pink
    animal: cat
  - fruit: apple
    shape: circle
  - fruit: banana
  - fruit: banana
    animal: cat
`, "apple cat pink circle|apple dog green circle|pear cat pink|pear dog green|banana|banana cat"},
		{"include alone", "include: [{a: 1}, {b: 2, c: 3}]\n", "1|2 3"},
		{"include after exclude", "v: [1, 2]\nexclude: [{v: 1}]\ninclude: [{v: 1, x: y}]\n", "2|1 y"},
		{"include of a value that is there", "v: [1, 2]\ninclude: [{v: 2}]\n", "1|2"},
		{"later include wins", "v: [1]\ninclude: [{x: a}, {x: b}]\n", "1 b"},
		{"nested include", "v: [{n: 1}, {n: 2}]\ninclude: [{v: {n: 2}, x: y}]\n", `{"n":1}|{"n":2} y`},
		{"keys ignore case", "OS: [a, b]\ninclude: [{os: b, x: y}]\n", "a|b y"},
		{"values of every kind", "v: [null, true, 1.5, '', [1], {a: b}]\n", `null|true|1.5||[1]|{"a":"b"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			cells, err := Cells(matrixOf(t, test.yaml))
			if err != nil {
				t.Fatal(err)
			}
			if got := cellsText(t, cells); got != test.want {
				t.Errorf("got %s\nwant %s", got, test.want)
			}
		})
	}
}

// cellsText writes cells as their values.
func cellsText(t testing.TB, cells []expr.Value) string {
	t.Helper()
	var out []string
	for _, c := range cells {
		var values []string
		for _, p := range c.Pairs() {
			if p.Value.Kind() == expr.KindString {
				values = append(values, p.Value.Text())
				continue
			}
			text, err := json.Marshal(p.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, string(text))
		}
		out = append(out, strings.Join(values, " "))
	}
	return strings.Join(out, "|")
}

func TestExpandMatrixErrors(t *testing.T) {
	many := make([]any, 20)
	big := make([]any, 300)
	for _, test := range []struct {
		matrix any
		want   string
	}{
		{"x", "A matrix must be a mapping, this is a string"},
		{map[string]any{}, "Matrix must define at least one vector"},
		{map[string]any{"v": "x"}, "Matrix key 'v' must be a sequence, this is a string"},
		{map[string]any{"v": []any{}}, "Matrix vector 'v' does not contain any values"},
		{map[string]any{"include": []any{}}, "Matrix must define at least one vector"},
		{map[string]any{"include": []any{"x"}}, "A matrix include must be a mapping, this is a string"},
		{map[string]any{"include": []any{map[string]any{}}}, "Matrix include mapping does not contain any values"},
		{map[string]any{"v": []any{1.0}, "exclude": []any{map[string]any{}}}, "Matrix exclude filter must not be empty"},
		{map[string]any{"v": []any{1.0}, "exclude": []any{map[string]any{"w": 1.0}}}, "Matrix exclude key 'w' does not match any key within the matrix"},
		{map[string]any{"v": []any{1.0}, "exclude": []any{nil}}, "A matrix exclude must be a mapping, this is null"},
		{map[string]any{"a": many, "b": many}, sayTooManyCells},
		{map[string]any{"a": big, "b": big, "c": big, "d": big}, sayTooManyCells},
	} {
		v, err := expr.FromGo(test.matrix)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Cells(v); err == nil || err.Error() != test.want {
			t.Errorf("%v:\n got %v\nwant %s", test.matrix, err, test.want)
		}
	}
	if cells, err := Cells(expr.Null()); cells == nil || len(cells) != 0 || err != nil {
		t.Errorf("no matrix: got %v, %v", cells, err)
	}
}

func TestMatrixOf256(t *testing.T) {
	side := make([]any, 16)
	for i := range side {
		side[i] = float64(i)
	}
	v, err := expr.FromGo(map[string]any{"a": side, "b": side})
	if err != nil {
		t.Fatal(err)
	}
	cells, err := Cells(v)
	if err != nil || len(cells) != 256 {
		t.Fatalf("got %d cells, %v, want 256", len(cells), err)
	}
	more := v.With("include", expr.Array(expr.Object(expr.Pair{Key: "a", Value: expr.String("x")})))
	if _, err := Cells(more); err == nil {
		t.Error("257 cells were allowed")
	}
}

func TestJobName(t *testing.T) {
	long := strings.Repeat("x", 99)
	for _, test := range []struct{ name, matrix, want string }{
		{"test", "v: ['3.10']\nkind: [unit]\n", "test (3.10, unit)"},
		{"test", "v: [3.10]\n", "test (3.1)"},
		{"test", "v: [{os: linux, tags: [a, b]}]\nw: [true]\n", "test (linux, a, b, true)"},
		{"test", "v: [null]\nw: ['']\n", "test"},
		{"test", "v: [1]\ninclude: [{extra: more}]\n", "test (1)"},
		{"test", "include: [{a: x, b: y}]\n", "test (x, y)"},
		{long, "v: [ab]\n", long[:97] + "..."},
		{"", "v: [1]\n", ""},
	} {
		cells, err := ExpandMatrix(matrixOf(t, test.matrix))
		if err != nil {
			t.Fatal(err)
		}
		if got := cells[0].JobName(test.name); got != test.want {
			t.Errorf("%s: got %q, want %q", test.matrix, got, test.want)
		}
	}
	if got := JobName("build", expr.Null()); got != "build" {
		t.Errorf("without a matrix: got %q", got)
	}
}

func FuzzCells(f *testing.F) {
	f.Add([]byte(`{"os":["a","b"],"v":[1,{"x":[2]}],"include":[{"os":"a","y":1},{"z":2}],"exclude":[{"os":"b","v":1}]}`))
	f.Add([]byte(`{"include":[{"a":{"b":[]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := expr.FromJSON(data)
		if err != nil || len(data) > 1<<16 {
			return
		}
		cells, err := ExpandMatrix(v)
		if err != nil {
			return
		}
		if len(cells) > maxCells {
			t.Fatalf("%d cells", len(cells))
		}
		for _, c := range cells {
			if name := c.JobName("job"); utf16Len(name) > maxName {
				t.Fatalf("a name of %d characters", utf16Len(name))
			}
			checkCell(t, v, c.Values)
		}
	})
}

// checkCell checks that a cell has a value of each vector, or is an include.
func checkCell(t *testing.T, matrix, cell expr.Value) {
	t.Helper()
	ofProduct := true
	for _, p := range matrix.Pairs() {
		if p.Key == "include" || p.Key == "exclude" {
			continue
		}
		value, ok := cell.Lookup(p.Key)
		ofProduct = ofProduct && ok && slices.ContainsFunc(p.Value.Items(), func(v expr.Value) bool { return expr.DeepEqual(v, value) })
	}
	if ofProduct {
		return
	}
	for _, include := range matrix.Property("include").Items() {
		if expr.DeepEqual(include, cell) {
			return
		}
	}
	t.Fatal(fmt.Sprint("a cell that is neither a combination nor an include: ", cell.Go()))
}
