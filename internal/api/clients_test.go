package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/npmtest"
)

// TestArtifactClients has GitHub's own client upload, list, download and delete.
func TestArtifactClients(t *testing.T) {
	for _, client := range []string{"artifact-2", "artifact-6"} {
		t.Run(client, func(t *testing.T) {
			got := useClient(t, client, "artifact", "https://github.com")
			want := map[string]any{
				"uploaded": true, "listed": []any{[]any{"thing", true, true}}, "found": true, "mismatch": false, "same": true, "deleted": true, "left": 0.0,
			}
			for name, value := range want {
				if fmt.Sprint(got[name]) != fmt.Sprint(value) {
					t.Errorf("%s: %v, not %v", name, got[name], value)
				}
			}
			if again := fmt.Sprint(got["again"]); !strings.Contains(again, "already exists") {
				t.Errorf("the same name again: %s", again)
			}
			if missing := fmt.Sprint(got["missing"]); !strings.Contains(missing, "not found") {
				t.Errorf("a name that is not there: %s", missing)
			}
		})
	}
}

// TestCacheClients has GitHub's own clients save and restore, by both versions of the service: the newer ones speak the
// first one to servers that they take for an enterprise's.
func TestCacheClients(t *testing.T) {
	for _, test := range []struct{ client, server string }{
		{"cache-3", "https://github.com"}, {"cache-4", "https://github.com"}, {"cache-6", "https://github.com"}, {"cache-6", "https://code.example.com"},
	} {
		t.Run(test.client+" "+strings.TrimPrefix(test.server, "https://"), func(t *testing.T) {
			got := useClient(t, test.client, "cache", test.server)
			want := map[string]any{"available": true, "miss": "none", "saved": true, "exact": "k-1", "same": true, "prefix": "k-1", "other": "none"}
			for name, value := range want {
				if got[name] != value {
					t.Errorf("%s: %v, not %v", name, got[name], value)
				}
			}
			if again := fmt.Sprint(got["again"]); again != "refused" && !strings.Contains(again, "Unable to reserve cache") {
				t.Errorf("the same key again: %s", again)
			}
			if long := fmt.Sprint(got["long"]); !strings.Contains(long, "larger than 512") {
				t.Errorf("a long key: %s", long)
			}
		})
	}
}

// TestIdentityClients has GitHub's own library ask for an OpenID Connect token.
func TestIdentityClients(t *testing.T) {
	for _, client := range []string{"core-1", "core-2", "core-3"} {
		t.Run(client, func(t *testing.T) {
			got := useClient(t, client, "identity", "https://github.com")
			want := map[string]any{"alg": "RS256", "aud": "sts.example.com", "sub": "repo:octo/repo:ref:refs/heads/topic", "plain": 3.0}
			for name, value := range want {
				if got[name] != value {
					t.Errorf("%s: %v, not %v", name, got[name], value)
				}
			}
		})
	}
}

// useClient runs one of GitHub's clients on two files, and gives what it said.
func useClient(t *testing.T, client, kind, server string) map[string]any {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "files")
	if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 9_500_000) // more than one block
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(big)
	for name, data := range map[string][]byte{"a.txt": []byte("a\n"), "deep/big.bin": big} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	task := testTask(1, "job")
	task.Permissions = map[string]string{"id-token": "write"}
	address := serve(t, newTestRuntime(t), task)
	cmd := exec.Command("node", "use.mjs", client, kind, dir)
	cmd.Dir = npmtest.Install(t, filepath.Join("testdata", "clients"))
	cmd.Env = append(os.Environ(), "GITHUB_SERVER_URL="+server, "GITHUB_WORKSPACE="+dir, "RUNNER_TEMP="+t.TempDir(), "GITHUB_RUN_ID=1",
		"GITHUB_REPOSITORY=octo/repo", "GITHUB_REF=refs/heads/topic", "GITHUB_RETENTION_DAYS=90")
	maps.Copy(address.Env, address.Steps)
	for name, value := range address.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var said map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &said); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if t.Failed() || testing.Verbose() {
		t.Log(out.String())
	}
	return said
}
