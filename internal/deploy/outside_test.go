package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// allowing is what may reach a test's server.
func allowing(t *testing.T, s *httptest.Server) Outside {
	t.Helper()
	a, err := netip.ParseAddrPort(strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return Outside{Allow: []netip.AddrPort{a}}
}

func TestWebhook(t *testing.T) {
	var calls atomic.Int32
	var status atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var got struct{ Name, Phase string }
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || got.Name != "web" || got.Phase != "Progressing" {
			t.Errorf("payload: %+v, %v", got, err)
		}
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s of %s", r.Method, r.Header.Get("Content-Type"))
		}
		if status.Load() == http.StatusTeapot { // hangs
			<-r.Context().Done()
			return
		}
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "said")
	}))
	defer s.Close()
	payload := map[string]any{"name": "web", "phase": "Progressing"}
	for _, row := range []struct {
		status int
		ok     bool
	}{{200, true}, {202, true}, {204, false}, {302, false}, {403, false}, {500, false}} {
		status.Store(int32(row.status))
		ok, said, err := allowing(t, s).Webhook(t.Context(), &cd.Webhook{Name: "w", URL: s.URL, Timeout: 5 * time.Second}, payload)
		if err != nil || ok != row.ok {
			t.Errorf("%d: got %v, %q, %v", row.status, ok, said, err)
		}
	}
	status.Store(http.StatusTeapot)
	_, _, err := allowing(t, s).Webhook(t.Context(), &cd.Webhook{Name: "slow", URL: s.URL + "/?token=secret", Timeout: 50 * time.Millisecond}, payload)
	if err == nil || !strings.Contains(err.Error(), "no answer within 50ms") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a webhook that hangs: %v", err)
	}
	status.Store(http.StatusServiceUnavailable)
	before := calls.Load()
	ctx, cancel := context.WithCancel(t.Context())
	if ok, _, err := allowing(t, s).Webhook(ctx, &cd.Webhook{Name: "again", URL: s.URL, Timeout: 5 * time.Second, Retries: 1}, payload); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
	cancel()
	if n := calls.Load() - before; n != 2 {
		t.Errorf("with one retry it was called %d times", n)
	}
}

// TestOutsideKeepsFromOwn holds that a repository's file can not make the server speak to what is the machine's own.
func TestOutsideKeepsFromOwn(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was reached") }))
	defer s.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	for _, url := range []string{s.URL, "http://localhost:" + port, "http://[::1]:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://0.0.0.0:" + port, "http://169.254.169.254/latest/meta-data"} {
		_, _, err := Outside{}.Webhook(t.Context(), &cd.Webhook{Name: "w", URL: url, Timeout: 5 * time.Second, Retries: 3}, nil)
		if !errors.Is(err, errOwn) {
			t.Errorf("%s: got %v", url, err)
		}
		if _, err := (Outside{}).Prometheus(t.Context(), url, "up"); !errors.Is(err, errOwn) {
			t.Errorf("metrics of %s: got %v", url, err)
		}
	}
	for _, url := range []string{"file:///etc/passwd", "gopher://x", "//x", "http://"} {
		if _, _, err := (Outside{}).Webhook(t.Context(), &cd.Webhook{Name: "w", URL: url, Timeout: time.Second}, nil); err == nil || !strings.Contains(err.Error(), "no http or https URL") {
			t.Errorf("%s: got %v", url, err)
		}
	}
}

func TestPrometheus(t *testing.T) {
	answer := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("query") != "sum( rate(x[1m]) )" {
			t.Errorf("asked %q, %v", r.Form.Get("query"), err)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer s.Close()
	success := func(kind, result string) string {
		return `{"status":"success","data":{"resultType":"` + kind + `","result":` + result + `}}`
	}
	for _, row := range []struct {
		answer string
		value  float64
		none   bool
		fails  string
	}{
		{answer: success("vector", `[{"metric":{},"value":[1,"99.5"]}]`), value: 99.5},
		{answer: success("vector", `[{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[1,"2"]}]`), value: 2},
		{answer: success("vector", `[]`), none: true},
		{answer: success("vector", `[{"metric":{},"value":[1,"+Inf"]}]`), value: math.Inf(1)},
		{answer: success("vector", `[{"metric":{},"value":[1,"NaN"]}]`), none: true},
		{answer: success("scalar", `[1,"3"]`), value: 3},
		{answer: success("matrix", `[]`), fails: "no single number"},
		{answer: `{"status":"error","errorType":"bad_data","error":"no such function"}`, fails: "no such function"},
		{answer: `<html>`, fails: "ask "},
	} {
		answer = row.answer
		got, err := allowing(t, s).Prometheus(t.Context(), s.URL, "sum(\n  rate(x[1m])\n)")
		switch {
		case row.fails != "":
			if err == nil || !strings.Contains(err.Error(), row.fails) {
				t.Errorf("%s: got %v", row.answer, err)
			}
		case err != nil || row.none != (got == nil) || got != nil && *got != row.value:
			t.Errorf("%s: got %v, %v", row.answer, got, err)
		}
	}
}
