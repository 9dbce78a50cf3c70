package cli

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
)

// TestPlainLines holds the quick look at a line against the slow one, on lines with all that may stand in one.
func TestPlainLines(t *testing.T) {
	parts := []string{"a", "word ", "\t", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x00", "\r", "é", "°", "\u009b31m", "日本", "##[", "##[error]", "##[endgroup]", "\x9b", "\xff"}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		line := ""
		for range random.IntN(12) {
			line += parts[random.IntN(len(parts))]
		}
		want := ""
		if text, ok := parseLogLine(line).plain(); ok {
			want = "job | " + escapes.ReplaceAllString(text, "") + "\n"
		}
		var out bytes.Buffer
		newPlainView(&out).log(nil, &ci.Job{Name: "job"}, []byte(line+"\n"))
		if out.String() != want {
			t.Fatalf("%q is shown as %q, not %q", line, out.String(), want)
		}
	}
}
