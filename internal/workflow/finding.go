package workflow

import (
	"fmt"
	"strings"
)

func formatFinding(f Finding) string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.Path, f.Message)
	}
	return fmt.Sprintf("%s (Line: %d, Col: %d): %s", f.Path, f.Line, f.Column, f.Message)
}

func formatErrors(e Errors) string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = formatFinding(f)
	}
	return strings.Join(lines, "\n")
}

func findJob(jobs []*Job, id string) *Job {
	for _, j := range jobs {
		if strings.EqualFold(j.ID, id) {
			return j
		}
	}
	return nil
}
