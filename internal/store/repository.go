package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Repository is a repository that this server knows.
type Repository struct {
	ID            int64  // from 1; never given twice
	Owner, Name   string // together unique whatever their case
	DefaultBranch string
	Private       bool
	Archived      bool
	Created       time.Time
}

// FullName is OWNER/NAME, as runs and documents name the repository.
func (r Repository) FullName() string { return r.Owner + "/" + r.Name }

const repositoryColumns = `id, owner, name, default_branch, private, archived, created`

func scanRepository(rows *sql.Rows) (r Repository, err error) {
	var created int64
	err = rows.Scan(&r.ID, &r.Owner, &r.Name, &r.DefaultBranch, &r.Private, &r.Archived, &created)
	r.Created = fromNanos(created)
	return r, err
}

// AddRepository stores a new repository and sets its ID. The error wraps ErrExists if the owner has one of that name.
func (s *Store) AddRepository(ctx context.Context, r *Repository) error {
	if err := fits("repository", r.FullName(), r.DefaultBranch); err != nil {
		return err
	}
	added := *r
	id, err := answer(ctx, s, func(b *batch) (int64, error) {
		return b.insert("repository", `INSERT INTO repositories (id, owner, name, full_name, default_branch, private, archived, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			added.Owner, added.Name, lower(added.FullName()), added.DefaultBranch, added.Private, added.Archived, nanos(added.Created))
	})
	if err != nil {
		return fmt.Errorf("add repository %s: %w", r.FullName(), err)
	}
	r.ID = id
	return nil
}

// SaveRepository stores a repository's default branch and whether it is private and archived. Its name stays. The error
// wraps ErrNotFound if it is not there.
func (s *Store) SaveRepository(ctx context.Context, r Repository) error {
	if err := fits("branch", r.DefaultBranch); err != nil {
		return err
	}
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrNotFound, `UPDATE repositories SET default_branch = ?, private = ?, archived = ? WHERE id = ?`,
			r.DefaultBranch, r.Private, r.Archived, r.ID)
	})
	if err != nil {
		return fmt.Errorf("save repository %s: %w", r.FullName(), err)
	}
	return nil
}

// Repository finds a repository. The error wraps ErrNotFound if there is none.
func (s *Store) Repository(ctx context.Context, id int64) (Repository, error) {
	r, err := one(ctx, s, scanRepository, `SELECT `+repositoryColumns+` FROM repositories WHERE id = ?`, id)
	if err != nil {
		return Repository{}, fmt.Errorf("find repository %d: %w", id, err)
	}
	return r, nil
}

// RepositoryNamed finds a repository by its owner and name, whatever their case. The error wraps ErrNotFound if there is
// none.
func (s *Store) RepositoryNamed(ctx context.Context, owner, name string) (Repository, error) {
	r, err := one(ctx, s, scanRepository, `SELECT `+repositoryColumns+` FROM repositories WHERE full_name = ?`, storable(lower(owner+"/"+name)))
	if err != nil {
		return Repository{}, fmt.Errorf("find repository %.200q: %w", owner+"/"+name, err)
	}
	return r, nil
}

// RepositoryFilter chooses repositories. Empty fields choose all.
type RepositoryFilter struct {
	Owner  string
	Public bool  // only those that are not private
	Member int64 // only those that a user is a member of
	After  int64 // only those with IDs above this: for the next page
	Limit  int   // 0 is 100
}

// Repositories lists repositories by their IDs.
func (s *Store) Repositories(ctx context.Context, f RepositoryFilter) ([]Repository, error) {
	query, args := `SELECT `+repositoryColumns+` FROM repositories WHERE id > ?`, []any{f.After}
	if f.Owner != "" {
		owner := storable(lower(f.Owner))
		query, args = query+` AND full_name > ? AND full_name < ?`, append(args, owner+"/", owner+"0") // 0 follows the slash
	}
	if f.Public {
		query += ` AND NOT private`
	}
	if f.Member != 0 {
		query, args = query+` AND id IN (SELECT repository FROM members WHERE member = ?)`, append(args, f.Member)
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	found, err := collect(ctx, s, query+` ORDER BY id LIMIT ?`, append(args, f.Limit), scanRepository)
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	return found, nil
}

// Member is a user who may do something in a repository.
type Member struct {
	User User
	Role string // read, write, maintain or admin
}

var roles = []string{"read", "write", "maintain", "admin"}

// SetMember gives a user a role in a repository, in place of the one before. The error wraps ErrNotFound if there is no
// such repository or user, ErrUnfit if there is no such role.
func (s *Store) SetMember(ctx context.Context, repository, user int64, role string) error {
	if !slices.Contains(roles, role) {
		return fmt.Errorf("role %.40q: %w: roles are %s", role, ErrUnfit, strings.Join(roles, ", "))
	}
	err := s.change(ctx, func(b *batch) error {
		_, err := b.do(`INSERT INTO members (repository, member, role) VALUES (?, ?, ?)
			ON CONFLICT (repository, member) DO UPDATE SET role = excluded.role`, repository, user, role)
		return err
	})
	if err != nil {
		return fmt.Errorf("make user %d a member of repository %d: %w", user, repository, err)
	}
	return nil
}

// RemoveMember ends a membership. One that is not there is no error.
func (s *Store) RemoveMember(ctx context.Context, repository, user int64) error {
	err := s.change(ctx, func(b *batch) error {
		_, err := b.do(`DELETE FROM members WHERE repository = ? AND member = ?`, repository, user)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove user %d from repository %d: %w", user, repository, err)
	}
	return nil
}

// Members lists the members of a repository by their IDs.
func (s *Store) Members(ctx context.Context, repository int64) ([]Member, error) {
	found, err := collect(ctx, s, `SELECT `+userColumns+`, members.role FROM members JOIN users ON users.id = members.member
		WHERE members.repository = ? ORDER BY users.id`, []any{repository}, func(rows *sql.Rows) (m Member, err error) {
		var created int64
		err = rows.Scan(&m.User.ID, &m.User.Login, &m.User.Admin, &created, &m.Role)
		m.User.Created = fromNanos(created)
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the members of repository %d: %w", repository, err)
	}
	return found, nil
}

// Role gives the role of a user in a repository, "" if the user is no member.
func (s *Store) Role(ctx context.Context, repository, user int64) (string, error) {
	found, err := collect(ctx, s, `SELECT role FROM members WHERE repository = ? AND member = ?`, []any{repository, user},
		func(rows *sql.Rows) (role string, err error) { return role, rows.Scan(&role) })
	if err != nil {
		return "", fmt.Errorf("find the role of user %d in repository %d: %w", user, repository, err)
	}
	if len(found) == 0 {
		return "", nil
	}
	return found[0], nil
}
