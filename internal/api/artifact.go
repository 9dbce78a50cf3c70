package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/job/native"
)

// twirpPath begins the paths of GitHub's services.
const twirpPath = "/twirp/github.actions.results.api.v1."

// number is an integer that clients write as a JSON string or as a number.
type number int64

func (n *number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = number(v)
	return err
}

// request has the members of all requests; clients send only what theirs needs.
type request struct {
	Run         string     `json:"workflow_run_backend_id"`
	Job         string     `json:"workflow_job_run_backend_id"`
	Name        string     `json:"name"`
	MIME        string     `json:"mime_type"`
	Version     any        `json:"version"` // the client's, a number; or a cache's, a digest
	Expires     *time.Time `json:"expires_at"`
	Size        number     `json:"size"`
	Hash        string     `json:"hash"`
	NameFilter  *string    `json:"name_filter"`
	IDFilter    *number    `json:"id_filter"`
	Key         string     `json:"key"`
	RestoreKeys []string   `json:"restore_keys"`
	SizeBytes   number     `json:"size_bytes"`
}

// twirpError is an error for the client.
type twirpError struct {
	status    int
	code, msg string
}

func (e *twirpError) Error() string { return e.msg }

// serveTwirp answers SERVICE/METHOD in JSON.
func (rt *Runtime) serveTwirp(w http.ResponseWriter, r *http.Request, s *session, method string) {
	if r.Method != http.MethodPost {
		fail(w, http.StatusMethodNotAllowed, "bad_route", "services are called by POST")
		return
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "bad_route", "only JSON is spoken here, not "+kind)
		return
	}
	var q request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, "malformed", err.Error())
		return
	}
	answer, err := rt.call(r, s, method, &q)
	var told *twirpError
	switch {
	case errors.As(err, &told):
		fail(w, told.status, told.code, told.msg)
	case err != nil:
		fail(w, http.StatusInternalServerError, "internal", err.Error())
	default:
		writeJSON(w, http.StatusOK, answer)
	}
}

func (rt *Runtime) call(r *http.Request, s *session, method string, q *request) (any, error) {
	if strings.HasPrefix(method, "ArtifactService/") && q.Run != s.runID {
		return nil, &twirpError{http.StatusForbidden, "permission_denied", "the run is another's"}
	}
	switch method {
	case "ArtifactService/CreateArtifact":
		return rt.createArtifact(r, s, q)
	case "ArtifactService/FinalizeArtifact":
		return rt.finalizeArtifact(r.Context(), s, q)
	case "ArtifactService/ListArtifacts":
		return rt.listArtifacts(s, q)
	case "ArtifactService/GetSignedArtifactURL":
		return rt.artifactURL(r, s, q)
	case "ArtifactService/DeleteArtifact":
		return rt.deleteArtifact(s, q)
	case "CacheService/GetCacheEntryDownloadURL":
		return rt.cacheURL(r, s, q)
	case "CacheService/CreateCacheEntry":
		return rt.createCache(r, s, q)
	case "CacheService/FinalizeCacheEntryUpload":
		return rt.finalizeCache(r.Context(), s, q)
	}
	return nil, &twirpError{http.StatusNotFound, "bad_route", "no such method: " + method}
}

func (rt *Runtime) createArtifact(r *http.Request, s *session, q *request) (any, error) {
	_, taken, err := rt.artifact(s, q.Name)
	if err != nil {
		return nil, err
	}
	begun, err := rt.uploads.find(s, "artifact", q.Name, "")
	if err != nil {
		return nil, err
	}
	if taken || begun != nil {
		return nil, &twirpError{http.StatusConflict, "already_exists", native.ErrArtifactExists.Error()}
	}
	up := &upload{Kind: "artifact", Name: q.Name, MIME: q.MIME}
	if q.Expires != nil {
		up.Expires = *q.Expires
	}
	if up, err = rt.uploads.begin(r.Context(), s, up); err != nil {
		return nil, &twirpError{http.StatusTooManyRequests, "resource_exhausted", err.Error()}
	}
	return map[string]any{"ok": true, "signed_upload_url": rt.sign(r, "up", up.id, "artifact.zip")}, nil
}

func (rt *Runtime) finalizeArtifact(ctx context.Context, s *session, q *request) (any, error) {
	up, err := rt.uploads.find(s, "artifact", q.Name, "")
	if err != nil {
		return nil, err
	}
	if up == nil {
		return nil, &twirpError{http.StatusNotFound, "not_found", "no upload of artifact " + q.Name}
	}
	defer rt.uploads.drop(up)
	parts, err := rt.uploads.committed(up)
	if err != nil {
		return nil, err
	}
	art, err := rt.artifacts.Assemble(ctx, native.Artifact{
		Run: s.run, Attempt: s.attempt, Name: q.Name, Expires: up.Expires, Raw: up.MIME != "" && up.MIME != "application/zip",
	}, parts...)
	if errors.Is(err, native.ErrArtifactExists) {
		return nil, &twirpError{http.StatusConflict, "already_exists", err.Error()}
	}
	if err != nil {
		return nil, err
	}
	if q.Hash != "" && q.Hash != art.Digest {
		return nil, errors.Join(&twirpError{http.StatusBadRequest, "malformed", "the digest of what came is " + art.Digest}, rt.artifacts.Delete(art))
	}
	return map[string]any{"ok": true, "artifact_id": strconv.FormatInt(art.ID, 10)}, nil
}

// artifact finds one of this attempt's artifacts by its name.
func (rt *Runtime) artifact(s *session, name string) (native.Artifact, bool, error) {
	all, err := rt.artifacts.List(s.run)
	for _, a := range all {
		if a.Name == name && a.Attempt == s.attempt {
			return a, true, err
		}
	}
	return native.Artifact{}, false, err
}

func (rt *Runtime) listArtifacts(s *session, q *request) (any, error) {
	all, err := rt.artifacts.List(s.run)
	if err != nil {
		return nil, err
	}
	type monolith struct {
		Run     string    `json:"workflow_run_backend_id"`
		Job     string    `json:"workflow_job_run_backend_id"`
		ID      string    `json:"database_id"`
		Name    string    `json:"name"`
		Size    string    `json:"size"`
		Created time.Time `json:"created_at"`
		Digest  string    `json:"digest"`
	}
	found := []monolith{}
	for _, a := range all {
		if q.NameFilter != nil && *q.NameFilter != a.Name || q.IDFilter != nil && int64(*q.IDFilter) != a.ID {
			continue
		}
		found = append(found, monolith{s.runID, s.jobID, strconv.FormatInt(a.ID, 10), a.Name, strconv.FormatInt(a.Size, 10), a.Created.UTC(), a.Digest})
	}
	return map[string]any{"artifacts": found}, nil
}

// artifactURL gives where an artifact of the run lies, of this attempt or an earlier one.
func (rt *Runtime) artifactURL(r *http.Request, s *session, q *request) (any, error) {
	all, err := rt.artifacts.List(s.run)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if a.Name == q.Name {
			file := "artifact.zip"
			if a.Raw {
				file = "artifact"
			}
			return map[string]any{"signed_url": rt.sign(r, "artifact", fmt.Sprintf("%s-%d", a.Run, a.ID), file)}, nil
		}
	}
	return nil, &twirpError{http.StatusNotFound, "not_found", "no artifact " + q.Name}
}

func (rt *Runtime) deleteArtifact(s *session, q *request) (any, error) {
	a, ok, err := rt.artifact(s, q.Name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &twirpError{http.StatusNotFound, "not_found", "no artifact " + q.Name}
	}
	return map[string]any{"ok": true, "artifact_id": strconv.FormatInt(a.ID, 10)}, rt.artifacts.Delete(a)
}

// openArtifact opens RUN-ID and says by headers what it is: clients go by them.
func (rt *Runtime) openArtifact(w http.ResponseWriter, id string) (blob.File, error) {
	run, number, _ := strings.Cut(id, "-")
	all, err := rt.artifacts.List(run)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if strconv.FormatInt(a.ID, 10) != number {
			continue
		}
		name, kind := a.Name+".zip", "application/zip"
		if a.Raw {
			name, kind = a.Name, "application/octet-stream"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
		return rt.artifacts.Open(a)
	}
	return nil, fs.ErrNotExist
}
