package deploy

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Bounds of what has not been told yet.
const (
	maxUntold = 64 // changes of one instance; of more the first are left out: a later one says all that counts
	firstTell = 50 * time.Millisecond
	lastTell  = 10 * time.Second
)

// teller tells of changes: one call at a time, those of an instance in order. What fails is told again, while others go on.
type teller struct {
	seen func(context.Context, cd.ReleaseID, cd.Observed) error

	mu     sync.Mutex
	queues []*queue // those with something to tell
	wake   chan struct{}
}

// queue is what is to be told of one instance.
type queue struct {
	id     instanceID
	items  []cd.Instance
	notYet time.Time // it failed
	wait   time.Duration
}

func newTeller(seen func(context.Context, cd.ReleaseID, cd.Observed) error) *teller {
	return &teller{seen: seen, wake: make(chan struct{}, 1)}
}

// tell adds a change. It does not wait.
func (t *teller) tell(id instanceID, i cd.Instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.queues, func(q *queue) bool { return q.id == id })
	if at < 0 {
		at = len(t.queues)
		t.queues = append(t.queues, &queue{id: id, wait: firstTell})
	}
	q := t.queues[at]
	if q.items = append(q.items, i); len(q.items) > maxUntold {
		q.items = slices.Delete(q.items, 1, 2) // the first is perhaps being told
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// next gives what is to be told now, or how long there is nothing; no time is for ever.
func (t *teller) next(now time.Time) (q *queue, i cd.Instance, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.queues {
		left := q.notYet.Sub(now)
		if left <= 0 {
			return q, q.items[0], 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, cd.Instance{}, wait
}

// told takes note of what became of a call.
func (t *teller) told(q *queue, err error, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.Index(t.queues, q)
	t.queues = slices.Delete(t.queues, at, at+1) // the others' turn
	if err != nil {
		q.notYet, q.wait = now.Add(q.wait), min(2*q.wait, lastTell)
	} else {
		q.notYet, q.wait, q.items = time.Time{}, firstTell, q.items[1:]
	}
	if len(q.items) > 0 {
		t.queues = append(t.queues, q)
	}
}

// run tells until ctx ends.
func (t *teller) run(ctx context.Context) {
	for ctx.Err() == nil {
		q, i, wait := t.next(time.Now())
		if q != nil {
			err := t.seen(ctx, q.id.release, cd.Observed{Service: q.id.service, Instance: i})
			t.told(q, err, time.Now())
			continue
		}
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
		case <-later:
		}
	}
}
