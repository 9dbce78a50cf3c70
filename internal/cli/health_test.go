package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestHealth(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case r.URL.Path == "/hangs":
			<-r.Context().Done()
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case r.URL.Path == "/private":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/broken" || r.URL.Path == "/starts" && n < 3:
			http.Error(w, "not yet\x1b[2J\nmore", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + listener.Addr().String()
	listener.Close()

	for _, c := range []struct {
		args []string
		code int
		want string // of stderr; URL is the server's
	}{
		{[]string{"URL/ok"}, exitOK, "URL/ok is healthy\n"},
		{[]string{"URL/moved"}, exitOK, "URL/moved is healthy\n"},
		{[]string{"URL/starts", "URL/ok"}, exitOK, "Retry 1/30: GET URL/starts answered 503: not yet\nRetry 2/30: GET URL/starts answered 503: not yet\nURL/starts is healthy\nURL/ok is healthy\n"},
		{[]string{"URL/ok", "URL/broken", "URL/never", "--retries=2"}, exitFailed,
			"URL/ok is healthy\nRetry 1/2: GET URL/broken answered 503: not yet\npenstock: URL/broken is not healthy: after 2 tries: GET URL/broken answered 503: not yet\n"},
		{[]string{"URL/hangs", "--retries=1", "--timeout=20ms"}, exitFailed, "penstock: URL/hangs is not healthy: after 1 try: GET URL/hangs gave no answer within 20ms\n"},
		{[]string{"URL/private", "--expect=401,403"}, exitOK, "URL/private is healthy\n"},
		{[]string{"URL/ok", "--expect=204", "--retries=1"}, exitFailed, "penstock: URL/ok is not healthy: after 1 try: GET URL/ok answered 200\n"},
		{[]string{"example.com/health"}, exitFailed, "penstock: example.com/health is not healthy: \"example.com/health\" is no URL to ask: write it as https://example.com/health\n"},
		{[]string{"URL/ok", "--retries=0"}, exitUsage, "penstock: --retries and --timeout have to be more than zero, --interval not less\nhint: penstock health URL --retries 30 --interval 10s --timeout 5s\n"},
	} {
		asked.Store(0)
		args := append([]string{"health", "--interval=1ms"}, c.args...)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "URL", server.URL)
		}
		var stdout, stderr bytes.Buffer
		code := Main(args, nil, &stdout, &stderr)
		if got, want := stderr.String(), strings.ReplaceAll(c.want, "URL/", server.URL+"/"); code != c.code || got != want || stdout.Len() > 0 {
			t.Errorf("%q: got %d, %q and %q, want %d, %q", c.args, code, got, stdout.String(), c.code, want)
		}
	}

	var stderr bytes.Buffer
	if code := Main([]string{"health", nobody, "--retries=2", "--interval=1ms"}, nil, &bytes.Buffer{}, &stderr); code != exitFailed || !strings.HasPrefix(stderr.String(), fmt.Sprintf("Retry 1/2: GET %s: ", nobody)) || !strings.Contains(stderr.String(), "connection refused") {
		t.Errorf("got %d, %s", code, stderr.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := run(ctx, []string{"health", nobody}, nil, &bytes.Buffer{}, &bytes.Buffer{}); code != exitCancelled {
		t.Errorf("got %d after Ctrl-C", code)
	}
}
