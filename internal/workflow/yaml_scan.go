package workflow

import (
	"strings"
	"unicode/utf8"
)

// scanAnchor reads &name or *name.
func (s *scanner) scanAnchor(indicator byte) {
	start := s.at
	s.skip()
	from := s.at.offset
	for !ends(s.look(0)) && !isFlowIndicator(s.look(0)) {
		s.skip()
	}
	kind := tokenAnchor
	if indicator == '*' {
		kind = tokenAlias
	}
	name := string(s.src[from:s.at.offset])
	if name == "" || s.look(0) == '[' || s.look(0) == '{' {
		s.failAt(start, "While scanning an anchor or alias, did not find expected alphabetic or numeric character.")
		return
	}
	s.add(token{kind: kind, start: start, end: s.at, text: name})
}

// scanTag reads !suffix, !handle!suffix or !<tag>.
func (s *scanner) scanTag() {
	start := s.at
	s.skip()
	t := token{kind: tokenTag, start: start}
	if s.look(0) == '<' {
		s.skip()
		t.suffix = s.tagText(start)
		if s.look(0) != '>' {
			s.failAt(start, "While scanning a tag, did not find the expected '>'.")
			return
		}
		s.skip()
	} else {
		text := "!" + s.tagText(start)
		if i := strings.IndexByte(text[1:], '!'); i >= 0 && onlyWordBytes(text[1:i+1]) {
			t.text, t.suffix = text[:i+2], text[i+2:]
		} else if t.text, t.suffix = "!", text[1:]; t.suffix == "" {
			t.text, t.suffix = "", "!"
		}
	}
	if !ends(s.look(0)) && !(s.inFlow() && isFlowIndicator(s.look(0))) {
		s.failAt(start, "While scanning a tag, did not find expected whitespace or line break.")
		return
	}
	t.end = s.at
	s.add(t)
}

// tagText reads the characters of a tag and resolves %xx.
func (s *scanner) tagText(start mark) string {
	var text strings.Builder
	for b := s.look(0); isIDByte(b) || b != 0 && strings.IndexByte(";/?:@&=+$,.!~*'()[]%#", b) >= 0; b = s.look(0) {
		if s.inFlow() && isFlowIndicator(b) {
			break
		}
		if b != '%' {
			text.WriteByte(b)
			s.skip()
			continue
		}
		high, low := hexValue(s.look(1)), hexValue(s.look(2))
		if high < 0 || low < 0 {
			s.failAt(start, "While parsing a tag, did not find URI escaped octet.")
			return ""
		}
		text.WriteByte(byte(high<<4 | low))
		s.skip()
		s.skip()
		s.skip()
	}
	if !utf8.ValidString(text.String()) {
		s.failAt(start, "While parsing a tag, find an incorrect UTF-8 sequence.")
		return ""
	}
	return text.String()
}

func onlyWordBytes(s string) bool {
	for i := range len(s) {
		if !isIDByte(s[i]) {
			return false
		}
	}
	return true
}

func hexValue(b byte) int { return strings.IndexByte("0123456789abcdef", b|0x20) }

// scanDirective reads %YAML, %TAG and, as YAML asks, passes over others.
func (s *scanner) scanDirective() {
	start := s.at
	from := s.at.offset
	for !isBreak(s.look(0)) && s.look(0) != 0 {
		s.skip()
	}
	line, _, _ := strings.Cut(string(s.src[from:s.at.offset]), " #")
	words := strings.Fields(line)
	t := token{kind: tokenDirective, start: start, end: s.at}
	switch {
	case words[0] == "%":
		s.failAt(start, "While scanning a directive, could not find expected directive name.")
		return
	case words[0] == "%TAG" && len(words) == 3 && strings.HasPrefix(words[1], "!"):
		t.text, t.suffix = words[1], words[2]
	case words[0] == "%TAG":
		s.failAt(start, "While scanning a %TAG directive, did not find expected whitespace or line break.")
		return
	case words[0] == "%YAML" && (len(words) != 2 || !strings.HasPrefix(words[1], "1.")):
		s.failAt(start, "While scanning a %YAML directive, did not find expected version number.")
		return
	}
	s.add(t)
}

// folded collects the text of a scalar whose lines are joined: one break becomes a space, further ones stay.
type folded struct {
	text   strings.Builder
	blanks []byte // seen since the last character, which count only if a character follows in the line
	breaks int    // seen since the last character
	glued  bool   // the first of these breaks was escaped: it separates nothing
}

// join writes what separates the last character from the next one.
func (f *folded) join() {
	switch {
	case f.breaks == 1 && !f.glued:
		f.text.WriteByte(' ')
	case f.breaks > 0:
		f.text.WriteString(strings.Repeat("\n", f.breaks-1))
	default:
		f.text.Write(f.blanks)
	}
	f.blanks, f.breaks, f.glued = f.blanks[:0], 0, false
}

// space reads blanks and line breaks.
func (f *folded) space(s *scanner) {
	for b := s.look(0); isBlank(b) || isBreak(b); b = s.look(0) {
		if isBreak(b) {
			f.breaks++
			s.skipBreak()
			continue
		}
		if f.breaks == 0 {
			f.blanks = append(f.blanks, b)
		}
		s.skip()
	}
}

// scanQuoted reads '...' or "...".
func (s *scanner) scanQuoted(quote byte) {
	start := s.at
	s.skip()
	var f folded
	for {
		if s.atDocumentMark() {
			s.failAt(start, "While scanning a quoted scalar, find unexpected document indicator.")
			return
		}
		if s.look(0) == 0 {
			s.failAt(start, "While scanning a quoted scalar, find unexpected end of stream.")
			return
		}
		s.quotedWord(quote, &f)
		if s.fault != nil {
			return
		}
		if s.look(0) == quote {
			break
		}
		f.space(s)
	}
	f.join()
	s.skip()
	s.adjacent = s.at.offset
	s.add(token{kind: tokenScalar, start: start, end: s.at, text: f.text.String()})
}

// quotedWord reads up to a blank, a line break or the closing quote.
func (s *scanner) quotedWord(quote byte, f *folded) {
	for b := s.look(0); !ends(b); b = s.look(0) {
		switch {
		case b == '\'' && quote == '\'' && s.look(1) == '\'':
			f.join()
			f.text.WriteByte('\'')
			s.skip()
			s.skip()
		case b == quote:
			return
		case b == '\\' && quote == '"' && isBreak(s.look(1)):
			f.join()
			s.skip()
			s.skipBreak()
			f.breaks, f.glued = 1, true
			return
		case b == '\\' && quote == '"':
			f.join()
			s.escape(f)
		default:
			f.join()
			from := s.at.offset
			s.skip()
			f.text.Write(s.src[from:s.at.offset])
		}
	}
}

var simpleEscapes = map[byte]string{
	'0': "\x00", 'a': "\a", 'b': "\b", 't': "\t", '\t': "\t", 'n': "\n", 'v': "\v", 'f': "\f", 'r': "\r", 'e': "\x1b",
	' ': " ", '"': `"`, '/': "/", '\\': `\`, 'N': "\u0085", '_': "\u00a0", 'L': "\u2028", 'P': "\u2029",
}

// escape reads an escape sequence of a double-quoted scalar.
func (s *scanner) escape(f *folded) {
	letter := s.look(1)
	if text, ok := simpleEscapes[letter]; ok {
		f.text.WriteString(text)
		s.skip()
		s.skip()
		return
	}
	length := map[byte]int{'x': 2, 'u': 4, 'U': 8}[letter]
	if length == 0 {
		s.failAt(s.at, "While parsing a quoted scalar, find unknown escape character.")
		return
	}
	at := s.at
	s.skip()
	s.skip()
	code := rune(0)
	for range length {
		digit := hexValue(s.look(0))
		if digit < 0 {
			s.failAt(at, "While parsing a quoted scalar, did not find expected hexadecimal number.")
			return
		}
		code = code<<4 | rune(digit)
		s.skip()
	}
	if !utf8.ValidRune(code) {
		s.failAt(at, "While parsing a quoted scalar, find invalid Unicode character escape code.")
		return
	}
	f.text.WriteRune(code)
}

// scanPlain reads a scalar without quotes.
func (s *scanner) scanPlain() {
	start, end := s.at, s.at
	var f folded
	for !s.atDocumentMark() && s.look(0) != '#' {
		if s.plainWord(&f) {
			end = s.at
		}
		if b := s.look(0); !isBlank(b) && !isBreak(b) {
			break
		}
		f.space(s)
		if f.breaks > 0 && s.look(0) != '#' && s.look(0) != 0 && s.tabIndents() {
			s.failAt(s.at, "While scanning a plain scalar, find a tab character that violates indentation.")
			return
		}
		if !s.inFlow() && s.at.column <= s.indent {
			break
		}
	}
	if f.breaks > 0 {
		s.keyAllowed = true
	}
	s.add(token{kind: tokenScalar, start: start, end: end, text: f.text.String(), plain: true})
}

// tabIndents reports whether the line is indented as far as the block around needs only because of a tab.
func (s *scanner) tabIndents() bool {
	line := s.src[:s.at.offset]
	for i := len(line) - 1; i >= 0 && !isBreak(line[i]); i-- {
		line = line[:i]
	}
	spaces := 0
	for spaces < s.at.column && s.src[len(line)+spaces] == ' ' {
		spaces++
	}
	return !s.inFlow() && spaces <= s.indent && spaces < s.at.column
}

// plainWord reads up to a blank, a line break or an indicator. It is false if there is nothing to read.
func (s *scanner) plainWord(f *folded) bool {
	from := s.at.offset
	for b := s.look(0); !ends(b); b = s.look(0) {
		if b == ':' && s.isPlainEnd(s.look(1)) || s.inFlow() && isFlowIndicator(b) {
			break
		}
		s.skip()
	}
	if s.at.offset == from {
		return false
	}
	f.join()
	f.text.Write(s.src[from:s.at.offset])
	return true
}

// isPlainEnd reports whether what follows a colon makes it the end of a plain scalar.
func (s *scanner) isPlainEnd(after byte) bool {
	return ends(after) || s.inFlow() && isFlowIndicator(after)
}
