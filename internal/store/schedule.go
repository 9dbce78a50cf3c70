package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Schedule is a time table of a workflow and its next tick.
type Schedule struct {
	Repository int64
	Workflow   string // path of its file
	Cron       string
	Zone       string // IANA's name of a time zone; empty: UTC
	Next       time.Time
}

// SetSchedules makes these the schedules of a repository. One that was there keeps the tick that it waits for. The error
// wraps ErrNotFound if there is no such repository.
func (s *Store) SetSchedules(ctx context.Context, repository int64, schedules []Schedule) error {
	for _, c := range schedules {
		if err := fits("schedule", c.Workflow, c.Cron, c.Zone); err != nil {
			return err
		}
	}
	wanted := make(map[Schedule]time.Time, len(schedules))
	for _, c := range schedules {
		next := c.Next
		c.Repository, c.Next = repository, time.Time{}
		wanted[c] = next
	}
	err := s.change(ctx, func(b *batch) error {
		stored, err := b.schedules(repository)
		if err != nil {
			return err
		}
		for c := range stored {
			if _, ok := wanted[c]; ok {
				continue
			}
			if _, err := b.do(`DELETE FROM schedules WHERE repository = ? AND workflow = ? AND cron = ? AND zone = ?`, repository, c.Workflow, c.Cron, c.Zone); err != nil {
				return err
			}
		}
		for c, next := range wanted {
			if stored[c] {
				continue
			}
			if _, err := b.do(`INSERT INTO schedules (repository, workflow, cron, zone, next) VALUES (?, ?, ?, ?, ?)`,
				repository, c.Workflow, c.Cron, c.Zone, nanos(next)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the schedules of repository %d: %w", repository, err)
	}
	return nil
}

// schedules gives those of a repository without their ticks.
func (b *batch) schedules(repository int64) (map[Schedule]bool, error) {
	rows, err := b.tx.Query(b.w.d.bind(`SELECT workflow, cron, zone FROM schedules WHERE repository = ?`), repository)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[Schedule]bool{}
	for rows.Next() {
		c := Schedule{Repository: repository}
		if err := rows.Scan(&c.Workflow, &c.Cron, &c.Zone); err != nil {
			return nil, err
		}
		found[c] = true
	}
	return found, rows.Err()
}

// Schedules lists at most limit schedules by their next ticks, the soonest first: those that are due, and then the one to
// wait for.
func (s *Store) Schedules(ctx context.Context, limit int) ([]Schedule, error) {
	found, err := collect(ctx, s, `SELECT repository, workflow, cron, zone, next FROM schedules ORDER BY next, repository, workflow, cron, zone LIMIT ?`, []any{limit},
		func(rows *sql.Rows) (c Schedule, err error) {
			var next int64
			err = rows.Scan(&c.Repository, &c.Workflow, &c.Cron, &c.Zone, &next)
			c.Next = fromNanos(next)
			return c, err
		})
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	return found, nil
}

// Tick moves a schedule on to its next tick. The error wraps ErrConflict if it is not waiting for c.Next any more: then
// another server has taken that tick. Whoever gets nil triggers the workflow.
func (s *Store) Tick(ctx context.Context, c Schedule, next time.Time) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrConflict, `UPDATE schedules SET next = ? WHERE repository = ? AND workflow = ? AND cron = ? AND zone = ? AND next = ?`,
			nanos(next), c.Repository, c.Workflow, c.Cron, c.Zone, nanos(c.Next))
	})
	if err != nil {
		return fmt.Errorf("tick %q of %s: %w", c.Cron, c.Workflow, err)
	}
	return nil
}
