package api

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/penstock-ci/penstock/internal/ci"
)

// identity makes the OpenID Connect tokens by which a job shows others who it is. The key lives as long as the process:
// whoever is to trust a token asks the issuer, which is the job's own loopback, for it.
type identity struct {
	key   func() (*rsa.PrivateKey, error) // made when it is first needed: that takes a while
	keyID string
}

// identityPath is what the request URL begins with: the clients append &audience= to it.
const identityPath = "/idtoken"

// identityLife is how long a token is valid: GitHub's.
const identityLife = 5 * time.Minute

// maxAudience bounds an audience, bytes.
const maxAudience = 1024

func newIdentity() *identity {
	return &identity{keyID: rand.Text(), key: sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })}
}

// identityClaims are a job's claims by GitHub's names, but for those of the token itself.
func identityClaims(t *ci.Task) map[string]any {
	g := func(name string) string { return t.GitHub.Property(name).Text() }
	claims := map[string]any{"repository": t.Repository, "job_workflow_ref": g("workflow_ref"), "job_workflow_sha": g("workflow_sha"), "runner_environment": "self-hosted", "repository_visibility": "private"}
	for _, name := range []string{
		"ref", "ref_type", "ref_protected", "sha", "repository_id", "repository_owner", "repository_owner_id", "actor", "actor_id", "workflow", "workflow_ref",
		"workflow_sha", "run_id", "run_number", "event_name", "head_ref", "base_ref",
	} {
		claims[name] = g(name)
	}
	claims["run_attempt"] = fmt.Sprint(t.Attempt)
	sub := "repo:" + t.Repository + ":ref:" + g("ref")
	switch {
	case t.Environment != "":
		claims["environment"] = t.Environment
		sub = "repo:" + t.Repository + ":environment:" + t.Environment
	case strings.HasPrefix(g("event_name"), "pull_request"):
		sub = "repo:" + t.Repository + ":pull_request"
	}
	claims["sub"] = sub
	return claims
}

// issuer is who makes tokens: the server, which clouds ask for its keys, or the services of the one job.
func (rt *Runtime) issuer(r *http.Request) string {
	if rt.server != nil {
		return rt.server.URL
	}
	return "http://" + r.Host
}

// serveToken answers a job that asks for a token.
func (rt *Runtime) serveToken(w http.ResponseWriter, r *http.Request) {
	s := rt.session(r)
	audience := r.URL.Query().Get("audience")
	switch {
	case s == nil:
		fail(w, http.StatusUnauthorized, "unauthenticated", "no such token")
		return
	case s.claims == nil:
		fail(w, http.StatusForbidden, "permission_denied", "the job has no permission id-token: write")
		return
	case len(audience) > maxAudience:
		fail(w, http.StatusBadRequest, "invalid_argument", "the audience is too long")
		return
	}
	if audience == "" {
		owner, _, _ := strings.Cut(s.repository, "/")
		audience = "https://github.com/" + owner
		if rt.server != nil {
			audience = rt.server.URL + "/" + owner
		}
	}
	token, err := rt.identity.token(s.claims, rt.issuer(r), audience, rt.now())
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"count": 1, "value": token})
}

func (i *identity) token(claims map[string]any, issuer, audience string, now time.Time) (string, error) {
	key, err := i.key()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", i.keyID))
	if err != nil {
		return "", err
	}
	own := map[string]any{
		"iss": issuer, "aud": audience, "jti": rand.Text(), "iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(identityLife).Unix(),
	}
	return jwt.Signed(signer).Claims(claims).Claims(own).Serialize()
}

// serveDiscovery says where the keys are.
func (rt *Runtime) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	issuer := rt.issuer(r)
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": issuer, "jwks_uri": issuer + "/.well-known/jwks", "subject_types_supported": []string{"public", "pairwise"}, "response_types_supported": []string{"id_token"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "scopes_supported": []string{"openid"},
		"claims_supported": []string{"sub", "aud", "exp", "iat", "iss", "jti", "nbf", "ref", "sha", "repository", "repository_owner", "run_id", "run_number", "run_attempt", "actor", "workflow", "head_ref", "base_ref", "event_name", "ref_type", "environment", "job_workflow_ref"},
	})
}

// serveKeys gives the public key.
func (rt *Runtime) serveKeys(w http.ResponseWriter, _ *http.Request) {
	key, err := rt.identity.key()
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", err.Error())
		return
	}
	writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: rt.identity.keyID, Algorithm: "RS256", Use: "sig"}}})
}
