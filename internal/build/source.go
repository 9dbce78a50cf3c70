package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	dockerref "github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Limits of what ADD fetches.
const (
	maxDownload  = 16 << 30
	downloadTime = 30 * time.Minute
	answerTime   = time.Minute // until a server answers
)

// maxConfig bounds the configuration of an image, bytes.
const maxConfig = 8 << 20

// resolve gives a base image and its configuration.
func (w *work) resolve(ctx context.Context, ref string) (image.Image, []byte, error) {
	img, err := w.pull(ctx, ref)
	if err != nil {
		return img, nil, err
	}
	f, size, err := w.b.Images.OpenBlob(img.ID)
	if err != nil {
		return img, nil, err
	}
	defer f.Close()
	if size > maxConfig {
		return img, nil, fmt.Errorf("%s: a configuration of %d bytes is too large", ref, size)
	}
	text := make([]byte, size)
	_, err = io.ReadFull(f, text)
	return img, text, err
}

// pull gets an image once in a build.
func (w *work) pull(ctx context.Context, ref string) (image.Image, error) {
	w.mu.Lock()
	get := w.pulled[ref]
	if get == nil {
		get = sync.OnceValues(func() (image.Image, error) { return w.pullNow(ctx, ref) })
		w.pulled[ref] = get
	}
	w.mu.Unlock()
	return get()
}

func (w *work) pullNow(ctx context.Context, ref string) (image.Image, error) {
	step := w.p.begin("[internal] load metadata for " + ref)
	o := image.PullOptions{Always: w.r.Pull, Platform: w.platform.OS + "/" + w.platform.Architecture}
	if w.r.Login != nil {
		if named, err := dockerref.ParseNormalizedNamed(ref); err == nil {
			o.Credentials = w.r.Login(dockerref.Domain(named))
		}
	}
	img, err := w.b.Images.Pull(ctx, ref, o)
	if err != nil {
		step.fail(err)
		return img, err
	}
	step.done()
	return img, nil
}

// fetch carries out a step that brings files in.
func (w *work) fetch(ctx context.Context, v *vertex, op *pb.SourceOp) (*result, error) {
	scheme, rest, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "local":
		return w.fetchLocal(ctx, v, op, rest)
	case "docker-image":
		return w.fetchImage(ctx, v, rest)
	case "http", "https":
		return w.download(ctx, v, op)
	case "git":
		return w.clone(ctx, v, op)
	}
	return nil, fmt.Errorf("a source like %s %w", op.Identifier, errUnsupported)
}

func (w *work) fetchLocal(ctx context.Context, v *vertex, op *pb.SourceOp, name string) (*result, error) {
	l := w.locals[name]
	if l == nil {
		return nil, fmt.Errorf("there is no build context %s", name)
	}
	t, err := w.tree(l, name, op.Attrs)
	if err != nil || l.memory != nil || len(t.filter.FollowPaths) == 1 && t.filter.FollowPaths[0] == ".dockerignore" {
		return &result{id: "local", files: t}, err // the frontend reads a file, and nothing is listed
	}
	step := w.p.begin(v.name)
	files, err := t.listed(ctx)
	if err != nil {
		step.fail(err)
		return nil, err
	}
	var size int64
	for _, f := range files {
		if f.mode.IsRegular() {
			size += f.size
		}
	}
	step.say("transferring context: %d files, %d bytes", len(files), size)
	step.done()
	return &result{id: "local", files: t}, nil
}

func (w *work) fetchImage(ctx context.Context, v *vertex, ref string) (*result, error) {
	img, err := w.b.Images.Pull(ctx, ref, image.PullOptions{Platform: w.platform.OS + "/" + w.platform.Architecture})
	if err != nil {
		return nil, err
	}
	layers, err := w.b.Images.Layers(ctx, img)
	if err != nil {
		return nil, err
	}
	w.p.begin(v.name).cached()
	return &result{id: "image:" + img.Digest, base: img.Digest, below: distinct(layers)}, w.use(layers...)
}

// download gets a file for ADD. What it is named after is its content: the step is never taken from an earlier build,
// what is made of it is.
func (w *work) download(ctx context.Context, v *vertex, op *pb.SourceOp) (*result, error) {
	step := w.p.begin(v.name)
	out, err := w.downloadInto(ctx, op)
	if err != nil {
		step.fail(err)
		return nil, err
	}
	step.done()
	return out, nil
}

func (w *work) downloadInto(ctx context.Context, op *pb.SourceOp) (*result, error) {
	dir, err := w.scratchDir()
	if err != nil {
		return nil, err
	}
	name, err := w.get(ctx, op, dir)
	if err != nil {
		return nil, err
	}
	content, err := w.settle(op, name)
	if err != nil {
		return nil, err
	}
	id, err := w.b.Layers.Add(dir, layer.Layer{Owner: sandbox.Owner()})
	if err != nil {
		return nil, err
	}
	return &result{id: content, above: []layer.ID{id}}, w.use(id)
}

// get downloads a file into a directory and gives its name there.
func (w *work) get(ctx context.Context, op *pb.SourceOp, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, op.Identifier, nil)
	if err != nil {
		return "", err
	}
	for key, value := range op.Attrs {
		if header, ok := strings.CutPrefix(key, pb.AttrHTTPHeaderPrefix); ok {
			req.Header.Set(header, value)
		}
	}
	client := w.b.client()
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", fmt.Errorf("%s: the server answered %s", req.URL.Redacted(), res.Status)
	}
	name := filepath.Join(dir, fileName(op, req.URL))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	n, err := io.Copy(f, io.LimitReader(res.Body, maxDownload+1))
	if err == nil && n > maxDownload {
		err = fmt.Errorf("%s: more than %d bytes", req.URL.Redacted(), int64(maxDownload))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	at := time.Unix(0, 0) // BuildKit's, if the server says none: the same bytes are the same layer
	if t, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		at = t
	}
	return name, setTime(name, at)
}

// settle checks a download and gives it its owner and mode; it gives what identifies it.
func (w *work) settle(op *pb.SourceOp, name string) (string, error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return "", err
	}
	defer root.Close()
	content, err := hashFile(root, filepath.Base(name))
	if err != nil {
		return "", err
	}
	if want := op.Attrs[pb.AttrHTTPChecksum]; want != "" && want != "sha256:"+content {
		return "", fmt.Errorf("%s: its digest is sha256:%s, and %s was asked for", op.Identifier, content, want)
	}
	number := func(attr string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(op.Attrs[attr], 0, 32); err == nil && n >= 0 {
			return n
		}
		return otherwise
	}
	mode := fs.FileMode(number(pb.AttrHTTPPerm, 0o600)) & fs.ModePerm
	if err := ownByRoot(name); err != nil {
		return "", err
	}
	if err := os.Chmod(name, mode); err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %s %o", filepath.Base(name), content, mode))
	return "file:" + hex.EncodeToString(sum[:]), nil
}

// client is how ADD fetches. A Dockerfile may be anybody's: what listens on this machine alone is none of its business.
func (b *Builder) client() *http.Client {
	d := &net.Dialer{Timeout: answerTime}
	if !b.Private {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if ip := at.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
				return fmt.Errorf("%s is this machine's own, which ADD has no access to: fetch it in a RUN step or before the build", ip)
			}
			return nil
		}
	}
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSHandshakeTimeout: answerTime, ResponseHeaderTimeout: answerTime, ForceAttemptHTTP2: true,
	}}
}

// fileName is what a download is called.
func fileName(op *pb.SourceOp, u *url.URL) string {
	name := op.Attrs[pb.AttrHTTPFilename]
	if name == "" {
		name = path.Base(u.Path)
	}
	if name = path.Base(path.Clean("/" + name)); name == "/" || strings.ContainsRune(name, 0) || len(name) > 255 {
		return "download"
	}
	return name
}
