package toolchain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
)

// pythonBuilds are the builds of CPython that actions/setup-python takes: those of the repository actions/python-versions
// for one release of Ubuntu each. Its manifest has no checksums; that GitHub gives them over TLS is all there is.
type pythonBuilds struct {
	s        *Source
	manifest string
}

func (b *pythonBuilds) name() string   { return "actions/python-versions at " + hostOf(b.manifest) }
func (b *pythonBuilds) registry() bool { return false }

func (b *pythonBuilds) list(ctx context.Context, p Platform) ([]Release, error) {
	if p.Version == "" {
		return nil, errors.New("it has builds for Ubuntu alone")
	}
	var manifest []struct {
		Version string `json:"version"`
		Files   []struct {
			Arch     string `json:"arch"`
			Platform string `json:"platform"`
			Version  string `json:"platform_version"`
			URL      string `json:"download_url"`
		} `json:"files"`
	}
	if err := b.s.readJSON(ctx, b.manifest, &manifest); err != nil {
		return nil, err
	}
	var all []Release
	for _, e := range manifest {
		for _, f := range e.Files {
			if f.Arch == p.Arch && f.Platform == p.OS && f.Version == p.Version && b.trusted(f.URL) {
				all = append(all, Release{Version: e.Version, File: f.URL})
			}
		}
	}
	return all, nil
}

// trusted says whether a build may be taken from an address: over TLS, or from where the manifest is.
func (b *pythonBuilds) trusted(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http" && u.Host == hostOf(b.manifest))
}

func (b *pythonBuilds) fetch(ctx context.Context, r Release, _ Platform, dir string, out *archive, _ io.Writer) error {
	if !b.trusted(r.File) || !strings.HasSuffix(r.File, ".tar.gz") {
		return fmt.Errorf("%q is no address of a build", r.File)
	}
	name := filepath.Join(dir, "python.tar.gz")
	if err := b.s.download(ctx, r.File, "", name); err != nil {
		return err
	}
	return out.addTar(name, "", asItIs)
}
