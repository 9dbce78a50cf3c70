package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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

// EditEnvironment changes the rules of an environment, and makes it if there is none. change is given it as it is (without ID if there
// is none) and sets its rules; an error of it is given back as it is, and changes nothing. It is called again if somebody else was
// quicker: no change is lost. The error wraps ErrNotFound if there is no such repository, ErrUnfit if the name or the rules can not be
// stored.
func (s *Store) EditEnvironment(ctx context.Context, repository int64, name string, at time.Time, change func(*Environment) error) (e Environment, created bool, err error) {
	if err := fits("environment", name); err != nil {
		return e, false, err
	}
	for {
		was, err := s.Environment(ctx, repository, name)
		if errors.Is(err, ErrNotFound) {
			was = Environment{Repository: repository, Name: name, Created: at}
		} else if err != nil {
			return e, false, err
		}
		e = was
		if err := change(&e); err != nil {
			return e, false, err
		}
		e.ID, e.Repository, e.Name, e.Created, e.Updated = was.ID, was.Repository, was.Name, was.Created, at
		if err = s.replaceEnvironment(ctx, &e, was); !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
			return e, was.ID == 0, err
		}
	}
}

// replaceEnvironment stores an environment in place of what was there. The error wraps ErrConflict or ErrExists if that is not there any more.
func (s *Store) replaceEnvironment(ctx context.Context, e *Environment, was Environment) error {
	if e.Name == "" || len(e.Rules) > maxSnapshot || len(e.Rules) > 0 && !json.Valid(e.Rules) {
		return fmt.Errorf("environment %q: %w: it needs a name, and rules that are JSON", e.Name, ErrUnfit)
	}
	put := *e
	id, err := answer(ctx, s, func(b *batch) (int64, error) {
		if was.ID != 0 {
			return was.ID, b.must(ErrConflict, `UPDATE environments SET rules = ?, updated = ? WHERE id = ? AND rules = ?`,
				string(put.Rules), nanos(put.Updated), was.ID, string(was.Rules))
		}
		return b.insert("environment", `INSERT INTO environments (id, repository, name, folded, rules, created, updated)
			VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			put.Repository, put.Name, lower(put.Name), string(put.Rules), nanos(put.Updated), nanos(put.Updated))
	})
	if err != nil {
		return fmt.Errorf("store environment %s: %w", put.Name, err)
	}
	e.ID = id
	return nil
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
