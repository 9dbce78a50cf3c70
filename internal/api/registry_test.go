package api

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
)

// serveRegistry starts a registry of ours; the layers are those that its images are unpacked to.
func serveRegistry(t *testing.T) (*Registry, *layer.Store, string) {
	t.Helper()
	dir := t.TempDir()
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	images, err := image.Open(filepath.Join(dir, "images"), layers, image.Options{Owner: os.Getuid()})
	if err != nil {
		t.Fatal(err)
	}
	g := NewRegistry(images)
	srv := httptest.NewServer(g)
	t.Cleanup(func() { srv.Close(); g.Close() })
	return g, layers, strings.TrimPrefix(srv.URL, "http://")
}

// conformance is the OCI's own test of registries.
const conformance = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"

// TestRegistryConformance runs all of it but what we do not offer: digests by sha512, manifests that lack content, and
// tags as parameters of a push by digest.
func TestRegistryConformance(t *testing.T) {
	_, _, host := serveRegistry(t)
	dir := t.TempDir()
	install := exec.Command("go", "install", conformance)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(dir, "conformance"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+host, "OCI_TLS=disabled", "OCI_RESULTS_DIR="+dir,
		"OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_DATA_SHA512=false")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counts := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^ *(Pass|FAIL|Skip|Error|Total)\.+: +([0-9]+)$`).FindAllStringSubmatch(string(out), -1) {
		counts[m[1]], err = strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
	}
	if counts["Pass"] < 700 || counts["Pass"] != counts["Total"] {
		t.Errorf("%v\n%s", counts, out)
	}
}

// call makes a request and gives status, header and body.
func call(t *testing.T, method, url string, body io.Reader, header ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func sha(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

func TestRegistryRefuses(t *testing.T) {
	_, _, host := serveRegistry(t)
	base := "http://" + host
	none := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		method, path, body string
		header             []string
		status             int
		text               string
	}{
		{"GET", "/", "", nil, 404, "its paths begin with /v2/"},
		{"GET", "/v2/app/nothing", "", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/App/tags/list", "", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/_tags/tags/list", "", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/b/tags/list", "", nil, 400, "NAME_INVALID"},
		{"GET", "/v2/none/tags/list", "", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/app/manifests/none", "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/" + none, "", nil, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/app/manifests/.bad", "", nil, 400, "TAG_INVALID"},
		{"GET", "/v2/app/blobs/" + none, "", nil, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/app/blobs/sha256:..%2f..%2fx", "", nil, 404, "NAME_UNKNOWN"},
		{"GET", "/v2/app/blobs/sha256:..", "", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/app/referrers/x", "", nil, 400, "DIGEST_INVALID"},
		{"GET", "/v2/_catalog?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID"},
		{"PUT", "/v2/app/manifests/1", "{", nil, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/app/manifests/1", `{"schemaVersion":1}`, nil, 400, "docker gave up in 2017"},
		{"PUT", "/v2/app/manifests/1", strings.Repeat(" ", maxRegistryManifest+1), nil, 413, "SIZE_INVALID"},
		{"PUT", "/v2/app/manifests/1", `{"schemaVersion":2,"config":{"mediaType":"x","size":1,"digest":"` + none + `"}}`, nil, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/app/manifests/" + none, `{"schemaVersion":2,"manifests":[]}`, nil, 400, "DIGEST_INVALID"},
		{"POST", "/v2/app/blobs/uploads/?digest=" + none, "x", nil, 400, "DIGEST_INVALID"},
		{"PATCH", "/v2/app/blobs/uploads/none", "x", nil, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"POST", "/v2/app/tags/list", "", nil, 405, "UNSUPPORTED"},
		{"POST", "/v2/app/blobs/uploads/", "", []string{"Origin", "http://evil.example"}, 403, "cross-origin"},
	} {
		status, _, body := call(t, test.method, base+test.path, strings.NewReader(test.body), test.header...)
		if status != test.status || !strings.Contains(body, test.text) {
			t.Errorf("%s %.60s: %d %.200s, want %d %s", test.method, test.path, status, body, test.status, test.text)
		}
	}
}

func TestRegistryUploads(t *testing.T) {
	g, _, host := serveRegistry(t)
	base := "http://" + host
	begin := func() string {
		t.Helper()
		status, header, body := call(t, "POST", base+"/v2/app/blobs/uploads/", nil)
		if status != 202 {
			t.Fatal(status, body)
		}
		return base + header.Get("Location")
	}
	at := begin()
	if status, header, _ := call(t, "PATCH", at, strings.NewReader("hello "), "Content-Range", "0-5"); status != 202 || header.Get("Range") != "0-5" {
		t.Errorf("first chunk: %d %s", status, header.Get("Range"))
	}
	if status, header, _ := call(t, "PATCH", at, strings.NewReader("world"), "Content-Range", "7-11"); status != 416 || header.Get("Range") != "0-5" {
		t.Errorf("a gap: %d %s", status, header.Get("Range"))
	}
	if status, _, _ := call(t, "PATCH", at, strings.NewReader("world"), "Content-Range", "6-99"); status != 416 {
		t.Errorf("less than it says: %d", status)
	}
	if status, _, _ := call(t, "PATCH", at, strings.NewReader("world"), "Content-Range", "x"); status != 400 {
		t.Errorf("no range: %d", status)
	}
	if status, _, _ := call(t, "PATCH", strings.Replace(at, "/app/", "/other/", 1), strings.NewReader("x")); status != 404 {
		t.Errorf("another repository's: %d", status)
	}
	if status, _, body := call(t, "PUT", at+"?digest="+sha("hello world"), strings.NewReader("world")); status != 201 {
		t.Errorf("finish: %d %s", status, body)
	}
	if status, _, body := call(t, "GET", base+"/v2/other/blobs/"+sha("hello world"), nil, "Range", "bytes=6-"); status != 206 || body != "world" {
		t.Errorf("a part of it: %d %q", status, body)
	}
	if status, _, _ := call(t, "PUT", at+"?digest="+sha("hello world"), nil); status != 404 {
		t.Errorf("finish twice: %d", status)
	}

	late := begin()
	started := time.Now()
	g.now = func() time.Time { return started.Add(registryUploadLife + time.Minute) }
	begin()
	if status, _, _ := call(t, "PATCH", late, strings.NewReader("x")); status != 404 {
		t.Errorf("an upload that nobody wrote to: %d", status)
	}
	for range maxRegistryUploads - 1 {
		begin()
	}
	if status, _, body := call(t, "POST", base+"/v2/app/blobs/uploads/", nil); status != 429 || !strings.Contains(body, "TOOMANYREQUESTS") {
		t.Errorf("one upload too many: %d %s", status, body)
	}
}

func TestRegistryKeepsWhatIsNeeded(t *testing.T) {
	_, _, host := serveRegistry(t)
	base := "http://" + host
	config := "{}"
	if status, _, body := call(t, "POST", base+"/v2/app/blobs/uploads/?digest="+sha(config), strings.NewReader(config)); status != 201 {
		t.Fatal(status, body)
	}
	manifest := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json","size":2,"digest":"` + sha(config) + `"},"layers":[]}`
	for _, tag := range []string{"a", "b", "c"} {
		if status, _, body := call(t, "PUT", base+"/v2/app/manifests/"+tag, strings.NewReader(manifest)); status != 201 {
			t.Fatal(status, body)
		}
	}
	if status, _, body := call(t, "DELETE", base+"/v2/other/blobs/"+sha(config), nil); status != 405 || !strings.Contains(body, "a manifest needs it") {
		t.Errorf("delete what is needed: %d %s", status, body)
	}
	status, header, body := call(t, "GET", base+"/v2/app/tags/list?n=2", nil)
	if status != 200 || body != `{"name":"app","tags":["a","b"]}` || header.Get("Link") != `</v2/app/tags/list?last=b&n=2>; rel="next"` {
		t.Errorf("tags: %d %s %s", status, body, header.Get("Link"))
	}
	if _, _, body := call(t, "GET", base+"/v2/app/tags/list?last=b&n=2", nil); body != `{"name":"app","tags":["c"]}` {
		t.Errorf("more tags: %s", body)
	}
	if status, _, body := call(t, "PUT", base+"/v2/ghcr.io/team/app/manifests/1", strings.NewReader(manifest)); status != 201 {
		t.Errorf("a full name: %d %s", status, body)
	}
	if _, _, body := call(t, "GET", base+"/v2/_catalog", nil); body != `{"repositories":["app","ghcr.io/team/app"]}` {
		t.Errorf("catalog: %s", body)
	}
	if status, _, _ := call(t, "DELETE", base+"/v2/app/manifests/"+sha(manifest), nil); status != 202 {
		t.Errorf("delete a manifest: %d", status)
	}
	if _, _, body := call(t, "GET", base+"/v2/_catalog", nil); !strings.Contains(body, "ghcr.io/team/app") {
		t.Errorf("afterwards: %s", body)
	}
}

func FuzzChunkRange(f *testing.F) {
	for _, text := range []string{"0-5", "bytes 0-5/*", "5-0", "-1-5", "x", "0-", "9223372036854775807-9223372036854775807"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if from, to, err := chunkRange(text); err == nil && (from < 0 || to < from-1) {
			t.Errorf("%q is %d to %d", text, from, to)
		}
	})
}
