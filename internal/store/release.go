package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Restorable is how many releases of a place that have served keep their secrets once they do not run any more: so many
// can be gone back.
const Restorable = 20

// Place is an environment of a repository (owner/name). The same place may be written in another case.
type Place struct{ Repository, Environment string }

// key is the place as it is compared.
func (p Place) key() string {
	return indexed(lower(p.Repository) + "/environments/" + lower(p.Environment))
}

// placeOf gives the place that a release is for.
func placeOf(r *cd.Release) Place { return Place{r.Plan.Repository, r.Plan.Environment} }

// Release is a release as it is stored.
type Release struct {
	*cd.Release
	// Number counts the releases of its place, from 1, without gaps.
	Number int64 `json:"number"`
	// Extra is what was stored with it; who reads it knows what is in it.
	Extra json.RawMessage `json:"extra,omitempty"`
}

// ReleaseRecord is one event in the log of all releases.
type ReleaseRecord struct {
	Seq     int64        `json:"seq"` // from 1, without gaps, apart from the records of runs
	Release cd.ReleaseID `json:"release"`
	Event   cd.Event     `json:"event"`
}

// ReleaseSecret is the secrets of a service of a release, sealed.
type ReleaseSecret struct {
	Release  cd.ReleaseID
	Service  string
	Value    []byte
	SealedBy string // the ID of the key
}

// ReleaseTx is a transaction in which decisions on releases are made. No other one writes beside it, so what it reads
// holds until its end. What it is told to write is written when the decision is complete, all or nothing.
type ReleaseTx struct {
	b      *batch
	read   map[cd.ReleaseID]*Release
	steps  []*releaseStep // in the order of their first change
	writes []func() error // after the releases
	failed error          // of the database: the transaction is to be made again, or given up
}

// releaseStep is what becomes of a release in a transaction.
type releaseStep struct {
	release *Release
	from    int64 // its version as it was read
	begins  bool
	server  string
	events  []cd.Event
}

// DecideReleases makes decisions on releases in one transaction, whose records have the time at. decide may be called
// again if the transaction fails; it must only use what tx gives, and not keep it. If it gives an error nothing is
// written and the error is wrapped. Else nil says that all is durable; after the end of ctx it may still be made.
func (s *Store) DecideReleases(ctx context.Context, at time.Time, decide func(tx *ReleaseTx) error) error {
	return s.change(ctx, func(b *batch) error {
		tx := &ReleaseTx{b: b, read: map[cd.ReleaseID]*Release{}}
		err := decide(tx)
		if tx.failed != nil {
			return tx.failed
		}
		var rows []releaseRow
		if err == nil {
			rows, err = tx.rows(at)
		}
		if err != nil {
			return refused{err}
		}
		return tx.write(rows)
	})
}

// Release gives a release for this transaction to change: see Changed. The error wraps ErrNotFound if there is none.
func (tx *ReleaseTx) Release(id cd.ReleaseID) (*cd.Release, error) {
	if r := tx.read[id]; r != nil {
		return r.Release, nil
	}
	found, err := tx.query(`WHERE id = ?`, int64(id))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("release %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Active gives the releases of a place of which something runs or is to be done, the oldest first.
func (tx *ReleaseTx) Active(p Place) ([]*cd.Release, error) {
	return tx.query(`WHERE active AND place = ? ORDER BY id`, p.key())
}

func (tx *ReleaseTx) query(where string, args ...any) ([]*cd.Release, error) {
	rows, err := tx.b.tx.Query(tx.b.w.d.bind(`SELECT `+releaseColumns+` FROM releases `+where), args...)
	if err != nil {
		return nil, tx.fail(err)
	}
	defer rows.Close()
	var found []*cd.Release
	for rows.Next() {
		r, err := scanRelease(rows)
		if err != nil {
			return nil, tx.fail(err)
		}
		if known := tx.read[r.ID]; known != nil {
			r = *known
		} else {
			tx.read[r.ID] = &r
		}
		found = append(found, r.Release)
	}
	return found, tx.fail(rows.Err())
}

func (tx *ReleaseTx) fail(err error) error {
	if tx.failed == nil {
		tx.failed = err
	}
	return err
}

// NextRelease gives the ID of the release that is begun in this transaction.
func (tx *ReleaseTx) NextRelease() (cd.ReleaseID, error) {
	last, _, err := get[int64](tx.b, `SELECT value FROM counters WHERE name = 'release'`)
	return cd.ReleaseID(last + 1), tx.fail(err)
}

// Begin adds a release, whose ID is of NextRelease, with its events and what else is to be stored of it. A place that no
// server carries yet is carried by server from now on. It begins at most one.
func (tx *ReleaseTx) Begin(r *cd.Release, events []cd.Event, extra json.RawMessage, server string) {
	tx.read[r.ID] = &Release{Release: r, Extra: extra}
	tx.steps = append(tx.steps, &releaseStep{release: tx.read[r.ID], begins: true, server: server, events: events})
}

// Changed says that events were applied to a release of this transaction, which began with version from.
func (tx *ReleaseTx) Changed(r *cd.Release, from int64, events []cd.Event) {
	for _, s := range tx.steps {
		if s.release.Release == r {
			s.events = append(s.events, events...)
			return
		}
	}
	tx.steps = append(tx.steps, &releaseStep{release: tx.read[r.ID], from: from, events: events})
}

// Keep stores the secrets of a service of a release.
func (tx *ReleaseTx) Keep(c ReleaseSecret) {
	tx.writes = append(tx.writes, func() error {
		_, err := tx.exec(`INSERT INTO release_secrets (release, service, value, sealed_by) VALUES (?, ?, ?, ?)`,
			int64(c.Release), c.Service, c.Value, c.SealedBy)
		return err
	})
}

// Secret gives the secrets that are kept of a service of a release; ok is false if there are none.
func (tx *ReleaseTx) Secret(id cd.ReleaseID, service string) (c ReleaseSecret, ok bool, err error) {
	c = ReleaseSecret{Release: id, Service: service}
	row := tx.b.tx.QueryRow(tx.b.w.d.bind(`SELECT value, sealed_by FROM release_secrets WHERE release = ? AND service = ?`), int64(id), storable(service))
	switch err := row.Scan(&c.Value, &c.SealedBy); {
	case errors.Is(err, sql.ErrNoRows):
		return c, false, nil
	case err != nil:
		return c, false, tx.fail(err)
	}
	return c, true, nil
}

// releaseRow is a step as its rows have it.
type releaseRow struct {
	*releaseStep
	plan, snapshot string
	records        []record
}

// rows encodes the steps, before anything is written: what can not be stored is refused whole.
func (tx *ReleaseTx) rows(at time.Time) (rows []releaseRow, err error) {
	for _, s := range tx.steps {
		row := releaseRow{releaseStep: s}
		if s.begins {
			if row.plan, err = encodePlan(s.release); err != nil {
				return nil, err
			}
		}
		alone := *s.release.Release
		alone.Plan = nil
		if row.snapshot, err = encode("the release", alone); err != nil {
			return nil, err
		}
		for _, e := range s.events {
			text, err := encode("an event of the release", e)
			if err != nil {
				return nil, err
			}
			row.records = append(row.records, record{int64(s.release.ID), text, nanos(at)})
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func encodePlan(r *Release) (string, error) {
	texts := []string{r.Plan.Repository, r.Plan.Environment}
	for _, service := range r.Plan.Services {
		texts = append(texts, service.Name)
	}
	if err := fits("release", texts...); err != nil {
		return "", err
	}
	if len(r.Extra) > maxSnapshot || len(r.Extra) > 0 && !json.Valid(r.Extra) {
		return "", errors.New("what is to be stored with the release is not JSON, or too large")
	}
	return encode("the plan", r.Plan)
}

// active reports whether something of a release runs, as far as is known, or is to be done.
func active(r *cd.Release) bool {
	runs := func(p cd.Part) bool { return len(p.Instances) > 0 }
	return !r.Phase.Over() || len(r.Next()) > 0 || slices.ContainsFunc(r.Parts, runs)
}

func (tx *ReleaseTx) write(rows []releaseRow) error {
	for _, row := range rows {
		write := tx.update
		if row.begins {
			write = tx.insert
		}
		if err := write(row); err != nil {
			return err
		}
		tx.b.released = append(tx.b.released, row.records...)
	}
	for _, write := range tx.writes {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// exec executes a statement and gives the number of rows that it changed.
func (tx *ReleaseTx) exec(query string, args ...any) (int64, error) {
	result, err := tx.b.tx.Exec(tx.b.w.d.bind(query), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (tx *ReleaseTx) update(row releaseRow) error {
	r := row.release
	n, err := tx.exec(`UPDATE releases SET phase = ?, active = ?, ended = ?, version = ?, snapshot = ? WHERE id = ? AND version = ?`,
		string(r.Phase), active(r.Release), nanos(r.Ended), r.Version, row.snapshot, int64(r.ID), row.from)
	if err == nil && n != 1 {
		err = fmt.Errorf("release %d: %w", r.ID, ErrConflict)
	}
	return err
}

func (tx *ReleaseTx) insert(row releaseRow) error {
	r := row.release
	place := placeOf(r.Release).key()
	id, err := tx.b.count("release", 1)
	if err != nil {
		return err
	}
	if id != int64(r.ID) {
		return fmt.Errorf("release %d: the next one is %d", r.ID, id)
	}
	number, err := tx.b.count("release:"+place, 1)
	if err != nil {
		return err
	}
	if _, err := tx.exec(`INSERT INTO releases (id, place, number, repository, phase, active, created, ended, version, plan, extra, snapshot)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, id, place, number, lower(r.Plan.Repository), string(r.Phase),
		active(r.Release), nanos(r.Began), nanos(r.Ended), r.Version, row.plan, string(r.Extra), row.snapshot); err != nil {
		return err
	}
	if _, err := tx.exec(`INSERT INTO carriers (place, server) VALUES (?, ?) ON CONFLICT (place) DO NOTHING`, place, storable(row.server)); err != nil {
		return err
	}
	_, err = tx.exec(`DELETE FROM release_secrets WHERE release IN (SELECT id FROM releases WHERE place = ? AND NOT active)
		AND release NOT IN (SELECT id FROM releases WHERE place = ? AND NOT active AND phase = ? ORDER BY id DESC LIMIT ?)`,
		place, place, string(cd.Retired), Restorable)
	return err
}

const releaseColumns = `number, plan, extra, snapshot`

func scanRelease(rows *sql.Rows) (r Release, err error) {
	var plan, snapshot sql.RawBytes
	var extra string
	if err := rows.Scan(&r.Number, &plan, &extra, &snapshot); err != nil {
		return r, err
	}
	r.Release = &cd.Release{}
	if err := errors.Join(json.Unmarshal(snapshot, r.Release), json.Unmarshal(plan, &r.Plan)); err != nil {
		return r, fmt.Errorf("decode a release: %w", err)
	}
	if extra != "" {
		r.Extra = json.RawMessage(extra)
	}
	return r, nil
}

// Release loads a release. The error wraps ErrNotFound if there is none.
func (s *Store) Release(ctx context.Context, id cd.ReleaseID) (Release, error) {
	r, err := one(ctx, s, scanRelease, `SELECT `+releaseColumns+` FROM releases WHERE id = ?`, int64(id))
	if err != nil {
		return Release{}, fmt.Errorf("load release %d: %w", id, err)
	}
	return r, nil
}

// ReleaseFilter chooses releases. Empty fields choose all.
type ReleaseFilter struct {
	Repository  string
	Environment string       // only with Repository
	Number      int64        // only the one of this number; only with Environment
	Server      string       // only of places that it carries
	Active      bool         // only those of which something runs or is to be done
	Before      cd.ReleaseID // only older ones: for the next page
	Limit       int          // at most so many; 0 is 100
}

// Releases lists releases, the newest first.
func (s *Store) Releases(ctx context.Context, f ReleaseFilter) ([]Release, error) {
	query, args := `SELECT `+releaseColumns+` FROM releases WHERE id > 0`, []any{}
	and := func(condition string, value any) { query, args = query+" AND "+condition, append(args, value) }
	if f.Environment != "" {
		and("place = ?", Place{f.Repository, f.Environment}.key())
		if f.Number > 0 {
			and("number = ?", f.Number)
		}
	} else if f.Repository != "" {
		and("repository = ?", storable(lower(f.Repository)))
	}
	if f.Server != "" {
		and("place IN (SELECT place FROM carriers WHERE server = ?)", storable(f.Server))
	}
	if f.Active {
		query += " AND active"
	}
	if f.Before > 0 {
		and("id < ?", int64(f.Before))
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	list, err := collect(ctx, s, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit), scanRelease)
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	return list, nil
}

// ReleaseRecords gives at most limit records of releases with numbers above after, in order.
func (s *Store) ReleaseRecords(ctx context.Context, after int64, limit int) ([]ReleaseRecord, error) {
	return s.releaseRecords(ctx, `seq > ? ORDER BY seq LIMIT ?`, after, limit)
}

// ReleaseEvents gives at most limit records of one release with numbers above after, in order.
func (s *Store) ReleaseEvents(ctx context.Context, id cd.ReleaseID, after int64, limit int) ([]ReleaseRecord, error) {
	return s.releaseRecords(ctx, `release = ? AND seq > ? ORDER BY seq LIMIT ?`, int64(id), after, limit)
}

func (s *Store) releaseRecords(ctx context.Context, where string, args ...any) ([]ReleaseRecord, error) {
	list, err := collect(ctx, s, `SELECT seq, release, event FROM release_records WHERE `+where, args, func(rows *sql.Rows) (r ReleaseRecord, err error) {
		var text sql.RawBytes
		if err := rows.Scan(&r.Seq, &r.Release, &text); err != nil {
			return r, err
		}
		if err := json.Unmarshal(text, &r.Event); err != nil {
			return r, fmt.Errorf("decode record %d: %w", r.Seq, err)
		}
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read records of releases: %w", err)
	}
	return list, nil
}

// LastReleaseRecord gives the number of the newest record of releases, 0 if there is none.
func (s *Store) LastReleaseRecord(ctx context.Context) (int64, error) {
	last, err := one(ctx, s, scanNumber, `SELECT COALESCE(MAX(seq), 0) FROM release_records`)
	if err != nil {
		return 0, fmt.Errorf("read the last record of releases: %w", err)
	}
	return last, nil
}

func scanNumber(rows *sql.Rows) (n int64, err error) { return n, rows.Scan(&n) }

// Carrier gives the name of the server that carries the releases of a place. The error wraps ErrNotFound if nothing was
// ever released there.
func (s *Store) Carrier(ctx context.Context, p Place) (string, error) {
	name, err := one(ctx, s, func(rows *sql.Rows) (name string, err error) { return name, rows.Scan(&name) },
		`SELECT server FROM carriers WHERE place = ?`, p.key())
	if err != nil {
		return "", fmt.Errorf("find who carries %s of %s: %w", p.Environment, p.Repository, err)
	}
	return name, nil
}

// ReleaseSecrets gives the secrets that are kept of a service of a release. The error wraps ErrNotFound if there are none.
func (s *Store) ReleaseSecrets(ctx context.Context, id cd.ReleaseID, service string) (ReleaseSecret, error) {
	c, err := one(ctx, s, scanReleaseSecret, `SELECT `+releaseSecretColumns+` FROM release_secrets WHERE release = ? AND service = ?`,
		int64(id), storable(service))
	if err != nil {
		return ReleaseSecret{}, fmt.Errorf("find the secrets of %.40q of release %d: %w", service, id, err)
	}
	return c, nil
}

const releaseSecretColumns = `release, service, value, sealed_by`

func scanReleaseSecret(rows *sql.Rows) (c ReleaseSecret, err error) {
	return c, rows.Scan(&c.Release, &c.Service, &c.Value, &c.SealedBy)
}

// ReleaseSecretsNotSealedBy lists at most limit secrets of releases that another key has sealed: those to seal anew after
// a rotation.
func (s *Store) ReleaseSecretsNotSealedBy(ctx context.Context, key string, limit int) ([]ReleaseSecret, error) {
	found, err := collect(ctx, s, `SELECT `+releaseSecretColumns+` FROM release_secrets WHERE sealed_by <> ? ORDER BY sealed_by, release, service LIMIT ?`,
		[]any{key, limit}, scanReleaseSecret)
	if err != nil {
		return nil, fmt.Errorf("list the secrets of releases: %w", err)
	}
	return found, nil
}

// ResealReleaseSecret stores the same secrets sealed anew. The error wraps ErrConflict if they are not stored as in from
// any more.
func (s *Store) ResealReleaseSecret(ctx context.Context, from ReleaseSecret, value []byte, key string) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrConflict, `UPDATE release_secrets SET value = ?, sealed_by = ? WHERE release = ? AND service = ? AND value = ?`,
			value, key, int64(from.Release), from.Service, from.Value)
	})
	if err != nil {
		return fmt.Errorf("seal the secrets of release %d anew: %w", from.Release, err)
	}
	return nil
}
