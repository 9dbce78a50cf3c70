package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// GrantPrefix begins grants, so that scanners for secrets find them.
const GrantPrefix = "psg_"

// ErrGrant says that a text is no grant of this server for the purpose, or that its time is over.
var ErrGrant = errors.New("the token is not valid for this, or has expired: get another one")

// grantScope keeps grants apart from all else that is sealed.
const grantScope = "grant"

// maxGrant bounds a grant, bytes.
const maxGrant = 1 << 10

// Grant makes a token that is good for one purpose until a time, by whoever shows it and as often as they like: it is
// sealed, and kept nowhere. It can not be taken back but by taking its key out of the ring.
func (k *Keyring) Grant(purpose string, until time.Time) string {
	text, err := json.Marshal(until.Unix())
	if err != nil {
		panic(err) // a number is always JSON
	}
	return GrantPrefix + base64.RawURLEncoding.EncodeToString(k.Seal(text, grantScope, purpose))
}

// CheckGrant says whether a token was made by Grant for the purpose and is still good. The error wraps ErrGrant.
func (k *Keyring) CheckGrant(token, purpose string, now time.Time) error {
	if len(token) > maxGrant || len(token) < len(GrantPrefix) || token[:len(GrantPrefix)] != GrantPrefix {
		return ErrGrant
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(token[len(GrantPrefix):])
	if err != nil {
		return ErrGrant
	}
	text, err := k.Open(sealed, grantScope, purpose)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrGrant, err)
	}
	var until int64
	if err := json.Unmarshal(text, &until); err != nil || now.Unix() >= until {
		return ErrGrant
	}
	return nil
}
