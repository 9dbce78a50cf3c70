package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// setupNode is actions/setup-node with the Node.js versions that are on the machine, or else fetched.
type setupNode struct{}

var nodeSearch = search{
	program: "node",
	names:   []string{"node"},
	places: []string{
		"@/node/*/*/bin/node",
		"~/.nvm/versions/node/*/bin/node", "~/.volta/tools/image/node/*/bin/node", "~/.nodenv/versions/*/bin/node",
		"~/.asdf/installs/nodejs/*/bin/node", "~/.local/share/mise/installs/node/*/bin/node",
		"~/.local/share/fnm/node-versions/*/installation/bin/node", "~/.fnm/node-versions/*/installation/bin/node",
		"~/n/n/versions/node/*/bin/node", "/usr/local/n/versions/node/*/bin/node",
		"/usr/local/nvm/versions/node/*/bin/node", "/opt/node*/bin/node", "/usr/local/lib/nodejs/*/bin/node",
		"/opt/homebrew/opt/node*/bin/node", "/usr/local/opt/node*/bin/node",
		"/usr/local/bin/node", "/usr/bin/node",
	},
	version: []string{"--version"},
	parse: func(answer string) (*semver.Version, string, bool) {
		v, err := semver.StrictNewVersion(strings.TrimPrefix(answer, "v"))
		return v, strings.TrimPrefix(answer, "v"), err == nil
	},
	kind:   toolchain.Node,
	semver: semver.StrictNewVersion,
}

func (setupNode) Main(ctx context.Context, s *Step) error {
	spec, err := nodeVersion(ctx, s)
	if err != nil {
		return err
	}
	if spec == "" && s.input("architecture") != "" {
		s.warning("`architecture` is provided but `node-version` is missing. In this configuration, the version/architecture of Node will not be changed. To fix this, provide `architecture` in combination with `node-version`")
	}
	if spec != "" {
		if err := useNode(ctx, s, spec); err != nil {
			return err
		}
	}
	if err := s.group("Environment details", func() error { return nodeDetails(ctx, s) }); err != nil {
		return err
	}
	if registry := s.input("registry-url"); registry != "" {
		if err := nodeRegistry(ctx, s, registry); err != nil {
			return err
		}
	}
	if err := nodeCache(ctx, s); err != nil {
		return err
	}
	return s.addMatchers(ctx, matchTSC, matchESLintStylish, matchESLintCompact)
}

// useNode finds the version and puts it first in PATH.
func useNode(ctx context.Context, s *Step, spec string) error {
	if err := s.checkArchitecture(); err != nil {
		return err
	}
	tools, err := nodeSearch.find(ctx, s)
	if err != nil {
		return err
	}
	if s.input("mirror") != "" {
		s.warning("mirror has no effect: where Node.js is fetched from is for the machine to say, by NODEJS_ORG_MIRROR. Run with --no-native to let the original action use it")
	}
	w := wanted{search: nodeSearch, newest: s.loose("check-latest") || nodeAlias(spec)}
	w.fits = func(versions []*semver.Version, list *toolchain.List) (func(*semver.Version) bool, error) {
		return nodeFits(spec, versions, list)
	}
	w.of = func(top *semver.Version) func(*semver.Version) bool {
		if !s.loose("check-latest") && strings.HasPrefix(strings.ToLower(spec), "lts/") {
			return func(v *semver.Version) bool { return v.Prerelease() == "" && v.Major() == top.Major() }
		}
		return top.Equal
	}
	t, ok, why, err := s.choose(ctx, w, tools)
	if err != nil {
		return err
	}
	if !ok {
		major := regexp.MustCompile(`\d+(\.\d+)*`).FindString(spec)
		return nodeSearch.missing(s, "Node.js", spec, why, tools, fmt.Sprintf("`nvm install %s`, `fnm install %[1]s`, or the system's packages", cmpOr(major, spec)))
	}
	if w.newest {
		s.info("'%s' is %s", spec, t.said)
	}
	if err := s.show(ctx, t); err != nil {
		return err
	}
	bin := path.Dir(t.bin)
	if !ownPrefix(t) {
		// A directory with nothing but Node.js in it: the system's own would push everything else in it forward.
		if bin, err = s.linkTools(ctx, "node", t, "node", "npm", "npx", "corepack"); err != nil {
			return err
		}
	}
	s.info("Found in cache @ %s", t.prefix())
	s.addPath(bin)
	if t.fetched {
		return s.trustMachine(ctx)
	}
	return nil
}

// trustMachine lets a fetched Node.js, which knows public certificate authorities alone, trust those that the machine's
// owner has added for all other programs: behind a proxy that opens connections nothing could be installed otherwise.
func (s *Step) trustMachine(ctx context.Context) error {
	if s.variable("NODE_EXTRA_CA_CERTS") != "" {
		return nil
	}
	const script = `for own in /usr/local/share/ca-certificates/*.crt /etc/pki/ca-trust/source/anchors/*; do [ -f "$own" ] || continue
for all in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do [ -f "$all" ] && echo "$all" && exit; done; done; :`
	bundle, err := s.answer(ctx, "/", "sh", "-c", script)
	if err == nil && bundle != "" {
		s.export("NODE_EXTRA_CA_CERTS", bundle)
	}
	return err
}

// ownPrefix says that a tool has its directory for itself.
func ownPrefix(t tool) bool {
	return !slices.Contains([]string{"/usr", "/usr/local", "/", "/opt/homebrew"}, t.prefix())
}

// linkTools makes a directory in the tool cache with links to a tool's programs and gives it.
func (s *Step) linkTools(ctx context.Context, name string, t tool, programs ...string) (string, error) {
	dir := s.inCache(name, t.said)
	var files []file
	found, err := s.expand(ctx, []string{path.Dir(t.bin) + "/*"})
	if err != nil {
		return "", err
	}
	for _, p := range programs {
		if target := path.Join(path.Dir(t.bin), p); slices.Contains(found, target) {
			files = append(files, file{name: "bin/" + p, link: target})
		}
	}
	return path.Join(dir, "bin"), s.put(ctx, dir, files...)
}

// ltsMajors are the majors of Node.js's long-term lines by code name.
var ltsMajors = map[string]uint64{
	"argon": 4, "boron": 6, "carbon": 8, "dubnium": 10, "erbium": 12, "fermium": 14,
	"gallium": 16, "hydrogen": 18, "iron": 20, "jod": 22, "krypton": 24,
}

// nodeAlias says that a spec means what is newest in the world.
func nodeAlias(spec string) bool {
	name, isLTS := strings.CutPrefix(strings.ToLower(spec), "lts/")
	_, named := ltsMajors[name]
	return isLTS && !named || slices.Contains([]string{"latest", "node", "current"}, spec)
}

// nodeFits says which versions a spec means. Aliases are those of the versions that are there, the newest first.
func nodeFits(spec string, versions []*semver.Version, list *toolchain.List) (func(*semver.Version) bool, error) {
	stable := func(v *semver.Version) bool { return v.Prerelease() == "" }
	if slices.Contains([]string{"latest", "node", "current"}, spec) {
		return stable, nil
	}
	name, isLTS := strings.CutPrefix(strings.ToLower(spec), "lts/")
	if !isLTS {
		fits := versionRange(spec)
		if fits == nil {
			return nil, fmt.Errorf("Unable to find Node version '%s': it is neither a version, a range nor an alias", spec)
		}
		return fits, nil
	}
	if major, ok := ltsMajors[name]; ok {
		return func(v *semver.Version) bool { return stable(v) && v.Major() == major }, nil
	}
	majors, names := ltsLines(versions, list)
	back := 0
	if i := slices.Index(names, name); i >= 0 {
		back = i
	} else if name != "*" {
		n, err := strconv.Atoi(name)
		if err != nil || n >= 0 {
			return nil, fmt.Errorf("Unable to find LTS release '%s' for Node version '%s'.", name, spec)
		}
		back = -n
	}
	return func(v *semver.Version) bool { return back < len(majors) && stable(v) && v.Major() == majors[back] }, nil
}

// ltsLines are the majors of lines with long-term support, the newest first, with their names if the list knows them. On a
// machine every even major counts; a registry does not say, and there a line of which nothing is known counts when the
// next one has begun.
func ltsLines(versions []*semver.Version, list *toolchain.List) (majors []uint64, names []string) {
	if list != nil && !list.Registry {
		for _, v := range versions {
			i := slices.IndexFunc(list.Releases, func(r toolchain.Release) bool { return r.Version == v.Original() })
			if i >= 0 && list.Releases[i].LTS != "" && !slices.Contains(majors, v.Major()) {
				majors, names = append(majors, v.Major()), append(names, list.Releases[i].LTS)
			}
		}
		return majors, names
	}
	var all []uint64
	for _, v := range versions {
		if v.Prerelease() == "" && !slices.Contains(all, v.Major()) {
			all = append(all, v.Major())
		}
	}
	known := slices.Collect(maps.Values(ltsMajors))
	for _, major := range all {
		even := major%2 == 0
		if even && (list == nil || slices.Contains(known, major) || slices.Contains(all, major+1)) {
			majors = append(majors, major)
		}
	}
	return majors, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// nodeDetails tells the versions of the programs, asked for all at once.
func nodeDetails(ctx context.Context, s *Step) error {
	names := []string{"node", "npm", "yarn"}
	versions := make([]string, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if version, err := s.answer(ctx, s.workspace(), name, "--version"); err == nil {
				versions[i] = version
			}
		})
	}
	wg.Wait()
	s.output("node-version", versions[0])
	for i, name := range names {
		s.info("%s: %s", name, versions[i])
	}
	return ctx.Err()
}

// nodeVersion is the version asked for, empty for none.
func nodeVersion(ctx context.Context, s *Step) (string, error) {
	version, from := s.input("node-version"), s.input("node-version-file")
	if version != "" && from != "" {
		s.warning("Both node-version and node-version-file inputs are specified, only node-version will be used")
	}
	if version != "" || from == "" {
		return version, nil
	}
	version, err := nodeVersionFile(ctx, s, s.abs(from), 0)
	if err != nil {
		return "", err
	}
	if version == "" {
		s.warning("Could not determine node version from %s. Falling back", s.abs(from))
	}
	s.info("Resolved %s as %s", from, version)
	return version, nil
}

// maxExtends bounds how many package.json files may lead to each other by volta.extends.
const maxExtends = 10

// packageJSON is what of a package.json says a version. Fields of other types than these are as good as missing.
type packageJSON struct {
	Volta struct {
		Node    string `json:"node"`
		Extends string `json:"extends"`
	} `json:"volta"`
	Engines struct {
		Node string `json:"node"`
	} `json:"engines"`
	DevEngines struct {
		Runtime        json.RawMessage `json:"runtime"`
		PackageManager json.RawMessage `json:"packageManager"`
	} `json:"devEngines"`
	PackageManager string `json:"packageManager"`
}

// engine is an entry of devEngines.
type engine struct{ Name, Version string }

// engines reads one entry or a list of them.
func engines(raw json.RawMessage) []engine {
	var many []engine
	if json.Unmarshal(raw, &many) == nil {
		return many
	}
	var one engine
	if json.Unmarshal(raw, &one) == nil {
		return []engine{one}
	}
	return nil
}

var versionLine = regexp.MustCompile(`(?m)^(?:node(?:js)?\s+)?v?(\S+)$`)

// nodeVersionFile reads .nvmrc, .node-version, .tool-versions, mise.toml or package.json.
func nodeVersionFile(ctx context.Context, s *Step, name string, depth int) (string, error) {
	text, err := s.read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("The specified node version file at: %s does not exist", name)
	}
	if err != nil {
		return "", err
	}
	if json.Valid([]byte(text)) && strings.HasPrefix(strings.TrimSpace(text), "{") {
		var p packageJSON
		_ = json.Unmarshal([]byte(text), &p) // the fields that fit are read
		for _, e := range engines(p.DevEngines.Runtime) {
			if p.Volta.Node == "" && strings.EqualFold(e.Name, "node") && e.Version != "" {
				return e.Version, nil
			}
		}
		switch {
		case p.Volta.Node != "":
			return p.Volta.Node, nil
		case p.Engines.Node != "":
			return p.Engines.Node, nil
		case p.Volta.Extends != "" && depth < maxExtends:
			next := path.Join(path.Dir(name), p.Volta.Extends)
			s.info("Resolving node version from %s", next)
			return nodeVersionFile(ctx, s, next, depth+1)
		}
		return "", nil
	}
	var mise struct {
		Tools struct{ Node any }
	}
	if _, err := toml.Decode(text, &mise); err == nil && mise.Tools.Node != nil {
		switch v := mise.Tools.Node.(type) {
		case string:
			return v, nil
		case map[string]any:
			version, _ := v["version"].(string)
			return version, nil
		}
		return "", nil
	}
	if m := versionLine.FindStringSubmatch(strings.ReplaceAll(text, "\r\n", "\n")); m != nil {
		return m[1], nil
	}
	return strings.TrimSpace(text), nil
}

// nodeRegistry writes an .npmrc for a registry that takes NODE_AUTH_TOKEN (src/authutil.ts).
func nodeRegistry(ctx context.Context, s *Step, registry string) error {
	if !strings.HasSuffix(registry, "/") {
		registry += "/"
	}
	scope := s.input("scope")
	if scope == "" && strings.Contains(registry, "npm.pkg.github.com") {
		scope = s.github("repository_owner")
	}
	if scope != "" {
		scope = "@" + strings.ToLower(strings.TrimPrefix(scope, "@")) + ":"
	}
	temp := s.Sandbox.Info().Temp
	name := path.Join(temp, ".npmrc")
	before, err := s.read(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(before) {
		if !strings.HasPrefix(strings.ToLower(line), scope+"registry") {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	fmt.Fprintf(&b, "%s:_authToken=${NODE_AUTH_TOKEN}\n%sregistry=%s", registry[strings.Index(registry, "://")+1:], scope, registry)
	if err := s.put(ctx, temp, file{name: ".npmrc", data: b.String(), mode: 0o600}); err != nil {
		return err
	}
	s.export("NPM_CONFIG_USERCONFIG", name)
	if token, ok := s.Env["NODE_AUTH_TOKEN"]; ok {
		s.export("NODE_AUTH_TOKEN", token)
	}
	return nil
}
