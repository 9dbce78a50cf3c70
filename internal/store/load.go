package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// Summary is a run as a list shows it.
type Summary struct {
	ID         ci.RunID      `json:"id"`
	Repository string        `json:"repository"`
	Workflow   string        `json:"workflow"` // path of its file
	Number     int64         `json:"number"`
	Event      string        `json:"event"`
	Branch     string        `json:"branch"`
	SHA        string        `json:"sha"`
	Actor      string        `json:"actor"`
	Name       string        `json:"name"`
	Attempt    int           `json:"attempt"`
	Status     ci.Status     `json:"status"`
	Conclusion ci.Conclusion `json:"conclusion,omitempty"`
	Created    time.Time     `json:"created"`
	Started    time.Time     `json:"started,omitzero"`
	Completed  time.Time     `json:"completed,omitzero"`
	Version    int64         `json:"version"`
}

// Filter chooses runs. Empty fields choose all.
type Filter struct {
	Repository string
	Workflow   string
	Branch     string
	SHA        string
	Actor      string
	Event      string
	Status     string   // a status or a conclusion, as in GitHub's API
	Before     ci.RunID // only runs older than this one: for the next page
	Limit      int      // at most so many, the newest; 0 is 100
}

// Record is one event in the log of all runs.
type Record struct {
	Seq   int64    `json:"seq"` // from 1, without gaps
	Run   ci.RunID `json:"run"`
	Event ci.Event `json:"event"`
}

// Claim is a stored claim on a concurrency group.
type Claim struct {
	Run        ci.RunID
	Repository string
	ci.Claim
}

// Run loads a run with its plan. The error wraps ErrNotFound if there is none.
func (s *Store) Run(ctx context.Context, id ci.RunID) (*ci.Run, error) {
	run, hash, number, err := s.loadRun(ctx, id)
	if err == nil {
		var plan *ci.Plan
		if plan, err = s.loadPlan(ctx, hash); err == nil {
			run.Plan = numbered(plan, int64(id), number)
			return run, nil
		}
	}
	return nil, fmt.Errorf("load run %d: %w", id, s.d.explain(err))
}

// loadRun reads run and jobs in one transaction, so that they belong together.
func (s *Store) loadRun(ctx context.Context, id ci.RunID) (run *ci.Run, hash string, number int64, err error) {
	ctx = s.d.forReading(ctx)
	tx, err := s.reader.BeginTx(ctx, nil)
	if err != nil {
		return nil, "", 0, err
	}
	defer tx.Rollback()
	var text []byte
	row := tx.QueryRowContext(ctx, s.d.bind(`SELECT snapshot, plan, number FROM runs WHERE id = ?`), int64(id))
	if err := row.Scan(&text, &hash, &number); errors.Is(err, sql.ErrNoRows) {
		return nil, "", 0, ErrNotFound
	} else if err != nil {
		return nil, "", 0, err
	}
	run = &ci.Run{}
	if err := json.Unmarshal(text, run); err != nil {
		return nil, "", 0, fmt.Errorf("decode its snapshot: %w", err)
	}
	rows, err := tx.QueryContext(ctx, s.d.bind(`SELECT snapshot FROM jobs WHERE run = ? ORDER BY position`), int64(id))
	if err != nil {
		return nil, "", 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var text sql.RawBytes
		if err := rows.Scan(&text); err != nil {
			return nil, "", 0, err
		}
		job := &ci.Job{}
		if err := json.Unmarshal(text, job); err != nil {
			return nil, "", 0, fmt.Errorf("decode a job's snapshot: %w", err)
		}
		run.Jobs = append(run.Jobs, job)
	}
	return run, hash, number, rows.Err()
}

func (s *Store) loadPlan(ctx context.Context, hash string) (*ci.Plan, error) {
	if plan := s.plans.get(hash); plan != nil {
		return plan, nil
	}
	var text []byte
	ctx = s.d.forReading(ctx)
	row := s.reader.QueryRowContext(ctx, s.d.bind(`SELECT plan FROM plans WHERE hash = ?`), hash)
	if err := row.Scan(&text); err != nil {
		return nil, fmt.Errorf("read its plan: %w", err)
	}
	plan := &ci.Plan{}
	if err := json.Unmarshal(text, plan); err != nil {
		return nil, fmt.Errorf("decode its plan: %w", err)
	}
	s.plans.put(hash, plan)
	return plan, nil
}

// Runs lists runs, the newest first.
func (s *Store) Runs(ctx context.Context, f Filter) ([]Summary, error) {
	var where []string
	var args []any
	match := func(column, value string) {
		if value != "" {
			where, args = append(where, column+" = ?"), append(args, value)
		}
	}
	match("repository", f.Repository)
	match("workflow", f.Workflow)
	match("branch", f.Branch)
	match("sha", f.SHA)
	match("actor", f.Actor)
	match("event", f.Event)
	if f.Status != "" {
		where, args = append(where, "(status = ? OR conclusion = ?)"), append(args, f.Status, f.Status)
	}
	if f.Before > 0 {
		where, args = append(where, "id < ?"), append(args, int64(f.Before))
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query := `SELECT id, repository, workflow, number, event, branch, sha, actor, name, attempt, status, conclusion,
		created, started, completed, version FROM runs`
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	list, err := collect(ctx, s, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit), func(rows *sql.Rows) (r Summary, err error) {
		var created, started, completed int64
		err = rows.Scan(&r.ID, &r.Repository, &r.Workflow, &r.Number, &r.Event, &r.Branch, &r.SHA, &r.Actor, &r.Name,
			&r.Attempt, &r.Status, &r.Conclusion, &created, &started, &completed, &r.Version)
		r.Created, r.Started, r.Completed = fromNanos(created), fromNanos(started), fromNanos(completed)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return list, nil
}

// Active gives the IDs of the runs that are not completed, oldest first.
func (s *Store) Active(ctx context.Context) ([]ci.RunID, error) {
	const query = `SELECT id FROM runs WHERE status <> 'completed' ORDER BY id`
	list, err := collect(ctx, s, query, nil, func(rows *sql.Rows) (id ci.RunID, err error) {
		return id, rows.Scan(&id)
	})
	if err != nil {
		return nil, fmt.Errorf("list active runs: %w", err)
	}
	return list, nil
}

// Changes gives the versions, as they are stored, of the runs that the records above after speak of, and the number of the
// last record that was looked at. Whoever keeps runs in memory sees by them which of these another server has changed.
func (s *Store) Changes(ctx context.Context, after int64) (versions map[ci.RunID]int64, last int64, err error) {
	// The last record is read first: what is changed after it is found by the next call.
	if last, err = s.LastRecord(ctx); err != nil || last <= after {
		return nil, after, err
	}
	found, err := collect(ctx, s, `SELECT id, version FROM runs WHERE id IN (SELECT run FROM records WHERE seq > ? AND seq <= ?)`, []any{after, last},
		func(rows *sql.Rows) (v [2]int64, err error) { return v, rows.Scan(&v[0], &v[1]) })
	if err != nil {
		return nil, after, fmt.Errorf("read what changed: %w", err)
	}
	versions = make(map[ci.RunID]int64, len(found))
	for _, v := range found {
		versions[ci.RunID(v[0])] = v[1]
	}
	return versions, last, nil
}

// Records gives at most limit records with numbers above after, in order.
func (s *Store) Records(ctx context.Context, after int64, limit int) ([]Record, error) {
	return s.records(ctx, `SELECT seq, run, event FROM records WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
}

// Events gives at most limit records of one run with numbers above after, in order.
func (s *Store) Events(ctx context.Context, id ci.RunID, after int64, limit int) ([]Record, error) {
	return s.records(ctx, `SELECT seq, run, event FROM records WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?`, int64(id), after, limit)
}

func (s *Store) records(ctx context.Context, query string, args ...any) ([]Record, error) {
	list, err := collect(ctx, s, query, args, func(rows *sql.Rows) (r Record, err error) {
		var text sql.RawBytes
		if err := rows.Scan(&r.Seq, &r.Run, &text); err != nil {
			return r, err
		}
		if err := json.Unmarshal(text, &r.Event); err != nil {
			return r, fmt.Errorf("decode record %d: %w", r.Seq, err)
		}
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return list, nil
}

// LastRecord gives the number of the newest record, 0 if there is none.
func (s *Store) LastRecord(ctx context.Context) (int64, error) {
	list, err := collect(ctx, s, `SELECT COALESCE(MAX(seq), 0) FROM records`, nil, func(rows *sql.Rows) (n int64, err error) {
		return n, rows.Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("read the last record: %w", err)
	}
	return list[0], nil
}

// Claims gives all claims on a concurrency group, by run and then in the order in which the run has them.
func (s *Store) Claims(ctx context.Context, repository, name string) ([]Claim, error) {
	return s.claims(ctx, `SELECT run, repository, claim FROM claims WHERE repository = ? AND name = ? ORDER BY run, position`, repository, indexed(name))
}

// AllClaims gives all claims on all groups: what is to be looked at after a start.
func (s *Store) AllClaims(ctx context.Context) ([]Claim, error) {
	return s.claims(ctx, `SELECT run, repository, claim FROM claims ORDER BY run, position`)
}

func (s *Store) claims(ctx context.Context, query string, args ...any) ([]Claim, error) {
	list, err := collect(ctx, s, query, args, func(rows *sql.Rows) (c Claim, err error) {
		var text sql.RawBytes
		if err := rows.Scan(&c.Run, &c.Repository, &text); err != nil {
			return c, err
		}
		if err := json.Unmarshal(text, &c.Claim); err != nil {
			return c, fmt.Errorf("decode a claim of run %d: %w", c.Run, err)
		}
		return c, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	return list, nil
}

// collect reads all rows of a query. It gives the connection back before it returns: nobody else's pace holds it.
func collect[T any](ctx context.Context, s *Store, query string, args []any, scan func(*sql.Rows) (T, error)) ([]T, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx = s.d.forReading(ctx)
	rows, err := s.reader.QueryContext(ctx, s.d.bind(query), args...)
	if err != nil {
		return nil, s.d.explain(err)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, s.d.explain(err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, s.d.explain(err)
	}
	return list, nil
}

// planCache keeps the plans that were loaded last, parsed: runs of one push often share one.
type planCache struct {
	mu    sync.Mutex
	plans map[string]*ci.Plan
	order []string // oldest first
}

const maxCachedPlans = 32

func (c *planCache) get(hash string) *ci.Plan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plans[hash]
}

func (c *planCache) put(hash string, plan *ci.Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans == nil {
		c.plans = map[string]*ci.Plan{}
	}
	if c.plans[hash] != nil {
		return
	}
	c.plans[hash] = plan
	c.order = append(c.order, hash)
	if len(c.order) > maxCachedPlans {
		delete(c.plans, c.order[0])
		c.order = c.order[1:]
	}
}
