package api

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

// serveIdentity serves one job and gives what its steps find.
func serveIdentity(t *testing.T, permissions map[string]string, environment, event string) map[string]string {
	t.Helper()
	rt := newTestRuntime(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	github := expr.Object(
		expr.Pair{Key: "ref", Value: expr.String("refs/heads/main")}, expr.Pair{Key: "event_name", Value: expr.String(event)}, expr.Pair{Key: "sha", Value: expr.String("abc")})
	address, stop := rt.Serve(l, &ci.Task{Run: 7, Attempt: 2, Job: "a", Repository: "octo/repo", GitHub: github, Permissions: permissions, Environment: environment})
	t.Cleanup(func() { stop() })
	return address.Steps
}

func get(t *testing.T, url, token string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", url, err, text)
	}
	return res.StatusCode
}

// TestIdentity has a token checked as a cloud does: by the issuer's discovery document and keys.
func TestIdentity(t *testing.T) {
	for _, test := range []struct{ environment, event, want string }{
		{"", "push", "repo:octo/repo:ref:refs/heads/main"}, {"", "pull_request", "repo:octo/repo:pull_request"}, {"production", "push", "repo:octo/repo:environment:production"},
	} {
		env := serveIdentity(t, map[string]string{"id-token": "write"}, test.environment, test.event)
		var answer struct{ Value string }
		if code := get(t, env["ACTIONS_ID_TOKEN_REQUEST_URL"]+"&audience=sts.example.com", env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"], &answer); code != 200 {
			t.Fatal(code)
		}
		token, err := jwt.ParseSigned(answer.Value, []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		var unsafe jwt.Claims
		if err := token.UnsafeClaimsWithoutVerification(&unsafe); err != nil {
			t.Fatal(err)
		}
		var discovery struct {
			Issuer string
			Keys   string `json:"jwks_uri"`
		}
		get(t, unsafe.Issuer+"/.well-known/openid-configuration", "", &discovery)
		var keys jose.JSONWebKeySet
		get(t, discovery.Keys, "", &keys)
		var claims struct {
			jwt.Claims
			Repository string `json:"repository"`
			Attempt    string `json:"run_attempt"`
		}
		if err := token.Claims(keys, &claims); err != nil {
			t.Fatal(err)
		}
		if err := claims.Validate(jwt.Expected{Issuer: discovery.Issuer, AnyAudience: jwt.Audience{"sts.example.com"}, Time: time.Now()}); err != nil {
			t.Error(err)
		}
		if claims.Subject != test.want || claims.Repository != "octo/repo" || claims.Attempt != "2" {
			t.Errorf("got %+v, want %s", claims, test.want)
		}
		if code := get(t, env["ACTIONS_ID_TOKEN_REQUEST_URL"], "another", &struct{}{}); code != http.StatusUnauthorized {
			t.Errorf("with another token: %d", code)
		}
	}
	if env := serveIdentity(t, nil, "", "push"); len(env) > 0 {
		t.Errorf("without the permission: %v", env)
	}
}
