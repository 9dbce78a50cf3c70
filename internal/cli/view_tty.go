package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/penstock-ci/penstock/internal/ci"
)

// failureLines is how much of a failed step's log is shown at once; the rest is one command away.
const failureLines = 60

// ttyView is what a terminal gets: what is done stays above, what runs is a tree that is drawn anew below.
type ttyView struct {
	out   io.Writer
	paint paint
	// size is the terminal's columns and rows, asked at every draw.
	size func() (columns, rows int)
	// stepLog reads the log of a step that has ended.
	stepLog func(r *ci.Run, j *ci.Job, s *ci.Step) []byte

	runs  []*ci.Run
	drawn int // lines of the tree that stand below
	frame int

	mu   sync.Mutex // guards last, which followers write
	last map[lastKey]string
}

type lastKey struct {
	run ci.RunID
	job ci.JobID
}

func newTTYView(out io.Writer, size func() (int, int), stepLog func(*ci.Run, *ci.Job, *ci.Step) []byte, colour bool) *ttyView {
	return &ttyView{out: out, paint: paint{colour}, size: size, stepLog: stepLog, last: map[lastKey]string{}}
}

func (v *ttyView) begin(r *ci.Run) {
	v.runs = append(v.runs, r)
}

func (v *ttyView) event(r *ci.Run, e ci.Event) {
	j := r.Job(e.Job)
	if j == nil || !e.Settles() || j.Call || j.Expanded {
		return
	}
	var b strings.Builder
	p := v.paint
	fmt.Fprintf(&b, "%s %s", p.mark(j.Status, j.Conclusion), p.bold(v.title(r, j)))
	switch {
	case !j.Started.IsZero():
		fmt.Fprintf(&b, "  %s", p.faint(took(j.Completed.Sub(j.Started))))
	case j.Conclusion != ci.Success:
		fmt.Fprintf(&b, "  %s", p.faint(string(j.Conclusion)))
	}
	if why := reasonOf(j); why != "" && j.Conclusion != ci.Success {
		fmt.Fprintf(&b, "  %s", p.faint(why))
	}
	b.WriteByte('\n')
	if j.Conclusion == ci.Failure {
		v.writeFailure(&b, r, j)
	}
	v.print(b.String())
}

// title is a job's name, behind its workflow's where several run.
func (v *ttyView) title(r *ci.Run, j *ci.Job) string {
	if len(v.runs) > 1 {
		return safe(runTitle(r) + " / " + j.Name)
	}
	return safe(j.Name)
}

// writeFailure lists the steps of a failed job with the failed step's log below it.
func (v *ttyView) writeFailure(b *strings.Builder, r *ci.Run, j *ci.Job) {
	p := v.paint
	for i := range j.Steps {
		s := &j.Steps[i]
		fmt.Fprintf(b, "  %s %s  %s\n", p.mark(s.Status, s.Conclusion), safe(s.Name), p.faint(took(lasted(s.Started, s.Completed, s.Completed))))
		if s.Conclusion != ci.Failure {
			continue
		}
		lines := bytes.Split(bytes.TrimRight(v.stepLog(r, j, s), "\n"), []byte("\n"))
		if n := len(lines) - failureLines; n > 0 {
			fmt.Fprintf(b, "    %s\n", p.faint(fmt.Sprintf("... %d lines before; penstock logs %d shows all", n, r.ID)))
			lines = lines[n:]
		}
		for _, line := range lines {
			if text := v.logLine(string(line)); text != "" {
				fmt.Fprintf(b, "    %s\n", text)
			}
		}
	}
}

func (v *ttyView) logLine(line string) string {
	l := parseLogLine(line)
	text, ok := l.plain()
	if !ok {
		return ""
	}
	text = safe(text)
	switch l.kind {
	case "error":
		return v.paint.red(text)
	case "warning":
		return v.paint.yellow(text)
	case "notice", "command":
		return v.paint.blue(text)
	case "group":
		return v.paint.bold(text)
	case "debug":
		return v.paint.faint(text)
	}
	return text
}

// log keeps the last line that says something, to show what a running job is at.
func (v *ttyView) log(r *ci.Run, j *ci.Job, lines []byte) {
	rest := bytes.TrimRight(lines, "\r\n \t")
	line := rest[bytes.LastIndexByte(rest, '\n')+1:]
	text, ok := parseLogLine(string(line)).plain()
	if !ok || text == "" {
		return
	}
	v.mu.Lock()
	v.last[lastKey{r.ID, j.ID}] = escapes.ReplaceAllString(text, "")
	v.mu.Unlock()
}

// tick draws the tree as it is at now.
func (v *ttyView) tick(now time.Time) {
	v.frame++
	v.write("", now)
}

func (v *ttyView) end(runs []*ci.Run) {
	v.erase()
	fmt.Fprintln(v.out)
	writeSummary(v.out, runs, v.paint)
}

// print puts finished text above the tree, and the tree below it again.
func (v *ttyView) print(text string) { v.write(text, time.Now()) }

func (v *ttyView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// write replaces the tree by text and a new tree, at once, so that the terminal never shows half of one.
func (v *ttyView) write(text string, now time.Time) {
	columns, rows := v.size()
	lines := v.tree(now, columns)
	if room := max(rows-2, 3); len(lines) > room {
		lines = append(lines[:room-1:room-1], v.paint.faint(fmt.Sprintf("... %d more lines", len(lines)-room+1)))
	}
	var b bytes.Buffer
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", v.drawn)
	}
	b.WriteString(text)
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	v.out.Write(b.Bytes())
	v.drawn = len(lines)
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// tree is what is going on: running jobs with their step and last line first, then what waits and why.
func (v *ttyView) tree(now time.Time, columns int) []string {
	p := v.paint
	var running, waiting []string
	queued := 0
	for _, r := range v.runs {
		for _, j := range r.Jobs {
			switch {
			case j.Call || j.Expanded || j.Status == ci.Completed:
			case j.Status == ci.InProgress:
				name := runewidth.Truncate(v.title(r, j), max(columns-12, 10), "…")
				running = append(running, fmt.Sprintf("%s %s  %s", p.yellow(string(spinner[v.frame%len(spinner)])), p.bold(name), p.faint(took(lasted(j.Started, j.Completed, now)))))
				running = append(running, v.current(r, j, now, columns)...)
			case j.Status == ci.Queued:
				queued++
			default:
				text := v.title(r, j)
				if j.Reason != "" {
					text += "  " + safe(j.Reason)
				}
				waiting = append(waiting, p.faint("○ "+runewidth.Truncate(text, max(columns-3, 10), "…")))
			}
		}
	}
	if queued > 0 {
		waiting = append([]string{p.faint(fmt.Sprintf("○ %d queued", queued))}, waiting...)
	}
	return append(running, waiting...)
}

// current is the step that a job is at, and the last line it printed.
func (v *ttyView) current(r *ci.Run, j *ci.Job, now time.Time, columns int) []string {
	var out []string
	for i := len(j.Steps) - 1; i >= 0; i-- {
		if s := &j.Steps[i]; s.Status == ci.InProgress {
			name := runewidth.Truncate(safe(s.Name), max(columns-14, 10), "…")
			out = append(out, fmt.Sprintf("  %s  %s", name, v.paint.faint(took(lasted(s.Started, s.Completed, now)))))
			break
		}
	}
	v.mu.Lock()
	last := v.last[lastKey{r.ID, j.ID}]
	v.mu.Unlock()
	if last != "" {
		out = append(out, "    "+v.paint.faint(runewidth.Truncate(strings.ReplaceAll(last, "\t", " "), max(columns-5, 10), "…")))
	}
	return out
}
