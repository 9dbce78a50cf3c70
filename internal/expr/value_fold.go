package expr

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Case is ignored as .NET's OrdinalIgnoreCase does: by the simple upper-case mapping of each code point, except
// that the dotless i and the long s keep apart from I and S.

func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}
	if r == 'ı' || r == 'ſ' {
		return r
	}
	return unicode.ToUpper(r)
}

// foldKey is the form under which keys that differ only in case are one.
func foldKey(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= utf8.RuneSelf || 'a' <= c && c <= 'z' {
			return strings.Map(foldRune, s)
		}
	}
	return s
}

func equalFold(a, b string) bool { return compareFold(a, b) == 0 }

// compareFold orders two strings by their folded code points.
func compareFold(a, b string) int {
	for a != "" && b != "" {
		if a[0] < utf8.RuneSelf && b[0] < utf8.RuneSelf {
			x, y := a[0], b[0]
			a, b = a[1:], b[1:]
			if x == y {
				continue
			}
			if d := foldRune(rune(x)) - foldRune(rune(y)); d != 0 {
				return int(d)
			}
			continue
		}
		x, n := utf8.DecodeRuneInString(a)
		y, m := utf8.DecodeRuneInString(b)
		a, b = a[n:], b[m:]
		if d := foldRune(x) - foldRune(y); d != 0 {
			return int(d)
		}
	}
	return len(a) - len(b)
}

// hasPrefixFold reports whether s begins with prefix, without case.
func hasPrefixFold(s, prefix string) bool {
	_, ok := cutPrefixFold(s, prefix)
	return ok
}

func cutPrefixFold(s, prefix string) (string, bool) {
	for prefix != "" {
		if s == "" {
			return "", false
		}
		x, n := utf8.DecodeRuneInString(s)
		y, m := utf8.DecodeRuneInString(prefix)
		if x != y && foldRune(x) != foldRune(y) {
			return "", false
		}
		s, prefix = s[n:], prefix[m:]
	}
	return s, true
}

// hasSuffixFold reports whether s ends with suffix, without case.
func hasSuffixFold(s, suffix string) bool {
	for suffix != "" {
		if s == "" {
			return false
		}
		x, n := utf8.DecodeLastRuneInString(s)
		y, m := utf8.DecodeLastRuneInString(suffix)
		if x != y && foldRune(x) != foldRune(y) {
			return false
		}
		s, suffix = s[:len(s)-n], suffix[:len(suffix)-m]
	}
	return true
}

// containsFold reports whether part is in s, without case.
func containsFold(s, part string) bool {
	if strings.Contains(s, part) {
		return true
	}
	return strings.Contains(foldKey(s), foldKey(part))
}

// utf16Len is how many UTF-16 units a string has: what GitHub counts positions, lengths and memory in.
func utf16Len(s string) int {
	n := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c&0xC0 != 0x80 {
			n++
		}
		if c >= 0xF0 {
			n++
		}
	}
	return n
}
