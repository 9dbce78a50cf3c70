package store

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
)

func TestReopen(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "p.db")
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	run := create(t, s, plan(t, twoCells, nil))
	looking := openStore(t, url+"?mode=ro")
	step(t, s, run, ci.Cancel{By: "mona"})
	wantSame(t, load(t, looking, run.ID), run)
	if _, err := tryCreate(looking, plan(t, twoCells, nil)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Create in a store that looks on = %v, want ErrReadOnly", err)
	}
	if err := tryStep(looking, load(t, looking, run.ID), ci.Tick{}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Save in a store that looks on = %v, want ErrReadOnly", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
	if _, err := tryCreate(s, plan(t, twoCells, nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("Create in a closed store = %v, want ErrClosed", err)
	}
	s = openStore(t, url)
	wantSame(t, load(t, s, run.ID), run)
	if next := create(t, s, plan(t, twoCells, nil)); next.ID != 2 {
		t.Errorf("the next run has ID %d, want 2", next.ID)
	}
	wantGapless(t, s)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	s, err := Open(t.Context(), "sqlite:"+newer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.db.Exec(`UPDATE meta SET value = '999' WHERE name = 'schema'`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, c := range []struct{ url, want string }{
		{"mysql://localhost/x", `unknown kind of database "mysql": use sqlite:PATH, sqlite::memory: or postgres://USER`},
		{"", "unknown kind of database"},
		{"sqlite:", "names no file"},
		{"sqlite:" + garbage, garbage + " is not a sound SQLite database"},
		{"sqlite:" + newer, "its tables are of version 999"},
		{"sqlite:" + newer + "?mode=ro", "its tables are of version 999"},
		{"sqlite:" + dir + "/none.db?mode=ro", "no such file"},
		{"sqlite:" + dir, dir},
	} {
		s, err := Open(t.Context(), c.url)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%s) = %v, want an error with %q", c.url, err, c.want)
		}
	}
}

// Every state that an earlier release left behind is brought up to date, and its runs are still there.
func TestUpgrade(t *testing.T) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || !slices.IsSorted(names) {
		t.Fatal(names, err)
	}
	for have := range names {
		for kind, url := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "p.db"), "postgres": postgres(t).Database(t)} {
			t.Run(kind+" "+strconv.Itoa(have), func(t *testing.T) {
				leaveBehind(t, url, names[:have])
				s := openStore(t, url)
				if err := checkSchema(t.Context(), s.reader); err != nil {
					t.Error(err)
				}
				if have > 0 {
					if p, err := s.loadPlan(t.Context(), "h"); err != nil || p.Repository != "octo/before" {
						t.Errorf("the plan from before is not there: %v", err)
					}
				}
				wantSame(t, load(t, s, create(t, s, plan(t, twoCells, nil)).ID), load(t, s, 1))
			})
		}
	}
}

// leaveBehind makes a database as a release with these migrations did.
func leaveBehind(t *testing.T, url string, names []string) {
	t.Helper()
	from, err := parseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	db, err := from.dialect.openWriter()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	statements := []string{`CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)`}
	for i, name := range names {
		text, err := migrations.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		statements = append(statements, from.dialect.ddl(string(text)))
		if i == 0 {
			p, err := json.Marshal(plan(t, twoCells, func(p *ci.Plan) { p.Repository = "octo/before" }))
			if err != nil {
				t.Fatal(err)
			}
			statements = append(statements, `INSERT INTO plans VALUES ('h', '`+strings.ReplaceAll(string(p), "'", "''")+`')`)
		}
	}
	if len(names) > 0 {
		statements = append(statements, `INSERT INTO meta VALUES ('schema', '`+strconv.Itoa(len(names))+`')`)
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
}
