package api

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// TestTimeline holds that people are told what happened, and of what goes to and fro once.
func TestTimeline(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(second), 0).UTC() }
	instance := func(second int, state cd.State, text string) cd.Event {
		return cd.Event{Type: cd.EventObserved, At: at(second), Instance: &cd.Instance{State: state}, Warning: state == cd.Ill || state == cd.Exited, Text: text}
	}
	var all timeline
	for _, e := range []cd.Event{
		{Type: cd.EventBegan, At: at(0), Text: "begins"}, {Type: cd.EventMoved, Phase: cd.Preparing, At: at(0), Text: "Starts"},
		{Type: cd.EventMoved, Phase: cd.Launching, At: at(0), Text: "Starts web"}, {Type: cd.EventWanted, At: at(0), Text: "wants 2"},
		instance(1, cd.Starting, "web 0 is starting"), instance(2, cd.Exited, "web 0 has exited: code 1:\npid 7"), instance(3, cd.Starting, "web 0 is starting"),
		instance(4, cd.Exited, "web 0 has exited: code 1:\npid 8"), instance(5, cd.Exited, "web 1 has exited: code 2"), instance(6, cd.Exited, "web 0 has exited: code 1:\npid 9"),
		instance(7, cd.Healthy, "web 0 is healthy"), {Type: cd.EventUp, At: at(7), Text: "web is up"},
		{Type: cd.EventIll, At: at(8), Warning: true, Text: "Only 1 of 2"}, {Type: cd.EventWell, At: at(9), Text: "Enough"}, {Type: cd.EventIll, At: at(10), Warning: true, Text: "Only 1 of 2"},
		{Type: cd.EventWell, At: at(11), Text: "Enough"}, {Type: cd.EventChecked, At: at(12), Text: "Checks pass"}, {Type: cd.EventIll, At: at(13), Warning: true, Text: "Only 1 of 2"},
		{Type: cd.EventLook, At: at(14), Text: "Looks"},
		{Type: cd.EventChecked, At: at(14), Text: "Held: only 5 of 20", Checked: &cd.Checked{Undecided: at(14)}}, {Type: cd.EventChecked, At: at(15), Text: "Held: only 9 of 20", Checked: &cd.Checked{Undecided: at(14)}},
		{Type: cd.EventChecked, At: at(16), Warning: true, Text: "Held: failed 1 of 3", Checked: &cd.Checked{}}, {Type: cd.EventChecked, At: at(17), Warning: true, Text: "Held: failed 2 of 3", Checked: &cd.Checked{}}, {Type: cd.EventNote, At: at(15)},
	} {
		all.add(e)
	}
	var got []string
	for _, e := range all.entries {
		line := fmt.Sprintf("%d %s%s", e.At.Unix(), e.Text, e.Often())
		if e.Count > 0 {
			line += fmt.Sprint(" until ", e.Until.Unix())
		}
		got = append(got, line)
	}
	want := []string{
		"0 begins", "0 Starts web", "2 web 0 has exited: code 1:\npid 9 (3 times) until 6", "5 web 1 has exited: code 2", "7 web is up",
		"8 Only 1 of 2 (2 times) until 10", "9 Enough (2 times) until 11", "12 Checks pass", "13 Only 1 of 2",
		"14 Held: only 9 of 20 (2 times) until 15", "16 Held: failed 1 of 3", "17 Held: failed 2 of 3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
