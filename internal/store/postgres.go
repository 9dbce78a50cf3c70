package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	postgresForm = "postgres://USER:PASSWORD@HOST:PORT/DATABASE"
	// connectTimeout bounds one try to connect, unless the URL says otherwise.
	connectTimeout = 5 * time.Second
	// maxQuiet is how long a connection may be quiet in the middle of a transaction before PostgreSQL ends it. It
	// bounds how long a server that is gone, or stopped, keeps the others from writing.
	maxQuiet = 10 * time.Second
	// maxRead bounds one query of a reader.
	maxRead = time.Minute
	// peerTimeout is after how long a peer that answers nothing on the network counts as gone.
	peerTimeout = 15 * time.Second
)

// postgresDialect is a PostgreSQL database, 13 or newer, that several servers may share. Connections need the whole
// session to themselves: a pooler must not hand them round between transactions.
type postgresDialect struct {
	config *pgx.ConnConfig
	// origin names this Store in what it announces, so that it can tell its own news from that of others.
	origin string
	poll   time.Duration // how long follow waits for an announcement before it looks for itself
}

func parsePostgres(text string) (postgresDialect, error) {
	config, err := pgx.ParseConfig(text)
	if err != nil { // its text has the URL; what it wraps, if anything, has only what is wrong
		why := cmp.Or(errors.Unwrap(err), errors.New("it is not understood"))
		return postgresDialect{}, fmt.Errorf("the URL of PostgreSQL is not right, use %s: %w", postgresForm, why)
	}
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, connectTimeout)
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: peerTimeout / 3, Interval: peerTimeout / 3, Count: 2},
		Control:         limitSilence,
	}
	config.DialFunc = dialer.DialContext
	config.RuntimeParams["application_name"] = cmp.Or(config.RuntimeParams["application_name"], "penstock")
	return postgresDialect{config: config, origin: rand.Text(), poll: pollAfter}, nil
}

// where names the database for people.
func (d postgresDialect) where() string {
	return fmt.Sprintf("the PostgreSQL database %s at %s port %d", d.config.Database, d.config.Host, d.config.Port)
}

func (d postgresDialect) bind(query string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, more := strings.Cut(query, "?")
		b.WriteString(before)
		if !more {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		query = after
	}
}

var postgresTypes = strings.NewReplacer("@KEY@", "BIGINT PRIMARY KEY", "@NAME@", `TEXT COLLATE "C"`, "@BYTES@", "BYTEA")

func (d postgresDialect) ddl(text string) string { return postgresTypes.Replace(text) }

// lock takes none: every write makes sure that it changes what it has seen.
func (d postgresDialect) lock() (func() error, error) { return func() error { return nil }, nil }

// openWriter opens the one connection of this server that writes. Its commit is on the disk of the database when it
// returns, even where the database's own setting is otherwise.
func (d postgresDialect) openWriter() (*sql.DB, error) {
	db := d.pool(map[string]string{
		"synchronous_commit":                  "on",
		"default_transaction_isolation":       "read committed",
		"idle_in_transaction_session_timeout": millis(maxQuiet),
	})
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	return db, nil
}

// openReader opens the connections that read. A transaction of theirs sees the database as it is at one moment.
func (d postgresDialect) openReader(*sql.DB) (*sql.DB, error) {
	db := d.pool(map[string]string{
		"default_transaction_isolation":       "repeatable read",
		"default_transaction_read_only":       "on",
		"idle_in_transaction_session_timeout": millis(maxQuiet),
		"statement_timeout":                   millis(maxRead),
	})
	n := max(4, 2*runtime.GOMAXPROCS(0))
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}

func (d postgresDialect) pool(settings map[string]string) *sql.DB {
	config := d.config.Copy()
	for name, value := range settings {
		config.RuntimeParams[name] = value
	}
	return stdlib.OpenDB(*config)
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (d postgresDialect) forReading(ctx context.Context) context.Context { return ctx }

// begin takes the one lock of all writers. As nobody holds another lock before it, writers of several servers can not
// block each other for good, and records appear in the order of their numbers.
func (d postgresDialect) begin(tx *sql.Tx) (mark string, err error) {
	var lock any
	err = tx.QueryRow(`SELECT pg_advisory_xact_lock(hashtextextended('penstock in ' || current_schema(), 0)), pg_current_xact_id()::text`).
		Scan(&lock, &mark)
	return mark, err
}

// committed waits for the lock that the transaction in question holds while it is under way.
func (d postgresDialect) committed(ctx context.Context, db *sql.DB, mark string) (bool, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	if _, err := d.begin(tx); err != nil {
		return false, err
	}
	var status sql.NullString
	if err := tx.QueryRow(`SELECT pg_xact_status($1::text::xid8)`, mark).Scan(&status); err != nil {
		return false, err
	}
	switch status.String {
	case "committed":
		return true, nil
	case "aborted":
		return false, nil
	}
	return false, fmt.Errorf("the database %w: it says %q of transaction %s", ErrUnavailable, status.String, mark)
}

func (d postgresDialect) isConstraint(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && strings.HasPrefix(e.Code, "23")
}

// explain goes by the codes of https://www.postgresql.org/docs/current/errcodes-appendix.html.
func (d postgresDialect) explain(err error) error {
	var e *pgconn.PgError
	switch {
	case err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFull):
		return err
	case errors.As(err, &e):
		return d.explainCode(e.Code, err)
	case isLost(err):
		return fmt.Errorf("%s %w (%w)", d.where(), ErrUnavailable, oneLine{err})
	}
	return err
}

func (d postgresDialect) explainCode(code string, err error) error {
	switch class := code[:min(2, len(code))]; {
	case code == "53100":
		return fmt.Errorf("%w that holds %s: free some there and try again (%w)", ErrFull, d.where(), err)
	case code == "25006":
		return fmt.Errorf("%s %w for writing, it may be a standby (%w)", d.where(), ErrUnavailable, err)
	case class == "08", class == "57" && code != "57014", code == "25P03", code == "53300":
		return fmt.Errorf("%s %w (%w)", d.where(), ErrUnavailable, oneLine{err})
	case class == "28":
		return fmt.Errorf("%s does not let user %s in: check user and password in the URL (%w)", d.where(), d.config.User, err)
	case code == "3D000":
		return fmt.Errorf("%s is not there: create it with createdb (%w)", d.where(), err)
	case code == "42501", code == "3F000":
		return fmt.Errorf("user %s may not make tables in %s: make it the owner (%w)", d.config.User, d.where(), err)
	case code == "42883":
		return fmt.Errorf("%s lacks a function: PostgreSQL 13 or newer is needed (%w)", d.where(), err)
	case code == "22021":
		return fmt.Errorf("text with a NUL or that is not UTF-8 can not be stored: %w", err)
	}
	return err
}

// oneLine is an error in one line: pgx begins one for each address that it tried.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }

func (e oneLine) Unwrap() error { return e.error }

// isLost reports whether an error that PostgreSQL did not send means that the connection is gone, or never came to be.
func isLost(err error) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
