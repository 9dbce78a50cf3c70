package auth

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestGrant(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k := NewKeyring(now)
	token := k.Grant("register", now.Add(time.Hour))
	if err := k.CheckGrant(token, "register", now.Add(59*time.Minute)); err != nil {
		t.Error(err)
	}
	last := byte('A')
	if token[len(token)-8] == last {
		last = 'B'
	}
	for name, c := range map[string]struct {
		keys           *Keyring
		token, purpose string
		at             time.Time
	}{
		"another purpose": {k, token, "remove", now},
		"too late":        {k, token, "register", now.Add(time.Hour)},
		"another key":     {NewKeyring(now), token, "register", now},
		"changed":         {k, token[:len(token)-8] + string(last) + token[len(token)-7:], "register", now},
		"cut":             {k, token[:20], "register", now},
		"empty":           {k, "", "register", now},
		"no prefix":       {k, strings.TrimPrefix(token, GrantPrefix), "register", now},
		"long":            {k, GrantPrefix + strings.Repeat("A", 1<<20), "register", now},
	} {
		if err := c.keys.CheckGrant(c.token, c.purpose, c.at); !errors.Is(err, ErrGrant) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzGrant(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k := NewKeyring(now)
	good := k.Grant("register", now.Add(time.Hour))
	f.Add(good)
	f.Add(GrantPrefix)
	f.Add(good + "=")
	f.Fuzz(func(t *testing.T, token string) {
		if err := k.CheckGrant(token, "register", now); err == nil && token != good {
			t.Errorf("%q is taken", token)
		}
	})
}
