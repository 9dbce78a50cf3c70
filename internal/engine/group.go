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
// claim replaces those that wait, unless it asks to queue behind them; with cancel-in-progress it also cancels the
// holder, who keeps the group until it has wound down. A free group goes to the oldest claim that waits.
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
	if newest.Queue != queueMax {
		for _, c := range waiting[:len(waiting)-1] {
			verdicts = append(verdicts, verdict{c.Run, ci.Superseded{Key: c.Key, Owner: c.Owner, By: newest.Run}})
		}
		waiting = waiting[len(waiting)-1:]
	}
	switch {
	case holder == nil:
		verdicts = append(verdicts, verdict{waiting[0].Run, ci.Granted{Key: waiting[0].Key, Owner: waiting[0].Owner}})
	case newest.CancelInProgress:
		verdicts = append(verdicts, verdict{holder.Run, ci.Superseded{Key: holder.Key, Owner: holder.Owner, By: newest.Run}})
	}
	return verdicts
}

// queueMax is the value of concurrency.queue that lets claims wait behind each other.
const queueMax = "max"
