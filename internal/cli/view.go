package cli

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// view shows runs as they go. Calls come from one goroutine, except log, which each job's follower calls.
type view interface {
	// begin is called once a run, before its events.
	begin(r *ci.Run)
	// event is called after e has been applied to r.
	event(r *ci.Run, e ci.Event)
	// log gives whole lines of a job's log, as they are stored, each with its line feed.
	log(r *ci.Run, j *ci.Job, lines []byte)
	// end is called when every run has completed.
	end(runs []*ci.Run)
}

// logLine is one line of a job's log, in the words that GitHub stores and shows.
type logLine struct {
	kind string // group, endgroup, error, warning, notice, command, debug, section, or empty for plain text
	text string
}

func parseLogLine(line string) logLine {
	line = strings.TrimRight(line, "\r\n")
	if rest, ok := strings.CutPrefix(line, "##["); ok {
		if kind, text, ok := strings.Cut(rest, "]"); ok {
			switch kind {
			case "group", "endgroup", "error", "warning", "notice", "command", "debug", "section":
				return logLine{kind, text}
			}
		}
	}
	return logLine{"", line}
}

// plain is the line as GitHub's page shows it, without colour; ok is false for lines that only structure.
func (l logLine) plain() (text string, ok bool) {
	switch l.kind {
	case "endgroup":
		return "", false
	case "error":
		return "Error: " + l.text, true
	case "warning":
		return "Warning: " + l.text, true
	case "notice":
		return "Notice: " + l.text, true
	case "debug":
		return "Debug: " + l.text, true
	}
	return l.text, true
}

// escapes are terminal control sequences that a log may carry. Colours (those that end in m) are harmless; others
// could move the cursor, retitle the window or worse.
var escapes = regexp.MustCompile(`\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|.)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]`)

// safe takes from a line what a terminal would obey, but for colours.
func safe(line string) string {
	if strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 }) < 0 {
		return line
	}
	return escapes.ReplaceAllStringFunc(line, func(s string) string {
		if strings.HasPrefix(s, "\x1b[") && strings.HasSuffix(s, "m") {
			return s
		}
		return ""
	})
}

// took is a duration as people read it.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// lasted is how long a job has run, up to now if it still does.
func lasted(started, completed, now time.Time) time.Duration {
	if started.IsZero() {
		return 0
	}
	if completed.IsZero() {
		completed = now
	}
	return completed.Sub(started)
}

// reasonOf is why a job waits or ended as it did, without the word that its state says already.
func reasonOf(j *ci.Job) string {
	word, rest, ok := strings.Cut(j.Reason, ": ")
	if ok && strings.EqualFold(word, string(j.Conclusion)) {
		return safe(rest)
	}
	return safe(j.Reason)
}

// conclusionOf is the worst of several runs.
func conclusionOf(runs []*ci.Run) ci.Conclusion {
	worst := ci.Success
	for _, r := range runs {
		switch r.Conclusion {
		case ci.Failure:
			return ci.Failure
		case ci.Cancelled:
			worst = ci.Cancelled
		}
	}
	return worst
}
