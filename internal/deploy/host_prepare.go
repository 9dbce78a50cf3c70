package deploy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Bounds of what an artifact may unpack to.
const (
	maxArtifactBytes   = 8 << 30
	maxArtifactEntries = 500_000
)

// prepare gets a revision's image and artifact ready. What is pulled is told of on out.
func (h *Host) prepare(ctx context.Context, r cd.Revision, out io.Writer) (*program, error) {
	p := &program{Revision: r}
	if r.Image != "" {
		if h.plain() {
			return nil, fmt.Errorf("%s: %w", r.Image, sandbox.ErrNoImages)
		}
		img, err := h.image(ctx, r.Image, out)
		if err != nil {
			return nil, err
		}
		p.Image = &img
	}
	if r.Artifact == "" {
		return p, nil
	}
	h.preparing.Lock()
	defer h.preparing.Unlock()
	var err error
	if h.plain() {
		p.Archive, err = h.keepArchive(ctx, r.Artifact)
	} else {
		p.Layer, err = h.unpack(ctx, r.Artifact)
	}
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", r.Artifact, err)
	}
	return p, nil
}

// image gets an image: what is not here of the server if that has it, else of its registry.
func (h *Host) image(ctx context.Context, ref string, out io.Writer) (container.Image, error) {
	var missed error
	if h.o.Fetch != nil {
		if _, err := h.o.Images.Store.Find(ref); err != nil {
			missed = h.o.Fetch(ctx, h.o.Images.Store, ref)
		}
	}
	img, err := h.o.Images.Image(ctx, ref, nil, out)
	if err != nil && missed != nil {
		err = fmt.Errorf("%w; and of the server: %w", err, missed)
	}
	return img, err
}

// artifactRef is what keeps the layer of an artifact: this, and its digest.
const artifactRef = "deploy/artifact/"

// unpack makes a layer of an artifact, once. It is unpacked in a machine, which is thrown away if the archive is bad.
func (h *Host) unpack(ctx context.Context, digest string) (layer.ID, error) {
	if ids, err := h.o.Layers.Ref(artifactRef + digest); err == nil && len(ids) == 1 {
		if _, err := h.o.Layers.Layer(ids[0]); err == nil {
			return ids[0], nil
		}
	}
	stream, err := h.o.Artifact(ctx, digest)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	m, err := h.o.Provider.Open(ctx, sandbox.Spec{Name: "artifact", Repo: "artifact"})
	if err != nil {
		return "", err
	}
	defer m.Close(context.WithoutCancel(ctx))
	disk, ok := m.(sandbox.Layered)
	if !ok {
		return "", errors.New("machines of this kind have no layers")
	}
	if err := disk.Mount(ctx, filesDir); err != nil {
		return "", err
	}
	files := bounded(stream)
	defer files.Close()
	if err := m.Put(ctx, filesDir, files); err != nil {
		return "", err
	}
	id, err := disk.Capture(ctx, filesDir)
	if err != nil {
		return "", err
	}
	return id, h.o.Layers.SetRef(artifactRef+digest, id)
}

// keepArchive writes an artifact to a file, once, for machines without layers.
func (h *Host) keepArchive(ctx context.Context, digest string) (string, error) {
	dir := filepath.Join(h.o.Plain, "artifacts")
	sum := sha256.Sum256([]byte(digest)) // any text is a digest
	name := filepath.Join(dir, hex.EncodeToString(sum[:16])+".tar")
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	stream, err := h.o.Artifact(ctx, digest)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return "", err
	}
	files := bounded(stream)
	defer files.Close()
	_, err = io.Copy(f, files)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return name, os.Rename(f.Name(), name)
}

// dropArtifacts lets go of the artifacts that no revision has which is wanted.
func (h *Host) dropArtifacts(wanted map[string]bool) error {
	if h.o.Layers == nil {
		return nil
	}
	names, err := h.o.Layers.Refs(artifactRef)
	for _, name := range names {
		if !wanted[strings.TrimPrefix(name, artifactRef)] {
			err = errors.Join(err, h.o.Layers.SetRef(name))
		}
	}
	return err
}

var (
	errArtifactBytes   = fmt.Errorf("it unpacks to more than %s", bytesText(maxArtifactBytes))
	errArtifactEntries = fmt.Errorf("it has more than %d entries", maxArtifactEntries)
)

// bounded passes a tar stream on as long as what it unpacks to is within the bounds: holes in sparse files count in full.
func bounded(stream io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(copyTar(w, stream, maxArtifactBytes, maxArtifactEntries)) }() // ends with the reader's Close at the latest
	return r
}

func copyTar(to io.Writer, from io.Reader, bytesLeft int64, entriesLeft int) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return fmt.Errorf("not a tar archive: %w", err)
		}
		if entriesLeft--; entriesLeft < 0 {
			return errArtifactEntries
		}
		if bytesLeft -= header.Size; bytesLeft < 0 {
			return errArtifactBytes
		}
		plain := &tar.Header{
			Typeflag: header.Typeflag, Name: header.Name, Linkname: header.Linkname, Size: header.Size,
			Mode: header.Mode, ModTime: header.ModTime, Format: tar.FormatPAX,
		}
		if header.Typeflag == tar.TypeGNUSparse {
			plain.Typeflag = tar.TypeReg
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := out.WriteHeader(plain); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// hidingWriter passes whole lines on, without secrets.
type hidingWriter struct {
	to   io.Writer
	hide *strings.Replacer
	part []byte
}

// Write implements io.Writer.
func (w *hidingWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	n := bytes.LastIndexByte(w.part, '\n') + 1
	if n == 0 && len(w.part) > maxLogLine {
		n = len(w.part)
	}
	_, err := io.WriteString(w.to, w.hide.Replace(string(w.part[:n])))
	w.part = append(w.part[:0], w.part[n:]...)
	return len(p), err
}

// end passes on what there is of an unfinished line.
func (w *hidingWriter) end() error {
	if len(w.part) == 0 {
		return nil
	}
	_, err := io.WriteString(w.to, w.hide.Replace(string(w.part)))
	w.part = nil
	return err
}
