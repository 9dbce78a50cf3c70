package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

const (
	keySize    = 32
	maxKeys    = 100
	maxKeyFile = 64 << 10
)

// Keyring is the keys of a server. The last one seals, all of them open. It is immutable.
type Keyring struct {
	keys []key // at least one
}

type key struct {
	id      string
	created time.Time
	secret  []byte // keySize random bytes, from which all else is derived
}

var keyID = regexp.MustCompile(`^[0-9a-zA-Z_-]{1,32}$`)

// NewKeyring makes a keyring of one new key.
func NewKeyring(now time.Time) *Keyring { return (&Keyring{}).Rotate(now) }

// Rotate gives the keyring with a new key, which seals from now on.
func (k *Keyring) Rotate(now time.Time) *Keyring {
	id, secret := make([]byte, 8), make([]byte, keySize)
	rand.Read(id)
	rand.Read(secret)
	return &Keyring{append(slices.Clip(k.keys), key{hex.EncodeToString(id), now.UTC().Truncate(time.Second), secret})}
}

// Without gives the keyring without a key that nothing is sealed with any more. The key that seals can not go.
func (k *Keyring) Without(id string) (*Keyring, error) {
	if id == k.Current() {
		return nil, fmt.Errorf("key %s is in use: rotate first", id)
	}
	if k.find(id) == nil {
		return nil, fmt.Errorf("%w %.40q", ErrNoKey, id)
	}
	return &Keyring{slices.DeleteFunc(slices.Clone(k.keys), func(c key) bool { return c.id == id })}, nil
}

// Current is the ID of the key that seals.
func (k *Keyring) Current() string { return k.last().id }

// KeyInfo is what may be told of a key.
type KeyInfo struct {
	ID      string
	Created time.Time
}

// Keys lists the keys, the one that seals last.
func (k *Keyring) Keys() []KeyInfo {
	infos := make([]KeyInfo, len(k.keys))
	for i, c := range k.keys {
		infos[i] = KeyInfo{c.id, c.created}
	}
	return infos
}

func (k *Keyring) last() *key { return &k.keys[len(k.keys)-1] }

func (k *Keyring) find(id string) *key {
	for i := range k.keys {
		if k.keys[i].id == id {
			return &k.keys[i]
		}
	}
	return nil
}

// Format does not tell the keys to whoever prints a keyring, however.
func (k Keyring) Format(to fmt.State, _ rune) { fmt.Fprintf(to, "%d keys", len(k.keys)) }

// keyFile is the form of a key file.
type keyFile struct {
	Keys []keyEntry `json:"keys"`
}

type keyEntry struct {
	ID      string `json:"id"`
	Created string `json:"created"` // RFC 3339
	Secret  string `json:"secret"`  // base64 of 32 bytes
}

// Text is the keyring as a key file.
func (k *Keyring) Text() []byte {
	var f keyFile
	for _, c := range k.keys {
		f.Keys = append(f.Keys, keyEntry{c.id, c.created.Format(time.RFC3339), base64.StdEncoding.EncodeToString(c.secret)})
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic(err) // texts are always JSON
	}
	return append(text, '\n')
}

// ParseKeyring reads a key file. Errors say which key is wrong and how, and nothing of what is in it.
func ParseKeyring(text []byte) (*Keyring, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxKeyFile)
	}
	var f keyFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("it is not JSON of the form that penstock writes, by byte %d", d.InputOffset())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the keys, at byte %d", d.InputOffset())
	}
	if len(f.Keys) == 0 || len(f.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, there may be 1 to %d", len(f.Keys), maxKeys)
	}
	k := &Keyring{}
	for i, e := range f.Keys {
		c, err := e.parse()
		if err == nil && k.find(e.ID) != nil {
			err = errors.New("its id is that of another")
		}
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		k.keys = append(k.keys, c)
	}
	return k, nil
}

func (e keyEntry) parse() (key, error) {
	if !keyID.MatchString(e.ID) {
		return key{}, errors.New("its id is not 1 to 32 letters, digits, - and _")
	}
	created, err := time.Parse(time.RFC3339, e.Created)
	if err != nil {
		return key{}, errors.New("created is not a time as 2026-01-02T15:04:05Z")
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(e.Secret)
	if err != nil || len(secret) != keySize {
		return key{}, fmt.Errorf("secret is not the base64 of %d bytes", keySize)
	}
	return key{e.ID, created.UTC().Truncate(time.Second), secret}, nil
}

// ReadKeyring reads a key file. One that others may read, or its group may write, is refused. The error wraps
// fs.ErrNotExist if there is none.
func ReadKeyring(path string) (*Keyring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s is not a file", path)
	}
	if info.Mode()&0o027 != 0 {
		return nil, fmt.Errorf("key file %s is open to others (mode %04o): chmod 600 it, and rotate the key if somebody may have read it", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	k, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// WriteKeyring writes a key file that only its owner can read, in place of one that is there. When it returns nil the file
// is on the disk; after an error the old one is as it was.
func WriteKeyring(path string, k *Keyring) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write key file: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if removeErr := os.Remove(f.Name()); err == nil && !errors.Is(removeErr, fs.ErrNotExist) {
			err = removeErr
		}
	}()
	_, err = f.Write(k.Text())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir puts the directory of a file on the disk.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
