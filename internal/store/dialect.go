package store

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
)

// dialect is all that is particular to a kind of database: how it is opened, how it writes parameters and types, what
// its errors mean, how several servers share it. Everything else in this room is SQL that all of them take.
type dialect interface {
	// bind writes the parameters of a query, all of them "?", as the database wants them. No query has another "?".
	bind(query string) string
	// ddl fills in the types that the databases name differently: @KEY@ an integer that is the primary key, @NAME@ text
	// that is ordered by its bytes, @BYTES@ bytes.
	ddl(text string) string

	lock() (unlock func() error, err error)
	openWriter() (*sql.DB, error)
	openReader(writer *sql.DB) (*sql.DB, error)
	// forReading is the context to read with.
	forReading(ctx context.Context) context.Context

	// begin makes a transaction the only one that writes until it ends, whichever server it is of. It gives a mark by
	// which committed can tell later, on another connection, whether the transaction took place.
	begin(tx *sql.Tx) (mark string, err error)
	committed(ctx context.Context, db *sql.DB, mark string) (bool, error)
	// announce tells the other servers of new records once tx is committed.
	announce(tx *sql.Tx) error
	// follow calls news when another server may have added records, until ctx ends.
	follow(ctx context.Context, news func())

	// isConstraint reports whether a statement would have broken a constraint.
	isConstraint(err error) bool
	// explain says what a database error means for people. It wraps ErrFull and ErrUnavailable where they apply.
	explain(err error) error
}

// source is what the URL of a store says.
type source struct {
	dialect  dialect
	name     string // for people: the URL without what may be secret
	readOnly bool
	durable  bool
	shared   bool
}

func parseURL(text string) (source, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "sqlite":
		name, readOnly := strings.CutSuffix(rest, "?mode=ro")
		d, err := parseSQLite(name)
		return source{dialect: d, name: text, readOnly: readOnly, durable: !d.memory}, err
	case "postgres", "postgresql":
		u, err := url.Parse(text)
		if err != nil { // its text has the URL, and so the password
			return source{}, fmt.Errorf("the URL of PostgreSQL is not well formed: use %s", postgresForm)
		}
		d, err := parsePostgres(text)
		return source{dialect: d, name: u.Scheme + "://" + u.Host + u.Path, durable: true, shared: true}, err
	}
	return source{}, fmt.Errorf("unknown kind of database %.20q: use sqlite:PATH, sqlite::memory: or %s", kind, postgresForm)
}
