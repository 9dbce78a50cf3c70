package runner

import (
	"context"
	"sync"

	"github.com/penstock-ci/penstock/internal/ci"
)

// Stoppable is a queue whose jobs a runner may end by itself.
type Stoppable struct {
	Queue
	now    context.Context
	reason string

	mu   sync.Mutex
	told map[ci.LeaseID]bool // jobs that were told to end
}

// NewStoppable makes a queue that ends its jobs at once when now ends: not even always() steps run. Those that it cut short
// have failed, for the reason given.
func NewStoppable(now context.Context, q Queue, reason string) *Stoppable {
	return &Stoppable{Queue: q, now: now, reason: reason, told: map[ci.LeaseID]bool{}}
}

// Renew implements Queue.
func (q *Stoppable) Renew(ctx context.Context, l Lease) (Signal, error) {
	if q.heard(l) {
		return q.Queue.Renew(ctx, l)
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.now, cancel)()
	signal, err := q.Queue.Renew(asking, l)
	if q.now.Err() == nil || ctx.Err() != nil || final(err) {
		return signal, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told[l.ID] = true
	return Kill, nil
}

// Finish implements Queue.
func (q *Stoppable) Finish(ctx context.Context, l Lease, res ci.Result) error {
	if q.heard(l) && res.Conclusion == ci.Cancelled {
		res.Conclusion, res.Reason = ci.Failure, q.reason
	}
	return q.Queue.Finish(ctx, l, res)
}

func (q *Stoppable) heard(l Lease) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.told[l.ID]
}
