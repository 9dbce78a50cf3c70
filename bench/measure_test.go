package main

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	got := median([]sample{{3 * time.Second, 10}, {time.Second, 30}, {2 * time.Second, 20}})
	if want := (sample{2 * time.Second, 20}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStepTime(t *testing.T) {
	const events = `{"type":"run","name":"Cache"}
not JSON
{"report":{"steps":[{"name":"Cache","started":"2026-01-02T03:04:05Z"}]}}
{"report":{"steps":[{"name":"Cache","started":"2026-01-02T03:04:05Z","completed":"2026-01-02T03:04:05.25Z"}]}}
`
	if got, ok := stepTime([]byte(events), "Cache"); !ok || got != 250*time.Millisecond {
		t.Errorf("got %v %v, want 250ms", got, ok)
	}
	if got, ok := stepTime([]byte(events), "Post Cache"); ok {
		t.Errorf("got %v for a step that is not there", got)
	}
}

func TestRowsSayWhetherTheTargetIsMet(t *testing.T) {
	second, half := sample{wall: time.Second}, sample{wall: time.Second / 2}
	var b bench
	b.faster("met", half, second, "peer", 2)
	b.faster("missed", second, half, "peer", 2)
	b.within("met", second, half, "peer", 2)
	b.within("missed", second, half, "peer", 1.9)
	b.atMost("met", half, "", time.Second)
	b.atMost("missed", second, "", time.Second/2)
	b.over("met", second, half, 100, "peer", 5*time.Millisecond)
	b.over("missed", second, half, 100, "peer", 4*time.Millisecond)
	for _, r := range b.rows {
		if r.met != (r.what == "met") {
			t.Errorf("got %+v", r)
		}
	}
}
