package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/penstock-ci/penstock/internal/ci"
)

// Server is a process that shares the database.
type Server struct {
	ID   string
	Name string // what people call it; several may have one name
	// Beats grows with each beat. Who sees it stand still, by its own clock, takes the server for gone: no two clocks are
	// compared.
	Beats int64
	// Heard are the leases whose runners the server had heard of when it beat last.
	Heard []ci.LeaseID
}

// Beat says that a server is there, and which leases it has heard of since its last beat.
func (s *Store) Beat(ctx context.Context, id, name string, heard []ci.LeaseID) error {
	if err := fits("server", id, name); err != nil {
		return err
	}
	list, err := json.Marshal(heard)
	if err == nil {
		err = s.change(ctx, func(b *batch) error {
			_, err := b.do(`INSERT INTO servers (id, name, beats, heard) VALUES (?, ?, 1, ?)
				ON CONFLICT (id) DO UPDATE SET beats = servers.beats + 1, name = excluded.name, heard = excluded.heard`,
				id, name, string(list))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("beat of server %s: %w", id, err)
	}
	return nil
}

// Servers lists the servers by their IDs.
func (s *Store) Servers(ctx context.Context) ([]Server, error) {
	found, err := collect(ctx, s, `SELECT id, name, beats, heard FROM servers ORDER BY id`, nil,
		func(rows *sql.Rows) (v Server, err error) {
			var heard string
			if err := rows.Scan(&v.ID, &v.Name, &v.Beats, &heard); err != nil {
				return v, err
			}
			return v, json.Unmarshal([]byte(heard), &v.Heard)
		})
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	return found, nil
}

// RemoveServer takes a server off the list, if it has not beaten again since it was read. It reports whether it did.
func (s *Store) RemoveServer(ctx context.Context, v Server) (bool, error) {
	removed, err := answer(ctx, s, func(b *batch) (bool, error) {
		n, err := b.do(`DELETE FROM servers WHERE id = ? AND beats = ?`, v.ID, v.Beats)
		return n == 1, err
	})
	if err != nil {
		return false, fmt.Errorf("remove server %s: %w", v.ID, err)
	}
	return removed, nil
}
