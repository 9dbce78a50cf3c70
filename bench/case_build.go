package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// buildText is what is built: tools, dependencies, sources, and a step that reads them all.
const buildText = `FROM busybox
RUN mkdir -p /app /etc/tools && echo installed >/etc/tools/list
WORKDIR /app
COPY dependencies ./
RUN mkdir modules && for i in $(seq 400); do echo "$i" >modules/$i; done
COPY src ./src
RUN cat modules/* $(find src -type f) | sha256sum >/app/built
CMD ["cat", "/app/built"]
`

// measureBuild: a Dockerfile of seven steps, built here in this process, by a docker daemon's BuildKit and by buildah.
// The docker client and buildah are processes of their own, as their users have them.
func measureBuild(ctx context.Context, b *bench) (err error) {
	dir := filepath.Join(b.dir, "build")
	if err := buildContext(dir, b.size(500, 20)); err != nil {
		return err
	}
	ours, stop, err := b.builder(ctx, filepath.Join(b.dir, "builder"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var base bytes.Buffer
	tree, config := imagetest.Busybox()
	if err := tree.Write(&base, "busybox:latest", config); err != nil {
		return err
	}
	archive := filepath.Join(b.dir, "busybox.tar")
	if err := os.WriteFile(archive, base.Bytes(), 0o600); err != nil {
		return err
	}
	if _, err := ours.Images.Load(ctx, &base); err != nil {
		return err
	}
	docker, err := imagetest.StartDocker(ctx, b.dir)
	if err != nil {
		return err
	}
	defer docker.Close() // what is left is removed with the directory
	if _, err := docker.Run(ctx, nil, "load", "--input", archive); err != nil {
		return err
	}
	buildah := []string{"buildah", "--root", filepath.Join(b.dir, "buildah"), "--runroot", filepath.Join(b.dir, "buildah-run"), "--storage-driver", "overlay"}
	if _, err := output(ctx, buildah[0], append(buildah[1:], "pull", "docker-archive:"+archive)...); err != nil {
		return err
	}
	peers := func(before func() error, fresh bool) []contestant {
		extra := []string{}
		if fresh {
			extra = append(extra, "--no-cache")
		}
		kit := append([]string{"env", "DOCKER_HOST=" + docker.Host, "DOCKER_BUILDKIT=1", "/usr/bin/docker", "build", "--quiet", "--network=none"}, extra...)
		other := append(append(append([]string{}, buildah...), "bud", "--quiet", "--layers", "--isolation=chroot"), extra...)
		mine := contestant{name: "penstock", before: before, run: func(ctx context.Context) (sample, error) { return buildHere(ctx, ours, dir, fresh) }}
		theirs, chroot := b.command("docker build", dir, append(kit, ".")...), b.command("buildah", dir, append(other, ".")...)
		theirs.before, chroot.before = before, before
		return []contestant{mine, theirs, chroot}
	}
	changes := 0
	change := func() error {
		changes++
		return os.WriteFile(filepath.Join(dir, "src", "0"), fmt.Appendln(nil, changes, time.Now()), 0o644)
	}
	for _, c := range []struct {
		what   string
		before func() error
		fresh  bool
		target float64
	}{{"build seven steps, nothing kept", nil, true, 1}, {"build them again, nothing changed", nil, false, 1}, {"build them again, one source changed", change, false, 1}} {
		got, err := b.interleave(ctx, peers(c.before, c.fresh)...)
		if err != nil {
			return err
		}
		b.within(c.what, got[0], got[1], "docker build (BuildKit)", c.target)
		b.within(c.what, got[0], got[2], "buildah", c.target)
	}
	return nil
}

// buildContext makes sources and what they depend on.
func buildContext(dir string, files int) error {
	for _, sub := range []string{"src", "dependencies"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
		for i := range files {
			if err := os.WriteFile(filepath.Join(dir, sub, fmt.Sprint(i)), []byte(strings.Repeat(fmt.Sprint(sub, i), 100)), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(buildText), 0o644)
}

// builder opens a builder in this process with stores of its own.
func (b *bench) builder(ctx context.Context, dir string) (*build.Builder, func() error, error) {
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		return nil, nil, err
	}
	images, err := image.Open(filepath.Join(dir, "images"), layers, image.Options{Owner: sandbox.Owner()})
	if err != nil {
		return nil, nil, errors.Join(err, layers.Close())
	}
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		return nil, nil, errors.Join(err, layers.Close())
	}
	return &build.Builder{Images: images, Layers: layers, Provider: host}, func() error { return errors.Join(host.Close(), layers.Close()) }, nil
}

func buildHere(ctx context.Context, b *build.Builder, dir string, fresh bool) (sample, error) {
	start := time.Now()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return sample{}, err
	}
	defer root.Close()
	_, err = b.Build(ctx, build.Request{Context: root, NoCache: fresh, Offline: true, Names: []string{"bench"}}, build.Discard)
	return sample{wall: time.Since(start)}, err
}
