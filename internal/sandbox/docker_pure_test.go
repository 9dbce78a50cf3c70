//go:build linux

package sandbox

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oneImage is a registry that holds one image, team/tool:1, for one user.
func oneImage(t *testing.T, files io.Reader, user, password string) http.Handler {
	t.Helper()
	layer, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{}
	describe := func(kind string, data []byte) map[string]any {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		blobs[digest] = data
		return map[string]any{"mediaType": kind, "digest": digest, "size": len(data)}
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	layers := []any{describe("application/vnd.docker.image.rootfs.diff.tar", layer)}
	config := encode(map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}}})
	const kind = "application/vnd.docker.distribution.manifest.v2+json"
	manifest := encode(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": describe("application/vnd.docker.container.image.v1+json", config), "layers": layers})
	digest := describe(kind, manifest)["digest"].(string)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		data := blobs[path.Base(r.URL.Path)]
		if strings.HasSuffix(r.URL.Path, "/team/tool/manifests/1") {
			data = manifest
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Docker-Content-Digest", digest)
		}
		switch {
		case strings.TrimSuffix(r.URL.Path, "/") == "/v2":
		case data == nil:
			http.NotFound(w, r)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		}
	})
}

func TestPauseProgramIsAnExecutable(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		f, err := elf.NewFile(bytes.NewReader(pauseProgram(arch)))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
			t.Fatalf("%s: %+v", arch, f.FileHeader)
		}
		p := f.Progs[0]
		if at := f.Entry - p.Vaddr; p.Flags != elf.PF_R|elf.PF_X || p.Filesz != uint64(len(pauseProgram(arch))) || at+uint64(len(pauseCode[arch])) != p.Filesz {
			t.Errorf("%s: %+v, begins at %d", arch, p.ProgHeader, at)
		}
	}
	if p := pauseProgram("s390x"); p != nil {
		t.Errorf("s390x: %x", p)
	}
}

// TestWrapTellsNoSecrets looks for values in what a daemon tells to all who listen to its events.
func TestWrapTellsNoSecrets(t *testing.T) {
	c := Command{Args: []string{"node", "it's"}, Env: []string{"PATH=/bin", "TOKEN=secret", "INPUT_TO-KEN=secret", "UID=secret"}}
	w := wrap(c, "nonce ")
	if strings.Contains(strings.Join(w.args, " "), "secret") {
		t.Errorf("arguments: %q", w.args)
	}
	if got, want := fmt.Sprintf("%q", w.env), `["PENSTOCK_nonce_0=secret" "PENSTOCK_nonce_1=secret"]`; got != want {
		t.Errorf("environment: got %s, want %s", got, want)
	}
	if got, want := w.args[len(w.args)-2:], c.Args; got[0] != want[0] || got[1] != want[1] {
		t.Errorf("command: %q", got)
	}
}

func TestOwnerIsGone(t *testing.T) {
	own := strings.Split(dockerOwner(), "/")
	with := func(i int, value string) string {
		part := append([]string(nil), own...)
		part[i] = value
		return strings.Join(part, "/")
	}
	boot, space, _ := strings.Cut(own[1], ":")
	for owner, want := range map[string]bool{
		dockerOwner():                false,
		with(0, "elsewhere"):         false,
		with(1, "other-boot:"+space): true,
		with(1, boot+":pid:[1]"):     false,
		with(2, "4194999"):           true, // above the highest id there can be
		with(2, "no number"):         false,
		with(2, "-1"):                false,
		with(3, "1"):                 true,
		"":                           false, "/": false, "a/b/c": false, "///": false,
	} {
		if got := ownerIsGone(owner); got != want {
			t.Errorf("%q: got %v, want %v", owner, got, want)
		}
	}
}

func TestOpeningTakesOneLine(t *testing.T) {
	for _, c := range []struct {
		nonce, stream, out, pid, failure string
		missing                          bool
	}{
		{"N ", "N 12\nhello\nN 13\n", "hello\nN 13\n", "12", "", false},
		{"N ", "N 12\n" + strings.Repeat("long", 10000), strings.Repeat("long", 10000), "12", "", false},
		{"N ", "N 12\r\nhello", "hello", "12", "", false},
		{"N ", "N missing\n", "", "", "", true},
		{"N ", "OCI runtime exec failed\r\n", "", "", "OCI runtime exec failed\r\n", false},
		{"N ", "", "", "", "", false},
		{"", "hello\n", "hello\n", "", "", false},
		{"", "OCI runtime x", "OCI runtime x", "", "OCI runtime x", false},
	} {
		for _, step := range []int{1, 3, 100, 50000} {
			var out bytes.Buffer
			o := &opening{to: &out, nonce: c.nonce, started: make(chan struct{})}
			for rest := c.stream; rest != ""; rest = rest[min(step, len(rest)):] {
				if n, err := o.Write([]byte(rest[:min(step, len(rest))])); err != nil || n != min(step, len(rest)) {
					t.Fatal(n, err)
				}
			}
			if out.String() != c.out || o.process() != c.pid || o.failure() != c.failure || o.missing() != c.missing {
				t.Errorf("%q by %d: out %q, pid %q, failure %q, missing %v", c.stream, step, out.String(), o.process(), o.failure(), o.missing())
			}
		}
	}
}

// FuzzSift unpacks what sift lets through and looks whether it stayed where it belongs.
func FuzzSift(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{{Typeflag: tar.TypeReg, Name: "a/b"}, {Typeflag: tar.TypeDir, Name: "c/"}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "l/x"}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeLink, Name: "m", Linkname: "l"}, {Typeflag: tar.TypeReg, Name: "m/x"}},
		{{Typeflag: tar.TypeLink, Name: "l", Linkname: "../x"}}, {{Typeflag: tar.TypeChar, Name: "d"}}, {{Typeflag: tar.TypeReg, Name: "/abs"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("garbage"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var out bytes.Buffer
		if err := sift(bytes.NewReader(stream), &out); err != nil {
			return
		}
		links := map[string]bool{}
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("what sift writes is no tar stream: %v", err)
			}
			name := path.Clean(h.Name)
			if !filepath.IsLocal(name) {
				t.Errorf("%q leads out", h.Name)
			}
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if links[dir] {
					t.Errorf("%q leads through a link", h.Name)
				}
			}
			switch h.Typeflag {
			case tar.TypeReg:
				delete(links, name)
			case tar.TypeDir:
			case tar.TypeSymlink:
				links[name] = true
			case tar.TypeLink:
				if !filepath.IsLocal(h.Linkname) {
					t.Errorf("%q links to %q", h.Name, h.Linkname)
				}
				links[name] = links[path.Clean(h.Linkname)]
			default:
				t.Errorf("%q has type %c", h.Name, h.Typeflag)
			}
		}
	})
}
