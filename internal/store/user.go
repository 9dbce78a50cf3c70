package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// User is somebody who may sign in.
type User struct {
	ID      int64  // from 1; never given twice
	Login   string // unique whatever its case
	Admin   bool   // may do everything on this server
	Created time.Time
}

// Token is what a user, or a program of theirs, shows to be let in. The store knows only its hash.
type Token struct {
	ID      int64
	User    int64
	Name    string // for people
	Hash    []byte // unique
	Scopes  []string
	Created time.Time
	Expires time.Time // zero: never
	Used    time.Time // last; zero: not yet
}

const userColumns = `users.id, users.login, users.admin, users.created`

func scanUser(rows *sql.Rows) (u User, err error) {
	var created int64
	err = rows.Scan(&u.ID, &u.Login, &u.Admin, &created)
	u.Created = fromNanos(created)
	return u, err
}

// AddUser stores a new user and sets its ID. The error wraps ErrExists if the login is taken, ErrUnfit if it is no name.
func (s *Store) AddUser(ctx context.Context, u *User) error {
	if err := fits("login", u.Login); err != nil {
		return err
	}
	added := *u
	id, err := answer(ctx, s, func(b *batch) (int64, error) {
		return b.insert("user", `INSERT INTO users (id, login, name, admin, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			added.Login, lower(added.Login), added.Admin, nanos(added.Created))
	})
	if err != nil {
		return fmt.Errorf("add user %s: %w", u.Login, err)
	}
	u.ID = id
	return nil
}

// User finds a user. The error wraps ErrNotFound if there is none.
func (s *Store) User(ctx context.Context, id int64) (User, error) {
	u, err := one(ctx, s, scanUser, `SELECT `+userColumns+` FROM users WHERE id = ?`, id)
	if err != nil {
		return User{}, fmt.Errorf("find user %d: %w", id, err)
	}
	return u, nil
}

// UserNamed finds a user by the login, whatever its case. The error wraps ErrNotFound if there is none.
func (s *Store) UserNamed(ctx context.Context, login string) (User, error) {
	u, err := one(ctx, s, scanUser, `SELECT `+userColumns+` FROM users WHERE name = ?`, storable(lower(login)))
	if err != nil {
		return User{}, fmt.Errorf("find user %.40q: %w", login, err)
	}
	return u, nil
}

// Users lists at most limit users with IDs above after, in their order.
func (s *Store) Users(ctx context.Context, after int64, limit int) ([]User, error) {
	found, err := collect(ctx, s, `SELECT `+userColumns+` FROM users WHERE id > ? ORDER BY id LIMIT ?`, []any{after, limit}, scanUser)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return found, nil
}

// SetAdmin makes a user an admin, or no longer. The error wraps ErrNotFound if there is no such user.
func (s *Store) SetAdmin(ctx context.Context, user int64, admin bool) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrNotFound, `UPDATE users SET admin = ? WHERE id = ?`, admin, user)
	})
	if err != nil {
		return fmt.Errorf("change user %d: %w", user, err)
	}
	return nil
}

// DeleteUser removes a user with all tokens and memberships. One that is not there is no error.
func (s *Store) DeleteUser(ctx context.Context, user int64) error {
	err := s.change(ctx, func(b *batch) error {
		for _, query := range []string{`DELETE FROM tokens WHERE owner = ?`, `DELETE FROM members WHERE member = ?`, `DELETE FROM users WHERE id = ?`} {
			if _, err := b.do(query, user); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete user %d: %w", user, err)
	}
	return nil
}

const tokenColumns = `tokens.id, tokens.owner, tokens.name, tokens.hash, tokens.scopes, tokens.created, tokens.expires, tokens.used`

// AddToken stores a new token and sets its ID. The error wraps ErrExists if the hash is known, ErrNotFound if there is
// no such user.
func (s *Store) AddToken(ctx context.Context, t *Token) error {
	if err := fits("the name of a token", t.Name); err != nil {
		return err
	}
	added, scopes := *t, list(t.Scopes)
	id, err := answer(ctx, s, func(b *batch) (int64, error) {
		return b.insert("token", `INSERT INTO tokens (id, owner, name, hash, scopes, created, expires, used)
			VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING`,
			added.User, added.Name, added.Hash, scopes, nanos(added.Created), nanos(added.Expires))
	})
	if err != nil {
		return fmt.Errorf("add a token of user %d: %w", t.User, err)
	}
	t.ID, t.Used = id, time.Time{}
	return nil
}

// TokenByHash finds a token and whose it is, by its index. The error wraps ErrNotFound if there is none. That it may have
// expired is for the caller to see.
func (s *Store) TokenByHash(ctx context.Context, hash []byte) (Token, User, error) {
	type both struct {
		Token
		User User
	}
	found, err := one(ctx, s, func(rows *sql.Rows) (f both, err error) {
		var created int64
		f.Token, err = scanToken(rows, &f.User.ID, &f.User.Login, &f.User.Admin, &created)
		f.User.Created = fromNanos(created)
		return f, err
	}, `SELECT `+tokenColumns+`, `+userColumns+` FROM tokens JOIN users ON users.id = tokens.owner WHERE tokens.hash = ?`, hash)
	if err != nil {
		return Token{}, User{}, fmt.Errorf("find a token: %w", err)
	}
	return found.Token, found.User, nil
}

func scanToken(rows *sql.Rows, more ...any) (t Token, err error) {
	var created, expires, used int64
	var scopes string
	if err := rows.Scan(append([]any{&t.ID, &t.User, &t.Name, &t.Hash, &scopes, &created, &expires, &used}, more...)...); err != nil {
		return t, err
	}
	t.Created, t.Expires, t.Used = fromNanos(created), fromNanos(expires), fromNanos(used)
	t.Scopes, err = unlist[string](scopes)
	return t, err
}

// Tokens lists the tokens of a user, the oldest first.
func (s *Store) Tokens(ctx context.Context, user int64) ([]Token, error) {
	found, err := collect(ctx, s, `SELECT `+tokenColumns+` FROM tokens WHERE owner = ? ORDER BY id`, []any{user},
		func(rows *sql.Rows) (Token, error) { return scanToken(rows) })
	if err != nil {
		return nil, fmt.Errorf("list the tokens of user %d: %w", user, err)
	}
	return found, nil
}

// TouchToken notes that a token was used. The time never goes back. A token that is not there is no error. It is a
// write: call it once in a while, not for each request.
func (s *Store) TouchToken(ctx context.Context, id int64, at time.Time) error {
	err := s.change(ctx, func(b *batch) error {
		_, err := b.do(`UPDATE tokens SET used = ? WHERE id = ? AND used < ?`, nanos(at), id, nanos(at))
		return err
	})
	if err != nil {
		return fmt.Errorf("touch token %d: %w", id, err)
	}
	return nil
}

// DeleteToken removes a token of a user. The error wraps ErrNotFound if the user has none with this ID.
func (s *Store) DeleteToken(ctx context.Context, user, id int64) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrNotFound, `DELETE FROM tokens WHERE owner = ? AND id = ?`, user, id)
	})
	if err != nil {
		return fmt.Errorf("delete token %d of user %d: %w", id, user, err)
	}
	return nil
}
