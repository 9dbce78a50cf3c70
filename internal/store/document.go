package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Document is something that a repository has in the shape of GitHub's API: an issue, a comment, a commit's status, a
// check, a release. Whoever reads it knows what is in Body; the store only keeps and finds it.
type Document struct {
	ID         int64 // from 1, over all documents; given by AddDocument
	Repository string
	Kind       string
	// Parent is what it belongs to, such as a commit or the number of an issue. It may be empty.
	Parent string
	// Name is unique among those of the same repository, kind and parent. Any number may have none.
	Name    string
	Version int64 // grows with each change
	Body    []byte
}

// ErrExists says that there is one of that name already: nothing was written.
var ErrExists = errors.New("there is one of that name already")

const documentColumns = `id, repository, kind, parent, name, version, body`

// AddDocument stores a new document and sets its ID and version. The error wraps ErrExists if its name is taken.
func (s *Store) AddDocument(ctx context.Context, d *Document) error {
	added := *d // a write may end after its caller has gone
	err := s.change(ctx, func(b *batch) error {
		if err := b.nameFree(&added); err != nil {
			return err
		}
		var err error
		if added.ID, err = b.count("document", 1); err != nil {
			return err
		}
		added.Version = 1
		_, err = b.tx.Exec(s.d.bind(`INSERT INTO documents (`+documentColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`),
			added.ID, added.Repository, added.Kind, added.Parent, added.Name, added.Version, string(added.Body))
		return err
	})
	if err != nil {
		return fmt.Errorf("add %s %s: %w", d.Kind, d.Name, err)
	}
	d.ID, d.Version = added.ID, added.Version
	return nil
}

// SaveDocument stores a document's body, name and parent anew and counts its version up. The error wraps ErrConflict if
// it is not of the version that is stored, or gone: load it again. It wraps ErrExists if its new name is taken.
func (s *Store) SaveDocument(ctx context.Context, d *Document) error {
	saved := *d
	err := s.change(ctx, func(b *batch) error {
		if err := b.nameFree(&saved); err != nil {
			return err
		}
		result, err := b.tx.Exec(s.d.bind(`UPDATE documents SET parent = ?, name = ?, version = version + 1, body = ? WHERE id = ? AND version = ?`),
			saved.Parent, saved.Name, string(saved.Body), saved.ID, saved.Version)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return refused{ErrConflict}
	})
	if err != nil {
		return fmt.Errorf("save %s %d: %w", d.Kind, d.ID, err)
	}
	d.Version++
	return nil
}

// nameFree refuses a document whose name another one has.
func (b *batch) nameFree(d *Document) error {
	if d.Name == "" {
		return nil
	}
	var other int64
	err := b.tx.QueryRow(b.w.d.bind(`SELECT id FROM documents WHERE repository = ? AND kind = ? AND parent = ? AND name = ? AND id <> ?`),
		d.Repository, d.Kind, d.Parent, d.Name, d.ID).Scan(&other)
	switch {
	case err == nil:
		return refused{ErrExists}
	case errors.Is(err, sql.ErrNoRows):
		return nil
	}
	return err
}

// DeleteDocument removes a document. One that is not there is no error.
func (s *Store) DeleteDocument(ctx context.Context, id int64) error {
	return s.change(ctx, func(b *batch) error {
		_, err := b.tx.Exec(s.d.bind(`DELETE FROM documents WHERE id = ?`), id)
		return err
	})
}

// Document finds a document by its ID. The error wraps ErrNotFound if there is none of that kind in the repository.
func (s *Store) Document(ctx context.Context, repository, kind string, id int64) (*Document, error) {
	return s.oneDocument(ctx, `repository = ? AND kind = ? AND id = ?`, repository, kind, id)
}

// DocumentNamed finds a document by its name. The error wraps ErrNotFound if there is none.
func (s *Store) DocumentNamed(ctx context.Context, repository, kind, parent, name string) (*Document, error) {
	return s.oneDocument(ctx, `repository = ? AND kind = ? AND parent = ? AND name = ?`, repository, kind, parent, name)
}

func (s *Store) oneDocument(ctx context.Context, where string, args ...any) (*Document, error) {
	found, err := s.documents(ctx, `SELECT `+documentColumns+` FROM documents WHERE `+where, args...)
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("find %v: %w", args, err)
	}
	return found[0], nil
}

// DocumentFilter chooses documents of one kind in a repository.
type DocumentFilter struct {
	Repository, Kind string
	Parent           *string // only those that belong to it; nil for all
	Newest           bool    // the newest first, else the oldest
	Offset, Limit    int     // a page of them; Limit 0 is 100
}

// Documents lists documents.
func (s *Store) Documents(ctx context.Context, f DocumentFilter) ([]*Document, error) {
	query := `SELECT ` + documentColumns + ` FROM documents WHERE repository = ? AND kind = ?`
	args := []any{f.Repository, f.Kind}
	if f.Parent != nil {
		query += ` AND parent = ?`
		args = append(args, *f.Parent)
	}
	query += ` ORDER BY id`
	if f.Newest {
		query += ` DESC`
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query += ` LIMIT ? OFFSET ?`
	found, err := s.documents(ctx, query, append(args, f.Limit, f.Offset)...)
	if err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", f.Kind, f.Repository, err)
	}
	return found, nil
}

func (s *Store) documents(ctx context.Context, query string, args ...any) ([]*Document, error) {
	rows, err := s.reader.QueryContext(s.d.forReading(ctx), s.d.bind(query), args...)
	if err != nil {
		return nil, s.d.explain(err)
	}
	defer rows.Close()
	var found []*Document
	for rows.Next() {
		var d Document
		var body string
		if err := rows.Scan(&d.ID, &d.Repository, &d.Kind, &d.Parent, &d.Name, &d.Version, &body); err != nil {
			return nil, s.d.explain(err)
		}
		d.Body = []byte(body)
		found = append(found, &d)
	}
	return found, s.d.explain(rows.Err())
}

// NextNumber gives the number of a repository's next issue or pull request: both count together, as on GitHub.
func (s *Store) NextNumber(ctx context.Context, repository string) (int64, error) {
	given := make(chan int64, 1)
	err := s.change(ctx, func(b *batch) error {
		n, err := b.count("issue "+repository, 1)
		select {
		case <-given: // of a transaction that failed
		default:
		}
		given <- n
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("number an issue of %s: %w", repository, err)
	}
	return <-given, nil
}

// change carries out a write and waits for it. When it returns nil the change is durable; after the end of ctx it may
// still be made. exec may be called again if a transaction fails; refused in its error says that nothing was written.
func (s *Store) change(ctx context.Context, exec func(*batch) error) error {
	if s.writer == nil {
		return ErrReadOnly
	}
	ended := make(chan error, 1)
	s.writer.enqueue(write{exec: exec, done: func(err error) { ended <- err }})
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
