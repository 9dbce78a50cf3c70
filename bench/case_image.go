package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/penstock-ci/penstock/internal/imagetest"
)

// measureImage: 500 MB of this machine's own programs and libraries in five layers, pulled and unpacked from a local
// registry, beside a docker daemon of its own that pulls the same.
func measureImage(ctx context.Context, b *bench) error {
	host, stop, err := b.registry(ctx)
	if err != nil {
		return err
	}
	defer stop()
	ref := host + "/bench/image:1"
	files, err := pushImage(ctx, ref, 5, b.size(100_000_000, 2_000_000))
	if err != nil {
		return err
	}
	docker, err := imagetest.StartDocker(ctx, b.dir)
	if err != nil {
		return err
	}
	defer docker.Close() // what is left is removed with the directory

	ours := b.command("pull", b.dir, b.penstock, "image", "pull", ref)
	ours.before = func() error {
		err := errors.Join(os.RemoveAll(filepath.Join(b.dir, "cache", "penstock", "images")), os.RemoveAll(filepath.Join(b.dir, "cache", "penstock", "layers")))
		syscall.Sync()
		return err
	}
	again := b.command("again", b.dir, b.penstock, "image", "pull", ref)
	theirs := contestant{name: "docker pull", run: func(ctx context.Context) (sample, error) {
		start := time.Now()
		_, err := docker.Run(ctx, nil, "pull", "--quiet", ref)
		return sample{wall: time.Since(start)}, err
	}}
	theirs.before = func() error {
		_, err := docker.Run(ctx, nil, "image", "prune", "--all", "--force")
		syscall.Sync()
		return err
	}
	slow := *b
	slow.runs = min(b.runs, 3)
	got, err := slow.interleave(ctx, ours, again, theirs)
	if err != nil {
		return err
	}
	b.within(fmt.Sprintf("pull and unpack an image of %d MB, %d files", b.size(500, 10), files), got[0], got[2], "docker pull", 1)
	b.atMost("the same again, asking for a newer one", got[1], "-", 100*time.Millisecond)
	return nil
}

// registry starts penstock registry with images of its own and gives its host:port.
func (b *bench) registry(ctx context.Context) (host string, stop func(), err error) {
	cmd := exec.CommandContext(ctx, b.penstock, "registry", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(b.dir, "registry"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Cancel(); _ = cmd.Wait() } // it may have ended by itself
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("penstock registry: %w", err)
	}
	return strings.TrimPrefix(strings.TrimSpace(line), "http://"), stop, nil
}

// errFull ends a walk.
var errFull = errors.New("enough")

// pushImage pushes an image of so many layers, each with so many bytes of the files below /usr, and gives how many
// files it has.
func pushImage(ctx context.Context, ref string, layers, size int) (files int, err error) {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return 0, err
	}
	p := newPackedLayer()
	full := func() error {
		l, err := p.close()
		if err == nil {
			img, err = mutate.Append(img, mutate.Addendum{Layer: l})
		}
		p = newPackedLayer()
		if layers--; layers == 0 && err == nil {
			err = errFull
		}
		return err
	}
	err = filepath.WalkDir("/usr", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() > int64(size)/2 {
			return err
		}
		files++
		if err := p.add(path, info); err != nil || p.size < size {
			return err
		}
		return full()
	})
	if err == nil {
		err = fmt.Errorf("/usr has not enough files for %d more layers", layers)
	}
	if !errors.Is(err, errFull) {
		return 0, err
	}
	target, err := name.ParseReference(ref)
	if err != nil {
		return 0, err
	}
	return files, remote.Write(target, img, remote.WithContext(ctx))
}

// packedLayer is a layer that is being packed.
type packedLayer struct {
	packed bytes.Buffer
	gzip   *gzip.Writer
	tar    *tar.Writer
	hash   interface {
		io.Writer
		Sum([]byte) []byte
	}
	size int // bytes of files
}

func newPackedLayer() *packedLayer {
	p := &packedLayer{hash: sha256.New()}
	p.gzip = gzip.NewWriter(&p.packed)
	p.tar = tar.NewWriter(io.MultiWriter(p.gzip, p.hash))
	return p
}

func (p *packedLayer) add(path string, info fs.FileInfo) error {
	h, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	h.Name = path[1:]
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(p.tar, f)
	p.size += int(n)
	return err
}

func (p *packedLayer) close() (v1.Layer, error) {
	if err := errors.Join(p.tar.Close(), p.gzip.Close()); err != nil {
		return nil, err
	}
	diff := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", p.hash.Sum(nil))}
	return diffLayer{static.NewLayer(p.packed.Bytes(), types.DockerLayer), diff}, nil
}

// diffLayer says what its packed bytes unpack to.
type diffLayer struct {
	v1.Layer
	diff v1.Hash
}

func (l diffLayer) DiffID() (v1.Hash, error) { return l.diff, nil }
