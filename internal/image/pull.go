package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// PullOptions say how an image is pulled.
type PullOptions struct {
	Always      bool           // ask the registry even if the name is here
	Platform    string         // os/arch[/variant]; empty is Linux on this machine's processor
	Credentials *Credentials   // for the image's own registry, not for mirrors; nil takes those of docker's and podman's configuration
	Progress    func(Progress) // may be nil; called often, by one goroutine at a time
}

// parallelLayers is how many layers come in at once: as docker does.
const parallelLayers = 3

// Pull gives an image and gets it from its registry, mirrors first, if it is not here. Layers are verified and unpacked
// while they come. What is here costs no network unless o.Always. The error wraps ErrName, ErrNotFound, ErrPlatform,
// ErrDigest, ErrDenied, ErrUnreachable, ErrArchive or ErrTooLarge; then the name stands for what it stood for before.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	n, err := parseName(ref)
	if err != nil {
		return Image{}, err
	}
	want, err := parsePlatform(o.Platform)
	if err != nil {
		return Image{}, err
	}
	if !o.Always {
		if name, c, err := s.find(n.String(), want); err == nil && checkPlatform(c.config, want) == nil && s.complete(ctx, c) {
			return c.image(name), nil
		}
	}
	img, err := s.pull(ctx, n, want, o)
	if err != nil {
		return Image{}, s.explain(fmt.Errorf("pull %s: %w", n, err))
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, n named, want v1.Platform, o PullOptions) (Image, error) {
	places, err := s.places(n.repository)
	if err != nil {
		return Image{}, err
	}
	var missed []error // of mirrors
	for i, place := range places {
		own := i == len(places)-1
		var c *Credentials
		if own {
			c = o.Credentials
		}
		img, err := s.pullFrom(ctx, place, c, n, want, o.Progress)
		if err == nil {
			return img, nil
		}
		if own || ctx.Err() != nil || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDenied) {
			if len(missed) > 0 {
				err = fmt.Errorf("%w (before that, of mirrors: %w)", err, errors.Join(missed...))
			}
			return Image{}, err
		}
		missed = append(missed, err)
	}
	return Image{}, errors.Join(missed...)
}

// pullFrom pulls an image from one registry.
func (s *Store) pullFrom(ctx context.Context, place name.Repository, creds *Credentials, n named, want v1.Platform, told func(Progress)) (Image, error) {
	r, err := s.connect(ctx, place, creds)
	if err != nil {
		return Image{}, err
	}
	c, err := s.pullManifests(ctx, r, n, want)
	if err != nil {
		return Image{}, err
	}
	if err := s.pullLayers(ctx, r, c, told); err != nil {
		return Image{}, err
	}
	if err := s.setName(n, record{c.digest, c.mediaType}); err != nil {
		return Image{}, err
	}
	return c.image(n.String()), nil
}

// pullManifests gets the manifest for a platform and its configuration.
func (s *Store) pullManifests(ctx context.Context, r *source, n named, want v1.Platform) (*content, error) {
	reference := n.tag
	if n.digest != "" {
		reference = n.digest
	}
	digest := n.digest
	for range maxNesting {
		data, mediaType, err := r.manifest(ctx, reference, digest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(data, mediaType)
		if err != nil {
			return nil, err
		}
		if m.isIndex() {
			d, err := m.pick(want)
			if err != nil {
				return nil, err
			}
			reference, digest = d.Digest.String(), d.Digest.String()
			continue
		}
		c := &content{digest: digestOf(data), mediaType: m.MediaType, manifest: m}
		if err := s.pullConfig(ctx, r, c, want); err != nil {
			return nil, err
		}
		_, err = s.putData(data)
		return c, err
	}
	return nil, fmt.Errorf("%w: an index in an index in an index", ErrArchive)
}

func (s *Store) pullConfig(ctx context.Context, r *source, c *content, want v1.Platform) error {
	d := *c.manifest.Config
	if !isImageConfig(c.manifest) {
		return fmt.Errorf("%w: it is no image, but %s", ErrArchive, c.manifest.kind())
	}
	if d.Size > maxConfig {
		return fmt.Errorf("configuration of %d bytes: %w", d.Size, ErrTooLarge)
	}
	if !s.hasSized(d.Digest.String(), d.Size) {
		body := r.blob(ctx, d)
		defer body.Close()
		if err := s.PutBlob(ctx, d.Digest.String(), body); err != nil {
			return err
		}
	}
	c, err := s.openConfig(c)
	if err != nil {
		return err
	}
	return checkPlatform(c.config, want)
}

// pullLayers gets and unpacks the layers that are not here, several at once.
func (s *Store) pullLayers(ctx context.Context, r *source, c *content, told func(Progress)) error {
	p := newMeter(told, c.manifest.Layers)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for i, d := range c.manifest.Layers {
		if d.Size > s.o.MaxUnpacked {
			return fmt.Errorf("layer %d of %d bytes: %w", i+1, d.Size, ErrTooLarge)
		}
		diff := c.config.RootFS.DiffIDs[i].String()
		g.Go(func() error {
			err := s.pullLayer(ctx, r, d, diff, p)
			if err != nil {
				return fmt.Errorf("layer %d of %d: %w", i+1, len(c.manifest.Layers), err)
			}
			p.layerDone()
			return nil
		})
	}
	return g.Wait()
}

func (s *Store) pullLayer(ctx context.Context, r *source, d v1.Descriptor, diff string, p *meter) error {
	unlock, err := s.lockContent(ctx, diff)
	if err != nil {
		return err
	}
	defer unlock()
	if s.hasSized(d.Digest.String(), d.Size) {
		if canUnpack {
			_, err = s.unpackBlob(ctx, d, diff)
		}
		if err == nil {
			p.add(d.Size)
			return nil
		}
		if !s.discardDamaged(d.Digest.String()) {
			return err
		}
	}
	up, err := s.NewUpload()
	if err != nil {
		return err
	}
	defer up.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	body := r.blob(ctx, d)
	defer body.Close()
	source := io.TeeReader(body, io.MultiWriter(up, p))
	if _, known := s.unpacked(diff); known || !canUnpack {
		if _, err := io.Copy(struct{ io.Writer }{io.Discard}, contextReader{ctx, source}); err != nil {
			return err
		}
		return up.Commit(d.Digest.String())
	}
	_, err = s.unpack(ctx, stop, source, diff, func() error { return up.Commit(d.Digest.String()) })
	return err
}

// meter adds up how far a transfer is. It may be used by several goroutines.
type meter struct {
	mu   sync.Mutex
	now  Progress
	told func(Progress)
}

func newMeter(told func(Progress), layers []v1.Descriptor) *meter {
	p := &meter{told: told, now: Progress{Layers: len(layers)}}
	for _, d := range layers {
		p.now.Total += d.Size
	}
	p.change(func(*Progress) {})
	return p
}

func (p *meter) change(do func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.now)
	p.now.Unpacking = p.now.Done >= p.now.Total && p.now.LayersDone < p.now.Layers
	if p.told != nil {
		p.told(p.now)
	}
}

func (p *meter) add(n int64) { p.change(func(now *Progress) { now.Done += n }) }
func (p *meter) layerDone()  { p.change(func(now *Progress) { now.LayersDone++ }) }

// Write counts what comes from a registry.
func (p *meter) Write(b []byte) (int, error) {
	n := int64(len(b))
	p.change(func(now *Progress) { now.Done, now.Fetched = now.Done+n, now.Fetched+n })
	return len(b), nil
}
