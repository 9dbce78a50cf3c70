package auth

import (
	"fmt"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"
)

// PublicKey is what clients seal secrets with before they send them, and the ID of its key. It changes with a rotation;
// what was sealed with an older one still opens.
func (k *Keyring) PublicKey() (id string, public [32]byte) {
	c := k.last()
	public, _ = c.boxKeys()
	return c.id, public
}

func (c *key) boxKeys() (public, private [32]byte) {
	copy(private[:], c.derive(purposeBox))
	point, err := curve25519.X25519(private[:], curve25519.Basepoint)
	if err != nil {
		panic(err) // only for points other than the base point
	}
	copy(public[:], point)
	return public, private
}

// OpenBox opens a sealed box (crypto_box_seal of libsodium) that a client made with a public key. The error wraps ErrNoKey
// if there is no key of that ID, ErrSealed if the box is not for it.
// https://docs.github.com/en/rest/guides/encrypting-secrets-for-the-rest-api
func (k *Keyring) OpenBox(id string, sealed []byte) ([]byte, error) {
	c := k.find(id)
	if c == nil {
		return nil, fmt.Errorf("%w %.40q: fetch the public key again", ErrNoKey, id)
	}
	public, private := c.boxKeys()
	text, ok := box.OpenAnonymous(nil, sealed, &public, &private)
	if !ok {
		return nil, fmt.Errorf("sealed box: %w: seal it with the public key %s", ErrSealed, id)
	}
	return text, nil
}
