package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// maxAudit bounds the details of one record, bytes.
const maxAudit = 64 << 10

// Audit is one record of who did what. Records are only ever added, and each has a hash over itself and the hash of the
// record before: SHA-256 of that hash (none for the first record) and of the record's Body. So nobody can change, take
// away or slip in one without changing all that follow. Whoever keeps a hash elsewhere can prove the log up to it.
type Audit struct {
	Seq     int64           `json:"seq"` // from 1, without gaps; given by AppendAudit
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`  // a login, or what acted
	Action  string          `json:"action"` // as GitHub names it: repo.create, environment.update_protection_rule ...
	Target  string          `json:"target"` // what it was done to: a repository, a user; may be empty
	Details json.RawMessage `json:"details,omitempty"`

	// Body is the record as it is hashed: this struct as JSON, the keys of Details in order and all without blanks.
	Body []byte `json:"-"`
	Hash []byte `json:"-"`
}

// AppendAudit adds a record, which is durable when it returns nil, and sets its number, Body and Hash.
func (s *Store) AppendAudit(ctx context.Context, a *Audit) error {
	if err := fits("audit record", a.Actor, a.Action, a.Target); err != nil {
		return err
	}
	added := *a
	added.At = a.At.UTC().Round(0)
	var err error
	if added.Details, err = canonical(a.Details); err != nil {
		return fmt.Errorf("audit %s: %w", a.Action, err)
	}
	stored, err := answer(ctx, s, func(b *batch) (Audit, error) { return b.appendAudit(added) })
	if err != nil {
		return fmt.Errorf("audit %s: %w", a.Action, err)
	}
	*a = stored
	return nil
}

func (b *batch) appendAudit(a Audit) (Audit, error) {
	var err error
	if a.Seq, err = b.count("audit", 1); err != nil {
		return a, err
	}
	before, known, err := get[[]byte](b, `SELECT hash FROM audit WHERE seq = ?`, a.Seq-1)
	if err != nil {
		return a, err
	}
	if !known && a.Seq > 1 {
		return a, fmt.Errorf("record %d is missing from the log", a.Seq-1)
	}
	if a.Body, err = json.Marshal(a); err != nil {
		return a, err
	}
	a.Hash = chain(before, a.Body)
	_, err = b.do(`INSERT INTO audit (seq, actor, action, target, body, hash) VALUES (?, ?, ?, ?, ?, ?)`, a.Seq, a.Actor, a.Action, a.Target, string(a.Body), a.Hash)
	return a, err
}

// chain is the hash of a record after another.
func chain(before, body []byte) []byte {
	sum := sha256.New()
	sum.Write(before)
	sum.Write(body)
	return sum.Sum(nil)
}

// canonical is JSON with its keys in order and without blanks. Numbers stay as they are written.
func canonical(text json.RawMessage) (json.RawMessage, error) {
	if len(text) == 0 {
		return nil, nil
	}
	if len(text) > maxAudit {
		return nil, fmt.Errorf("its details have %d bytes, more than %d are not allowed", len(text), maxAudit)
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("its details are no JSON: %w", err)
	}
	if d.More() {
		return nil, fmt.Errorf("its details are more than one JSON value")
	}
	return json.Marshal(v)
}

// AuditFilter chooses records. Empty fields choose all.
type AuditFilter struct {
	Actor, Action, Target string
	After                 int64 // only those with numbers above this
	Before                int64 // only those with numbers below this, if it is above 0
	Newest                bool  // the last first
	Limit                 int   // 0 is 100
}

// AuditLog lists records in their order, or the other way round.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) ([]Audit, error) {
	query, args := `SELECT seq, actor, action, target, body, hash FROM audit WHERE seq > ?`, []any{f.After}
	for _, c := range []struct{ column, value string }{{"actor", f.Actor}, {"action", f.Action}, {"target", f.Target}} {
		if c.value != "" {
			query, args = query+` AND `+c.column+` = ?`, append(args, storable(c.value))
		}
	}
	if f.Before > 0 {
		query, args = query+` AND seq < ?`, append(args, f.Before)
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query += ` ORDER BY seq`
	if f.Newest {
		query += ` DESC`
	}
	found, err := s.audits(ctx, query+` LIMIT ?`, append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	log := make([]Audit, len(found))
	for i, r := range found {
		if log[i], err = r.open(); err != nil {
			return nil, fmt.Errorf("read the audit log: record %d: %w", r.Seq, err)
		}
	}
	return log, nil
}

// auditRow is a record as its columns have it; those beside body and hash are for searching.
type auditRow Audit

func (s *Store) audits(ctx context.Context, query string, args ...any) ([]auditRow, error) {
	return collect(ctx, s, query, args, func(rows *sql.Rows) (r auditRow, err error) {
		var body string
		err = rows.Scan(&r.Seq, &r.Actor, &r.Action, &r.Target, &body, &r.Hash)
		r.Body = []byte(body)
		return r, err
	})
}

// open reads the body.
func (r auditRow) open() (a Audit, err error) {
	if err := json.Unmarshal(r.Body, &a); err != nil {
		return a, fmt.Errorf("its body is no record: %w", err)
	}
	a.Body, a.Hash = r.Body, r.Hash
	return a, nil
}

// AuditError says which record of the audit log is the first that is not as it was written.
type AuditError struct {
	Seq    int64
	Reason string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("record %d of the audit log is broken: %s", e.Seq, e.Reason)
}

// VerifyAudit checks the whole log and gives the number and hash of its last record. The error is an *AuditError if the
// log is broken. That records were cut off its end together with the count of them, or that all were written anew, shows
// only in the hash, compared with one that was kept elsewhere.
func (s *Store) VerifyAudit(ctx context.Context) (last int64, hash []byte, err error) {
	counted, err := one(ctx, s, func(rows *sql.Rows) (n int64, err error) { return n, rows.Scan(&n) },
		`SELECT COALESCE(MAX(value), 0) FROM counters WHERE name = 'audit'`)
	if err != nil {
		return 0, nil, fmt.Errorf("verify the audit log: %w", err)
	}
	for {
		page, err := s.audits(ctx, `SELECT seq, actor, action, target, body, hash FROM audit WHERE seq > ? ORDER BY seq LIMIT 500`, last)
		if err != nil {
			return 0, nil, fmt.Errorf("verify the audit log: %w", err)
		}
		for _, r := range page {
			if reason := r.verify(last, hash); reason != "" {
				return 0, nil, &AuditError{last + 1, reason}
			}
			last, hash = r.Seq, r.Hash
		}
		if len(page) == 0 {
			break
		}
	}
	if last < counted {
		return 0, nil, &AuditError{last + 1, fmt.Sprintf("it is missing, as are all up to %d", counted)}
	}
	return last, hash, nil
}

// verify says what is wrong with a record after the one of that number and hash; "" is nothing.
func (r auditRow) verify(last int64, before []byte) string {
	if r.Seq != last+1 {
		return "it is missing"
	}
	if !bytes.Equal(r.Hash, chain(before, r.Body)) {
		return "its hash is not that of its text after the record before"
	}
	a, err := r.open()
	switch {
	case err != nil:
		return err.Error()
	case a.Seq != r.Seq || a.Actor != r.Actor || a.Action != r.Action || a.Target != r.Target:
		return "it is filed under something else than its text says"
	}
	return ""
}
