package api

import (
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

// said is a text without what a program wrote, which differs from time to time.
func said(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func (t *timeline) add(e cd.Event) {
	if !telling(e) {
		return
	}
	entry := TimelineEntry{At: e.At, Type: string(e.Type), Text: e.Text, Warning: e.Warning, By: e.By}
	if !repeats(e.Type) {
		t.entries = append(t.entries, entry)
		t.unrest = len(t.entries)
		return
	}
	for i := max(t.unrest, len(t.entries)-maxUnrest); i < len(t.entries); i++ {
		if same := &t.entries[i]; said(same.Text) == said(e.Text) {
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

// repeats says whether events of a type come again and again while something is not well.
func repeats(t cd.EventType) bool {
	switch t {
	case cd.EventObserved, cd.EventIll, cd.EventWell, cd.EventScaling, cd.EventUnscaled:
		return true
	}
	return false
}
