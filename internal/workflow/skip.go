package workflow

import "strings"

// ShouldSkip reports whether a commit message asks that push and pull_request start nothing: [skip ci] and its like
// anywhere in it, or a trailer skip-checks: true after an empty line at its end.
// https://docs.github.com/en/actions/managing-workflow-runs/skipping-workflow-runs
func ShouldSkip(message string) bool {
	lower := strings.ToLower(message)
	for _, mark := range []string{"[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]"} {
		if strings.Contains(lower, mark) {
			return true
		}
	}
	return hasSkipTrailer(lower)
}

// hasSkipTrailer looks at the last paragraph, if it is not the only one.
func hasSkipTrailer(lower string) bool {
	body := strings.TrimRight(strings.ReplaceAll(lower, "\r\n", "\n"), "\n \t")
	i := strings.LastIndex(body, "\n\n")
	if i < 0 {
		return false
	}
	for line := range strings.SplitSeq(body[i:], "\n") {
		if value, ok := strings.CutPrefix(line, "skip-checks:"); ok && strings.TrimSpace(value) == "true" {
			return true
		}
	}
	return false
}
