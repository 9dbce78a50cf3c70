package api

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/penstock-ci/penstock/internal/store"
)

// kindIdentity is the document that keeps the key of the server's identity tokens, sealed.
const kindIdentity = "identity"

// identity is what the server's identity tokens are signed with: one key for as long as the database lives, since clouds keep
// its public part.
func (s *Server) identity() *identity {
	return &identity{keyID: "penstock-1", key: sync.OnceValues(func() (*rsa.PrivateKey, error) {
		key, err := s.identityKey(context.Background())
		if err != nil {
			return nil, fmt.Errorf("the key of identity tokens: %w", err)
		}
		return key, nil
	})}
}

func (s *Server) identityKey(ctx context.Context) (*rsa.PrivateKey, error) {
	d, sealed, err := sealedIdentity(ctx, s.Store)
	if d == nil && err == nil {
		if err := s.newIdentityKey(ctx); err != nil && !errors.Is(err, store.ErrExists) { // another server may have been first
			return nil, err
		}
		_, sealed, err = sealedIdentity(ctx, s.Store)
	}
	if err != nil {
		return nil, err
	}
	text, err := s.Keys().Open(sealed, kindIdentity, "key")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS1PrivateKey(text)
	return key, err
}

func (s *Server) newIdentityKey(ctx context.Context) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	body, err := json.Marshal(s.Keys().Seal(x509.MarshalPKCS1PrivateKey(key), kindIdentity, "key"))
	if err != nil {
		return err
	}
	return s.Store.AddDocument(ctx, &store.Document{Repository: serverDocs, Kind: kindIdentity, Name: "key", Body: body})
}
