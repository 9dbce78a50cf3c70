package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The parts of a repository's directory. No part of a repository's name begins with an underscore.
const (
	tagsDir      = "_tags"      // names: a tag, or @digest for what is named by its digest alone
	manifestsDir = "_manifests" // by digest
	subjectsDir  = "_subjects"  // by the digest of what they describe, and their own
)

// record says what a name or a digest stands for.
type record struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
}

func (s *Store) repositoryPath(repository string, parts ...string) string {
	return filepath.Join(append([]string{s.dir, reposDir, filepath.FromSlash(repository)}, parts...)...)
}

// shared runs do while nobody prunes.
func (s *Store) shared(do func() error) error { return s.locked(syscall.LOCK_SH, do) }

func (s *Store) locked(how int, do func() error) error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err = syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return err
	}
	return do()
}

// writeRecord writes a file of a repository; readers see the old or the new one.
func (s *Store) writeRecord(path string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	u, err := s.NewUpload()
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := u.Write(data); err != nil {
		return err
	}
	return os.Rename(u.f.Name(), path)
}

func readRecord(path string) (record, error) {
	var r record
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil {
		_, err = hexOf(r.Digest)
	}
	return r, err
}

// setName makes a name stand for a manifest that is here.
func (s *Store) setName(n named, r record) error {
	err := s.shared(func() error {
		if !s.HasBlob(r.Digest) {
			return fmt.Errorf("manifest %s: %w", r.Digest, ErrNotFound)
		}
		if err := s.writeRecord(s.repositoryPath(n.repository, manifestsDir, r.Digest), r); err != nil {
			return err
		}
		return s.writeRecord(s.repositoryPath(n.repository, tagsDir, n.key()), r)
	})
	if err != nil {
		return s.explain(fmt.Errorf("name %s: %w", n, err))
	}
	return nil
}

// lookUp gives what a name stands for. The error wraps ErrNotFound if it stands for nothing.
func (s *Store) lookUp(n named) (record, error) {
	r, err := readRecord(s.repositoryPath(n.repository, tagsDir, n.key()))
	if errors.Is(err, fs.ErrNotExist) && n.digest != "" {
		r, err = readRecord(s.repositoryPath(n.repository, manifestsDir, n.digest))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s: %w", n, ErrNotFound)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", n, err)
	}
	return r, nil
}

// referenceName is the name that a registry's client means: reference is a tag or a digest.
func referenceName(repository, reference string) (named, error) {
	sep := ":"
	if strings.Contains(reference, ":") {
		sep = "@"
	}
	n, err := parseName(repository + sep + reference)
	if err == nil && n.repository != repository {
		err = fmt.Errorf("%w: %.200q: a repository is host/path", ErrName, repository)
	}
	return n, err
}

// PutManifest stores a manifest in a repository (a full name, host/path), under a tag or its own digest. All that it
// needs must be here; the error wraps ErrNotFound if it is not, ErrDigest if the reference is another digest, ErrArchive
// if it can not be read.
func (s *Store) PutManifest(ctx context.Context, repository, reference, mediaType string, data []byte) (string, error) {
	n, err := referenceName(repository, reference)
	if err != nil {
		return "", err
	}
	m, err := parseManifest(data, mediaType)
	if err != nil {
		return "", err
	}
	digest := digestOf(data)
	if n.digest != "" && n.digest != digest {
		return "", fmt.Errorf("%w: wanted %s, got %s", ErrDigest, n.digest, digest)
	}
	err = s.shared(func() error {
		if err := s.checkContents(ctx, m); err != nil {
			return err
		}
		if _, err := s.putData(data); err != nil {
			return err
		}
		return s.record(n, m, record{Digest: digest, MediaType: m.MediaType})
	})
	if err != nil {
		return "", s.explain(fmt.Errorf("put manifest %s: %w", n, err))
	}
	return digest, nil
}

// checkContents sees that all is here that a manifest needs.
func (s *Store) checkContents(ctx context.Context, m *manifest) error {
	for _, d := range m.contents() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if isForeign(d.MediaType) {
			continue // never pushed
		}
		if !s.hasSized(d.Digest.String(), d.Size) {
			return fmt.Errorf("content %s of %d bytes: %w", d.Digest, d.Size, ErrNotFound)
		}
	}
	return nil
}

func isForeign(t types.MediaType) bool { return t.IsLayer() && !t.IsDistributable() }

// record writes the files that make a manifest known in its repository.
func (s *Store) record(n named, m *manifest, r record) error {
	if m.Subject != nil {
		if _, err := hexOf(m.Subject.Digest.String()); err != nil {
			return err
		}
		if err := s.writeRecord(s.repositoryPath(n.repository, subjectsDir, m.Subject.Digest.String(), r.Digest), r); err != nil {
			return err
		}
	}
	if err := s.writeRecord(s.repositoryPath(n.repository, manifestsDir, r.Digest), r); err != nil {
		return err
	}
	if n.tag == "" {
		return nil
	}
	return s.writeRecord(s.repositoryPath(n.repository, tagsDir, n.tag), r)
}

// Manifest gives a repository's manifest by tag or digest. The error wraps ErrNotFound if there is none.
func (s *Store) Manifest(repository, reference string) (data []byte, mediaType, digest string, err error) {
	n, err := referenceName(repository, reference)
	if err != nil {
		return nil, "", "", err
	}
	var r record
	if n.digest != "" { // what is pulled by the digest of an index may be kept as one image of it
		if r, err = readRecord(s.repositoryPath(repository, manifestsDir, n.digest)); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", n, ErrNotFound)
		}
	} else {
		r, err = s.lookUp(n)
	}
	if err != nil {
		return nil, "", "", err
	}
	data, err = s.readBlob(r.Digest, maxManifest)
	return data, r.MediaType, r.Digest, err
}

// Referrer is a manifest that describes another: a signature, an attestation.
type Referrer struct {
	Digest, MediaType, ArtifactType string
	Size                            int64
	Annotations                     map[string]string
}

// Referrers gives the manifests of a repository whose subject is digest, sorted by their digests.
func (s *Store) Referrers(repository, digest string) ([]Referrer, error) {
	if err := checkRepository(repository); err != nil {
		return nil, err
	}
	if _, err := hexOf(digest); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.repositoryPath(repository, subjectsDir, digest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("referrers of %s: %w", digest, err)
	}
	var all []Referrer
	for _, e := range entries {
		data, mediaType, own, err := s.Manifest(repository, e.Name())
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(data, mediaType)
		if err != nil {
			return nil, err
		}
		all = append(all, Referrer{own, mediaType, m.kind(), int64(len(data)), m.Annotations})
	}
	return all, nil
}

// DeleteManifest removes a tag, or a manifest by its digest with all its tags. Content goes with Prune.
func (s *Store) DeleteManifest(repository, reference string) error {
	n, err := referenceName(repository, reference)
	if err != nil {
		return err
	}
	return s.shared(func() error {
		if n.tag != "" {
			return gone(n, os.Remove(s.repositoryPath(repository, tagsDir, n.tag)))
		}
		return s.deleteDigest(n)
	})
}

func gone(n named, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", n, ErrNotFound)
	}
	return err
}

// deleteDigest removes what a repository knows of a manifest.
func (s *Store) deleteDigest(n named) error {
	if err := gone(n, os.Remove(s.repositoryPath(n.repository, manifestsDir, n.digest))); err != nil {
		return err
	}
	keys, err := s.keys(n.repository)
	if err != nil {
		return err
	}
	for _, key := range keys {
		path := s.repositoryPath(n.repository, tagsDir, key)
		if r, err := readRecord(path); err == nil && r.Digest == n.digest {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	own, err := filepath.Glob(s.repositoryPath(n.repository, subjectsDir, "*", n.digest))
	if err != nil {
		return err
	}
	for _, path := range own {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// keys are a repository's names as they are kept, sorted.
func (s *Store) keys(repository string) ([]string, error) {
	entries, err := os.ReadDir(s.repositoryPath(repository, tagsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tags of %s: %w", repository, err)
	}
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys, nil
}

// Tags gives a repository's tags, sorted. The error wraps ErrNotFound if there is no such repository.
func (s *Store) Tags(repository string) ([]string, error) {
	if err := checkRepository(repository); err != nil {
		return nil, err
	}
	keys, err := s.keys(repository)
	if err != nil {
		return nil, err
	}
	tags := slices.DeleteFunc(keys, func(key string) bool { return key[0] == '@' })
	if len(tags) > 0 {
		return tags, nil
	}
	if _, err := os.Stat(s.repositoryPath(repository, manifestsDir)); err != nil {
		return nil, fmt.Errorf("repository %s: %w", repository, ErrNotFound)
	}
	return nil, nil
}

// Names gives all repositories, sorted.
func (s *Store) Names() ([]string, error) {
	var names []string
	root := filepath.Join(s.dir, reposDir)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil || !strings.HasPrefix(e.Name(), "_") {
			return err
		}
		if name, err := filepath.Rel(root, filepath.Dir(path)); err == nil && e.Name() != subjectsDir {
			names = append(names, filepath.ToSlash(name))
		}
		return fs.SkipDir
	})
	if err != nil {
		return nil, fmt.Errorf("list repositories: %w", err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// touch notes that a name was used.
func (s *Store) touch(n named) {
	now := time.Now()
	_ = os.Chtimes(s.repositoryPath(n.repository, tagsDir, n.key()), now, now) // a hint to Prune, no more
}

// digests are the manifests that a repository knows, sorted.
func (s *Store) digests(repository string) ([]string, error) {
	entries, err := os.ReadDir(s.repositoryPath(repository, manifestsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifests of %s: %w", repository, err)
	}
	var digests []string
	for _, e := range entries {
		digests = append(digests, e.Name())
	}
	return digests, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
