package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The files of an archive: those of `docker save` and those of an OCI image layout, which may lie in one archive.
const (
	dockerManifest = "manifest.json"
	ociIndex       = "index.json"
	ociLayout      = "oci-layout"
	archiveBlobs   = "blobs/sha256/"

	nameAnnotation = "io.containerd.image.name"
	refAnnotation  = "org.opencontainers.image.ref.name"
)

// dockerImage is one image of a docker archive's manifest.json.
type dockerImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// Save writes images of the store as one tar that `docker load` and every reader of OCI archives take: of an image for
// several platforms the one for this machine. The same images always give the same bytes. The error wraps ErrNotFound.
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error {
	here, err := parsePlatform("")
	if err != nil {
		return err
	}
	a := &archiver{s: s, w: tar.NewWriter(w), written: map[string]bool{}}
	for _, ref := range refs {
		name, c, err := s.find(ref, here)
		if err == nil {
			err = a.add(ctx, name, c)
		}
		if err != nil {
			return fmt.Errorf("save %s: %w", ref, err)
		}
	}
	if err := a.finish(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// archiver writes an archive.
type archiver struct {
	s       *Store
	w       *tar.Writer
	written map[string]bool // by digest
	docker  []dockerImage
	index   v1.IndexManifest
}

func (a *archiver) add(ctx context.Context, name string, c *content) error {
	digest, err := v1.NewHash(c.digest)
	if err != nil {
		return err
	}
	img := dockerImage{Config: archiveBlobs + c.manifest.Config.Digest.Hex}
	for _, d := range append(c.manifest.contents(), v1.Descriptor{Digest: digest}) {
		if err := a.blob(ctx, d.Digest); err != nil {
			return err
		}
	}
	for _, d := range c.manifest.Layers {
		img.Layers = append(img.Layers, archiveBlobs+d.Digest.Hex)
	}
	size, err := a.size(c.digest)
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: types.MediaType(c.mediaType), Digest: digest, Size: size}
	if n, err := parseName(name); err == nil && n.tag != "" {
		img.RepoTags = []string{n.String()}
		d.Annotations = map[string]string{nameAnnotation: n.String(), refAnnotation: n.tag}
	}
	a.index.Manifests = append(a.index.Manifests, d)
	a.docker = append(a.docker, img)
	return nil
}

func (a *archiver) size(digest string) (int64, error) {
	r, size, err := a.s.OpenBlob(digest)
	if err != nil {
		return 0, err
	}
	return size, r.Close()
}

// blob writes content, once.
func (a *archiver) blob(ctx context.Context, h v1.Hash) error {
	if a.written[h.Hex] {
		return nil
	}
	a.written[h.Hex] = true
	r, size, err := a.s.OpenBlob(h.String())
	if err != nil {
		return err
	}
	defer r.Close()
	if err := a.w.WriteHeader(archiveHeader(archiveBlobs+h.Hex, size)); err != nil {
		return err
	}
	_, err = io.Copy(a.w, contextReader{ctx, r})
	return err
}

func archiveHeader(name string, size int64) *tar.Header {
	return &tar.Header{Name: name, Size: size, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
}

// finish writes what says which images there are.
func (a *archiver) finish() error {
	a.index.SchemaVersion, a.index.MediaType = 2, types.OCIImageIndex
	for _, file := range []struct {
		name string
		data any
	}{
		{dockerManifest, a.docker}, {ociIndex, a.index}, {ociLayout, map[string]string{"imageLayoutVersion": "1.0.0"}},
	} {
		data, err := json.Marshal(file.data)
		if err != nil {
			return err
		}
		if err := a.w.WriteHeader(archiveHeader(file.name, int64(len(data)))); err != nil {
			return err
		}
		if _, err := a.w.Write(data); err != nil {
			return err
		}
	}
	return a.w.Close()
}

// annotatedName gives the full name that annotations say.
func annotatedName(d v1.Descriptor) []named {
	for _, text := range []string{d.Annotations[nameAnnotation], d.Annotations[refAnnotation]} {
		if text == "" || text == d.Annotations[refAnnotation] && !slices.ContainsFunc([]byte(text), func(c byte) bool { return c == ':' || c == '/' }) {
			continue // a tag alone names nothing
		}
		if n, err := parseName(text); err == nil && n.tag != "" {
			return []named{n}
		}
	}
	return nil
}

// cleanEntry gives the name that an archive's entry is known by.
func cleanEntry(name string) string { return path.Clean("/" + name)[1:] }
