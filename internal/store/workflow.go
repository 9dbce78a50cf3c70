package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// Workflow is a workflow file of a repository, by the number that GitHub's API has for it.
type Workflow struct {
	ID               int64 // from 1; never given twice, and the same as long as the path is
	Repository       int64
	Path             string // unique in the repository
	Name             string
	State            string // active, disabled_manually ... as in GitHub's API
	Created, Updated time.Time
}

const workflowColumns = `id, repository, path, name, state, created, updated`

func scanWorkflow(rows *sql.Rows) (w Workflow, err error) {
	var created, updated int64
	err = rows.Scan(&w.ID, &w.Repository, &w.Path, &w.Name, &w.State, &created, &updated)
	w.Created, w.Updated = fromNanos(created), fromNanos(updated)
	return w, err
}

// PutWorkflow gives the workflow at a path, making it if it is new, then active, and renaming it if it has another name.
// It writes nothing if all is as it was. The error wraps ErrNotFound if there is no such repository.
func (s *Store) PutWorkflow(ctx context.Context, repository int64, path, name string, now time.Time) (Workflow, error) {
	if err := fits("workflow", path); err != nil {
		return Workflow{}, err
	}
	name = storable(name)
	find := func() (Workflow, error) { return s.WorkflowAt(ctx, repository, path) }
	if w, err := find(); err == nil && w.Name == name {
		return w, nil
	}
	err := s.change(ctx, func(b *batch) error {
		n, err := b.do(`UPDATE workflows SET name = ?, updated = ? WHERE repository = ? AND path = ?`, name, nanos(now), repository, path)
		if err != nil || n == 1 {
			return err
		}
		_, err = b.insert("workflow", `INSERT INTO workflows (id, repository, path, name, state, created, updated)
			VALUES (?, ?, ?, ?, 'active', ?, ?) ON CONFLICT DO NOTHING`, repository, path, name, nanos(now), nanos(now))
		return err
	})
	if err != nil {
		return Workflow{}, fmt.Errorf("store workflow %s: %w", path, err)
	}
	return find()
}

// SetWorkflowState changes the state of a workflow. The error wraps ErrNotFound if there is none.
func (s *Store) SetWorkflowState(ctx context.Context, id int64, state string, now time.Time) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrNotFound, `UPDATE workflows SET state = ?, updated = ? WHERE id = ?`, state, nanos(now), id)
	})
	if err != nil {
		return fmt.Errorf("change workflow %d: %w", id, err)
	}
	return nil
}

// Workflow finds a workflow by its number. The error wraps ErrNotFound if the repository has none of it.
func (s *Store) Workflow(ctx context.Context, repository, id int64) (Workflow, error) {
	w, err := one(ctx, s, scanWorkflow, `SELECT `+workflowColumns+` FROM workflows WHERE repository = ? AND id = ?`, repository, id)
	if err != nil {
		return Workflow{}, fmt.Errorf("find workflow %d: %w", id, err)
	}
	return w, nil
}

// WorkflowAt finds a workflow by its path. The error wraps ErrNotFound if there is none.
func (s *Store) WorkflowAt(ctx context.Context, repository int64, path string) (Workflow, error) {
	w, err := one(ctx, s, scanWorkflow, `SELECT `+workflowColumns+` FROM workflows WHERE repository = ? AND path = ?`, repository, storable(path))
	if err != nil {
		return Workflow{}, fmt.Errorf("find workflow %.200q: %w", path, err)
	}
	return w, nil
}

// Workflows lists the workflows of a repository by their numbers.
func (s *Store) Workflows(ctx context.Context, repository int64) ([]Workflow, error) {
	found, err := collect(ctx, s, `SELECT `+workflowColumns+` FROM workflows WHERE repository = ? ORDER BY id`, []any{repository}, scanWorkflow)
	if err != nil {
		return nil, fmt.Errorf("list the workflows of repository %d: %w", repository, err)
	}
	return found, nil
}

// NumberedJob is a job by what its number stands for.
type NumberedJob struct {
	Run     ci.RunID
	Attempt int
	Job     ci.JobID
}

// JobNumbers gives the numbers of jobs of one attempt of a run, by which GitHub's API names them. A job that has none yet
// gets one, and keeps it. No document has the same one: jobs are check runs, as those are.
func (s *Store) JobNumbers(ctx context.Context, run ci.RunID, attempt int, jobs []ci.JobID) (map[ci.JobID]int64, error) {
	numbers, err := s.knownNumbers(ctx, run, attempt)
	if err != nil {
		return nil, fmt.Errorf("number the jobs of run %d: %w", run, err)
	}
	var fresh []ci.JobID
	for _, job := range jobs {
		if numbers[job] == 0 {
			fresh = append(fresh, job)
		}
	}
	if len(fresh) == 0 {
		return numbers, nil
	}
	err = s.change(ctx, func(b *batch) error {
		for _, job := range fresh {
			_, known, err := get[int64](b, `SELECT id FROM job_numbers WHERE run = ? AND attempt = ? AND name = ?`, int64(run), attempt, indexed(string(job)))
			if err != nil {
				return err
			}
			if known { // another was faster
				continue
			}
			if _, err := b.insert("document", `INSERT INTO job_numbers (id, run, attempt, job, name) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
				int64(run), attempt, storable(string(job)), indexed(string(job))); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		numbers, err = s.knownNumbers(ctx, run, attempt)
	}
	if err != nil {
		return nil, fmt.Errorf("number the jobs of run %d: %w", run, err)
	}
	return numbers, nil
}

func (s *Store) knownNumbers(ctx context.Context, run ci.RunID, attempt int) (map[ci.JobID]int64, error) {
	type numbered struct {
		id  int64
		job ci.JobID
	}
	found, err := collect(ctx, s, `SELECT id, job FROM job_numbers WHERE run = ? AND attempt = ?`, []any{int64(run), attempt},
		func(rows *sql.Rows) (n numbered, err error) { return n, rows.Scan(&n.id, &n.job) })
	if err != nil {
		return nil, err
	}
	numbers := make(map[ci.JobID]int64, len(found))
	for _, n := range found {
		numbers[n.job] = n.id
	}
	return numbers, nil
}

// NumberedJob finds the job of a number. The error wraps ErrNotFound if it was not given.
func (s *Store) NumberedJob(ctx context.Context, number int64) (NumberedJob, error) {
	n, err := one(ctx, s, func(rows *sql.Rows) (n NumberedJob, err error) { return n, rows.Scan(&n.Run, &n.Attempt, &n.Job) },
		`SELECT run, attempt, job FROM job_numbers WHERE id = ?`, number)
	if err != nil {
		return NumberedJob{}, fmt.Errorf("find job %d: %w", number, err)
	}
	return n, nil
}
