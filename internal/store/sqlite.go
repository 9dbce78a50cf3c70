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

// sqliteDialect is a SQLite database: a file, or one that lives in the memory of its one connection.
type sqliteDialect struct {
	path   string // of the database file
	memory bool
}

func parseSQLite(name string) (sqliteDialect, error) {
	if name == ":memory:" {
		return sqliteDialect{memory: true}, nil
	}
	if name == "" {
		return sqliteDialect{}, errors.New("the URL names no file: use sqlite:PATH")
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return sqliteDialect{}, err
	}
	return sqliteDialect{path: path}, nil
}

func (d sqliteDialect) bind(query string) string { return query }

var sqliteTypes = strings.NewReplacer("@KEY@", "INTEGER PRIMARY KEY", "@NAME@", "TEXT", "@BYTES@", "BLOB")

func (d sqliteDialect) ddl(text string) string { return sqliteTypes.Replace(text) }

// openWriter opens the one connection that writes. Every transaction on it begins as a writing one, so it never fails
// half-way for want of the lock, and its commit is on the disk when it returns.
func (d sqliteDialect) openWriter() (*sql.DB, error) {
	dsn := d.dsn("_txlock=immediate", "_pragma=synchronous(full)", "_pragma=busy_timeout(10000)", "_pragma=foreign_keys(on)")
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
// A database in memory has none beside its writer.
func (d sqliteDialect) openReader(writer *sql.DB) (*sql.DB, error) {
	if d.memory {
		return writer, nil
	}
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
func (d sqliteDialect) forReading(ctx context.Context) context.Context {
	if d.memory {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (d sqliteDialect) dsn(options ...string) string {
	if d.memory {
		return "file::memory:?" + strings.Join(options, "&")
	}
	return "file:" + (&url.URL{Path: d.path}).EscapedPath() + "?" + strings.Join(options, "&")
}

// lock makes this the only Store that writes the file: what a Store knows in memory of a file, no other one changes.
func (d sqliteDialect) lock() (unlock func() error, err error) {
	if d.memory {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return nil, err
	}
	return lockFile(d.path + ".lock")
}

// begin has nothing to do: BEGIN IMMEDIATE has taken the lock, and a commit is never in doubt.
func (d sqliteDialect) begin(*sql.Tx) (string, error) { return "", nil }

func (d sqliteDialect) committed(context.Context, *sql.DB, string) (bool, error) { return false, nil }

func (d sqliteDialect) announce(*sql.Tx) error { return nil }

// follow has nobody to follow: the lock keeps other writers away.
func (d sqliteDialect) follow(context.Context, func()) {}

func (d sqliteDialect) isConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}

// explain says what a database error means for people, naming the disk if that is the trouble.
func (d sqliteDialect) explain(err error) error {
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
