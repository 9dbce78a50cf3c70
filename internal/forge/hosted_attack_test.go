package forge

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func TestParseGitRequest(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         GitRequest
	}{
		{"GET", "/acme/app/info/refs?service=git-upload-pack", GitRequest{"acme/app", "git-upload-pack", true}},
		{"GET", "/acme/app.git/info/refs?service=git-receive-pack", GitRequest{"acme/app", "git-receive-pack", true}},
		{"POST", "/acme/app.git/git-upload-pack", GitRequest{"acme/app", "git-upload-pack", false}},
		{"POST", "/acme/app/git-receive-pack", GitRequest{"acme/app", "git-receive-pack", false}},
		{"GET", "/acme/app/info/refs", GitRequest{}},
		{"GET", "/acme/app/info/refs?service=git-upload-archive", GitRequest{}},
		{"POST", "/acme/app/info/refs?service=git-upload-pack", GitRequest{}},
		{"GET", "/acme/app/git-upload-pack", GitRequest{}},
		{"POST", "/acme/app/HEAD", GitRequest{}},
		{"POST", "/acme/x/../app/git-upload-pack", GitRequest{}},
		{"POST", "/app/git-upload-pack", GitRequest{}},
		{"POST", "/a/b/c/git-upload-pack?service=git-receive-pack", GitRequest{}},
		{"POST", "/acme/app/upload-pack", GitRequest{}},
	} {
		r, err := http.NewRequest(c.method, "http://localhost"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := ParseGitRequest(r)
		if !ok {
			got = GitRequest{}
		}
		if got != c.want {
			t.Errorf("%s %s: %+v", c.method, c.path, got)
		}
	}
}

func TestHostedRefusesOutsidePaths(t *testing.T) {
	s, b := newSite(t)
	outside := filepath.Join(filepath.Dir(s.dir), "outside.git")
	if err := os.CopyFS(outside, os.DirFS(b.Dir())); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/../outside", "/..%2f/outside", "/%2e%2e/outside", "/acme/..%2f..%2foutside", "/.hooks/x", "/acme/nothere", "/acme/app%00x"} {
		status := rawStatus(t, s.url, path+"/info/refs?service=git-upload-pack")
		if !contains(status, " 404 ") && !contains(status, " 400 ") {
			t.Errorf("%s: %s", path, status)
		}
	}
}

// rawStatus sends a path as it is, which Go's client would clean.
func rawStatus(t *testing.T, url, path string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := strings.Cut(string(answer), "\r\n")
	return status
}

func TestHostedRefusesPushes(t *testing.T) {
	s, b := newSite(t)
	a := s.clone(t, "acme/app")
	one := a.commit("a", "1", "one")
	a.git("push", "-q", "origin", "HEAD:main")
	s.told()
	s.allow(func(c Change) error {
		if strings.HasPrefix(c.Ref, "refs/heads/release/") {
			return errors.New("release/* is protected")
		}
		return nil
	})
	for _, c := range []struct{ ref, want string }{
		{"refs/heads/release/1", "penstock: release/* is protected"},
		{"refs/pull/1/head", "deny updating a hidden ref"},
		{"refs/pull/1/merge", "deny updating a hidden ref"},
		{"refs/heads/" + one, "is no name for a branch or tag"},
		{"refs/heads/" + strings.Repeat("a/", 130) + "b", "is no name for a branch or tag"},
	} {
		if out, err := a.try("push", "origin", "HEAD:"+c.ref); err == nil || !strings.Contains(strings.ReplaceAll(out, "\nremote: ", ""), c.want) {
			t.Errorf("%s: %v\n%s", c.ref, err, out)
		}
	}
	if out, err := a.try("-c", "http.extraHeader=X-Reader: 1", "push", "origin", "HEAD:x"); err == nil || !contains(out, "403") {
		t.Errorf("a reader pushed: %v\n%s", err, out)
	}
	wantRefs(t, b, "refs/heads/main "+one)
	wantChanges(t, s.told())
}

func wantRefs(t *testing.T, b *Bare, want ...string) {
	t.Helper()
	got, err := b.git(t.Context(), "for-each-ref", "--format=%(refname) %(objectname)")
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.Join(want, "\n") {
		t.Errorf("refs\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// TestHostedChecksObjects pushes objects that git's own client would not make, past its checks.
func TestHostedChecksObjects(t *testing.T) {
	s, b := newSite(t)
	a := s.clone(t, "acme/app")
	blob := a.write("blob", "x")
	for name, tree := range map[string]string{
		"a file called .git": "100644 .git\x00", "a path that leads out": "100644 ..\x00", "a path with a slash": "100644 a/b\x00",
	} {
		raw := tree + string(unhex(t, blob))
		c := a.write("commit", "tree "+a.write("tree", raw)+"\nauthor A <a@localhost> 1 +0000\ncommitter A <a@localhost> 1 +0000\n\nx\n")
		if out, err := a.try("push", "origin", c+":refs/heads/bad"); err == nil || !contains(out, "remote unpack failed") && !contains(out, "fsck error") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	wantRefs(t, b)
	wantChanges(t, s.told())
}

// write stores an object unchecked.
func (tr *tree) write(kind, data string) string {
	tr.t.Helper()
	cmd := gitCommand(tr.dir, "hash-object", "-t", kind, "-w", "--stdin", "--literally")
	cmd.Stdin = strings.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		tr.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func unhex(t *testing.T, sha string) []byte {
	t.Helper()
	var raw []byte
	if _, err := fmt.Sscanf(sha, "%x", &raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestHostedBoundsBytes pushes more than is allowed, plainly and packed small.
func TestHostedBoundsBytes(t *testing.T) {
	s, b := newSite(t)
	s.maxPush = 64 << 10
	a := s.clone(t, "acme/app")
	noise := make([]byte, 300<<10)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	a.commit("big", string(noise), "big")
	if out, err := a.try("push", "origin", "HEAD:main"); err == nil {
		t.Errorf("a push over the limit was taken: %s", out)
	}
	wantRefs(t, b)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	line := fmt.Sprintf("%04x%s %s refs/heads/%s", 4+82+10+4000, zeroSHA, strings.Repeat("1", 40), strings.Repeat("a", 4000-1))
	for range 20_000 {
		if _, err := io.WriteString(z, line[:min(len(line), 4+82+10+4000)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	status, _ := s.post(t, "git-receive-pack", bomb.Bytes(), "gzip")
	if status != http.StatusRequestEntityTooLarge {
		t.Errorf("80 MB of commands in %d bytes: %d", bomb.Len(), status)
	}
}

func (s *site) post(t *testing.T, service string, body []byte, encoding string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/acme/app/"+service, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", encoding)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// TestHostedForgedCommands sends what no git sends, to have a ref changed that nobody was asked about.
func TestHostedForgedCommands(t *testing.T) {
	s, b := newSite(t)
	a := s.clone(t, "acme/app")
	one := a.commit("a", "1", "one")
	a.git("push", "-q", "origin", "HEAD:main")
	s.told()
	s.allow(func(c Change) error {
		if c.Ref != "refs/heads/mine" {
			return errors.New("not yours")
		}
		return nil
	})
	pack, err := exec.Command("git", "-C", a.dir, "pack-objects", "--all", "--stdout", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	caps := "\x00report-status push-options"
	command := func(ref string) string { return zeroSHA + " " + one + " " + ref }
	for name, lines := range map[string][]string{
		"a line feed in a name":   {command("refs/heads/mine\nend") + caps, command("refs/heads/theirs")},
		"a line feed in a middle": {command("refs/heads/mine\n"+command("refs/heads/theirs")) + caps},
		"a signed push":           {"push-cert\x00report-status", "certificate version 0.1", "nonce x", command("refs/heads/theirs"), "push-cert-end"},
		"upper case":              {strings.ToUpper(command("x"))[:82] + "refs/heads/theirs" + caps},
		"two for one":             {command("refs/heads/mine") + caps, command("refs/heads/theirs")},
		"behind the features":     {command("refs/heads/mine") + caps + "\n" + command("refs/heads/theirs"), command("refs/heads/theirs")},
		"no name":                 {command("") + caps},
	} {
		var body bytes.Buffer
		for _, l := range lines {
			fmt.Fprintf(&body, "%04x%s", len(l)+4, l)
		}
		body.WriteString("0000")
		option := "x\nend\npost-receive\nok"
		fmt.Fprintf(&body, "%04x%s0000", len(option)+4, option)
		body.Write(pack)
		status, text := s.post(t, "git-receive-pack", body.Bytes(), "identity")
		if sha, err := b.Resolve(t.Context(), "refs/heads/theirs"); err != nil || sha != "" {
			t.Errorf("%s: the ref is %q, %v (%d %q)", name, sha, err, status, text)
		}
	}
	for _, p := range s.told() {
		for _, c := range p.Changes {
			if c.Ref != "refs/heads/mine" {
				t.Errorf("told of %+v", c)
			}
		}
	}
}

// TestHostedEndsGit holds that a client that leaves takes its git with it.
func TestHostedEndsGit(t *testing.T) {
	s, b := newSite(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	line := zeroSHA + " " + strings.Repeat("1", 40) + " refs/heads/x\x00report-status"
	fmt.Fprintf(conn, "POST /acme/app/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n%04x%s0000PACK\x00\x00\x00\x02\x00\x00\x00\x01", len(line)+4, line)
	waitFor(t, incoming(t, b))
	conn.Close()
	for deadline := time.Now().Add(time.Minute); len(s.git) > 0; time.Sleep(2 * time.Millisecond) { // a place is free again when the request is over
		if time.Now().After(deadline) {
			t.Fatal("git goes on")
		}
	}
	wantRefs(t, b)
}

// incoming waits until git has begun to take objects in, and names where.
func incoming(t *testing.T, b *Bare) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if found, err := filepath.Glob(filepath.Join(b.Dir(), "objects", "tmp_objdir-incoming-*")); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("git takes nothing in")
	return ""
}

func FuzzReadCommands(f *testing.F) {
	line := zeroSHA + " " + strings.Repeat("1", 40) + " refs/heads/x\x00report-status push-options"
	f.Add([]byte(fmt.Sprintf("%04x%s00000006a\n0000PACK", len(line)+4, line)))
	f.Add([]byte("0035shallow " + strings.Repeat("2", 40) + "\n0000"))
	f.Add([]byte("0000"))
	f.Add([]byte("ffff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		c, err := readCommands(in, 1<<10)
		if err != nil {
			return
		}
		if len(c.raw) > 1<<10+4 || !bytes.HasPrefix(data, c.raw) || in.Len() != len(data)-len(c.raw) {
			t.Errorf("%d bytes kept, %d left of %d", len(c.raw), in.Len(), len(data))
		}
		for _, change := range c.changes {
			if !isSHA(change.Old) || !isSHA(change.New) || strings.ContainsAny(change.Ref, "\n\x00") {
				t.Errorf("%+v", change)
			}
		}
	})
}
