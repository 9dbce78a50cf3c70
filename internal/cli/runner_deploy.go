package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
)

// incomingDir, below a runner's directory, has files of instances while they come.
const incomingDir = "incoming"

// deploying is a runner that runs instances.
type deploying struct {
	f       *runnerFlags
	address netip.Addr
	machine *deploy.Machine
	host    *deploy.Host
}

// openDeploy opens this machine as a target. What runs of an earlier one goes on.
func (f *runnerFlags) openDeploy(ctx context.Context, known joined, x *job.Executor, m *machines) (d *deploying, err error) {
	d = &deploying{f: f}
	if d.address, err = f.deployAddress(ctx, known.URL); err != nil {
		return nil, err
	}
	if d.machine, err = deploy.NewMachine(filepath.Join(f.data, incomingDir)); err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	d.host, err = deploy.NewHost(opening, deploy.HostOptions{
		Options: d.machine.Options(), Dir: filepath.Join(f.data, instancesDir), Layers: m.layers, Images: x.Images.(container.Images), Provider: m.provider(),
		Plain: filepath.Join(f.data, plainDir), Listen: d.address, Fetch: d.machine.Fetch,
		Log: func(format string, args ...any) { slog.Warn(fmt.Sprintf(format, args...)) },
	})
	if err != nil && opening.Err() != nil && ctx.Err() == nil {
		return nil, withHint(errors.New("another runner runs instances in "+f.data), "name another directory with --data")
	}
	return d, err
}

// deployAddress is where the proxy of the server is to reach instances.
func (f *runnerFlags) deployAddress(ctx context.Context, server string) (netip.Addr, error) {
	if f.address != "" {
		at, err := netip.ParseAddr(f.address)
		if err != nil || at.IsUnspecified() {
			return at, withHint(fmt.Errorf("--deploy-address %s: no address of a machine", f.address), "it is like 10.0.0.7")
		}
		return at.Unmap(), nil
	}
	finding, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		at, err := runner.AddressTo(finding, server)
		if err == nil {
			return at, nil
		}
		select {
		case <-finding.Done():
			return at, withHint(fmt.Errorf("find the address by which this machine reaches %s: %w", server, err), "say it: --deploy-address IP")
		case <-time.After(time.Second): // the network may not be there yet
		}
	}
}

// work runs instances, and jobs as work does, until ctx ends or the server knows the runner no more.
func (d *deploying) work(ctx context.Context, queue *runner.Remote, work func(context.Context) error) error {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var refused error
	var open sync.WaitGroup
	open.Go(func() {
		refused = queue.KeepOpen(ctx, d.address, func(ctx context.Context, c net.Conn) error { return d.machine.Serve(ctx, d.host, c) })
		enough()
	})
	err := work(ctx)
	enough()
	open.Wait()
	if refused != nil && err == nil {
		err = withHint(refused, "what runs here goes on; penstock stop --data "+d.f.data+" ends it")
	}
	return err
}

// close lets go of what runs, and says that it goes on.
func (d *deploying) close(stderr io.Writer) error {
	n := d.host.Running()
	err := d.host.Close()
	if n > 0 {
		fmt.Fprintf(stderr, "Instances that go on: %d. The next start takes them over; penstock stop --data %s ends them.\n", n, d.f.data)
	}
	return err
}
