package store

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"
)

const (
	// maxBatch bounds the writes that share a transaction, and so how long a reader of one connection waits.
	maxBatch = 256
	// rowsAtOnce is how many records one statement inserts where there are that many.
	rowsAtOnce = 16
	// maxKnownPlans bounds the plans that the writer remembers to have stored.
	maxKnownPlans = 1024
)

// write is one change waiting for the writer.
type write struct {
	// exec makes the change within a transaction. It may be called again after a failed transaction. A refused
	// change (errRefused) has written nothing, and does not touch the others of the batch.
	exec func(b *batch) error
	// done is told how it ended, in the order of the writes, on the writer's goroutine: it must not block.
	done func(error)
}

// writer is the one goroutine that writes. Whatever waits when it is free goes into one transaction, so that many
// writers share the price of a commit; each write is still checked and answered for itself.
type writer struct {
	db      *sql.DB
	d       dialect
	changed *feeds
	stmts   map[string]*sql.Stmt

	mu      sync.Mutex
	waiting []write
	closed  bool
	wake    chan struct{} // holds one
	closing chan struct{} // closed when closed is set
	ended   chan struct{}

	// The writer's goroutine owns these.
	known map[string]bool // hashes of plans that are stored
	away  outage
}

// batch is one transaction of the writer.
type batch struct {
	w       *writer
	tx      *sql.Tx
	records []record
	// released are the records of releases.
	released []record
	plans    []string // hashes that this transaction stores
}

// news says which records a transaction has added.
type news struct{ runs, releases bool }

// record is an event waiting for its number.
type record struct {
	of    int64 // the run, or release
	event string
	at    int64
}

func startWriter(ctx context.Context, db *sql.DB, d dialect, changed *feeds) (*writer, error) {
	w := &writer{
		db: db, d: d, changed: changed,
		stmts: map[string]*sql.Stmt{}, known: map[string]bool{},
		wake: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
		away: outage{patience: patience},
	}
	for _, query := range writerQueries {
		stmt, err := db.PrepareContext(ctx, d.bind(query))
		if err != nil {
			return nil, err
		}
		w.stmts[query] = stmt
	}
	go w.run()
	return w, nil
}

// close finishes what waits, then ends the writer and its connection. For a database that is away it does not wait.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.closing)
	w.signal()
	<-w.ended
	return w.db.Close()
}

// enqueue hands a write to the writer. Writes are carried out in the order in which they are handed over.
func (w *writer) enqueue(op write) {
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.waiting = append(w.waiting, op)
	}
	w.mu.Unlock()
	if closed {
		op.done(ErrClosed)
		return
	}
	w.signal()
}

func (w *writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *writer) run() {
	defer close(w.ended)
	for {
		ops, closed := w.take()
		if len(ops) > 0 {
			w.commit(ops)
			continue
		}
		if closed {
			return
		}
		<-w.wake
	}
}

// take gives the writes that wait, as many as go into one transaction.
func (w *writer) take() (ops []write, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.waiting), maxBatch)
	ops = w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	if len(w.waiting) == 0 {
		w.waiting = nil
	}
	return ops, w.closed
}

// commit carries out writes in one transaction. If that fails as a whole, each gets a transaction of its own, so that
// only those that are the trouble fail.
func (w *writer) commit(ops []write) {
	results := make([]error, len(ops))
	added, err := w.persist(ops, results)
	if err != nil && len(ops) > 1 && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrInDoubt) {
		for i := range ops {
			w.commit(ops[i : i+1])
		}
		return
	}
	if added.runs {
		w.changed.runs.wake()
	}
	if added.releases {
		w.changed.releases.wake()
	}
	for i, op := range ops {
		if err != nil {
			results[i] = err
		}
		op.done(results[i])
	}
}

// transact carries out writes in one transaction. It sets the results of those that were refused; an error means that
// the transaction failed and nothing was written, unless it is ErrInDoubt.
func (w *writer) transact(ops []write, results []error) (added news, err error) {
	tx, err := w.db.BeginTx(context.Background(), nil)
	if err != nil {
		return news{}, w.d.explain(err)
	}
	b := &batch{w: w, tx: tx}
	mark, err := w.fill(b, ops, results)
	if err != nil {
		tx.Rollback()
		return news{}, w.d.explain(err)
	}
	if err := w.d.explain(tx.Commit()); err != nil {
		tx.Rollback()
		if !errors.Is(err, ErrUnavailable) {
			return news{}, err
		}
		if err := w.settle(mark, err); err != nil {
			return news{}, err
		}
	}
	if len(w.known)+len(b.plans) > maxKnownPlans {
		clear(w.known)
	}
	for _, hash := range b.plans {
		w.known[hash] = true
	}
	return news{runs: len(b.records) > 0, releases: len(b.released) > 0}, nil
}

// fill does all of a transaction but its commit.
func (w *writer) fill(b *batch, ops []write, results []error) (mark string, err error) {
	if mark, err = w.d.begin(b.tx); err != nil {
		return "", err
	}
	for i, op := range ops {
		err := op.exec(b)
		var r refused
		if err != nil && !errors.As(err, &r) {
			return "", err
		}
		results[i] = r.err
	}
	if len(b.records) == 0 && len(b.released) == 0 {
		return mark, nil
	}
	if err := errors.Join(b.insertRecords(), b.insertReleaseRecords()); err != nil {
		return "", err
	}
	return mark, w.d.announce(b.tx)
}

// refused is the error of a write that was found not to apply before it wrote anything.
type refused struct{ err error }

func (r refused) Error() string { return r.err.Error() }

// The statements of the writer, prepared once.
const (
	queryCount = `INSERT INTO counters (name, value) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value RETURNING value`
	queryRecord  = `INSERT INTO records (seq, run, event, at) VALUES (?, ?, ?, ?)`
	queryRecords = queryRecord + `, (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?),
		(?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?)`
	queryPlan = `INSERT INTO plans (hash, plan) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING`
	queryRun  = `INSERT INTO runs (id, repository, workflow, number, event, branch, sha, actor, created, plan,
		name, attempt, status, conclusion, started, completed, version, snapshot)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	queryUpdate = `UPDATE runs SET name = ?, attempt = ?, status = ?, conclusion = ?, started = ?, completed = ?, version = ?, snapshot = ?
		WHERE id = ? AND version = ?`
	queryJob = `INSERT INTO jobs (run, position, snapshot) VALUES (?, ?, ?)
		ON CONFLICT (run, position) DO UPDATE SET snapshot = excluded.snapshot`
	queryTrimJobs   = `DELETE FROM jobs WHERE run = ? AND position >= ?`
	queryDropClaims = `DELETE FROM claims WHERE run = ?`
	queryClaim      = `INSERT INTO claims (run, position, repository, name, held, claim) VALUES (?, ?, ?, ?, ?, ?)`
)

var writerQueries = []string{queryCount, queryRecord, queryRecords, queryPlan, queryRun, queryUpdate, queryJob,
	queryTrimJobs, queryDropClaims, queryClaim}

func (b *batch) exec(query string, args ...any) (sql.Result, error) {
	return b.tx.Stmt(b.w.stmts[query]).Exec(args...)
}

// count adds n to a counter and gives its new value.
func (b *batch) count(name string, n int64) (int64, error) {
	var value int64
	err := b.tx.Stmt(b.w.stmts[queryCount]).QueryRow(name, n).Scan(&value)
	return value, err
}

// insertRecords numbers the records of the batch and adds them. The numbers come from a row that this transaction
// has locked from here to its end, so they are given in the order in which they become visible, without gaps.
func (b *batch) insertRecords() error {
	n := len(b.records)
	if n == 0 {
		return nil
	}
	last, err := b.count("record", int64(n))
	if err != nil {
		return err
	}
	seq := last - int64(n)
	args := make([]any, 0, 4*rowsAtOnce)
	for left := b.records; len(left) > 0; {
		query, rows := queryRecord, 1
		if len(left) >= rowsAtOnce {
			query, rows = queryRecords, rowsAtOnce
		}
		args = args[:0]
		for _, r := range left[:rows] {
			seq++
			args = append(args, seq, r.of, r.event, r.at)
		}
		if _, err := b.exec(query, args...); err != nil {
			return err
		}
		left = left[rows:]
	}
	return nil
}

// insertReleaseRecords does the same with those of releases.
func (b *batch) insertReleaseRecords() error {
	if len(b.released) == 0 {
		return nil
	}
	last, err := b.count("release record", int64(len(b.released)))
	if err != nil {
		return err
	}
	seq := last - int64(len(b.released))
	for _, r := range b.released {
		seq++
		if _, err := b.tx.Exec(b.w.d.bind(`INSERT INTO release_records (seq, release, event, at) VALUES (?, ?, ?, ?)`), seq, r.of, r.event, r.at); err != nil {
			return err
		}
	}
	return nil
}

// nanos is how times are stored: nanoseconds since 1970, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
