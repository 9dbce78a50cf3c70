package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/penstock-ci/penstock/internal/ci"
)

// plainView is what a pipe gets: every line of every job behind the job's name, and one line a change.
type plainView struct {
	mu    sync.Mutex
	out   *bufio.Writer
	lines []byte // reused
}

func newPlainView(out io.Writer) *plainView { return &plainView{out: bufio.NewWriterSize(out, 64<<10)} }

func (v *plainView) begin(r *ci.Run) {
	v.printf("run %d | %s\n", r.ID, safe(r.Name))
}

func (v *plainView) event(r *ci.Run, e ci.Event) {
	j := r.Job(e.Job)
	if j == nil || !e.Settles() || j.Call || j.Expanded {
		return
	}
	text := string(j.Conclusion)
	if !j.Started.IsZero() {
		text += " in " + took(j.Completed.Sub(j.Started))
	}
	if why := reasonOf(j); why != "" {
		text += ": " + why
	}
	v.printf("%s | %s\n", safe(j.Name), text)
}

func (v *plainView) log(_ *ci.Run, j *ci.Job, lines []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := safe(j.Name) + " | "
	v.lines = v.lines[:0]
	for line := range bytes.Lines(lines) {
		if !isPlain(line) {
			text, ok := parseLogLine(string(line)).plain()
			if !ok {
				continue
			}
			line = []byte(escapes.ReplaceAllString(text, ""))
		}
		v.lines = append(append(append(v.lines, name...), bytes.TrimSuffix(line, []byte("\n"))...), '\n')
	}
	_, _ = v.out.Write(v.lines) // nobody could be told
	v.out.Flush()
}

// c1Lead is the first byte of the control characters U+0080 to U+009F, which some terminals obey, and of some others.
const c1Lead = 0xc2

// isPlain says whether a line has neither a mark nor anything that a terminal obeys: most are
// so, and logs are long, so it looks at eight bytes at a time.
func isPlain(line []byte) bool {
	text := bytes.TrimSuffix(line, []byte("\n"))
	if bytes.HasPrefix(text, []byte("##[")) {
		return false
	}
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(text) >= 8; text = text[8:] {
		w := binary.LittleEndian.Uint64(text)
		del, c1 := w^0x7f*ones, w^c1Lead*ones
		if ((w-' '*ones)&^w|(del-ones)&^del|(c1-ones)&^c1)&highs != 0 && !isPlainShort(text[:8]) {
			return false
		}
	}
	return isPlainShort(text)
}

func isPlainShort(text []byte) bool {
	for _, c := range text {
		if c < ' ' && c != '\t' || c == 0x7f || c == c1Lead {
			return false
		}
	}
	return true
}

func (v *plainView) end(runs []*ci.Run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	writeSummary(v.out, runs, paint{})
	v.out.Flush()
}

func (v *plainView) printf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintf(v.out, format, args...)
	v.out.Flush()
}
