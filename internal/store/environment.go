package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Environment is an environment of a repository: a place to deploy to, with rules for who may and when.
type Environment struct {
	ID               int64 // from 1; never given twice
	Repository       int64
	Name             string          // unique in the repository whatever its case
	Rules            json.RawMessage // whoever reads them knows what is in them; empty: none
	Created, Updated time.Time
}

// PutEnvironment stores an environment, with its rules in place of those before; its name and time of creation stay. It
// sets what it does not take from e. The error wraps ErrNotFound if there is no such repository, ErrUnfit if its name
// can not be stored.
func (s *Store) PutEnvironment(ctx context.Context, e *Environment) (created bool, err error) {
	if err := fits("environment", e.Name); err != nil {
		return false, err
	}
	if e.Name == "" || len(e.Rules) > maxSnapshot || len(e.Rules) > 0 && !json.Valid(e.Rules) {
		return false, fmt.Errorf("environment %q: %w: it needs a name, and rules that are JSON", e.Name, ErrUnfit)
	}
	put := *e
	type outcome struct {
		id      int64
		created bool
	}
	o, err := answer(ctx, s, func(b *batch) (o outcome, err error) {
		id, known, err := get[int64](b, `SELECT id FROM environments WHERE repository = ? AND folded = ?`, put.Repository, lower(put.Name))
		if err != nil {
			return o, err
		}
		if known {
			_, err = b.do(`UPDATE environments SET rules = ?, updated = ? WHERE id = ?`, string(put.Rules), nanos(put.Updated), id)
			return outcome{id, false}, err
		}
		id, err = b.insert("environment", `INSERT INTO environments (id, repository, name, folded, rules, created, updated)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			put.Repository, put.Name, lower(put.Name), string(put.Rules), nanos(put.Updated), nanos(put.Updated))
		return outcome{id, true}, err
	})
	if err == nil {
		*e, err = one(ctx, s, scanEnvironment, `SELECT `+environmentColumns+` FROM environments WHERE id = ?`, o.id)
	}
	if err != nil {
		return false, fmt.Errorf("store environment %s: %w", put.Name, err)
	}
	return o.created, nil
}

const environmentColumns = `id, repository, name, rules, created, updated`

func scanEnvironment(rows *sql.Rows) (e Environment, err error) {
	var rules string
	var created, updated int64
	err = rows.Scan(&e.ID, &e.Repository, &e.Name, &rules, &created, &updated)
	if rules != "" {
		e.Rules = json.RawMessage(rules)
	}
	e.Created, e.Updated = fromNanos(created), fromNanos(updated)
	return e, err
}

// Environment finds an environment by its name, whatever its case. The error wraps ErrNotFound if there is none.
func (s *Store) Environment(ctx context.Context, repository int64, name string) (Environment, error) {
	e, err := one(ctx, s, scanEnvironment, `SELECT `+environmentColumns+` FROM environments WHERE repository = ? AND folded = ?`,
		repository, storable(lower(name)))
	if err != nil {
		return Environment{}, fmt.Errorf("find environment %.40q: %w", name, err)
	}
	return e, nil
}

// Environments lists the environments of a repository by their names.
func (s *Store) Environments(ctx context.Context, repository int64) ([]Environment, error) {
	found, err := collect(ctx, s, `SELECT `+environmentColumns+` FROM environments WHERE repository = ? ORDER BY folded`, []any{repository}, scanEnvironment)
	if err != nil {
		return nil, fmt.Errorf("list the environments of repository %d: %w", repository, err)
	}
	return found, nil
}

// DeleteEnvironment removes an environment with its secrets and variables. The error wraps ErrNotFound if there is none.
func (s *Store) DeleteEnvironment(ctx context.Context, repository int64, name string) error {
	scope := storable(Scope{Repository: repository, Environment: name}.String())
	err := s.change(ctx, func(b *batch) error {
		if err := b.must(ErrNotFound, `DELETE FROM environments WHERE repository = ? AND folded = ?`, repository, storable(lower(name))); err != nil {
			return err
		}
		for _, query := range []string{`DELETE FROM secrets WHERE scope = ?`, `DELETE FROM variables WHERE scope = ?`} {
			if _, err := b.do(query, scope); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete environment %.40q: %w", name, err)
	}
	return nil
}
