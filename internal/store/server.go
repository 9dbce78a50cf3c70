package store

import (
	"context"
	"database/sql"
	"fmt"
)

// Server is a process that shares the database.
type Server struct {
	ID      string
	Address string // where the others reach it
	// Beats grows with each beat. Who sees it stand still, by its own clock, takes the server for gone: no two clocks are
	// compared.
	Beats int64
}

// Beat says that a server is there.
func (s *Store) Beat(ctx context.Context, id, address string) error {
	if err := fits("server", id, address); err != nil {
		return err
	}
	err := s.change(ctx, func(b *batch) error {
		_, err := b.do(`INSERT INTO servers (id, address, beats) VALUES (?, ?, 1)
			ON CONFLICT (id) DO UPDATE SET beats = servers.beats + 1, address = excluded.address`, id, address)
		return err
	})
	if err != nil {
		return fmt.Errorf("beat of server %s: %w", id, err)
	}
	return nil
}

// Servers lists the servers by their IDs.
func (s *Store) Servers(ctx context.Context) ([]Server, error) {
	found, err := collect(ctx, s, `SELECT id, address, beats FROM servers ORDER BY id`, nil,
		func(rows *sql.Rows) (v Server, err error) { return v, rows.Scan(&v.ID, &v.Address, &v.Beats) })
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	return found, nil
}

// RemoveServer takes a server off the list, if it has not beaten again since it was read. It reports whether it did: of
// several that find a server gone, one is to look after what it left.
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
