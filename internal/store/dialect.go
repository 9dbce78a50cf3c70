package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is all that is particular to a database: how it is opened, how it writes parameters and keys, what its
// errors mean. Everything else in this room is SQL that SQLite and PostgreSQL both take.
type dialect struct {
	path     string // of the database file
	memory   bool
	readOnly bool
}

func parseURL(text string) (dialect, error) {
	name, ok := strings.CutPrefix(text, "sqlite:")
	if !ok {
		return dialect{}, fmt.Errorf("unknown database %q: use sqlite:PATH or sqlite::memory:", text)
	}
	if name == ":memory:" {
		return dialect{memory: true}, nil
	}
	name, readOnly := strings.CutSuffix(name, "?mode=ro")
	if name == "" {
		return dialect{}, fmt.Errorf("%q names no file: use sqlite:PATH", text)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return dialect{}, err
	}
	return dialect{path: path, readOnly: readOnly}, nil
}

// bind writes the parameters of a query, all of them "?", as the database wants them.
func (d dialect) bind(query string) string { return query }

// ddl fills in the types that the databases name differently.
func (d dialect) ddl(text string) string {
	return strings.ReplaceAll(text, "@KEY@", "INTEGER PRIMARY KEY")
}

// openWriter opens the one connection that writes. Every transaction on it begins as a writing one, so it never fails
// half-way for want of the lock, and its commit is on the disk when it returns.
func (d dialect) openWriter() (*sql.DB, error) {
	dsn := d.dsn("_txlock=immediate", "_pragma=synchronous(full)", "_pragma=busy_timeout(10000)")
	if !d.memory {
		if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
			return nil, err
		}
		dsn += "&_pragma=journal_mode(wal)"
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	return db, nil
}

// openReader opens the connections that read. In WAL mode they do not wait for the writer, nor it for them.
func (d dialect) openReader() (*sql.DB, error) {
	if _, err := os.Stat(d.path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", d.dsn("mode=ro", "_pragma=busy_timeout(10000)"))
	if err != nil {
		return nil, err
	}
	n := max(2, runtime.GOMAXPROCS(0))
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// forReading is the context to read with. In memory readers share the writer's connection: an interrupt that comes late
// would hit a write, and a read is short anyhow.
func (d dialect) forReading(ctx context.Context) context.Context {
	if d.memory {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (d dialect) dsn(options ...string) string {
	if d.memory {
		return "file::memory:?" + strings.Join(options, "&")
	}
	return "file:" + (&url.URL{Path: d.path}).EscapedPath() + "?" + strings.Join(options, "&")
}

// lock makes this the only Store that writes the file.
func (d dialect) lock() (unlock func() error, err error) {
	if d.memory {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return nil, err
	}
	return lockFile(d.path + ".lock")
}

// isConstraint reports whether a statement would have broken a constraint.
func (d dialect) isConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}

// explain says what a database error means for people, naming the disk if that is the trouble.
func (d dialect) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w that holds %s: free some there and try again (%w)", ErrFull, d.path, err)
	case sqlite3.SQLITE_IOERR:
		return fmt.Errorf("the disk that holds %s does not take or give data: %w", d.path, err)
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%s is not a sound SQLite database: %w", d.path, err)
	case sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%s can not be written: %w", d.path, err)
	case sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("%s can not be opened: %w", d.path, err)
	}
	return err
}
