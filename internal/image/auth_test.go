package image

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// withBasic asks for a user and a password.
func withBasic(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// withToken asks for a token, which /token gives for a user and a password.
func withToken(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(w, `{"token":%q}`, "for "+r.URL.Query().Get("scope"))
			return
		}
		if token := r.Header.Get("Authorization"); !strings.HasPrefix(token, "Bearer for repository:app:") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestCredentials(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	good := &Credentials{Username: "me", Password: "secret"}
	for kind, wrap := range map[string]func(http.Handler) http.Handler{"basic": withBasic, "token": withToken} {
		t.Run(kind, func(t *testing.T) {
			host := newRegistry(t, wrap)
			from, img := pulled(t, tarOf(t, file("f", "x")))
			for name, c := range map[string]*Credentials{"none": nil, "wrong": {Username: "me", Password: "guess"}} {
				if _, err := from.Push(t.Context(), img.Name, host+"/app:1", PushOptions{Credentials: c}); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "guess") {
					t.Errorf("push with %s: %v", name, err)
				}
				if _, err := openStore(t, Options{}).Pull(t.Context(), host+"/app:1", PullOptions{Credentials: c}); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "guess") {
					t.Errorf("pull with %s: %v", name, err)
				}
			}
			if _, err := from.Push(t.Context(), img.Name, host+"/app:1", PushOptions{Credentials: good}); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(t, Options{}).Pull(t.Context(), host+"/app:1", PullOptions{Credentials: good}); err != nil {
				t.Error(err)
			}

			// From where podman keeps them.
			auth := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
			if err := os.MkdirAll(filepath.Dir(auth), 0o700); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("me:secret")))
			if err := os.WriteFile(auth, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(t, Options{}).Pull(t.Context(), host+"/app:1", PullOptions{}); err != nil {
				t.Errorf("with podman's: %v", err)
			}
		})
	}
}

func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	var leaked atomic.Bool
	mirror := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				leaked.Store(true)
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	host := newRegistry(t, withBasic)
	from, img := pulled(t, tarOf(t, file("f", "x")))
	creds := &Credentials{Username: "me", Password: "secret"}
	if _, err := from.Push(t.Context(), img.Name, host+"/app:1", PushOptions{Credentials: creds}); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Options{Mirrors: map[string][]string{host: {mirror}}})
	if _, err := s.Pull(t.Context(), host+"/app:1", PullOptions{Credentials: creds}); err != nil {
		t.Error(err)
	}
	if leaked.Load() {
		t.Error("the registry's credentials went to the mirror")
	}
}

func TestRedirects(t *testing.T) {
	for _, test := range []struct {
		from, to string
		ok       bool
	}{
		{"https://registry.example/v2/", "https://cdn.example/x", true}, {"https://registry.example/v2/", "http://169.254.169.254/x", false},
		{"https://registry.example/v2/", "https://10.0.0.1/x", false}, {"https://registry.example/v2/", "http://localhost:80/x", false},
		{"http://127.0.0.1:5000/v2/", "http://127.0.0.1:9000/x", true}, {"https://10.0.0.1/v2/", "https://10.0.0.2/x", true},
	} {
		from, err := url.Parse(test.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := url.Parse(test.to)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkRedirect(&http.Request{URL: to}, []*http.Request{{URL: from}}); (err == nil) != test.ok {
			t.Errorf("from %s to %s: %v", test.from, test.to, err)
		}
	}
}

func TestLeftoversOfKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	s := openStoreAt(t, dir, Options{})
	held, err := s.NewUpload()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	dead := filepath.Join(s.dir, uploadsDir, "dead")
	if err := os.MkdirAll(filepath.Join(dead, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.removeStale(now)
	if _, err := os.Stat(dead); err != nil {
		t.Errorf("what is new is removed: %v", err)
	}
	s.removeStale(now.Add(2 * freshUpload))
	if _, err := os.Stat(dead); err == nil {
		t.Error("what nobody holds stays")
	}
	if _, err := os.Stat(held.f.Name()); err != nil {
		t.Errorf("what is held is removed: %v", err)
	}
}
