package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// patience is how long writes wait for a database that went away.
	patience = 90 * time.Second
	// firstPause and maxPause bound the pause between two tries.
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// outage is what the writer knows of a database that does not answer.
type outage struct {
	patience time.Duration
	since    time.Time // zero: it answers
	pause    time.Duration
}

// persist is transact that waits for a database that went away. When that has lasted too long, each further batch tries
// once, until one succeeds.
func (w *writer) persist(ops []write, results []error) (added news, err error) {
	for {
		added, err = w.transact(ops, results)
		if !errors.Is(err, ErrUnavailable) {
			w.away.since = time.Time{}
			return added, err
		}
		if !w.wait() {
			return news{}, err
		}
	}
}

// settle finds out about a transaction whose commit got no answer. It gives nil if the transaction took place, lost if it
// did not, and ErrInDoubt if that can not be known.
func (w *writer) settle(mark string, lost error) error {
	for {
		done, err := w.d.committed(context.Background(), w.db, mark)
		switch err = w.d.explain(err); {
		case err == nil && done:
			return nil
		case err == nil:
			return lost
		case !errors.Is(err, ErrUnavailable) || !w.wait():
			return fmt.Errorf("%w: %v", ErrInDoubt, err)
		}
	}
}

// wait makes the pause before the next try, each twice as long as the one before. It reports false if there is to be
// none: the writer has waited long enough, or is closed.
func (w *writer) wait() bool {
	now := time.Now()
	if w.away.since.IsZero() {
		w.away.since, w.away.pause = now, firstPause
	}
	left := w.away.patience - now.Sub(w.away.since)
	if left <= 0 {
		return false
	}
	timer := time.NewTimer(min(w.away.pause, left))
	defer timer.Stop()
	w.away.pause = min(2*w.away.pause, maxPause)
	select {
	case <-timer.C:
		return true
	case <-w.closing:
		return false
	}
}
