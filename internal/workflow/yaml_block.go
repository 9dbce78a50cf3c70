package workflow

import "strings"

// blockScalar is the state of reading | or >.
type blockScalar struct {
	*scanner
	start    mark
	literal  bool
	chomping byte // '+', '-' or 0
	indent   int  // of the content; 0 while it is not known
	text     strings.Builder
	first    bool // a line break ends the last line
	further  int  // empty lines after it
}

func (s *scanner) scanBlockScalar() {
	b := blockScalar{scanner: s, start: s.at, literal: s.look(0) == '|'}
	s.skip()
	if !b.header() {
		return
	}
	if b.breaks(); s.fault != nil {
		return
	}
	b.lines()
	if b.first && b.chomping != '-' {
		b.text.WriteByte('\n')
	}
	if b.chomping == '+' {
		b.text.WriteString(strings.Repeat("\n", b.further))
	}
	if s.fault == nil {
		s.add(token{kind: tokenScalar, start: b.start, end: s.at, text: b.text.String()})
	}
}

// header reads the indicators of chomping and indentation and the rest of the line.
func (b *blockScalar) header() bool {
	increment := 0
	for range 2 {
		switch c := b.look(0); {
		case (c == '+' || c == '-') && b.chomping == 0:
			b.chomping = c
			b.skip()
		case c >= '1' && c <= '9' && increment == 0:
			increment = int(c - '0')
			b.skip()
		case c == '0':
			b.failAt(b.at, "While scanning a block scalar, find an indentation indicator equal to 0.")
			return false
		}
	}
	for isBlank(b.look(0)) {
		b.skip()
	}
	b.skipComment()
	if b.look(0) != 0 && !isBreak(b.look(0)) {
		b.failAt(b.at, "While scanning a block scalar, did not find expected comment or line break.")
		return false
	}
	if b.look(0) != 0 {
		b.skipBreak()
	}
	if increment > 0 {
		b.indent = max(b.scanner.indent, 0) + increment
	}
	return true
}

// breaks passes over empty lines and indentation, and finds out the indentation if it is not known.
func (b *blockScalar) breaks() {
	deepest := 0
	for {
		for (b.indent == 0 || b.at.column < b.indent) && b.look(0) == ' ' {
			b.skip()
		}
		deepest = max(deepest, b.at.column)
		if (b.indent == 0 || b.at.column < b.indent) && b.look(0) == '\t' {
			b.failAt(b.at, "While scanning a block scalar, find a tab character where an indentation space is expected.")
			return
		}
		if !isBreak(b.look(0)) {
			break
		}
		b.skipBreak()
		b.further++
	}
	if b.indent == 0 {
		b.indent = max(deepest, b.scanner.indent+1, 1)
	}
}

// lines reads the content.
func (b *blockScalar) lines() {
	indented := false // the last line began with a blank: it is not folded
	for b.at.column == b.indent && b.look(0) != 0 && b.fault == nil {
		blank := isBlank(b.look(0))
		switch {
		case b.literal || indented || blank || !b.first:
			if b.first {
				b.text.WriteByte('\n')
			}
		case b.further == 0:
			b.text.WriteByte(' ')
		}
		b.text.WriteString(strings.Repeat("\n", b.further))
		b.first, b.further, indented = false, 0, blank
		from := b.at.offset
		for !isBreak(b.look(0)) && b.look(0) != 0 {
			b.skip()
		}
		b.text.Write(b.src[from:b.at.offset])
		if b.look(0) != 0 {
			b.skipBreak()
			b.first = true
		}
		b.breaks()
	}
}
