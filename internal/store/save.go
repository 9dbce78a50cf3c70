package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

// maxSnapshot bounds what one job, or the run without its jobs, may take in the store, bytes. It is far above what
// the limits of the rooms below allow, and keeps a fault of theirs from filling the disk.
const maxSnapshot = 64 << 20

// Save is a step of a run: what its state became, and the events that made it so.
type Save struct {
	Run *ci.Run
	// From is the version that the events were applied to, Before the jobs as they were then: those that are the
	// same pointer at the same place are not written again (Apply never changes a job in place).
	From   int64
	Before []*ci.Job
	Events []ci.Event
	// Claims are all that the run now makes on concurrency groups; ClaimsChanged says that they are not those stored.
	Claims        []ci.Claim
	ClaimsChanged bool
}

// Save stores a step of a run, its records and its claims in one transaction. It reads s.Run before it returns and
// does not keep it. done is called once the transaction has ended, from another goroutine, in the order of the calls of
// Save; it must not block. Its error is ErrConflict if the stored run is not of version From, ErrHeld if another run
// holds a group that this one claims to hold, ErrFull if the disk is full. After any error nothing was written.
func (s *Store) Save(step Save, done func(error)) {
	if s.writer == nil {
		done(ErrReadOnly)
		return
	}
	row, err := encodeRun(step)
	if err != nil {
		done(fmt.Errorf("save run %d: %w", step.Run.ID, err))
		return
	}
	claims, err := encodeClaims(step)
	if err != nil {
		done(fmt.Errorf("save run %d: %w", step.Run.ID, err))
		return
	}
	exec := func(b *batch) error {
		res, err := b.exec(queryUpdate, row.name, row.attempt, row.status, row.conclusion, row.started, row.completed,
			row.version, row.snapshot, row.id, step.From)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			if err == nil {
				err = refused{ErrConflict}
			}
			return err
		}
		if err := b.insertJobs(row); err != nil {
			return err
		}
		if step.ClaimsChanged {
			if err := b.replaceClaims(row.id, claims); err != nil {
				return err
			}
		}
		b.records = append(b.records, row.records...)
		return nil
	}
	s.writer.enqueue(write{exec: exec, done: func(err error) {
		if err != nil {
			err = fmt.Errorf("save run %d: %w", row.id, err)
		}
		done(err)
	}})
}

// Create stores a new run. begin makes it, from its ID and its number in its workflow, which are given in the same
// transaction: they have no gaps. It gets the plan with these in its github context, must be pure, and may be called
// again if a transaction fails. done is as in Save and gets what begin made last.
func (s *Store) Create(plan *ci.Plan, begin func(id ci.RunID, plan *ci.Plan) (Save, error), done func(Save, error)) {
	if s.writer == nil {
		done(Save{}, ErrReadOnly)
		return
	}
	text, err := json.Marshal(plan)
	if err != nil {
		done(Save{}, fmt.Errorf("create run: encode plan: %w", err))
		return
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:])
	branch := storable(branchOf(plan))
	var step Save
	exec := func(b *batch) error {
		id, err := b.count("run", 1)
		if err != nil {
			return err
		}
		number, err := b.count("number:"+plan.Repository+":"+plan.Workflow, 1)
		if err != nil {
			return err
		}
		step, err = begin(ci.RunID(id), numbered(plan, id, number))
		if err != nil {
			return b.takeBack(plan, refused{err})
		}
		row, err := encodeRun(step)
		if err != nil {
			return b.takeBack(plan, refused{err})
		}
		claims, err := encodeClaims(step)
		if err != nil {
			return b.takeBack(plan, refused{err})
		}
		if !b.w.known[hash] {
			if _, err := b.exec(queryPlan, hash, string(text)); err != nil {
				return err
			}
			b.plans = append(b.plans, hash)
		}
		if _, err := b.exec(queryRun, id, plan.Repository, plan.Workflow, number, plan.Event, branch,
			storable(plan.GitHub.Property("sha").Text()), storable(plan.GitHub.Property("actor").Text()), nanos(step.Run.Created), hash,
			row.name, row.attempt, row.status, row.conclusion, row.started, row.completed, row.version, row.snapshot); err != nil {
			return err
		}
		if err := b.insertJobs(row); err != nil {
			return err
		}
		if err := b.insertClaims(id, claims); err != nil {
			return err
		}
		b.records = append(b.records, row.records...)
		return nil
	}
	s.writer.enqueue(write{exec: exec, done: func(err error) {
		if err != nil {
			done(Save{}, fmt.Errorf("create run: %w", err))
			return
		}
		done(step, nil)
	}})
}

// NumberFrom makes first the ID of the next run, in a store that has no run yet.
func (s *Store) NumberFrom(ctx context.Context, first ci.RunID) error {
	if s.writer == nil {
		return ErrReadOnly
	}
	ended := make(chan error, 1)
	exec := func(b *batch) error {
		last, err := b.count("run", 0)
		if err != nil || last != 0 {
			return err
		}
		_, err = b.count("run", int64(first)-1)
		return err
	}
	s.writer.enqueue(write{exec: exec, done: func(err error) { ended <- err }})
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("number runs from %d: %w", first, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takeBack gives back the numbers of a run that is not created after all.
func (b *batch) takeBack(plan *ci.Plan, why error) error {
	if _, err := b.count("run", -1); err != nil {
		return err
	}
	if _, err := b.count("number:"+plan.Repository+":"+plan.Workflow, -1); err != nil {
		return err
	}
	return why
}

// numbered is the plan with what only the store knows in its github context. The stored plan is without, so that
// equal plans are stored once.
func numbered(plan *ci.Plan, id, number int64) *ci.Plan {
	p := *plan
	p.GitHub = p.GitHub.
		With("run_id", expr.String(strconv.FormatInt(id, 10))).
		With("run_number", expr.String(strconv.FormatInt(number, 10))).
		With("run_attempt", expr.String("1"))
	return &p
}

// branchOf is the head branch as the API shows it: of a pull request the branch it comes from.
func branchOf(plan *ci.Plan) string {
	if head := plan.GitHub.Property("head_ref").Text(); head != "" {
		return head
	}
	if name, ok := strings.CutPrefix(plan.GitHub.Property("ref").Text(), "refs/heads/"); ok {
		return name
	}
	return plan.GitHub.Property("ref_name").Text()
}

// runRow is a run as its rows have it.
type runRow struct {
	id, attempt, started, completed, version int64
	name, status, conclusion, snapshot       string
	jobs                                     []jobRow
	trim                                     int64 // the number of jobs, if there are fewer than before; else -1
	records                                  []record
}

type jobRow struct {
	position int64
	snapshot string
}

type claimRow struct {
	repository, name, claim string
	held                    bool
}

// storable is text as every database takes it: UTF-8 without NUL. What was otherwise is still in the snapshot.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// maxIndexed bounds what goes into an index: PostgreSQL takes a third of a page, less than 3 kB for a row.
const maxIndexed = 1000

// indexed is text as an index takes it. Equal texts stay equal, different ones different.
func indexed(text string) string {
	clean := storable(text)
	if clean == text && len(text) <= maxIndexed {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return strings.ToValidUTF8(clean[:min(len(clean), maxIndexed-2*len(sum)-1)], "") + " " + hex.EncodeToString(sum[:])
}

// encodeRun encodes a run, those of its jobs that changed, and the events.
func encodeRun(step Save) (runRow, error) {
	r := step.Run
	alone := *r
	alone.Jobs = nil
	text, err := encode("the run", &alone)
	if err != nil {
		return runRow{}, err
	}
	row := runRow{
		id: int64(r.ID), attempt: int64(r.Attempt), version: r.Version,
		started: nanos(r.Started), completed: nanos(r.Completed),
		name: storable(r.Name), status: string(r.Status), conclusion: string(r.Conclusion), snapshot: text, trim: -1,
	}
	if len(r.Jobs) < len(step.Before) {
		row.trim = int64(len(r.Jobs))
	}
	for i, j := range r.Jobs {
		if i < len(step.Before) && step.Before[i] == j {
			continue
		}
		text, err := encode("job "+string(j.ID), j)
		if err != nil {
			return runRow{}, err
		}
		row.jobs = append(row.jobs, jobRow{int64(i), text})
	}
	row.records, err = encodeEvents(row.id, step.Events)
	return row, err
}

func encode(what string, v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", what, err)
	}
	if len(text) > maxSnapshot {
		return "", fmt.Errorf("%s takes %d bytes in the store, more than %d are not allowed", what, len(text), maxSnapshot)
	}
	return string(text), nil
}

func encodeEvents(run int64, events []ci.Event) ([]record, error) {
	records := make([]record, 0, len(events))
	for _, e := range events {
		text, err := encode("event "+string(e.Type), e)
		if err != nil {
			return nil, err
		}
		records = append(records, record{run, text, nanos(e.At)})
	}
	return records, nil
}

func encodeClaims(step Save) ([]claimRow, error) {
	rows := make([]claimRow, 0, len(step.Claims))
	for _, c := range step.Claims {
		text, err := encode("claim "+c.Key, c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, claimRow{step.Run.Plan.Repository, indexed(c.Key), text, c.Held})
	}
	return rows, nil
}

func (b *batch) insertJobs(row runRow) error {
	if row.trim >= 0 {
		if _, err := b.exec(queryTrimJobs, row.id, row.trim); err != nil {
			return err
		}
	}
	for _, j := range row.jobs {
		if _, err := b.exec(queryJob, row.id, j.position, j.snapshot); err != nil {
			return err
		}
	}
	return nil
}

// replaceClaims stores the claims of a run in place of those before.
func (b *batch) replaceClaims(run int64, claims []claimRow) error {
	if _, err := b.exec(queryDropClaims, run); err != nil {
		return err
	}
	return b.insertClaims(run, claims)
}

// insertClaims stores the claims of a run that has none. That no group has two holders is a constraint of the database: a second
// one fails the transaction, which the writer then repeats write by write.
func (b *batch) insertClaims(run int64, claims []claimRow) error {
	for i, c := range claims {
		if _, err := b.exec(queryClaim, run, i, c.repository, c.name, c.held, c.claim); err != nil {
			if b.w.d.isConstraint(err) {
				return fmt.Errorf("%w %s (%w)", ErrHeld, c.name, err)
			}
			return err
		}
	}
	return nil
}
