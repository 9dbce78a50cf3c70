package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
)

// paint colours text for a terminal; the zero paint leaves it as it is.
type paint struct{ on bool }

func (p paint) code(code, text string) string {
	if !p.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) bold(s string) string   { return p.code("1", s) }
func (p paint) faint(s string) string  { return p.code("2", s) }
func (p paint) red(s string) string    { return p.code("31", s) }
func (p paint) green(s string) string  { return p.code("32", s) }
func (p paint) yellow(s string) string { return p.code("33", s) }
func (p paint) blue(s string) string   { return p.code("34", s) }

// mark is the sign of a state.
func (p paint) mark(s ci.Status, c ci.Conclusion) string {
	switch {
	case s == ci.InProgress:
		return p.yellow("●")
	case s != ci.Completed:
		return p.faint("○")
	case c == ci.Success:
		return p.green("✓")
	case c == ci.Failure:
		return p.red("✗")
	case c == ci.Cancelled:
		return p.faint("⊘")
	}
	return p.faint("-")
}

// writeSummary tells how the runs ended: annotations, step summaries, the verdict and what to do next.
func writeSummary(w io.Writer, runs []*ci.Run, p paint) {
	for _, r := range runs {
		writeAnnotations(w, r, p)
		writeStepSummaries(w, r, p)
	}
	for _, r := range runs {
		verdict := string(r.Conclusion)
		switch r.Conclusion {
		case ci.Success:
			verdict = p.green(verdict)
		case ci.Failure:
			verdict = p.red(verdict)
		}
		fmt.Fprintf(w, "%s %s: %s in %s%s\n", p.mark(r.Status, r.Conclusion), p.bold(safe(runTitle(r))), verdict,
			took(lasted(r.Started, r.Completed, r.Completed)), p.faint(fmt.Sprintf("  (run %d)", r.ID)))
		if r.Reason != "" && r.Conclusion != ci.Success {
			fmt.Fprintf(w, "  %s\n", safe(r.Reason))
		}
	}
	if conclusionOf(runs) == ci.Failure {
		for _, r := range runs {
			if j, s := failedStep(r); s != nil {
				fmt.Fprintf(w, "\n%s failed at %s\n", p.bold(safe(j.Name)), p.bold(safe(s.Name)))
				if s.Snapshot != "" {
					fmt.Fprintf(w, "  penstock shell           open it as it was: same disk, environment and directory\n")
					fmt.Fprintf(w, "  penstock run --resume    go on from it\n")
				}
				fmt.Fprintf(w, "  penstock logs %-10d read its log again\n", r.ID)
				break
			}
		}
	}
}

// runTitle is a run's name, with its workflow's where that says something else.
func runTitle(r *ci.Run) string {
	if r.Plan == nil {
		return r.Name
	}
	if w := r.Plan.Root(); w != nil && w.Name != "" && w.Name != r.Name {
		return w.Name + " · " + r.Name
	}
	return r.Name
}

func writeAnnotations(w io.Writer, r *ci.Run, p paint) {
	show := func(where string, a ci.Annotation) {
		level := map[string]string{"error": p.red("error"), "warning": p.yellow("warning")}[a.Level]
		if level == "" {
			level = p.blue(a.Level)
		}
		place := ""
		if a.File != "" {
			place = " " + a.File
			if a.Line > 0 {
				place += fmt.Sprintf(":%d", a.Line)
			}
			place += ":"
		}
		message := a.Message
		if a.Title != "" {
			message = a.Title + ": " + message
		}
		fmt.Fprintf(w, "%s%s %s%s\n", level, place, safe(strings.ReplaceAll(message, "\n", "\n    ")), p.faint("  ["+safe(where)+"]"))
	}
	for _, a := range r.Annotations {
		show(r.Name, a)
	}
	for _, j := range r.Jobs {
		for _, a := range j.Annotations {
			show(j.Name, a)
		}
	}
}

func writeStepSummaries(w io.Writer, r *ci.Run, p paint) {
	for _, j := range r.Jobs {
		for _, s := range j.Steps {
			if strings.TrimSpace(s.Summary) == "" {
				continue
			}
			fmt.Fprintf(w, "\n%s\n", p.bold("summary of "+safe(j.Name)))
			for line := range strings.Lines(strings.TrimRight(s.Summary, "\n")) {
				fmt.Fprintf(w, "  %s\n", safe(strings.TrimRight(line, "\n")))
			}
		}
	}
}

// failedStep is the first step that failed in the first job that failed, nil if no step did.
func failedStep(r *ci.Run) (*ci.Job, *ci.Step) {
	for _, j := range r.Jobs {
		if j.Conclusion != ci.Failure {
			continue
		}
		for i := range j.Steps {
			if j.Steps[i].Conclusion == ci.Failure {
				return j, &j.Steps[i]
			}
		}
	}
	return nil, nil
}
