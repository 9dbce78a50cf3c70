// Package image keeps OCI images: it pulls, pushes, loads, saves, lists and prunes them, makes new ones for builds, and
// unpacks their layers, each once, into the layer store. Content is kept by its digest and verified when it comes in.
//
// It never runs anything of an image, and never mounts: who runs machines does. What comes from a registry or an
// archive is taken for hostile: nothing of it is followed out of the place it is unpacked to.
package image

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/layer"
)

var (
	// ErrName is wrapped by the errors for a text that names no image.
	ErrName = errors.New("not a name of an image")
	// ErrNotFound is wrapped when neither the store nor a registry has what was asked for.
	ErrNotFound = errors.New("image not found")
	// ErrPlatform is wrapped when an image exists, but not for the platform that was asked for.
	ErrPlatform = errors.New("no image for this platform")
	// ErrDigest is wrapped when content is not what its digest says.
	ErrDigest = errors.New("content does not match its digest")
	// ErrDenied is wrapped when a registry wants other credentials.
	ErrDenied = errors.New("the registry denies access")
	// ErrUnreachable is wrapped when a registry can not be reached or fails by itself.
	ErrUnreachable = errors.New("the registry can not be reached")
	// ErrArchive is wrapped when a layer or an archive is damaged or tries what is not allowed.
	ErrArchive = errors.New("bad archive")
	// ErrTooLarge is wrapped when something is larger than the limits allow.
	ErrTooLarge = errors.New("larger than allowed")
)

// Options say how a store works.
type Options struct {
	// Owner is the host's user id of root inside machines (sandbox.Owner). Unpacked files belong to Owner and the ids
	// that follow when this process is root, else to this user.
	Owner int
	// Mirrors are tried in their order before the registry that is their key: host[:port][/prefix].
	Mirrors map[string][]string
	// Insecure are the registries that are spoken to over http. Loopback always may be.
	Insecure []string
	// MaxUnpacked bounds the bytes that one layer takes on disk; 0 is 64 GiB.
	MaxUnpacked int64
	// MaxEntries bounds the files of one layer; 0 is two million.
	MaxEntries int
}

// Store is a directory of images. It is safe for use by several goroutines and processes.
type Store struct {
	dir    string
	layers *layer.Store
	o      Options
	http   *http.Transport
}

// Image is an image that the store has. It is a value.
type Image struct {
	Name              string    // full: docker.io/library/postgres:15; empty if it has none
	Digest            string    // of its manifest: sha256:…
	ID                string    // of its configuration: sha256:…
	Size              int64     // bytes, packed
	Created           time.Time // as the image says
	OS, Arch, Variant string
	// Config is what it says of its entrypoint, environment, user, ports, volumes, health check and so on.
	Config v1.Config
}

// Credentials are for one registry.
type Credentials struct{ Username, Password string }

// Progress is where a pull or push stands.
type Progress struct {
	Done, Total        int64 // bytes, packed; what is there already counts as done
	Fetched            int64 // bytes of a pull that came from the registry
	Layers, LayersDone int
	Unpacking          bool // all bytes are here, and not all are unpacked
}

// The parts of a store.
const (
	blobsDir   = "blobs/sha256"
	reposDir   = "repositories"
	uploadsDir = "uploads" // is being written
	locksDir   = "locks"
	packedDir  = "packed" // what layers were packed to
)

const (
	defaultMaxUnpacked = 64 << 30
	defaultMaxEntries  = 2_000_000
)

// Open opens the store at dir, and makes it if need be. Layers are unpacked into layers.
func Open(dir string, layers *layer.Store, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = defaultMaxUnpacked
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultMaxEntries
	}
	for _, d := range []string{blobsDir, reposDir, uploadsDir, locksDir, packedDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open images: %w", err)
		}
	}
	s := &Store{dir: dir, layers: layers, o: o, http: newTransport()}
	s.removeStale(time.Now())
	return s, nil
}
