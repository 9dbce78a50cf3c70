package image

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	algorithm = "sha256:"
	// maxManifest and maxConfig bound what is read into memory: registries take manifests of 4 MiB.
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
	// freshUpload is the age below which what comes in is left alone although nobody holds it yet; staleLock is that at
	// which a lock is nobody's any more.
	freshUpload = time.Minute
	staleLock   = 24 * time.Hour
)

// hexOf gives a digest's hexadecimal part. The error wraps ErrName.
func hexOf(digest string) (string, error) {
	if len(digest) == len(algorithm)+2*sha256.Size && digest[:len(algorithm)] == algorithm {
		h := digest[len(algorithm):]
		if isHex(h) {
			return h, nil
		}
	}
	return "", fmt.Errorf("%w: %.100q: a digest is sha256: and 64 lower-case hexadecimal digits", ErrName, digest)
}

func isHex(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return text != ""
}

// digestOf gives the digest of data.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return algorithm + hex.EncodeToString(sum[:])
}

func (s *Store) blobPath(hex string) string { return filepath.Join(s.dir, blobsDir, hex) }

// OpenBlob opens content for reading and gives its size in bytes. The error wraps ErrNotFound if it is not here.
func (s *Store) OpenBlob(digest string) (io.ReadSeekCloser, int64, error) {
	h, err := hexOf(digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.blobPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("content %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open content %s: %w", digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open content %s: %w", digest, err)
	}
	return f, info.Size(), nil
}

// HasBlob says whether the store has the content. What was asked for is not pruned within the hour.
func (s *Store) HasBlob(digest string) bool {
	h, err := hexOf(digest)
	if err != nil {
		return false
	}
	now := time.Now()
	return os.Chtimes(s.blobPath(h), now, now) == nil
}

// hasSized is HasBlob for content whose size is known: what a loss of power cut short counts as absent.
func (s *Store) hasSized(digest string, size int64) bool {
	h, err := hexOf(digest)
	if err != nil || !s.HasBlob(digest) {
		return false
	}
	info, err := os.Stat(s.blobPath(h))
	return err == nil && info.Size() == size
}

// discardDamaged removes content that is not what its name says, as a loss of power may leave it, and says whether it
// was so.
func (s *Store) discardDamaged(digest string) bool {
	r, _, err := s.OpenBlob(digest)
	if err != nil {
		return false
	}
	defer r.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, r); err != nil || algorithm+hex.EncodeToString(hash.Sum(nil)) == digest {
		return false
	}
	return os.Remove(s.blobPath(digest[len(algorithm):])) == nil
}

// readBlob gives content of at most limit bytes and verifies it.
func (s *Store) readBlob(digest string, limit int64) ([]byte, error) {
	r, size, err := s.OpenBlob(digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("content %s has %d bytes: %w: at most %d", digest, size, ErrTooLarge, limit)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, fmt.Errorf("read content %s: %w", digest, err)
	}
	if digestOf(data) != digest {
		return nil, fmt.Errorf("content %s was damaged on the disk: %w", digest, ErrDigest)
	}
	return data, nil
}

// PutBlob stores what r yields as the content digest. The error wraps ErrDigest if it is something else; then nothing
// is stored. When it returns without error the content is on the disk.
func (s *Store) PutBlob(ctx context.Context, digest string, r io.Reader) error {
	if _, err := hexOf(digest); err != nil {
		return err
	}
	u, err := s.NewUpload()
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := io.Copy(u, contextReader{ctx, r}); err != nil {
		return s.explain(fmt.Errorf("put content %s: %w", digest, err))
	}
	u.durable = true
	return u.Commit(digest)
}

// putData stores data as content and gives its digest.
func (s *Store) putData(data []byte) (string, error) {
	digest := digestOf(data)
	if _, err := s.readBlob(digest, int64(len(data))); err == nil && s.HasBlob(digest) {
		return digest, nil
	}
	u, err := s.NewUpload()
	if err != nil {
		return "", err
	}
	defer u.Close()
	if _, err := u.Write(data); err != nil {
		return "", s.explain(fmt.Errorf("put content %s: %w", digest, err))
	}
	u.durable = true
	return digest, u.Commit(digest)
}

// Upload is content that comes in. Nobody sees it before Commit; when it is closed before, or its process is killed, it
// is gone.
type Upload struct {
	s       *Store
	f       *os.File
	hash    hash.Hash
	size    int64
	durable bool
}

// NewUpload begins to take content in. Close must be called.
func (s *Store) NewUpload() (*Upload, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, uploadsDir, rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, s.explain(fmt.Errorf("take content in: %w", err))
	}
	if err := hold(f); err != nil {
		return nil, errors.Join(fmt.Errorf("take content in: %w", err), os.Remove(f.Name()), f.Close())
	}
	return &Upload{s: s, f: f, hash: sha256.New()}, nil
}

// hold says that a file of the uploads, or a directory, belongs to a process at work. It ends with the process.
func hold(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// Write appends to the content.
func (u *Upload) Write(p []byte) (int, error) {
	n, err := u.f.Write(p)
	u.hash.Write(p[:n])
	u.size += int64(n)
	return n, err
}

// Size is how many bytes were written.
func (u *Upload) Size() int64 { return u.size }

// Digest is that of what was written.
func (u *Upload) Digest() string { return algorithm + hex.EncodeToString(u.hash.Sum(nil)) }

// Durable makes Commit wait until the content is on the disk.
func (u *Upload) Durable() { u.durable = true }

// Commit gives the content its place if it is what digest says; the error wraps ErrDigest if it is not.
func (u *Upload) Commit(digest string) error {
	h, err := hexOf(digest)
	if err != nil {
		return err
	}
	if got := u.Digest(); got != digest {
		return fmt.Errorf("%w: wanted %s, got %s (%d bytes)", ErrDigest, digest, got, u.size)
	}
	if u.durable {
		if err := u.f.Sync(); err != nil {
			return u.s.explain(fmt.Errorf("put content %s: %w", digest, err))
		}
	}
	if err := os.Rename(u.f.Name(), u.s.blobPath(h)); err != nil {
		return fmt.Errorf("put content %s: %w", digest, err)
	}
	return nil
}

// Close gives up what was not committed.
func (u *Upload) Close() error {
	if err := os.Remove(u.f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, u.f.Close())
	}
	return u.f.Close()
}

// removeStale removes what killed processes left behind: uploads that no process holds, and old locks.
func (s *Store) removeStale(now time.Time) {
	for _, part := range []struct {
		dir   string
		young time.Duration
		held  bool
	}{{uploadsDir, freshUpload, true}, {locksDir, staleLock, false}} {
		dir := filepath.Join(s.dir, part.dir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) >= part.young && !(part.held && isHeld(name)) {
				_ = os.RemoveAll(name) // else the next Open does
			}
		}
	}
}

// isHeld says whether a process works on a file or directory of the uploads.
func isHeld(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return hold(f) != nil
}

// explain says which disk is full.
func (s *Store) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the disk that holds %s is full: free some room, or run penstock image prune: %w", s.dir, err)
	}
	return err
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
