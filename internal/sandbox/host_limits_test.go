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
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{"left": time.Hour, "used": time.Hour, "made": time.Second} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "used" { // as the kernel has it, it can not be removed
			if err := os.Mkdir(filepath.Join(dir, name, "process"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Join(dir, name), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	sweepBelow(dir, now.Add(-groupAge))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"made", "used"}; !slices.Equal(names, want) {
		t.Errorf("left are %v, want %v", names, want)
	}
}
