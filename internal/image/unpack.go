package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/penstock-ci/penstock/internal/layer"
)

// refPrefix begins the names by which the layer store keeps what was unpacked; the digest of the tar follows.
const refPrefix = "image/"

// holesFor is how many times MaxUnpacked a layer may hold in bytes of zeros, which take no room on the disk.
const holesFor = 4

// note is what a layer says of how it was unpacked.
type note struct {
	Diff    string `json:"diff"`              // digest of the tar
	LeftOut int    `json:"leftOut,omitempty"` // devices, and attributes that can not be kept
}

// Layers gives the image's layers in the layer store, lowest first. Those that are not unpacked yet are, several at once,
// each once for all images and processes. They are kept until Prune finds that no image has them: who mounts them keeps
// them with references of his own. The error wraps ErrNotFound if content is not here any more.
func (s *Store) Layers(ctx context.Context, img Image) ([]layer.ID, error) {
	want, err := parsePlatform("")
	if err != nil {
		return nil, err
	}
	c, err := s.open(img.Digest, want)
	if err != nil {
		return nil, fmt.Errorf("layers of %s: %w", img.Digest, err)
	}
	ids := make([]layer.ID, len(c.manifest.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for i, d := range c.manifest.Layers {
		diff := c.config.RootFS.DiffIDs[i].String()
		if id, ok := s.unpacked(diff); ok {
			ids[i] = id
			continue
		}
		g.Go(func() error {
			unlock, err := s.lockContent(ctx, diff)
			if err != nil {
				return err
			}
			defer unlock()
			ids[i], err = s.unpackBlob(ctx, d, diff)
			if err != nil {
				return fmt.Errorf("layer %d of %d: %w", i+1, len(ids), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, s.explain(fmt.Errorf("unpack %s: %w", img.title(), err))
	}
	return ids, nil
}

// title is how errors speak of an image.
func (img Image) title() string {
	if img.Name != "" {
		return img.Name
	}
	return img.Digest
}

// unpacked gives the layer that a tar was unpacked to.
func (s *Store) unpacked(diff string) (layer.ID, bool) {
	ids, err := s.layers.Ref(refPrefix + diff)
	if err != nil || len(ids) != 1 {
		return "", false
	}
	l, err := s.layers.Layer(ids[0])
	return ids[0], err == nil && l.Owner == s.o.Owner
}

// lockContent lets one goroutine of one process work on some content.
func (s *Store) lockContent(ctx context.Context, digest string) (unlock func(), err error) {
	h, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(s.dir, locksDir, h))
	if _, err := l.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock %s: %w", digest, err)
	}
	return func() { _ = l.Close() }, nil // closing can not fail in a way that keeps the lock
}

// unpackBlob unpacks content that is here, if it is not unpacked.
func (s *Store) unpackBlob(ctx context.Context, d v1.Descriptor, diff string) (layer.ID, error) {
	if id, ok := s.unpacked(diff); ok {
		return id, nil
	}
	r, size, err := s.OpenBlob(d.Digest.String())
	if err == nil && size != d.Size {
		err = fmt.Errorf("content %s was damaged on the disk: %w", d.Digest, ErrNotFound)
		r.Close()
	}
	if errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("%w: pull the image again", err)
	}
	if err != nil {
		return "", err
	}
	defer r.Close()
	return s.unpack(ctx, func() {}, r, diff, func() error { return nil })
}

// unpack unpacks a layer's stream into the layer store. stop ends the stream: it is called when nothing more is wanted
// of it. whole is called when all was read, and says whether it was right; then what was unpacked must have the digest
// diff. On an error nothing stays.
func (s *Store) unpack(ctx context.Context, stop func(), r io.Reader, diff string, whole func() error) (layer.ID, error) {
	scratch, err := s.layers.Scratch()
	if err != nil {
		return "", err
	}
	defer scratch.Release() // what is left of it is removed by the layer store
	dir := filepath.Join(scratch.Dir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	u, got, err := s.unpackTo(ctx, stop, r, dir)
	if err != nil {
		return "", err
	}
	if err := whole(); err != nil {
		return "", err
	}
	if got != diff {
		return "", fmt.Errorf("%w: unpacked it is %s, and the image says %s", ErrDigest, got, diff)
	}
	about, err := json.Marshal(note{Diff: diff, LeftOut: u.leftOut})
	if err != nil {
		return "", err
	}
	id, err := s.layers.Add(dir, layer.Layer{Owner: s.o.Owner, Whole: u.whole, Note: about})
	if err != nil {
		return "", err
	}
	return id, s.layers.SetRef(refPrefix+diff, id)
}

// result is what unpacking came to.
type result struct {
	leftOut int
	whole   bool // hides all layers below
}

// unpackTo unpacks a stream to a directory and gives the digest of the tar in it. Fetching, unpacking and writing go on
// at the same time.
func (s *Store) unpackTo(ctx context.Context, stop func(), r io.Reader, dir string) (result, string, error) {
	packed := readAhead(r)
	defer packed.Close()
	defer stop()
	stream, err := unpackStream(packed, holesFor*s.o.MaxUnpacked)
	if err != nil {
		return result{}, "", err
	}
	defer stream.Close()
	hash := sha256.New()
	tar := readAhead(io.TeeReader(stream, hash))
	defer tar.Close()
	defer stop()
	res, err := unpackTar(ctx, tar, dir, s.o)
	if err != nil {
		return res, "", err
	}
	if _, err := io.Copy(io.Discard, contextReader{ctx, tar}); err != nil {
		return res, "", damaged(err)
	}
	return res, algorithm + hex.EncodeToString(hash.Sum(nil)), nil
}

// damaged says of an error of reading a tar that the archive is at fault, unless it is known what is.
func damaged(err error) error {
	for _, known := range []error{ErrTooLarge, ErrDigest, ErrArchive, ErrUnreachable, ErrNotFound, ErrDenied, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return err
		}
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrArchive, err)
}
