package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
)

func newTestRuntime(t testing.TB) *Runtime {
	t.Helper()
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	return NewRuntime(blobs, native.OpenArtifacts(blobs), "", nil)
}

func testTask(run ci.RunID, id ci.JobID) *ci.Task {
	return onRef(run, id, "refs/heads/topic")
}

func onRef(run ci.RunID, id ci.JobID, ref string) *ci.Task {
	text := func(key, value string) expr.Pair { return expr.Pair{Key: key, Value: expr.String(value)} }
	return &ci.Task{Run: run, Attempt: 1, Job: id, Repository: "octo/repo", GitHub: expr.Object(
		text("ref", ref), text("base_ref", ""),
		expr.Pair{Key: "event", Value: expr.Object(expr.Pair{Key: "repository", Value: expr.Object(text("default_branch", "main"))})},
	)}
}

func serve(t testing.TB, rt *Runtime, task *ci.Task) job.ServiceAddress {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, stop := rt.Serve(l, task)
	t.Cleanup(func() { stop() })
	return address
}

// caller is a job that calls.
type caller struct {
	t       testing.TB
	address job.ServiceAddress
}

func (c caller) do(method, url, contentType string, body io.Reader, header ...string) (int, string) {
	c.t.Helper()
	if strings.HasPrefix(url, "/") {
		url = strings.TrimSuffix(c.address.Env["ACTIONS_RESULTS_URL"], "/") + url
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, url, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(url, blobPath) {
		r.Header.Set("Authorization", "Bearer "+c.address.Token)
	}
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (c caller) call(method string, body any) (int, map[string]any) {
	c.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	status, answer := c.do("POST", twirpPath+method, "application/json", bytes.NewReader(text))
	var v map[string]any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		c.t.Fatalf("%s: %d %s", method, status, answer)
	}
	return status, v
}

// saveCache saves text under a key.
func (c caller) saveCache(key, text string) {
	c.t.Helper()
	_, made := c.call("CacheService/CreateCacheEntry", map[string]any{"key": key, "version": "v"})
	url, _ := made["signed_upload_url"].(string)
	if status, answer := c.do("PUT", url, "", strings.NewReader(text), "x-ms-blob-type", "BlockBlob"); status != 201 {
		c.t.Fatalf("upload: %d %s", status, answer)
	}
	if status, v := c.call("CacheService/FinalizeCacheEntryUpload", map[string]any{"key": key, "version": "v", "size_bytes": len(text)}); status != 200 || v["ok"] != true {
		c.t.Fatalf("finalize: %d %v", status, v)
	}
}

func (c caller) restore(key string, more ...string) (matched, text string) {
	c.t.Helper()
	_, v := c.call("CacheService/GetCacheEntryDownloadURL", map[string]any{"key": key, "restore_keys": more, "version": "v"})
	if v["ok"] != true {
		return "", ""
	}
	_, text = c.do("GET", v["signed_download_url"].(string), "", nil)
	return v["matched_key"].(string), text
}

// TestCacheScopes: a job reads the caches of its own ref and the default branch, and writes to its own.
func TestCacheScopes(t *testing.T) {
	rt := newTestRuntime(t)
	main := caller{t, serve(t, rt, onRef(1, "a", "refs/heads/main"))}
	topic := caller{t, serve(t, rt, onRef(2, "a", "refs/heads/topic"))}
	other := caller{t, serve(t, rt, onRef(3, "a", "refs/heads/other"))}
	main.saveCache("k-main-1", "main")
	topic.saveCache("k-topic", "topic")
	for _, test := range []struct {
		who       caller
		key, more string
		want      string
	}{
		{topic, "k-main-1", "", "k-main-1 main"}, {other, "k-main-1", "", "k-main-1 main"},
		{topic, "k-topic", "", "k-topic topic"}, {other, "k-topic", "", " "}, {main, "k-topic", "", " "},
		{topic, "x", "k-", "k-topic topic"}, {other, "x", "k-", "k-main-1 main"}, {main, "k-ma", "", "k-main-1 main"},
		{main, "x", "y", " "},
	} {
		matched, text := test.who.restore(test.key, strings.Fields(test.more)...)
		if got := matched + " " + text; got != test.want {
			t.Errorf("%s, %s: %q, not %q", test.key, test.more, got, test.want)
		}
	}
	main.saveCache("k-main-2", "newer")
	if matched, _ := other.restore("x", "k-"); matched != "k-main-2" {
		t.Errorf("the newest: %s", matched)
	}
}

// TestTrim: what was not used for a week goes.
func TestTrim(t *testing.T) {
	rt := newTestRuntime(t)
	now := time.Now()
	rt.now = func() time.Time { return now }
	c := caller{t, serve(t, rt, testTask(1, "a"))}
	c.saveCache("old", "old")
	c.saveCache("used", "used")
	now = now.Add(6 * 24 * time.Hour)
	c.restore("used")
	now = now.Add(2 * 24 * time.Hour)
	c = caller{t, serve(t, rt, testTask(2, "a"))}
	c.saveCache("new", "new")
	if matched, _ := c.restore("old"); matched != "" {
		t.Error("an old cache is still there")
	}
	if matched, _ := c.restore("used"); matched != "used" {
		t.Error("a used cache has gone")
	}
}

// TestRefused goes through what is not for a caller.
func TestRefused(t *testing.T) {
	rt := newTestRuntime(t)
	c := caller{t, serve(t, rt, testTask(1, "a"))}
	other := caller{t, serve(t, rt, testTask(2, "a"))}
	ids := map[string]any{"workflow_run_backend_id": "1-1", "workflow_job_run_backend_id": "x", "name": "thing"}
	status, made := c.call("ArtifactService/CreateArtifact", ids)
	if status != 200 {
		t.Fatal(made)
	}
	up := made["signed_upload_url"].(string)
	post := func(path, body string, header ...string) func() (int, string) {
		return func() (int, string) {
			return c.do("POST", path, "application/json", strings.NewReader(body), header...)
		}
	}
	put := func(url, body string) func() (int, string) {
		return func() (int, string) { return c.do("PUT", url, "", strings.NewReader(body)) }
	}
	for name, test := range map[string]struct {
		do   func() (int, string)
		want int
	}{
		"no token":         {post(twirpPath+"ArtifactService/ListArtifacts", "{}", "Authorization", ""), 401},
		"a bad token":      {post(twirpPath+"ArtifactService/ListArtifacts", "{}", "Authorization", "Bearer x"), 401},
		"another's run":    {post(twirpPath+"ArtifactService/ListArtifacts", `{"workflow_run_backend_id":"2-1"}`), 403},
		"no JSON":          {post(twirpPath+"ArtifactService/ListArtifacts", "{"), 400},
		"protobuf":         {post(twirpPath+"ArtifactService/ListArtifacts", "", "Content-Type", "application/protobuf"), 415},
		"no method":        {post(twirpPath+"ArtifactService/Nothing", `{"workflow_run_backend_id":"1-1"}`), 404},
		"no service":       {post("/twirp/other", "{}"), 404},
		"too much":         {post(twirpPath+"ArtifactService/ListArtifacts", `{"name":"`+strings.Repeat("x", maxRequest)+`"}`), 400},
		"a bad name":       {post(twirpPath+"ArtifactService/FinalizeArtifact", `{"workflow_run_backend_id":"1-1","name":"../x"}`), 404},
		"the same again":   {post(twirpPath+"ArtifactService/CreateArtifact", `{"workflow_run_backend_id":"1-1","name":"thing"}`), 409},
		"eleven keys":      {post(twirpPath+"CacheService/GetCacheEntryDownloadURL", `{"key":"a","version":"v","restore_keys":["1","2","3","4","5","6","7","8","9","10"]}`), 400},
		"a comma":          {post(twirpPath+"CacheService/CreateCacheEntry", `{"key":"a,b","version":"v"}`), 400},
		"a spoilt link":    {put(strings.Replace(up, "sig=", "sig=0", 1), "x"), 403},
		"a link turned":    {put(strings.Replace(up, "/up/", "/cache/", 1), "x"), 403},
		"a block unknown":  {put(up+"&comp=blocklist", `<BlockList><Latest>eA==</Latest></BlockList>`), 400},
		"no block list":    {put(up+"&comp=blocklist", `<Other/>`), 400},
		"a block unnamed":  {put(up+"&comp=block", "x"), 400},
		"an unknown comp":  {put(up+"&comp=lease", "x"), 400},
		"a download of it": {func() (int, string) { return c.do("GET", up, "", nil) }, 405},
		"git":              {func() (int, string) { return c.do("GET", "/octo/repo/info/refs?service=git-upload-pack", "", nil) }, 404},
		"a cache v1 patch": {func() (int, string) { return c.do("PATCH", cacheV1Path+"caches/1", "", strings.NewReader("x")) }, 400},
	} {
		if status, answer := test.do(); status != test.want {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	if _, v := other.call("ArtifactService/FinalizeArtifact", map[string]any{"workflow_run_backend_id": "2-1", "name": "thing"}); v["code"] != "not_found" {
		t.Errorf("another's upload: %v", v)
	}
	// A digest that is not that of what came leaves nothing.
	if status, answer := put(up, "x")(); status != 201 {
		t.Fatalf("%d %s", status, answer)
	}
	ids["hash"] = "sha256:00"
	if status, _ := c.call("ArtifactService/FinalizeArtifact", ids); status != 400 {
		t.Errorf("a wrong digest: %d", status)
	}
	if _, v := c.call("ArtifactService/ListArtifacts", ids); fmt.Sprint(v["artifacts"]) != "[]" {
		t.Errorf("left: %v", v)
	}
	if left, err := rt.uploads.blobs.List("uploads/"); err != nil || len(left) > 0 || len(rt.uploads.open) > 0 {
		t.Errorf("uploads left: %v %v %v", left, rt.uploads.open, err)
	}
}

// TestUploadsElsewhere: one server begins an upload, others take its blocks, another finishes it: they share blobs and keys alone.
// What nobody finishes is swept.
func TestUploadsElsewhere(t *testing.T) {
	first := newTestRuntime(t)
	keys := first.keys()
	var all []caller
	for range 3 {
		rt := NewRuntime(first.uploads.blobs, native.OpenArtifacts(first.uploads.blobs), "", nil)
		rt.keys = func() [][]byte { return keys }
		task := testTask(1, "a")
		task.Lease = "one"
		all = append(all, caller{t, serve(t, rt, task)})
	}
	at := func(n int, url string) string { // the same link at another server
		_, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
		return all[n].address.Env["ACTIONS_RESULTS_URL"] + path
	}
	ids := map[string]any{"workflow_run_backend_id": "1-1", "name": "thing"}
	_, made := all[0].call("ArtifactService/CreateArtifact", ids)
	up := made["signed_upload_url"].(string)
	for i, id := range []string{"YQ==", "Yg==", "Yw=="} {
		if status, answer := all[i].do("PUT", at(i, up)+"&comp=block&blockid="+id, "", strings.NewReader(fmt.Sprint("block ", i, "\n"))); status != 201 {
			t.Fatal(status, answer)
		}
	}
	if status, answer := all[1].do("PUT", at(1, up)+"&comp=blocklist", "", strings.NewReader("<BlockList><Latest>Yw==</Latest><Latest>YQ==</Latest><Latest>Yg==</Latest></BlockList>")); status != 201 {
		t.Fatal(status, answer)
	}
	if status, answer := all[2].call("ArtifactService/FinalizeArtifact", ids); status != 200 {
		t.Fatal(status, answer)
	}
	_, link := all[1].call("ArtifactService/GetSignedArtifactURL", ids)
	if status, answer := all[0].do("GET", at(0, link["signed_url"].(string)), "", nil); status != 200 || answer != "block 2\nblock 0\nblock 1\n" {
		t.Errorf("%d %q", status, answer)
	}
	if left, err := first.uploads.blobs.List("uploads/"); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}

	ids["name"] = "other"
	if status, answer := all[0].call("ArtifactService/CreateArtifact", ids); status != 200 {
		t.Fatal(status, answer)
	}
	first.now = func() time.Time { return time.Now().Add(uploadLife / 2) }
	if err := first.SweepUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := first.uploads.blobs.List("uploads/"); len(left) != 1 {
		t.Errorf("a young upload was swept: %v", left)
	}
	first.now = func() time.Time { return time.Now().Add(2 * uploadLife) }
	if err := first.SweepUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := first.uploads.blobs.List("uploads/"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestRanges: BuildKit's client asks for ranges by a header of its own.
func TestRanges(t *testing.T) {
	c := caller{t, serve(t, newTestRuntime(t), testTask(1, "a"))}
	c.saveCache("k", "0123456789")
	_, v := c.call("CacheService/GetCacheEntryDownloadURL", map[string]any{"key": "k", "version": "v"})
	url := v["signed_download_url"].(string)
	for header, want := range map[string]string{"bytes=3-5": "206 345", "bytes=8-": "206 89", "bytes=20-": "416 ", "": "200 0123456789"} {
		for _, name := range []string{"Range", "X-Ms-Range"} {
			status, text := c.do("GET", url, "", nil, name, header)
			if got := fmt.Sprint(status, " ", text); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s: %q, not %q", name, header, got, want)
			}
		}
	}
}

// TestGit fetches the repository with git.
func TestGit(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=T", "GIT_AUTHOR_EMAIL=t@localhost", "GIT_COMMITTER_NAME=T", "GIT_COMMITTER_EMAIL=t@localhost")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("failed: %s", out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main", dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("-C", dir, "add", ".")
	git("-C", dir, "commit", "-qm", "one")
	head := git("-C", dir, "rev-parse", "HEAD")
	rt := newTestRuntime(t)
	rt.git = dir
	address := serve(t, rt, testTask(1, "a"))
	for _, protocol := range []string{"0", "2"} {
		to := t.TempDir()
		git("init", "-q", to)
		login := "http.extraheader=Authorization: basic " + basic(address.Token)
		git("-C", to, "-c", "protocol.version="+protocol, "-c", login, "fetch", "-q", "--depth=1", address.Git+"/octo/repo", head)
		if got := git("-C", to, "rev-parse", "FETCH_HEAD"); got != head {
			t.Errorf("protocol %s: %s", protocol, got)
		}
		for name, args := range map[string][]string{
			"no token":     {"-C", to, "-c", "credential.helper=", "-c", "core.askPass=true", "fetch", address.Git + "/octo/repo", head},
			"another repo": {"-C", to, "-c", login, "fetch", address.Git + "/octo/other", head},
			"a push":       {"-C", to, "-c", login, "push", address.Git + "/octo/repo", "FETCH_HEAD:refs/heads/x"},
		} {
			if out := git(args...); !strings.HasPrefix(out, "failed: ") {
				t.Errorf("%s: %s", name, out)
			}
		}
	}
}

func basic(token string) string {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth("x-access-token", token)
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
}

// FuzzBlockList: whatever comes, blocks are few and named.
func FuzzBlockList(f *testing.F) {
	f.Add(`<?xml version="1.0"?><BlockList><Latest>eA==</Latest><Committed>eQ==</Committed></BlockList>`)
	f.Add(`<BlockList><Other/></BlockList>`)
	f.Add(`<!DOCTYPE x [<!ENTITY a "b">]><BlockList><Latest>&a;</Latest></BlockList>`)
	f.Fuzz(func(t *testing.T, text string) {
		names, err := readBlockList(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, name := range names {
			if !strings.HasPrefix(name, "block ") {
				t.Errorf("%q", name)
			}
		}
	})
}

// FuzzRequests: no request, with or without a token, breaks anything.
func FuzzRequests(f *testing.F) {
	rt := newTestRuntime(f)
	address := serve(f, rt, testTask(1, "a"))
	f.Add("POST", twirpPath+"CacheService/CreateCacheEntry", `{"key":"k","version":"v"}`, "")
	f.Add("POST", cacheV1Path+"caches", `{"key":"k","version":"v"}`, "")
	f.Add("PATCH", cacheV1Path+"caches/1", "x", "bytes 0-0/*")
	f.Add("GET", blobPath+"cache/0-1/cache?se=99999999999&sig=00", "", "bytes=0-")
	f.Add("GET", cacheV1Path+"cache?keys=a,b&version=v", "", "")
	f.Fuzz(func(t *testing.T, method, path, body, place string) {
		r, err := http.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		r.Header.Set("Authorization", "Bearer "+address.Token)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Range", place)
		r.Header.Set("X-Ms-Range", place)
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	})
}
