package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// redraw is how often a view that moves is drawn.
const redraw = 100 * time.Millisecond

// ticker is a view that moves with time.
type ticker interface{ tick(now time.Time) }

// watcher brings the records and logs of runs to a view, and Ctrl-C to the runs.
type watcher struct {
	l         *local
	view      view
	runs      map[ci.RunID]*ci.Run
	order     []*ci.Run
	followers map[followKey]chan struct{} // closed when the follower has shown everything
}

type followKey struct {
	run     ci.RunID
	attempt int
	job     ci.JobID
}

// watch shows the runs until all have completed, and keeps them in the history.
func (l *local) watch(ctx context.Context, runs []*ci.Run, v view, interrupts <-chan os.Signal) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w := &watcher{l: l, view: v, runs: map[ci.RunID]*ci.Run{}, order: runs, followers: map[followKey]chan struct{}{}}
	for _, r := range runs {
		w.runs[r.ID] = r
		v.begin(r)
	}
	after, err := l.store.LastRecord(ctx)
	if err != nil {
		return err
	}
	records := make(chan store.Record, 64)
	tailed := make(chan error, 1)
	go func() { tailed <- w.tail(ctx, after, records) }()
	l.startWork(ctx)

	var ticks <-chan time.Time
	moving, moves := v.(ticker)
	if moves {
		t := time.NewTicker(redraw)
		defer t.Stop()
		ticks = t.C
	}
	cancels := 0
	for !w.done() {
		select {
		case rec := <-records:
			if err := w.apply(ctx, rec); err != nil {
				return err
			}
		case now := <-ticks:
			moving.tick(now)
		case <-interrupts:
			cancels++
			w.cancel(ctx, cancels > 1)
		case err := <-tailed:
			return err
		}
	}
	v.end(w.order)
	return nil
}

func (w *watcher) done() bool {
	for _, r := range w.order {
		if r.Status != ci.Completed {
			return false
		}
	}
	return true
}

func (w *watcher) tail(ctx context.Context, after int64, records chan<- store.Record) error {
	for rec, err := range w.l.engine.Tail(ctx, after) {
		if err != nil {
			return fmt.Errorf("follow the run: %w", err)
		}
		select {
		case records <- rec:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// apply brings one record to the view. A job's end is shown after its last line.
func (w *watcher) apply(ctx context.Context, rec store.Record) error {
	r := w.runs[rec.Run]
	if r == nil {
		return nil
	}
	r.Apply(rec.Event)
	j := r.Job(rec.Event.Job)
	if j != nil && !j.Started.IsZero() && !j.Call && !j.Expanded {
		w.follow(ctx, r, j)
	}
	if rec.Event.Settles() && j != nil {
		if done := w.followers[followKey{r.ID, j.Attempt, j.ID}]; done != nil {
			<-done
		}
	}
	w.view.event(r, rec.Event)
	// A failed job can be opened while the others go on.
	if r.Status != ci.Completed && (j == nil || !rec.Event.Settles() || j.Conclusion != ci.Failure) {
		return nil
	}
	if err := w.l.history.save(ctx, w.l.tree.Root, r); err != nil {
		return err
	}
	return w.l.history.keepDisks(r)
}

// follow begins to show a job's log, once.
func (w *watcher) follow(ctx context.Context, r *ci.Run, j *ci.Job) {
	key := followKey{r.ID, j.Attempt, j.ID}
	if w.followers[key] != nil || j.Attempt != r.Attempt {
		return
	}
	done := make(chan struct{})
	w.followers[key] = done
	go func() {
		defer close(done)
		var rest []byte // the beginning of a line whose end has not come yet
		for p, err := range w.l.engine.Follow(ctx, key.run, key.attempt, key.job, 0) {
			if err != nil {
				return
			}
			end := bytes.LastIndexByte(p, '\n') + 1
			if end == 0 && len(rest) < maxShownLine {
				rest = append(rest, p...)
				continue
			}
			w.view.log(r, j, append(rest, p[:end]...))
			rest = append([]byte(nil), p[end:]...)
		}
		if len(rest) > 0 {
			w.view.log(r, j, append(rest, '\n'))
		}
	}()
}

// maxShownLine bounds what is held back of a line without end, bytes.
const maxShownLine = 1 << 20

// cancel asks for the end of every run, as GitHub's button does, or by force.
func (w *watcher) cancel(ctx context.Context, force bool) {
	for _, r := range w.order {
		if r.Status != ci.Completed {
			_ = w.l.engine.Cancel(ctx, r.ID, w.l.tree.Actor, force) // stale: it has just completed
		}
	}
}
