package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// KeyFile is the keys of a server in their file, which may change while servers use it. It may be used by any number of goroutines.
type KeyFile struct {
	path string

	mu   sync.Mutex
	read fs.FileInfo
	keys *Keyring
}

// OpenKeyFile opens the keys in a file, and makes a file of one new key if there is none. Servers that do so at once get the same.
func OpenKeyFile(path string) (*KeyFile, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	f := &KeyFile{path: path}
	return f, f.refresh()
}

func makeKeyFile(path string) error {
	mine := path + "." + rand.Text()
	if err := WriteKeyring(mine, NewKeyring(time.Now())); err != nil {
		return err
	}
	defer os.Remove(mine)
	if err := os.Link(mine, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write key file: %w", err)
	}
	return syncDir(path)
}

// Keyring gives the keys as they are in the file now; if they can not be read, as they were before.
func (f *KeyFile) Keyring() *Keyring {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.refresh()
	return f.keys
}

func (f *KeyFile) refresh() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("read key file: %w", err)
	}
	if f.read != nil && os.SameFile(f.read, info) && f.read.ModTime().Equal(info.ModTime()) {
		return nil // it is replaced as a whole, never written into
	}
	keys, err := ReadKeyring(f.path)
	if err != nil {
		return err
	}
	f.read, f.keys = info, keys
	return nil
}
