package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// dockerImage is what docker's contestants run.
const dockerImage = "bench.test/programs:1"

// measureDocker: opening a machine, running one command and closing it, as a container of a docker daemon and on this
// host, beside docker run of the same image.
func measureDocker(ctx context.Context, b *bench) (err error) {
	docker, err := imagetest.StartDocker(ctx, b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker.Close()) }()
	var archive bytes.Buffer
	if err := imagetest.New().Programs("/usr/bin/bash").Write(&archive, dockerImage, v1.Config{}); err != nil {
		return err
	}
	if _, err := docker.Run(ctx, &archive, "load"); err != nil {
		return err
	}
	machines, err := sandbox.NewDocker(sandbox.DockerOptions{Host: docker.Host, Image: dockerImage, Network: "none"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, machines.Close()) }()
	layers, err := layer.Open(filepath.Join(b.dir, "beside-docker"))
	if err != nil {
		return err
	}
	defer layers.Close()
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	got, err := b.interleave(ctx,
		contestant{name: "docker machine", run: func(ctx context.Context) (sample, error) { return openAndClose(ctx, machines) }},
		contestant{name: "host machine", run: func(ctx context.Context) (sample, error) { return openAndClose(ctx, host) }},
		contestant{name: "docker run", run: func(ctx context.Context) (sample, error) {
			start := time.Now()
			_, err := docker.Run(ctx, nil, "run", "--rm", "--network", "none", dockerImage, "bash", "-c", ":")
			return sample{wall: time.Since(start)}, err
		}},
	)
	if err != nil {
		return err
	}
	b.within(fmt.Sprintf("open and close a machine of docker's (%s on this host)", millis(got[1].wall)), got[0], got[2], "docker run --rm", 2)
	return nil
}
