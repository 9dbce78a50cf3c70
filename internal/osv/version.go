package osv

import (
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	pep440 "github.com/aquasecurity/go-pep440-version"
	gosemver "golang.org/x/mod/semver"
)

var pypiSeparators = regexp.MustCompile(`[-_.]+`)

// canonical is a package's name as its ecosystem compares it.
func canonical(ecosystem, name string) string {
	if ecosystem == PyPI { // PEP 503
		return strings.ToLower(pypiSeparators.ReplaceAllString(name, "-"))
	}
	return name
}

// compare orders two versions of an ecosystem. ok is false if one of them is none.
func compare(ecosystem, a, b string) (order int, ok bool) {
	switch ecosystem {
	case PyPI:
		x, err := pep440.Parse(a)
		y, err2 := pep440.Parse(b)
		if err != nil || err2 != nil {
			return 0, false
		}
		return x.Compare(y), true
	case Go:
		a, b = "v"+strings.TrimPrefix(a, "v"), "v"+strings.TrimPrefix(b, "v")
		return gosemver.Compare(a, b), gosemver.IsValid(a) && gosemver.IsValid(b)
	}
	x, err := semver.NewVersion(a)
	y, err2 := semver.NewVersion(b)
	if err != nil || err2 != nil {
		return 0, false
	}
	return x.Compare(y), true
}

// contains says whether a version is affected, and the first one after it that is not (the evaluation of the OSV schema).
func (f affected) contains(p Package) (in bool, fixed string) {
	in = slices.Contains(f.Versions, p.Version)
	if _, ok := compare(p.Ecosystem, p.Version, p.Version); !ok {
		return in, "" // no range says anything of it
	}
	for _, r := range f.Ranges {
		if r.Type != "SEMVER" && r.Type != "ECOSYSTEM" {
			continue
		}
		inside := false
		var after string // the last version told of the range, at which the state began
		for _, e := range r.Events {
			switch {
			case e.Introduced != "":
				if order, ok := compare(p.Ecosystem, p.Version, e.Introduced); e.Introduced == "0" || ok && order >= 0 {
					inside = true
				}
			case e.Fixed != "":
				order, ok := compare(p.Ecosystem, p.Version, e.Fixed)
				if ok && order >= 0 {
					inside = false
				} else if inside && after == "" {
					after = e.Fixed
				}
			case e.LastAffected != "":
				if order, ok := compare(p.Ecosystem, p.Version, e.LastAffected); ok && order > 0 {
					inside = false
				}
			}
		}
		if inside {
			in = true
			fixed = after
		}
	}
	return in, fixed
}
