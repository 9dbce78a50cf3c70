package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// Variable is a setting that is no secret.
type Variable struct {
	Scope Scope
	Name  string
	Value string // UTF-8 without NUL
	Access
	Created, Updated time.Time
}

// AddVariable stores a new variable, created when it was updated. The error wraps ErrExists if its name is taken, ErrUnfit
// if the name is not allowed, ErrNotFound if there is no such repository.
func (s *Store) AddVariable(ctx context.Context, v Variable) error {
	name, err := checkVariable(v)
	if err == nil {
		err = s.change(ctx, func(b *batch) error {
			return b.must(ErrExists, `INSERT INTO variables (scope, name, repository, value, visibility, selected, created, updated)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, v.Scope.String(), name, v.Scope.repository(), v.Value, v.Visibility,
				list(v.Selected), nanos(v.Updated), nanos(v.Updated))
		})
	}
	if err != nil {
		return fmt.Errorf("add variable %.255s: %w", v.Name, err)
	}
	return nil
}

// SaveVariable stores a variable anew under v.Name; name is that which it had. The error wraps ErrNotFound if there is
// none, ErrExists if its new name is taken, ErrUnfit if that is not allowed.
func (s *Store) SaveVariable(ctx context.Context, name string, v Variable) error {
	was, to := strings.ToUpper(name), ""
	to, err := checkVariable(v)
	if err == nil {
		err = s.change(ctx, func(b *batch) error {
			if was != to {
				_, taken, err := get[string](b, `SELECT name FROM variables WHERE scope = ? AND name = ?`, v.Scope.String(), to)
				if err != nil {
					return err
				}
				if taken {
					return refused{ErrExists}
				}
			}
			return b.must(ErrNotFound, `UPDATE variables SET name = ?, value = ?, visibility = ?, selected = ?, updated = ? WHERE scope = ? AND name = ?`,
				to, v.Value, v.Visibility, list(v.Selected), nanos(v.Updated), v.Scope.String(), storable(was))
		})
	}
	if err != nil {
		return fmt.Errorf("save variable %.255s: %w", name, err)
	}
	return nil
}

func checkVariable(v Variable) (string, error) {
	if storable(v.Value) != v.Value {
		return "", fmt.Errorf("its value has a NUL or is not UTF-8")
	}
	return checkSetting(v.Scope, v.Name, len(v.Value))
}

const variableColumns = `scope, name, value, visibility, selected, created, updated`

func scanVariable(rows *sql.Rows) (v Variable, err error) {
	var scope, selected string
	var created, updated int64
	if err := rows.Scan(&scope, &v.Name, &v.Value, &v.Visibility, &selected, &created, &updated); err != nil {
		return v, err
	}
	v.Created, v.Updated = fromNanos(created), fromNanos(updated)
	if v.Selected, err = unlist[int64](selected); err != nil {
		return v, err
	}
	v.Scope, err = parseScope(scope)
	return v, err
}

// Variable finds a variable, whatever the case of the name. The error wraps ErrNotFound if there is none.
func (s *Store) Variable(ctx context.Context, scope Scope, name string) (Variable, error) {
	v, err := one(ctx, s, scanVariable, `SELECT `+variableColumns+` FROM variables WHERE scope = ? AND name = ?`, storable(scope.String()), storable(strings.ToUpper(name)))
	if err != nil {
		return Variable{}, fmt.Errorf("find variable %.255q: %w", name, err)
	}
	return v, nil
}

// Variables lists the variables of a scope by name.
func (s *Store) Variables(ctx context.Context, scope Scope) ([]Variable, error) {
	found, err := collect(ctx, s, `SELECT `+variableColumns+` FROM variables WHERE scope = ? ORDER BY name`, []any{storable(scope.String())}, scanVariable)
	if err != nil {
		return nil, fmt.Errorf("list variables: %w", err)
	}
	return found, nil
}

// DeleteVariable removes a variable. The error wraps ErrNotFound if there is none.
func (s *Store) DeleteVariable(ctx context.Context, scope Scope, name string) error {
	return s.deleteSetting(ctx, "variable", `DELETE FROM variables WHERE scope = ? AND name = ?`, scope, name)
}
