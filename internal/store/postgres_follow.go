package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	channel = "penstock_records"
	// pollAfter is how long a server waits for an announcement before it looks for itself.
	pollAfter = 5 * time.Second
	// pollWithin bounds one look. A connection that takes longer is given up.
	pollWithin = 10 * time.Second
)

// announce is part of the transaction: PostgreSQL sends it if and when that is committed.
func (d postgresDialect) announce(tx *sql.Tx) error {
	_, err := tx.Exec(`SELECT pg_notify($1, $2)`, channel, d.origin)
	return err
}

// follow listens on a connection of its own. One that is lost is made again, with news at once, for it may have missed
// some.
func (d postgresDialect) follow(ctx context.Context, news func()) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		if d.listen(ctx, news) {
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// listen calls news until its connection, or ctx, ends. It reports whether it had a connection.
func (d postgresDialect) listen(ctx context.Context, news func()) bool {
	conn, err := pgx.ConnectConfig(ctx, d.config.Copy())
	if err != nil {
		return false
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return false
	}
	last, err := lastSeen(ctx, conn)
	if err == nil {
		news() // after last was read: what comes in between is noticed below
	}
	for err == nil {
		var told bool
		if told, err = d.hear(ctx, conn); err != nil {
			break
		}
		if told {
			news()
			continue
		}
		var seen int64
		// Nobody told us: it may be that nothing happened, or that announcements do not reach us.
		if seen, err = lastSeen(ctx, conn); seen > last {
			last = seen
			news()
		}
	}
	return true
}

// hear waits for an announcement of another server. It reports false if there was none for a while.
func (d postgresDialect) hear(ctx context.Context, conn *pgx.Conn) (told bool, err error) {
	waiting, cancel := context.WithTimeout(ctx, d.poll)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed():
			return false, nil
		case err != nil:
			return false, err
		case n.Payload != d.origin:
			return true, nil
		}
	}
}

func lastSeen(ctx context.Context, conn *pgx.Conn) (last int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, pollWithin)
	defer cancel()
	err = conn.QueryRow(ctx, `SELECT (SELECT COALESCE(MAX(seq), 0) FROM records) + (SELECT COALESCE(MAX(seq), 0) FROM release_records)`).Scan(&last)
	return last, err
}
