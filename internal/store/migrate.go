package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// migrations are applied in the order of their names and only ever forward. A published one is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the tables up to date, all in one transaction: of servers that start at once one does it.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := d.begin(tx); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)`)
	if err != nil {
		return fmt.Errorf("begin the tables: %w", err)
	}
	done, err := schema(ctx, tx)
	if err != nil {
		return err
	}
	if done > len(names) {
		return tooNew(done, len(names))
	}
	for _, name := range names[done:] {
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, d.ddl(string(text))); err != nil {
			return fmt.Errorf("migrate to %s: %w", strings.TrimPrefix(name, "migrations/"), err)
		}
	}
	const mark = `INSERT INTO meta (name, value) VALUES ('schema', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	if _, err := tx.ExecContext(ctx, d.bind(mark), strconv.Itoa(len(names))); err != nil {
		return err
	}
	return tx.Commit()
}

// querier is a database, or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// schema gives the number of the last migration that was applied, 0 for none.
func schema(ctx context.Context, db querier) (int, error) {
	var text string
	err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'schema'`).Scan(&text)
	if err == sql.ErrNoRows {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the tables: %w", err)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the version of the tables is %.40q, which is no number", text)
	}
	return n, nil
}

// checkSchema refuses tables that are newer than this program, or, looking on, older.
func checkSchema(ctx context.Context, db querier) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	version, err := schema(ctx, db)
	switch {
	case err != nil:
		return err
	case version > len(names):
		return tooNew(version, len(names))
	case version < len(names):
		return fmt.Errorf("its tables are of version %d and need to be brought to %d: open it for writing once", version, len(names))
	}
	return nil
}

func tooNew(version, known int) error {
	return fmt.Errorf("its tables are of version %d, this penstock knows up to %d: use the newer one", version, known)
}
