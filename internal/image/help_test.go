package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// testOwner is the first id of machines in these tests.
const testOwner = 0x40000000

func openStore(t *testing.T, o Options) *Store {
	t.Helper()
	return openStoreAt(t, t.TempDir(), o)
}

func openStoreAt(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	if o.Owner == 0 {
		o.Owner = os.Getuid()
		if os.Getuid() == 0 {
			o.Owner = testOwner
		}
	}
	s, err := Open(filepath.Join(dir, "images"), layers, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// member is one entry of a tar, with its content.
type member struct {
	tar.Header
	text string
}

func file(name, text string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1e9, 0)}, text}
}

func folder(name string) member {
	return member{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1e9, 0)}}
}

func symlink(name, to string) member {
	return member{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, ModTime: time.Unix(1e9, 0)}}
}

func hardlink(name, to string) member {
	return member{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}}
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.Size = int64(len(m.text))
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree lists what is below a directory: a line for each file with its kind, mode, owner and content.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	lines := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		who := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, ownerOf(st.Uid), ownerOf(st.Gid))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			opaque := ""
			var value [4]byte
			if n, err := unix.Lgetxattr(path, "user.overlay.opaque", value[:]); err == nil && n == 1 {
				opaque = " opaque"
			}
			lines[name] = "dir " + who + opaque
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines[name] = fmt.Sprintf("file %s %d %.40q", who, st.Nlink, data)
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			lines[name] = "link " + to
		case unix.S_IFCHR:
			lines[name] = "gone"
		default:
			lines[name] = "fifo " + who
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		all = append(all, name+": "+lines[name])
	}
	return all
}

// ownerOf is an id as the image has it.
func ownerOf(host uint32) int {
	if os.Getuid() == 0 {
		return int(host) - testOwner
	}
	return int(host) - os.Getuid()
}

// layerDir is where a layer's files are.
func (s *Store) layerDir(id layer.ID) string { return filepath.Join(s.layers.Dir(), layer.Path(id)) }

// newRegistry starts a registry of go-containerregistry's and gives its host:port.
func newRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// newImage makes an image for this machine with layers of these tars.
func newImage(t *testing.T, tars ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Env: []string{"A=b"}, Cmd: []string{"run"}},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range tars {
		img, err = mutate.Append(img, mutate.Addendum{Layer: gzipLayer{static.NewLayer(gzipped(t, data), types.DockerLayer), digestOf(data)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// gzipLayer is a layer whose content says nothing of what is in it.
type gzipLayer struct {
	v1.Layer
	diff string
}

func (l gzipLayer) DiffID() (v1.Hash, error) { return v1.NewHash(l.diff) }

func pushTo(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte; at counts from the end if it is negative.
func flip(data []byte, at int) []byte {
	data[(at+len(data))%len(data)] ^= 0xff
	return data
}
