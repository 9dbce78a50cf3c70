package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/proxy/daemon"
)

// stopPatience is how long stop waits for a server to let go of its instances.
const stopPatience = 3 * time.Second

func stopCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   "stop",
		Short: "End what a stopped server has left running: the proxy and what was released",
		Long: `End what goes on when a server, or a runner with --deploy, is stopped: its proxy and the instances of what was released there, so
that users are served while it is restarted or upgraded. One that is started again takes them over; this command ends them.`,
		Example: "  penstock stop --data /var/lib/penstock",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if data == "" {
				var err error
				if data, err = serverDir(); err != nil {
					return err
				}
			}
			if _, err := os.Stat(data); err != nil {
				return withHint(fmt.Errorf("the data directory: %w", err), "--data DIR, as the server has it")
			}
			return stopReleased(ctx, data)
		},
	}
	c.Flags().StringVar(&data, "data", "", "the data `DIR` of the server or runner (default as serve has it)")
	return c
}

// stopReleased ends the proxy and the instances of a server that does not run.
func stopReleased(ctx context.Context, data string) error {
	if _, err := os.Stat(filepath.Join(data, instancesDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	layers, err := layer.Open(filepath.Join(data, "layers"))
	if err != nil {
		return err
	}
	defer layers.Close()
	opening, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	target, err := deploy.NewHost(opening, deploy.HostOptions{
		Options: deploy.Options{
			Seen:    func(context.Context, cd.ReleaseID, cd.Observed) error { return nil },
			Drained: func(context.Context, string) error { return nil },
		},
		Dir: filepath.Join(data, instancesDir), Layers: layers, Images: container.Images{}, Plain: filepath.Join(data, plainDir),
	})
	if err != nil {
		if opening.Err() != nil {
			return withHint(errors.New("a server or a runner runs on this data directory"), "stop it first; what is released goes on until then")
		}
		return err
	}
	err = stopProxy(ctx, filepath.Join(data, proxyDir))
	target.Ensure(nil)
	return errors.Join(err, target.Empty(ctx), target.Close())
}

func stopProxy(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	client, err := daemon.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return client.Stop(ctx)
}
