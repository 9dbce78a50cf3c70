package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestCacheMounts keeps what steps put into their caches, of steps that fail too.
func TestCacheMounts(t *testing.T) {
	b := common.bench(t)
	b.Dir = filepath.Join(t.TempDir(), "locks")
	const mount = "RUN --mount=type=cache,target=/c "
	b.from(nil, mount+"echo 1 >>/c/n\n")
	if _, _, err := b.build(Request{Dockerfile: []byte("FROM busybox\n" + mount + "echo 2 >>/c/n; false\n")}); err == nil {
		t.Fatal("a step that fails went well")
	}
	res := b.from(nil, mount+"cat /c/n >/got\n")
	b.expect(res.Image, "cat /got", "1\n2\n")
	res = b.from(nil, "RUN --mount=type=cache,target=/c,id=other ls /c >/got\nRUN --mount=type=cache,target=/c,id=own,uid=5,gid=6,mode=0710 stat -c '%a %u:%g' /c >>/got\n")
	b.expect(res.Image, "cat /got", "710 5:6\n")
	res = b.from(map[string]string{"seed/x": "seeded\n"}, "RUN --mount=type=cache,target=/one,id=twice --mount=type=cache,target=/two,id=twice echo here >/one/f && cat /two/f >/got\nCOPY seed /seed\nRUN --mount=type=cache,target=/c,id=seed,from=busybox,source=/etc cat /c/motd >>/got\n")
	b.expect(res.Image, "cat /got", "here\nbase\n")
	other, _ := b.must(Request{Scope: "other", Dockerfile: []byte("FROM busybox\n" + mount + "ls /c >/got2\n")})
	b.expect(other.Image, "cat /got2", "")
}

// TestCacheMountsAtOnce has steps want the same caches in another order, in two builds.
func TestCacheMountsAtOnce(t *testing.T) {
	b := newBench(t)
	b.Dir, b.Parallel = filepath.Join(t.TempDir(), "locks"), 4
	const a, c = "--mount=type=cache,sharing=%[1]s,id=a,target=/a ", "--mount=type=cache,sharing=%[1]s,id=b,target=/b "
	for _, sharing := range []string{"locked", "shared", "private"} {
		text := fmt.Sprintf("FROM busybox AS one\nRUN "+a+c+"echo %[1]s-one%%[1]d >>/a/n && echo x >>/b/n && echo %%[1]d >/done1\nFROM busybox AS two\nRUN "+c+a+"echo %[1]s-two%%[1]d >>/a/n && echo x >>/b/n && echo %%[1]d >/done2\nFROM busybox\nCOPY --from=one /done1 /\nCOPY --from=two /done2 /\n", sharing)
		var both sync.WaitGroup
		for i := range 2 {
			both.Go(func() {
				if _, err := b.Build(t.Context(), Request{Dockerfile: fmt.Appendf(nil, text, i), Name: "Dockerfile"}, Discard); err != nil {
					t.Errorf("%s: %v", sharing, err)
				}
			})
		}
		both.Wait()
	}
	res := b.from(nil, "RUN --mount=type=cache,id=a,target=/a sort /a/n >/got\n")
	if got := b.run(res.Image, "grep locked /got"); got != "locked-one0\nlocked-one1\nlocked-two0\nlocked-two1\n" {
		t.Errorf("a locked cache was not one step's at a time: %q", got)
	}
}

// TestCacheTravels builds on what another machine has built.
func TestCacheTravels(t *testing.T) {
	here, there := newBench(t), newBench(t)
	r := Request{
		Context:    dir(t, map[string]string{"f": "1"}),
		Dockerfile: []byte("FROM busybox AS gen\nRUN cat /proc/sys/kernel/random/uuid >/id\nFROM busybox\nCOPY --link f /f\nCOPY --from=gen /id /id\nRUN cp /id /copy && rm /etc/motd\n"),
	}
	made, _ := here.must(r)
	var archive bytes.Buffer
	if err := here.WriteCache(t.Context(), made, &archive); err != nil {
		t.Fatal(err)
	}
	r.CacheFrom = []CacheSource{
		{Name: "nothing", Open: func(context.Context) (io.ReadCloser, error) { return nil, fs.ErrNotExist }},
		{Name: "nonsense", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("nonsense")), nil }},
		{Name: "archive", Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
		}},
	}
	taken, out := there.must(r)
	if n := strings.Count(out, "CACHED"); n != 5 || !strings.Contains(out, "nothing\n#1 not taken: ") {
		t.Errorf("%d steps were taken:\n%s", n, out)
	}
	there.expect(taken.Image, "cat /id; ls /etc/motd 2>/dev/null; true", here.run(made.Image, "cat /id"))
	r.CacheFrom = nil
	if _, out := there.must(r); strings.Count(out, "CACHED") != 1 {
		t.Errorf("a cache from elsewhere is not for later builds:\n%s", out)
	}
}

// TestCacheOfEmptySteps has steps of two stages that change nothing, each on something else.
func TestCacheOfEmptySteps(t *testing.T) {
	here, there := newBench(t), newBench(t)
	r := Request{Dockerfile: []byte("FROM busybox AS one\nRUN echo 1 >/n\nRUN true\nRUN cat /n >/out\nFROM busybox AS two\nRUN echo 2 >/n\nRUN true\nRUN cat /n >/out\nFROM busybox\nCOPY --from=one /out /one\nCOPY --from=two /out /two\n")}
	made, _ := here.must(r)
	var archive bytes.Buffer
	if err := here.WriteCache(t.Context(), made, &archive); err != nil {
		t.Fatal(err)
	}
	r.CacheFrom = []CacheSource{{Name: "archive", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&archive), nil }}}
	res, out := there.must(r)
	if strings.Count(out, "CACHED") != 9 {
		t.Errorf("progress:\n%s", out)
	}
	there.expect(res.Image, "cat /one /two", "1\n2\n")
	again, _ := there.must(Request{Dockerfile: append(r.Dockerfile, "RUN cat /one /two >/both\n"...)})
	there.expect(again.Image, "cat /both", "1\n2\n")
}
