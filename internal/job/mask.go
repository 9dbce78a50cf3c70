package job

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// maskText stands where a secret was.
const maskText = "***"

// masker replaces secrets in lines of text. It knows each secret in the shapes that GitHub's runner masks (actions/runner
// src/Sdk/DTLogging/Logging/ValueEncoders.cs): as it is, base64, JSON-escaped, URI-encoded, XML-escaped, in quotes,
// escaped for PowerShell and for a command line; beyond the runner, JSON in ASCII alone, and base64 without what its
// neighbours change, at each of the three alignments and in the alphabet for URLs.
//
// It searches like Wu and Manber (A fast algorithm for multi-pattern searching, 1994): two bytes of the text tell how
// far the next place is where a pattern may end, so most bytes are never looked at.
type masker struct {
	mu       sync.RWMutex
	values   map[string]bool
	patterns [][]byte
	longest  int
	short    [][]byte // below minWindow: searched one by one

	window  int       // bytes of each pattern that are searched for: of the shortest, at most maxWindow
	shift   []uint8   // by two bytes at the window's end: how far it may move; nil without patterns
	buckets [][]int32 // by the same, where shift is 0: the patterns that end their window so
}

const (
	minWindow = 3
	maxWindow = 16
)

func newMasker() *masker { return &masker{values: map[string]bool{}} }

// add masks a value, and each of its lines, from now on. Empty values and blanks are ignored.
func (m *masker) add(value string) {
	if strings.TrimSpace(value) == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addShapes(value)
	for _, quote := range []string{`"`, "'"} { // a shell would take them off
		if len(value) > 2 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
			m.addShapes(strings.Trim(value, quote))
		}
	}
	for line := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == '\n' || r == '\r' }) {
		m.addShapes(strings.TrimSpace(line))
	}
}

func (m *masker) addShapes(value string) {
	for _, shape := range encodings(value) {
		// Text is masked line by line: what spans lines is never met.
		if shape != "" && !m.values[shape] && !strings.ContainsAny(shape, "\r\n") {
			m.values[shape] = true
			m.insert([]byte(shape))
		}
	}
}

// insert makes a pattern known to the search.
func (m *masker) insert(p []byte) {
	m.longest = max(m.longest, len(p))
	m.patterns = append(m.patterns, p)
	if len(p) < minWindow {
		m.short = append(m.short, p)
		return
	}
	window := min(len(p), maxWindow)
	if m.shift != nil && window >= m.window {
		m.index(len(m.patterns) - 1)
		return
	}
	m.window = window
	m.shift, m.buckets = slices.Repeat([]uint8{uint8(window - 1)}, 1<<16), make([][]int32, 1<<16)
	for i, p := range m.patterns {
		if len(p) >= minWindow {
			m.index(i)
		}
	}
}

// index enters a pattern into the tables.
func (m *masker) index(i int) {
	p := m.patterns[i]
	for end := 2; end <= m.window; end++ {
		block := binary.LittleEndian.Uint16(p[end-2:])
		m.shift[block] = min(m.shift[block], uint8(m.window-end))
	}
	last := binary.LittleEndian.Uint16(p[m.window-2:])
	m.buckets[last] = append(m.buckets[last], int32(i))
}

// minNeutral is how long a base64 text without its neighbours' bits must be to be masked, so as not to hide words.
const minNeutral = 4

// encodings are the shapes in which a value may show up.
func encodings(v string) []string {
	out := []string{v}
	urlSafe := strings.NewReplacer("+", "-", "/", "_")
	for shift := range 3 {
		if shift < len(v) {
			out = append(out, base64.StdEncoding.EncodeToString([]byte(v[shift:])))
		}
		padded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), v...))
		from, to := (shift*8+5)/6, (shift+len(v))*8/6
		if to-from >= minNeutral {
			out = append(out, padded[from:to], urlSafe.Replace(padded[from:to]))
		}
	}
	out = append(out, jsonText(v, false), jsonText(v, true), asciiText(jsonText(v, false)),
		url.QueryEscape(v), strings.ReplaceAll(url.QueryEscape(v), "+", "%20"),
		strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace(v),
		strings.ReplaceAll(v, `"`, `\"`), strings.ReplaceAll(v, "'", "''"))
	if n := len(v); n > 8 && v[0] == '"' && v[n-1] == '"' {
		out = append(out, v[1:n-1])
	}
	return append(out, powerShellParts(v)...)
}

// jsonText is v as it stands between the quotes of a JSON string; html escapes <, > and & too, as Go does.
func jsonText(v string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if e.Encode(v) != nil {
		return ""
	}
	text := strings.TrimSuffix(b.String(), "\n")
	return text[1 : len(text)-1]
}

// asciiText writes what is not ASCII as JSON writers do that give nothing else: \u and four digits for each UTF-16 unit.
func asciiText(v string) string {
	var b strings.Builder
	for _, r := range v {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// minPart is how long a part of a secret must be to be masked alone: the runner's rule.
const minPart = 6

// powerShellParts are the pieces round an ampersand that PowerShell shows apart, in colours, when it takes a secret for
// a command.
func powerShellParts(v string) []string {
	cut, skip := strings.Index(v, "&+"), 1 // the letter after &+ is coloured too
	if cut >= 0 {
		cut += 2
	} else if cut, skip = strings.LastIndexByte(v, '&')+1, 0; cut == 0 {
		return nil
	}
	var out []string
	for _, part := range []string{v[:cut], v[min(cut+skip, len(v)):]} {
		if len(part) >= minPart {
			out = append(out, part)
		}
	}
	return out
}

// text masks a string.
func (m *masker) text(s string) string {
	p := []byte(s)
	found := m.find(p)
	if len(found) == 0 {
		return s
	}
	return string(cover(nil, p, found))
}

// has reports whether s holds a secret.
func (m *masker) has(s string) bool { return len(m.find([]byte(s))) > 0 }

type span struct{ from, to int }

// find gives the places of secrets in p, merged where they touch, in order.
func (m *masker) find(p []byte) []span {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []span
	for _, pattern := range m.short {
		for at := 0; ; {
			i := bytes.Index(p[at:], pattern)
			if i < 0 {
				break
			}
			found = append(found, span{at + i, at + i + len(pattern)})
			at += i + 1
		}
	}
	if len(m.shift) == 1<<16 {
		found = m.search(found, p)
	}
	return merge(found)
}

// search finds the patterns that are at least minWindow long.
func (m *masker) search(found []span, p []byte) []span {
	shift := (*[1 << 16]uint8)(m.shift)
	for i := m.window - 2; i >= 0 && i+1 < len(p); {
		block := uint16(p[i]) | uint16(p[i+1])<<8
		if skip := shift[block]; skip > 0 {
			i += int(skip)
			continue
		}
		from := i + 2 - m.window
		for _, n := range m.buckets[block] {
			if pattern := m.patterns[n]; bytes.HasPrefix(p[from:], pattern) {
				found = append(found, span{from, from + len(pattern)})
			}
		}
		i++
	}
	return found
}

// merge joins spans that overlap or touch.
func merge(found []span) []span {
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

// cover appends p to dst with the spans masked.
func cover(dst, p []byte, spans []span) []byte {
	at := 0
	for _, s := range spans {
		dst = append(append(dst, p[at:s.from]...), maskText...)
		at = s.to
	}
	return append(dst, p[at:]...)
}

// maskedLine masks a line that comes in pieces: what it gives is the same however the line is cut.
type maskedLine struct {
	covered int  // bytes at the beginning of the next piece that belong to a secret which is masked already
	joined  bool // a mask ends right before the next piece
}

// take appends p to dst, masked, but for what may be the beginning of a secret or of a character that goes on behind
// p: that much it leaves, to come again at the head of the next piece.
func (l *maskedLine) take(m *masker, dst, p []byte, final bool) (out []byte, left int) {
	spans := m.find(p)
	if l.covered > 0 {
		spans = merge(append(spans, span{0, l.covered}))
	}
	cut := len(p)
	if !final {
		cut -= max(m.held(p), cutCharacter(p))
	}
	joined, covered, at := l.joined, 0, 0
	for _, s := range spans {
		if s.from >= cut && (s.from > 0 || !joined) {
			break
		}
		dst = append(dst, p[at:s.from]...)
		if s.from > 0 || !joined {
			dst = append(dst, maskText...)
		}
		at = min(s.to, cut)
		covered = max(s.to-cut, 0)
	}
	l.joined = at == cut && (at > 0 || joined)
	l.covered = covered
	return append(dst, p[at:cut]...), len(p) - cut
}

// held is how many bytes at the end of p may be the beginning of a secret that goes on behind it.
func (m *masker) held(p []byte) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	most := 0
	for _, pattern := range m.patterns {
		for n := min(len(pattern)-1, len(p)); n > most; n-- {
			if bytes.HasSuffix(p, pattern[:n]) {
				most = n
				break
			}
		}
	}
	return most
}
