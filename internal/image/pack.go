package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/pgzip"

	"github.com/penstock-ci/penstock/internal/layer"
)

// packLevel packs build output about as small as docker does, in half the time.
const packLevel = 5

// packed is what a layer was packed to.
type packed struct {
	Digest string `json:"digest"` // of the gzip stream
	Size   int64  `json:"size"`   // of it, in bytes
	Diff   string `json:"diff"`   // of the tar in it
}

// pack packs a layer as a gzip stream, once: what it came to is remembered.
func (s *Store) pack(ctx context.Context, id layer.ID) (packed, error) {
	l, err := s.layers.Layer(id)
	if err != nil {
		return packed{}, err
	}
	known := filepath.Join(s.dir, packedDir, string(id))
	var p packed
	if data, err := os.ReadFile(known); err == nil && json.Unmarshal(data, &p) == nil && s.hasSized(p.Digest, p.Size) {
		return p, nil
	}
	up, err := s.NewUpload()
	if err != nil {
		return packed{}, err
	}
	defer up.Close()
	if p.Diff, err = s.packTo(ctx, up, l); err != nil {
		return packed{}, err
	}
	p.Digest, p.Size = up.Digest(), up.Size()
	up.Durable()
	if err := up.Commit(p.Digest); err != nil {
		return packed{}, err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return packed{}, err
	}
	return p, os.WriteFile(known, data, 0o600) // half of one is not read
}

// packTo writes a layer as a gzip stream and gives the digest of the tar in it.
func (s *Store) packTo(ctx context.Context, w io.Writer, l layer.Layer) (diff string, err error) {
	z, err := pgzip.NewWriterLevel(w, packLevel)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	dir, err := filepath.EvalSymlinks(filepath.Join(s.layers.Dir(), layer.Path(l.ID))) // a view's files are another layer's
	if err == nil {
		err = packTar(ctx, io.MultiWriter(z, hash), dir, l)
	}
	if bad := z.Close(); err == nil {
		err = bad
	}
	if err != nil {
		return "", fmt.Errorf("pack layer %s: %w", l.ID, err)
	}
	return algorithm + hex.EncodeToString(hash.Sum(nil)), nil
}
