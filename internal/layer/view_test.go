package layer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestViewShowsAndKeepsAPartOfALayer(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	made := filepath.Join(s.Dir(), "made")
	if err := os.MkdirAll(filepath.Join(made, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made, "a", "b", "f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(made, "link")); err != nil {
		t.Fatal(err)
	}
	of, err := s.Add(made, Layer{Owner: -1})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.View(of, "a/b", Layer{Whole: true, Owner: -1})
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if text, err := root.ReadFile("f"); err != nil || string(text) != "text" {
		t.Errorf("got %q, %v", text, err)
	}
	if n, err := s.Size(id); err != nil || n == 0 {
		t.Errorf("size %d, %v", n, err)
	}
	for _, name := range []string{"a/none", "a/b/f", "link/b", "../x", "/a", ""} {
		if id, err := s.View(of, name, Layer{}); err == nil {
			t.Errorf("%q is shown as %s", name, id)
		}
	}
	if _, err := s.View(of, "a/none", Layer{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}

	if err := s.SetRef("view", id); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * young)
	for _, x := range []ID{of, id} {
		if err := os.Chtimes(filepath.Join(s.Dir(), layersDir, string(x)), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Layer(of); err != nil {
		t.Errorf("what is shown is collected: %v", err)
	}
	if err := s.SetRef("view"); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range []ID{of, id} {
		if _, err := s.Layer(x); !errors.Is(err, ErrNotExist) {
			t.Errorf("%s is kept: %v", x, err)
		}
	}
}
