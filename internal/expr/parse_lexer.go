package expr

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenNone tokenKind = iota // before the first token
	tokenStartGroup
	tokenStartIndex
	tokenStartParameters
	tokenEndGroup
	tokenEndIndex
	tokenEndParameters
	tokenSeparator
	tokenDereference
	tokenWildcard
	tokenOperator
	tokenNull
	tokenBoolean
	tokenNumber
	tokenString
	tokenProperty
	tokenFunction
	tokenContext
	tokenUnexpected
)

type token struct {
	kind  tokenKind
	raw   string
	at    int // byte offset
	value Value
}

// tokenSet is a set of token kinds.
type tokenSet uint32

func setOf(kinds ...tokenKind) tokenSet {
	var s tokenSet
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

func (s tokenSet) has(k tokenKind) bool { return s&(1<<k) != 0 }

var (
	beforeOperand = setOf(tokenNone, tokenSeparator, tokenStartGroup, tokenStartParameters, tokenStartIndex, tokenOperator)
	afterIndexed  = setOf(tokenEndGroup, tokenEndParameters, tokenEndIndex, tokenWildcard, tokenProperty, tokenContext)
	afterOperand  = afterIndexed | setOf(tokenNull, tokenBoolean, tokenNumber, tokenString)
)

// mayFollow says which tokens each kind may come after. The operator "!" goes by its operand's rule.
var mayFollow = [...]tokenSet{
	tokenStartGroup:      beforeOperand,
	tokenStartIndex:      afterIndexed,
	tokenStartParameters: setOf(tokenFunction),
	tokenEndGroup:        afterOperand,
	tokenEndIndex:        afterOperand,
	tokenEndParameters:   afterOperand | setOf(tokenStartParameters),
	tokenSeparator:       afterOperand,
	tokenDereference:     afterIndexed,
	tokenWildcard:        setOf(tokenStartIndex, tokenDereference),
	tokenOperator:        afterOperand,
	tokenNull:            beforeOperand,
	tokenBoolean:         beforeOperand,
	tokenNumber:          beforeOperand,
	tokenString:          beforeOperand,
	tokenProperty:        setOf(tokenDereference),
	tokenFunction:        beforeOperand,
	tokenContext:         beforeOperand,
}

// lexer cuts a source into tokens and refuses each that may not stand where it is, as GitHub's does: so the first
// fault of a source is the one that is told.
type lexer struct {
	src  string
	pos  int
	last tokenKind
	open []tokenKind // start tokens not closed yet
}

// next is the next token, false at the end.
func (l *lexer) next() (token, bool) {
	l.pos = skipBlanks(l.src, l.pos)
	if l.pos >= len(l.src) {
		return token{}, false
	}
	t := l.read()
	l.last = t.kind
	return t, true
}

func (l *lexer) read() token {
	c := l.src[l.pos]
	switch c {
	case '(':
		if l.last == tokenFunction {
			return l.punctuation(tokenStartParameters)
		}
		return l.punctuation(tokenStartGroup)
	case '[':
		return l.punctuation(tokenStartIndex)
	case ')':
		if l.innermost() == tokenStartParameters {
			return l.punctuation(tokenEndParameters)
		}
		return l.punctuation(tokenEndGroup)
	case ']':
		return l.punctuation(tokenEndIndex)
	case ',':
		return l.punctuation(tokenSeparator)
	case '*':
		return l.punctuation(tokenWildcard)
	case '\'':
		return l.readString()
	case '!', '>', '<', '=', '&', '|':
		return l.readOperator()
	case '.':
		if beforeOperand.has(l.last) {
			return l.readNumber()
		}
		return l.punctuation(tokenDereference)
	}
	if c == '-' || c == '+' || '0' <= c && c <= '9' {
		return l.readNumber()
	}
	return l.readKeyword()
}

func (l *lexer) innermost() tokenKind {
	if len(l.open) == 0 {
		return tokenNone
	}
	return l.open[len(l.open)-1]
}

func (l *lexer) punctuation(kind tokenKind) token {
	l.pos++
	return l.token(kind, l.pos-1, Value{})
}

func (l *lexer) readNumber() token {
	start := l.pos
	l.pos++
	for l.pos < len(l.src) && (l.src[l.pos] == '.' || !l.atBoundary()) {
		l.pos++
	}
	f := parseNumber(l.src[start:l.pos])
	if f != f {
		return l.token(tokenUnexpected, start, Value{})
	}
	return l.token(tokenNumber, start, Number(f))
}

func (l *lexer) readKeyword() token {
	start := l.pos
	_, size := utf8.DecodeRuneInString(l.src[start:])
	l.pos += size
	l.skipWord()
	word := l.src[start:l.pos]
	if !isKeyword(word) {
		return l.token(tokenUnexpected, start, Value{})
	}
	if l.last == tokenDereference {
		return l.token(tokenProperty, start, Value{})
	}
	switch word {
	case "null":
		return l.token(tokenNull, start, Value{})
	case "true", "false":
		return l.token(tokenBoolean, start, Bool(word == "true"))
	case "NaN", "Infinity":
		return l.token(tokenNumber, start, Number(parseNumber(word)))
	}
	if i := skipBlanks(l.src, l.pos); i < len(l.src) && l.src[i] == '(' {
		return l.token(tokenFunction, start, Value{})
	}
	return l.token(tokenContext, start, Value{})
}

func (l *lexer) readString() token {
	start := l.pos
	for i := start + 1; i < len(l.src); i++ {
		if l.src[i] != '\'' {
			continue
		}
		if i+1 < len(l.src) && l.src[i+1] == '\'' {
			i++
			continue
		}
		l.pos = i + 1
		return l.token(tokenString, start, String(strings.ReplaceAll(l.src[start+1:i], "''", "'")))
	}
	l.pos = len(l.src)
	return l.token(tokenUnexpected, start, Value{})
}

func (l *lexer) readOperator() token {
	start := l.pos
	if len(l.src)-start >= 2 {
		switch l.src[start : start+2] {
		case "!=", ">=", "<=", "==", "&&", "||":
			l.pos += 2
			return l.token(tokenOperator, start, Value{})
		}
	}
	l.pos++
	switch l.src[start] {
	case '!', '>', '<':
		return l.token(tokenOperator, start, Value{})
	}
	l.skipWord()
	return l.token(tokenUnexpected, start, Value{})
}

// skipWord moves to the next character that ends a word.
func (l *lexer) skipWord() {
	for l.pos < len(l.src) && !l.atBoundary() {
		_, size := utf8.DecodeRuneInString(l.src[l.pos:])
		l.pos += size
	}
}

// atBoundary reports whether the character at pos ends a word or a number.
func (l *lexer) atBoundary() bool {
	switch c := l.src[l.pos]; c {
	case '(', '[', ')', ']', ',', '.', '!', '>', '<', '=', '&', '|':
		return true
	default:
		return skipBlanks(l.src[:min(len(l.src), l.pos+utf8.UTFMax)], l.pos) > l.pos
	}
}

// token makes the token that spans from start to pos, unexpected if it may not stand there.
func (l *lexer) token(kind tokenKind, start int, value Value) token {
	t := token{kind: kind, raw: l.src[start:l.pos], at: start, value: value}
	if kind == tokenUnexpected || !l.legal(kind, t.raw) {
		t.kind = tokenUnexpected
		return t
	}
	switch kind {
	case tokenStartGroup, tokenStartIndex, tokenStartParameters:
		l.open = append(l.open, kind)
	case tokenEndGroup, tokenEndIndex, tokenEndParameters:
		l.open = l.open[:len(l.open)-1]
	}
	return t
}

func (l *lexer) legal(kind tokenKind, raw string) bool {
	allowed := mayFollow[kind]
	if raw == "!" {
		allowed = beforeOperand
	}
	if !allowed.has(l.last) {
		return false
	}
	switch kind {
	case tokenEndGroup:
		return l.innermost() == tokenStartGroup
	case tokenEndIndex:
		return l.innermost() == tokenStartIndex
	case tokenSeparator:
		return l.innermost() == tokenStartParameters
	default:
		return true
	}
}

// skipBlanks is the first place at or after i that holds no blank.
func skipBlanks(s string, i int) int {
	for i < len(s) {
		c := s[i]
		if c < utf8.RuneSelf {
			if c != ' ' && (c < '\t' || c > '\r') {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if !unicode.IsSpace(r) {
			return i
		}
		i += size
	}
	return i
}

// isKeyword reports whether a word may name a context, a function or a property.
func isKeyword(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}
