package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// release is a version that can be fetched.
type release struct {
	toolchain.Release
	version *semver.Version
}

// wanted is a version of a tool that a step asks for.
type wanted struct {
	search search
	// fits says which versions are meant, where those of the machine or of the list, the newest first, are all there are.
	// list is nil for those of the machine.
	fits func(versions []*semver.Version, list *toolchain.List) (func(*semver.Version) bool, error)
	// newest says that what is newest in the world is meant, and not what is newest on the machine. of narrows that down
	// to what of the newest is meant.
	newest bool
	of     func(top *semver.Version) func(*semver.Version) bool
}

// choose gives the newest of the machine's versions that is meant, or fetches one. ok is false if there is none, and why
// then says why none was fetched.
func (s *Step) choose(ctx context.Context, w wanted, tools []tool) (t tool, ok bool, why, err error) {
	if !w.newest {
		if t, ok, err = w.here(tools); ok || err != nil {
			return t, ok, nil, err
		}
	}
	list, releases, why := s.releases(ctx, w)
	if ctx.Err() != nil {
		return tool{}, false, nil, ctx.Err()
	}
	if why != nil {
		if t, ok, err = w.here(tools); ok && s.Host != nil && s.Host.Toolchains != nil {
			s.info("The newest version of this machine is taken: %v", why)
		}
		return t, ok, why, err
	}
	r, fits, err := w.among(list, releases)
	if err != nil || r == nil {
		return tool{}, false, errors.New("there is no such version in the list of " + list.From), err
	}
	if t, ok := newest(tools, fits); ok {
		return t, true, nil, nil
	}
	t, why = s.fetchTool(ctx, w, list, *r)
	return t, why == nil, why, ctx.Err()
}

// here gives the newest of the machine's versions that is meant.
func (w wanted) here(tools []tool) (t tool, ok bool, err error) {
	var versions []*semver.Version
	for _, t := range tools {
		versions = append(versions, t.version)
	}
	fits, err := w.fits(versions, nil)
	if err != nil {
		return tool{}, false, err
	}
	t, ok = newest(tools, fits)
	return t, ok, nil
}

// among finds the release that is meant; nil if there is none.
func (w wanted) among(list *toolchain.List, releases []release) (*release, func(*semver.Version) bool, error) {
	var versions []*semver.Version
	for _, r := range releases {
		versions = append(versions, r.version)
	}
	fits, err := w.fits(versions, list)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(releases, func(r release) bool { return fits(r.version) })
	if i < 0 {
		return nil, nil, nil
	}
	if w.newest && w.of != nil {
		fits = w.of(releases[i].version)
	}
	return &releases[i], fits, nil
}

// platform is the machine in the words of lists of versions.
func (s *Step) platform(ctx context.Context, kind toolchain.Tool) toolchain.Platform {
	p := toolchain.Platform{OS: map[string]string{"Linux": "linux", "macOS": "darwin"}[s.Sandbox.Info().OS], Arch: s.arch()}
	if kind == toolchain.Python && p.OS == "linux" {
		text, err := s.read(ctx, "/etc/os-release")
		if err != nil {
			s.debug("which Linux this is: %v", err)
		}
		p.Version = ubuntuVersion(text)
	}
	return p
}

var releaseLine = regexp.MustCompile(`(?m)^(ID|VERSION_ID)=["']?([a-z0-9._-]*)["']?\s*$`)

// ubuntuVersion reads an os-release file; it is empty for others than Ubuntu.
func ubuntuVersion(text string) string {
	fields := map[string]string{}
	for _, m := range releaseLine.FindAllStringSubmatch(text, -1) {
		fields[m[1]] = m[2]
	}
	if fields["ID"] != "ubuntu" {
		return ""
	}
	return fields["VERSION_ID"]
}

// releases are the versions that can be fetched for the machine, the newest first.
func (s *Step) releases(ctx context.Context, w wanted) (*toolchain.List, []release, error) {
	if s.Host == nil || s.Host.Toolchains == nil {
		return nil, nil, errors.New("nothing is downloaded")
	}
	list, err := s.Host.Toolchains.Releases(ctx, w.search.kind, s.platform(ctx, w.search.kind), s.Log)
	if err != nil {
		return nil, nil, err
	}
	var all []release
	for _, r := range list.Releases {
		if v, err := w.search.semver(r.Version); err == nil {
			all = append(all, release{r, v})
		}
	}
	slices.SortStableFunc(all, func(a, b release) int { return b.version.Compare(a.version) })
	return list, all, nil
}

// fetchTool puts a version into the machine's tool cache and checks that the machine can run it.
func (s *Step) fetchTool(ctx context.Context, w wanted, list *toolchain.List, r release) (tool, error) {
	dir, err := s.provide(ctx, w.search, list, r.Release)
	if err != nil {
		return tool{}, err
	}
	t := tool{version: r.version, said: r.Version, bin: path.Join(dir, "bin", w.search.program), fetched: true}
	ran, err := w.search.ask(ctx, s, []string{t.bin})
	if err != nil {
		return tool{}, err
	}
	if len(ran) == 0 || !sameVersion(ran[0].version, r.version) {
		return tool{}, fmt.Errorf("%s %s does not run on this machine: it may need another C library than the machine has", w.search.program, r.Version)
	}
	return t, nil
}

// sameVersion compares without the dot that some write in pre-releases: rc1, rc.1.
func sameVersion(a, b *semver.Version) bool {
	pre := func(v *semver.Version) string { return strings.ReplaceAll(v.Prerelease(), ".", "") }
	return a.Major() == b.Major() && a.Minor() == b.Minor() && a.Patch() == b.Patch() && pre(a) == pre(b)
}

// provide gives the directory of a version in the machine's tool cache, where it is put. On a machine with layers it is
// unpacked once and mounted from then on.
func (s *Step) provide(ctx context.Context, q search, list *toolchain.List, r toolchain.Release) (dir string, err error) {
	kind, source := q.kind, s.Host.Toolchains
	p := s.platform(ctx, kind)
	dir = s.inCache(string(kind), r.Version)
	unlock, err := source.Lock(ctx, fmt.Sprintf("%s-%s-%s", kind, r.Version, p), func() {
		s.info("Another job is fetching %s %s: waiting for it", kind, r.Version)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	at := path.Dir(dir)
	layered, ok := s.layers()
	if !ok {
		name, err := s.download(ctx, kind, p, list, r)
		if err != nil {
			return "", err
		}
		return dir, s.installTool(ctx, q, name, at)
	}
	e := cacheEntry{Scope: toolScope, Version: toolchainVersion, Key: keptKey(kind, r.Version, p)}
	for _, k := range s.keptTools() {
		if k.Key == e.Key && layered.Mount(ctx, at, k.Parts[0].Layer) == nil {
			return dir, nil
		}
	}
	name, err := s.download(ctx, kind, p, list, r)
	if err != nil {
		return "", err
	}
	if err := layered.Mount(ctx, at); err != nil {
		return "", err
	}
	if err := s.installTool(ctx, q, name, at); err != nil {
		return "", err
	}
	id, err := layered.Capture(ctx, at)
	if err == nil {
		e.Parts = []cachePart{{Path: strings.TrimPrefix(at, "/"), Layer: id}}
		err = s.Host.Cache.add(e)
	}
	if err != nil && !errors.Is(err, ErrCacheExists) {
		s.debug("This %s is not kept for the next job: %v", kind, err)
		return dir, ctx.Err()
	}
	source.Forget(name)
	return dir, ctx.Err()
}

func (s *Step) download(ctx context.Context, kind toolchain.Tool, p toolchain.Platform, list *toolchain.List, r toolchain.Release) (string, error) {
	s.info("Attempting to download %s...", r.Version)
	return s.Host.Toolchains.Fetch(ctx, kind, r, p, list.Registry, s.Log)
}

// toolchainVersion is the version of entries in the cache that are fetched tools.
const toolchainVersion = "toolchain 1"

func keptKey(kind toolchain.Tool, version string, p toolchain.Platform) string {
	return fmt.Sprintf("%s %s %s", kind, version, p)
}

// keptTools are the entries of fetched tools that are there as layers.
func (s *Step) keptTools() []cacheEntry {
	if _, ok := s.layers(); !ok {
		return nil
	}
	entries, err := s.Host.Cache.read(s.Host.Cache.indexDir(toolScope, toolchainVersion))
	if err != nil {
		s.debug("look for fetched tools: %v", err)
	}
	return slices.DeleteFunc(entries, func(e cacheEntry) bool {
		if e.Scope != toolScope || e.Version != toolchainVersion || len(e.Parts) != 1 {
			return true
		}
		_, err := s.Host.Cache.layers.Layer(e.Parts[0].Layer)
		if err != nil {
			_ = os.Remove(e.file) // somebody has removed the layers alone
		}
		return err != nil
	})
}

// kept are the versions of a tool that were fetched for an earlier job: their layers are mounted when they are used.
func (q search) kept(ctx context.Context, s *Step) []tool {
	var tools []tool
	entries := s.keptTools()
	if len(entries) == 0 {
		return nil
	}
	p := s.platform(ctx, q.kind)
	for _, e := range entries {
		f := strings.Fields(e.Key)
		if len(f) != 3 || e.Key != keptKey(q.kind, f[1], p) {
			continue
		}
		if v, err := q.semver(f[1]); err == nil {
			tools = append(tools, tool{version: v, said: f[1], bin: path.Join(s.inCache(f[0], f[1]), "bin", q.program), fetched: true, kept: &e})
		}
	}
	return tools
}

// installTool puts what was fetched into the directory of its version in the tool cache, or nothing.
func (s *Step) installTool(ctx context.Context, q search, name, at string) error {
	install := s.unpackTool
	if q.install != nil {
		install = func(ctx context.Context, name, at string) error { return q.install(ctx, s, name, at) }
	}
	err := install(ctx, name, at)
	if err != nil {
		// What is there of it must not be taken for the whole.
		_, bad := s.answer(context.WithoutCancel(ctx), "/", "rm", "-rf", "--", path.Join(at, s.arch()), path.Join(at, s.arch()+".complete"))
		err = errors.Join(err, bad)
	}
	return err
}

// unpackTool unpacks an archive in the machine. Whatever it holds can reach nothing else: the machine unpacks it.
func (s *Step) unpackTool(ctx context.Context, name, at string) error {
	s.info("Extracting ...")
	tar, err := toolchain.Open(name)
	if err != nil {
		return err
	}
	defer tar.Close()
	if err := s.Sandbox.Put(ctx, at, tar); err != nil {
		return fmt.Errorf("unpack into %s: %w", at, err)
	}
	return nil
}
