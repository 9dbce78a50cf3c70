package osv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"golang.org/x/mod/modfile"
)

// maxPackages bounds the packages of one lock file.
const maxPackages = 100_000

// lockFiles are the readers of lock files by name. requirements.txt has many names: see reader.
var lockFiles = map[string]func(data []byte) ([]Package, error){
	"package-lock.json": readPackageLock, "npm-shrinkwrap.json": readPackageLock, "poetry.lock": readTOMLLock, "uv.lock": readTOMLLock,
	"Pipfile.lock": readPipfileLock, "go.mod": readGoMod,
}

var requirementsName = regexp.MustCompile(`^requirements.*\.txt$`)

func reader(name string) func(data []byte) ([]Package, error) {
	base := path.Base(name)
	if requirementsName.MatchString(base) {
		return readRequirements
	}
	return lockFiles[base]
}

// IsLockFile says whether a file of this name is read.
func IsLockFile(name string) bool { return reader(name) != nil }

// Read gives the packages that a lock file pins, in its order. The error says what is wrong with the file.
func Read(name string, data []byte) ([]Package, error) {
	read := reader(name)
	if read == nil {
		return nil, fmt.Errorf("%s is no lock file that is known", name)
	}
	packages, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(packages) > maxPackages {
		return nil, fmt.Errorf("read %s: more than %d packages", name, maxPackages)
	}
	for i := range packages {
		packages[i].File = name
	}
	return packages, nil
}

// readPackageLock reads npm's versions 2 and 3, which list packages by their place, and 1, which nests them.
func readPackageLock(data []byte) ([]Package, error) {
	type old struct {
		Version      string
		Dependencies map[string]json.RawMessage
	}
	var lock struct {
		Packages map[string]struct {
			Name, Version string
			Link          bool
		}
		old
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, err
	}
	var out []Package
	add := func(name, version string) {
		if name != "" && version != "" {
			out = append(out, Package{Ecosystem: NPM, Name: name, Version: version, Line: lineOf(data, `"`+name+`"`, "/"+name+`"`)})
		}
	}
	for place, p := range lock.Packages {
		if place == "" || p.Link {
			continue
		}
		name := p.Name
		if i := strings.LastIndex(place, "node_modules/"); name == "" && i >= 0 {
			name = place[i+len("node_modules/"):]
		}
		add(name, p.Version)
	}
	if lock.Packages == nil {
		const maxDepth = 100
		var walk func(o old, depth int) error
		walk = func(o old, depth int) error {
			if depth > maxDepth {
				return fmt.Errorf("dependencies nested deeper than %d", maxDepth)
			}
			for name, raw := range o.Dependencies {
				var d old
				if err := json.Unmarshal(raw, &d); err != nil {
					return err
				}
				add(name, d.Version)
				if err := walk(d, depth+1); err != nil {
					return err
				}
			}
			return nil
		}
		if err := walk(lock.old, 0); err != nil {
			return nil, err
		}
	}
	return sorted(out), nil
}

// sorted orders packages that come from a map, each once.
func sorted(list []Package) []Package {
	slices.SortFunc(list, func(a, b Package) int { return strings.Compare(a.Name+" "+a.Version, b.Name+" "+b.Version) })
	return slices.Compact(list)
}

// lineOf is the line of the first of some texts that is there.
func lineOf(data []byte, texts ...string) int {
	for _, t := range texts {
		if i := bytes.Index(data, []byte(t)); i >= 0 {
			return 1 + bytes.Count(data[:i], []byte("\n"))
		}
	}
	return 0
}

// readTOMLLock reads poetry.lock and uv.lock.
func readTOMLLock(data []byte) ([]Package, error) {
	var lock struct {
		Package []struct{ Name, Version string }
	}
	if err := toml.Unmarshal(data, &lock); err != nil {
		return nil, err
	}
	var out []Package
	for _, p := range lock.Package {
		if p.Name != "" && p.Version != "" {
			out = append(out, Package{Ecosystem: PyPI, Name: p.Name, Version: p.Version, Line: lineOf(data, `name = "`+p.Name+`"`)})
		}
	}
	return out, nil
}

func readPipfileLock(data []byte) ([]Package, error) {
	var lock struct {
		Default, Develop map[string]struct{ Version string }
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, err
	}
	var out []Package
	for _, part := range []map[string]struct{ Version string }{lock.Default, lock.Develop} {
		for name, p := range part {
			if v := strings.TrimPrefix(p.Version, "=="); v != "" && name != "" {
				out = append(out, Package{Ecosystem: PyPI, Name: name, Version: v, Line: lineOf(data, `"`+name+`"`)})
			}
		}
	}
	return sorted(out), nil
}

// pinned is a requirement of exactly one version (PEP 508, without its marker).
var pinned = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*===?\s*([A-Za-z0-9][A-Za-z0-9.!+_-]*)`)

// readRequirements takes what is pinned with ==: of the rest nobody knows the version.
func readRequirements(data []byte) ([]Package, error) {
	var out []Package
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if m := pinned.FindSubmatch(bytes.TrimSpace(line)); m != nil && !bytes.HasSuffix(m[2], []byte(".")) {
			out = append(out, Package{Ecosystem: PyPI, Name: string(m[1]), Version: string(m[2]), Line: n})
		}
	}
	return out, nil
}

func readGoMod(data []byte) ([]Package, error) {
	f, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil {
		return nil, err
	}
	var out []Package
	for _, r := range f.Require {
		if r.Mod.Path == "" || r.Mod.Version == "v" || r.Mod.Version == "" {
			continue
		}
		out = append(out, Package{Ecosystem: Go, Name: r.Mod.Path, Version: strings.TrimPrefix(r.Mod.Version, "v"), Line: r.Syntax.Start.Line})
	}
	return out, nil
}
