package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func TestHandler(t *testing.T) {
	h := Handler()
	for _, row := range []struct {
		method, path string
		status       int // 0 depends on whether the pages are built
	}{
		{"GET", "/acme/shop/actions", 0}, {"HEAD", "/", 0}, {"POST", "/", 405}, {"GET", "/assets/none.js", 404}, {"GET", "/assets/../../web.go", 0},
		{"GET", "/assets/%2e%2e/%2e%2e/web.go", 0},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(row.method, row.path, nil))
		if row.status != 0 && w.Code != row.status {
			t.Errorf("%s %s: %d, not %d", row.method, row.path, w.Code, row.status)
		}
		if strings.Contains(w.Body.String(), "package web") {
			t.Errorf("%s gives a file that is none of the pages", row.path)
		}
		for header, want := range map[string]string{"Content-Security-Policy": "script-src 'self';", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"} {
			if !strings.Contains(w.Header().Get(header), want) {
				t.Errorf("%s %s has no %s", row.method, row.path, header)
			}
		}
		if row.status == 0 && w.Code == http.StatusOK && strings.Contains(w.Body.String(), "unsafe") {
			t.Errorf("%s: %s", row.path, w.Body)
		}
	}
}

// TestServeAsset holds that assets go as who asks takes them, and are kept for ever.
func TestServeAsset(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, "run()"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"assets/a-1.js.gz": {Data: packed.Bytes()}, "assets/a-1.js.br": {Data: []byte("brotli")}}
	for _, row := range []struct{ accepts, encoding, body string }{
		{"gzip, deflate, br, zstd", "br", "brotli"}, {"gzip, deflate", "gzip", packed.String()}, {"br;q=0, gzip;q=0.5", "gzip", packed.String()},
		{"BR;q=0.1", "br", "brotli"}, {"", "", "run()"}, {"identity", "", "run()"}, {"gzip;q=0, br;q=nan", "", "run()"},
	} {
		r := httptest.NewRequest("GET", "/assets/a-1.js", nil)
		r.Header.Set("Accept-Encoding", row.accepts)
		w := httptest.NewRecorder()
		serveAsset(w, r, files, "assets/a-1.js")
		h := w.Header()
		if w.Code != http.StatusOK || w.Body.String() != row.body || h.Get("Content-Encoding") != row.encoding {
			t.Errorf("%q: %d, %q by %q, not %q by %q", row.accepts, w.Code, w.Body, h.Get("Content-Encoding"), row.body, row.encoding)
		}
		for header, want := range map[string]string{"Cache-Control": "immutable", "Content-Type": "text/javascript", "Vary": "Accept-Encoding"} {
			if !strings.Contains(h.Get(header), want) {
				t.Errorf("%q: %s is %q", row.accepts, header, h.Get(header))
			}
		}
	}
	w := httptest.NewRecorder()
	if serveAsset(w, httptest.NewRequest("GET", "/assets/a-0.js", nil), files, "assets/a-0.js"); w.Code != http.StatusNotFound || w.Header().Get("Cache-Control") != "" {
		t.Errorf("what is not there: %d, kept as %q", w.Code, w.Header().Get("Cache-Control"))
	}
}
