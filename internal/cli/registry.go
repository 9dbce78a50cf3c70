package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
)

// registryStop is how long requests that are under way may take when the registry is ended.
const registryStop = 10 * time.Second

func registryCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "registry",
		Short: "Serve the images that are here as a registry",
		Long: `Serves the images that are here as a registry (OCI distribution 1.1) until Ctrl-C: docker, podman, buildah, helm, cosign and
Kubernetes push to it and pull from it with no account anywhere. What is pushed is an image of penstock image list.

HOST/app is the image localhost/app; HOST/docker.io/library/postgres is docker.io/library/postgres, so what jobs pulled is
there for others. It asks nobody who they are: keep it on loopback, or in a network that you trust.`,
		Example: `  penstock registry &
  docker push localhost:5000/app`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				l, err := net.Listen("tcp", listen)
				if err != nil {
					return withHint(fmt.Errorf("registry: %w", err), "--listen 127.0.0.1:0 takes a free port")
				}
				fmt.Fprintf(c.OutOrStdout(), "http://%s\n", l.Addr())
				if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
					fmt.Fprintln(c.ErrOrStderr(), "warning: whoever reaches this address can read and replace all images")
				}
				return serveRegistry(ctx, l, api.NewRegistry(images.Store))
			})
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:5000", "listen at this `HOST:PORT`")
	return c
}

// serveRegistry serves until ctx ends; that is no error.
func serveRegistry(ctx context.Context, l net.Listener, g *api.Registry) error {
	server := api.NewHTTPServer(g)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return errors.Join(err, g.Close())
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), registryStop)
	defer cancel()
	if server.Shutdown(stop) != nil {
		server.Close() // who is still at it is cut off
	}
	<-ended
	return g.Close()
}
