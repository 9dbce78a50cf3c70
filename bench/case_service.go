package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// serviceImage is PostgreSQL with a database that is there already, so that its start is measured and not what makes one.
const serviceImage = "bench.test/postgres:15"

// ownStart starts the same server as a plain process, whose database is there, and prints how long it takes to answer.
const ownStart = `set -e
bin=/usr/lib/postgresql/15/bin
began=$(date +%s%N)
setpriv --reuid 65534 --regid 65534 --clear-groups $bin/postgres -D "$1" -c listen_addresses=127.0.0.1 -c port="$2" -c unix_socket_directories="$1" >/dev/null 2>&1 &
until $bin/pg_isready -q -h 127.0.0.1 -p "$2"; do sleep 0.005; done
echo $(($(date +%s%N) - began))
kill -INT $!; wait $! || true`

// containers are the parts of Penstock that a container needs.
type containers struct {
	machine sandbox.Sandbox
	image   container.Image
	close   func() error
}

// measureService: starting a container beside a job, and a PostgreSQL service until it is healthy, beside docker run of
// the same image and beside the server's own start.
func measureService(ctx context.Context, b *bench) (err error) {
	docker, err := imagetest.StartDocker(ctx, b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, docker.Close()) }()
	var archive bytes.Buffer
	tree, config := imagetest.Postgres()
	config.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "pg_isready", "-q", "-h", "127.0.0.1"}, Interval: time.Second, Retries: 60}
	config.Env = append(config.Env, "POSTGRES_PASSWORD=x")
	if err := tree.Write(&archive, serviceImage, config); err != nil {
		return err
	}
	if _, err := docker.Run(ctx, bytes.NewReader(archive.Bytes()), "load"); err != nil {
		return err
	}
	c, err := b.containers(ctx, bytes.NewReader(archive.Bytes()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	got, err := b.interleave(ctx,
		contestant{name: "container", run: c.start},
		contestant{name: "docker run", run: func(ctx context.Context) (sample, error) {
			start := time.Now()
			_, err := docker.Run(ctx, nil, "run", "--rm", "--network", "none", "--entrypoint", "/bin/true", serviceImage)
			return sample{wall: time.Since(start)}, err
		}},
	)
	if err != nil {
		return err
	}
	b.atMost("start a container beside a job, run a command, end it", got[0], "docker run --rm "+millis(got[1].wall), 30*time.Millisecond)
	b.faster("the same", got[0], got[1], "docker run --rm", 1)
	return b.measureReady(ctx, c)
}

// measureReady compares a service with the server's own start. Both make their database first, outside of the time.
func (b *bench) measureReady(ctx context.Context, c *containers) error {
	data := filepath.Join(b.dir, "pgdata")
	prepare := fmt.Sprintf("mkdir -p %[1]q && chown 65534:65534 %[1]q && setpriv --reuid 65534 --regid 65534 --clear-groups /usr/lib/postgresql/15/bin/initdb -D %[1]q -U postgres -A trust >/dev/null", data)
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	if _, err := b.spawn(ctx, b.dir, nil, "bash", "-c", prepare); err != nil {
		return err
	}
	disk, err := c.prepared(ctx)
	if err != nil {
		return err
	}
	got, err := b.interleave(ctx,
		contestant{name: "service", run: func(ctx context.Context) (sample, error) { return c.ready(ctx, disk) }},
		contestant{name: "own start", run: func(ctx context.Context) (sample, error) {
			var out bytes.Buffer
			if _, err := b.spawn(ctx, b.dir, &out, "bash", "-c", ownStart, "start", data, "55432"); err != nil {
				return sample{}, err
			}
			took, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			return sample{wall: time.Duration(took)}, err
		}},
	)
	if err != nil {
		return err
	}
	b.over("a PostgreSQL service until it is healthy", got[0], got[1], 1, "its own start", 30*time.Millisecond)
	return nil
}

// containers opens a machine with the image that an archive holds.
func (b *bench) containers(ctx context.Context, archive io.Reader) (*containers, error) {
	layers, err := layer.Open(filepath.Join(b.dir, "services", "layers"))
	if err != nil {
		return nil, err
	}
	images, err := image.Open(filepath.Join(b.dir, "services", "images"), layers, image.Options{Owner: sandbox.Owner()})
	if err != nil {
		return nil, err
	}
	if _, err := images.Load(ctx, archive); err != nil {
		return nil, err
	}
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		return nil, err
	}
	c := &containers{close: func() error { return errors.Join(host.Close(), layers.Close()) }}
	if c.image, err = (container.Images{Store: images}).Image(ctx, serviceImage, nil, io.Discard); err == nil {
		c.machine, err = host.Open(ctx, sandbox.Spec{Name: "bench", Repo: "bench"})
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// start is one container that does nothing.
func (c *containers) start(ctx context.Context) (sample, error) {
	start := time.Now()
	one, err := container.Open(ctx, c.machine, "one", c.image, &container.Options{Entrypoint: []string{"/bin/true"}})
	if err != nil {
		return sample{}, err
	}
	err = errors.Join(one.Run(ctx, nil, nil, nil), one.Close(ctx))
	return sample{wall: time.Since(start)}, err
}

// prepared is the disk of a service that has made its database.
func (c *containers) prepared(ctx context.Context) (layer.ID, error) {
	first, err := c.open(ctx, c.image)
	if err != nil {
		return "", err
	}
	defer first.Close(ctx)
	if err := first.Ready(ctx, func(string, time.Duration, time.Duration) {}); err != nil {
		return "", err
	}
	return first.Stop(ctx)
}

func (c *containers) open(ctx context.Context, img container.Image) (*container.Container, error) {
	one, err := container.Open(ctx, c.machine, "db", img, &container.Options{})
	if err == nil {
		one.Start(ctx)
	}
	return one, err
}

// ready is a service from nothing to healthy.
func (c *containers) ready(ctx context.Context, disk layer.ID) (sample, error) {
	img := c.image
	img.Layers = append(slices.Clip(img.Layers), disk)
	start := time.Now()
	one, err := c.open(ctx, img)
	if err != nil {
		return sample{}, err
	}
	err = one.Ready(ctx, func(string, time.Duration, time.Duration) {})
	took := time.Since(start)
	return sample{wall: took}, errors.Join(err, one.Close(ctx))
}
