package native

import (
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// versionRange reads a range of npm's syntax; nil if it is none. A pre-release fits only a range that names one.
func versionRange(text string) func(*semver.Version) bool {
	c, err := semver.NewConstraint(npmRange(text))
	if err != nil {
		return nil
	}
	return c.Check
}

var (
	// vPrefix is the v that npm allows before any version of a range.
	vPrefix = regexp.MustCompile(`(^|[\s<>=~^|])v(\d)`)
	// operatorBlank is a blank between an operator and its version.
	operatorBlank = regexp.MustCompile(`([<>=~^])\s+`)
)

// npmRange writes a range as the library reads it.
func npmRange(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "*"
	}
	text = vPrefix.ReplaceAllString(text, "$1$2")
	text = operatorBlank.ReplaceAllString(text, "$1")
	return strings.Join(strings.Fields(text), " ")
}
