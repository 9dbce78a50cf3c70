// Package layer keeps directory layers: a workspace, a cache entry, a tool, the disk as it was before a step.
// Layers are captured by a rename, stacked, put in place by a mount, and collected when nothing needs them.
//
// It knows directories and overlay whiteouts. It never knows jobs, and never mounts: who runs machines does.
package layer

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// ID names a layer in a store: lower-case hexadecimal.
type ID string

// idBytes keeps IDs short: a stack of layers is one page of text when it is mounted.
const idBytes = 10

// valid says whether id may be a layer's name; what is not never touches the file system.
func (id ID) valid() bool {
	b, err := hex.DecodeString(string(id))
	return err == nil && len(b) == idBytes && strings.ToLower(string(id)) == string(id)
}

// ErrNotExist is returned for a layer or a reference that the store does not have.
var ErrNotExist = errors.New("no such layer")

// Layer describes a layer. Its files never change.
type Layer struct {
	ID ID `json:"-"`
	// Below are the layers that it was written on top of, the lowest first; they are kept as long as it is.
	Below []ID `json:"below,omitempty"`
	// Of is the layer that a View shows a part of; it is kept as long as the view is.
	Of ID `json:"of,omitempty"`
	// Whole says that it hides whatever lies below it.
	Whole bool `json:"whole,omitempty"`
	// Owner is the host's user id that a machine's root has in its files. Other ids follow it; -1 if ids are the
	// host's own.
	Owner int `json:"owner"`
	// Note is for who made it.
	Note    json.RawMessage `json:"note,omitempty"`
	Created time.Time       `json:"created"`
}

// Store is a directory of layers. It is safe for use by several goroutines and processes.
type Store struct {
	dir  string
	jobs sync.WaitGroup // removals in the background

	mu     sync.Mutex
	remove func(dir string) error
}

// The parts of a store. Layer ID's files are at layers/ID/d.
const (
	layersDir  = "layers"
	refsDir    = "refs"
	scratchDir = "scratch"
	trashDir   = "trash" // is being removed
	newDir     = "new"   // is being made
	filesDir   = "d"
	aboutFile  = "layer.json"
	lockFile   = "lock"
)

// Open opens the store at dir and makes it if need be. What a killed process left behind is removed in the
// background.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	s := &Store{dir: dir, remove: RemoveAll}
	for _, d := range []string{"", layersDir, refsDir, scratchDir, trashDir, newDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open layers: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("open layers in %s: %w", dir, err)
	}
	return s, nil
}

// closeWait is how long Close waits: someone is looking at a prompt.
const closeWait = 2 * time.Second

// Close waits a little for removals that are under way. What is left is removed when the store is opened next.
func (s *Store) Close() error {
	done := make(chan struct{})
	go func() { s.jobs.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeWait):
	}
	return nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Path is where a layer's files are, relative to the store's directory.
func Path(id ID) string { return layersDir + "/" + string(id) + "/" + filesDir }

// NewID gives an ID that no layer has.
func NewID() ID {
	b := make([]byte, idBytes)
	rand.Read(b)
	return ID(hex.EncodeToString(b))
}

// Add takes the directory dir in by a rename, so it must be on the store's file system. l.ID and l.Created are set
// here. On an error dir is where it was.
func (s *Store) Add(dir string, l Layer) (ID, error) {
	id := NewID()
	l.Created = time.Now().UTC()
	about, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("add a layer: %w", err)
	}
	made := filepath.Join(s.dir, newDir, string(id))
	if err := os.Mkdir(made, 0o700); err != nil {
		return "", fmt.Errorf("add a layer: %w", err)
	}
	if err = os.WriteFile(filepath.Join(made, aboutFile), about, 0o600); err == nil {
		err = s.admit(dir, made, id)
	}
	if err != nil {
		os.RemoveAll(made)
		return "", fmt.Errorf("add a layer: %w", err)
	}
	return id, nil
}

// admit moves dir into the prepared directory made, and that to the layers.
func (s *Store) admit(dir, made string, id ID) error {
	files := filepath.Join(made, filesDir)
	if err := os.Rename(dir, files); err != nil {
		return err
	}
	if err := os.Rename(made, filepath.Join(s.dir, layersDir, string(id))); err != nil {
		return errors.Join(err, os.Rename(files, dir))
	}
	return nil
}

// Layer gives what is known of a layer, or ErrNotExist.
func (s *Store) Layer(id ID) (Layer, error) {
	l := Layer{ID: id}
	if !id.valid() {
		return l, fmt.Errorf("layer %q: %w", id, ErrNotExist)
	}
	about, err := os.ReadFile(filepath.Join(s.dir, layersDir, string(id), aboutFile))
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("layer %s: %w", id, ErrNotExist)
	}
	if err != nil {
		return l, fmt.Errorf("layer %s: %w", id, err)
	}
	if err := json.Unmarshal(about, &l); err != nil {
		return l, fmt.Errorf("layer %s: %w", id, err)
	}
	return l, nil
}

// Stack gives all layers that ids (the lowest first) stand on and ids themselves, each once, the lowest first. What
// lies below a layer that is Whole is left out.
func (s *Store) Stack(ids ...ID) ([]Layer, error) {
	var stack []Layer
	seen := map[ID]bool{}
	var add func(id ID, depth int) error
	add = func(id ID, depth int) error {
		if seen[id] {
			return nil
		}
		seen[id] = true
		l, err := s.Layer(id)
		if err != nil {
			return err
		}
		if depth > maxDepth {
			return fmt.Errorf("layer %s: stacked too deep", id)
		}
		for _, b := range l.Below {
			if err := add(b, depth+1); err != nil {
				return err
			}
		}
		stack = append(stack, l)
		return nil
	}
	for _, id := range ids {
		if err := add(id, 0); err != nil {
			return nil, err
		}
	}
	for i := len(stack) - 1; i > 0; i-- {
		if stack[i].Whole {
			return slices.Clone(stack[i:]), nil
		}
	}
	return stack, nil
}

// maxDepth bounds a chain of layers, so that a damaged store can not hold us up.
const maxDepth = 4096

// Open gives a layer's files for reading. The root refuses names that leave it. Whiteouts are character devices 0:0.
func (s *Store) Open(id ID) (*os.Root, error) {
	if !id.valid() {
		return nil, fmt.Errorf("layer %q: %w", id, ErrNotExist)
	}
	root, err := os.OpenRoot(filepath.Join(s.dir, Path(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w", id, ErrNotExist)
	}
	return root, err
}
