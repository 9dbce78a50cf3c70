package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Limits of what ADD fetches.
const (
	maxDownload  = 16 << 30
	downloadTime = 30 * time.Minute
)

// resolver tells BuildKit's frontend of base images.
type resolver work

// ResolveImageConfig implements llb.ImageMetaResolver.
func (r *resolver) ResolveImageConfig(ctx context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	img, err := (*work)(r).pull(ctx, ref)
	if err != nil {
		return "", "", nil, err
	}
	f, size, err := r.b.Images.OpenBlob(img.ID)
	if err != nil {
		return "", "", nil, err
	}
	defer f.Close()
	text := make([]byte, size)
	_, err = io.ReadFull(f, text)
	return ref, digest.Digest(img.Digest), text, err
}

func (w *work) pull(ctx context.Context, ref string) (image.Image, error) {
	step := w.p.begin("[internal] load metadata for " + ref)
	o := image.PullOptions{Always: w.r.Pull, Platform: w.platform.OS + "/" + w.platform.Architecture}
	if w.r.Login != nil {
		if named, err := reference.ParseNormalizedNamed(ref); err == nil {
			o.Credentials = w.r.Login(reference.Domain(named))
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
		c := w.contexts[rest]
		if c == nil {
			return nil, fmt.Errorf("there is no build context %s", rest)
		}
		return &result{key: "local", local: c}, nil
	case "docker-image":
		img, err := w.b.Images.Pull(ctx, rest, image.PullOptions{Platform: w.platform.OS + "/" + w.platform.Architecture})
		if err != nil {
			return nil, err
		}
		layers, err := w.b.Images.Layers(ctx, img)
		return &result{key: img.Digest, base: img.Digest, below: layers}, err
	case "http", "https":
		return w.download(ctx, v, op)
	}
	return nil, fmt.Errorf("a source like %s %w", op.Identifier, errUnsupported)
}

// download gets a file for ADD. What it is named after is its content: the step is never taken from an earlier build,
// what is made of it is.
func (w *work) download(ctx context.Context, v *vertex, op *pb.SourceOp) (*result, error) {
	step := w.p.begin(v.name)
	scratch, err := w.b.Layers.Scratch()
	if err != nil {
		return nil, err
	}
	defer scratch.Release()
	dir := filepath.Join(scratch.Dir(), "download")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	sum, err := w.get(ctx, op, dir)
	if err != nil {
		step.fail(err)
		return nil, err
	}
	if os.Getuid() == 0 {
		err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(name, sandbox.Owner(), sandbox.Owner()))
		})
		if err != nil {
			return nil, err
		}
	}
	id, err := w.b.Layers.Add(dir, layer.Layer{Owner: sandbox.Owner()})
	if err == nil {
		err = w.b.Layers.SetRef(cacheName(sum), id)
	}
	if err != nil {
		step.fail(err)
		return nil, err
	}
	step.done()
	return &result{key: sum, above: []layer.ID{id}}, nil
}

func (w *work) get(ctx context.Context, op *pb.SourceOp, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, op.Identifier, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", fmt.Errorf("%s: the server answered %s", op.Identifier, res.Status)
	}
	mode := fs.FileMode(0o600)
	if perm, err := strconv.ParseInt(op.Attrs[pb.AttrHTTPPerm], 0, 32); err == nil && op.Attrs[pb.AttrHTTPPerm] != "" {
		mode = fs.FileMode(perm) & 0o777
	}
	name := filepath.Join(dir, fileName(op, req.URL))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(res.Body, maxDownload+1))
	if err == nil && n > maxDownload {
		err = fmt.Errorf("%s: more than %d bytes", op.Identifier, int64(maxDownload))
	}
	if err != nil {
		return "", err
	}
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	if t, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		_ = os.Chtimes(name, t, t) // the time is a courtesy
	}
	content := hex.EncodeToString(sum.Sum(nil))
	if want := op.Attrs[pb.AttrHTTPChecksum]; want != "" && want != "sha256:"+content {
		return "", fmt.Errorf("%s: its digest is sha256:%s, and %s was asked for", op.Identifier, content, want)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "download %s %s %o", filepath.Base(name), content, mode))
	return hex.EncodeToString(key[:]), f.Close()
}

// fileName is what a download is called.
func fileName(op *pb.SourceOp, u *url.URL) string {
	name := op.Attrs[pb.AttrHTTPFilename]
	if name == "" {
		name = path.Base(u.Path)
	}
	if name = filepath.Base(name); name == "." || name == "/" || name == ".." {
		return "download"
	}
	return name
}
