// Package store keeps runs, their plans and their records in a database: SQLite in a file or in memory, or PostgreSQL,
// which several servers may share. It is the only room that speaks SQL. What a write has acknowledged is on the disk; a state change and its records are one
// transaction; record numbers have no gaps and appear in order.
//
// It decides nothing, and never sees a secret: those of a run are resolved when a job is leased, and those that it keeps
// are sealed.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

var (
	// ErrNotFound says that there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that something was changed by somebody else since it was loaded: nothing was written, load again.
	ErrConflict = errors.New("it was changed meanwhile")
	// ErrHeld says that another run holds the concurrency group that this one was to hold: nothing was written.
	ErrHeld = errors.New("another run holds the concurrency group")
	// ErrFull says that the disk of the database is full: nothing was written.
	ErrFull = errors.New("no space left on the disk")
	// ErrInUse says that another process has the database open for writing.
	ErrInUse = errors.New("the database is in use")
	// ErrReadOnly is the answer to every write to a store that was opened with mode=ro.
	ErrReadOnly = errors.New("the database is open for reading only")
	// ErrClosed is the answer to every write after Close.
	ErrClosed = errors.New("the store is closed")
	// ErrUnavailable says that the database server does not answer. A write that gets it has waited for the server to
	// come back, and was not made.
	ErrUnavailable = errors.New("does not answer")
	// ErrInDoubt says that the database server went away in the middle of a commit and stayed away: whether the write was
	// made is not known. Load again before it is repeated.
	ErrInDoubt = errors.New("the database went away while it committed, the change may have been made")
)

// Store is an open database. It may be used by any number of goroutines.
type Store struct {
	d       dialect
	source  source
	reader  *sql.DB // any number of connections; in memory the same as writer.db
	writer  *writer // nil if read only
	unlock  func() error
	plans   planCache
	changed feeds     // records were added
	foreign broadcast // by other servers

	unfollow func()         // ends the following of other servers
	followed sync.WaitGroup // counts it
	once     sync.Once      // closes
}

// Open opens a database and brings its tables up to date. The URL is sqlite:PATH, sqlite:PATH?mode=ro to look on while
// another process writes, sqlite::memory: for a database that ends with the store, or postgres://... as libpq and pgx
// take it. The error wraps ErrInUse if another process, or another Store of this one, has a file open for writing, and
// ErrUnavailable if a database server does not answer. No error has the password of the URL.
func Open(ctx context.Context, url string) (*Store, error) {
	from, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{d: from.dialect, source: from, unlock: func() error { return nil }, unfollow: func() {}}
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("open store %s: %w", from.name, s.d.explain(err))
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if !s.source.readOnly {
		unlock, err := s.d.lock()
		if err != nil {
			return err
		}
		s.unlock = unlock
		db, err := s.d.openWriter()
		if err != nil {
			return err
		}
		if err := migrate(ctx, db, s.d); err != nil {
			db.Close()
			return err
		}
		if s.writer, err = startWriter(ctx, db, s.d, &s.changed); err != nil {
			db.Close()
			return err
		}
	}
	var err error
	if s.reader, err = s.d.openReader(s.writerDB()); err != nil {
		return err
	}
	if err := checkSchema(ctx, s.reader); err != nil {
		return err
	}
	following, unfollow := context.WithCancel(context.WithoutCancel(ctx))
	s.unfollow = unfollow
	s.followed.Go(func() {
		s.d.follow(following, func() {
			s.changed.runs.wake()
			s.changed.releases.wake()
			s.foreign.wake()
		})
	})
	return nil
}

func (s *Store) writerDB() *sql.DB {
	if s.writer == nil {
		return nil
	}
	return s.writer.db
}

// Close finishes the writes that are under way and closes the database. Closing it again does nothing.
func (s *Store) Close() (err error) {
	s.once.Do(func() { err = s.close() })
	return err
}

func (s *Store) close() error {
	s.unfollow()
	s.followed.Wait()
	var errs []error
	if s.reader != nil && s.reader != s.writerDB() {
		errs = append(errs, s.reader.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	errs = append(errs, s.unlock())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Durable reports whether what is stored outlives the process.
func (s *Store) Durable() bool { return s.source.durable }

// Shared reports whether other servers may write to the database at the same time.
func (s *Store) Shared() bool { return s.source.shared }

// Changed gives a channel that is closed when records of runs are added after the call. Take it, read, and wait on it if
// there was nothing new: so nothing is missed and nothing polled. Records that other servers add to PostgreSQL close it
// as well; those that another process adds to a SQLite file that is looked on at do not.
func (s *Store) Changed() <-chan struct{} { return s.changed.runs.wait() }

// ReleasesChanged is Changed for the records of releases.
func (s *Store) ReleasesChanged() <-chan struct{} { return s.changed.releases.wait() }

// WakeReleases closes the channels of ReleasesChanged although no record was added: something else about releases has changed.
func (s *Store) WakeReleases() { s.changed.releases.wake() }

// Foreign is Changed for records that other servers add; now and then it closes for our own.
func (s *Store) Foreign() <-chan struct{} { return s.foreign.wait() }

// feeds wake those who wait for records.
type feeds struct{ runs, releases broadcast }

// broadcast wakes everyone who waits.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// Backup writes a copy of the database, as it is at one moment, into a new file. The error wraps ErrNoBackup where the
// database is not a file of ours.
func (s *Store) Backup(ctx context.Context, path string) error {
	if _, ok := s.d.(sqliteDialect); !ok || !s.Durable() {
		return ErrNoBackup
	}
	if _, err := s.reader.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return fmt.Errorf("back up the database: %w", err)
	}
	return nil
}

// ErrNoBackup says that a database has its own tools to be backed up with.
var ErrNoBackup = errors.New("this database is backed up by its own tools, such as pg_dump")
