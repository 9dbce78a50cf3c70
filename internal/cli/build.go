package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/docker"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// dockerServices answer the docker commands of jobs (job.Docker).
type dockerServices struct {
	images  *image.Store
	builder *build.Builder
	send    bool
}

// Serve implements job.Docker.
func (d dockerServices) Serve(l net.Listener, sb sandbox.Sandbox) func() []string {
	s := &docker.Service{Images: d.images, Builder: d.builder, Machine: sb, Send: d.send}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Serve(ctx, l); close(done) }()
	return func() []string {
		cancel()
		<-done
		var notes []string
		for _, name := range s.Kept() {
			notes = append(notes, fmt.Sprintf("%s was kept here and not sent to its registry: penstock image push %s sends it", name, name))
		}
		return notes
	}
}

// actionBuilder builds the images of Docker actions (job.Builder).
type actionBuilder struct {
	*build.Builder
}

// BuildAction implements job.Builder.
func (b actionBuilder) BuildAction(ctx context.Context, dir, dockerfile string, out io.Writer) (container.Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return container.Image{}, err
	}
	defer root.Close()
	text, err := root.ReadFile(dockerfile)
	if err != nil {
		return container.Image{}, err
	}
	res, err := b.Build(ctx, build.Request{Context: root, Dockerfile: text, Name: dockerfile}, build.NewProgress(out))
	if err != nil {
		return container.Image{}, err
	}
	layers, err := b.Images.Layers(ctx, res.Image)
	return container.Image{Image: sandbox.Image{Ref: res.Image.Digest, Layers: layers}, Config: res.Image.Config}, err
}
