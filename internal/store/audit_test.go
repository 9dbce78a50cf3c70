package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestAudit(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		want(t, "an empty log", must2(s.VerifyAudit(ctx))(t), int64(0))
		var all sync.WaitGroup
		for n := range 20 {
			all.Go(func() {
				a := Audit{At: noon, Actor: []string{"mona", "hubot"}[n%2], Action: "repo.create", Target: "octo/hello",
					Details: json.RawMessage(` { "z": 1.50, "a": {"y": "<é>", "b": [1, 2]} } `)}
				if err := s.AppendAudit(ctx, &a); err != nil || a.Seq == 0 || len(a.Hash) != 32 {
					t.Errorf("AppendAudit = %v, %+v", err, a)
				}
			})
		}
		all.Wait()
		log := must(s.AuditLog(ctx, AuditFilter{}))(t)
		want(t, "records", len(log), 20)
		const details = `{"a":{"b":[1,2],"y":"\u003cé\u003e"},"z":1.50}`
		want(t, "details", string(log[7].Details), details)
		want(t, "body", string(log[7].Body), `{"seq":8,"at":"2026-01-02T12:00:00Z","actor":"`+log[7].Actor+
			`","action":"repo.create","target":"octo/hello","details":`+details+`}`)
		want(t, "last", must2(s.VerifyAudit(ctx))(t), int64(20))
		mine := must(s.AuditLog(ctx, AuditFilter{Actor: "mona", Action: "repo.create", Target: "octo/hello", Limit: 4}))(t)
		want(t, "of one, a page", len(mine), 4)
		rest := must(s.AuditLog(ctx, AuditFilter{Actor: "mona", After: mine[3].Seq}))(t)
		want(t, "of one, the rest", len(rest), 6)
		if slices.ContainsFunc(append(mine, rest...), func(a Audit) bool { return a.Actor != "mona" }) {
			t.Error("the log of one has records of another")
		}
		for _, bad := range []string{`{`, `{} {}`, `"` + strings.Repeat("a", maxAudit) + `"`} {
			if err := s.AppendAudit(ctx, &Audit{Details: json.RawMessage(bad)}); err == nil {
				t.Errorf("details %.10s were taken", bad)
			}
		}
	})
}

func must2[A, B any](a A, _ B, err error) func(t testing.TB) A { return must(a, err) }

func TestAuditIsProvenToBeChanged(t *testing.T) {
	for _, c := range []struct {
		name, change string
		seq          int64
	}{
		{"another text", `UPDATE audit SET body = REPLACE(body, 'mona', 'nona') WHERE seq = 3`, 3},
		{"another filing", `UPDATE audit SET actor = 'nona' WHERE seq = 4`, 4},
		{"another hash", `UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 2`, 2},
		{"one taken away", `DELETE FROM audit WHERE seq = 5`, 5},
		{"the first taken away", `DELETE FROM audit WHERE seq = 1`, 1},
		{"the last taken away", `DELETE FROM audit WHERE seq = 6`, 6},
		{"two exchanged", `UPDATE audit SET seq = CASE seq WHEN 2 THEN 103 ELSE 102 END WHERE seq IN (2, 3); UPDATE audit SET seq = seq - 100 WHERE seq > 100`, 2},
		{"no record", `UPDATE audit SET body = 'x' WHERE seq = 2`, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, "sqlite::memory:")
			for range 6 {
				if err := s.AppendAudit(t.Context(), &Audit{At: noon, Actor: "mona", Action: "a"}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.writer.db.Exec(c.change); err != nil {
				t.Fatal(err)
			}
			_, _, err := s.VerifyAudit(t.Context())
			var broken *AuditError
			if !errors.As(err, &broken) || broken.Seq != c.seq {
				t.Errorf("VerifyAudit = %v, want that record %d is broken", err, c.seq)
			}
		})
	}
}

// Who writes a record anew with a hash that fits has to write all that follow.
func TestAuditIsAChain(t *testing.T) {
	s := openStore(t, "sqlite::memory:")
	var before []byte
	for n := range 4 {
		a := Audit{At: noon, Actor: "mona", Action: "a"}
		if err := s.AppendAudit(t.Context(), &a); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			before = a.Hash
		}
	}
	forged := []byte(`{"seq":2,"at":"2026-01-02T12:00:00Z","actor":"mona","action":"a","target":"elsewhere"}`)
	if _, err := s.writer.db.Exec(`UPDATE audit SET body = ?, target = 'elsewhere', hash = ? WHERE seq = 2`, string(forged), chain(before, forged)); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.VerifyAudit(t.Context())
	var broken *AuditError
	if !errors.As(err, &broken) || broken.Seq != 3 {
		t.Errorf("VerifyAudit = %v, want that record 3 does not follow", err)
	}
}
