//go:build linux

package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSweepGroups: what was left is taken away, but for what is in use or may still be being made.
func TestSweepGroups(t *testing.T) {
	root, now := t.TempDir(), time.Now()
	for _, of := range []string{"", "memory", "cpu"} {
		parent := filepath.Join(root, of, "penstock")
		for name, age := range map[string]time.Duration{"left": time.Hour, "used": time.Hour, "made": time.Second} {
			dir := filepath.Join(parent, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if name == "used" { // as the kernel has it, it can not be removed
				if err := os.Mkdir(filepath.Join(dir, "process"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(dir, now.Add(-age), now.Add(-age)); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweepGroups(root, now)
	for _, of := range []string{"", "memory", "cpu"} {
		entries, err := os.ReadDir(filepath.Join(root, of, "penstock"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if want := []string{"made", "used"}; !slices.Equal(names, want) {
			t.Errorf("left below %q are %v, want %v", of, names, want)
		}
	}
}
