// Package toolchain fetches versions of Node.js, Go and Python that a machine lacks, from their own servers or else from the
// package registries that the user's npm and go commands are set up for, and verifies what it got.
//
// It knows lists of versions and archives. It never chooses a version, and never runs what it fetched.
package toolchain

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Source is where tools are fetched from, and where lists and archives are kept. It may be used by any number of
// goroutines, and its directory by any number of processes. The fields must not change after the first use.
type Source struct {
	// Dir is made when it is needed, and may be removed whenever nothing is being fetched.
	Dir string
	// NodeURL and GoURL are laid out as https://nodejs.org/dist and https://go.dev/dl, which empty ones are.
	NodeURL, GoURL string
	// PythonURL is a manifest as that of actions/python-versions, which an empty one is.
	PythonURL string
	// Offline asks nobody: what is not in Dir is an error.
	Offline bool

	once   sync.Once
	client *http.Client
}

// DefaultNodeURL and DefaultGoURL are what most people use.
const (
	DefaultNodeURL = "https://nodejs.org/dist"
	DefaultGoURL   = "https://go.dev/dl"

	DefaultPythonURL = "https://raw.githubusercontent.com/actions/python-versions/main/versions-manifest.json"
)

// Tool is a tool that can be fetched, by its name in a tool cache.
type Tool string

// The tools there are.
const (
	Node Tool = "node"
	Go   Tool = "go"
	// Python's archives are not laid out as in a tool cache: they hold a script, ARCH/setup.sh, that installs them there.
	Python Tool = "Python"
)

// Platform is what a version is for, in the words of Node.js: linux or darwin, x64 or arm64. Version is the release of
// Ubuntu, 24.04, and empty for others; it matters to Python alone.
type Platform struct{ OS, Arch, Version string }

// String names the platform in file names.
func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"-"+p.Arch+"-"+p.Version, "-")
}

// Release is a version that can be fetched.
type Release struct {
	// Version is as the tool writes it, without a letter in front: 20.11.1, 1.22, 1.23rc1.
	Version string `json:"version"`
	// LTS is the code name of the line of long-term support in lower case, if the list knows it.
	LTS string `json:"lts,omitempty"`
	// SHA256 of its archive in hexadecimal and File the archive's name or address, if the list knows them.
	SHA256 string `json:"sha256,omitempty"`
	File   string `json:"file,omitempty"`
}

// List is the versions of a tool for a platform, in no order.
type List struct {
	Releases []Release `json:"releases"`
	// From says who gave it, for people: nodejs.org, the npm registry.
	From string `json:"from"`
	// Registry says that it is the list of a package registry, and not of the tool's own server.
	Registry bool `json:"registry,omitempty"`
}

// ErrOffline is returned when something would have to be fetched and must not be.
var ErrOffline = errors.New("it is not fetched, since this run is offline")

const (
	// listFresh is how long a list is taken for the newest.
	listFresh = time.Hour
	// keepArchives is for how long an archive that nobody asked for stays in Dir.
	keepArchives = 30 * 24 * time.Hour
	maxList      = 32 << 20
	maxArchive   = 1 << 30
	listTime     = time.Minute
	fetchTime    = 30 * time.Minute
)

// origin is one place that a tool comes from.
type origin interface {
	name() string
	registry() bool
	list(ctx context.Context, p Platform) ([]Release, error)
	// fetch puts the tool into the archive; dir is empty and for its own use.
	fetch(ctx context.Context, r Release, p Platform, dir string, out *archive, log io.Writer) error
}

func (s *Source) origins(t Tool) []origin {
	switch t {
	case Node:
		return []origin{&nodeServer{s, cmp.Or(s.NodeURL, DefaultNodeURL)}, &npmRegistry{s}}
	case Go:
		return []origin{&goServer{s, cmp.Or(s.GoURL, DefaultGoURL)}, &goProxy{s}}
	case Python:
		return []origin{&pythonBuilds{s, cmp.Or(s.PythonURL, DefaultPythonURL)}}
	}
	return nil
}

// Releases gives the versions of a tool, of the first origin that answers. The list is kept for an hour; an older one
// does if nobody answers now, with a line in log.
func (s *Source) Releases(ctx context.Context, t Tool, p Platform, log io.Writer) (*List, error) {
	name := filepath.Join(s.Dir, "lists", fmt.Sprintf("%s-%s.json", t, p))
	kept, age := readList(name)
	if kept != nil && age < listFresh {
		return kept, nil
	}
	l, err := s.ask(ctx, t, p)
	if err == nil {
		return l, writeList(name, l)
	}
	if kept == nil || ctx.Err() != nil {
		return nil, err
	}
	fmt.Fprintf(log, "The list of versions is %s old: %v\n", age.Round(time.Minute), err)
	return kept, nil
}

func (s *Source) ask(ctx context.Context, t Tool, p Platform) (*List, error) {
	if s.Offline {
		return nil, ErrOffline
	}
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var errs []error
	for _, o := range s.origins(t) {
		releases, err := o.list(ctx, p)
		releases = slices.DeleteFunc(releases, func(r Release) bool { return !versionText.MatchString(r.Version) })
		if err == nil && len(releases) == 0 {
			err = fmt.Errorf("it has no versions for %s", p)
		}
		if err == nil {
			return &List{releases, o.name(), o.registry()}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.name(), err))
	}
	return nil, fmt.Errorf("look up the versions of %s: %w", t, errors.Join(errs...))
}

// versionText is what may stand for a version in names of files and packages.
var versionText = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,6}){0,2}(-?[a-zA-Z0-9.]{1,40})?$`)

// readList gives nil for a list that is missing or damaged.
func readList(name string) (*List, time.Duration) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, 0
	}
	data, err := os.ReadFile(name)
	var l List
	if err != nil || json.Unmarshal(data, &l) != nil || len(l.Releases) == 0 {
		return nil, 0
	}
	return &l, time.Since(info.ModTime())
}

func writeList(name string, l *List) error {
	data, err := json.Marshal(l)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o700)
	}
	if err != nil {
		return err
	}
	return replaceFile(name, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// replaceFile makes a file that others see whole or not at all.
func replaceFile(name string, write func(f *os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Lock keeps others, of other processes too, from working on the same thing until unlock is called: what is fetched is
// fetched once. waiting is called if somebody else is at it.
func (s *Source) Lock(ctx context.Context, what string, waiting func()) (unlock func(), err error) {
	dir := filepath.Join(s.Dir, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(dir, what))
	ok, err := l.TryLock()
	if err == nil && !ok {
		waiting()
		ok, err = l.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil || !ok {
		return nil, fmt.Errorf("wait for another job that fetches %s: %w", what, cmp.Or(err, ctx.Err()))
	}
	return func() { _ = l.Unlock() }, nil
}

// Fetch gives the file name of a tar archive of a release, compressed with zstd: ARCH/bin/..., as in the directory of
// its version in a tool cache, with ARCH.complete. The tool's own server is asked first and the registry next, unless
// the list came from the registry. It is verified by the checksum that the origin has for it,
// if it has any. log gets lines for people.
// Who calls holds the Lock of the release.
func (s *Source) Fetch(ctx context.Context, t Tool, r Release, p Platform, registry bool, log io.Writer) (string, error) {
	name := filepath.Join(s.Dir, "archives", fmt.Sprintf("%s-%s-%s.tar.zst", t, r.Version, p))
	now := time.Now()
	if os.Chtimes(name, now, now) == nil {
		return name, nil
	}
	if s.Offline {
		return "", ErrOffline
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", err
	}
	s.forget(filepath.Dir(name), now)
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	var errs []error
	for _, o := range s.origins(t) {
		if registry && !o.registry() {
			continue
		}
		fmt.Fprintf(log, "Acquiring %s - %s from %s\n", r.Version, p.Arch, o.name())
		err := s.fetchFrom(ctx, o, r, p, name, log)
		if err == nil {
			return name, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.name(), err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("fetch %s %s: %w", t, r.Version, errors.Join(errs...))
}

func (s *Source) fetchFrom(ctx context.Context, o origin, r Release, p Platform, name string, log io.Writer) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".work-*")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	return replaceFile(name, func(f *os.File) error {
		out, err := newArchive(f, p.Arch)
		if err != nil {
			return err
		}
		err = o.fetch(ctx, r, p, dir, out, log)
		return errors.Join(err, out.close(err == nil))
	})
}

// removeAll also removes what the go command made read-only.
func removeAll(dir string) {
	_ = filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// Forget removes an archive that is not needed any more.
func (s *Source) Forget(name string) { _ = os.Remove(name) }

// forget removes archives that were not asked for in a long time, and what killed processes left.
func (s *Source) forget(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		limit := keepArchives
		if strings.HasPrefix(e.Name(), ".") {
			limit = 2 * fetchTime
		}
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > limit {
			removeAll(filepath.Join(dir, e.Name()))
		}
	}
}

// http is the client for servers: the proxies of the environment, and no long wait for a server that does not answer.
func (s *Source) http() *http.Client {
	s.once.Do(func() {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
		t.TLSHandshakeTimeout, t.ResponseHeaderTimeout = 10*time.Second, 30*time.Second
		s.client = &http.Client{Transport: t}
	})
	return s.client
}

// open asks a server for a file.
func (s *Source) open(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "penstock")
	res, err := s.http().Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", req.URL.Redacted(), res.Status)
	}
	return res.Body, nil
}

// read asks a server for a file of at most max bytes.
func (s *Source) read(ctx context.Context, url string, max int64) ([]byte, error) {
	body, err := s.open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("GET %s: more than %d bytes", url, max)
	}
	return data, err
}

func (s *Source) readJSON(ctx context.Context, url string, into any) error {
	data, err := s.read(ctx, url, maxList)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("GET %s: the answer is no list of versions: %w", url, err)
	}
	return nil
}
