package build

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// commit makes the image.
func (w *work) commit(ctx context.Context, root *result, meant *dockerfile2llb.Result, names []string) (image.Image, error) {
	text, err := json.Marshal(meant.Image)
	if err != nil {
		return image.Image{}, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(text, &config); err != nil {
		return image.Image{}, err
	}
	created := w.date(&config, root, meant.Epoch)
	step := w.p.begin("exporting to image")
	img, err := w.b.Images.Commit(ctx, image.Commit{Base: root.base, Config: config, Layers: root.above, Names: names, Created: created})
	if err != nil {
		step.fail(err)
		return img, err
	}
	step.say("writing image %s", img.ID)
	for _, name := range names {
		step.say("naming to %s", name)
	}
	step.done()
	return img, nil
}

// date says when the image and the steps of its history were made: when their layers were, so that a build of nothing
// new is the same image. It is BuildKit's way (exporter/containerimage, normalizeLayersAndHistory).
func (w *work) date(config *v1.ConfigFile, root *result, epoch *time.Time) time.Time {
	if epoch != nil {
		for i := range config.History {
			if at := config.History[i].Created; at.IsZero() || at.After(*epoch) {
				config.History[i].Created = v1.Time{Time: *epoch}
			}
		}
		return *epoch
	}
	above := root.above
	var first, last time.Time
	for i := range config.History {
		h := &config.History[i]
		if h.Created.IsZero() && !h.EmptyLayer && len(above) > 0 {
			if l, err := w.b.Layers.Layer(above[0]); err == nil {
				h.Created = v1.Time{Time: l.Created.UTC()}
			}
			above = above[1:]
			if first.IsZero() {
				first = h.Created.Time
			}
		}
		if !h.Created.IsZero() {
			last = h.Created.Time
		}
	}
	if first.IsZero() {
		first = last
	}
	if first.IsZero() {
		first = time.Now().UTC()
	}
	last = first
	fresh := false
	for i := range config.History {
		h := &config.History[i]
		switch {
		case h.Created.IsZero() && !fresh:
			h.Created, fresh = v1.Time{Time: first}, true
		case h.Created.IsZero():
			h.Created = v1.Time{Time: last}
		}
		last = h.Created.Time
	}
	return last
}

// Metadata is what `docker buildx build --metadata-file` writes, as far as it is about the image.
func (b *Builder) Metadata(r *Result) (map[string]any, error) {
	m := map[string]any{}
	if r.Image.Digest == "" {
		return m, nil
	}
	f, size, err := b.Images.OpenBlob(r.Image.Digest)
	if err != nil {
		return nil, fmt.Errorf("describe the image: %w", err)
	}
	defer f.Close()
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxConfig)).Decode(&manifest); err != nil {
		return nil, fmt.Errorf("describe the image: %w", err)
	}
	m["containerimage.digest"] = r.Image.Digest
	m["containerimage.config.digest"] = r.Image.ID
	m["containerimage.descriptor"] = map[string]any{"mediaType": manifest.MediaType, "digest": r.Image.Digest, "size": size}
	if len(r.Names) > 0 {
		m["image.name"] = strings.Join(r.Names, ",")
	}
	return m, nil
}

// Export writes the files of what was built as a tar stream, as `--output type=tar` and `type=local` have them.
func (b *Builder) Export(ctx context.Context, r *Result, out io.Writer) (err error) {
	m, err := b.Provider.Open(ctx, sandbox.Spec{Name: "export", Repo: "export"})
	if err != nil {
		return fmt.Errorf("export the files: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close(context.WithoutCancel(ctx))) }()
	layered, ok := m.(sandbox.Layered)
	if !ok {
		return fmt.Errorf("export the files: %w", sandbox.ErrNoImages)
	}
	at := m.Info().Temp + "/export/tree"
	if err := layered.Mount(ctx, at, r.tree...); err != nil {
		return fmt.Errorf("export the files: %w", err)
	}
	in, err := m.Get(ctx, at)
	if err != nil {
		return fmt.Errorf("export the files: %w", err)
	}
	defer in.Close()
	if err := withoutTop(out, in, "tree"); err != nil {
		return fmt.Errorf("export the files: %w", err)
	}
	return nil
}

// withoutTop copies a tar stream without the directory that everything is in.
func withoutTop(to io.Writer, from io.Reader, top string) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(h.Name, top+"/")
		if !ok || name == "" {
			continue
		}
		h.Name = name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, top+"/")
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
