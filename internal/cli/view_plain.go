package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/penstock-ci/penstock/internal/ci"
)

// plainView is what a pipe gets: every line of every job behind the job's name, and one line a change.
type plainView struct {
	mu  sync.Mutex
	out *bufio.Writer
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
	name := safe(j.Name)
	for line := range bytes.Lines(lines) {
		if text, ok := parseLogLine(string(line)).plain(); ok {
			fmt.Fprintf(v.out, "%s | %s\n", name, escapes.ReplaceAllString(text, ""))
		}
	}
	v.out.Flush()
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
