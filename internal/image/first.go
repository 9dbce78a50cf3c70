package image

import (
	"context"
	"errors"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/layer"
)

// PullOptions say how an image is pulled.
type PullOptions struct {
	Always      bool           // ask the registry even if the name is here
	Platform    string         // os/arch[/variant]; empty is linux on this machine's processor
	Credentials *Credentials   // for the image's own registry; nil takes those of docker's and podman's configuration
	Progress    func(Progress) // may be nil; called often, by one goroutine at a time
}

// Pull gives an image and gets it from its registry if it is not here.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	return Image{}, errors.ErrUnsupported
}

// Find gives an image of the store by name, name@digest, digest, or a unique beginning of its ID or digest.
func (s *Store) Find(ref string) (Image, error) { return Image{}, errors.ErrUnsupported }

// Layers gives the image's layers in the layer store, lowest first, and unpacks those that are not there yet.
func (s *Store) Layers(ctx context.Context, img Image) ([]layer.ID, error) {
	return nil, errors.ErrUnsupported
}

// PushOptions say how an image is pushed.
type PushOptions struct {
	Credentials *Credentials
	Progress    func(Progress)
}

// Push copies an image of the store to a registry under the name to.
func (s *Store) Push(ctx context.Context, ref, to string, o PushOptions) (digest string, err error) {
	return "", errors.ErrUnsupported
}

// Load takes in the images of an archive.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) {
	return nil, errors.ErrUnsupported
}

// Save writes images as an archive.
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error {
	return errors.ErrUnsupported
}

// List gives all images.
func (s *Store) List() ([]Image, error) { return nil, errors.ErrUnsupported }

// Tag gives an image another name.
func (s *Store) Tag(ref, name string) error { return errors.ErrUnsupported }

// Remove removes a name.
func (s *Store) Remove(name string) error { return errors.ErrUnsupported }

// PruneOptions say what Prune may remove.
type PruneOptions struct {
	All    bool          // also images that have a name
	Unused time.Duration // only what was not used for so long
}

// Pruned is what Prune removed.
type Pruned struct {
	Images []string // names and digests
	Bytes  int64    // of content
}

// Prune removes what no name needs.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	return Pruned{}, errors.ErrUnsupported
}

// Commit is an image to be made.
type Commit struct {
	Base    string        // name or digest; empty for an image from scratch
	Config  v1.ConfigFile // complete; the root file system, and history of the new layers, are filled in
	Layers  []layer.ID    // the new ones, lowest first
	Names   []string      // may be empty
	Created time.Time
}

// Commit makes an image of a base and layers that were written on it.
func (s *Store) Commit(ctx context.Context, c Commit) (Image, error) {
	return Image{}, errors.ErrUnsupported
}

// OpenBlob opens content for reading and gives its size.
func (s *Store) OpenBlob(digest string) (io.ReadSeekCloser, int64, error) {
	return nil, 0, errors.ErrUnsupported
}

// PutBlob stores content and verifies it.
func (s *Store) PutBlob(ctx context.Context, digest string, r io.Reader) error {
	return errors.ErrUnsupported
}

// HasBlob says whether the store has the content.
func (s *Store) HasBlob(digest string) bool { return false }

// PutManifest stores a manifest under a repository's tag or its digest.
func (s *Store) PutManifest(repository, reference, mediaType string, data []byte) (digest string, err error) {
	return "", errors.ErrUnsupported
}

// Manifest gives a manifest.
func (s *Store) Manifest(repository, reference string) (data []byte, mediaType, digest string, err error) {
	return nil, "", "", errors.ErrUnsupported
}

// DeleteManifest removes a tag, or a manifest with all its tags.
func (s *Store) DeleteManifest(repository, reference string) error { return errors.ErrUnsupported }

// Tags gives a repository's tags, sorted.
func (s *Store) Tags(repository string) ([]string, error) { return nil, errors.ErrUnsupported }

// Names gives all repositories, sorted.
func (s *Store) Names() ([]string, error) { return nil, errors.ErrUnsupported }

// FullName completes a name: postgres:15 is docker.io/library/postgres:15.
func FullName(ref string) (string, error) { return "", errors.ErrUnsupported }
