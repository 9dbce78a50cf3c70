package forge

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
)

// TestArchive holds that the files of a commit, or of a directory of it, come out the same each time, and nothing else does.
func TestArchive(t *testing.T) {
	s, b := newSite(t)
	tr := s.clone(t, b.Name)
	tr.commit("web/server.py", "print(1)\n", "one")
	tr.commit("webs/other.txt", "x\n", "two")
	sha := tr.commit("README", "read\n", "three")
	tr.git("push", "--quiet", "origin", "HEAD:main")
	list := func(dir string) (string, []byte) {
		t.Helper()
		var out bytes.Buffer
		if err := b.Archive(t.Context(), sha, dir, &out); err != nil {
			t.Fatal(err)
		}
		var names []string
		for r := tar.NewReader(bytes.NewReader(out.Bytes())); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return strings.Join(names, " "), out.Bytes()
			}
			if err != nil {
				t.Fatal(err)
			}
			if !h.ModTime.IsZero() && h.ModTime.Unix() != 0 {
				t.Errorf("%s has a time: %s", h.Name, h.ModTime)
			}
			names = append(names, fmt.Sprintf("%s:%d", h.Name, h.Size))
		}
	}
	all, first := list(".")
	if want := "README:5 web/:0 web/server.py:9 webs/:0 webs/other.txt:2"; all != want {
		t.Errorf("got %s, want %s", all, want)
	}
	if below, _ := list("web"); below != "server.py:9" {
		t.Errorf("below web: got %s", below)
	}
	if _, again := list("."); !bytes.Equal(first, again) {
		t.Error("the same commit gives other bytes")
	}
	for _, bad := range [][2]string{{sha, "no"}, {sha, "../app"}, {sha, "README"}, {strings.Repeat("0", 40), "."}, {"main", "."}, {"--output=x", "."}} {
		if err := b.Archive(t.Context(), bad[0], bad[1], io.Discard); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: got %v, want fs.ErrNotExist", bad, err)
		}
	}
}
