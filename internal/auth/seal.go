package auth

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// A sealed value is, with all sizes in bytes:
//
//	1     version, 1
//	1     length of the key's ID
//	n     the key's ID
//	24+48 nonce and the data key, sealed under the key; bound to all of the above
//	24+m  nonce and the value, sealed under the data key; bound to what it belongs to
//
// Both are sealed with XChaCha20-Poly1305, whose nonces are long enough to be random.
const (
	sealVersion = 1
	nonceSize   = chacha20poly1305.NonceSizeX
	overhead    = chacha20poly1305.Overhead
)

// Seal seals a value under a new data key, and that under the current key. It opens only for the same scope and name: a
// value that is moved to another place in the database is of no use there.
func (k *Keyring) Seal(value []byte, scope, name string) []byte {
	c := k.last()
	header := append([]byte{sealVersion, byte(len(c.id))}, c.id...)
	dataKey := make([]byte, keySize)
	rand.Read(dataKey)
	sealed := sealWith(header, c.derive(purposeSeal), dataKey, header)
	return sealWith(sealed, dataKey, value, belongsTo(scope, name))
}

// sealWith appends a random nonce and the sealed text.
func sealWith(to, key, text, bound []byte) []byte {
	aead := mustAEAD(key)
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	return aead.Seal(append(to, nonce...), nonce, text, bound)
}

// Open opens a sealed value. The error wraps ErrNoKey if the key is not in the ring, ErrSealed if the value was changed or
// is of another scope or name.
func (k *Keyring) Open(sealed []byte, scope, name string) ([]byte, error) {
	id, rest, err := splitSealed(sealed)
	if err != nil {
		return nil, err
	}
	c := k.find(id)
	if c == nil {
		return nil, fmt.Errorf("%w %s", ErrNoKey, id)
	}
	const wrapped = nonceSize + keySize + overhead
	dataKey, err := openWith(c.derive(purposeSeal), rest[:wrapped], sealed[:len(sealed)-len(rest)])
	if err != nil {
		return nil, err
	}
	return openWith(dataKey, rest[wrapped:], belongsTo(scope, name))
}

func openWith(key, sealed, bound []byte) ([]byte, error) {
	text, err := mustAEAD(key).Open(nil, sealed[:nonceSize], sealed[nonceSize:], bound)
	if err != nil {
		return nil, ErrSealed
	}
	return text, nil
}

// splitSealed checks the form of a sealed value and gives the ID of its key and what follows that.
func splitSealed(sealed []byte) (id string, rest []byte, err error) {
	if len(sealed) < 2 || sealed[0] != sealVersion {
		return "", nil, ErrSealed
	}
	n := int(sealed[1])
	if len(sealed) < 2+n+nonceSize+keySize+overhead+nonceSize+overhead || !keyID.Match(sealed[2:2+n]) {
		return "", nil, ErrSealed
	}
	return string(sealed[2 : 2+n]), sealed[2+n:], nil
}

// SealedBy gives the ID of the key that a value is sealed with.
func SealedBy(sealed []byte) (string, error) {
	id, _, err := splitSealed(sealed)
	return id, err
}

// Reseal seals a value anew, under a new data key and the current key.
func (k *Keyring) Reseal(sealed []byte, scope, name string) ([]byte, error) {
	value, err := k.Open(sealed, scope, name)
	if err != nil {
		return nil, err
	}
	return k.Seal(value, scope, name), nil
}

// belongsTo writes scope and name so that no two pairs are written alike.
func belongsTo(scope, name string) []byte {
	text := binary.BigEndian.AppendUint64(nil, uint64(len(scope)))
	return append(append(text, scope...), name...)
}

// Derive gives a key of 32 bytes for another purpose, from the key that seals and then from all before it.
func (k *Keyring) Derive(purpose string) [][]byte {
	var out [][]byte
	for _, c := range slices.Backward(k.keys) {
		out = append(out, c.derive("penstock: elsewhere: "+purpose))
	}
	return out
}

// The purposes that keys are derived for from the one secret of a key: one never serves for another.
const (
	purposeSeal = "penstock: seal data keys"
	purposeBox  = "penstock: open sealed boxes"
)

func (c *key) derive(purpose string) []byte {
	out, err := hkdf.Key(sha256.New, c.secret, nil, purpose, keySize)
	if err != nil {
		panic(err) // only for lengths that SHA-256 can not give
	}
	return out
}

func mustAEAD(key []byte) cipher.AEAD {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		panic(err) // only for keys of another size
	}
	return aead
}
