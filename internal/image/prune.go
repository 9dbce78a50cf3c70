package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

// young is the age below which content is not removed: who takes an image in needs time to name it.
const young = time.Hour

// PruneOptions say what Prune may remove beside what no name needs.
type PruneOptions struct {
	All    bool          // names too
	Unused time.Duration // with All: only names that were not used for so long
}

// Pruned is what Prune removed.
type Pruned struct {
	Names []string // full names
	Bytes int64    // of content; unpacked layers are removed by the layer store's Collect
}

// Prune removes images without a name, with o.All also names, and then the content and the unpacked layers that no image
// needs any more. Content of the last hour stays.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	var done Pruned
	err := s.locked(syscall.LOCK_EX, func() error {
		if o.All {
			if err := s.pruneNames(o.Unused, &done); err != nil {
				return err
			}
		}
		needed, diffs, err := s.reach(ctx, func(n named, r record) bool { return nameOf(n) != "" || s.recent(r.Digest) })
		if err != nil {
			return err
		}
		if err := s.pruneRecords(needed); err != nil {
			return err
		}
		if err := s.pruneContent(needed, &done); err != nil {
			return err
		}
		return s.pruneUnpacked(diffs)
	})
	if err != nil {
		return done, fmt.Errorf("prune images: %w", err)
	}
	s.removeStale(time.Now())
	return done, nil
}

func (s *Store) pruneNames(unused time.Duration, done *Pruned) error {
	var drop []named
	err := s.each(func(n named, _ record) error {
		if nameOf(n) == "" {
			return nil
		}
		info, err := os.Stat(s.repositoryPath(n.repository, tagsDir, n.key()))
		if err == nil && time.Since(info.ModTime()) >= unused {
			drop = append(drop, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range drop {
		if err := s.removeName(n); err != nil {
			return err
		}
		done.Names = append(done.Names, n.String())
	}
	return nil
}

// reach gives the digests of all content that the manifests need for which counts is true, and those of the tars in it.
func (s *Store) reach(ctx context.Context, counts func(named, record) bool) (needed, diffs map[string]bool, err error) {
	needed, diffs = map[string]bool{}, map[string]bool{}
	subjects := map[string][]string{} // of manifests, what describes them
	var todo []string
	err = s.each(func(n named, r record) error {
		if counts(n, r) {
			todo = append(todo, r.Digest)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if err := s.eachSubject(func(subject, own string) { subjects[subject] = append(subjects[subject], own) }); err != nil {
		return nil, nil, err
	}
	for len(todo) > 0 {
		digest := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if needed[digest] {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, nil, err
		}
		needed[digest] = true
		todo = append(append(todo, subjects[digest]...), s.reachManifest(digest, needed, diffs)...)
	}
	return needed, diffs, nil
}

// ErrInUse is wrapped when content is not removed because a manifest needs it.
var ErrInUse = errors.New("a manifest needs it")

// DeleteBlob removes content at once. The error wraps ErrNotFound, or ErrInUse if a manifest of any repository needs it.
func (s *Store) DeleteBlob(ctx context.Context, digest string) error {
	h, err := hexOf(digest)
	if err != nil {
		return err
	}
	return s.locked(syscall.LOCK_EX, func() error {
		needed, _, err := s.reach(ctx, func(named, record) bool { return true })
		if err != nil {
			return err
		}
		if needed[digest] {
			return fmt.Errorf("content %s: %w", digest, ErrInUse)
		}
		if err := os.Remove(s.blobPath(h)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("content %s: %w", digest, ErrNotFound)
		} else if err != nil {
			return fmt.Errorf("delete content %s: %w", digest, err)
		}
		return nil
	})
}

// reachManifest notes what one manifest needs and gives the manifests among it. One that can not be read needs nothing.
func (s *Store) reachManifest(digest string, needed, diffs map[string]bool) (manifests []string) {
	data, err := s.readBlob(digest, maxManifest)
	if err != nil {
		return nil
	}
	m, err := parseManifest(data, "")
	if err != nil {
		return nil
	}
	for _, d := range m.Manifests {
		manifests = append(manifests, d.Digest.String())
	}
	if m.Config == nil {
		return manifests
	}
	needed[m.Config.Digest.String()] = true
	for _, d := range m.Layers {
		needed[d.Digest.String()] = true
	}
	if data, err := s.readBlob(m.Config.Digest.String(), maxConfig); err == nil {
		if c, err := parseConfig(data, m); err == nil {
			for _, d := range c.RootFS.DiffIDs {
				diffs[d.String()] = true
			}
		}
	}
	return manifests
}

// recent says whether content came in within the last hour.
func (s *Store) recent(digest string) bool {
	h, err := hexOf(digest)
	if err != nil {
		return false
	}
	info, err := os.Stat(s.blobPath(h))
	return err == nil && time.Since(info.ModTime()) < young
}

// eachSubject visits what describes other manifests.
func (s *Store) eachSubject(visit func(subject, own string)) error {
	repositories, err := s.Names()
	if err != nil {
		return err
	}
	for _, repository := range repositories {
		found, err := filepath.Glob(s.repositoryPath(repository, subjectsDir, "sha256:*", "sha256:*"))
		if err != nil {
			return err
		}
		for _, path := range found {
			visit(filepath.Base(filepath.Dir(path)), filepath.Base(path))
		}
	}
	return nil
}

// pruneRecords removes what repositories know of manifests that go, and repositories that are empty then.
func (s *Store) pruneRecords(needed map[string]bool) error {
	repositories, err := s.Names()
	if err != nil {
		return err
	}
	for _, repository := range repositories {
		digests, err := s.digests(repository)
		if err != nil {
			return err
		}
		for _, digest := range digests {
			if needed[digest] {
				continue
			}
			if err := s.deleteDigest(named{repository: repository, digest: digest}); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		s.removeEmpty(repository)
	}
	return nil
}

// removeEmpty removes the directories of a repository that hold nothing any more.
func (s *Store) removeEmpty(repository string) {
	subjects, err := filepath.Glob(s.repositoryPath(repository, subjectsDir, "sha256:*"))
	if err != nil {
		return
	}
	dirs := append(subjects, s.repositoryPath(repository, subjectsDir), s.repositoryPath(repository, tagsDir), s.repositoryPath(repository, manifestsDir))
	for dir := repository; dir != "."; dir = filepath.Dir(dir) {
		dirs = append(dirs, s.repositoryPath(dir))
	}
	for _, dir := range dirs {
		_ = os.Remove(dir) // what is not empty stays
	}
}

func (s *Store) pruneContent(needed map[string]bool, done *Pruned) error {
	dir := filepath.Join(s.dir, blobsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || needed[algorithm+e.Name()] || time.Since(info.ModTime()) < young {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		done.Bytes += info.Size()
	}
	return nil
}

// pruneUnpacked lets go of unpacked layers that no image has, and of what is remembered of layers that are gone.
func (s *Store) pruneUnpacked(diffs map[string]bool) error {
	refs, err := s.layers.Refs(refPrefix)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if diffs[strings.TrimPrefix(ref, refPrefix)] || s.unpackedLately(ref) {
			continue
		}
		if err := s.layers.SetRef(ref); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, packedDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, packedDir, e.Name())
		var p packed
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &p) == nil && s.isThere(p.Digest) {
			if _, err := s.layers.Layer(layer.ID(e.Name())); err == nil {
				continue
			}
		}
		if err := removeIfThere(path); err != nil {
			return err
		}
	}
	return nil
}

// unpackedLately says whether a layer may be of an image that is still coming in.
func (s *Store) unpackedLately(ref string) bool {
	ids, err := s.layers.Ref(ref)
	if err != nil || len(ids) != 1 {
		return false
	}
	l, err := s.layers.Layer(ids[0])
	return err == nil && time.Since(l.Created) < young
}

// isThere is HasBlob without making the content younger.
func (s *Store) isThere(digest string) bool {
	h, err := hexOf(digest)
	if err != nil {
		return false
	}
	_, err = os.Stat(s.blobPath(h))
	return err == nil
}
