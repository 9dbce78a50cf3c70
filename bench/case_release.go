package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// keeperHelper as the first argument makes this program the keeper of an instance, as it does penstock.
const keeperHelper = "instance"

// keepInstance becomes the penstock that is measured: its keepers count, not ours.
func keepInstance(dir string) error {
	penstock := filepath.Join(filepath.Dir(filepath.Dir(dir)), "penstock")
	return syscall.Exec(penstock, []string{"penstock", keeperHelper, dir}, os.Environ())
}

// releaseServer is the program whose start is measured: a small one, so that what comes on top shows.
var releaseServer = []string{"sh", "-c", "echo hello >index.html && exec busybox httpd -f -p 127.0.0.1:$PORT"}

// releaseHealth is a usual health check: it is asked every second.
var releaseHealth = cd.Health{Path: "/", Interval: time.Second, Timeout: 5 * time.Second, Retries: 30}

// releases is a target of this host.
type releases struct {
	host  *deploy.Host
	last  cd.ReleaseID // that was wanted
	seen  chan seenInstance
	close func() error
}

type seenInstance struct {
	release cd.ReleaseID
	cd.Instance
}

// measureRelease: an instance of a release from being wanted to its first good answer, over the program's own start. The
// one that it takes the place of runs meanwhile, as it does when one is released.
func measureRelease(ctx context.Context, b *bench) (err error) {
	r, err := b.releases(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	got, err := b.interleave(ctx,
		contestant{name: "instance", before: settle, run: r.start},
		contestant{name: "own start", run: b.ownServer},
	)
	if err != nil {
		return err
	}
	b.over("an instance of a release until it is healthy", got[0], got[1], 1, "its own start", 100*time.Millisecond)
	return nil
}

// settle lets what the last release has left to do be done: releases do not come in the same second.
func settle() error {
	time.Sleep(500 * time.Millisecond)
	return nil
}

// releases opens the target, with the penstock that is measured where keepInstance finds it.
func (b *bench) releases(ctx context.Context) (*releases, error) {
	if at := filepath.Join(b.dir, "penstock"); at != b.penstock {
		if err := os.Symlink(b.penstock, at); err != nil {
			return nil, err
		}
	}
	layers, err := layer.Open(filepath.Join(b.dir, "layers-of-releases"))
	if err != nil {
		return nil, err
	}
	images, err := image.Open(filepath.Join(b.dir, "images-of-releases"), layers, image.Options{Owner: sandbox.Owner()})
	if err != nil {
		return nil, err
	}
	machines, err := sandbox.NewHost(layers, nil)
	if err != nil {
		return nil, err
	}
	r := &releases{seen: make(chan seenInstance, 100)}
	r.host, err = deploy.NewHost(ctx, deploy.HostOptions{
		Options: deploy.Options{Seen: r.told},
		Dir:     filepath.Join(b.dir, "instances"), Layers: layers, Images: container.Images{Store: images}, Provider: machines,
	})
	if err != nil {
		return nil, errors.Join(err, machines.Close(), layers.Close())
	}
	r.close = func() error {
		r.host.Ensure(nil)
		return errors.Join(r.wait(ctx, r.last, cd.Stopped), r.host.Close(), machines.Close(), layers.Close())
	}
	return r, nil
}

func (r *releases) told(ctx context.Context, release cd.ReleaseID, o cd.Observed) error {
	select {
	case r.seen <- seenInstance{release, o.Instance}:
	case <-ctx.Done():
	}
	return nil
}

func wantedRelease(id cd.ReleaseID) deploy.Wanted {
	return deploy.Wanted{
		Release: id, Service: "web", Instances: 1, Health: releaseHealth,
		Revision: cd.Revision{ID: fmt.Sprint(id), Command: releaseServer, Port: 8000, Grace: 100 * time.Millisecond},
	}
}

// start wants an instance, waits until it is healthy, and ends the one before outside of the time.
func (r *releases) start(ctx context.Context) (sample, error) {
	before := r.last
	r.last++
	all := []deploy.Wanted{wantedRelease(r.last)}
	if before > 0 {
		all = append(all, wantedRelease(before))
	}
	began := time.Now()
	r.host.Ensure(all)
	if err := r.wait(ctx, r.last, cd.Healthy); err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	r.host.Ensure(all[:1])
	if before == 0 {
		return sample{wall: took}, nil
	}
	return sample{wall: took}, r.wait(ctx, before, cd.Stopped)
}

func (r *releases) wait(ctx context.Context, release cd.ReleaseID, state cd.State) error {
	for {
		select {
		case i := <-r.seen:
			if i.release != release {
				continue
			}
			if i.State == state {
				return nil
			}
			if i.State == cd.Exited || i.State == cd.Ill {
				return fmt.Errorf("%s: %s", i.State, i.Reason)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ownServer starts the same server as a plain process and asks it as often as can be.
func (b *bench) ownServer(ctx context.Context) (sample, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return sample{}, err
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	cmd := exec.CommandContext(ctx, releaseServer[0], releaseServer[1:]...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "PORT="+strconv.Itoa(addr.Port))
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for {
		resp, err := http.Get("http://" + addr.String() + "/")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			return sample{wall: time.Since(began)}, err
		}
		select {
		case <-ctx.Done():
			return sample{}, context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
