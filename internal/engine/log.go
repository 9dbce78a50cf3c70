package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// tailPage is how many records Tail reads at once.
	tailPage = 500
	// followChunk is how many bytes Follow reads at once.
	followChunk = 64 << 10
	// logPoll is how often the log of a job is looked at that may run at another server.
	logPoll = 500 * time.Millisecond
	// maxLogName bounds the encoded ID of a job in a key.
	maxLogName = 200
)

// LogKey is the key of a job's log: logs/RUN/ATTEMPT/JOB.log, with every byte of the job's ID escaped as in a URL that is
// not a letter, a digit, "-" or "_". A very long ID is cut and ends in its hash.
func LogKey(run ci.RunID, attempt int, job ci.JobID) string {
	var name strings.Builder
	for i := range len(job) {
		c := job[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' {
			name.WriteByte(c)
		} else {
			fmt.Fprintf(&name, "%%%02X", c)
		}
	}
	text := name.String()
	if len(text) > maxLogName {
		sum := sha256.Sum256([]byte(job))
		text = text[:maxLogName-2*len(sum)-1] + "." + hex.EncodeToString(sum[:])
	}
	return fmt.Sprintf("logs/%d/%d/%s.log", run, attempt, text)
}

// Log opens the log of a job as it is now. A job that has not written yet has an empty one, which is nil here.
func (e *Engine) Log(run ci.RunID, attempt int, job ci.JobID) (blob.File, error) {
	f, err := e.blobs.Open(LogKey(run, attempt, job))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// LogTimes says when the bytes of a job's log came.
func (e *Engine) LogTimes(run ci.RunID, attempt int, job ci.JobID) ([]blob.Mark, error) {
	return e.blobs.Times(LogKey(run, attempt, job))
}

// Follow yields the log of a job from an offset on, as it grows, and ends when the job has. The bytes are good until
// the next step of the iteration. An error, the end of ctx among them, is the last thing it yields.
func (e *Engine) Follow(ctx context.Context, run ci.RunID, attempt int, job ci.JobID, offset int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		e.logs.join(run)
		defer e.logs.leave(run)
		f := follower{e: e, run: run, attempt: attempt, job: job, offset: offset, buffer: make([]byte, followChunk)}
		defer f.close()
		for {
			news := e.logs.wait(run)
			ended, err := e.logEnded(ctx, run, attempt, job)
			for err == nil {
				var p []byte
				if p, err = f.read(); len(p) == 0 {
					break
				}
				if !yield(p, nil) {
					return
				}
			}
			if err == nil && ended {
				return
			}
			if err == nil {
				err = e.logNews(ctx, news)
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// logNews waits until there may be more of a log. Nobody tells of what another server has appended.
func (e *Engine) logNews(ctx context.Context, news <-chan struct{}) error {
	var again <-chan time.Time
	if e.store.Shared() {
		timer := time.NewTimer(logPoll)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case <-news:
	case <-again:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// follower reads a log as it grows.
type follower struct {
	e       *Engine
	run     ci.RunID
	attempt int
	job     ci.JobID
	offset  int64
	buffer  []byte
	file    blob.File // nil until there is one
}

// read gives the next bytes, none if there are none yet.
func (f *follower) read() ([]byte, error) {
	if f.file == nil {
		file, err := f.e.Log(f.run, f.attempt, f.job)
		if file == nil || err != nil {
			return nil, err
		}
		f.file = file
	}
	n, err := f.file.ReadAt(f.buffer, f.offset)
	f.offset += int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return f.buffer[:n], err
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// logEnded reports whether nothing will be added to a log any more.
func (e *Engine) logEnded(ctx context.Context, id ci.RunID, attempt int, job ci.JobID) (bool, error) {
	x, err := e.entry(ctx, id)
	if err != nil {
		return false, err
	}
	defer e.release(x)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.run.Attempt > attempt || x.run.Status == ci.Completed {
		return true, nil
	}
	j := x.run.Job(job)
	return j != nil && j.Status == ci.Completed, nil
}

// Tail yields the records of all runs with numbers above after, in order and without gaps, and waits for more until
// ctx ends. An error, which the end of ctx is not, is the last thing it yields.
func (e *Engine) Tail(ctx context.Context, after int64) iter.Seq2[store.Record, error] {
	return tail(ctx, after, e.store.Changed, e.store.Records, func(r store.Record) int64 { return r.Seq })
}

// tail reads records page by page, and waits for more where they end.
func tail[R any](ctx context.Context, after int64, changed func() <-chan struct{}, read func(context.Context, int64, int) ([]R, error), seq func(R) int64) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		for {
			news := changed()
			page, err := read(ctx, after, tailPage)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				var none R
				yield(none, err)
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
				after = seq(r)
			}
			if len(page) == tailPage {
				continue
			}
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		}
	}
}

// watchers wakes those who follow the logs of a run.
type watchers struct {
	mu   sync.Mutex
	runs map[ci.RunID]*watch
}

type watch struct {
	followers int
	news      chan struct{} // closed at the next wake
}

// join begins to follow a run; leave ends it.
func (w *watchers) join(run ci.RunID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runs == nil {
		w.runs = map[ci.RunID]*watch{}
	}
	if w.runs[run] == nil {
		w.runs[run] = &watch{news: make(chan struct{})}
	}
	w.runs[run].followers++
}

func (w *watchers) leave(run ci.RunID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[run].followers--
	if w.runs[run].followers == 0 {
		delete(w.runs, run)
	}
}

// wait gives a channel that is closed at the next wake of a run that the caller has joined.
func (w *watchers) wait(run ci.RunID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs[run].news
}

func (w *watchers) wake(run ci.RunID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.runs[run]; r != nil {
		close(r.news)
		r.news = make(chan struct{})
	}
}
