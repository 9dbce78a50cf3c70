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
	var verdicts []verdict
	// Claims come one after the other, even when they are found together: the first takes a free group, and only what
	// comes after it waits and is replaced.
	if holder == nil && len(waiting) > 0 {
		holder, waiting = waiting[0], waiting[1:]
		verdicts = append(verdicts, verdict{holder.Run, ci.Granted{Key: holder.Key, Owner: holder.Owner}})
	}
	if len(waiting) == 0 {
		return verdicts
	}
	newest := waiting[len(waiting)-1]
	supersede := func(claims []*store.Claim, by ci.RunID) {
		for _, c := range claims {
			verdicts = append(verdicts, verdict{c.Run, ci.Superseded{Key: c.Key, Owner: c.Owner, By: by}})
		}
	}
	switch {
	case newest.Queue != queueMax:
		supersede(waiting[:len(waiting)-1], newest.Run)
	case len(waiting) > maxQueue:
		supersede(waiting[maxQueue:], waiting[maxQueue-1].Run)
	}
	if newest.CancelInProgress {
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
