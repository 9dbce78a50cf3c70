package api

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// filesPrefix begins the keys of files that are released, by digest; incomingPrefix those that are still coming.
	filesPrefix    = "releases/files/"
	incomingPrefix = "releases/incoming/"
	// maxReleaseFiles bounds what is released, bytes of a tar stream.
	maxReleaseFiles = 8 << 30
)

// errTooLarge is why files are not taken.
var errTooLarge = fmt.Errorf("more than %d GiB of files can not be released", maxReleaseFiles>>30)

var digestText = regexp.MustCompile(`^[0-9a-f]{64}$`)

// keepFiles stores the tar stream that write writes and gives its digest. The same bytes are kept once.
func (s *Server) keepFiles(ctx context.Context, write func(io.Writer) error) (digest string, err error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	defer r.Close()
	sum, key := sha256.New(), incomingPrefix+rand.Text()
	size, err := s.Blobs.Put(ctx, key, io.TeeReader(io.LimitReader(r, maxReleaseFiles+1), sum))
	if err == nil && size > maxReleaseFiles {
		err = errTooLarge
	}
	if err != nil {
		return "", errors.Join(err, s.Blobs.Delete(key))
	}
	digest = hex.EncodeToString(sum.Sum(nil))
	// Also over the same bytes: they are as good as new then, and are not swept before a release names them.
	_, err = s.Blobs.Concat(filesPrefix+digest, key)
	return digest, err
}

// ReleaseFiles gives files that were kept, as a tar stream.
func (s *Server) ReleaseFiles(_ context.Context, digest string) (io.ReadCloser, error) {
	if !digestText.MatchString(digest) {
		return nil, fmt.Errorf("files %.100q: %w", digest, fs.ErrNotExist)
	}
	return s.Blobs.Open(filesPrefix + digest)
}

// handIn takes files that are to be released: a tar stream, compressed or not.
func (s *Server) handIn(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.releaseRights(w, r); !ok {
		return
	}
	in := bufio.NewReader(r.Body)
	digest, err := s.keepFiles(r.Context(), func(out io.Writer) error {
		from := io.Reader(in)
		if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
			z, err := gzip.NewReader(in)
			if err != nil {
				return fmt.Errorf("%w: %w", errNoArchive, err)
			}
			from = z
		}
		return copyArchive(out, from)
	})
	switch {
	case errors.Is(err, errTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, err.Error())
	case errors.Is(err, errNoArchive):
		refuse(w, http.StatusUnprocessableEntity, err.Error())
	case err != nil:
		s.failed(w, r, err)
	default:
		writeJSON(w, http.StatusCreated, map[string]string{"digest": digest})
	}
}

var errNoArchive = errors.New("this is no tar archive")

// copyArchive copies a tar stream after a look at its first entry, so that a mistake is told where it is made. What is in it is
// checked where it is unpacked.
func copyArchive(out io.Writer, in io.Reader) error {
	seen, w := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		_, err := tar.NewReader(seen).Next()
		checked <- err
		_, _ = io.Copy(io.Discard, seen)
	}()
	_, err := io.Copy(out, io.TeeReader(in, w))
	w.CloseWithError(err)
	if first := <-checked; err == nil && first != nil && !errors.Is(first, io.EOF) {
		return fmt.Errorf("%w: %w", errNoArchive, first)
	}
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errNoArchive, err)
	}
	return err
}

// artifactFiles keeps the files of a workflow's artifact.
func (s *Server) artifactFiles(ctx context.Context, a native.Artifact) (string, error) {
	f, err := s.Artifacts.Open(a)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return s.keepFiles(ctx, func(out io.Writer) error {
		if a.Raw {
			return copyOne(out, a.Name, f)
		}
		return copyZip(out, f)
	})
}

func copyOne(out io.Writer, name string, f blob.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	t := tar.NewWriter(out)
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o755}); err != nil {
		return err
	}
	if _, err := io.CopyN(t, f, info.Size()); err != nil {
		return err
	}
	return t.Close()
}

// copyZip writes the files of a zip archive as a tar stream, in their order and without times.
func copyZip(out io.Writer, f blob.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil {
		return fmt.Errorf("read the artifact: %w", err)
	}
	t := tar.NewWriter(out)
	for _, e := range z.File {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.Name, Size: int64(e.UncompressedSize64), Mode: int64(e.Mode().Perm())}
		switch mode := e.Mode(); {
		case mode.IsDir():
			h.Typeflag, h.Size = tar.TypeDir, 0
		case !mode.IsRegular():
			continue // archives of artifacts have files and directories
		}
		if h.Mode&0o400 == 0 { // an archive that says nothing of modes
			h.Mode = 0o644
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return fmt.Errorf("read the artifact: %w", err)
		}
		_, err = io.CopyN(t, r, h.Size)
		r.Close()
		if err != nil {
			return fmt.Errorf("read the artifact: %w", err)
		}
	}
	return t.Close()
}

const (
	// keptVersions is how many releases of an environment keep their files: those that can be gone back to.
	keptVersions = store.Restorable
	// looked bounds how many releases are looked at for that, the newest; what older ones had is gone.
	looked = 10_000
	// filesGrace is how old files have to be before they go: they are handed in before a release names them.
	filesGrace = 24 * time.Hour
)

// SweepFiles removes files that no release needs which runs or could be gone back to.
func (s *Server) SweepFiles(ctx context.Context) error {
	needed, err := s.neededFiles(ctx)
	if err != nil {
		return err
	}
	before := s.now().Add(-filesGrace)
	for _, prefix := range []string{filesPrefix, incomingPrefix} {
		all, err := s.Blobs.List(prefix)
		if err != nil {
			return err
		}
		for _, b := range all {
			if needed[strings.TrimPrefix(b.Key, filesPrefix)] || b.Modified.After(before) {
				continue
			}
			if err := errors.Join(ctx.Err(), s.Blobs.Delete(b.Key)); err != nil {
				return err
			}
		}
	}
	return nil
}

// neededFiles are the digests that releases need.
func (s *Server) neededFiles(ctx context.Context) (map[string]bool, error) {
	needed, versions := map[string]bool{}, map[string]int{}
	note := func(r store.Release) {
		for _, service := range r.Plan.Services {
			needed[service.Revision.Artifact] = true
		}
	}
	active, err := s.Releases.Active(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range active {
		note(r)
	}
	page := store.ReleaseFilter{Limit: 500}
	for range looked / page.Limit {
		found, err := s.Releases.History(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			page.Before = r.ID
			place := strings.ToLower(r.Plan.Repository + "\n" + r.Plan.Environment)
			if r.Promoted.IsZero() || versions[place] >= keptVersions {
				continue
			}
			versions[place]++
			note(r)
		}
		if len(found) < page.Limit {
			break
		}
	}
	return needed, nil
}
