package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/penstock-ci/penstock/internal/layer"
)

func TestPullUnpacksOnceAndAsksNoMore(t *testing.T) {
	var asked atomic.Int32
	host := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h.ServeHTTP(w, r) })
	})
	low, high := tarOf(t, folder("a/"), file("a/low", "1")), tarOf(t, folder("a/"), file("a/high", "2"), file("a/.wh.low", ""))
	pushTo(t, host+"/team/app:1", newImage(t, low, high, low))
	s := openStore(t, Options{})

	var last Progress
	img, err := s.Pull(t.Context(), host+"/team/app:1", PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != host+"/team/app:1" || img.OS != "linux" || img.Config.Cmd[0] != "run" || img.Size == 0 || img.ID == "" {
		t.Errorf("got %+v", img)
	}
	if last.Done != last.Total || last.Fetched == 0 || last.Fetched > last.Done || last.Layers != 3 || last.LayersDone != 3 || last.Unpacking {
		t.Errorf("at the end the progress is %+v", last)
	}
	before := asked.Load()
	again, err := s.Pull(t.Context(), host+"/team/app:1", PullOptions{})
	if err != nil || again.Digest != img.Digest || asked.Load() != before {
		t.Errorf("a second pull: %v, %d requests", err, asked.Load()-before)
	}
	ids, err := s.Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] != ids[2] || ids[0] == ids[1] {
		t.Errorf("layers %v", ids)
	}
	want := []string{"a: dir 755 0:0", `a/high: file 644 0:0 1 "2"`, "a/low: gone"}
	if got := tree(t, s.layerDir(ids[1])); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}

	pushTo(t, host+"/team/app:1", newImage(t, low))
	progress := func(p Progress) { last = p }
	if img, err := s.Pull(t.Context(), host+"/team/app:1", PullOptions{Always: true, Progress: progress}); last.Fetched > 0 || err != nil || img.Digest == again.Digest {
		t.Errorf("with Always: %v, %s", err, img.Digest)
	}
}

func TestPullErrors(t *testing.T) {
	host := newRegistry(t, nil)
	good := newImage(t, tarOf(t, file("f", "x")))
	pushTo(t, host+"/app:1", good)
	config, err := good.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = "s390x"
	other, err := mutate.ConfigFile(good, config)
	if err != nil {
		t.Fatal(err)
	}
	pushTo(t, host+"/other:1", other)
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json"),
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	ref, err := name.ParseReference(host + "/index:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	lying := newImage(t)
	lying, err = mutate.Append(lying, mutate.Addendum{Layer: gzipLayer{mustLayers(t, good)[0], digestOf([]byte("something else"))}})
	if err != nil {
		t.Fatal(err)
	}
	pushTo(t, host+"/lying:1", lying)

	s := openStore(t, Options{})
	for _, test := range []struct {
		ref  string
		want error
		text string
	}{
		{host + "/none:1", ErrNotFound, "image not found"},
		{host + "/app:2", ErrNotFound, "image not found"},
		{host + "/app@sha256:" + strings.Repeat("0", 64), ErrNotFound, "image not found"},
		{host + "/other:1", ErrPlatform, "it is made for linux/s390x, not for linux/"},
		{host + "/index:1", ErrPlatform, "it is made for linux/s390x, not for linux/"},
		{host + "/lying:1", ErrDigest, "layer 1 of 1: content does not match its digest: unpacked it is sha256:"},
		{"127.0.0.1:1/app:1", ErrUnreachable, "connection refused"},
		{"App", ErrName, "not a name of an image"},
		{"", ErrName, "not a name of an image"},
		{"a/../b", ErrName, "not a name of an image"},
		{host + "/app@sha256:123", ErrName, "not a name of an image"},
	} {
		_, err := s.Pull(t.Context(), test.ref, PullOptions{})
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("pull %q: %v, want %q", test.ref, err, test.text)
		}
	}
	if _, err := s.Pull(t.Context(), host+"/app:1", PullOptions{Platform: "linux"}); err == nil {
		t.Error("a platform without a processor is taken")
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("afterwards there are %v, %v", list, err)
	}
	if img, err := s.Pull(t.Context(), host+"/index:1", PullOptions{Platform: "linux/s390x"}); err != nil || img.Arch != "s390x" {
		t.Errorf("for its own platform: %v", err)
	}
	nothingHalfDone(t, s)
}

// nothingHalfDone sees that no work is left lying about.
func nothingHalfDone(t *testing.T, s *Store) {
	t.Helper()
	s.layers.Close()
	for _, dir := range []string{filepath.Join(s.dir, uploadsDir), filepath.Join(s.layers.Dir(), "scratch"), filepath.Join(s.layers.Dir(), "new")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("%s is left in %s", e.Name(), dir)
		}
	}
}

// tamper changes what a registry answers.
func tamper(change func(w http.ResponseWriter, r *http.Request) bool) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !change(w, r) {
				h.ServeHTTP(w, r)
			}
		})
	}
}

func TestPullOfATamperedRegistry(t *testing.T) {
	data := tarOf(t, file("f", strings.Repeat("some text ", 1000)))
	img := newImage(t, data)
	packed := gzipped(t, data)
	digest := digestOf(packed)
	for _, test := range []struct {
		name   string
		change func(w http.ResponseWriter, r *http.Request) bool
		want   error
		text   string
	}{
		{"another layer", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
				return false
			}
			bad := slices.Clone(packed)
			bad[4]++ // a time in the header of gzip: the tar in it is the same
			w.Write(bad)
			return true
		}, ErrDigest, "layer 1 of 1: content does not match its digest: wanted " + digest},
		{"a longer layer", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
				return false
			}
			w.Write(append(slices.Clone(packed), packed...))
			return true
		}, ErrDigest, "more than the"},
		{"a layer that always ends early", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
				return false
			}
			w.Write(packed[:10])
			return true
		}, ErrUnreachable, "unexpected EOF"},
		{"another manifest", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/sha256:") {
				return false
			}
			w.Write([]byte(`{"schemaVersion":2}`))
			return true
		}, ErrDigest, "content does not match its digest"},
		{"a denial", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, ErrDenied, "denies access"},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := newRegistry(t, tamper(test.change))
			ref := host + "/app:1"
			pushTo(t, ref, img)
			h, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			s := openStore(t, Options{})
			_, err = s.Pull(t.Context(), host+"/app@"+h.String(), PullOptions{})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v: %s", err, test.want, test.text)
			}
			if refs, err := s.layers.Refs(""); err != nil || len(refs) > 0 {
				t.Errorf("unpacked are %v, %v", refs, err)
			}
			nothingHalfDone(t, s)
		})
	}
}

func TestPullGoesOnWhereItBroke(t *testing.T) {
	data := tarOf(t, file("f", strings.Repeat("some text ", 100_000)))
	packed := gzipped(t, data)
	var ranges []string
	host := newRegistry(t, tamper(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(packed)) {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			w.Header().Set("Content-Length", "999999")
			w.Write(packed[:100])
			return true
		}
		w.Header().Set("Content-Range", "bytes 100-")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(packed[100:])
		return true
	}))
	pushTo(t, host+"/app:1", newImage(t, data))
	s := openStore(t, Options{})
	if _, err := s.Pull(t.Context(), host+"/app:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"", "bytes=100-"}; !slices.Equal(ranges, want) {
		t.Errorf("asked for %q, want %q", ranges, want)
	}
}

func TestMirrors(t *testing.T) {
	full, bare := newRegistry(t, nil), newRegistry(t, nil)
	pushTo(t, full+"/cache/library/app:1", newImage(t, tarOf(t, file("f", "x"))))
	s := openStore(t, Options{Mirrors: map[string][]string{"docker.io": {"127.0.0.1:1", bare, full + "/cache"}}})
	img, err := s.Pull(t.Context(), "app:1", PullOptions{})
	if err != nil || img.Name != "docker.io/library/app:1" {
		t.Errorf("got %s, %v", img.Name, err)
	}
	s = openStore(t, Options{Mirrors: map[string][]string{bare: {"127.0.0.1:1"}}})
	_, err = s.Pull(t.Context(), bare+"/app:1", PullOptions{})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "before that, of mirrors: 127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestPullEndsWithItsContext(t *testing.T) {
	data := tarOf(t, file("f", strings.Repeat("some text ", 100_000)))
	packed := gzipped(t, data)
	ctx, cancel := context.WithCancel(t.Context())
	host := newRegistry(t, tamper(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(packed)) {
			return false
		}
		w.Write(packed[:100])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}))
	pushTo(t, host+"/app:1", newImage(t, data))
	s := openStore(t, Options{})
	if _, err := s.Pull(ctx, host+"/app:1", PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	nothingHalfDone(t, s)
}

func TestHTTPOnlyWhereItIsAllowed(t *testing.T) {
	s := openStore(t, Options{Insecure: []string{"registry.lan:5000"}})
	for host, want := range map[string]bool{
		"localhost:5000": true, "127.0.0.1": true, "[::1]:5000": true, "registry.lan:5000": true,
		"registry.lan": false, "10.0.0.1:5000": false, "example.org": false,
	} {
		if got := s.plain(host); got != want {
			t.Errorf("http to %s: %v, want %v", host, got, want)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://10.0.0.1:5000/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (guard{s, s.http}).RoundTrip(r); err == nil || !strings.Contains(err.Error(), "without encryption") {
		t.Errorf("got %v", err)
	}
}

func mustLayers(t *testing.T, img v1.Image) []v1.Layer {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

func TestLayersOfSeveralProcesses(t *testing.T) {
	dir := t.TempDir()
	one, other := openStoreAt(t, dir, Options{}), openStoreAt(t, dir, Options{})
	host := newRegistry(t, nil)
	pushTo(t, host+"/app:1", newImage(t, tarOf(t, file("f", "x")), tarOf(t, file("g", "x"))))
	var ids [2][]layer.ID
	done := make(chan error, 2)
	for i, s := range []*Store{one, other} {
		go func() {
			img, err := s.Pull(t.Context(), host+"/app:1", PullOptions{})
			if err == nil {
				ids[i], err = s.Layers(t.Context(), img)
			}
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(ids[0], ids[1]) {
		t.Errorf("unpacked twice: %v and %v", ids[0], ids[1])
	}
}
