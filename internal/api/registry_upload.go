package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// upload begins an upload, or goes on with the one called id.
func (g *Registry) upload(w http.ResponseWriter, r *http.Request, repository, id string) error {
	if id == "" {
		if r.Method != http.MethodPost {
			return notAllowed(w, "POST")
		}
		return g.beginUpload(w, r, repository)
	}
	u := g.openUpload(repository, id)
	if u == nil {
		return fault(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload: it has ended, or nobody wrote to it for %s", registryUploadLife)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return fault(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "this upload has ended")
	}
	switch r.Method {
	case http.MethodGet:
		showUpload(w, repository, id, u, http.StatusNoContent)
		return nil
	case http.MethodPatch:
		if err := u.append(w, r, repository, id); err != nil {
			return err
		}
		showUpload(w, repository, id, u, http.StatusAccepted)
		return nil
	case http.MethodPut:
		if err := u.append(w, r, repository, id); err != nil {
			return err
		}
		g.forget(id)
		return g.finishUpload(w, r, repository, u)
	case http.MethodDelete:
		g.forget(id)
		u.ended = true
		w.WriteHeader(http.StatusNoContent)
		return u.content.Close()
	}
	return notAllowed(w, "GET", "PATCH", "PUT", "DELETE")
}

// beginUpload begins an upload. With mount it needs none if the content is here: all repositories share it. With
// digest the content is the body of this request.
func (g *Registry) beginUpload(w http.ResponseWriter, r *http.Request, repository string) error {
	q := r.URL.Query()
	if digest := q.Get("mount"); digest != "" && g.images.HasBlob(digest) {
		created(w, repository, digest)
		return nil
	}
	id, u, err := g.newUpload(repository)
	if err != nil {
		return err
	}
	if q.Get("digest") != "" && q.Get("mount") == "" {
		defer g.forget(id)
		u.mu.Lock()
		defer u.mu.Unlock()
		if err := u.append(w, r, repository, id); err != nil {
			u.ended = true
			return errors.Join(err, u.content.Close())
		}
		return g.finishUpload(w, r, repository, u)
	}
	showUpload(w, repository, id, u, http.StatusAccepted)
	return nil
}

// newUpload makes room for an upload, and ends those that were forgotten.
func (g *Registry) newUpload(repository string) (string, *registryUpload, error) {
	content, err := g.images.NewUpload()
	if err != nil {
		return "", nil, err
	}
	id := rand.Text()
	u := &registryUpload{content: content, repository: repository, used: g.now()}
	g.mu.Lock()
	var old []*registryUpload
	for id, other := range g.uploads {
		if g.now().Sub(other.used) > registryUploadLife {
			old = append(old, other)
			delete(g.uploads, id)
		}
	}
	full := len(g.uploads) >= maxRegistryUploads
	if !full {
		g.uploads[id] = u
	}
	g.mu.Unlock()
	for _, other := range old {
		_ = other.end() // a leftover is removed when the store is opened next
	}
	if full {
		content.Close()
		return "", nil, fault(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are open already", maxRegistryUploads)
	}
	return id, u, nil
}

func (g *Registry) openUpload(repository, id string) *registryUpload {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.uploads[id]
	if u == nil || u.repository != repository {
		return nil
	}
	u.used = g.now()
	return u
}

func (g *Registry) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.uploads, id)
}

// end gives an upload up; a request that is writing to it ends first.
func (u *registryUpload) end() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return nil
	}
	u.ended = true
	return u.content.Close()
}

// append adds a request's body. Content-Range says where it belongs: only the next byte is right. What came before a
// connection broke is kept, so that the client can go on.
func (u *registryUpload) append(w http.ResponseWriter, r *http.Request, repository, id string) error {
	if text := r.Header.Get("Content-Range"); text != "" {
		from, to, err := chunkRange(text)
		if err != nil {
			return fault(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "%v", err)
		}
		if from != u.content.Size() || r.ContentLength >= 0 && to-from+1 != r.ContentLength {
			setUpload(w, repository, id, u)
			return fault(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID",
				"bytes %s of %d came, and byte %d is next", text, r.ContentLength, u.content.Size())
		}
	}
	left := maxRegistryBlob - u.content.Size()
	_, err := io.Copy(u.content, http.MaxBytesReader(w, r.Body, left))
	return err
}

// chunkRange reads "0-99": the first and the last byte of a chunk. Some clients write "bytes 0-99/*".
func chunkRange(text string) (from, to int64, err error) {
	first, last, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(text, "bytes "), "bytes="), "-")
	last, _, _ = strings.Cut(last, "/")
	if ok {
		from, err = strconv.ParseInt(first, 10, 64)
		if err == nil {
			to, err = strconv.ParseInt(last, 10, 64)
		}
	}
	if !ok || err != nil || from < 0 || to < from-1 {
		return 0, 0, fmt.Errorf("Content-Range %.60q is not of the form 0-99", text)
	}
	return from, to, nil
}

// finishUpload verifies an upload and gives it its place.
func (g *Registry) finishUpload(w http.ResponseWriter, r *http.Request, repository string, u *registryUpload) error {
	u.ended = true
	digest := r.URL.Query().Get("digest")
	u.content.Durable()
	err := u.content.Commit(digest)
	if bad := u.content.Close(); err == nil {
		err = bad
	}
	if err != nil {
		return badDigest(err)
	}
	created(w, repository, digest)
	return nil
}

func created(w http.ResponseWriter, repository, digest string) {
	w.Header().Set("Location", "/v2/"+shown(repository)+"/blobs/"+digest)
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
}

// setUpload says where an upload goes on, and what of it is here.
func setUpload(w http.ResponseWriter, repository, id string, u *registryUpload) {
	w.Header().Set("Location", "/v2/"+shown(repository)+"/blobs/uploads/"+id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(u.content.Size()-1, 0)))
	w.Header().Set("Docker-Upload-Uuid", id)
}

func showUpload(w http.ResponseWriter, repository, id string, u *registryUpload, status int) {
	setUpload(w, repository, id, u)
	w.WriteHeader(status)
}
