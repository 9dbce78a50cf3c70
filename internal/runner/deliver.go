package runner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

const (
	// flushEvery is how long log bytes and reports wait at most for more to go with them.
	flushEvery = 50 * time.Millisecond
	// flushSize is how many log bytes go without waiting for more.
	flushSize = 256 << 10
	// maxBuffered is how many log bytes may wait. A job that writes faster is held up.
	maxBuffered = 2 << 20
)

// delivery takes what a job tells and brings it to the queue: the log as a stream, the reports joined together where
// they come faster than the queue takes them. It is the job's Reporter.
type delivery struct {
	q     Queue
	lease Lease
	job   *ending

	mu     sync.Mutex
	buffer []byte        // log bytes not yet taken up
	room   chan struct{} // closed when buffer was taken up
	report ci.Report     // not yet taken up
	fault  error         // why the log can not be delivered

	closing             chan struct{} // closed when the job has ended
	logWake, reportWake chan struct{} // hold one
	ended               sync.WaitGroup
}

// startDelivery starts to deliver for a lease. ctx must outlive the job; end ends the delivery.
func startDelivery(ctx context.Context, q Queue, l Lease, j *ending) *delivery {
	d := &delivery{
		q: q, lease: l, job: j, room: make(chan struct{}), closing: make(chan struct{}),
		logWake: make(chan struct{}, 1), reportWake: make(chan struct{}, 1),
	}
	d.ended.Go(func() { d.deliverLog(ctx) })
	d.ended.Go(func() { d.deliverReports(ctx) })
	return d
}

// Append takes log bytes. It waits while too many are under way, or until ctx ends. It keeps no reference to p.
func (d *delivery) Append(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		d.mu.Lock()
		if d.fault != nil {
			defer d.mu.Unlock()
			return d.fault
		}
		n := min(len(p), maxBuffered-len(d.buffer))
		d.buffer = append(d.buffer, p[:n]...)
		room := d.room
		d.mu.Unlock()
		p = p[n:]
		wake(d.logWake)
		if len(p) == 0 {
			break
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Report takes a report. It is joined with those that are not yet on their way: of a step, the last state counts.
func (d *delivery) Report(_ context.Context, r ci.Report) error {
	d.mu.Lock()
	d.report = join(d.report, r)
	d.mu.Unlock()
	wake(d.reportWake)
	return nil
}

// Killed gives a channel that is closed when everything in the job must end at once: also while it is being cancelled,
// which the context, having ended, can not tell any more.
func (d *delivery) Killed() <-chan struct{} { return d.job.killed }

// end delivers what is left of the log and puts into the result what no report has told. The result of a job whose log
// could not be delivered says so.
func (d *delivery) end(res *ci.Result) {
	close(d.closing)
	d.ended.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	res.Annotations = append(d.report.Annotations, res.Annotations...)
	if d.fault != nil {
		res.Annotations = append(res.Annotations, ci.Annotation{Level: "error", Message: d.fault.Error()})
		if res.Conclusion != ci.Failure {
			res.Conclusion, res.Reason = ci.Failure, d.fault.Error()
		}
	}
}

// deliverLog brings the log to the queue until the job has ended and all is there. The first bytes after a silence go at
// once, more at intervals or when there are many.
func (d *delivery) deliverLog(ctx context.Context) {
	var offset int64
	var spare []byte
	var last time.Time
	for {
		ending := d.gather(last)
		p := d.takeLog(spare)
		if len(p) == 0 {
			if ending {
				return
			}
			continue
		}
		last = time.Now()
		if err := d.appendLog(ctx, offset, p); err != nil {
			d.failLog(err)
			return
		}
		offset += int64(len(p))
		spare = p[:0]
	}
}

// gather waits until there is something to send and a reason to do it now: the interval since the last time is over,
// there is much, or the job has ended, which it reports.
func (d *delivery) gather(last time.Time) (ending bool) {
	var interval <-chan time.Time // nil until there is something
	for {
		d.mu.Lock()
		n := len(d.buffer)
		d.mu.Unlock()
		if n >= flushSize {
			return false
		}
		if n > 0 && interval == nil {
			interval = time.After(time.Until(last.Add(flushEvery)))
		}
		select {
		case <-d.closing:
			return true
		case <-interval:
			return false
		case <-d.logWake:
		}
	}
}

// takeLog takes what waits and leaves the spare buffer in its place.
func (d *delivery) takeLog(spare []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.buffer
	if len(p) > 0 {
		d.buffer = spare
		close(d.room)
		d.room = make(chan struct{})
	}
	return p
}

// appendLog brings bytes to the queue. It tries for a while: a server may be restarted, a disk cleared.
func (d *delivery) appendLog(ctx context.Context, offset int64, p []byte) error {
	deadline := time.Now().Add(patience)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := d.q.Append(ctx, d.lease, offset, p)
		if err == nil || final(err) || time.Now().After(deadline) {
			return err
		}
		sleep(ctx, about(pause))
	}
}

// failLog ends a job whose log can not be delivered: what nobody can read is not worth running.
func (d *delivery) failLog(err error) {
	d.mu.Lock()
	d.fault = fmt.Errorf("the log of the job can not be stored: %w", err)
	d.buffer = nil
	close(d.room)
	d.room = make(chan struct{})
	fault := d.fault
	d.mu.Unlock()
	d.job.kill(fault)
}

// deliverReports brings reports to the queue, one at a time and at intervals. What could not be brought is tried again
// with the next, and at last goes with the result.
func (d *delivery) deliverReports(ctx context.Context) {
	for {
		select {
		case <-d.reportWake:
		case <-d.closing:
			return
		}
		d.mu.Lock()
		r := d.report
		d.report = ci.Report{}
		d.mu.Unlock()
		if err := d.q.Report(ctx, d.lease, r); err != nil {
			d.mu.Lock()
			d.report = join(r, d.report)
			d.mu.Unlock()
		}
		select {
		case <-time.After(flushEvery):
		case <-d.closing:
			return
		}
	}
}

// join adds a later report to an earlier one. It shares nothing with the later one.
func join(earlier, later ci.Report) ci.Report {
	for _, s := range later.Steps {
		known := false
		for i := range earlier.Steps {
			if earlier.Steps[i].Number == s.Number {
				earlier.Steps[i], known = s, true
			}
		}
		if !known {
			earlier.Steps = append(earlier.Steps, s)
		}
	}
	earlier.Annotations = append(earlier.Annotations, later.Annotations...)
	return earlier
}

// wake leaves a note in a channel that holds one.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
