//go:build linux

package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// bench is a builder with busybox as its only image.
type bench struct {
	*Builder
	t    *testing.T
	host *sandbox.Host
	data string
}

// stores are what a builder works on.
type stores struct {
	layers *layer.Store
	images *image.Store
	host   *sandbox.Host
	data   string
}

// baseArchive is busybox as docker would save it.
var baseArchive = sync.OnceValues(func() ([]byte, error) {
	_, config := imagetest.Busybox()
	tree := imagetest.New("nobody:65534", "app:1000").File("/etc/motd", "base\n", 0o644)
	for _, name := range []string{"/dev", "/proc", "/sys", "/mnt", "/mnt/tmp", "/mnt/cache", "/mnt/bind"} { // where others mount, and leave it
		tree.Dir(name, 0o755, 0)
	}
	config.Env = []string{"FROM_BASE=yes"}
	var archive bytes.Buffer
	err := tree.Write(&archive, "busybox:latest", config)
	return archive.Bytes(), err
})

func openStores(data string) (s stores, err error) {
	s.data = data
	archive, err := baseArchive()
	if err != nil {
		return s, err
	}
	if s.layers, err = layer.Open(filepath.Join(data, "layers")); err != nil {
		return s, err
	}
	if s.images, err = image.Open(filepath.Join(data, "images"), s.layers, image.Options{Owner: sandbox.Owner()}); err != nil {
		return s, errors.Join(err, s.layers.Close())
	}
	if s.host, err = sandbox.NewHost(s.layers, nil); err != nil {
		return s, errors.Join(err, s.layers.Close())
	}
	if _, err = s.images.Load(context.Background(), bytes.NewReader(archive)); err != nil {
		err = errors.Join(err, s.close())
	}
	return s, err
}

func (s stores) close() error { return errors.Join(s.host.Close(), s.layers.Close()) }

func (s stores) bench(t *testing.T) *bench {
	return &bench{&Builder{Images: s.images, Layers: s.layers, Provider: s.host, Private: true}, t, s.host, s.data}
}

// common are the stores of the tests that do not mind what others have built.
var common stores

func TestMain(m *testing.M) {
	data, err := os.MkdirTemp("", "penstock-build-test-")
	if err == nil {
		common, err = openStores(data)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(common.close(), layer.RemoveAll(data)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// newBench is a builder with stores of its own.
func newBench(t *testing.T) *bench {
	t.Helper()
	s, err := openStores(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s.bench(t)
}

// dir makes a build context.
func dir(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { open.Close() })
	return open
}

// build builds and gives the progress.
func (b *bench) build(r Request) (*Result, string, error) {
	b.t.Helper()
	if r.Name == "" {
		r.Name = "Dockerfile"
	}
	var out bytes.Buffer
	res, err := b.Build(b.t.Context(), r, NewProgress(&out))
	return res, out.String(), err
}

func (b *bench) must(r Request) (*Result, string) {
	b.t.Helper()
	res, out, err := b.build(r)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	return res, out
}

// run runs a script in an image.
func (b *bench) run(img image.Image, script string) string {
	b.t.Helper()
	m, err := b.host.Open(b.t.Context(), sandbox.Spec{Name: "look", Repo: "repo"})
	if err != nil {
		b.t.Fatal(err)
	}
	defer m.Close(context.Background())
	layers, err := b.Images.Layers(b.t.Context(), img)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := m.(sandbox.Hosting).Contain(b.t.Context(), sandbox.Container{Name: "c", Image: sandbox.Image{Ref: "x", Layers: layers}})
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close(context.Background())
	var out bytes.Buffer
	if err := c.Exec(b.t.Context(), sandbox.Command{Args: []string{"/bin/sh", "-c", script}, Env: img.Config.Env, Stdout: &out, Stderr: &out}); err != nil {
		b.t.Errorf("%s: %v", script, err)
	}
	return out.String()
}

func (b *bench) expect(img image.Image, script, want string) {
	b.t.Helper()
	if got := b.run(img, script); got != want {
		b.t.Errorf("%s\ngot  %q\nwant %q", script, got, want)
	}
}

// TestBuild goes through what a Dockerfile can say.
func TestBuild(t *testing.T) {
	b := newBench(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("from the net\n")) }))
	defer server.Close()
	res, out := b.must(Request{
		Context: dir(t, map[string]string{
			"src/main.txt": "main\n", "src/deep/er.txt": "deeper\n", "a1.txt": "1", "a2.txt": "2", "secret.env": "ignored", ".dockerignore": "*.env\nnode_modules\n",
			"node_modules/x/y": "big", "script.sh": "#!/bin/sh\necho ran\n",
		}),
		Names: []string{"example.com/app:1", "app:latest"}, Args: map[string]string{"VERSION": "1.2"}, Labels: map[string]string{"by": "test"},
		Secrets: map[string][]byte{"token": []byte("s3cr3t")},
		Dockerfile: []byte(`# syntax=docker/dockerfile:1
FROM busybox AS base
ARG VERSION=0
ENV A=b VERSION=$VERSION
RUN echo "$FROM_BASE $A $VERSION" >/built && cat /etc/motd >>/built
FROM base AS other
RUN mkdir /out && echo other >/out/file && ln -s file /out/link && chmod 750 /out && chown 33:44 /out/file
FROM base
WORKDIR /app/src
COPY src .
COPY --chown=12:34 --chmod=640 a*.txt /texts/
COPY --from=other /out /out/
COPY --link script.sh /usr/bin/script
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token | rev)" = t3rc3s && ls /run/secrets
RUN --mount=type=cache,target=/cache echo x >>/cache/count; cp /cache/count /count
RUN --mount=type=bind,from=other,source=/out,target=/bound cat /bound/file >/frombind
RUN --mount=type=tmpfs,target=/mem echo gone >/mem/x
RUN rm /etc/motd && sh /usr/bin/script >/ran && id -u >/uid
COPY <<EOF /heredoc
text $A
EOF
ADD ` + server.URL + `/file.txt /net/
RUN <<EOF
echo one >/two
echo two >>/two
EOF
USER 1000:1000
EXPOSE 8080/tcp
VOLUME /data
LABEL own=label
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /two"]
`),
	})
	img := res.Image
	b.expect(img, "cat /built /app/src/main.txt /app/src/deep/er.txt /texts/a1.txt /texts/a2.txt", "yes b 1.2\nbase\nmain\ndeeper\n12")
	b.expect(img, "ls /app/src; ls / | grep -c -e node_modules -e secret; ls /etc/motd 2>/dev/null; cat /ran /uid /heredoc /net/file.txt /two /frombind /count", "deep\nmain.txt\n0\nran\n0\ntext b\nfrom the net\none\ntwo\nother\nx\n")
	b.expect(img, "stat -c '%a %u:%g' /texts/a1.txt /out /out/file /net/file.txt; readlink /out/link; ls /run/secrets /bound /mem /cache 2>/dev/null; true", "640 12:34\n755 0:0\n644 33:44\n600 0:0\nfile\n")
	c := img.Config
	for what, is := range map[string]bool{
		"user": c.User == "1000:1000", "directory": c.WorkingDir == "/app/src", "entrypoint": strings.Join(c.Entrypoint, " ") == "/bin/sh -c", "cmd": strings.Join(c.Cmd, " ") == "cat /two",
		"port": len(c.ExposedPorts) == 1, "volume": len(c.Volumes) == 1, "labels": c.Labels["own"] == "label" && c.Labels["by"] == "test", "health": c.Healthcheck != nil && c.Healthcheck.Interval == 5e9,
		"signal": c.StopSignal == "SIGINT", "environment": strings.Contains(strings.Join(c.Env, " "), "FROM_BASE=yes") && strings.Contains(strings.Join(c.Env, " "), "VERSION=1.2"),
	} {
		if !is {
			t.Errorf("%s: %+v", what, c)
		}
	}
	for _, name := range []string{"example.com/app:1", "app"} {
		if found, err := b.Images.Find(name); err != nil || found.Digest != img.Digest {
			t.Errorf("%s: %v, %v", name, found.Digest, err)
		}
	}
	if !strings.Contains(out, "RUN echo") || !strings.Contains(out, " DONE ") || strings.Contains(out, "s3cr3t") {
		t.Errorf("progress:\n%s", out)
	}
	filepath.WalkDir(b.data, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte("s3cr3t")) {
				t.Errorf("the secret is in %s", name)
			}
		}
		return nil
	})
}

// TestBuildTakesWhatWasBuilt takes steps from earlier builds as long as what they see is the same.
func TestBuildTakesWhatWasBuilt(t *testing.T) {
	b := newBench(t)
	context := dir(t, map[string]string{"used": "1", "unused": "1"})
	r := Request{Context: context, Dockerfile: []byte("FROM busybox\nRUN echo first >/first\nCOPY used /used\nRUN --mount=type=cache,target=/cache echo x >>/cache/n; cp /cache/n /n\n")}
	first, out := b.must(r)
	if strings.Count(out, "CACHED") != 1 { // the base
		t.Errorf("at the first time:\n%s", out)
	}
	again, out := b.must(r)
	if strings.Count(out, "CACHED") != 4 || again.Image.ID != first.Image.ID {
		t.Errorf("at the second time:\n%s", out)
	}
	b.expect(again.Image, "cat /n", "x\n")
	if a, b := first.Image.Config, again.Image.Config; a.WorkingDir != b.WorkingDir {
		t.Error("another image")
	}
	os.WriteFile(filepath.Join(context.Name(), "unused"), []byte("2"), 0o644)
	if _, out := b.must(r); strings.Count(out, "CACHED") != 4 {
		t.Errorf("a file that no step uses:\n%s", out)
	}
	os.WriteFile(filepath.Join(context.Name(), "used"), []byte("2"), 0o644)
	changed, out := b.must(r)
	if strings.Count(out, "CACHED") != 2 {
		t.Errorf("a file that is used:\n%s", out)
	}
	b.expect(changed.Image, "cat /used; cat /n", "2x\nx\n")
	r.NoCache = true
	if _, out := b.must(r); strings.Count(out, "CACHED") != 1 {
		t.Errorf("--no-cache:\n%s", out)
	}
}

func TestBuildFails(t *testing.T) {
	b := common.bench(t)
	context := dir(t, map[string]string{"here": "x"})
	if err := os.Symlink("/etc/passwd", filepath.Join(context.Name(), "out")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, dockerfile, want string }{
		{"a step", "FROM busybox\n\nRUN echo said; exit 3\nRUN echo not this\n", "[2/3] RUN echo said; exit 3:\nsaid\n------\nDockerfile:3\n--------------------\n   1 |     FROM busybox\n   2 |     \n   3 | >>> RUN echo said; exit 3\n   4 |     RUN echo not this\n"},
		{"exit code", "FROM busybox\nRUN exit 3\n", `process "/bin/sh -c exit 3" did not complete successfully: exit code: 3`},
		{"unknown instruction", "FROM busybox\nNONSENSE x\n", "Dockerfile:2\n"},
		{"no FROM", "RUN echo\n", "no build stage in current context"},
		{"a missing file", "FROM busybox\nCOPY nothere /x\n", "/nothere"},
		{"a missing stage", "FROM busybox\nCOPY --from=127.0.0.1:1/nothere /x /x\n", "127.0.0.1:1/nothere"},
		{"a missing base", "FROM 127.0.0.1:1/nothere\n", "127.0.0.1:1/nothere"},
		{"a missing secret", "FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n", "secret none: not found"},
		{"ssh", "FROM busybox\nRUN --mount=type=ssh,required=true true\n", "is not supported here"},
		{"a link out of the context", "FROM busybox\nCOPY out/ /x\n", "Dockerfile:2"},
		{"a user that is not there", "FROM busybox\nCOPY --chown=nobody-here here /x\n", "unable to find user nobody-here"},
		{"a target that is not there", "", ""},
	} {
		r := Request{Context: context, Dockerfile: []byte(test.dockerfile), Names: []string{"half:done"}}
		if test.dockerfile == "" {
			r.Dockerfile, r.Target, test.want = []byte("FROM busybox\n"), "gone", "target stage \"gone\" could not be found"
		}
		_, out, err := b.build(r)
		var text strings.Builder
		if placed := (*Error)(nil); errors.As(err, &placed) {
			placed.Print(&text)
		}
		shown := regexp.MustCompile(`(?m)^\d+\.\d+ `).ReplaceAllString(text.String(), "")
		if err == nil || !strings.Contains(shown+err.Error(), test.want) {
			t.Errorf("%s: %s%v\nwant %q\n%s", test.name, shown, err, test.want, out)
		}
		if _, err := b.Images.Find("half:done"); err == nil {
			t.Errorf("%s: there is an image", test.name)
		}
	}
	if _, _, err := b.build(Request{Context: context, Dockerfile: []byte("FROM busybox"), Platform: "linux/s390x"}); err == nil || !strings.Contains(err.Error(), "can not be built here") {
		t.Errorf("platform: %v", err)
	}
}

// FuzzRead reads any text as a Dockerfile, up to the graph of its steps.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"FROM scratch\nCOPY . /", "FROM scratch AS a\nFROM a\nRUN --mount=type=cache,target=/x ls", "ARG A=b\nFROM ${A:-c}\n", "FROM scratch\nADD <<EOF /x\ny\nEOF", "\\\n\n#escape=`",
		"FROM scratch\nADD https://example.com/x.git#v1 /x\nADD --checksum=sha256:00 https://example.com/x /y\nWORKDIR /z\nSHELL [\"a\"]\nRUN b\nHEALTHCHECK CMD c\nONBUILD RUN d\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 10_000 {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := &Request{Dockerfile: text, Name: "Dockerfile", Login: func(string) *image.Credentials {
			cancel() // nothing is fetched
			return nil
		}}
		platform, err := r.platform()
		if err != nil {
			t.Fatal(err)
		}
		w := newWork(&Builder{Images: common.images, Layers: common.layers}, r, Discard, platform)
		defer w.close()
		if err := w.openContexts(); err != nil {
			t.Fatal(err)
		}
		_, definition, err := w.read(ctx)
		if err != nil {
			return
		}
		graph := definition.ToPB()
		root, err := w.load(graph.Def, graph.Metadata)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for e := root; e.digest != ""; { // each step names itself
			v := w.vertices[e.digest]
			if v == nil {
				t.Fatalf("%q: a step that is not there", text)
			}
			if _, err := w.describe(v, nil); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if e = (edge{}); len(v.inputs) > 0 {
				e = v.inputs[0]
			}
		}
	})
}

// FuzzCache takes any text for what a cache says of its steps.
func FuzzCache(f *testing.F) {
	f.Add([]byte(`[{"op":"a","inputs":["image:x","files:y"],"layer":"0"},{"op":"b","inputs":["merge(step:0,step:1,)"],"layer":"0"}]`))
	f.Add([]byte(`[{"layer":"-1"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var steps []cachedStep
		if json.Unmarshal(text, &steps) != nil {
			return
		}
		w := newWork(&Builder{Images: common.images, Layers: common.layers}, &Request{}, Discard, ocispecs.Platform{})
		defer w.close()
		n, err := w.takeSteps(steps, []layer.ID{"aa"})
		if err == nil && n != len(steps) || len(w.imported) > len(steps) {
			t.Errorf("%d of %d steps, %v", n, len(steps), err)
		}
		for ref, id := range w.imported {
			if id != "aa" || !strings.HasPrefix(ref, stepRefs) {
				t.Errorf("%s is %s", ref, id)
			}
		}
	})
}
