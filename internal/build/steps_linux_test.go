package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// from builds a Dockerfile on busybox, which must go well.
func (b *bench) from(files map[string]string, steps string) *Result {
	b.t.Helper()
	r := Request{Dockerfile: []byte("FROM busybox\n" + steps)}
	if files != nil {
		r.Context = dir(b.t, files)
	}
	res, _ := b.must(r)
	return res
}

func TestCopyLinked(t *testing.T) {
	b := common.bench(t)
	res := b.from(map[string]string{"a": "1", "tree/x/y": "2"}, "COPY --link a /etc/new\nCOPY --link tree /bin/\nCOPY --link --chown=5:6 a /etc/sub/new\nRUN rm /etc/new\nCOPY --link a /etc/new\n")
	b.expect(res.Image, "cat /etc/motd /etc/new /etc/sub/new /bin/x/y; stat -c %u:%g /etc/sub/new /etc/sub", "base\n1125:6\n5:6\n")
}

func TestBare(t *testing.T) {
	s := common.layers
	scratch, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Release()
	made := filepath.Join(scratch.Dir(), "layer")
	id, err := layer.ID(""), os.MkdirAll(filepath.Join(made, "new", "below"), 0o755)
	if err == nil {
		err = errors.Join(layer.SetOpaque(filepath.Join(made, "new")), os.Mkdir(filepath.Join(made, "plain"), 0o755))
	}
	if err == nil {
		id, err = s.Add(made, layer.Layer{})
	}
	if err != nil {
		t.Fatal(err)
	}
	b := common.bench(t)
	marked, err := b.contentOf(id)
	if err == nil {
		err = b.bare(id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if bare, err := b.contentOf(id); err != nil || bare == marked {
		t.Errorf("the mark is still there (%v)", err)
	}
}

// TestSameLayerTwice has images with one layer several times: steps that change nothing, and copies of the same.
func TestSameLayerTwice(t *testing.T) {
	b := newBench(t)
	_, _ = b.must(Request{Dockerfile: []byte("FROM busybox\nRUN true\nRUN echo x >/x\nRUN true\n"), Names: []string{"twice"}})
	res, _ := b.must(Request{Dockerfile: []byte("FROM twice\nCOPY <<EOF /y\ny\nEOF\nRUN cat /x /y >/z\n"), Names: []string{"twice"}})
	b.expect(res.Image, "cat /z", "x\ny\n")
	other := newBench(t)
	var archive bytes.Buffer
	if err := b.Images.Save(t.Context(), &archive, "twice"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Images.Load(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	res, _ = other.must(Request{Dockerfile: []byte("FROM twice\nRUN cat /z >/w\n")})
	other.expect(res.Image, "cat /w", "x\ny\n")
}

// TestCopyWhatBuildKitLearntLater goes through what is newer than the BuildKit that we compare with.
func TestCopyWhatBuildKitLearntLater(t *testing.T) {
	b := common.bench(t)
	files := map[string]string{"a/b/one.txt": "1", "a/b/two.md": "2", "a/c/three.txt": "3", "top.txt": "t"}
	res := b.from(files, `COPY --parents a/*/*.txt top.txt /parents/
COPY --parents ./a/./b /pivot/
COPY --exclude=**/*.md --exclude=c a /excluded
COPY --chmod=u=rwX,go=rX a /modes
COPY <<one <<"two" /inline/
$HOME and \$
one
$HOME
two
COPY --chmod=700 <<-EOT /inline/script
	indented
	EOT
RUN <<EOT cat >/mixed
said
EOT
RUN <<-EOT
	set -e
	echo first >/script
	echo "$0" >>/script
EOT
`)
	b.expect(res.Image, "cd /parents && find . -type f | sort && cd /pivot && find . -type f | sort && cd /excluded && find . -type f | sort", "./a/b/one.txt\n./a/c/three.txt\n./top.txt\n./b/one.txt\n./b/two.md\n./b/one.txt\n")
	b.expect(res.Image, "stat -c %a /modes /modes/b/one.txt /inline/script; cat /inline/one /inline/two /inline/script /mixed; head -n 1 /script", "755\n644\n700\n and $\n$HOME\nindented\nsaid\nfirst\n")
}

func TestRunHasWhatIsAskedFor(t *testing.T) {
	b := common.bench(t)
	res, _ := b.must(Request{
		Hosts: map[string]string{"db.example": "10.1.2.3"}, Ulimits: []string{"nofile=100:200"}, Shm: 8 << 20,
		Secrets: map[string][]byte{"file": []byte("in a file"), "variable": []byte("in a variable")},
		Dockerfile: []byte(`FROM busybox
RUN grep db.example /etc/hosts >/hosts; ulimit -Sn >/soft; ulimit -Hn >/hard; df -k /dev/shm | tail -n 1 | awk '{print $2}' >/shm; hostname >/name
RUN --mount=type=secret,id=file,target=/s,uid=1000,gid=7,mode=0440 stat -c '%a %u:%g' /s >/secret; wc -c </s >>/secret; (echo x >/s) 2>/dev/null && echo written >>/secret; true
USER app
RUN --mount=type=secret,id=file,target=/s,uid=1000 cat /s | wc -c >/tmp/mine
USER root
RUN --mount=type=secret,id=variable,env=TOKEN echo "$TOKEN" | wc -c >/variable
RUN --mount=type=secret,id=variable test -z "$TOKEN"
RUN --network=none ip route >/offline 2>&1; cat /proc/net/dev | grep -c : >>/offline
RUN --mount=type=bind,target=/b,rw echo thrown away >/b/x && ls /b
`),
	})
	b.expect(res.Image, "cat /hosts /soft /hard /shm /name /secret /tmp/mine /variable", "10.1.2.3\tdb.example\n100\n200\n8192\nbuildkitsandbox\n440 1000:7\n9\n9\n14\n")
	b.expect(res.Image, "ls -A /s /b 2>/dev/null; tail -n 1 /offline", "1\n")
	if _, _, err := b.build(Request{Offline: true, Dockerfile: []byte("FROM busybox\nRUN test $(grep -c : /proc/net/dev) = 1\n")}); err != nil {
		t.Errorf("without network: %v", err)
	}
}

// TestStale builds stages anew, and what was made of them.
func TestStale(t *testing.T) {
	b := common.bench(t)
	r := Request{Dockerfile: []byte("FROM busybox AS gen\nRUN cat /proc/sys/kernel/random/uuid >/id\nFROM busybox\nCOPY --from=gen /id /id\nRUN cp /id /copy\n")}
	first, _ := b.must(r)
	same, _ := b.must(r)
	if same.Image.ID != first.Image.ID {
		t.Error("nothing changed, and the image is another one")
	}
	r.Stale = []string{"gen"}
	anew, _ := b.must(r)
	id := b.run(anew.Image, "cat /id")
	if id == b.run(first.Image, "cat /id") {
		t.Error("the stage was taken from an earlier build")
	}
	b.expect(anew.Image, "cat /copy", id)
	r.Stale = nil
	last, out := b.must(r)
	b.expect(last.Image, "cat /copy", id)
	if strings.Count(out, "CACHED") != 4 {
		t.Errorf("nothing changed since:\n%s", out)
	}
}

// TestSameContent takes what was made of a file with the same content, whoever made it.
func TestSameContent(t *testing.T) {
	b := common.bench(t)
	text := "FROM busybox AS gen\nARG ROUND\nRUN echo $ROUND >/unused; echo always >/out\nFROM busybox\nCOPY --from=gen /out /out\nRUN cat /proc/sys/kernel/random/uuid >/id\n"
	ids := map[string]bool{}
	for _, round := range []string{"1", "2"} {
		res, _ := b.must(Request{Dockerfile: []byte(text), Args: map[string]string{"ROUND": round}})
		ids[b.run(res.Image, "cat /id")] = true
	}
	if len(ids) != 1 {
		t.Error("the step after the copy was carried out again")
	}
}

// TestManySteps has more layers than the kernel mounts at once.
func TestManySteps(t *testing.T) {
	b := common.bench(t)
	var text strings.Builder
	text.WriteString("FROM busybox AS many\nWORKDIR /d\n")
	for i := range 102 {
		fmt.Fprintf(&text, "COPY n n%d\n", i)
	}
	text.WriteString("RUN rm n0 && ls | wc -l >/count\nFROM busybox\nCOPY --from=many /count /d/n101 /\nRUN --mount=from=many,target=/m,rw cat /m/d/n1 >>/count\n")
	res, _ := b.must(Request{Context: dir(t, map[string]string{"n": "1"}), Dockerfile: []byte(text.String())})
	b.expect(res.Image, "cat /count", "101\n1")
}

func TestContexts(t *testing.T) {
	b := common.bench(t)
	res, _ := b.must(Request{
		Context: dir(t, map[string]string{"Dockerfile": "FROM base\nCOPY --from=more f /f\nCOPY --from=pics /etc/motd /m\nRUN --mount=from=more,target=/x cat /x/f >/g\nCOPY . /all\n", "Dockerfile.dockerignore": "no\n", ".dockerignore": "yes\n", "no": "", "yes": ""}),
		Dirs:    map[string]*os.Root{"more": dir(t, map[string]string{"f": "from the other one\n", "ignored": "", ".dockerignore": "ignored"})},
		Contexts: map[string]string{
			"base": "docker-image://busybox", "pics": "docker-image://busybox:latest",
		},
	})
	b.expect(res.Image, "cat /f /g /m; ls -A /all", "from the other one\nfrom the other one\nbase\n.dockerignore\nDockerfile\nDockerfile.dockerignore\nyes\n")
}

// serving is a provider whose machines have a server of the test's own on their loopback.
type serving struct {
	sandbox.Provider
	handler http.Handler
}

func (s serving) Open(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	m, err := s.Provider.Open(ctx, spec)
	if err != nil {
		return nil, err
	}
	l, err := m.(sandbox.Networked).Listen(ctx, 8099)
	if err != nil {
		return nil, errors.Join(err, m.Close(ctx))
	}
	go http.Serve(l, s.handler)
	return m, nil
}

// TestGit adds from a repository, and builds one.
func TestGit(t *testing.T) {
	b := common.bench(t)
	repository := t.TempDir()
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", "."}, {"config", "user.email", "t@example.com"}, {"config", "user.name", "t"}, {"add", "."}, {"commit", "-qm", "first"}, {"tag", "v1"},
	} {
		if args[0] == "add" {
			os.Mkdir(filepath.Join(repository, "sub"), 0o755)
			os.WriteFile(filepath.Join(repository, "sub", "file"), []byte("of git\n"), 0o644)
			os.WriteFile(filepath.Join(repository, "Dockerfile"), []byte("FROM busybox\nCOPY sub/file /file\n"), 0o644)
		}
		cmd := exec.Command("git", args...)
		cmd.Dir = repository
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	if out, err := exec.Command("git", "-C", repository, "update-server-info").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files := http.StripPrefix("/r.git", http.FileServer(http.Dir(filepath.Join(repository, ".git"))))
	b.Provider = serving{b.host, files}
	const address = "http://127.0.0.1:8099/r.git"
	res := b.from(nil, "ADD "+address+"#v1 /all\nADD --keep-git-dir=true "+address+"#main:sub /sub\n")
	b.expect(res.Image, "cat /all/sub/file /sub/file; ls -A /all", "of git\nof git\nDockerfile\nsub\n")
	whole, out := b.must(Request{Address: address + "#main"})
	b.expect(whole.Image, "cat /file", "of git\n")
	if !strings.Contains(out, "load git source") {
		t.Errorf("progress:\n%s", out)
	}
	if _, _, err := b.build(Request{Dockerfile: []byte("FROM busybox\nADD " + address + "#gone /x\n")}); err == nil || !strings.Contains(err.Error(), "git ended with exit code") {
		t.Errorf("a revision that is not there: %v", err)
	}
}

func TestDownloads(t *testing.T) {
	b := common.bench(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Write([]byte("content"))
	}))
	defer server.Close()
	const sum = "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
	res := b.from(nil, "ADD --checksum="+sum+" --chmod=640 --chown=3:4 "+server.URL+"/a/file.bin /d/\n")
	b.expect(res.Image, "stat -c '%a %u:%g %Y' /d/file.bin", "640 3:4 1136214245\n")
	for want, add := range map[string]string{
		"its digest is sha256:": "--checksum=sha256:" + strings.Repeat("0", 64) + " " + server.URL + "/x",
		"answered 404":          server.URL + "/gone",
		"connection refused":    "http://127.0.0.1:1/x",
	} {
		if _, _, err := b.build(Request{Dockerfile: []byte("FROM busybox\nADD " + add + " /x\n")}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", add, err)
		}
	}
	b.Private = false
	if _, _, err := b.build(Request{Dockerfile: []byte("FROM busybox\nADD " + server.URL + "/x /x\n")}); err == nil || !strings.Contains(err.Error(), "this machine's own") {
		t.Errorf("a server of this machine: %v", err)
	}
}

// TestHostile tries to get out of the context, and out of the image.
func TestHostile(t *testing.T) {
	b := common.bench(t)
	outside := t.TempDir()
	os.WriteFile(filepath.Join(outside, "secret"), []byte("outside"), 0o644)
	root := dir(t, map[string]string{"in": "in\n"})
	var climbing bytes.Buffer
	out := tar.NewWriter(&climbing)
	out.WriteHeader(&tar.Header{Name: "../../climbed", Mode: 0o644, Size: 1})
	out.Write([]byte("x"))
	out.Close()
	for _, err := range []error{
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root.Name(), "abs")), os.Symlink("../"+filepath.Base(outside)+"/secret", filepath.Join(root.Name(), "rel")),
		os.Symlink(outside, filepath.Join(root.Name(), "dir")), syscall.Mkfifo(filepath.Join(root.Name(), "pipe"), 0o644), os.WriteFile(filepath.Join(root.Name(), "climb.tar"), climbing.Bytes(), 0o644),
		os.Symlink("loop", filepath.Join(root.Name(), "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, steps := range []string{"COPY abs /x", "COPY rel /x", "COPY dir/secret /x", "COPY dir/ /x/", "COPY loop /x", "COPY ../" + filepath.Base(outside) + "/secret /x", "ADD climb.tar /x", "RUN --mount=type=bind,source=dir,target=/m cat /m/secret", "COPY pipe /x"} {
		res, _, err := b.build(Request{Context: root, Dockerfile: []byte("FROM busybox\n" + steps + "\n")})
		if err == nil && strings.Contains(b.run(res.Image, "cat /x /x/* 2>/dev/null; true"), "outside") {
			t.Errorf("%s: it is in the image", steps)
		}
		if err == nil && !strings.HasPrefix(steps, "COPY dir/ ") && steps != "ADD climb.tar /x" {
			t.Errorf("%s: it went well", steps)
		}
	}
	res, _ := b.must(Request{Context: root, Dockerfile: []byte("FROM busybox\nRUN ln -s / /up && ln -s ../../../../../etc /etc2 && ln -s /nowhere /w\nCOPY in /up/landed\nCOPY in /etc2/landed\nWORKDIR /up/work\nCOPY . /all/\n")})
	b.expect(res.Image, "cat /landed /etc/landed; ls -d /work; ls -A /all | tr '\\n' ' '", "in\nin\n/work\nabs climb.tar dir in loop rel ")
	if _, err := os.Stat("/landed"); err == nil {
		t.Error("a copy went out of the image")
	}
	if _, _, err := b.build(Request{Dockerfile: bytes.Repeat([]byte("#\n"), maxDockerfile)}); err == nil {
		t.Error("a Dockerfile of 8 MB")
	}
}

// TestCancel stops a build in the middle: no image, and the next one goes on.
func TestCancel(t *testing.T) {
	b := common.bench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := NewProgress(writerFunc(func(text []byte) (int, error) {
		if bytes.Contains(text, []byte("under way")) {
			cancel()
		}
		return len(text), nil
	}))
	r := Request{Dockerfile: []byte("FROM busybox\nRUN echo first >/first\nRUN echo under way; sleep 1000\n"), Names: []string{"stopped"}}
	if _, err := b.Build(ctx, r, p); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Images.Find("stopped"); err == nil {
		t.Error("there is an image")
	}
	r.Dockerfile = []byte("FROM busybox\nRUN echo first >/first\nRUN true\n")
	if _, out := b.must(r); !strings.Contains(out, "RUN echo first >/first\n#3 CACHED") {
		t.Errorf("what went well is not there:\n%s", out)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestFirstFailure stops the other stages, and tells of the one that failed.
func TestFirstFailure(t *testing.T) {
	b := common.bench(t)
	b.Parallel = 4
	_, out, err := b.build(Request{Dockerfile: []byte("FROM busybox AS slow\nRUN sleep 1000\nFROM busybox AS bad\nRUN echo why; exit 7\nFROM busybox\nCOPY --from=slow / /a\nCOPY --from=bad / /b\n")})
	var placed *Error
	if !errors.As(err, &placed) || placed.Line != 4 || placed.Step != "[bad 2/2] RUN echo why; exit 7" || len(placed.Tail) != 1 || !strings.HasSuffix(placed.Tail[0], " why") {
		t.Errorf("got %+v", err)
	}
	if strings.Count(out, "ERROR: ") != 1 {
		t.Errorf("progress:\n%s", out)
	}
}

// TestResult goes through what can be done with what was built.
func TestResult(t *testing.T) {
	b := newBench(t)
	b.Dir = filepath.Join(t.TempDir(), "builds")
	res, _ := b.must(Request{Context: dir(t, map[string]string{"f": "1"}), Dockerfile: []byte("FROM scratch\nCOPY f /d/f\nCOPY f /d/g\n"), TreeOnly: true})
	if res.Image.Digest != "" {
		t.Errorf("there is an image %+v", res.Image)
	}
	var out bytes.Buffer
	if err := b.Export(t.Context(), res, &out); err != nil {
		t.Fatal(err)
	}
	var names []string
	for in := tar.NewReader(&out); ; {
		h, err := in.Next()
		if err != nil {
			break
		}
		names = append(names, fmt.Sprintf("%s %d", h.Name, h.Uid))
	}
	if got := strings.Join(names, ","); got != "d/ 0,d/f 0,d/g 0" {
		t.Errorf("exported %s", got)
	}
	named, _ := b.must(Request{Dockerfile: []byte("FROM busybox\nENV A=B\n"), Names: []string{"one", "localhost:5000/two:3"}})
	meta, err := b.Metadata(named)
	if err != nil || meta["image.name"] != "docker.io/library/one:latest,localhost:5000/two:3" || meta["containerimage.digest"] != named.Image.Digest || meta["containerimage.config.digest"] != named.Image.ID {
		t.Errorf("metadata %v, %v", meta, err)
	}
	if n, err := b.Prune(t.Context(), PruneOptions{Unused: time.Hour}); err != nil || n != 0 {
		t.Errorf("pruned %d of what was just used, %v", n, err)
	}
	if n, err := b.Prune(t.Context(), PruneOptions{Mounts: true}); err != nil || n == 0 {
		t.Errorf("pruned %d, %v", n, err)
	}
	if refs, err := b.Layers.Refs("build/"); err != nil || len(refs) != 0 {
		t.Errorf("left %v, %v", refs, err)
	}
}

func TestWarnings(t *testing.T) {
	b := common.bench(t)
	res, out := b.must(Request{Dockerfile: []byte("# syntax=example.com/frontend:1\nfrom busybox as x\nENV A b\n")})
	if text := strings.Join(res.Warnings, "\n"); !strings.Contains(text, "FromAsCasing") && !strings.Contains(text, "ConsistentInstructionCasing") || !strings.Contains(text, "LegacyKeyValueFormat") {
		t.Errorf("warnings:\n%s", text)
	}
	if !strings.Contains(out, "note: # syntax=example.com/frontend:1 is not used") {
		t.Errorf("progress:\n%s", out)
	}
}
