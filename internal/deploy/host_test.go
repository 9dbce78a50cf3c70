//go:build linux

package deploy

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// TestMain is this test, a keeper that a test has started, or a target in a process of its own.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "instance":
		os.Exit(Keep(os.Args[2], os.Stdin, os.Stdout, os.Stderr))
	case len(os.Args) == 2 && os.Args[1] == "target":
		os.Exit(targetMain())
	}
	code := m.Run()
	if os.Getenv("PENSTOCK_TEST_APP") == "" {
		os.RemoveAll(filepath.Dir(appPath()))
	}
	os.Exit(code)
}

// machines are what tests run instances in.
type machines struct {
	dir      string
	layers   *layer.Store
	images   container.Images
	provider sandbox.Provider
	plain    string
}

// isolated are host machines, the same for all tests.
func isolated(t *testing.T) *machines {
	t.Helper()
	dir, err := os.MkdirTemp("", "machines-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layer.RemoveAll(dir); err != nil { // also what killed keepers left
			t.Error(err)
		}
	})
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(dir, "images"), layers, image.Options{Owner: sandbox.Owner()})
	if err != nil {
		t.Fatal(err)
	}
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); layers.Close() })
	return &machines{dir: dir, layers: layers, images: container.Images{Store: images}, provider: host}
}

// plainly are plain processes.
func plainly(t *testing.T) *machines {
	dir := t.TempDir()
	return &machines{dir: dir, provider: sandbox.NewNone(dir), plain: dir}
}

func (m *machines) options(dir string, o Options, log func(string, ...any)) HostOptions {
	return HostOptions{Options: o, Dir: dir, Layers: m.layers, Images: m.images, Provider: m.provider, Plain: m.plain, Log: log}
}

func (m *machines) suite() suite {
	return suite{
		open: func(t *testing.T, place string, o Options) Target {
			t.Helper()
			var mu sync.Mutex
			over := false
			t.Cleanup(func() { mu.Lock(); over = true; mu.Unlock() })
			h, err := NewHost(context.Background(), m.options(place, o, func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				if !over {
					t.Logf(format, args...)
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			return h
		},
		dial: proxy.Dial,
	}
}

func TestHost(t *testing.T)  { isolated(t).suite().run(t) }
func TestPlain(t *testing.T) { plainly(t).suite().run(t) }
