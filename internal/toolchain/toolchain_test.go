package toolchain

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var x64 = Platform{OS: "linux", Arch: "x64"}

// entry is an entry of a tar archive.
type entry struct {
	name, text, link string
	kind             byte // 0 is a file
	mode             int64
}

func gzipped(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.text)), Uid: 1000, Uname: "who"}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var nodeFiles = []entry{
	{name: "node-v9.1.0-linux-x64/", kind: tar.TypeDir, mode: 0o755},
	{name: "node-v9.1.0-linux-x64/bin/node", text: "#!/bin/sh\necho v9.1.0\n", mode: 0o4755},
	{name: "node-v9.1.0-linux-x64/bin/npm", kind: tar.TypeSymlink, link: "../lib/npm.js"},
	{name: "node-v9.1.0-linux-x64/lib/npm.js", text: "js", mode: 0o600},
	{name: "node-v9.1.0-linux-x64/lib/same.js", kind: tar.TypeLink, link: "node-v9.1.0-linux-x64/lib/npm.js"},
}

// server is nodejs.org and go.dev, with one version of each whose archives are as given.
func server(t *testing.T, node, golang []byte) (*Source, *atomic.Int32) {
	t.Helper()
	// Without commands there are no registries.
	t.Setenv("PATH", t.TempDir())
	var asked atomic.Int32
	mux := http.NewServeMux()
	answer := func(path, text string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			fmt.Fprint(w, text)
		})
	}
	answer("/dist/index.json", `[{"version":"v9.1.0","files":["linux-x64","osx-arm64-tar"],"lts":"Name","npm":"1"},
		{"version":"v9.0.0","files":["linux-x64"],"lts":false},{"version":"v8.0.0","files":["win-x64-zip"],"lts":false},{"version":"v../evil","files":["linux-x64"],"lts":false}]`)
	answer("/dist/v9.1.0/SHASUMS256.txt", fmt.Sprintf("%x  node-v9.1.0-linux-x64.tar.gz\n%x  other\n", sha256.Sum256(node), 1))
	answer("/dist/v9.1.0/node-v9.1.0-linux-x64.tar.gz", string(node))
	answer("/dist/v9.0.0/SHASUMS256.txt", fmt.Sprintf("%064x  node-v9.0.0-linux-x64.tar.gz\n", 7))
	answer("/dist/v9.0.0/node-v9.0.0-linux-x64.tar.gz", string(node))
	answer("/dl/", fmt.Sprintf(`[{"version":"go1.90.1","stable":true,"files":[{"filename":"go1.90.1.linux-amd64.tar.gz","os":"linux","arch":"amd64","sha256":"%x","kind":"archive"},
		{"filename":"go1.90.1.src.tar.gz","os":"","arch":"","kind":"source"}]},{"version":"go1.91rc1","files":[{"filename":"../x.tar.gz","os":"linux","arch":"amd64","kind":"archive"}]}]`, sha256.Sum256(golang)))
	answer("/dl/go1.90.1.linux-amd64.tar.gz", string(golang))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &Source{Dir: t.TempDir(), NodeURL: s.URL + "/dist/", GoURL: s.URL + "/dl"}, &asked
}

// listing is what an archive holds: a line for each entry.
func listing(t *testing.T, name string) string {
	t.Helper()
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %o %d:%d %s %s %q\n", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name, h.Linkname, text)
	}
}

func TestServers(t *testing.T) {
	golang := gzipped(t, entry{name: "go/bin/go", text: "program", mode: 0o755}, entry{name: "go/VERSION", text: "go1.90.1"})
	s, asked := server(t, gzipped(t, nodeFiles...), golang)
	l, err := s.Releases(t.Context(), Node, x64, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Release{{Version: "9.1.0", LTS: "name"}, {Version: "9.0.0"}}; !slices.Equal(l.Releases, want) || l.Registry || !strings.HasPrefix(l.From, "127.0.0.1:") {
		t.Errorf("got %+v", l)
	}
	name, err := s.Fetch(t.Context(), Node, l.Releases[0], x64, l.Registry, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := `0 755 0:0 x64/bin/node  "#!/bin/sh\necho v9.1.0\n"
2 644 0:0 x64/bin/npm ../lib/npm.js ""
0 644 0:0 x64/lib/npm.js  "js"
1 644 0:0 x64/lib/same.js x64/lib/npm.js ""
0 644 0:0 x64.complete  ""
`
	if got := listing(t, name); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if l, err = s.Releases(t.Context(), Go, x64, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(l.Releases) != 1 || l.Releases[0].Version != "1.90.1" {
		t.Errorf("got %+v", l)
	}
	if name, err = s.Fetch(t.Context(), Go, l.Releases[0], x64, l.Registry, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, name), "0 755 0:0 x64/bin/go  \"program\"\n0 644 0:0 x64/VERSION  \"go1.90.1\"\n0 644 0:0 x64.complete  \"\"\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}

	// What was fetched is not asked for again, and is there without a network.
	before := asked.Load()
	s.Offline = true
	if _, err := s.Fetch(t.Context(), Go, l.Releases[0], x64, false, io.Discard); err != nil || asked.Load() != before {
		t.Errorf("got %v, %d more requests", err, asked.Load()-before)
	}
	if _, err := s.Fetch(t.Context(), Node, Release{Version: "9.0.0"}, x64, false, io.Discard); !errors.Is(err, ErrOffline) {
		t.Errorf("got %v", err)
	}
	s.Forget(name)
	if _, err := s.Fetch(t.Context(), Go, l.Releases[0], x64, false, io.Discard); !errors.Is(err, ErrOffline) {
		t.Errorf("got %v", err)
	}
}

func TestBadAnswers(t *testing.T) {
	node := gzipped(t, nodeFiles...)
	s, _ := server(t, node, nil)
	_, err := s.Fetch(t.Context(), Node, Release{Version: "9.0.0"}, x64, false, io.Discard)
	want := fmt.Sprintf("the file has the SHA-256 %x and not %064x: it is not used", sha256.Sum256(node), 7)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "the npm command, which knows the registry, is not installed") {
		t.Errorf("got %v", err)
	}
	_, err = s.Fetch(t.Context(), Node, Release{Version: "7.0.0"}, x64, false, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("got %v", err)
	}
	_, err = s.Fetch(t.Context(), Node, Release{Version: "9.1.0"}, Platform{OS: "linux", Arch: "arm64"}, false, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "SHASUMS256.txt has no node-v9.1.0-linux-arm64.tar.gz") {
		t.Errorf("got %v", err)
	}
	s.NodeURL += "nothing"
	if _, err := s.Releases(t.Context(), Node, x64, io.Discard); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("got %v", err)
	}
	s.NodeURL = strings.TrimSuffix(s.GoURL, "dl") + "dist/v9.1.0/SHASUMS256.txt?x="
	if _, err := s.Releases(t.Context(), Node, x64, io.Discard); err == nil || !strings.Contains(err.Error(), "the answer is no list of versions") {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(filepath.Join(s.Dir, "archives"))
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestHostileArchives(t *testing.T) {
	for want, entries := range map[string][]entry{
		"leads out of the archive":                {{name: "a/../../etc/x", text: "x"}},
		`"/etc/x": the name leads`:                {{name: "a//etc/x", text: "x"}},
		`"../../x": the name leads`:               {{name: "a/x", kind: tar.TypeLink, link: "a/../../x"}},
		`"x": the name leads`:                     {{name: "a/y", kind: tar.TypeLink, link: "x"}},
		"neither a file, a directory nor a link":  {{name: "a/x", kind: tar.TypeChar}},
		"\"p\" is neither a file, a directory":    {{name: "a/p", kind: tar.TypeFifo}},
		"larger than any version of this tool":    nil,
		"unpack node.tar.gz: gzip: invalid":       nil,
		"unpack node.tar.gz: unexpected EOF":      nil,
		"unpack node.tar.gz: archive/tar: invali": nil,
	} {
		data := gzipped(t, entries...)
		switch {
		case strings.Contains(want, "gzip"):
			data = []byte("<html>no archive at all</html>")
		case strings.Contains(want, "EOF"):
			data = gzipped(t, entry{name: "a/x", text: strings.Repeat("0123456789abcdef", 1000)})
			data = data[:len(data)/2]
		case strings.Contains(want, "archive/tar"):
			data = compress(t, bytes.Repeat([]byte("no tar at all"), 1000))
		case strings.Contains(want, "larger"):
			var b bytes.Buffer
			if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "a/x", Typeflag: tar.TypeReg, Size: maxUnpacked + 1}); err != nil {
				t.Fatal(err)
			}
			data = compress(t, b.Bytes())
		}
		s, _ := server(t, data, nil)
		name, err := s.Fetch(t.Context(), Node, Release{Version: "9.1.0"}, x64, false, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %s, %v, want %s", name, err, want)
		}
		left, err := os.ReadDir(filepath.Join(s.Dir, "archives"))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: %v is left, %v", want, left, err)
		}
	}
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnOldListWillDo(t *testing.T) {
	s, asked := server(t, nil, nil)
	if _, err := s.Releases(t.Context(), Node, x64, io.Discard); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Releases(t.Context(), Node, x64, io.Discard); err != nil || asked.Load() != 1 {
		t.Errorf("%d requests, %v", asked.Load(), err)
	}
	old := time.Now().Add(-2 * listFresh)
	if err := os.Chtimes(filepath.Join(s.Dir, "lists", "node-linux-x64.json"), old, old); err != nil {
		t.Fatal(err)
	}
	s.Offline = true
	var log strings.Builder
	if l, err := s.Releases(t.Context(), Node, x64, &log); err != nil || len(l.Releases) != 2 || !strings.Contains(log.String(), "The list of versions is 2h0m0s old: ") {
		t.Errorf("got %v, %v, %q", l, err, log.String())
	}
	s.Offline = false
	if _, err := s.Releases(t.Context(), Node, x64, &log); err != nil || asked.Load() != 2 {
		t.Errorf("%d requests, %v", asked.Load(), err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "lists", "node-linux-x64.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Releases(t.Context(), Node, x64, &log); err != nil || len(l.Releases) != 2 {
		t.Errorf("a damaged list: got %v, %v", l, err)
	}
}

func TestLock(t *testing.T) {
	s := &Source{Dir: t.TempDir()}
	never := func() { t.Error("somebody else has the lock") }
	unlock, err := s.Lock(t.Context(), "a", never)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Lock(t.Context(), "b", never)
	if err != nil {
		t.Fatal(err)
	}
	other()
	again, err := (&Source{Dir: s.Dir}).Lock(t.Context(), "a", unlock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Lock(ctx, "a", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	again()
}

func TestGoModulesAreUnpackedAsGoDoes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "m.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for _, n := range []string{"m@v/bin/go", "m@v/pkg/tool/x/vet", "m@v/src/_go.mod", "m@v/lib/wasm/go_js_wasm_exec", "m@v/src/bin/x.go", "other/x", "m@v/src/"} {
		w, err := z.Create(n)
		if err == nil && !strings.HasSuffix(n, "/") {
			_, err = w.Write([]byte("text"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if f, err = os.Create(out); err != nil {
		t.Fatal(err)
	}
	a, err := newArchive(f, "x64")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.addZip(name, "m@v", goMode, goModAgain), a.close(true), f.Close()); err != nil {
		t.Fatal(err)
	}
	want := `0 755 0:0 x64/bin/go  "text"
0 755 0:0 x64/pkg/tool/x/vet  "text"
0 644 0:0 x64/src/_go.mod  "text"
0 644 0:0 x64/src/go.mod  "text"
0 755 0:0 x64/lib/wasm/go_js_wasm_exec  "text"
0 644 0:0 x64/src/bin/x.go  "text"
0 644 0:0 x64.complete  ""
`
	if got := listing(t, out); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestRegistries takes real versions from the registries that this machine's npm and go are set up for, once: they stay in
// the user's cache.
func TestRegistries(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	// The servers are not asked.
	s := &Source{Dir: filepath.Join(cache, "penstock-test", "toolchains"), NodeURL: "http://127.0.0.1:1", GoURL: "http://127.0.0.1:1"}
	for _, c := range []struct {
		tool     Tool
		version  string
		programs map[string]string // command -> what it says
	}{
		{Node, "18.20.8", map[string]string{"node --version": "v18.20.8", "npm --version": "10.", "npx --version": "10.", "corepack --version": "0."}},
		{Go, "1.22.12", map[string]string{"go version": "go version go1.22.12 linux/amd64"}},
	} {
		unlock, err := s.Lock(t.Context(), string(c.tool), func() {})
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		l, err := s.Releases(t.Context(), c.tool, x64, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(l.Releases, func(r Release) bool { return r.Version == c.version })
		if i < 0 || !l.Registry {
			t.Fatalf("there is no %s %s in %s", c.tool, c.version, l.From)
		}
		name, err := s.Fetch(t.Context(), c.tool, l.Releases[i], x64, l.Registry, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		dir := t.TempDir()
		untar := exec.Command("tar", "-x", "-C", dir)
		untar.Stdin = r
		if out, err := untar.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		t.Setenv("PATH", filepath.Join(dir, "x64", "bin")+":"+os.Getenv("PATH"))
		t.Setenv("GOTOOLCHAIN", "local")
		for command, want := range c.programs {
			out, err := exec.Command("sh", "-c", command).CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("%s: got %s, %v, want %s", command, out, err, want)
			}
		}
	}
}

func FuzzAddTar(f *testing.F) {
	f.Add(gzipped(f, nodeFiles...))
	f.Add(gzipped(f, entry{name: "a/../../x", text: "x"}, entry{name: "./a/b/", kind: tar.TypeDir}))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x.tar.gz")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		a, err := newArchive(&b, "x64")
		if err != nil {
			t.Fatal(err)
		}
		a.bytes = maxUnpacked - 1<<20 // a small bomb will do
		err = a.addTar(name, "at", below)
		if bad := a.close(err == nil); err != nil || bad != nil {
			return
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(out, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(listing(t, out)) {
			if name := strings.Fields(line)[3]; !strings.HasPrefix(name, "x64/at/") && name != "x64.complete" {
				t.Errorf("%q leads out", name)
			}
		}
	})
}
