//go:build linux

package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHostProgram: machines have the program that was there at the start, also when an upgrade has put another in its place, or
// has only removed it so far.
func TestHostProgram(t *testing.T) {
	for name, replace := range map[string]func(*testing.T, string){
		"another in its place": func(t *testing.T, file string) {
			writeProgram(t, file+".new", "new")
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		},
		"removed": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tool")
			writeProgram(t, file, "old")
			open, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { open.Close() })
			h := hostWith(t, openStore(t, t.TempDir()), &Program{Names: []string{"tool", "also"}, Path: file, File: open})
			for _, when := range []string{"before", "after"} {
				m := openHost(t, h, Spec{Name: "job", Repo: "job"})
				expect(t, m, "tool && also", "old\nold\n")
				if when == "before" {
					replace(t, file)
				}
			}
		})
	}
}

func writeProgram(t *testing.T, file, says string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho "+says+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}
