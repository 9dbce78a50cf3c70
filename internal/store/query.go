package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrUnfit says that a name can not be stored: nothing was written.
var ErrUnfit = errors.New("not a name that can be stored")

// fits refuses texts that not every database can index.
func fits(what string, texts ...string) error {
	for _, text := range texts {
		if len(text) > maxIndexed {
			return fmt.Errorf("%s %.40q...: %w: it has %d bytes, more than %d", what, text, ErrUnfit, len(text), maxIndexed)
		}
		if storable(text) != text {
			return fmt.Errorf("%s %q: %w: it has a NUL or is not UTF-8", what, text, ErrUnfit)
		}
	}
	return nil
}

// answer carries out a write that gives a value, and waits for it as change does.
func answer[T any](ctx context.Context, s *Store, exec func(*batch) (T, error)) (T, error) {
	given := make(chan T, 1)
	err := s.change(ctx, func(b *batch) error {
		v, err := exec(b)
		select {
		case <-given: // of a transaction that failed
		default:
		}
		given <- v
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return <-given, nil
}

// one gives the only row of a query. The error is ErrNotFound if there is none.
func one[T any](ctx context.Context, s *Store, scan func(*sql.Rows) (T, error), query string, args ...any) (T, error) {
	found, err := collect(ctx, s, query, args, scan)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return found[0], nil
}

// do executes a statement and gives the number of rows that it changed. One that names a repository or a user that is
// not there is ErrNotFound.
func (b *batch) do(query string, args ...any) (int64, error) {
	result, err := b.tx.Exec(b.w.d.bind(query), args...)
	if err != nil {
		if b.w.d.isConstraint(err) {
			return 0, fmt.Errorf("what it belongs to is %w (%w)", ErrNotFound, err)
		}
		return 0, err
	}
	return result.RowsAffected()
}

// get gives the only value of a query. It is zero, and ok false, if there is no row.
func get[T any](b *batch, query string, args ...any) (v T, ok bool, err error) {
	err = b.tx.QueryRow(b.w.d.bind(query), args...).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return v, false, nil
	}
	return v, err == nil, err
}

// insert adds a row and gives its new ID, which is the first parameter of the query. The query does nothing on conflict;
// then insert refuses with ErrExists.
func (b *batch) insert(counter, query string, args ...any) (int64, error) {
	id, err := b.count(counter, 1)
	if err != nil {
		return 0, err
	}
	n, err := b.do(query, append([]any{id}, args...)...)
	if err == nil && n == 0 {
		if _, err = b.count(counter, -1); err == nil {
			err = refused{ErrExists}
		}
	}
	return id, err
}

// must executes a statement that is to change a row; why is the refusal if it does not.
func (b *batch) must(why error, query string, args ...any) error {
	n, err := b.do(query, args...)
	if err == nil && n == 0 {
		err = refused{why}
	}
	return err
}

// list is a list as a column of text.
func list[T any](values []T) string {
	if len(values) == 0 {
		return "[]"
	}
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // lists of texts and numbers are always JSON
	}
	return string(text)
}

func unlist[T any](text string) (values []T, err error) {
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("decode a list: %w", err)
	}
	return values, nil
}

func lower(name string) string { return strings.ToLower(name) }
