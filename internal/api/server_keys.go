package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// resealEvery is how often a server looks whether its key file has another key to seal with.
	resealEvery = time.Minute
	// resealAtOnce bounds what is sealed anew in one look at the store.
	resealAtOnce = 100
)

// reseal seals anew, with the key that seals now, what another key has sealed, until ctx ends.
func (s *Server) reseal(ctx context.Context) {
	for done := ""; ctx.Err() == nil; wait(ctx, resealEvery) {
		keys := s.Keys()
		if keys.Current() == done {
			continue
		}
		n, err := Reseal(ctx, s.Store, keys)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Error("secrets could not be sealed with the new key, it is tried again", "error", err)
			}
			continue
		}
		if done = keys.Current(); n > 0 {
			s.Log.Info("secrets were sealed anew", "secrets", n, "key", done)
		}
	}
}

// Reseal seals anew what the store has sealed by other keys than the one that seals now, and says how much it was.
func Reseal(ctx context.Context, st *store.Store, keys *auth.Keyring) (n int, err error) {
	for {
		old, err := st.SecretsNotSealedBy(ctx, keys.Current(), resealAtOnce)
		if err != nil {
			return n, err
		}
		for _, c := range old {
			value, err := keys.Reseal(c.Value, c.Scope.String(), c.Name)
			if err != nil {
				return n, err
			}
			// A conflict: it was set or sealed meanwhile.
			if err := st.ResealSecret(ctx, c, value, keys.Current()); err != nil && !errors.Is(err, store.ErrConflict) {
				return n, err
			}
			n++
		}
		if len(old) < resealAtOnce {
			break
		}
	}
	ofReleases, err := engine.ResealReleases(ctx, st, keys)
	if n += ofReleases; err != nil {
		return n, err
	}
	return n, resealIdentity(ctx, st, keys)
}

// SealedBy counts what each key but the one that seals now has sealed, by its ID.
func SealedBy(ctx context.Context, st *store.Store, keys *auth.Keyring) (map[string]int, error) {
	by := map[string]int{}
	old, err := st.SecretsNotSealedBy(ctx, keys.Current(), math.MaxInt32)
	if err != nil {
		return nil, err
	}
	for _, c := range old {
		by[c.SealedBy]++
	}
	ofReleases, err := st.ReleaseSecretsNotSealedBy(ctx, keys.Current(), math.MaxInt32)
	if err != nil {
		return nil, err
	}
	for _, c := range ofReleases {
		by[c.SealedBy]++
	}
	d, sealed, err := sealedIdentity(ctx, st)
	if d == nil || err != nil {
		return by, err
	}
	id, err := auth.SealedBy(sealed)
	by[id]++
	return by, err
}

func resealIdentity(ctx context.Context, st *store.Store, keys *auth.Keyring) error {
	d, sealed, err := sealedIdentity(ctx, st)
	if d == nil || err != nil {
		return err
	}
	if id, err := auth.SealedBy(sealed); err != nil || id == keys.Current() {
		return err
	}
	if sealed, err = keys.Reseal(sealed, kindIdentity, "key"); err != nil {
		return err
	}
	if d.Body, err = json.Marshal(sealed); err != nil {
		return err
	}
	err = st.SaveDocument(ctx, d)
	if errors.Is(err, store.ErrConflict) { // another server did it
		err = nil
	}
	return err
}

// sealedIdentity gives the document of the key of identity tokens and what is in it; nil if there is none yet.
func sealedIdentity(ctx context.Context, st *store.Store) (*store.Document, []byte, error) {
	d, err := st.DocumentNamed(ctx, serverDocs, kindIdentity, "", "key")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var sealed []byte
	err = json.Unmarshal(d.Body, &sealed)
	return d, sealed, err
}
