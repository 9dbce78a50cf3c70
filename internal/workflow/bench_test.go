package workflow

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/expr"
)

// benchmarkFile is a workflow of about size bytes, of the usual kind.
func benchmarkFile(size int) []byte {
	var b strings.Builder
	b.WriteString("name: CI\non:\n  push:\n    branches: [main, develop]\n  pull_request:\nenv:\n  NODE_VERSION: '18'\njobs:\n")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `  job-%d:
    name: Job ${{ matrix.os }}
    runs-on: ${{ matrix.os }}
    strategy:
      fail-fast: false
      matrix:
        os: [ubuntu-latest, windows-latest]
        version: ['3.10', '3.11']
    steps:
      - uses: actions/checkout@v4
      - name: Set up
        if: github.event_name != 'pull_request' && success()
        uses: actions/setup-python@v5
        with:
          python-version: ${{ matrix.version }}
          cache: pip # kept between runs
      - name: Test
        env:
          DATABASE_URL: "postgresql://postgres:pass@localhost/test"
        run: |
          cd backend
          pytest -v --cov=app --junitxml=${{ runner.temp }}/report-${{ matrix.version }}.xml
`, i)
	}
	return []byte(b.String())
}

func BenchmarkParseWorkflow(b *testing.B) {
	for _, size := range []int{1_000, 10_000, 100_000} {
		src := benchmarkFile(size)
		b.Run(fmt.Sprintf("%dKB", size/1000), func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseWorkflow("ci.yml", src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkExpandMatrix(b *testing.B) {
	side := make([]expr.Value, 16)
	for i := range side {
		side[i] = expr.Number(float64(i))
	}
	matrix := expr.Object(expr.Pair{Key: "a", Value: expr.Array(side...)}, expr.Pair{Key: "b", Value: expr.Array(side...)},
		expr.Pair{Key: "include", Value: expr.Array(expr.Object(expr.Pair{Key: "x", Value: expr.String("y")}))})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ExpandMatrix(matrix); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatches(b *testing.B) {
	w := parseOn(b, "{push: {branches: [main, 'release/**'], paths: ['**.go', '!vendor/**']}}")
	ev := Event{Name: "push", Ref: "refs/heads/main", PathsKnown: true, Paths: strings.Fields(strings.Repeat("docs/a.md ", 299) + "main.go")}
	b.ReportAllocs()
	for b.Loop() {
		if ok, _ := w.Matches(ev); !ok {
			b.Fatal("no match")
		}
	}
}
