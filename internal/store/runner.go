package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Runner is a runner elsewhere that has joined this server. It is for the jobs of all repositories.
type Runner struct {
	ID        int64    // from 1; never given twice
	Name      string   // unique whatever its case
	OS, Arch  string   // as in GitHub's labels: Linux, X64
	Labels    []string // its own, besides self-hosted, OS and Arch
	Ephemeral bool     // it takes one job
	Hash      []byte   // of its token; unique
	Created   time.Time
	Seen      time.Time // last; zero: not yet
}

// AllLabels are those that a job's runs-on is held to, those that every runner has first.
func (r Runner) AllLabels() []string {
	all := []string{"self-hosted"}
	for _, label := range []string{r.OS, r.Arch} {
		if label != "" {
			all = append(all, label)
		}
	}
	return append(all, r.Labels...)
}

// HasLabel reports whether a label is among all of the runner's, whatever its case.
func (r Runner) HasLabel(label string) bool {
	return slices.ContainsFunc(r.AllLabels(), func(l string) bool { return strings.EqualFold(l, label) })
}

const (
	runnerColumns   = `id, name, os, arch, labels, ephemeral, hash, created, seen`
	maxRunnerLabels = 100
)

func scanRunner(rows *sql.Rows) (r Runner, err error) {
	var labels string
	var created, seen int64
	if err := rows.Scan(&r.ID, &r.Name, &r.OS, &r.Arch, &labels, &r.Ephemeral, &r.Hash, &created, &seen); err != nil {
		return r, err
	}
	r.Created, r.Seen = fromNanos(created), fromNanos(seen)
	r.Labels, err = unlist[string](labels)
	return r, err
}

// checkLabels says whether these can be labels: texts of 1 to 256 bytes without commas, at most 100. The error wraps
// ErrUnfit.
func checkLabels(labels []string) error {
	if len(labels) > maxRunnerLabels {
		return fmt.Errorf("%d labels: %w: a runner may have %d", len(labels), ErrUnfit, maxRunnerLabels)
	}
	for _, l := range labels {
		if l == "" || len(l) > 256 || strings.Contains(l, ",") || storable(l) != l || strings.TrimSpace(l) != l {
			return fmt.Errorf("label %.40q: %w: labels have 1 to 256 bytes, no comma, and no blanks at their ends", l, ErrUnfit)
		}
	}
	return nil
}

// AddRunner stores a new runner and sets its ID. The error wraps ErrExists if its name or hash is taken, ErrUnfit if its
// name or a label can not be stored.
func (s *Store) AddRunner(ctx context.Context, r *Runner) error {
	err := fits("runner", r.Name)
	if err == nil && (strings.TrimSpace(r.Name) != r.Name || r.Name == "") {
		err = fmt.Errorf("runner %.40q: %w: it needs a name without blanks at its ends", r.Name, ErrUnfit)
	}
	if err == nil {
		err = checkLabels(r.AllLabels())
	}
	if err != nil {
		return err
	}
	added, labels := *r, list(r.Labels)
	id, err := answer(ctx, s, func(b *batch) (int64, error) {
		return b.insert("runner", `INSERT INTO runners (id, name, folded, os, arch, labels, ephemeral, hash, created, seen)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, added.Name, lower(added.Name), added.OS, added.Arch, labels, added.Ephemeral,
			added.Hash, nanos(added.Created), nanos(added.Seen))
	})
	if err != nil {
		return fmt.Errorf("add runner %s: %w", r.Name, err)
	}
	r.ID = id
	return nil
}

// Runner finds a runner. The error wraps ErrNotFound if there is none.
func (s *Store) Runner(ctx context.Context, id int64) (Runner, error) {
	r, err := one(ctx, s, scanRunner, `SELECT `+runnerColumns+` FROM runners WHERE id = ?`, id)
	if err != nil {
		return Runner{}, fmt.Errorf("find runner %d: %w", id, err)
	}
	return r, nil
}

// RunnerByHash finds a runner by the hash of its token. The error wraps ErrNotFound if there is none.
func (s *Store) RunnerByHash(ctx context.Context, hash []byte) (Runner, error) {
	r, err := one(ctx, s, scanRunner, `SELECT `+runnerColumns+` FROM runners WHERE hash = ?`, hash)
	if err != nil {
		return Runner{}, fmt.Errorf("find a runner: %w", err)
	}
	return r, nil
}

// Runners lists at most limit runners with IDs above after, in their order.
func (s *Store) Runners(ctx context.Context, after int64, limit int) ([]Runner, error) {
	found, err := collect(ctx, s, `SELECT `+runnerColumns+` FROM runners WHERE id > ? ORDER BY id LIMIT ?`, []any{after, limit}, scanRunner)
	if err != nil {
		return nil, fmt.Errorf("list runners: %w", err)
	}
	return found, nil
}

// SetRunnerLabels gives a runner other labels of its own. The error wraps ErrNotFound if there is no such runner, ErrUnfit
// if one can not be a label.
func (s *Store) SetRunnerLabels(ctx context.Context, id int64, labels []string) error {
	err := checkLabels(labels)
	if err == nil {
		text := list(labels)
		err = s.change(ctx, func(b *batch) error {
			return b.must(ErrNotFound, `UPDATE runners SET labels = ? WHERE id = ?`, text, id)
		})
	}
	if err != nil {
		return fmt.Errorf("label runner %d: %w", id, err)
	}
	return nil
}

// TouchRunners notes when runners were there, by their IDs. The times never go back. One that is not there is no error. It is
// a write: call it once in a while for all, not for each request.
func (s *Store) TouchRunners(ctx context.Context, seen map[int64]time.Time) error {
	ids := slices.Sorted(maps.Keys(seen)) // each server in the same order: no two wait for one another
	times := make([]int64, len(ids))
	for i, id := range ids {
		times[i] = nanos(seen[id])
	}
	err := s.change(ctx, func(b *batch) error {
		for i, id := range ids {
			if _, err := b.do(`UPDATE runners SET seen = ? WHERE id = ? AND seen < ?`, times[i], id, times[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("touch %d runners: %w", len(ids), err)
	}
	return nil
}

// DeleteRunner removes a runner: its token is good for nothing from then on. The error wraps ErrNotFound if there is none.
func (s *Store) DeleteRunner(ctx context.Context, id int64) error {
	err := s.change(ctx, func(b *batch) error { return b.must(ErrNotFound, `DELETE FROM runners WHERE id = ?`, id) })
	if err != nil {
		return fmt.Errorf("delete runner %d: %w", id, err)
	}
	return nil
}
