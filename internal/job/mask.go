package job

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// maskText stands where a secret was.
const maskText = "***"

// masker replaces secrets in text. It knows each secret in the shapes that GitHub's runner masks (actions/runner
// src/Sdk/DTLogging/Logging/ValueEncoders.cs): as it is, base64 at each of the three alignments, JSON-escaped,
// URI-encoded, XML-escaped, in quotes, escaped for PowerShell and for a command line.
type masker struct {
	mu       sync.RWMutex
	values   map[string]bool
	patterns [][]byte // the longest first
	longest  int
}

func newMasker() *masker { return &masker{values: map[string]bool{}} }

// add masks a value, and each of its lines, from now on. Empty values and blanks are ignored.
func (m *masker) add(value string) {
	if strings.TrimSpace(value) == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range append([]string{value}, strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == '\r' })...) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		for _, shape := range encodings(line) {
			// One or two characters are masked only as they are written: their encodings would hide everything.
			if shape != "" && (len(shape) > 2 || shape == line) && !m.values[shape] {
				m.values[shape] = true
				m.patterns = append(m.patterns, []byte(shape))
			}
		}
	}
	slices.SortFunc(m.patterns, func(a, b []byte) int { return len(b) - len(a) })
	if len(m.patterns) > 0 {
		m.longest = len(m.patterns[0])
	}
}

// encodings are the shapes in which a value may show up.
func encodings(v string) []string {
	out := []string{v}
	for shift := range 3 {
		// The bytes in front of the value shift its base64: what does not depend on the neighbours is masked.
		padded := append(make([]byte, shift), v...)
		text := base64.StdEncoding.EncodeToString(padded)
		from := []int{0, 2, 3}[shift]
		to := len(strings.TrimRight(text, "="))
		if to < len(text) {
			to--
		}
		if to-from > 3 {
			out = append(out, text[from:to], strings.NewReplacer("+", "-", "/", "_").Replace(text[from:to]))
		}
	}
	if j, err := json.Marshal(v); err == nil {
		out = append(out, string(j[1:len(j)-1]))
	}
	out = append(out, url.QueryEscape(v), strings.ReplaceAll(url.QueryEscape(v), "+", "%20"),
		strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace(v),
		strings.ReplaceAll(v, `"`, `\"`), strings.ReplaceAll(v, "'", "''"))
	if n := len(v); n > 1 && v[0] == '"' && v[n-1] == '"' {
		out = append(out, v[1:n-1])
	}
	if i := strings.LastIndexByte(v, '&'); i >= 0 {
		out = append(out, v[:i], v[i+1:])
	}
	return out
}

// text masks a string.
func (m *masker) text(s string) string {
	if len(m.find([]byte(s))) == 0 {
		return s
	}
	return string(m.bytes(nil, []byte(s)))
}

// has reports whether s holds a secret.
func (m *masker) has(s string) bool { return len(m.find([]byte(s))) > 0 }

type span struct{ from, to int }

// find gives the places of secrets in p, merged where they touch, in order.
func (m *masker) find(p []byte) []span {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []span
	for _, pattern := range m.patterns {
		for at := 0; ; {
			i := bytes.Index(p[at:], pattern)
			if i < 0 {
				break
			}
			found = append(found, span{at + i, at + i + len(pattern)})
			at += i + 1
		}
	}
	if len(found) < 2 {
		return found
	}
	slices.SortFunc(found, func(a, b span) int { return a.from - b.from })
	merged := found[:1]
	for _, s := range found[1:] {
		if last := &merged[len(merged)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// bytes appends p to dst with its secrets masked.
func (m *masker) bytes(dst, p []byte) []byte {
	at := 0
	for _, s := range m.find(p) {
		dst = append(append(dst, p[at:s.from]...), maskText...)
		at = s.to
	}
	return append(dst, p[at:]...)
}

// held is how many bytes at the end of p may be the beginning of a secret that goes on behind it.
func (m *masker) held(p []byte) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	most := 0
	for n := min(m.longest-1, len(p)); n > most; n-- {
		tail := p[len(p)-n:]
		for _, pattern := range m.patterns {
			if len(pattern) > n && bytes.HasPrefix(pattern, tail) {
				return n
			}
		}
	}
	return 0
}
