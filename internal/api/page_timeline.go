package api

import (
	"regexp"
	"strings"

	"github.com/penstock-ci/penstock/internal/cd"
)

// timeline folds the events of a release into what a person reads: what they lead to is told, not each step there, and what
// goes to and fro is told once, with how often.
type timeline struct {
	entries []TimelineEntry
	// unrest is where the entries begin that may come again: nothing else has happened since.
	unrest int
}

// maxUnrest is how many entries that may come again are told apart.
const maxUnrest = 50

var digits = regexp.MustCompile(`\d+`)

// said is a text without what differs from time to time: what a program wrote, and what was counted.
func said(text string, of cd.EventType) string {
	line, _, _ := strings.Cut(text, "\n")
	if of == cd.EventChecked {
		line = digits.ReplaceAllString(line, "")
	}
	return line
}

func (t *timeline) add(e cd.Event) {
	if !telling(e) {
		return
	}
	entry := TimelineEntry{At: e.At, Type: string(e.Type), Text: e.Text, Warning: e.Warning, By: e.By}
	if !repeats(e) {
		t.entries = append(t.entries, entry)
		t.unrest = len(t.entries)
		return
	}
	for i := max(t.unrest, len(t.entries)-maxUnrest); i < len(t.entries); i++ {
		if same := &t.entries[i]; same.Type == string(e.Type) && said(same.Text, e.Type) == said(e.Text, e.Type) {
			same.Text, same.Count, same.Until = e.Text, max(same.Count, 1)+1, e.At
			return
		}
	}
	t.entries = append(t.entries, entry)
}

// telling says whether people are told of an event. How an instance is now is shown beside the timeline, which has that a
// service is up, and what went wrong.
func telling(e cd.Event) bool {
	switch e.Type {
	case cd.EventLook, cd.EventAnswered, cd.EventDue, cd.EventWanted, cd.EventScaled:
		return false
	case cd.EventObserved:
		return e.Warning
	case cd.EventMoved:
		return e.Text != "" && e.Phase != cd.Preparing // its hooks are told
	}
	return e.Text != ""
}

// repeats says whether an event comes again and again while something is not well, or not known.
func repeats(e cd.Event) bool {
	switch e.Type {
	case cd.EventObserved, cd.EventIll, cd.EventWell, cd.EventScaling, cd.EventUnscaled:
		return true
	case cd.EventChecked:
		return e.Checked != nil && !e.Checked.Undecided.IsZero()
	}
	return false
}
