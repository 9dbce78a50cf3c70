package deploy

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

func archiveOf(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArtifactBounds(t *testing.T) {
	file := func(name string, size int64) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}
	}
	archive := archiveOf(t, file("a", 60), file("b", 40), &tar.Header{Name: "c", Typeflag: tar.TypeDir, Mode: 0o755})
	for _, c := range []struct {
		bytes   int64
		entries int
		want    error
	}{{100, 3, nil}, {99, 3, errArtifactBytes}, {100, 2, errArtifactEntries}} {
		if err := copyTar(io.Discard, bytes.NewReader(archive), c.bytes, c.entries); !errors.Is(err, c.want) {
			t.Errorf("%d bytes, %d entries: got %v, want %v", c.bytes, c.entries, err, c.want)
		}
	}
	if err := copyTar(io.Discard, strings.NewReader(strings.Repeat("no tar", 1000)), 100, 3); err == nil || !strings.Contains(err.Error(), "not a tar archive") {
		t.Errorf("what is no archive: %v", err)
	}
	if err := copyTar(io.Discard, bytes.NewReader(archive[:540]), 100, 3); err == nil {
		t.Error("half an archive is taken")
	}
}

// FuzzArtifact has any bytes as an artifact: nothing is written outside, and what is passed on is within the bounds.
func FuzzArtifact(f *testing.F) {
	f.Add(archiveOf(f, &tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644, Size: 10}))
	f.Add(archiveOf(f, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, &tar.Header{Name: "l/evil", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Add(archiveOf(f, &tar.Header{Name: "../x", Typeflag: tar.TypeReg, Mode: 0o644}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		const most = 1 << 20
		var out bytes.Buffer
		if err := copyTar(&out, bytes.NewReader(archive), most, 100); err != nil {
			return
		}
		if out.Len() > 2*most {
			t.Errorf("%d bytes are passed on", out.Len())
		}
		dir := t.TempDir()
		_ = sandbox.Unpack(filepath.Join(dir, "in"), &out) // it may refuse
		if entries, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(entries) > 1 {
			t.Errorf("written outside: %v, %v", entries, err)
		}
	})
}

func TestHostName(t *testing.T) {
	for service, want := range map[string]string{
		"web": "web-2", "Web.API_1": "Web-API-1-2", "": "service-2", "--": "service-2", "日本": "service-2", strings.Repeat("a", 100): strings.Repeat("a", 50) + "-2",
		strings.Repeat("a", 49) + "---b": strings.Repeat("a", 49) + "-2",
	} {
		if got := hostName(service, 2); got != want {
			t.Errorf("%q: got %q, want %q", service, got, want)
		}
	}
}

// FuzzListening reads any line as one of the kernel's list of sockets.
func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0")
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")
	f.Fuzz(func(t *testing.T, line string) {
		if port, ok := parseListening(line); ok && (port < 0 || port > 65535 || !strings.Contains(line, "0A")) {
			t.Errorf("%q: port %d", line, port)
		}
	})
	if port, ok := parseListening("0: 00000000:0BB8 00000000:0000 0A"); !ok || port != 3000 {
		f.Errorf("got %d, %v", port, ok)
	}
	if _, ok := parseListening("0: 0100007F:0BB8 0100007F:1234 01"); ok {
		f.Error("a connection listens")
	}
}
