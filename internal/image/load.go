package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// maxArchiveEntries and maxArchiveImages bound an archive of images.
	maxArchiveEntries = 100_000
	maxArchiveImages  = 1_000
	// maxLinks bounds how often one entry of an archive stands for another.
	maxLinks = 8
)

// Load takes in the images of an archive as `docker save`, `podman save`, skopeo or Save write it, also packed with gzip or
// zstd, and gives them. Layers are unpacked when they are first used. The error wraps ErrArchive, ErrDigest, ErrPlatform
// or ErrTooLarge; then no name has changed.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) {
	dir := filepath.Join(s.dir, uploadsDir, rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, s.explain(fmt.Errorf("load: %w", err))
	}
	defer os.RemoveAll(dir) // else a later Open does
	held, err := os.Open(dir)
	if err == nil {
		defer held.Close()
		err = hold(held)
	}
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	l := &loader{s: s, dir: dir, files: map[string]entry{}, links: map[string]string{}, byDigest: map[string]entry{}}
	err = l.read(ctx, r)
	var found []loaded
	if err == nil {
		found, err = l.images()
	}
	var images []Image
	if err == nil {
		images, err = l.keep(ctx, found)
	}
	if err != nil {
		return nil, s.explain(fmt.Errorf("load: %w", err))
	}
	return images, nil
}

// loader is an archive that comes in. Its files wait in a directory until it is known that all is right.
type loader struct {
	s        *Store
	dir      string
	files    map[string]entry
	links    map[string]string
	byDigest map[string]entry
}

// entry is a file of an archive.
type entry struct {
	path   string // where it waits
	digest string
	size   int64
	start  []byte // its first bytes
}

// loaded is an image of an archive.
type loaded struct {
	content *content
	data    []byte // the manifest
	names   []named
}

func (l *loader) read(ctx context.Context, r io.Reader) error {
	stream, err := unpackStream(contextReader{ctx, r}, holesFor*l.s.o.MaxUnpacked)
	if err != nil {
		return damaged(err)
	}
	defer stream.Close()
	t := tar.NewReader(stream)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if n >= maxArchiveEntries {
			return fmt.Errorf("%w: more than %d entries", ErrTooLarge, maxArchiveEntries)
		}
		name := cleanEntry(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if err := l.take(n, name, t); err != nil {
				return err
			}
		case tar.TypeSymlink:
			l.links[name] = cleanEntry(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			l.links[name] = cleanEntry(h.Linkname)
		}
	}
}

// take writes a file of the archive to where it waits.
func (l *loader) take(n int, name string, r io.Reader) error {
	e := entry{path: filepath.Join(l.dir, fmt.Sprint(n))}
	f, err := os.OpenFile(e.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	hash := sha256.New()
	start := &head{}
	e.size, err = io.Copy(io.MultiWriter(f, hash, start), r)
	if err = errors.Join(err, f.Close()); err != nil {
		return damaged(err)
	}
	e.digest, e.start = algorithm+hex.EncodeToString(hash.Sum(nil)), start.data
	l.files[name], l.byDigest[e.digest] = e, e
	return nil
}

// head keeps the first bytes that are written to it.
type head struct{ data []byte }

func (h *head) Write(p []byte) (int, error) {
	h.data = append(h.data, p[:min(len(p), 4-len(h.data))]...)
	return len(p), nil
}

// file gives an entry by name; one may stand for another.
func (l *loader) file(name string) (entry, error) {
	clean := cleanEntry(name)
	for range maxLinks {
		if e, ok := l.files[clean]; ok {
			return e, nil
		}
		next, ok := l.links[clean]
		if !ok {
			break
		}
		clean = next
	}
	return entry{}, fmt.Errorf("%w: %.200q is missing", ErrArchive, name)
}

// data gives a file of the archive, or content of the store, by digest.
func (l *loader) data(d v1.Descriptor, limit int64) ([]byte, error) {
	if _, err := hexOf(d.Digest.String()); err != nil {
		return nil, err
	}
	e, ok := l.byDigest[d.Digest.String()]
	if !ok {
		if err := l.absent(d); err != nil {
			return nil, err
		}
		return l.s.readBlob(d.Digest.String(), limit)
	}
	return readEntry(e, limit)
}

func readEntry(e entry, limit int64) ([]byte, error) {
	if e.size > limit {
		return nil, fmt.Errorf("%s has %d bytes: %w: at most %d", e.digest, e.size, ErrTooLarge, limit)
	}
	return os.ReadFile(e.path)
}

// absent says what is wrong when the archive lacks content, unless the store has it.
func (l *loader) absent(d v1.Descriptor) error {
	if e, err := l.file(archiveBlobs + d.Digest.Hex); err == nil {
		return fmt.Errorf("%w: %s is %s", ErrDigest, archiveBlobs+d.Digest.Hex, e.digest)
	}
	if l.s.hasSized(d.Digest.String(), d.Size) {
		return nil
	}
	return fmt.Errorf("%w: %s is missing", ErrArchive, d.Digest)
}

// images reads what says which images there are.
func (l *loader) images() ([]loaded, error) {
	if e, err := l.file(ociIndex); err == nil {
		return l.ociImages(e)
	}
	e, err := l.file(dockerManifest)
	if err != nil {
		return nil, fmt.Errorf("%w: it has neither %s nor %s: is it an archive of images?", ErrArchive, ociIndex, dockerManifest)
	}
	list, err := l.dockerList(e)
	if err != nil {
		return nil, err
	}
	var all []loaded
	for _, d := range list {
		img, err := l.dockerImage(d)
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

func (l *loader) dockerList(e entry) ([]dockerImage, error) {
	data, err := readEntry(e, maxManifest)
	if err != nil {
		return nil, err
	}
	var list []dockerImage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrArchive, dockerManifest, err)
	}
	if len(list) > maxArchiveImages {
		return nil, fmt.Errorf("%w: more than %d images", ErrTooLarge, maxArchiveImages)
	}
	return list, nil
}

// ociImages reads the images of an OCI layout, for this machine where there are several.
func (l *loader) ociImages(e entry) ([]loaded, error) {
	data, err := readEntry(e, maxManifest)
	if err != nil {
		return nil, err
	}
	top, err := parseManifest(data, string(types.OCIImageIndex))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ociIndex, err)
	}
	tags, err := l.dockerTags()
	if err != nil {
		return nil, err
	}
	var all []loaded
	for _, d := range top.Manifests {
		img, err := l.ociImage(d)
		if err != nil {
			return nil, err
		}
		img.names = annotatedName(d)
		for _, text := range tags[img.content.manifest.Config.Digest.Hex] {
			if n, err := parseName(text); err == nil && n.tag != "" {
				img.names = append(img.names, n)
			}
		}
		all = append(all, img)
	}
	return all, nil
}

// dockerTags gives the names that an archive which is of both kinds has in its docker part, by the ID of the image.
func (l *loader) dockerTags() (map[string][]string, error) {
	e, err := l.file(dockerManifest)
	if err != nil {
		return nil, nil
	}
	list, err := l.dockerList(e)
	if err != nil {
		return nil, err
	}
	tags := map[string][]string{}
	for _, d := range list {
		id := strings.TrimSuffix(path.Base(d.Config), ".json")
		tags[id] = append(tags[id], d.RepoTags...)
	}
	return tags, nil
}

func (l *loader) ociImage(d v1.Descriptor) (loaded, error) {
	here, err := parsePlatform("")
	if err != nil {
		return loaded{}, err
	}
	for range maxNesting {
		data, err := l.data(d, maxManifest)
		if err != nil {
			return loaded{}, err
		}
		m, err := parseManifest(data, string(d.MediaType))
		if err != nil {
			return loaded{}, err
		}
		if m.isIndex() {
			if d, err = m.pick(here); err != nil {
				return loaded{}, err
			}
			continue
		}
		return l.withConfig(m, data)
	}
	return loaded{}, fmt.Errorf("%w: an index in an index in an index", ErrArchive)
}

// withConfig reads the configuration of an image and sees that its layers are there.
func (l *loader) withConfig(m *manifest, data []byte) (loaded, error) {
	text, err := l.data(*m.Config, maxConfig)
	if err != nil {
		return loaded{}, err
	}
	config, err := parseConfig(text, m)
	if err != nil {
		return loaded{}, err
	}
	for _, d := range m.Layers {
		e, ok := l.byDigest[d.Digest.String()]
		if !ok {
			err = l.absent(d)
		} else if e.size != d.Size {
			err = fmt.Errorf("%w: %s has %d bytes, not %d", ErrDigest, d.Digest, e.size, d.Size)
		}
		if err != nil {
			return loaded{}, err
		}
	}
	return loaded{content: &content{digest: digestOf(data), mediaType: m.MediaType, manifest: m, config: config}, data: data}, nil
}

// dockerImage makes a manifest of what `docker save` wrote.
func (l *loader) dockerImage(d dockerImage) (loaded, error) {
	config, err := l.file(d.Config)
	if err != nil {
		return loaded{}, err
	}
	m := &manifest{SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1)}
	if m.Config, err = describe(config, types.OCIConfigJSON); err != nil {
		return loaded{}, err
	}
	if len(d.Layers) > maxLayers {
		return loaded{}, fmt.Errorf("%d layers: %w", len(d.Layers), ErrTooLarge)
	}
	for _, name := range d.Layers {
		e, err := l.file(name)
		if err != nil {
			return loaded{}, err
		}
		layer, err := describe(e, layerTypeOf(e.start))
		if err != nil {
			return loaded{}, err
		}
		m.Layers = append(m.Layers, *layer)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return loaded{}, err
	}
	img, err := l.withConfig(m, data)
	for _, text := range d.RepoTags {
		n, bad := parseName(text)
		if bad != nil {
			return loaded{}, bad
		}
		img.names = append(img.names, n)
	}
	return img, err
}

func describe(e entry, t types.MediaType) (*v1.Descriptor, error) {
	h, err := v1.NewHash(e.digest)
	return &v1.Descriptor{MediaType: t, Size: e.size, Digest: h}, err
}

func layerTypeOf(start []byte) types.MediaType {
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return types.OCILayer
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return types.OCILayerZStd
	}
	return types.OCIUncompressedLayer
}

// keep moves what the images need to the store and names them.
func (l *loader) keep(ctx context.Context, found []loaded) ([]Image, error) {
	for _, f := range found {
		for _, d := range f.content.manifest.contents() {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			if err := l.move(d.Digest); err != nil {
				return nil, err
			}
		}
		if _, err := l.s.putData(f.data); err != nil {
			return nil, err
		}
	}
	var images []Image
	for _, f := range found {
		img, err := l.s.nameAll(f.content, f.names)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// move gives a file that waits its place among the content.
func (l *loader) move(h v1.Hash) error {
	e, ok := l.byDigest[h.String()]
	if !ok || l.s.hasSized(e.digest, e.size) {
		return nil
	}
	return os.Rename(e.path, l.s.blobPath(h.Hex))
}
