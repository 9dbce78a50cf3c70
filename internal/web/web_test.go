package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
