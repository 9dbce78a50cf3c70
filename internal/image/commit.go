package image

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/penstock-ci/penstock/internal/layer"
)

// Commit is an image to be made.
type Commit struct {
	Base string // name or digest of an image of the store; empty for an image from scratch
	// Config is complete but for the root file system, which is filled in. Its history is taken if it fits the layers
	// (one entry that is not empty for each, those of the base included); else that of the base is continued with one
	// entry for each new layer.
	Config  v1.ConfigFile
	Layers  []layer.ID // the new ones, lowest first
	Names   []string   // may be empty: then the image is found by its digest, until Prune
	Created time.Time
}

// nameless is the repository of images that have no name.
const nameless = "localhost/nameless"

// Commit makes an image of a base and layers that were written on it. What the layers themselves stand on is not asked:
// they are taken for what was changed in the layer before. They are packed, several at once, and known as unpacked.
func (s *Store) Commit(ctx context.Context, c Commit) (Image, error) {
	var names []named
	for _, text := range c.Names {
		n, err := parseName(text)
		if err != nil {
			return Image{}, err
		}
		names = append(names, n)
	}
	base, err := s.base(c)
	if err != nil {
		return Image{}, fmt.Errorf("commit: base: %w", err)
	}
	fresh, err := s.packAll(ctx, c.Layers)
	if err != nil {
		return Image{}, s.explain(fmt.Errorf("commit: %w", err))
	}
	img, err := s.assemble(base, c, fresh, names)
	if err != nil {
		return Image{}, s.explain(fmt.Errorf("commit: %w", err))
	}
	return img, nil
}

// base opens the image that another one is made on; from scratch there is an empty one.
func (s *Store) base(c Commit) (*content, error) {
	if c.Base == "" {
		return &content{manifest: &manifest{MediaType: string(types.OCIManifestSchema1)}, config: &v1.ConfigFile{}}, nil
	}
	want := v1.Platform{OS: c.Config.OS, Architecture: c.Config.Architecture, Variant: c.Config.Variant}
	if want.OS == "" || want.Architecture == "" {
		want = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	_, found, err := s.find(c.Base, want)
	return found, err
}

// packAll packs layers and makes them known as what their tars unpack to.
func (s *Store) packAll(ctx context.Context, ids []layer.ID) ([]packed, error) {
	all := make([]packed, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, id := range ids {
		g.Go(func() (err error) {
			if all[i], err = s.pack(ctx, id); err != nil {
				return err
			}
			return s.adopt(id, all[i].Diff)
		})
	}
	return all, g.Wait()
}

// adopt makes a layer known as what a tar unpacks to, with nothing below it: images share it by its content, whatever
// they have below.
func (s *Store) adopt(id layer.ID, diff string) error {
	if _, ok := s.unpacked(diff); ok {
		return nil
	}
	l, err := s.layers.Layer(id)
	if err != nil || l.Owner != s.o.Owner {
		return err // another user's ids: unpacked anew when it is needed
	}
	if len(l.Below) > 0 {
		if id, err = s.layers.View(id, ".", layer.Layer{Owner: l.Owner, Whole: l.Whole}); err != nil {
			return err
		}
	}
	return s.layers.SetRef(refPrefix+diff, id)
}

// assemble writes configuration and manifest, and the names.
func (s *Store) assemble(base *content, c Commit, fresh []packed, names []named) (Image, error) {
	m := *base.manifest
	m.SchemaVersion, m.Annotations, m.Subject, m.ArtifactType = 2, nil, nil, ""
	m.Layers = slices.Clone(m.Layers)
	config := c.Config
	config.Created = v1.Time{Time: c.Created.UTC()}
	config.RootFS = v1.RootFS{Type: "layers", DiffIDs: slices.Clone(base.config.RootFS.DiffIDs)}
	for _, p := range fresh {
		digest, err := v1.NewHash(p.Digest)
		if err != nil {
			return Image{}, err
		}
		diff, err := v1.NewHash(p.Diff)
		if err != nil {
			return Image{}, err
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: m.layerType(), Size: p.Size, Digest: digest})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	config.History = history(base, c, len(fresh))

	data, err := json.Marshal(config)
	if err != nil {
		return Image{}, err
	}
	id, err := s.putData(data)
	if err != nil {
		return Image{}, err
	}
	hash, err := v1.NewHash(id)
	if err != nil {
		return Image{}, err
	}
	m.Config = &v1.Descriptor{MediaType: m.configType(), Size: int64(len(data)), Digest: hash}
	return s.putImage(&content{mediaType: m.MediaType, manifest: &m, config: &config}, names)
}

// putImage writes a manifest and gives it its names.
func (s *Store) putImage(c *content, names []named) (Image, error) {
	data, err := json.Marshal(c.manifest)
	if err != nil {
		return Image{}, err
	}
	if c.digest, err = s.putData(data); err != nil {
		return Image{}, err
	}
	return s.nameAll(c, names)
}

// nameAll gives an image its names; one without any is kept until Prune.
func (s *Store) nameAll(c *content, names []named) (Image, error) {
	r := record{c.digest, c.mediaType}
	if len(names) == 0 {
		err := s.shared(func() error { return s.record(named{repository: nameless, digest: c.digest}, c.manifest, r) })
		return c.image(""), err
	}
	for _, n := range names {
		if err := s.setName(n, r); err != nil {
			return Image{}, err
		}
	}
	return c.image(names[0].String()), nil
}

// history says what made each layer, of the base and of the new ones.
func history(base *content, c Commit, fresh int) []v1.History {
	filled := 0
	for _, h := range c.Config.History {
		if !h.EmptyLayer {
			filled++
		}
	}
	if filled == len(base.manifest.Layers)+fresh {
		return c.Config.History
	}
	all := slices.Clone(base.config.History)
	for range fresh {
		all = append(all, v1.History{Created: v1.Time{Time: c.Created.UTC()}, CreatedBy: "penstock"})
	}
	return all
}

// isDocker says whether a manifest has docker's types rather than those of OCI, which are not mixed.
func (m *manifest) isDocker() bool { return m.MediaType == string(types.DockerManifestSchema2) }

func (m *manifest) layerType() types.MediaType {
	if m.isDocker() {
		return types.DockerLayer
	}
	return types.OCILayer
}

func (m *manifest) configType() types.MediaType {
	if m.isDocker() {
		return types.DockerConfigJSON
	}
	return types.OCIConfigJSON
}
