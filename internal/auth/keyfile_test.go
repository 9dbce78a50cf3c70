package auth

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestKeyFileRotatedInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	var all sync.Map
	var opening sync.WaitGroup
	for range 8 { // servers that start at once
		opening.Go(func() {
			f, err := OpenKeyFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			all.Store(f, f.Keyring().Current())
		})
	}
	opening.Wait()
	keys, err := ReadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	rotated := keys.Rotate(time.Now())
	if err := WriteKeyring(path, rotated); err != nil {
		t.Fatal(err)
	}
	all.Range(func(f, id any) bool {
		if id != keys.Current() {
			t.Errorf("a server began with key %s, the file has %s", id, keys.Current())
		}
		if got := f.(*KeyFile).Keyring().Current(); got != rotated.Current() {
			t.Errorf("after the rotation %s seals, want %s", got, rotated.Current())
		}
		return true
	})
	f, err := OpenKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".bad", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".bad", path); err != nil {
		t.Fatal(err)
	}
	if got := f.Keyring().Current(); got != rotated.Current() {
		t.Errorf("with a damaged file %s seals, want what was read before", got)
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v %v", names, err)
	}
}
