package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// hubSize is how many of the last records are at hand for streams; one that is further behind reads the store.
const hubSize = 4096

// recordHub hands the records of all runs to any number of streams: the store is read once for all of them.
type recordHub struct {
	mu      sync.Mutex
	open    bool           // there is a base
	base    int64          // records has all that follow this one
	records []store.Record // without gaps
	news    chan struct{}  // closed with the next one
}

// feed reads the records from now on, until ctx ends.
func (s *Server) feed(ctx context.Context) {
	for ctx.Err() == nil {
		last, err := s.Store.LastRecord(ctx)
		if err == nil {
			s.hub.begin(last)
			for rec, err := range s.Engine.Tail(ctx, last) {
				if err != nil {
					s.Log.Error("the records can not be followed, it is tried again", "error", err)
					break
				}
				s.hub.add(rec)
				s.tellEnded(ctx, rec)
			}
		}
		wait(ctx, time.Second)
	}
}

// tellEnded tells Ended.
func (s *Server) tellEnded(ctx context.Context, rec store.Record) {
	if rec.Event.Type != ci.EventRunCompleted || s.Ended == nil {
		return
	}
	run, err := s.Engine.Run(ctx, rec.Run)
	if err == nil {
		err = s.Ended(run)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
		s.Log.Warn("disks of a run that has ended are kept for now", "run", rec.Run, "error", err)
	}
}

// begin says that the records after one are added from now on.
func (h *recordHub) begin(last int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open, h.base, h.records = true, last, nil
}

func (h *recordHub) add(rec store.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.records) >= 2*hubSize {
		h.records = append([]store.Record(nil), h.records[hubSize:]...)
		h.base = h.records[0].Seq - 1
	}
	h.records = append(h.records, rec)
	if h.news != nil {
		close(h.news)
		h.news = nil
	}
}

// after gives the records after one that are at hand. ok is false if some between are not; news is closed when there are more.
func (h *recordHub) after(seq int64) (records []store.Record, ok bool, news <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.news == nil {
		h.news = make(chan struct{})
	}
	if !h.open || seq < h.base {
		return nil, false, h.news
	}
	return h.records[min(seq-h.base, int64(len(h.records))):], true, h.news
}
