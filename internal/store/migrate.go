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

// migrate brings the tables up to date, each migration in a transaction of its own.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)`)
	if err != nil {
		return fmt.Errorf("begin the tables: %w", err)
	}
	done, err := schema(ctx, db, d)
	if err != nil {
		return err
	}
	for version := done; version < len(names); version++ {
		text, err := migrations.ReadFile(names[version])
		if err != nil {
			return err
		}
		if err := migrateOne(ctx, db, d, d.ddl(string(text)), version+1); err != nil {
			return fmt.Errorf("migrate to %s: %w", strings.TrimPrefix(names[version], "migrations/"), err)
		}
	}
	return checkSchema(ctx, db, d)
}

func migrateOne(ctx context.Context, db *sql.DB, d dialect, text string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, text); err != nil {
		return err
	}
	const mark = `INSERT INTO meta (name, value) VALUES ('schema', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	if _, err := tx.ExecContext(ctx, d.bind(mark), strconv.Itoa(version)); err != nil {
		return err
	}
	return tx.Commit()
}

// schema gives the number of the last migration that was applied, 0 for none.
func schema(ctx context.Context, db *sql.DB, d dialect) (int, error) {
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
func checkSchema(ctx context.Context, db *sql.DB, d dialect) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	version, err := schema(ctx, db, d)
	switch {
	case err != nil:
		return err
	case version > len(names):
		return fmt.Errorf("its tables are of version %d, this penstock knows up to %d: use the newer one", version, len(names))
	case version < len(names):
		return fmt.Errorf("its tables are of version %d and need to be brought to %d: open it for writing once", version, len(names))
	}
	return nil
}
