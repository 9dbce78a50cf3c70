package native

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// nameMatcher matches names, not paths, by a minimatch pattern with its default options.
func nameMatcher(pattern string) (func(name string) bool, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a pattern of %d bytes is longer than %d", len(pattern), maxPattern)
	}
	if strings.HasPrefix(pattern, "#") {
		return func(string) bool { return false }, nil // a comment
	}
	negate := false
	for strings.HasPrefix(pattern, "!") {
		negate, pattern = !negate, pattern[1:]
	}
	if !doublestar.ValidatePattern(pattern) {
		return nil, fmt.Errorf("Invalid pattern '%s'", pattern)
	}
	return func(name string) bool {
		hidden := strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".")
		matched := !hidden && doublestar.MatchUnvalidated(pattern, name)
		return matched != negate
	}, nil
}
