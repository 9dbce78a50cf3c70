package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/penstock-ci/penstock/internal/layer"
)

func TestFullName(t *testing.T) {
	long := strings.Repeat("a", 300)
	for ref, want := range map[string]string{
		"postgres":                              "docker.io/library/postgres:latest",
		"postgres:15":                           "docker.io/library/postgres:15",
		"team/app":                              "docker.io/team/app:latest",
		"docker.io/postgres":                    "docker.io/library/postgres:latest",
		"index.docker.io/library/postgres":      "docker.io/library/postgres:latest",
		"localhost/app:1":                       "localhost/app:1",
		"localhost:5000/app":                    "localhost:5000/app:latest",
		"ghcr.io/a/b/c:v1":                      "ghcr.io/a/b/c:v1",
		"a:1@sha256:" + strings.Repeat("0", 64): "docker.io/library/a@sha256:" + strings.Repeat("0", 64),
		"[::1]:5000/a":                          "[::1]:5000/a:latest",
		"":                                      "", "A": "", "a:": "", "a/../b": "", "../a": "", "/a": "", "a//b": "", "_tags/a": "", "a/_tags": "", "a:.x": "", long: "",
		"a@sha512:" + strings.Repeat("0", 128): "", "a@sha256:XY": "", "a b": "", "a\x00": "",
	} {
		got, err := FullName(ref)
		if got != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("FullName(%.40q) = %q, %v, want %q", ref, got, err, want)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, text := range []string{"a", "a:1", "localhost:5000/a/b@sha256:" + strings.Repeat("0", 64), "../a", "a/_tags/b", "A/b", "[::1]:5000/a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseName(text)
		if err != nil {
			return
		}
		again, err := parseName(n.String())
		if err != nil || again != n {
			t.Errorf("%q is %q, and that %q, %v", text, n, again, err)
		}
		if !filepath.IsLocal(n.repository) || strings.Contains(n.repository, "/_") || strings.HasPrefix(n.repository, "_") || !filepath.IsLocal(n.key()) || strings.Contains(n.key(), "/") {
			t.Errorf("%q is kept at %q, %q", text, n.repository, n.key())
		}
	})
}

func FuzzManifest(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0", 64)
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"`+digest+`"},"layers":[]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"`+digest+`","platform":{"os":"linux","architecture":"amd64"}}]}`), "application/vnd.oci.image.index.v1+json")
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`), "application/vnd.docker.distribution.manifest.v1+prettyjws")
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		m, err := parseManifest(data, mediaType)
		if err != nil {
			if !errors.Is(err, ErrArchive) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrName) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if m.isIndex() {
			if d, err := m.pick(v1.Platform{OS: "linux", Architecture: "amd64"}); err == nil && d.Digest.Hex == "" {
				t.Error("what was picked has no digest")
			}
			return
		}
		_, _ = parseConfig(data, m)
	})
}

// pulled gives a store with an image that was pulled, and its name.
func pulled(t *testing.T, tars ...[]byte) (*Store, Image) {
	t.Helper()
	host := newRegistry(t, nil)
	pushTo(t, host+"/team/app:1", newImage(t, tars...))
	s := openStore(t, Options{})
	img, err := s.Pull(t.Context(), host+"/team/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s, img
}

func TestFindTagListRemove(t *testing.T) {
	s, img := pulled(t, tarOf(t, file("f", "x")))
	repository, _, _ := strings.Cut(img.Name, ":1")
	for _, ref := range []string{img.Name, img.Digest, img.ID, img.ID[7:19], img.Digest[7:12], repository + "@" + img.Digest} {
		got, err := s.Find(ref)
		if err != nil || got.Digest != img.Digest {
			t.Errorf("Find(%s) = %s, %v", ref, got.Digest, err)
		}
	}
	for _, ref := range []string{"none", "0000", "ffff", "sha256:", "sha256:zzzz", img.ID[7:10], repository + ":2"} {
		if got, err := s.Find(ref); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrName) {
			t.Errorf("Find(%s) = %s, %v", ref, got.Name, err)
		}
	}
	if err := s.Tag(img.ID[7:19], "other"); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag("nothing", "other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag nothing: %v", err)
	}
	if err := s.Tag(img.Name, "other@"+img.Digest); !errors.Is(err, ErrName) {
		t.Errorf("tag a digest: %v", err)
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(list), []string{img.Name, "docker.io/library/other:latest"}; !slices.Equal(got, want) {
		t.Errorf("list %q, want %q", got, want)
	}
	if err := s.Remove(img.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(img.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if got, err := s.Find("other"); err != nil || got.Digest != img.Digest {
		t.Errorf("the other name: %v", err)
	}
}

func names(list []Image) []string {
	var all []string
	for _, img := range list {
		all = append(all, img.Name)
	}
	return all
}

func TestSaveAndLoad(t *testing.T) {
	s, img := pulled(t, tarOf(t, file("f", "x")), tarOf(t, file("g", "y")))
	if err := s.Tag(img.Name, "team/app:1"); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := s.Save(t.Context(), &first, "team/app:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), &second, "team/app:1"); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("saved twice it differs, or %v", err)
	}
	for _, stream := range [][]byte{first.Bytes(), gzipped(t, first.Bytes())} {
		other := openStore(t, Options{})
		images, err := other.Load(t.Context(), bytes.NewReader(stream))
		if err != nil || len(images) != 1 || images[0].Digest != img.Digest || images[0].Name != "docker.io/team/app:1" {
			t.Fatalf("loaded %+v, %v", images, err)
		}
		ids, err := other.Layers(t.Context(), images[0])
		if err != nil || len(ids) != 2 {
			t.Fatalf("layers %v, %v", ids, err)
		}
		if got, want := tree(t, other.layerDir(ids[1])), []string{`g: file 644 0:0 1 "y"`}; !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		nothingHalfDone(t, other)
	}
	if err := s.Save(t.Context(), &first, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("save nothing: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	s, img := pulled(t, tarOf(t, file("f", "x")))
	var archive bytes.Buffer
	if err := s.Save(t.Context(), &archive, img.Name); err != nil {
		t.Fatal(err)
	}
	config := `{"os":"linux","architecture":"` + runtime.GOARCH + `","rootfs":{"type":"layers","diff_ids":[]}}`
	for _, test := range []struct {
		name   string
		stream []byte
		want   error
		text   string
	}{
		{"nothing", nil, ErrArchive, "is it an archive of images?"},
		{"no tar", []byte(strings.Repeat("no tar", 500)), ErrArchive, "invalid tar header"},
		{"cut off", archive.Bytes()[:archive.Len()-4000], ErrArchive, ""},
		{"no images", tarOf(t, file("x", "1")), ErrArchive, "neither index.json nor manifest.json"},
		{"no configuration", tarOf(t, file("manifest.json", `[{"Config":"c.json","Layers":[]}]`)), ErrArchive, `"c.json" is missing`},
		{"no layer", tarOf(t, file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", config)), ErrArchive, `"l.tar" is missing`},
		{"links in a circle", tarOf(t, file("manifest.json", `[{"Config":"a","Layers":[]}]`), symlink("a", "b"), symlink("b", "a")), ErrArchive, `"a" is missing`},
		{"a link to the host", tarOf(t, file("manifest.json", `[{"Config":"a","Layers":[]}]`), symlink("a", "/etc/passwd")), ErrArchive, `"a" is missing`},
		{"a layer too many", tarOf(t, file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`), file("c.json", config), file("l.tar", "x")), ErrArchive, "1 layers, and digests of 0"},
		{"a bad name", tarOf(t, file("manifest.json", `[{"Config":"c.json","RepoTags":["../x:1"],"Layers":[]}]`), file("c.json", config)), ErrName, "../x:1"},
		{"bad JSON", tarOf(t, file("manifest.json", `{`)), ErrArchive, "manifest.json"},
		{"other content than its name says", tarOf(t, file("oci-layout", "{}"), file("blobs/sha256/"+img.Digest[7:], "other"),
			file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":5,"digest":"`+img.Digest+`"}]}`)), ErrDigest, "blobs/sha256/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			other := openStore(t, Options{})
			_, err := other.Load(t.Context(), bytes.NewReader(test.stream))
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %q", err, test.text)
			}
			nothingHalfDone(t, other)
		})
	}
}

func FuzzLoad(f *testing.F) {
	config := `{"os":"linux","architecture":"` + runtime.GOARCH + `","rootfs":{"type":"layers","diff_ids":[]}}`
	f.Add(tarOf(f, file("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]`), file("c.json", config)))
	f.Add(tarOf(f, file("manifest.json", `[{"Config":"a","Layers":["a"]}]`), symlink("a", "b"), symlink("b", "a")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		dir := t.TempDir()
		layers, err := layer.Open(filepath.Join(dir, "layers"))
		if err != nil {
			t.Fatal(err)
		}
		defer layers.Close()
		s, err := Open(filepath.Join(dir, "images"), layers, Options{Owner: testOwner, MaxUnpacked: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		images, err := s.Load(t.Context(), bytes.NewReader(stream))
		for _, img := range images {
			if _, bad := s.Find(img.Digest); bad != nil {
				t.Errorf("%s was loaded and is not found: %v", img.Name, bad)
			}
		}
		entries, bad := os.ReadDir(filepath.Join(s.dir, uploadsDir))
		if bad != nil || len(entries) > 0 {
			t.Errorf("left are %v, %v (%v)", entries, bad, err)
		}
	})
}

func TestPush(t *testing.T) {
	s, img := pulled(t, tarOf(t, file("f", "x")), tarOf(t, file("g", "y")))
	host := newRegistry(t, nil)
	var last Progress
	digest, err := s.Push(t.Context(), img.Name, host+"/copy:2", PushOptions{Progress: func(p Progress) { last = p }})
	if err != nil || digest != img.Digest {
		t.Fatalf("pushed %s, %v", digest, err)
	}
	if last.Done == 0 || last.Done != last.Total {
		t.Errorf("at the end the progress is %+v", last)
	}
	ref, err := name.ParseReference(host + "/copy:2")
	if err != nil {
		t.Fatal(err)
	}
	copied, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(copied); err != nil {
		t.Error(err)
	}
	for _, test := range []struct {
		ref, to string
		want    error
	}{
		{"none", host + "/x:1", ErrNotFound}, {img.Name, "X", ErrName}, {img.Name, "127.0.0.1:1/x:1", ErrUnreachable},
		{img.Name, host + "/x@sha256:" + strings.Repeat("0", 64), ErrDigest},
	} {
		if _, err := s.Push(t.Context(), test.ref, test.to, PushOptions{}); !errors.Is(err, test.want) {
			t.Errorf("push %s to %s: %v, want %v", test.ref, test.to, err, test.want)
		}
	}
}

// addLayer adds a layer with one file, written on others.
func addLayer(t *testing.T, s *Store, name string, below ...layer.ID) layer.ID {
	t.Helper()
	scratch, err := s.layers.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Release()
	dir := filepath.Join(scratch.Dir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		for _, path := range []string{dir, filepath.Join(dir, name)} {
			if err := os.Lchown(path, testOwner, testOwner); err != nil {
				t.Fatal(err)
			}
		}
	}
	id, err := s.layers.Add(dir, layer.Layer{Owner: s.o.Owner, Below: below})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCommit(t *testing.T) {
	s, base := pulled(t, tarOf(t, file("f", "x")))
	below, err := s.Layers(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	id := addLayer(t, s, "made", below...)
	made := time.Unix(1_700_000_000, 0)
	commit := Commit{
		Base: base.Name, Layers: []layer.ID{id}, Names: []string{"built:1", "built:2"}, Created: made,
		Config: v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{User: "app"}},
	}
	img, err := s.Commit(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "docker.io/library/built:1" || img.Config.User != "app" || !img.Created.Equal(made) {
		t.Errorf("got %+v", img)
	}
	if again, err := s.Commit(t.Context(), commit); err != nil || again.Digest != img.Digest {
		t.Errorf("made again it is %s, %v, not %s", again.Digest, err, img.Digest)
	}
	ids, err := s.Layers(t.Context(), img)
	if err != nil || len(ids) != 2 || ids[0] != below[0] {
		t.Fatalf("layers %v, %v", ids, err)
	}
	if l, err := s.layers.Layer(ids[1]); err != nil || l.Of != id || len(l.Below) > 0 {
		t.Errorf("the new layer is not shown as it lies: %+v, %v", l, err)
	}

	host := newRegistry(t, nil)
	if _, err := s.Push(t.Context(), "built:2", host+"/built:2", PushOptions{}); err != nil {
		t.Fatal(err)
	}
	other := openStore(t, Options{})
	copied, err := other.Pull(t.Context(), host+"/built:2", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err = other.Layers(t.Context(), copied)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, other.layerDir(ids[1])), []string{`made: file 644 0:0 1 "new"`}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestCommitFromScratchWithoutAName(t *testing.T) {
	s := openStore(t, Options{})
	img, err := s.Commit(t.Context(), Commit{Layers: []layer.ID{addLayer(t, s, "f")}, Config: v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH}})
	if err != nil || img.Name != "" {
		t.Fatalf("got %+v, %v", img, err)
	}
	if got, err := s.Find(img.Digest); err != nil || got.ID != img.ID {
		t.Errorf("found %s, %v", got.ID, err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Name != "" {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := s.Commit(t.Context(), Commit{Base: "none"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("on nothing: %v", err)
	}
}

// age makes all content of a store older than what Prune spares.
func age(t *testing.T, s *Store) {
	t.Helper()
	past := time.Now().Add(-2 * young)
	entries, err := os.ReadDir(filepath.Join(s.dir, blobsDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Chtimes(s.blobPath(e.Name()), past, past); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPrune(t *testing.T) {
	s, img := pulled(t, tarOf(t, file("f", "x")))
	if _, err := s.Commit(t.Context(), Commit{Layers: []layer.ID{addLayer(t, s, "f")}, Config: v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH}}); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		list, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if done, err := s.Prune(t.Context(), PruneOptions{}); err != nil || done.Bytes != 0 || count() != 2 {
		t.Errorf("what is young: %+v, %v, %d images", done, err, count())
	}
	age(t, s)
	if done, err := s.Prune(t.Context(), PruneOptions{}); err != nil || done.Bytes == 0 || len(done.Names) > 0 || count() != 1 {
		t.Errorf("what has no name: %+v, %v, %d images", done, err, count())
	}
	if _, err := s.Layers(t.Context(), img); err != nil {
		t.Errorf("what has a name: %v", err)
	}
	if done, err := s.Prune(t.Context(), PruneOptions{All: true, Unused: time.Hour}); err != nil || len(done.Names) > 0 {
		t.Errorf("what was used: %+v, %v", done, err)
	}
	age(t, s)
	done, err := s.Prune(t.Context(), PruneOptions{All: true})
	if err != nil || !slices.Equal(done.Names, []string{img.Name}) || done.Bytes == 0 || count() != 0 {
		t.Errorf("everything: %+v, %v", done, err)
	}
	for _, dir := range []string{blobsDir, reposDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
}

// A loss of power may leave content that is not what its name says.
func TestDamageOnTheDisk(t *testing.T) {
	host := newRegistry(t, nil)
	data := tarOf(t, file("f", "x"))
	pushTo(t, host+"/app:1", newImage(t, data))
	s := openStore(t, Options{})
	img, err := s.Pull(t.Context(), host+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.layers.SetRef(refPrefix + digestOf(data)); err != nil { // as if it had not been unpacked
		t.Fatal(err)
	}
	blob := s.blobPath(digestOf(gzipped(t, data))[len(algorithm):])
	if err := os.Truncate(blob, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Layers(t.Context(), img); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "pull the image again") {
		t.Errorf("a layer that was cut off: %v", err)
	}
	if img, err = s.Pull(t.Context(), img.Name, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Layers(t.Context(), img); err != nil {
		t.Errorf("after it was pulled again: %v", err)
	}
	if err := s.layers.SetRef(refPrefix + digestOf(data)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob, flip(gzipped(t, data), 20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Layers(t.Context(), img); err == nil {
		t.Error("a layer that was changed is unpacked")
	}
	if _, err = s.Pull(t.Context(), img.Name, PullOptions{Always: true}); err != nil {
		t.Errorf("a layer that was changed, pulled again: %v", err)
	}
	if err := os.WriteFile(s.blobPath(img.Digest[len(algorithm):]), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(img.Name); !errors.Is(err, ErrDigest) {
		t.Errorf("a manifest that was changed: %v", err)
	}
	if _, err := s.Pull(t.Context(), img.Name, PullOptions{}); err != nil {
		t.Errorf("pulled again: %v", err)
	}
	if _, err := s.Find(img.Name); err != nil {
		t.Errorf("after that: %v", err)
	}
}
