package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"regexp"
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
	// maxBlockID bounds the name of a block: clients take 64 characters.
	maxBlockID = 100
	// maxUploads bounds what a job may have open at once.
	maxUploads = 1000
	// urlLife is how long a signed URL is valid.
	urlLife = 24 * time.Hour
)

// uploads are blobs that come in pieces. All of them lies among the blobs, so that any server can go on with one, after a restart
// too: uploads/LEASE/NUMBER/upload describes it, blocks/NAME are its pieces, list says which of them make it, once it is committed.
type uploads struct {
	blobs blob.Store

	mu   sync.Mutex
	open map[string]*progress // by ID: what came to this process, to bound it
}

// upload is one blob on its way.
type upload struct {
	id string // OWNER.NUMBER
	// What it will be: artifact or cache; the name of an artifact with its type and end; key and version of a cache.
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	MIME    string    `json:"mime,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// progress bounds an upload.
type progress struct {
	blocks map[string]int64 // sizes by key
	size   int64
}

// uploadsOf is the prefix of a session's uploads.
func uploadsOf(s *session) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", s.lease.Run, s.lease.Job, cmp.Or(string(s.lease.ID), s.token)))
	return "uploads/" + hex.EncodeToString(sum[:16]) + "/"
}

// uploadNumber is the number of a session's upload, which the first cache service names it by: JavaScript counts it exactly.
func uploadNumber(kind, name, version string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + version + "\x00" + name))
	return strconv.FormatUint(binary.BigEndian.Uint64(sum[:])>>11, 10)
}

var uploadID = regexp.MustCompile(`^[0-9a-f]{32}\.[0-9]{1,16}$`)

// prefix is that of all that an upload has.
func (up *upload) prefix() string { return "uploads/" + strings.Replace(up.id, ".", "/", 1) + "/" }

func (up *upload) block(name string) string {
	return up.prefix() + "blocks/" + hex.EncodeToString([]byte(name))
}

// number is the last part of the ID.
func (up *upload) number() int64 {
	_, number, _ := strings.Cut(up.id, ".")
	n, _ := strconv.ParseInt(number, 10, 64)
	return n
}

func (u *uploads) begin(ctx context.Context, of *session, up *upload) (*upload, error) {
	owner := strings.TrimSuffix(strings.TrimPrefix(uploadsOf(of), "uploads/"), "/")
	up.id = owner + "." + uploadNumber(up.Kind, up.Name, up.Version)
	u.mu.Lock()
	n := 0
	for id := range u.open {
		if strings.HasPrefix(id, owner+".") {
			n++
		}
	}
	if n < maxUploads {
		u.open[up.id] = &progress{blocks: map[string]int64{}}
	}
	u.mu.Unlock()
	if n >= maxUploads {
		return nil, fmt.Errorf("more than %d uploads at once", maxUploads)
	}
	text, err := json.Marshal(up)
	if err != nil {
		return nil, err
	}
	_, err = u.blobs.Put(ctx, up.prefix()+"upload", bytes.NewReader(text))
	return up, err
}

// find gives a session's upload of a kind and name, nil if there is none.
func (u *uploads) find(of *session, kind, name, version string) (*upload, error) {
	return u.byNumber(of, uploadNumber(kind, name, version))
}

// byNumber gives a session's upload by its number, in decimal, nil if there is none.
func (u *uploads) byNumber(of *session, number string) (*upload, error) {
	return u.get(strings.TrimSuffix(strings.TrimPrefix(uploadsOf(of), "uploads/"), "/") + "." + number)
}

// get gives an upload by its ID, nil if there is none.
func (u *uploads) get(id string) (*upload, error) {
	if !uploadID.MatchString(id) {
		return nil, nil
	}
	up := &upload{id: id}
	text, err := blob.ReadAll(u.blobs, up.prefix()+"upload", maxRequest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, up)
	}
	if err != nil {
		return nil, err
	}
	return up, nil
}

// drop removes an upload with its blocks.
func (u *uploads) drop(up *upload) {
	u.mu.Lock()
	delete(u.open, up.id)
	u.mu.Unlock()
	u.remove(up.prefix())
}

// forget drops what a job has not finished.
func (u *uploads) forget(s *session) {
	owner := strings.TrimPrefix(uploadsOf(s), "uploads/")
	u.mu.Lock()
	maps.DeleteFunc(u.open, func(id string, _ *progress) bool { return strings.HasPrefix(id, strings.TrimSuffix(owner, "/")+".") })
	u.mu.Unlock()
	u.remove(uploadsOf(s))
}

// remove removes all below a prefix. What resists is swept later.
func (u *uploads) remove(prefix string) {
	infos, err := u.blobs.List(prefix)
	if err != nil {
		return
	}
	for _, info := range infos {
		_ = u.blobs.Delete(info.Key)
	}
}

// uploadLife is how long after its last byte an upload is swept: longer than any job takes between two of them.
const uploadLife = 48 * time.Hour

// SweepUploads removes what jobs left behind that never finished what they uploaded.
func (rt *Runtime) SweepUploads(ctx context.Context) error {
	infos, err := rt.uploads.blobs.List("uploads/")
	if err != nil {
		return fmt.Errorf("sweep uploads: %w", err)
	}
	for _, info := range infos {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if rt.now().Sub(info.Modified) > uploadLife {
			if err := rt.uploads.blobs.Delete(info.Key); err != nil {
				return fmt.Errorf("sweep uploads: %w", err)
			}
		}
	}
	return rt.uploads.forgetGone()
}

// forgetGone forgets how far uploads are that another server has finished.
func (u *uploads) forgetGone() error {
	u.mu.Lock()
	ids := slices.Collect(maps.Keys(u.open))
	u.mu.Unlock()
	for _, id := range ids {
		up, err := u.get(id)
		if err != nil {
			return fmt.Errorf("sweep uploads: %w", err)
		}
		if up == nil {
			u.mu.Lock()
			delete(u.open, id)
			u.mu.Unlock()
		}
	}
	return nil
}

var errTooBig = errors.New("too big")

// put takes one block. A block that comes again replaces the first.
func (u *uploads) put(ctx context.Context, up *upload, name string, body io.Reader) error {
	key := up.block(name)
	u.mu.Lock()
	p := u.open[up.id]
	if p == nil { // another server began it
		p = &progress{blocks: map[string]int64{}}
		u.open[up.id] = p
	}
	_, again := p.blocks[key]
	room, full := maxUpload-p.size, len(p.blocks) >= maxBlocks && !again
	u.mu.Unlock()
	if full {
		return errTooBig
	}
	size, err := u.blobs.Put(ctx, key, io.LimitReader(body, room+1))
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	p.size += size - p.blocks[key]
	p.blocks[key] = size
	if size > room {
		return errTooBig
	}
	return nil
}

// sizes gives the blocks that came, by their keys, and their bytes together.
func (u *uploads) sizes(up *upload) (blocks map[string]bool, size int64, err error) {
	infos, err := u.blobs.List(up.prefix() + "blocks/")
	if err != nil {
		return nil, 0, err
	}
	blocks = make(map[string]bool, len(infos))
	for _, info := range infos {
		blocks[info.Key] = true
		size += info.Size
	}
	if size > maxUpload || len(blocks) > maxBlocks {
		return nil, 0, errTooBig
	}
	return blocks, size, nil
}

// commit says which blocks make the blob, in order.
func (u *uploads) commit(ctx context.Context, up *upload, names []string) error {
	blocks, _, err := u.sizes(up)
	if err != nil {
		return err
	}
	list := make([]string, len(names))
	for i, name := range names {
		if list[i] = up.block(name); !blocks[list[i]] {
			return fmt.Errorf("block %q was not uploaded", name)
		}
	}
	return u.commitKeys(ctx, up, list)
}

// commitAll makes the blob of all blocks in the order of their names; they must have size bytes together.
func (u *uploads) commitAll(ctx context.Context, up *upload, want int64) error {
	blocks, size, err := u.sizes(up)
	if err != nil {
		return err
	}
	if size != want {
		return fmt.Errorf("%d bytes came of %d", size, want)
	}
	return u.commitKeys(ctx, up, slices.Sorted(maps.Keys(blocks)))
}

func (u *uploads) commitKeys(ctx context.Context, up *upload, list []string) error {
	text, err := json.Marshal(list)
	if err == nil {
		_, err = u.blobs.Put(ctx, up.prefix()+"list", bytes.NewReader(text))
	}
	return err
}

// committed gives the keys of a committed blob's blocks, in order.
func (u *uploads) committed(up *upload) (list []string, err error) {
	text, err := blob.ReadAll(u.blobs, up.prefix()+"list", maxBlocks*maxUploadKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the upload was not completed")
	}
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	return list, err
}

// maxUploadKey bounds the key of a block as it is written in a list, bytes.
const maxUploadKey = 400

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
	up, err := rt.uploads.get(id)
	if err != nil {
		azureFail(w, http.StatusInternalServerError, "InternalError")
		return
	}
	if up == nil {
		azureFail(w, http.StatusNotFound, "BlobNotFound")
		return
	}
	switch query.Get("comp") {
	case "block":
		if name := query.Get("blockid"); name == "" || len(name) > maxBlockID {
			azureFail(w, http.StatusBadRequest, "InvalidQueryParameterValue")
			return
		}
		err = rt.uploads.put(r.Context(), up, "block "+query.Get("blockid"), r.Body)
	case "blocklist":
		var names []string
		if names, err = readBlockList(http.MaxBytesReader(w, r.Body, maxBlockList)); err == nil {
			err = rt.uploads.commit(r.Context(), up, names)
		}
		if err != nil {
			azureFail(w, http.StatusBadRequest, "InvalidBlockList")
			return
		}
	case "":
		if err = rt.uploads.put(r.Context(), up, "whole", r.Body); err == nil {
			err = rt.uploads.commit(r.Context(), up, []string{"whole"})
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
