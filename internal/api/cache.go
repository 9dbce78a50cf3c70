package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
)

const (
	// maxKey and maxKeys are GitHub's limits for cache keys: characters, and keys of a request.
	maxKey  = 512
	maxKeys = 10
	// maxCaches bounds all caches of a repository together, bytes, and unusedFor how long one is kept that nobody
	// restores: GitHub's. The one that was not used for longest goes first.
	maxCaches = 10 << 30
	unusedFor = 7 * 24 * time.Hour
)

// caches keeps the archives of the original cache action: data and description, which is written last, under
// "caches/REPOSITORY/". Caches of the native action are layers, and others.
type caches struct {
	blobs blob.Store
	now   func() time.Time
	mu    sync.Mutex // one writer at a time
}

// cacheEntry describes one cache. It never changes, but for Used.
type cacheEntry struct {
	ID      string    `json:"id"` // hexadecimal of the repository, a hyphen, the number
	Number  int64     `json:"number"`
	Scope   string    `json:"scope"` // the ref
	Key     string    `json:"key"`
	Version string    `json:"version"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`
}

func repositoryDir(repository string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(repository)))
	return hex.EncodeToString(sum[:10])
}

func (e cacheEntry) key(ext string) string {
	dir, number, _ := strings.Cut(e.ID, "-")
	return "caches/" + dir + "/" + number + ext
}

// all gives a repository's caches, the newest first.
func (c *caches) all(repository string) ([]cacheEntry, error) {
	infos, err := c.blobs.List("caches/" + repositoryDir(repository) + "/")
	if err != nil {
		return nil, err
	}
	var all []cacheEntry
	for _, info := range infos {
		if !strings.HasSuffix(info.Key, ".json") {
			continue
		}
		text, err := blob.ReadAll(c.blobs, info.Key, maxRequest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		var e cacheEntry
		if json.Unmarshal(text, &e) == nil && e.key(".json") == info.Key {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b cacheEntry) int { return cmp.Compare(b.Number, a.Number) })
	return all, nil
}

// find gives the cache for the first of the scopes that has one: that of the key, else the newest whose key begins with
// it, else the newest for one of the restore keys in their order.
func (c *caches) find(s *session, version string, keys []string) (cacheEntry, bool, error) {
	all, err := c.all(s.repository)
	if err != nil {
		return cacheEntry{}, false, err
	}
	for _, scope := range s.scopes {
		for i, key := range keys {
			for _, exact := range []bool{true, false} {
				for _, e := range all {
					if e.Scope == scope && e.Version == version && (exact && i == 0 && e.Key == key || !exact && strings.HasPrefix(e.Key, key)) {
						return e, true, nil
					}
				}
			}
		}
	}
	return cacheEntry{}, false, nil
}

// has says whether a session's own scope has a cache: it would never be replaced.
func (c *caches) has(s *session, version, key string) (bool, error) {
	all, err := c.all(s.repository)
	return slices.ContainsFunc(all, func(e cacheEntry) bool {
		return e.Scope == s.scopes[0] && e.Version == version && e.Key == key
	}), err
}

// add keeps what write produces as a cache in the session's own scope.
func (c *caches) add(ctx context.Context, s *session, version, key string, write func(io.Writer) error) (cacheEntry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if has, err := c.has(s, version, key); has || err != nil {
		return cacheEntry{}, errors.Join(err, errCacheExists)
	}
	now := c.now()
	e := cacheEntry{Number: now.UnixMicro(), Scope: s.scopes[0], Key: key, Version: version, Created: now, Used: now}
	e.ID = repositoryDir(s.repository) + "-" + strconv.FormatInt(e.Number, 10)
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); pw.CloseWithError(write(pw)) }()
	var err error
	e.Size, err = c.blobs.Put(ctx, e.key(".data"), pr)
	pr.CloseWithError(err)
	<-done
	if err == nil {
		err = c.describe(ctx, e)
	}
	if err != nil {
		return e, errors.Join(err, c.blobs.Delete(e.key(".data")))
	}
	return e, c.trim(s.repository)
}

var errCacheExists = errors.New("the cache exists already")

func (c *caches) describe(ctx context.Context, e cacheEntry) error {
	text, err := json.Marshal(e)
	if err == nil {
		_, err = c.blobs.Put(ctx, e.key(".json"), strings.NewReader(string(text)))
	}
	return err
}

// trim removes what was not used for long, and the least used of what is too much.
func (c *caches) trim(repository string) error {
	all, err := c.all(repository)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b cacheEntry) int { return b.Used.Compare(a.Used) })
	total := int64(0)
	for _, e := range all {
		if total += e.Size; total > maxCaches || c.now().Sub(e.Used) > unusedFor {
			err = errors.Join(err, c.blobs.Delete(e.key(".json")), c.blobs.Delete(e.key(".data")))
		}
	}
	return err
}

// open opens a cache's archive by its ID, and notes that it was used.
func (c *caches) open(id string) (blob.File, error) {
	e := cacheEntry{ID: id}
	if !cacheID.MatchString(id) {
		return nil, fs.ErrNotExist
	}
	text, err := blob.ReadAll(c.blobs, e.key(".json"), maxRequest)
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(text, &e) == nil && c.now().Sub(e.Used) > time.Hour {
		e.Used = c.now()
		_ = c.describe(context.Background(), e) // it is only taken for unused
	}
	return c.blobs.Open(e.key(".data"))
}

var cacheID = regexp.MustCompile(`^[0-9a-f]{20}-[0-9]{1,19}$`)

// checkKeys holds keys to GitHub's limits.
func checkKeys(version string, keys ...string) error {
	bad := func(msg string) error { return &twirpError{http.StatusBadRequest, "invalid_argument", msg} }
	if version == "" || len(version) > maxKey {
		return bad("version: at least one character, and at most 512")
	}
	if len(keys) > maxKeys {
		return bad("Key Validation Error: Keys are limited to a maximum of 10.")
	}
	for _, key := range keys {
		if key == "" || len(key) > maxKey {
			return bad(fmt.Sprintf("Key Validation Error: %s cannot be larger than 512 characters.", key))
		}
		if strings.Contains(key, ",") {
			return bad(fmt.Sprintf("Key Validation Error: %s cannot contain commas.", key))
		}
	}
	return nil
}

func (q *request) cacheVersion() string {
	version, _ := q.Version.(string)
	return version
}

func (rt *Runtime) cacheURL(r *http.Request, s *session, q *request) (any, error) {
	keys := append([]string{q.Key}, q.RestoreKeys...)
	if err := checkKeys(q.cacheVersion(), keys...); err != nil {
		return nil, err
	}
	e, ok, err := rt.caches.find(s, q.cacheVersion(), keys)
	if err != nil || !ok {
		return map[string]any{"ok": false}, err
	}
	return map[string]any{"ok": true, "signed_download_url": rt.sign(r, "cache", e.ID, "cache"), "matched_key": e.Key}, nil
}

func (rt *Runtime) createCache(r *http.Request, s *session, q *request) (any, error) {
	if err := checkKeys(q.cacheVersion(), q.Key); err != nil {
		return nil, err
	}
	has, err := rt.caches.has(s, q.cacheVersion(), q.Key)
	if err != nil {
		return nil, err
	}
	begun, err := rt.uploads.find(s, "cache", q.Key, q.cacheVersion())
	if err != nil {
		return nil, err
	}
	if has || begun != nil {
		return map[string]any{"ok": false, "message": errCacheExists.Error()}, nil
	}
	up, err := rt.uploads.begin(r.Context(), s, &upload{Kind: "cache", Name: q.Key, Version: q.cacheVersion()})
	if err != nil {
		return nil, &twirpError{http.StatusTooManyRequests, "resource_exhausted", err.Error()}
	}
	return map[string]any{"ok": true, "signed_upload_url": rt.sign(r, "up", up.id, "cache")}, nil
}

func (rt *Runtime) finalizeCache(ctx context.Context, s *session, q *request) (any, error) {
	up, err := rt.uploads.find(s, "cache", q.Key, q.cacheVersion())
	if err != nil {
		return nil, err
	}
	if up == nil {
		return nil, &twirpError{http.StatusNotFound, "not_found", "no upload of cache " + q.Key}
	}
	defer rt.uploads.drop(up)
	e, err := rt.caches.add(ctx, s, up.Version, up.Name, func(w io.Writer) error { return rt.uploads.write(up, w) })
	if errors.Is(err, errCacheExists) {
		return map[string]any{"ok": false, "message": errCacheExists.Error()}, nil
	}
	return map[string]any{"ok": true, "entry_id": strconv.FormatInt(e.Number, 10)}, err
}

// cacheV1Path begins the paths of the first cache service, which older clients call.
const cacheV1Path = "/_apis/artifactcache/"

// serveCacheV1 answers for GET cache, POST caches, and PATCH and POST caches/ID.
func (rt *Runtime) serveCacheV1(w http.ResponseWriter, r *http.Request, s *session, path string) {
	id, one := strings.CutPrefix(path, "caches/")
	var err error
	switch {
	case path == "cache" && r.Method == http.MethodGet:
		err = rt.findCacheV1(w, r, s)
	case path == "caches" && r.Method == http.MethodPost:
		err = rt.reserveCacheV1(w, r, s)
	case one && r.Method == http.MethodPatch:
		err = rt.patchCacheV1(w, r, s, id)
	case one && r.Method == http.MethodPost:
		err = rt.commitCacheV1(w, r, s, id)
	default:
		err = &twirpError{http.StatusNotFound, "bad_route", "no such cache service: " + r.Method + " " + path}
	}
	var told *twirpError
	switch {
	case errors.As(err, &told):
		writeJSON(w, told.status, map[string]string{"typeKey": told.code, "message": told.msg})
	case err != nil:
		writeJSON(w, http.StatusInternalServerError, map[string]string{"message": err.Error()})
	}
}

func (rt *Runtime) findCacheV1(w http.ResponseWriter, r *http.Request, s *session) error {
	query := r.URL.Query()
	keys := strings.Split(query.Get("keys"), ",")
	if err := checkKeys(query.Get("version"), keys...); err != nil {
		return err
	}
	e, ok, err := rt.caches.find(s, query.Get("version"), keys)
	if err != nil {
		return err
	}
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"cacheKey": e.Key, "scope": e.Scope, "cacheVersion": e.Version, "creationTime": e.Created.UTC(),
		"archiveLocation": rt.sign(r, "cache", e.ID, "cache"),
	})
	return nil
}

func (rt *Runtime) reserveCacheV1(w http.ResponseWriter, r *http.Request, s *session) error {
	var q struct {
		Key     string `json:"key"`
		Version string `json:"version"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q); err != nil {
		return &twirpError{http.StatusBadRequest, "malformed", err.Error()}
	}
	if err := checkKeys(q.Version, q.Key); err != nil {
		return err
	}
	has, err := rt.caches.has(s, q.Version, q.Key)
	if err != nil {
		return err
	}
	begun, err := rt.uploads.find(s, "cache", q.Key, q.Version)
	if err != nil {
		return err
	}
	if has || begun != nil {
		return &twirpError{http.StatusConflict, "ArtifactCacheItemAlreadyExistsException", errCacheExists.Error()}
	}
	up, err := rt.uploads.begin(r.Context(), s, &upload{Kind: "cache", Name: q.Key, Version: q.Version})
	if err != nil {
		return &twirpError{http.StatusTooManyRequests, "resource_exhausted", err.Error()}
	}
	writeJSON(w, http.StatusCreated, map[string]any{"cacheId": up.number()})
	return nil
}

var contentRange = regexp.MustCompile(`^bytes ([0-9]{1,18})-([0-9]{1,18})/\*$`)

func (rt *Runtime) patchCacheV1(w http.ResponseWriter, r *http.Request, s *session, id string) error {
	up, err := rt.uploads.byNumber(s, id)
	if err != nil {
		return err
	}
	place := contentRange.FindStringSubmatch(r.Header.Get("Content-Range"))
	if up == nil || place == nil {
		return &twirpError{http.StatusBadRequest, "malformed", "no such upload, or no range"}
	}
	// The blocks' names sort as they follow.
	err = rt.uploads.put(r.Context(), up, "at "+strings.Repeat("0", 18-len(place[1]))+place[1], r.Body)
	if errors.Is(err, errTooBig) {
		return &twirpError{http.StatusRequestEntityTooLarge, "too_big", "a cache may have at most 10 GB"}
	}
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (rt *Runtime) commitCacheV1(w http.ResponseWriter, r *http.Request, s *session, id string) error {
	up, err := rt.uploads.byNumber(s, id)
	if err != nil {
		return err
	}
	var q struct {
		Size number `json:"size"`
	}
	err = json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q)
	if up == nil || err != nil {
		return &twirpError{http.StatusBadRequest, "malformed", "no such upload, or no size"}
	}
	defer rt.uploads.drop(up)
	if err := rt.uploads.commitAll(r.Context(), up, int64(q.Size)); err != nil {
		return &twirpError{http.StatusBadRequest, "malformed", err.Error()}
	}
	_, err = rt.caches.add(r.Context(), s, up.Version, up.Name, func(w io.Writer) error { return rt.uploads.write(up, w) })
	if errors.Is(err, errCacheExists) {
		return &twirpError{http.StatusConflict, "ArtifactCacheItemAlreadyExistsException", err.Error()}
	}
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
