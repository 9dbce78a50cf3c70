package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// content is a whole image: what is known from its manifest and its configuration.
type content struct {
	digest    string // of the manifest
	mediaType string
	manifest  *manifest
	config    *v1.ConfigFile
}

// size is what the image has in bytes, packed.
func (c *content) size() int64 {
	n := c.manifest.Config.Size
	for _, l := range c.manifest.Layers {
		n += l.Size
	}
	return n
}

func (c *content) image(name string) Image {
	return Image{
		Name: name, Digest: c.digest, ID: c.manifest.Config.Digest.String(), Size: c.size(), Created: c.config.Created.Time,
		OS: c.config.OS, Arch: c.config.Architecture, Variant: c.config.Variant, Config: c.config.Config,
	}
}

// open reads an image of the store: the one for a platform, if the digest is that of an index.
func (s *Store) open(digest string, want v1.Platform) (*content, error) {
	mediaType := ""
	for range maxNesting {
		data, err := s.readBlob(digest, maxManifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(data, mediaType)
		if err != nil {
			return nil, err
		}
		if !m.isIndex() {
			return s.openConfig(&content{digest: digest, mediaType: m.MediaType, manifest: m})
		}
		d, err := m.pick(want)
		if err != nil {
			return nil, err
		}
		digest, mediaType = d.Digest.String(), string(d.MediaType)
	}
	return nil, fmt.Errorf("%w: an index in an index in an index", ErrArchive)
}

func (s *Store) openConfig(c *content) (*content, error) {
	data, err := s.readBlob(c.manifest.Config.Digest.String(), maxConfig)
	if err != nil {
		return nil, err
	}
	c.config, err = parseConfig(data, c.manifest)
	return c, err
}

// Find gives an image of the store: by name (postgres:15), name@digest, digest, or the beginning of its ID or digest, at
// least four digits that no other image has. Of an image for several platforms it is the one for this machine. The error
// wraps ErrNotFound, or ErrPlatform if it is there for others only.
func (s *Store) Find(ref string) (Image, error) {
	here, err := parsePlatform("")
	if err != nil {
		return Image{}, err
	}
	n, c, err := s.find(ref, here)
	if err != nil {
		return Image{}, err
	}
	return c.image(n), nil
}

// find is Find for a platform; it gives the full name, empty if the image was not named.
func (s *Store) find(ref string, want v1.Platform) (string, *content, error) {
	n, err := parseName(ref)
	if err == nil {
		r, err := s.lookUp(n)
		if err == nil {
			s.touch(n)
			c, err := s.open(r.Digest, want)
			if err != nil {
				return "", nil, fmt.Errorf("%s: %w", n, err)
			}
			return n.String(), c, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return "", nil, err
		}
	}
	start := strings.TrimPrefix(ref, algorithm)
	if len(start) < 4 || len(start) > 64 || !isHex(start) {
		if err != nil {
			return "", nil, err
		}
		return "", nil, fmt.Errorf("%s: %w: penstock image list shows what is here", n, ErrNotFound)
	}
	return s.findDigest(algorithm+start, want)
}

// findDigest finds the one image whose ID or digest begins like this.
func (s *Store) findDigest(start string, want v1.Platform) (string, *content, error) {
	var name string
	var found *content
	err := s.each(func(n named, r record) error {
		c, err := s.open(r.Digest, want)
		if err != nil {
			return nil // List tells of those
		}
		if !strings.HasPrefix(r.Digest, start) && !strings.HasPrefix(c.digest, start) &&
			!strings.HasPrefix(c.manifest.Config.Digest.String(), start) {
			return nil
		}
		if found != nil && found.digest != c.digest {
			return fmt.Errorf("%w: %s is the beginning of more than one ID: write more of it", ErrName, start)
		}
		if found == nil || name == "" {
			found, name = c, nameOf(n)
		}
		return nil
	})
	if err == nil && found == nil {
		err = fmt.Errorf("%s: %w: penstock image list shows what is here", start, ErrNotFound)
	}
	return name, found, err
}

// nameOf is empty for what only a repository's list of digests knows.
func nameOf(n named) string {
	if n.repository == "" || n.tag == "" && n.digest == "" {
		return ""
	}
	return n.String()
}

// each visits every name, and every manifest of a repository that has no name there; the latter with neither tag nor
// digest.
func (s *Store) each(visit func(named, record) error) error {
	repositories, err := s.Names()
	if err != nil {
		return err
	}
	for _, repository := range repositories {
		keys, err := s.keys(repository)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, key := range keys {
			n := fromKey(repository, key)
			r, err := s.lookUp(n)
			if err != nil {
				continue // removed meanwhile, or half written before a loss of power: Prune removes it
			}
			seen[r.Digest] = true
			if err := visit(n, r); err != nil {
				return err
			}
		}
		if err := s.eachNameless(repository, seen, visit); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) eachNameless(repository string, seen map[string]bool, visit func(named, record) error) error {
	digests, err := s.digests(repository)
	if err != nil {
		return err
	}
	for _, digest := range digests {
		if seen[digest] {
			continue
		}
		r, err := readRecord(s.repositoryPath(repository, manifestsDir, digest))
		if err != nil {
			continue
		}
		if err := visit(named{repository: repository}, r); err != nil {
			return err
		}
	}
	return nil
}

// List gives all images, those that have a name sorted by it, then those that have none. Of an image for several
// platforms it is the one for this machine; what is no image (a chart, a signature) is left out.
func (s *Store) List() ([]Image, error) {
	here, err := parsePlatform("")
	if err != nil {
		return nil, err
	}
	var list []Image
	seen := map[string]bool{} // also what is part of an index: it is no image of its own
	err = s.each(func(n named, r record) error {
		if seen[r.Digest] && nameOf(n) == "" {
			return nil
		}
		for _, digest := range s.parts(r) {
			seen[digest] = true
		}
		c, err := s.open(r.Digest, here)
		if errors.Is(err, ErrPlatform) {
			c, err = s.openAny(r.Digest)
		}
		if err != nil {
			return nil // half there: Find says why
		}
		if name := nameOf(n); name != "" || !seen[c.digest] {
			seen[c.digest] = true
			list = append(list, c.image(name))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	slices.SortStableFunc(list, func(a, b Image) int {
		if (a.Name == "") != (b.Name == "") {
			return strings.Compare(b.Name, a.Name)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return slices.CompactFunc(list, func(a, b Image) bool { return a.Name == b.Name && a.Digest == b.Digest }), nil
}

// parts are the manifests that an index is made of.
func (s *Store) parts(r record) []string {
	if !types.MediaType(r.MediaType).IsIndex() {
		return nil
	}
	return s.reachManifest(r.Digest, map[string]bool{}, map[string]bool{})
}

// openAny opens the first image of an index that is here.
func (s *Store) openAny(digest string) (*content, error) {
	data, err := s.readBlob(digest, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(data, "")
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if c, err := s.open(d.Digest.String(), v1.Platform{}); err == nil {
			return c, nil
		}
	}
	return nil, ErrNotFound
}

// Tag gives an image another name. It takes the place of what had that name.
func (s *Store) Tag(ref, name string) error {
	n, err := parseName(name)
	if err != nil {
		return err
	}
	if n.digest != "" {
		return fmt.Errorf("%w: %s: a digest can not be given: write name:tag", ErrName, name)
	}
	r, err := s.recordOf(ref)
	if err != nil {
		return err
	}
	return s.setName(n, r)
}

// recordOf is what a reference stands for: of a name, the index with all its platforms.
func (s *Store) recordOf(ref string) (record, error) {
	if n, err := parseName(ref); err == nil {
		if r, err := s.lookUp(n); err == nil {
			return r, nil
		}
	}
	here, err := parsePlatform("")
	if err != nil {
		return record{}, err
	}
	_, c, err := s.find(ref, here)
	if err != nil {
		return record{}, err
	}
	return record{c.digest, c.mediaType}, nil
}

// Remove removes a name. The error wraps ErrNotFound if there is no such name. Content goes with Prune.
func (s *Store) Remove(name string) error {
	n, err := parseName(name)
	if err != nil {
		return err
	}
	return s.shared(func() error { return s.removeName(n) })
}

// removeName removes a name, and the manifest from its repository if nothing else there needs it.
func (s *Store) removeName(n named) error {
	r, err := s.lookUp(n)
	if err != nil {
		return err
	}
	if err := removeIfThere(s.repositoryPath(n.repository, tagsDir, n.key())); err != nil {
		return err
	}
	keys, err := s.keys(n.repository)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if other, err := s.lookUp(fromKey(n.repository, key)); err == nil && other.Digest == r.Digest {
			return nil
		}
	}
	err = s.deleteDigest(named{repository: n.repository, digest: r.Digest})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// complete says whether every layer of an image is here, packed or unpacked.
func (s *Store) complete(ctx context.Context, c *content) bool {
	for i, l := range c.manifest.Layers {
		if ctx.Err() != nil {
			return false
		}
		if _, ok := s.unpacked(c.config.RootFS.DiffIDs[i].String()); !ok && !s.hasSized(l.Digest.String(), l.Size) {
			return false
		}
	}
	return true
}
