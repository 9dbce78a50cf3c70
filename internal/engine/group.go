package engine

import (
	"cmp"
	"slices"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// verdict is what the arbitration of a group tells a run.
type verdict struct {
	run   ci.RunID
	input ci.Input
}

// arbitrate decides about a concurrency group by all claims on it, as GitHub does: one holds it, one waits. The newest
// claim replaces those that wait, unless it asks to queue behind them, which up to 100 may; with cancel-in-progress it also
// cancels the holder, who keeps the group until it has wound down. A free group goes to the oldest claim that waits.
func arbitrate(claims []store.Claim) []verdict {
	claims = slices.Clone(claims)
	slices.SortStableFunc(claims, func(a, b store.Claim) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Run, b.Run))
	})
	var holder *store.Claim
	var waiting []*store.Claim
	for i := range claims {
		if claims[i].Held {
			holder = &claims[i]
		} else {
			waiting = append(waiting, &claims[i])
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	var verdicts []verdict
	newest := waiting[len(waiting)-1]
	supersede := func(claims []*store.Claim, by ci.RunID) {
		for _, c := range claims {
			verdicts = append(verdicts, verdict{c.Run, ci.Superseded{Key: c.Key, Owner: c.Owner, By: by}})
		}
	}
	room := maxQueue
	if holder == nil {
		room++ // one of them goes ahead
	}
	switch {
	case newest.Queue != queueMax:
		supersede(waiting[:len(waiting)-1], newest.Run)
		waiting = waiting[len(waiting)-1:]
	case len(waiting) > room:
		supersede(waiting[room:], waiting[room-1].Run)
	}
	switch {
	case holder == nil:
		verdicts = append(verdicts, verdict{waiting[0].Run, ci.Granted{Key: waiting[0].Key, Owner: waiting[0].Owner}})
	case newest.CancelInProgress:
		supersede([]*store.Claim{holder}, newest.Run)
	}
	return verdicts
}

const (
	// queueMax is the value of concurrency.queue that lets claims wait behind each other.
	queueMax = "max"
	// maxQueue is how many of them may wait; later ones are cancelled (GitHub's limit).
	maxQueue = 100
)
