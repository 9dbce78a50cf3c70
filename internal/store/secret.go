package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxValue bounds a stored secret or variable, bytes: 48 KB as on GitHub, and what sealing adds.
const maxValue = 64 << 10

// Scope is what a secret or variable belongs to: an owner (of the name alone), a repository (of the number alone), or an
// environment of a repository.
type Scope struct {
	Owner       string
	Repository  int64
	Environment string
}

// String is the scope as one text, the same whatever the case of its names. Different scopes have different texts.
func (c Scope) String() string {
	if c.Repository == 0 {
		return "owner/" + lower(c.Owner)
	}
	text := "repository/" + strconv.FormatInt(c.Repository, 10)
	if c.Environment != "" {
		text += "/environment/" + lower(c.Environment)
	}
	return text
}

func (c Scope) repository() sql.NullInt64 {
	return sql.NullInt64{Int64: c.Repository, Valid: c.Repository != 0}
}

func (c Scope) check() error {
	if c.Repository == 0 && c.Owner == "" || c.Repository != 0 && c.Owner != "" || c.Repository == 0 && c.Environment != "" {
		return errors.New("a scope is an owner, or a repository, or an environment of a repository")
	}
	return fits("scope", c.String())
}

var settingName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)

// SettingName checks the name of a secret or variable as GitHub does and gives it as it is stored, in upper case. The
// error wraps ErrUnfit and says what names are like.
// https://docs.github.com/en/actions/reference/security/secrets#naming-your-secrets
func SettingName(name string) (string, error) {
	upper := strings.ToUpper(name)
	switch {
	case len(name) > 255 || !settingName.MatchString(upper):
		return "", fmt.Errorf("%.40q is %w: names have letters a-z, digits and _, do not begin with a digit, and have at most 255 characters", name, ErrUnfit)
	case strings.HasPrefix(upper, "GITHUB_"):
		return "", fmt.Errorf("%s is %w: names that begin with GITHUB_ are reserved", upper, ErrUnfit)
	}
	return upper, nil
}

// Access says which repositories see a secret or variable of an owner.
type Access struct {
	Visibility string // all, private or selected; empty where it does not apply
	Selected   []int64
}

// Shows says whether a repository sees what has this access.
func (a Access) Shows(repository int64, private bool) bool {
	switch a.Visibility {
	case "private":
		return private
	case "selected":
		return slices.Contains(a.Selected, repository)
	}
	return true
}

// Secret is a secret as it is kept: sealed. The store never sees what is in it.
type Secret struct {
	Scope    Scope
	Name     string
	Value    []byte // sealed
	SealedBy string // the ID of the key
	Access
	Created, Updated time.Time
}

// PutSecret stores a secret, in place of the one before; then its time of creation stays. It reports whether there was
// none. The error wraps ErrUnfit if its name is not allowed, ErrNotFound if there is no such repository.
func (s *Store) PutSecret(ctx context.Context, c Secret) (created bool, err error) {
	name, err := checkSetting(c.Scope, c.Name, len(c.Value))
	if err == nil && len(c.Value) == 0 {
		err = errors.New("it is not sealed")
	}
	if err == nil {
		created, err = answer(ctx, s, func(b *batch) (bool, error) {
			n, err := b.do(`UPDATE secrets SET value = ?, sealed_by = ?, visibility = ?, selected = ?, updated = ? WHERE scope = ? AND name = ?`,
				c.Value, c.SealedBy, c.Visibility, list(c.Selected), nanos(c.Updated), c.Scope.String(), name)
			if err != nil || n == 1 {
				return false, err
			}
			_, err = b.do(`INSERT INTO secrets (scope, name, repository, value, sealed_by, visibility, selected, created, updated)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, c.Scope.String(), name, c.Scope.repository(), c.Value, c.SealedBy, c.Visibility,
				list(c.Selected), nanos(c.Updated), nanos(c.Updated))
			return true, err
		})
	}
	if err != nil {
		return false, fmt.Errorf("store secret %.255s: %w", c.Name, err)
	}
	return created, nil
}

// SelectForSecret changes which repositories see a secret of an owner. change is given who sees it and gives the repositories; it is
// called again if somebody else was quicker, and what it refuses is given back as it is. The error wraps ErrNotFound if there is no
// such secret.
func (s *Store) SelectForSecret(ctx context.Context, scope Scope, name string, at time.Time, change func(Access) ([]int64, error)) error {
	return s.selectFor(ctx, "secrets", scope, name, at, change, func() (Access, error) {
		c, err := s.Secret(ctx, scope, name)
		return c.Access, err
	})
}

// SelectForVariable is SelectForSecret for a variable.
func (s *Store) SelectForVariable(ctx context.Context, scope Scope, name string, at time.Time, change func(Access) ([]int64, error)) error {
	return s.selectFor(ctx, "variables", scope, name, at, change, func() (Access, error) {
		v, err := s.Variable(ctx, scope, name)
		return v.Access, err
	})
}

func (s *Store) selectFor(ctx context.Context, table string, scope Scope, name string, at time.Time, change func(Access) ([]int64, error), read func() (Access, error)) error {
	for {
		was, err := read()
		if err != nil {
			return err
		}
		ids, err := change(was)
		if err != nil {
			return err
		}
		err = s.change(ctx, func(b *batch) error {
			return b.must(ErrConflict, `UPDATE `+table+` SET selected = ?, updated = ? WHERE scope = ? AND name = ? AND visibility = ? AND selected = ?`,
				list(ids), nanos(at), scope.String(), strings.ToUpper(name), was.Visibility, list(was.Selected))
		})
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("select repositories for %.255s: %w", name, err)
		}
	}
}

func checkSetting(scope Scope, name string, size int) (string, error) {
	if err := scope.check(); err != nil {
		return "", err
	}
	if size > maxValue {
		return "", fmt.Errorf("its value has %d bytes, more than %d are not allowed", size, maxValue)
	}
	return SettingName(name)
}

const secretColumns = `scope, name, value, sealed_by, visibility, selected, created, updated`

func scanSecret(rows *sql.Rows) (c Secret, err error) {
	var scope, selected string
	var created, updated int64
	if err := rows.Scan(&scope, &c.Name, &c.Value, &c.SealedBy, &c.Visibility, &selected, &created, &updated); err != nil {
		return c, err
	}
	c.Created, c.Updated = fromNanos(created), fromNanos(updated)
	if c.Selected, err = unlist[int64](selected); err != nil {
		return c, err
	}
	c.Scope, err = parseScope(scope)
	return c, err
}

// parseScope is the inverse of String; names are in lower case.
func parseScope(text string) (Scope, error) {
	if owner, ok := strings.CutPrefix(text, "owner/"); ok {
		return Scope{Owner: owner}, nil
	}
	rest, ok := strings.CutPrefix(text, "repository/")
	number, environment, _ := strings.Cut(rest, "/environment/")
	id, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		return Scope{}, fmt.Errorf("%.80q is no scope", text)
	}
	return Scope{Repository: id, Environment: environment}, nil
}

// Secret finds a secret, whatever the case of the name. The error wraps ErrNotFound if there is none.
func (s *Store) Secret(ctx context.Context, scope Scope, name string) (Secret, error) {
	c, err := one(ctx, s, scanSecret, `SELECT `+secretColumns+` FROM secrets WHERE scope = ? AND name = ?`, storable(scope.String()), storable(strings.ToUpper(name)))
	if err != nil {
		return Secret{}, fmt.Errorf("find secret %.255q: %w", name, err)
	}
	return c, nil
}

// Secrets lists the secrets of a scope by name, values too.
func (s *Store) Secrets(ctx context.Context, scope Scope) ([]Secret, error) {
	found, err := collect(ctx, s, `SELECT `+secretColumns+` FROM secrets WHERE scope = ? ORDER BY name`, []any{storable(scope.String())}, scanSecret)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	return found, nil
}

// DeleteSecret removes a secret. The error wraps ErrNotFound if there is none.
func (s *Store) DeleteSecret(ctx context.Context, scope Scope, name string) error {
	return s.deleteSetting(ctx, "secret", `DELETE FROM secrets WHERE scope = ? AND name = ?`, scope, name)
}

func (s *Store) deleteSetting(ctx context.Context, kind, query string, scope Scope, name string) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrNotFound, query, storable(scope.String()), storable(strings.ToUpper(name)))
	})
	if err != nil {
		return fmt.Errorf("delete %s %.255q: %w", kind, name, err)
	}
	return nil
}

// SecretsNotSealedBy lists at most limit secrets that another key has sealed: those to seal anew after a rotation.
func (s *Store) SecretsNotSealedBy(ctx context.Context, key string, limit int) ([]Secret, error) {
	found, err := collect(ctx, s, `SELECT `+secretColumns+` FROM secrets WHERE sealed_by <> ? ORDER BY sealed_by, scope, name LIMIT ?`,
		[]any{key, limit}, scanSecret)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	return found, nil
}

// ResealSecret stores the same secret sealed anew. Its times stay. The error wraps ErrConflict if it is not stored as in
// from any more.
func (s *Store) ResealSecret(ctx context.Context, from Secret, value []byte, key string) error {
	err := s.change(ctx, func(b *batch) error {
		return b.must(ErrConflict, `UPDATE secrets SET value = ?, sealed_by = ? WHERE scope = ? AND name = ? AND value = ?`,
			value, key, from.Scope.String(), from.Name, from.Value)
	})
	if err != nil {
		return fmt.Errorf("seal secret %s anew: %w", from.Name, err)
	}
	return nil
}
