package workflow

import (
	"slices"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenDirective
	tokenDocumentStart
	tokenDocumentEnd
	tokenBlockSequenceStart
	tokenBlockMappingStart
	tokenBlockEnd
	tokenFlowSequenceStart
	tokenFlowSequenceEnd
	tokenFlowMappingStart
	tokenFlowMappingEnd
	tokenBlockEntry
	tokenFlowEntry
	tokenKey
	tokenValue
	tokenAlias
	tokenAnchor
	tokenTag
	tokenScalar
)

// token is a piece of YAML.
type token struct {
	kind       tokenKind
	start, end mark
	text       string // of a scalar, anchor or alias; the handle of a tag or %TAG
	suffix     string // of a tag; the prefix of a %TAG
	plain      bool   // of a scalar
}

// mark is a place in the text.
type mark struct {
	offset int // bytes
	index  int // UTF-16 units from the beginning
	line   int // from 0
	column int // UTF-16 units from the beginning of the line
}

func (m mark) pos() Pos { return Pos{Line: m.line + 1, Column: m.column + 1} }

// maxKey is how far a key may be from its colon, in UTF-16 units.
const maxKey = 1024

// possibleKey is where a mapping's key may have begun, which only a colon will tell.
type possibleKey struct {
	possible bool
	required bool // by the indentation: nothing but a key can stand here
	number   int  // of its first token
	at       mark
}

// scanner cuts a text into tokens, by the method of libyaml and its descendants: indentation becomes tokens of its
// own, and a token is held back while it may still turn out to be the first of a key.
type scanner struct {
	src        []byte
	at         mark
	tokens     []token // found; those before head are taken
	head       int
	taken      int           // how many tokens there were before the one at head
	keys       []possibleKey // one for the block context and each flow collection
	indents    []int
	indent     int // column of the innermost block collection, -1 outside
	keyAllowed bool
	adjacent   int // byte offset right after a quoted scalar or a flow collection, where a colon needs no blank
	ended      bool
	fault      *Finding
}

func newScanner(src []byte) *scanner {
	s := &scanner{src: src, indent: -1, keyAllowed: true, keys: make([]possibleKey, 1), adjacent: -1}
	if strings.HasPrefix(string(src[:min(3, len(src))]), "\uFEFF") {
		s.at.offset = 3
	}
	return s
}

// fail notes the first fault and ends the text.
func (s *scanner) fail(pos Pos, message string) {
	if s.fault == nil {
		s.fault = &Finding{Pos: pos, Message: message}
	}
	s.at.offset = len(s.src)
	s.tokens, s.head, s.ended = nil, 0, true
}

func (s *scanner) failAt(m mark, message string) { s.fail(m.pos(), message) }

// peek is the next token; tokenEnd at the end and after a fault.
func (s *scanner) peek() token {
	for s.needsMore() {
		s.fetch()
	}
	if s.head == len(s.tokens) {
		return token{kind: tokenEnd, start: s.at, end: s.at}
	}
	return s.tokens[s.head]
}

// next takes the next token.
func (s *scanner) next() token {
	t := s.peek()
	if s.head < len(s.tokens) {
		s.head++
		s.taken++
	}
	if s.head == len(s.tokens) {
		s.tokens, s.head = s.tokens[:0], 0
	}
	return t
}

// needsMore reports whether the first token found is not certain yet.
func (s *scanner) needsMore() bool {
	if s.ended {
		return false
	}
	if s.head == len(s.tokens) {
		return true
	}
	s.dropStaleKeys()
	for i := range s.keys {
		if s.keys[i].possible && s.keys[i].number == s.taken {
			return true
		}
	}
	return false
}

const sayNoColon = "While scanning a simple key, could not find expected ':'."

// dropStaleKeys holds that a key ends in its line and within maxKey characters.
func (s *scanner) dropStaleKeys() {
	for i := range s.keys {
		k := &s.keys[i]
		if k.possible && (k.at.line < s.at.line || k.at.index+maxKey < s.at.index) {
			if k.required {
				s.failAt(k.at, sayNoColon)
				return
			}
			k.possible = false
		}
	}
}

// look is the byte i further on, 0 at the end of the text.
func (s *scanner) look(i int) byte {
	if s.at.offset+i < len(s.src) {
		return s.src[s.at.offset+i]
	}
	return 0
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }
func isBreak(b byte) bool { return b == '\n' || b == '\r' }

// ends reports whether a byte ends a word: a blank, a line break or the end of the text.
func ends(b byte) bool { return isBlank(b) || isBreak(b) || b == 0 }

func isFlowIndicator(b byte) bool { return b != 0 && strings.IndexByte(",[]{}", b) >= 0 }

// skip goes on by one character.
func (s *scanner) skip() {
	size := 1
	if b := s.look(0); b >= utf8.RuneSelf {
		_, size = utf8.DecodeRune(s.src[s.at.offset:])
	} else if b == 0 {
		return
	}
	s.at.offset += size
	s.at.index += utf16Width(size)
	s.at.column += utf16Width(size)
}

// skipBreak goes on to the next line.
func (s *scanner) skipBreak() {
	size := 1
	if s.look(0) == '\r' && s.look(1) == '\n' {
		size = 2
	}
	s.at = mark{offset: s.at.offset + size, index: s.at.index + size, line: s.at.line + 1}
}

func (s *scanner) add(t token) { s.tokens = append(s.tokens, t) }

// insert puts a token before the one with the given number.
func (s *scanner) insert(number int, t token) {
	s.tokens = slices.Insert(s.tokens, s.head+number-s.taken, t)
}

// nextNumber is the number of the token that is found next.
func (s *scanner) nextNumber() int { return s.taken + len(s.tokens) - s.head }

func (s *scanner) inFlow() bool { return len(s.keys) > 1 }

// fetch finds one more token.
func (s *scanner) fetch() {
	s.skipSpace()
	s.dropStaleKeys()
	if s.fault != nil {
		return
	}
	s.unroll(s.at.column)
	if s.at.column == 0 && s.fetchAtLineStart() {
		return
	}
	b, after := s.look(0), s.look(1)
	switch {
	case b == 0:
		s.fetchEnd()
	case b == '[':
		s.openFlow(tokenFlowSequenceStart)
	case b == '{':
		s.openFlow(tokenFlowMappingStart)
	case b == ']':
		s.closeFlow(tokenFlowSequenceEnd)
	case b == '}':
		s.closeFlow(tokenFlowMappingEnd)
	case b == ',' && s.inFlow():
		s.dropKey()
		s.keyAllowed = true
		s.indicator(tokenFlowEntry)
	case b == '-' && ends(after):
		s.fetchEntry()
	case b == '?' && ends(after):
		s.fetchKey()
	case b == ':' && s.isValue(after):
		s.fetchValue()
	default:
		s.fetchWord(b, after)
	}
}

// fetchAtLineStart finds what may only begin a line.
func (s *scanner) fetchAtLineStart() bool {
	switch {
	case s.look(0) == '%' && !s.inFlow():
		s.endBlocks()
		s.scanDirective()
	case s.atDocumentMark():
		kind := tokenDocumentStart
		if s.look(0) == '.' {
			kind = tokenDocumentEnd
		}
		s.endBlocks()
		start := s.at
		s.skip()
		s.skip()
		s.skip()
		s.add(token{kind: kind, start: start, end: s.at})
	default:
		return false
	}
	return true
}

// atDocumentMark reports whether --- or ... stands here.
func (s *scanner) atDocumentMark() bool {
	if s.at.column != 0 || !ends(s.look(3)) {
		return false
	}
	b := s.look(0)
	return (b == '-' || b == '.') && s.look(1) == b && s.look(2) == b
}

// isValue reports whether a colon is the indicator of a value.
func (s *scanner) isValue(after byte) bool {
	return ends(after) || s.inFlow() && (isFlowIndicator(after) || s.adjacent == s.at.offset)
}

// fetchWord finds scalars and what decorates them.
func (s *scanner) fetchWord(b, after byte) {
	switch {
	case b == '*' || b == '&':
		s.saveKey()
		s.keyAllowed = false
		s.scanAnchor(b)
	case b == '!':
		s.saveKey()
		s.keyAllowed = false
		s.scanTag()
	case (b == '|' || b == '>') && !s.inFlow():
		s.dropKey()
		s.keyAllowed = true
		s.scanBlockScalar()
	case b == '\'' || b == '"':
		s.saveKey()
		s.keyAllowed = false
		s.scanQuoted(b)
	case s.startsPlain(b, after):
		s.saveKey()
		s.keyAllowed = false
		s.scanPlain()
	case b == '\t':
		s.failAt(s.at, "While scanning for the next token, find a tab character where indentation is expected. Use spaces.")
	default:
		s.failAt(s.at, "While scanning for the next token, find character that cannot start any token.")
	}
}

func (s *scanner) startsPlain(b, after byte) bool {
	if b == '-' || b == '?' || b == ':' {
		return !ends(after) && !(s.inFlow() && isFlowIndicator(after))
	}
	return !ends(b) && strings.IndexByte(",[]{}#&*!|>'\"%@`", b) < 0
}

// skipSpace goes on to the next token. A tab separates words but does not indent.
func (s *scanner) skipSpace() {
	for {
		tabs := s.inFlow() || s.restIsBlank() || !s.onlySpacesBefore()
		for s.look(0) == ' ' || s.look(0) == '\t' && tabs {
			if s.look(0) == '\t' && !s.inFlow() {
				s.keyAllowed = false // nothing that a tab indents may be a key
			}
			s.skip()
		}
		s.skipComment()
		if !isBreak(s.look(0)) {
			return
		}
		s.skipBreak()
		if !s.inFlow() {
			s.keyAllowed = true
		}
	}
}

// skipComment goes on to the end of the line if a comment begins here.
func (s *scanner) skipComment() {
	if s.look(0) != '#' {
		return
	}
	for !isBreak(s.look(0)) && s.look(0) != 0 {
		s.skip()
	}
}

// onlySpacesBefore reports whether nothing but spaces stands between the beginning of the line and here.
func (s *scanner) onlySpacesBefore() bool {
	for i := s.at.offset - 1; i >= 0 && !isBreak(s.src[i]); i-- {
		if s.src[i] != ' ' {
			return false
		}
	}
	return true
}

// restIsBlank reports whether nothing but blanks and a comment follows in the line.
func (s *scanner) restIsBlank() bool {
	i := 0
	for isBlank(s.look(i)) {
		i++
	}
	return s.look(i) == '#' || isBreak(s.look(i)) || s.look(i) == 0
}

// unroll ends the block collections that are further in than a column.
func (s *scanner) unroll(column int) {
	if s.inFlow() {
		return
	}
	for s.indent > column {
		s.add(token{kind: tokenBlockEnd, start: s.at, end: s.at})
		s.indent = s.indents[len(s.indents)-1]
		s.indents = s.indents[:len(s.indents)-1]
	}
}

// roll begins a block collection if the column is further in than the one around.
func (s *scanner) roll(column, number int, kind tokenKind, at mark) {
	if s.inFlow() || s.indent >= column {
		return
	}
	s.indents = append(s.indents, s.indent)
	s.indent = column
	s.insert(number, token{kind: kind, start: at, end: at})
}

// endBlocks ends all block collections.
func (s *scanner) endBlocks() {
	s.unroll(-1)
	s.dropKey()
	s.keyAllowed = false
}

func (s *scanner) fetchEnd() {
	s.endBlocks()
	s.ended = true
}

func (s *scanner) indicator(kind tokenKind) {
	start := s.at
	s.skip()
	s.add(token{kind: kind, start: start, end: s.at})
}

func (s *scanner) openFlow(kind tokenKind) {
	s.saveKey()
	if len(s.keys) > maxDepth {
		s.failAt(s.at, sayDepth)
		return
	}
	s.keys = append(s.keys, possibleKey{})
	s.keyAllowed = true
	s.indicator(kind)
}

func (s *scanner) closeFlow(kind tokenKind) {
	s.dropKey()
	if s.inFlow() {
		s.keys = s.keys[:len(s.keys)-1]
	}
	s.keyAllowed = false
	s.indicator(kind)
	s.adjacent = s.at.offset
}

func (s *scanner) fetchEntry() {
	if !s.inFlow() {
		if !s.keyAllowed {
			s.failAt(s.at, "Block sequence entries are not allowed in this context.")
			return
		}
		s.roll(s.at.column, s.nextNumber(), tokenBlockSequenceStart, s.at)
	}
	s.dropKey()
	s.keyAllowed = true
	s.indicator(tokenBlockEntry)
}

func (s *scanner) fetchKey() {
	if !s.inFlow() {
		if !s.keyAllowed {
			s.failAt(s.at, "Mapping keys are not allowed in this context.")
			return
		}
		s.roll(s.at.column, s.nextNumber(), tokenBlockMappingStart, s.at)
	}
	s.dropKey()
	s.keyAllowed = !s.inFlow()
	s.indicator(tokenKey)
}

func (s *scanner) fetchValue() {
	k := &s.keys[len(s.keys)-1]
	switch {
	case k.possible:
		s.insert(k.number, token{kind: tokenKey, start: k.at, end: k.at})
		s.roll(k.at.column, k.number, tokenBlockMappingStart, k.at)
		k.possible = false
		s.keyAllowed = false
	case s.inFlow():
		s.keyAllowed = false
	default:
		if !s.keyAllowed {
			s.failAt(s.at, "Mapping values are not allowed in this context.")
			return
		}
		s.roll(s.at.column, s.nextNumber(), tokenBlockMappingStart, s.at)
	}
	s.indicator(tokenValue)
}

// saveKey notes that a key may begin here.
func (s *scanner) saveKey() {
	if !s.keyAllowed {
		return
	}
	s.dropKey()
	s.keys[len(s.keys)-1] = possibleKey{
		possible: true,
		required: !s.inFlow() && s.indent == s.at.column,
		number:   s.nextNumber(),
		at:       s.at,
	}
}

// dropKey forgets the key that may have begun.
func (s *scanner) dropKey() {
	k := &s.keys[len(s.keys)-1]
	if k.possible && k.required {
		s.failAt(k.at, sayNoColon)
	}
	k.possible = false
}
