package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/image"
)

const (
	// What a registry's client may send and ask for at most.
	maxRegistryManifest = 4 << 20
	maxRegistryBlob     = 64 << 30
	maxRegistryPage     = 1000
	// maxRegistryUploads bounds uploads that are open; those that nobody wrote to for registryUploadLife end.
	maxRegistryUploads = 1000
	registryUploadLife = time.Hour
)

// Registry serves the images of a store as a registry (OCI distribution specification 1.1), for loopback and networks
// that are trusted: it asks nobody who they are. A repository whose first part has a dot or a colon, or is localhost, is
// a full name (HOST/docker.io/library/postgres is docker.io/library/postgres); any other one, P, is localhost/P.
type Registry struct {
	images  *image.Store
	handler http.Handler
	now     func() time.Time

	mu      sync.Mutex
	uploads map[string]*registryUpload
}

// registryUpload is content that comes in by several requests.
type registryUpload struct {
	mu         sync.Mutex // one request at a time writes
	content    *image.Upload
	repository string
	used       time.Time // guarded by Registry.mu
	ended      bool
}

// NewRegistry serves images. Close ends the uploads that are open.
func NewRegistry(images *image.Store) *Registry {
	g := &Registry{images: images, now: time.Now, uploads: map[string]*registryUpload{}}
	// Web pages that a user of this machine visits must not push.
	g.handler = http.NewCrossOriginProtection().Handler(http.HandlerFunc(g.route))
	return g
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// Close gives up the uploads that are open.
func (g *Registry) Close() error {
	g.mu.Lock()
	open := g.uploads
	g.uploads = map[string]*registryUpload{}
	g.mu.Unlock()
	var errs []error
	for _, u := range open {
		errs = append(errs, u.end())
	}
	return errors.Join(errs...)
}

// registryFault is an error as the specification has them.
type registryFault struct {
	status  int
	code    string
	message string
}

func (f *registryFault) Error() string { return f.message }

func fault(status int, code, format string, args ...any) *registryFault {
	return &registryFault{status, code, fmt.Sprintf(format, args...)}
}

// route finds what a path means. Repositories have slashes in their names, so the known ends are looked for.
func (g *Registry) route(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := g.serve(w, r); err != nil {
		g.fail(w, r, err)
	}
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2" || ok && path == "":
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, "{}")
		return gone(err)
	case !ok:
		return fault(http.StatusNotFound, "UNSUPPORTED", "this is a registry of images: its paths begin with /v2/")
	case path == "_catalog":
		return g.catalog(w, r)
	}
	parts := strings.Split(path, "/")
	n := len(parts)
	switch {
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		return g.withRepository(parts[:n-3], func(repository string) error { return g.upload(w, r, repository, parts[n-1]) })
	case n >= 3 && parts[n-2] == "blobs" && parts[n-1] == "uploads":
		return g.withRepository(parts[:n-2], func(repository string) error { return g.upload(w, r, repository, "") })
	case n >= 3 && parts[n-2] == "blobs":
		return g.withRepository(parts[:n-2], func(string) error { return g.blob(w, r, parts[n-1]) })
	case n >= 3 && parts[n-2] == "manifests":
		return g.withRepository(parts[:n-2], func(repository string) error { return g.manifest(w, r, repository, parts[n-1]) })
	case n >= 3 && parts[n-2] == "tags" && parts[n-1] == "list":
		return g.withRepository(parts[:n-2], func(repository string) error { return g.tags(w, r, repository) })
	case n >= 3 && parts[n-2] == "referrers":
		return g.withRepository(parts[:n-2], func(repository string) error { return g.referrers(w, r, repository, parts[n-1]) })
	}
	return fault(http.StatusNotFound, "NAME_UNKNOWN", "there is nothing at %s", r.URL.Path)
}

// withRepository calls do with the full name of a repository.
func (g *Registry) withRepository(parts []string, do func(repository string) error) error {
	path := strings.Join(parts, "/")
	if first := parts[0]; len(parts) == 1 || !strings.ContainsAny(first, ".:") && first != "localhost" {
		path = localHost + path
	}
	full, err := image.FullName(path + ":x")
	if err != nil {
		return err
	}
	return do(strings.TrimSuffix(full, ":x"))
}

// localHost is where repositories are whose names say no host.
const localHost = "localhost/"

// gone passes over a client that does not wait for its answer.
func gone(error) error { return nil }

// fail answers with an error.
func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *registryFault
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &f):
	case errors.As(err, &large):
		f = fault(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "more than %d bytes", large.Limit)
	case errors.Is(err, image.ErrName):
		f = fault(http.StatusBadRequest, "NAME_INVALID", "%v", err)
	case errors.Is(err, image.ErrNotFound):
		f = fault(http.StatusNotFound, notFoundCode(r.URL.Path), "%v", err)
	case errors.Is(err, image.ErrDigest):
		f = fault(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
	case errors.Is(err, image.ErrArchive), errors.Is(err, image.ErrTooLarge):
		f = fault(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	case errors.Is(err, image.ErrInUse):
		f = fault(http.StatusMethodNotAllowed, "DENIED", "%v: delete that first", err)
	default:
		f = fault(http.StatusInternalServerError, "UNKNOWN", "%v", err)
	}
	body, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}})
	if err != nil {
		body = []byte(`{"errors":[{"code":"UNKNOWN"}]}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // who asked may have gone
}

func notFoundCode(path string) string {
	switch {
	case strings.Contains(path, "/manifests/"):
		return "MANIFEST_UNKNOWN"
	case strings.Contains(path, "/blobs/"):
		return "BLOB_UNKNOWN"
	}
	return "NAME_UNKNOWN"
}

func notAllowed(w http.ResponseWriter, allowed ...string) error {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return fault(http.StatusMethodNotAllowed, "UNSUPPORTED", "allowed here: %s", strings.Join(allowed, ", "))
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, digest string) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		content, _, err := g.images.OpenBlob(digest)
		if err != nil {
			return badDigest(err)
		}
		defer content.Close()
		g.images.HasBlob(digest) // whoever asks may be about to push what needs it
		w.Header().Set("Docker-Content-Digest", digest)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Etag", `"`+digest+`"`)
		w.Header().Set("Cache-Control", "max-age=31536000")
		http.ServeContent(w, r, "", time.Time{}, content)
		return nil
	case http.MethodDelete:
		if err := g.images.DeleteBlob(r.Context(), digest); err != nil {
			return badDigest(err)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return notAllowed(w, "GET", "HEAD", "DELETE")
}

// badDigest says that a digest is at fault where nothing else was named.
func badDigest(err error) error {
	if errors.Is(err, image.ErrName) {
		return fault(http.StatusBadRequest, "DIGEST_INVALID", "%v", err)
	}
	return err
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, repository, reference string) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		data, mediaType, digest, err := g.images.Manifest(repository, reference)
		if err != nil {
			return badReference(err)
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Header().Set("Docker-Content-Digest", digest)
		w.Header().Set("Etag", `"`+digest+`"`)
		if r.Method == http.MethodGet {
			_, err = w.Write(data)
		}
		return gone(err)
	case http.MethodPut:
		return g.putManifest(w, r, repository, reference)
	case http.MethodDelete:
		if err := g.images.DeleteManifest(repository, reference); err != nil {
			return badReference(err)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return notAllowed(w, "GET", "HEAD", "PUT", "DELETE")
}

// badReference says that a tag or digest is at fault: the repository's name has been read.
func badReference(err error) error {
	if errors.Is(err, image.ErrName) {
		return fault(http.StatusBadRequest, "TAG_INVALID", "%v", err)
	}
	return err
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, repository, reference string) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRegistryManifest))
	if err != nil {
		return err
	}
	digest, err := g.images.PutManifest(r.Context(), repository, reference, r.Header.Get("Content-Type"), data)
	switch {
	case errors.Is(err, image.ErrNotFound):
		return fault(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "%v", err)
	case err != nil:
		return badReference(err)
	}
	var m struct {
		Subject *struct{ Digest string }
	}
	if err := json.Unmarshal(data, &m); err == nil && m.Subject != nil {
		w.Header().Set("OCI-Subject", m.Subject.Digest)
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", "/v2/"+shown(repository)+"/manifests/"+digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// shown is a repository's name as clients know it.
func shown(repository string) string { return strings.TrimPrefix(repository, localHost) }

func (g *Registry) tags(w http.ResponseWriter, r *http.Request, repository string) error {
	if r.Method != http.MethodGet {
		return notAllowed(w, "GET")
	}
	tags, err := g.images.Tags(repository)
	if err != nil {
		return err
	}
	page, err := pageOf(w, r, tags)
	if err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"name": shown(repository), "tags": page})
}

func (g *Registry) catalog(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return notAllowed(w, "GET")
	}
	names, err := g.images.Names()
	if err != nil {
		return err
	}
	for i, name := range names {
		names[i] = shown(name)
	}
	slices.Sort(names)
	page, err := pageOf(w, r, names)
	if err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"repositories": page})
}

// pageOf gives the part of a sorted list that was asked for with n and last, and says where the next one is.
func pageOf(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	q := r.URL.Query()
	n := maxRegistryPage
	if text := q.Get("n"); text != "" {
		asked, err := strconv.Atoi(text)
		if err != nil || asked < 0 {
			return nil, fault(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is %.20q, not a number from 0", text)
		}
		n = min(n, asked)
	}
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if len(all) <= n {
		return slices.Concat([]string{}, all), nil
	}
	if n > 0 {
		next := url.URL{Path: r.URL.Path, RawQuery: url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}.Encode()}
		w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	return slices.Concat([]string{}, all[:n]), nil
}

func answer(w http.ResponseWriter, mediaType string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, err = w.Write(data)
	return gone(err)
}

// referrer is an entry of the list of referrers.
type referrer struct {
	MediaType    string            `json:"mediaType"`
	Size         int64             `json:"size"`
	Digest       string            `json:"digest"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, repository, digest string) error {
	if r.Method != http.MethodGet {
		return notAllowed(w, "GET")
	}
	all, err := g.images.Referrers(repository, digest)
	if err != nil {
		return badDigest(err)
	}
	wanted := r.URL.Query().Get("artifactType")
	list := []referrer{}
	for _, x := range all {
		if wanted == "" || wanted == x.ArtifactType {
			list = append(list, referrer{x.MediaType, x.Size, x.Digest, x.ArtifactType, x.Annotations})
		}
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	const index = "application/vnd.oci.image.index.v1+json"
	return answer(w, index, map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": list})
}
