package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
)

func imageCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "Pull, push, load, save, list and remove the images that jobs run",
		Long: `The images that jobs, services and actions run are kept once for all of this user's runs, with no daemon. A job that
names an image gets it by itself; these commands are for looking after what is here.

  penstock image pull postgres:15              get it, or its newest version
  docker save app | penstock image load        take it from docker (or podman, skopeo, a file)
  penstock image push app localhost:5000/app   copy it to a registry (penstock registry is one)
  penstock image prune --all --unused 720h     forget what was not used for a month

Names are completed as docker does: postgres is docker.io/library/postgres:latest. Instead of a name the beginning of an
ID will do. Credentials are those of docker login and podman login.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(imagePullCommand(), imagePushCommand(), imageLoadCommand(), imageSaveCommand(), imageListCommand(),
		imageTagCommand(), imageRemoveCommand(), imagePruneCommand())
	return c
}

// imageStore is the user's images, open for one command.
type imageStore struct {
	*image.Store
	layers *layer.Store
}

func openImageStore() (*imageStore, error) {
	data, err := dataDir()
	if err != nil {
		return nil, err
	}
	layers, err := layer.Open(filepath.Join(data, "layers"))
	if err != nil {
		return nil, err
	}
	c, err := config.Read(".") // its mirrors hold for commands too
	if err != nil {
		return nil, err
	}
	images, err := openImages(data, layers, c.Images)
	if err != nil {
		layers.Close()
		return nil, err
	}
	return &imageStore{images, layers}, nil
}

// withImages runs do with the user's images; Ctrl-C ends its context. What goes wrong is told with what to do next.
func withImages(c *cobra.Command, do func(ctx context.Context, images *imageStore) error) error {
	images, err := openImageStore()
	if err != nil {
		return err
	}
	defer images.layers.Close()
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = do(ctx, images)
	if err != nil && ctx.Err() != nil {
		return &exitError{exitCancelled, errors.New("cancelled")}
	}
	return imageError(err)
}

// imageError adds what to do next.
func imageError(err error) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrName):
		return withHint(err, "names look like postgres:15 or ghcr.io/owner/name:tag, in lower case")
	case errors.Is(err, image.ErrDenied):
		hint = "docker login or podman login to that registry; their credentials are used"
	case errors.Is(err, image.ErrUnreachable):
		hint = "see that the registry is up and its name is right; penstock image load takes images from files"
	case errors.Is(err, image.ErrPlatform):
		hint = "--platform asks for another one"
	case errors.Is(err, image.ErrArchive):
		hint = "build or push the image anew: nothing of it was kept"
	}
	if hint != "" {
		err = withHint(err, hint)
	}
	return &exitError{exitFailed, err}
}

// completeImages completes the names of the images that are here.
func completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	images, err := openImageStore()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer images.layers.Close()
	list, err := images.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, img := range list {
		if img.Name != "" {
			names = append(names, shortName(img.Name))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// shortName is what people write for a full name.
func shortName(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

func imagePullCommand() *cobra.Command {
	var platform string
	c := &cobra.Command{
		Use:   "pull NAME...",
		Short: "Get images, or their newest versions, from their registries",
		Long: `Gets images from their registries and unpacks them. Layers that are here are not fetched again. A job does this by
itself for an image that is not here; this command also asks whether there is a newer one of the same name.

Each image is printed with its digest: NAME@DIGEST names exactly this one for ever.`,
		Example: `  penstock image pull postgres:15 redis:7-alpine
  penstock image pull --platform linux/arm64 alpine`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeImages,
		RunE: func(c *cobra.Command, names []string) error {
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				for _, name := range names {
					p := newTransfer(c.ErrOrStderr(), "pull "+name)
					img, err := images.Pull(ctx, name, image.PullOptions{Always: true, Platform: platform, Progress: p.tell})
					p.end(err, p.fetched())
					if err != nil {
						return err
					}
					fmt.Fprintln(c.OutOrStdout(), pinned(img))
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "the image for this `OS/ARCH[/VARIANT]` rather than for this machine")
	_ = c.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// pinned names an image for ever.
func pinned(img image.Image) string {
	name, _, _ := strings.Cut(img.Name, "@")
	if name == "" {
		return img.Digest
	}
	return shortName(name) + "@" + img.Digest
}

func imagePushCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "push NAME [TO]",
		Short: "Copy an image to a registry",
		Long: `Copies an image to the registry that TO names, or its own name. What the registry has already is not sent again. The
pushed image is printed with its digest, which is the same here and there.`,
		Example: `  penstock image push app:1 ghcr.io/owner/app:1
  penstock image push localhost:5000/app`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			to := args[len(args)-1]
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				p := newTransfer(c.ErrOrStderr(), "push "+to)
				digest, err := images.Push(ctx, args[0], to, image.PushOptions{Progress: p.tell})
				p.end(err, "done")
				if err != nil {
					return err
				}
				full, err := image.FullName(to)
				if err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), pinned(image.Image{Name: full, Digest: digest}))
				return nil
			})
		},
	}
}

func imageLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "load [FILE]",
		Short: "Take in the images of an archive",
		Long: `Takes in the images of an archive as docker save, podman save, skopeo and penstock image save write it, also packed with
gzip or zstd. Without FILE, or with -, it is read from the standard input.`,
		Example: `  docker save app | penstock image load
  penstock image load images.tar.zst`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in := c.InOrStdin()
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("load: %w", err)
				}
				defer f.Close()
				in = f
			}
			if isTerminal(in) {
				return withHint(errors.New("load: an archive is not typed"), "name a file, or write docker save NAME | penstock image load")
			}
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				loaded, err := images.Load(ctx, in)
				for _, img := range loaded {
					fmt.Fprintln(c.OutOrStdout(), pinned(img))
				}
				return err
			})
		},
	}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func imageSaveCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "save NAME...",
		Short: "Write images as an archive that docker load takes",
		Long: `Writes images as one tar archive, for docker load, podman load, skopeo (docker-archive: and oci-archive:) and
penstock image load. Without --output it goes to the standard output.`,
		Example: `  penstock image save app | docker load
  penstock image save -o images.tar postgres:15 redis:7`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeImages,
		RunE: func(c *cobra.Command, names []string) error {
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				if output == "" || output == "-" {
					if isTerminal(c.OutOrStdout()) {
						return withHint(errors.New("save: an archive is nothing for a terminal"), "name a file with -o, or write penstock image save NAME | docker load")
					}
					return images.Save(ctx, c.OutOrStdout(), names...)
				}
				return saveTo(ctx, images, output, names)
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write to this `FILE`")
	return c
}

// saveTo writes an archive to a file; a file that was there before stays until the new one is whole.
func saveTo(ctx context.Context, images *imageStore, name string, refs []string) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer os.Remove(f.Name())
	err = images.Save(ctx, f, refs...)
	if bad := f.Close(); err == nil {
		err = bad
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// listedImage is one row of `penstock image list --json`.
type listedImage struct {
	Name     string    `json:"name"`
	Digest   string    `json:"digest"`
	ID       string    `json:"id"`
	Platform string    `json:"platform"`
	Created  time.Time `json:"created"`
	Size     int64     `json:"size"`
}

func imageListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images that are here",
		Long:    "Lists the images that are here, sorted by name. SIZE is what they have packed; layers that several images share are kept once.",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withImages(c, func(_ context.Context, images *imageStore) error {
				list, err := images.List()
				if err != nil {
					return err
				}
				rows := []listedImage{}
				for _, img := range list {
					platform := strings.TrimSuffix(strings.Join([]string{img.OS, img.Arch, img.Variant}, "/"), "/")
					rows = append(rows, listedImage{img.Name, img.Digest, img.ID, platform, img.Created, img.Size})
				}
				if asJSON {
					return writeJSON(c.OutOrStdout(), rows)
				}
				return printImages(c.OutOrStdout(), rows)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printImages(out io.Writer, rows []listedImage) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tID\tPLATFORM\tCREATED\tSIZE")
	for _, r := range rows {
		name, created := shortName(r.Name), "-"
		if name == "" {
			name = "-"
		}
		if r.Created.Unix() > 0 {
			created = r.Created.Local().Format("2006-01-02 15:04")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", safe(name), r.ID[len("sha256:"):][:12], safe(r.Platform), created, units.HumanSize(float64(r.Size)))
	}
	return t.Flush()
}

func imageTagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "tag NAME NEW",
		Short:             "Give an image another name",
		Long:              "Gives an image another name. What had that name before loses it.",
		Example:           "  penstock image tag app:1 ghcr.io/owner/app:1",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			return withImages(c, func(_ context.Context, images *imageStore) error { return images.Tag(args[0], args[1]) })
		},
	}
}

func imageRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Remove names of images",
		Long:              "Removes names of images. What no name needs any more goes with penstock image prune.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeImages,
		RunE: func(c *cobra.Command, names []string) error {
			return withImages(c, func(_ context.Context, images *imageStore) error {
				for _, name := range names {
					if err := images.Remove(name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func imagePruneCommand() *cobra.Command {
	var o image.PruneOptions
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no name needs, or images that were not used for long",
		Long: `Removes images without a name and the layers that no image needs. With --all also images with a name, with --unused only
those that no job and no command used for so long. What is younger than an hour stays: someone may be about to name it.`,
		Example: "  penstock image prune --all --unused 720h",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Unused < 0 || o.Unused > 0 && !o.All {
				return withHint(errors.New("prune: --unused says which images with a name go"), "add --all")
			}
			return withImages(c, func(ctx context.Context, images *imageStore) error {
				done, err := images.Prune(ctx, o)
				for _, name := range done.Names {
					fmt.Fprintln(c.OutOrStdout(), shortName(name))
				}
				if err == nil {
					err = images.layers.Collect(ctx)
				}
				if err == nil {
					fmt.Fprintf(c.ErrOrStderr(), "%d names and %s removed\n", len(done.Names), units.HumanSize(float64(done.Bytes)))
				}
				return err
			})
		},
	}
	c.Flags().BoolVarP(&o.All, "all", "a", false, "also images that have a name")
	c.Flags().DurationVar(&o.Unused, "unused", 0, "with --all, only images that were not used for this `TIME` (720h)")
	return c
}
