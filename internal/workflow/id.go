package workflow

import (
	"strconv"
	"strings"
	"unicode/utf16"
)

// maxID is one more than the characters that an ID may have.
const maxID = 100

// idBuilder gives steps the IDs that they do not have, as GitHub does (actions/runner IdBuilder). IDs ignore case.
type idBuilder struct{ taken map[string]bool }

// know takes an ID that the file gives. It says what is wrong with it, "" for nothing.
func (b *idBuilder) know(id string) string {
	switch {
	case !isID(id) || len(id) >= maxID:
		return "The identifier '" + id + "' is invalid. IDs may only contain alphanumeric characters, '_', and '-'. IDs must start with a letter or '_' and must be less than 100 characters."
	case strings.HasPrefix(id, "__"):
		return "The identifier '" + id + "' is invalid. IDs starting with '__' are reserved."
	case !b.take(id):
		return "The identifier '" + id + "' may not be used more than once within the same scope."
	}
	return ""
}

func (b *idBuilder) take(id string) bool {
	folded := strings.ToUpper(id)
	if b.taken[folded] {
		return false
	}
	if b.taken == nil {
		b.taken = map[string]bool{}
	}
	b.taken[folded] = true
	return true
}

// build makes an ID of a name, with a number behind it where it is taken. It is "" when there are too many.
func (b *idBuilder) build(name string) string {
	legal := legalID(name)
	for attempt := 1; attempt < 1000; attempt++ {
		suffix := ""
		if attempt > 1 {
			suffix = "_" + strconv.Itoa(attempt)
		}
		id := legal[:min(len(legal), maxID-len(suffix))] + suffix
		if b.take(id) {
			return id
		}
	}
	return ""
}

// legalID puts _ for every character that an ID may not have.
func legalID(name string) string {
	var out strings.Builder
	for _, unit := range utf16.Encode([]rune(name)) {
		if unit < 0x80 && isIDByte(byte(unit)) {
			out.WriteByte(byte(unit))
		} else {
			out.WriteByte('_')
		}
	}
	return out.String()
}

func isIDByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

func isID(s string) bool {
	if s == "" || s[0] >= '0' && s[0] <= '9' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isIDByte(s[i]) {
			return false
		}
	}
	return true
}

func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n += utf16.RuneLen(r)
	}
	return n
}
