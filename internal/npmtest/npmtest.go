// Package npmtest gives tests GitHub's own packages from npm. Only tests import it.
package npmtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Install copies a directory with a package.json and its lock file into the user's cache, installs there what the lock
// file names, and gives the place. That is done once for each state of the directory. A machine without npm fails the
// test.
func Install(t testing.TB, from string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	key, err := digest(os.DirFS(from))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "penstock-test", filepath.Base(from)+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.CopyFS(temp, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	npm := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	npm.Dir = temp
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("%s needs node 20 or later with npm: npm ci: %v\n%s", from, err, bytes.TrimSpace(out))
	}
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, statErr := os.Stat(dir); statErr != nil { // else another test was first
			t.Fatal(err)
		}
	}
	return dir
}

// digest is made of the names and contents of all files.
func digest(files fs.FS) (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		fmt.Fprintf(sum, "%s %d\n%s", name, len(data), data)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil)[:10]), err
}
