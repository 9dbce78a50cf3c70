//go:build linux

package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-ci/penstock/internal/layer"
)

func TestHostOverlayLeavesTheTreeAlone(t *testing.T) {
	store, err := layer.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		store.Close()
	})
	dir := t.TempDir()
	for name, data := range map[string]string{"kept": "old\n", "secret": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sb, err := h.Open(t.Context(), Spec{Name: "one", Repo: "repo"})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close(t.Context())
	m := sb.(*machine)
	if err := m.Overlay(t.Context(), m.Info().Workspace, dir, []string{"secret", "missing/too"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := Command{Args: []string{"sh", "-c", "ls -A; cat kept; echo new > kept; rm -f kept; touch made; ls -A"}, Env: []string{"PATH=" + m.Info().Path}, Stdout: &out, Stderr: &out}
	if err := m.Exec(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "kept\nold\nmade\n"; got != want {
		t.Errorf("inside: got %q, want %q", got, want)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "kept")); err != nil || string(data) != "old\n" {
		t.Errorf("the host's file: %q, %v", data, err)
	}
}
