package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
)

// blobPath begins the paths of blobs. Three segments in all: clients refuse fewer on a host that is an address.
const blobPath = "/_blob/"

const (
	// maxUpload bounds one artifact or cache, bytes: GitHub's for caches.
	maxUpload = 10 << 30
	// maxBlocks and maxBlockList are Azure's: the blocks of a blob, and the bytes of the list that names them.
	maxBlocks    = 50_000
	maxBlockList = 10 << 20
	// maxUploads bounds what a job may have open at once.
	maxUploads = 1000
	// urlLife is how long a signed URL is valid.
	urlLife = 24 * time.Hour
)

// uploads are blobs that come in pieces. They are of this process: what it leaves is swept with the blobs.
type uploads struct {
	blobs blob.Store

	mu   sync.Mutex
	open map[string]*upload
	last int64 // number
}

// upload is one blob on its way.
type upload struct {
	id   string
	n    int64 // the first cache service's name for it
	of   *session
	kind string // artifact, cache
	// What it will be: the name of an artifact with its type and end; key and version of a cache.
	name, version, mime string
	expires             time.Time

	// Guarded by uploads.mu.
	blocks map[string]int64 // sizes by key
	list   []string         // keys in order, once committed
	size   int64            // of all blocks
}

func (u *uploads) begin(up *upload) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, other := range u.open {
		if other.of == up.of {
			n++
		}
	}
	if n >= maxUploads {
		return nil, fmt.Errorf("more than %d uploads at once", maxUploads)
	}
	u.last++
	up.id, up.n, up.blocks = strings.ToLower(rand.Text()), u.last, map[string]int64{}
	u.open[up.id] = up
	return up, nil
}

// find gives a session's upload of a kind and name.
func (u *uploads) find(of *session, kind, name, version string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.open {
		if up.of == of && up.kind == kind && up.name == name && up.version == version {
			return up
		}
	}
	return nil
}

func (u *uploads) get(id string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open[id]
}

// byNumber gives a session's upload by its number, in decimal.
func (u *uploads) byNumber(of *session, number string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.open {
		if up.of == of && strconv.FormatInt(up.n, 10) == number {
			return up
		}
	}
	return nil
}

// commitAll makes the blob of all blocks in the order of their names; they must have size bytes together.
func (u *uploads) commitAll(up *upload, size int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up.size != size {
		return fmt.Errorf("%d bytes came of %d", up.size, size)
	}
	up.list = slices.Sorted(maps.Keys(up.blocks))
	return nil
}

// drop removes an upload with its blocks.
func (u *uploads) drop(up *upload) {
	u.mu.Lock()
	delete(u.open, up.id)
	keys := slices.Collect(maps.Keys(up.blocks))
	u.mu.Unlock()
	for _, key := range keys {
		_ = u.blobs.Delete(key) // what resists is swept later
	}
}

// forget drops what a job has not finished.
func (u *uploads) forget(s *session) {
	u.mu.Lock()
	var left []*upload
	for _, up := range u.open {
		if up.of == s {
			left = append(left, up)
		}
	}
	u.mu.Unlock()
	for _, up := range left {
		u.drop(up)
	}
}

var errTooBig = errors.New("too big")

// put takes one block. A block that comes again replaces the first.
func (u *uploads) put(ctx context.Context, up *upload, name string, body io.Reader) error {
	key := "uploads/" + up.id + "/" + hex.EncodeToString([]byte(name))
	u.mu.Lock()
	_, again := up.blocks[key]
	room, full := maxUpload-up.size, len(up.blocks) >= maxBlocks && !again
	if !again {
		up.blocks[key] = 0 // so that drop removes it, whatever happens
	}
	u.mu.Unlock()
	if full {
		return errTooBig
	}
	size, err := u.blobs.Put(ctx, key, io.LimitReader(body, room+1))
	if err != nil {
		return err
	}
	if size > room {
		return errTooBig
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	up.size += size - up.blocks[key]
	up.blocks[key] = size
	return nil
}

// commit says which blocks make the blob, in order.
func (u *uploads) commit(up *upload, names []string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = "uploads/" + up.id + "/" + hex.EncodeToString([]byte(name))
		if _, ok := up.blocks[list[i]]; !ok {
			return fmt.Errorf("block %q was not uploaded", name)
		}
	}
	up.list = list
	return nil
}

// committed gives the keys of a committed blob's blocks, in order.
func (u *uploads) committed(up *upload) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up.list == nil {
		return nil, errors.New("the upload was not completed")
	}
	return up.list, nil
}

// write writes a committed blob.
func (u *uploads) write(up *upload, w io.Writer) error {
	list, err := u.committed(up)
	if err != nil {
		return err
	}
	for _, key := range list {
		f, err := u.blobs.Open(key)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// sign makes a URL of a blob for one way, up or down.
func (rt *Runtime) sign(r *http.Request, way, id, file string) string {
	path := blobPath + way + "/" + url.PathEscape(id) + "/" + url.PathEscape(file)
	ends := strconv.FormatInt(rt.now().Add(urlLife).Unix(), 10)
	// Clients mask the value of sig in their logs.
	return "http://" + r.Host + path + "?se=" + ends + "&sig=" + hex.EncodeToString(rt.mac(blobText(way, id, ends)))
}

// blobText is what is signed of a URL.
func blobText(way, id, ends string) string { return "blob\x00" + way + "\x00" + id + "\x00" + ends }

// serveBlob answers for up/ID/FILE and the ways down. The rest of the query is the client's: it changes order.
func (rt *Runtime) serveBlob(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(path, "/")
	query := r.URL.Query()
	ends, _ := strconv.ParseInt(query.Get("se"), 10, 64)
	sig, err := hex.DecodeString(query.Get("sig"))
	if len(parts) != 3 || rt.now().Unix() > ends || err != nil || !rt.signed(blobText(parts[0], parts[1], query.Get("se")), sig) {
		azureFail(w, http.StatusForbidden, "AuthenticationFailed")
		return
	}
	switch way := parts[0]; {
	case way == "up" && r.Method == http.MethodPut:
		rt.takeBlob(w, r, parts[1], query)
	case (way == "artifact" || way == "cache") && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		rt.sendBlob(w, r, way, parts[1])
	default:
		azureFail(w, http.StatusMethodNotAllowed, "UnsupportedHttpVerb")
	}
}

// azureFail answers as Azure's storage does.
func azureFail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Ms-Error-Code", code)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="utf-8"?><Error><Code>%s</Code></Error>`, code)
}

// takeBlob takes a block, the list of blocks, or a whole blob.
func (rt *Runtime) takeBlob(w http.ResponseWriter, r *http.Request, id string, query url.Values) {
	up := rt.uploads.get(id)
	if up == nil {
		azureFail(w, http.StatusNotFound, "BlobNotFound")
		return
	}
	var err error
	switch query.Get("comp") {
	case "block":
		if name := query.Get("blockid"); name == "" || len(name) > 256 {
			azureFail(w, http.StatusBadRequest, "InvalidQueryParameterValue")
			return
		}
		err = rt.uploads.put(r.Context(), up, "block "+query.Get("blockid"), r.Body)
	case "blocklist":
		var names []string
		if names, err = readBlockList(http.MaxBytesReader(w, r.Body, maxBlockList)); err == nil {
			err = rt.uploads.commit(up, names)
		}
		if err != nil {
			azureFail(w, http.StatusBadRequest, "InvalidBlockList")
			return
		}
	case "":
		if err = rt.uploads.put(r.Context(), up, "whole", r.Body); err == nil {
			err = rt.uploads.commit(up, []string{"whole"})
		}
	default:
		azureFail(w, http.StatusBadRequest, "InvalidQueryParameterValue")
		return
	}
	switch {
	case errors.Is(err, errTooBig):
		azureFail(w, http.StatusRequestEntityTooLarge, "RequestBodyTooLarge")
	case err != nil:
		azureFail(w, http.StatusInternalServerError, "InternalError")
	default:
		w.Header().Set("ETag", `"0x`+strings.ToUpper(id[:min(len(id), 16)])+`"`)
		w.Header().Set("Last-Modified", rt.now().UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusCreated)
	}
}

// readBlockList reads <BlockList><Latest>ID</Latest>...</BlockList>; Committed and Uncommitted are taken too.
func readBlockList(r io.Reader) ([]string, error) {
	var list struct {
		XMLName xml.Name `xml:"BlockList"`
		Blocks  []struct {
			XMLName xml.Name
			ID      string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := xml.NewDecoder(r).Decode(&list); err != nil {
		return nil, err
	}
	if len(list.Blocks) > maxBlocks {
		return nil, errTooBig
	}
	names := make([]string, 0, len(list.Blocks))
	for _, b := range list.Blocks {
		switch b.XMLName.Local {
		case "Latest", "Committed", "Uncommitted":
			names = append(names, "block "+strings.TrimSpace(b.ID))
		default:
			return nil, fmt.Errorf("<%s> is no block", b.XMLName.Local)
		}
	}
	return names, nil
}

// sendBlob sends an artifact or a cache, or the range of it that Range or x-ms-range asks for.
func (rt *Runtime) sendBlob(w http.ResponseWriter, r *http.Request, kind, id string) {
	var f blob.File
	var err error
	if kind == "cache" {
		f, err = rt.caches.open(id)
	} else {
		f, err = rt.openArtifact(w, id)
	}
	if err != nil {
		azureFail(w, http.StatusNotFound, "BlobNotFound")
		return
	}
	defer f.Close()
	if ranged := r.Header.Get("X-Ms-Range"); ranged != "" {
		r.Header.Set("Range", ranged)
	}
	w.Header().Set("X-Ms-Blob-Type", "BlockBlob")
	w.Header().Set("ETag", `"`+id[max(0, len(id)-16):]+`"`)
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	http.ServeContent(w, r, "", time.Time{}, f)
}
