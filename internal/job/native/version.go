package native

import (
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

var (
	// vPrefix is the v, equalSign the = that npm allows before any version of a range.
	vPrefix   = regexp.MustCompile(`(^|[\s|<>=~^])v(\d|[xX*])`)
	equalSign = regexp.MustCompile(`([=~^])=+`)
	// operatorBlank is a blank between an operator and its version.
	operatorBlank = regexp.MustCompile(`([<>=~^])\s+`)
	// notNpm is what the library takes and npm does not.
	notNpm = regexp.MustCompile(`!|=[<>]|,|~>|[xX*]\.\d`)
	// preRelease is a version in a range that has a pre-release.
	preRelease = regexp.MustCompile(`(\d+)\.(\d+)\.(\d+)-`)
)

// versionRange reads a range of npm's syntax (semver 7) and gives what says whether a version is in it; nil if it is
// none. A pre-release is in a range only if the range names a pre-release of the same three numbers.
func versionRange(text string) func(*semver.Version) bool {
	type alternative struct {
		constraint *semver.Constraints
		pre        map[[3]string]bool
	}
	var all []alternative
	for part := range strings.SplitSeq(text, "||") {
		part = strings.TrimSpace(part)
		if notNpm.MatchString(part) {
			return nil
		}
		part = operatorBlank.ReplaceAllString(part, "$1")
		part = equalSign.ReplaceAllString(part, "$1")
		part = vPrefix.ReplaceAllString(part, "$1$2")
		if part == "" {
			part = "*"
		}
		c, err := semver.NewConstraint(strings.Join(strings.Fields(part), " "))
		if err != nil {
			return nil
		}
		alt := alternative{c, map[[3]string]bool{}}
		for _, m := range preRelease.FindAllStringSubmatch(part, -1) {
			alt.pre[[3]string(m[1:4])] = true
		}
		all = append(all, alt)
	}
	return func(v *semver.Version) bool {
		numbers, _, _ := strings.Cut(v.String(), "-")
		tuple := [3]string(strings.SplitN(numbers, ".", 3))
		for _, alt := range all {
			if (v.Prerelease() == "" || alt.pre[tuple]) && alt.constraint.Check(v) {
				return true
			}
		}
		return false
	}
}
