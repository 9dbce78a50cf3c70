package image

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PushOptions say how an image is pushed.
type PushOptions struct {
	Credentials *Credentials   // nil takes those of docker's and podman's configuration
	Progress    func(Progress) // may be nil; called often, by one goroutine at a time
}

// Push copies an image of the store to a registry under the name to, and gives the digest of its manifest, which is the
// same here and there. An image for several platforms goes with all of them. What the registry has already is not sent.
// The error wraps ErrName, ErrNotFound, ErrDenied or ErrUnreachable.
func (s *Store) Push(ctx context.Context, ref, to string, o PushOptions) (digest string, err error) {
	n, err := parseName(to)
	if err != nil {
		return "", err
	}
	r, err := s.recordOf(ref)
	if err != nil {
		return "", err
	}
	if err := s.push(ctx, n, r, o); err != nil {
		return "", fmt.Errorf("push %s: %w", n, err)
	}
	return r.Digest, nil
}

func (s *Store) push(ctx context.Context, n named, r record, o PushOptions) error {
	if n.digest != "" && n.digest != r.Digest {
		return fmt.Errorf("%w: the image is %s", ErrDigest, r.Digest)
	}
	places, err := s.places(n.repository)
	if err != nil {
		return err
	}
	place := places[len(places)-1] // never a mirror
	auth, err := authenticator(ctx, place, o.Credentials)
	if err != nil {
		return err
	}
	data, err := s.readBlob(r.Digest, maxManifest)
	if err != nil {
		return err
	}
	m, err := parseManifest(data, r.MediaType)
	if err != nil {
		return err
	}
	var target name.Reference = place.Tag(n.tag)
	if n.digest != "" {
		target = place.Digest(n.digest)
	}
	updates := make(chan v1.Update, 16)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for u := range updates {
			if o.Progress != nil && u.Error == nil {
				o.Progress(Progress{Done: u.Complete, Total: u.Total})
			}
		}
	}()
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(guard{s, s.http}),
		remote.WithJobs(parallelLayers), remote.WithProgress(updates),
	}
	if m.isIndex() {
		err = remote.WriteIndex(target, &storedIndex{s, r.Digest, m, data}, options...)
	} else {
		var img v1.Image
		if img, err = s.storedImage(r.Digest, m, data); err == nil {
			err = remote.Write(target, img, options...)
		} else {
			close(updates)
		}
	}
	<-told
	return classify(place.RegistryStr(), err)
}

// storedImage shows an image of the store to go-containerregistry.
func (s *Store) storedImage(digest string, m *manifest, data []byte) (v1.Image, error) {
	return partial.CompressedToImage(&storedCore{s, digest, m, data})
}

type storedCore struct {
	s        *Store
	digest   string
	manifest *manifest
	data     []byte
}

func (c *storedCore) RawConfigFile() ([]byte, error) {
	return c.s.readBlob(c.manifest.Config.Digest.String(), maxConfig)
}
func (c *storedCore) MediaType() (types.MediaType, error) {
	return types.MediaType(c.manifest.MediaType), nil
}
func (c *storedCore) RawManifest() ([]byte, error) { return c.data, nil }

func (c *storedCore) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range append([]v1.Descriptor{*c.manifest.Config}, c.manifest.Layers...) {
		if d.Digest == h {
			return &storedLayer{c.s, d}, nil
		}
	}
	return nil, fmt.Errorf("layer %s: %w", h, ErrNotFound)
}

type storedLayer struct {
	s *Store
	d v1.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.d.Digest, nil }
func (l *storedLayer) Size() (int64, error)                { return l.d.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.d.MediaType, nil }
func (l *storedLayer) Descriptor() (*v1.Descriptor, error) { return &l.d, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	r, _, err := l.s.OpenBlob(l.d.Digest.String())
	return r, err
}

// storedIndex shows an index of the store to go-containerregistry.
type storedIndex struct {
	s        *Store
	digest   string
	manifest *manifest
	data     []byte
}

func (x *storedIndex) MediaType() (types.MediaType, error) {
	return types.MediaType(x.manifest.MediaType), nil
}
func (x *storedIndex) Digest() (v1.Hash, error)     { return v1.NewHash(x.digest) }
func (x *storedIndex) Size() (int64, error)         { return int64(len(x.data)), nil }
func (x *storedIndex) RawManifest() ([]byte, error) { return x.data, nil }
func (x *storedIndex) IndexManifest() (*v1.IndexManifest, error) {
	return v1.ParseIndexManifest(bytes.NewReader(x.data))
}

func (x *storedIndex) child(h v1.Hash) (*manifest, []byte, error) {
	data, err := x.s.readBlob(h.String(), maxManifest)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseManifest(data, "")
	return m, data, err
}

func (x *storedIndex) Image(h v1.Hash) (v1.Image, error) {
	m, data, err := x.child(h)
	if err != nil {
		return nil, err
	}
	return x.s.storedImage(h.String(), m, data)
}

func (x *storedIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	m, data, err := x.child(h)
	if err != nil {
		return nil, err
	}
	return &storedIndex{x.s, h.String(), m, data}, nil
}
