package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// stallAfter is how long a registry may be silent in the middle of content before it is asked again.
	stallAfter = time.Minute
	// maxResumes bounds how often a broken download goes on where it stopped.
	maxResumes = 5
	// maxRedirects is what a registry may send us to on the way to content.
	maxRedirects = 5
)

// source is a repository of a registry, or of a mirror of it.
type source struct {
	repository name.Repository
	client     *http.Client
	base       url.URL // …/v2/PATH
}

// places are where a repository may be had: its registry's mirrors, then the registry.
func (s *Store) places(repository string) ([]name.Repository, error) {
	host, rest, _ := strings.Cut(repository, "/")
	var all []name.Repository
	for _, m := range s.o.Mirrors[host] {
		mirror, prefix, _ := strings.Cut(strings.TrimSuffix(m, "/"), "/")
		r, err := name.NewRepository(mirror+"/"+path.Join(prefix, rest), s.nameOptions(mirror)...)
		if err != nil {
			return nil, fmt.Errorf("mirror %q of %s: %w", m, host, err)
		}
		all = append(all, r)
	}
	r, err := name.NewRepository(repository, s.nameOptions(host)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	return append(all, r), nil
}

func (s *Store) nameOptions(host string) []name.Option {
	if s.plain(host) {
		return []name.Option{name.Insecure}
	}
	return nil
}

// plain says whether http is good enough for a registry.
func (s *Store) plain(hostPort string) bool {
	if slices.Contains(s.o.Insecure, hostPort) {
		return true
	}
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// guard refuses to speak http where it is not allowed: neither a registry nor a redirect talks us into it.
type guard struct {
	s     *Store
	inner http.RoundTripper
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.s.plain(r.URL.Host) {
		return nil, fmt.Errorf("%s would be spoken to without encryption: add it to the insecure registries if that is meant", r.URL.Host)
	}
	return g.inner.RoundTrip(r)
}

// newTransport is how registries are spoken to. Answers come as they are kept: packed content is not packed again.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: stallAfter,
		DisableCompression:    true,
		ReadBufferSize:        64 << 10,
	}
}

// connect gives a repository that has agreed to be read.
func (s *Store) connect(ctx context.Context, r name.Repository, c *Credentials) (*source, error) {
	auth, err := authenticator(ctx, r, c)
	if err != nil {
		return nil, err
	}
	inner := transport.NewRetry(guard{s, s.http}, transport.WithRetryStatusCodes(
		http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	t, err := transport.NewWithContext(ctx, r.Registry, auth, inner, []string{r.Scope(transport.PullScope)})
	if err != nil {
		return nil, classify(r.RegistryStr(), err)
	}
	return &source{
		repository: r,
		client:     &http.Client{Transport: t, CheckRedirect: checkRedirect},
		base:       url.URL{Scheme: r.Scheme(), Host: r.RegistryStr(), Path: "/v2/" + r.RepositoryStr()},
	}, nil
}

func authenticator(ctx context.Context, r name.Repository, c *Credentials) (authn.Authenticator, error) {
	if c != nil {
		return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password}), nil
	}
	a, err := authn.Resolve(ctx, authn.DefaultKeychain, r)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", r.RegistryStr(), err)
	}
	return a, nil
}

// checkRedirect keeps a registry on the internet from sending us to addresses inside, such as those where clouds keep
// the credentials of a machine.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	from, to := via[0].URL.Hostname(), r.URL.Hostname()
	if to != from && isInside(to) && !isInside(from) {
		return fmt.Errorf("%s sends us to the private address %s", from, to)
	}
	return nil
}

func isInside(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}

// classify gives an error of a registry its kind.
func classify(host string, err error) error {
	var t *transport.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.As(err, &t):
		return fmt.Errorf("%s: %w: %w", host, ErrUnreachable, err)
	case t.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w: %w", host, ErrNotFound, err)
	case t.StatusCode == http.StatusUnauthorized || t.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: %w, or there is no such image: %w", host, ErrDenied, err)
	}
	return fmt.Errorf("%s: %w: %w", host, ErrUnreachable, err)
}

var acceptManifests = []string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1), string(types.DockerManifestList), string(types.DockerManifestSchema2),
}

// manifest gets a manifest by tag or digest. want is its digest, empty for a tag.
func (r *source) manifest(ctx context.Context, reference, want string) (data []byte, mediaType string, err error) {
	resp, err := r.get(ctx, "/manifests/"+reference, http.Header{"Accept": acceptManifests})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, "", classify(r.base.Host, err)
	}
	if len(data) > maxManifest {
		return nil, "", fmt.Errorf("manifest: %w: at most %d bytes", ErrTooLarge, maxManifest)
	}
	if got := digestOf(data); want != "" && got != want {
		return nil, "", fmt.Errorf("manifest: %w: wanted %s, got %s", ErrDigest, want, got)
	}
	return data, resp.Header.Get("Content-Type"), nil
}

func (r *source) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	u := r.base
	u.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, classify(r.base.Host, err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, classify(r.base.Host, err)
	}
	return resp, nil
}

// blob gets content as a stream that goes on after the connection breaks. It is not verified here.
func (r *source) blob(ctx context.Context, d v1.Descriptor) io.ReadCloser {
	return &download{ctx: ctx, from: r, want: d}
}

// download is content that comes from a registry.
type download struct {
	ctx    context.Context // of the call that reads it
	from   *source
	want   v1.Descriptor
	at     int64
	breaks int
	body   io.ReadCloser
	alarm  *time.Timer
	cancel context.CancelFunc
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if err := context.Cause(d.ctx); err != nil {
			return 0, err
		}
		if d.body == nil {
			if err := d.open(); err != nil {
				return 0, err
			}
		}
		d.alarm.Reset(stallAfter)
		n, err := d.body.Read(p)
		d.alarm.Stop()
		d.at += int64(n)
		if d.at > d.want.Size {
			return 0, fmt.Errorf("%w: more than the %d bytes of %s", ErrDigest, d.want.Size, d.want.Digest)
		}
		if err == io.EOF && d.at < d.want.Size {
			err = io.ErrUnexpectedEOF
		}
		if err == nil || err == io.EOF {
			return n, err
		}
		d.drop()
		if d.breaks++; d.breaks > maxResumes || d.ctx.Err() != nil {
			return n, classify(d.from.base.Host, err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// open asks for what is still to come.
func (d *download) open() error {
	ctx, cancel := context.WithCancel(d.ctx)
	header := http.Header{}
	if d.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
	}
	resp, err := d.from.get(ctx, "/blobs/"+d.want.Digest.String(), header)
	if err != nil {
		cancel()
		return err
	}
	if d.at > 0 && resp.StatusCode != http.StatusPartialContent { // knows no ranges: pass over what we have
		if _, err := io.CopyN(io.Discard, resp.Body, d.at); err != nil {
			resp.Body.Close()
			cancel()
			return classify(d.from.base.Host, err)
		}
	}
	d.body, d.cancel = resp.Body, cancel
	d.alarm = time.AfterFunc(stallAfter, cancel)
	return nil
}

func (d *download) drop() {
	if d.body != nil {
		d.alarm.Stop()
		d.body.Close()
		d.cancel()
		d.body = nil
	}
}

// Close ends the download.
func (d *download) Close() error {
	d.drop()
	return nil
}
