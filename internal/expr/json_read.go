package expr

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxParseDepth is how deep fromJSON goes (Newtonsoft's MaxDepth), maxDataDepth what FromJSON and FromGo take.
const (
	maxParseDepth = 64
	maxDataDepth  = 100
)

// jsonReader reads JSON as the runner's fromJSON does, by Newtonsoft's rules: strings in single quotes, bare keys,
// comments, trailing commas, missing items, raw line ends in strings, octal and hexadecimal integers, NaN and
// Infinity are all taken, and what follows the first value is ignored.
type jsonReader struct {
	src      string
	pos      int
	maxDepth int
}

// jsonError is a fault in JSON; the path to it is filled in on the way out.
type jsonError struct {
	message string
	path    string
	line    int
	column  int
	cause   error // errDepth, or nil
}

// errDepth is the cause of a fault in JSON that is nested too deep.
var errDepth = errors.New("too deep")

func (e *jsonError) Unwrap() error { return e.cause }

func (e *jsonError) Error() string {
	return fmt.Sprintf("%s Path '%s', line %d, position %d.", e.message, strings.TrimPrefix(e.path, "."), e.line, e.column)
}

// parseJSON is fromJSON.
func parseJSON(src string) (Value, error) {
	r := newJSONReader(src, maxParseDepth)
	v, err := r.root()
	if err != nil {
		return Value{}, fmt.Errorf("Error parsing fromJson: %w", err)
	}
	return v, nil
}

// newJSONReader reads invalid UTF-8 as U+FFFD.
func newJSONReader(src string, maxDepth int) jsonReader {
	return jsonReader{src: strings.ToValidUTF8(src, "\uFFFD"), maxDepth: maxDepth}
}

func (r *jsonReader) root() (Value, error) {
	r.skipSpace()
	switch {
	case r.pos == len(r.src):
		return Value{}, r.fail("Error reading JToken from JsonReader.")
	case r.src[r.pos] == '/':
		// A comment before the value is the value, as text.
		start := r.pos + 2
		if err := r.comment(); err != nil {
			return Value{}, err
		}
		return String(strings.TrimSuffix(r.src[min(start, r.pos):r.pos], "*/")), nil
	}
	return r.value(1)
}

// fail makes an error at pos. Lines count from 1, and are 0 at the very start.
func (r *jsonReader) fail(format string, args ...any) *jsonError {
	before := r.src[:r.pos]
	line, column := 1+strings.Count(before, "\n"), utf16Len(before[strings.LastIndexByte(before, '\n')+1:])
	if r.pos == 0 {
		line = 0
	}
	return &jsonError{message: fmt.Sprintf(format, args...), line: line, column: column}
}

func (r *jsonReader) unexpected() *jsonError {
	if r.pos == len(r.src) {
		return r.fail("Unexpected end when reading JSON.")
	}
	c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
	return r.fail("Unexpected character encountered while parsing value: %c.", c)
}

// within puts a step before the path of an error.
func within(step string, err error) error {
	var fault *jsonError
	if errors.As(err, &fault) {
		fault.path = step + fault.path
	}
	return err
}

func (r *jsonReader) peek() byte {
	if r.pos < len(r.src) {
		return r.src[r.pos]
	}
	return 0
}

func (r *jsonReader) skipSpace() { r.pos = skipBlanks(r.src, r.pos) }

// skip passes over blanks and comments.
func (r *jsonReader) skip() error {
	for {
		r.skipSpace()
		if r.peek() != '/' {
			return nil
		}
		if err := r.comment(); err != nil {
			return err
		}
	}
}

func (r *jsonReader) comment() error {
	rest := r.src[r.pos+1:]
	switch {
	case strings.HasPrefix(rest, "*"):
		end := strings.Index(rest[1:], "*/")
		if end < 0 {
			r.pos = len(r.src)
			return r.fail("Unexpected end while parsing comment.")
		}
		r.pos += 1 + 1 + end + 2
	case strings.HasPrefix(rest, "/"):
		end := strings.IndexAny(rest, "\r\n")
		if end < 0 {
			end = len(rest)
		}
		r.pos += 1 + end
	default:
		return r.fail("Error parsing comment. Expected: *, got %s.", rest[:min(1, len(rest))])
	}
	return nil
}

// value reads a value that begins at pos, blanks and comments before it skipped. depth is its own level from 1.
func (r *jsonReader) value(depth int) (Value, error) {
	switch c := r.peek(); {
	case c == '{':
		return r.object(depth)
	case c == '[':
		return r.array(depth)
	case c == '"' || c == '\'':
		s, err := r.text()
		return String(s), err
	case c == '-' && strings.HasPrefix(r.src[r.pos:], "-I"):
		return r.word("-Infinity", Number(math.Inf(-1)))
	case c == '-' || c == '.' || '0' <= c && c <= '9':
		return r.numeral()
	}
	switch r.peek() {
	case 't':
		return r.word("true", Bool(true))
	case 'f':
		return r.word("false", Bool(false))
	case 'n':
		return r.word("null", Value{})
	case 'u':
		return r.word("undefined", String(""))
	case 'N':
		return r.word("NaN", Number(nan))
	case 'I':
		return r.word("Infinity", Number(math.Inf(1)))
	default:
		return Value{}, r.unexpected()
	}
}

// word reads a word that must end where it ends.
func (r *jsonReader) word(word string, v Value) (Value, error) {
	if !strings.HasPrefix(r.src[r.pos:], word) || !r.separatorAt(r.pos+len(word)) {
		return Value{}, r.unexpected()
	}
	r.pos += len(word)
	return v, nil
}

func (r *jsonReader) separatorAt(i int) bool {
	if i >= len(r.src) {
		return true
	}
	switch r.src[i] {
	case ',', '}', ']', ')', '/':
		return true
	default:
		return skipBlanks(r.src, i) > i
	}
}

func (r *jsonReader) numeral() (Value, error) {
	start := r.pos
	for r.pos < len(r.src) && strings.IndexByte("0123456789+-.abcdefABCDEFxX", r.src[r.pos]) >= 0 {
		r.pos++
	}
	s := r.src[start:r.pos]
	if !r.separatorAt(r.pos) {
		c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
		return Value{}, r.fail("Unexpected character encountered while parsing number: %c.", c)
	}
	f, ok := jsonNumber(s)
	if !ok {
		return Value{}, r.fail("Input string '%s' is not a valid number.", s)
	}
	return Number(f), nil
}

// maxIntegerLength is how long an integer beyond 64 bits may be.
const maxIntegerLength = 380

func jsonNumber(s string) (float64, bool) {
	if len(s) > 1 && s[0] == '0' && s[1] != '.' && s[1] != 'e' && s[1] != 'E' {
		return jsonRadix(s)
	}
	if s == strings.Trim(s, ".eE") && len(s) > maxIntegerLength {
		if _, ok := new(big.Int).SetString(s, 10); ok {
			return 0, false
		}
	}
	if scanDecimal(s) != len(s) {
		return 0, false
	}
	return parseDecimal(s)
}

// jsonRadix reads 0x1F and the octal 017, of at most 64 bits that wrap to negative.
func jsonRadix(s string) (float64, bool) {
	digits, base := s[1:], 8
	if s[1] == 'x' || s[1] == 'X' {
		digits, base = s[2:], 16
	}
	if strings.ContainsAny(digits, "+-_") {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, base, 64)
	return float64(int64(n)), err == nil
}

// enter passes an opening bracket.
func (r *jsonReader) enter(depth int) error {
	r.pos++
	if depth <= r.maxDepth {
		return nil
	}
	fault := r.fail("The reader's MaxDepth of %d has been exceeded.", r.maxDepth)
	fault.cause = errDepth
	return fault
}

func (r *jsonReader) array(depth int) (Value, error) {
	if err := r.enter(depth); err != nil {
		return Value{}, err
	}
	items := []Value{}
	for {
		if err := r.skip(); err != nil {
			return Value{}, err
		}
		if r.peek() == ']' {
			r.pos++
			return Array(items...), nil
		}
		item := String("") // a comma without an item before it stands for undefined
		if r.peek() != ',' {
			var err error
			if item, err = r.value(depth + 1); err != nil {
				return Value{}, within("["+strconv.Itoa(len(items))+"]", err)
			}
		}
		items = append(items, item)
		if err := r.separator(']'); err != nil {
			return Value{}, err
		}
	}
}

func (r *jsonReader) object(depth int) (Value, error) {
	if err := r.enter(depth); err != nil {
		return Value{}, err
	}
	var into members
	for {
		if err := r.skip(); err != nil {
			return Value{}, err
		}
		if r.peek() == '}' {
			r.pos++
			return into.object(), nil
		}
		key, err := r.key()
		if err != nil {
			return Value{}, err
		}
		item := String("")
		if r.peek() != ',' {
			if item, err = r.value(depth + 1); err != nil {
				return Value{}, within("."+key, err)
			}
		}
		into.set(key, item)
		if err := r.separator('}'); err != nil {
			return Value{}, err
		}
	}
}

// separator reads what follows an item: a comma, or the closing bracket, which it leaves.
func (r *jsonReader) separator(closing byte) error {
	if err := r.skip(); err != nil {
		return err
	}
	switch {
	case r.pos < len(r.src) && r.src[r.pos] == ',':
		r.pos++
		return nil
	case r.pos < len(r.src) && r.src[r.pos] == closing:
		return nil
	case r.pos == len(r.src):
		return r.unexpected()
	default:
		c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
		return r.fail("After parsing a value an unexpected character was encountered: %c.", c)
	}
}

// key reads a key and its colon, and stops at the value.
func (r *jsonReader) key() (string, error) {
	var key string
	if c := r.peek(); c == '"' || c == '\'' {
		var err error
		if key, err = r.text(); err != nil {
			return "", err
		}
	} else {
		rest := r.src[r.pos:]
		key = rest[:len(rest)-len(strings.TrimLeftFunc(rest, isKeyRune))]
		if key == "" {
			if r.pos == len(r.src) {
				return "", r.unexpected()
			}
			c, _ := utf8.DecodeRuneInString(rest)
			return "", r.fail("Invalid property identifier character: %c.", c)
		}
		r.pos += len(key)
	}
	r.skipSpace()
	if r.peek() != ':' {
		c, _ := utf8.DecodeRuneInString(r.src[r.pos:])
		return "", r.fail("Invalid character after parsing property name. Expected ':' but got: %c.", c)
	}
	r.pos++
	return key, r.skip()
}

func isKeyRune(c rune) bool {
	return c == '_' || c == '$' || unicode.IsLetter(c) || unicode.Is(unicode.Nd, c)
}

// text reads a quoted string.
func (r *jsonReader) text() (string, error) {
	quote := r.src[r.pos]
	r.pos++
	start := r.pos
	for r.pos < len(r.src) && r.src[r.pos] != quote && r.src[r.pos] != '\\' {
		r.pos++
	}
	if r.pos < len(r.src) && r.src[r.pos] == quote {
		r.pos++
		return r.src[start : r.pos-1], nil
	}
	text := []byte(r.src[start:r.pos])
	for r.pos < len(r.src) {
		switch c := r.src[r.pos]; c {
		case quote:
			r.pos++
			return string(text), nil
		case '\\':
			var err error
			if text, err = r.escape(text); err != nil {
				return "", err
			}
		default:
			text = append(text, c)
			r.pos++
		}
	}
	return "", r.fail("Unterminated string. Expected delimiter: %c.", quote)
}

func (r *jsonReader) escape(text []byte) ([]byte, error) {
	r.pos++
	c := r.peek()
	switch c {
	case '"', '\'', '\\', '/':
	case 'b':
		c = '\b'
	case 't':
		c = '\t'
	case 'n':
		c = '\n'
	case 'f':
		c = '\f'
	case 'r':
		c = '\r'
	case 'u':
		return r.escapedRune(text)
	default:
		return nil, r.fail("Bad JSON escape sequence: \\%s.", r.src[r.pos:min(len(r.src), r.pos+1)])
	}
	r.pos++
	return append(text, c), nil
}

// escapedRune reads uXXXX, and a second one after a high surrogate.
func (r *jsonReader) escapedRune(text []byte) ([]byte, error) {
	c, err := r.hex4()
	if err != nil {
		return nil, err
	}
	if utf16.IsSurrogate(c) {
		after := r.pos
		low := rune(utf8.RuneError)
		if strings.HasPrefix(r.src[r.pos:], `\u`) {
			r.pos++
			if low, err = r.hex4(); err != nil {
				return nil, err
			}
		}
		if c = utf16.DecodeRune(c, low); c == utf8.RuneError {
			r.pos = after
		}
	}
	return utf8.AppendRune(text, c), nil
}

func (r *jsonReader) hex4() (rune, error) {
	r.pos++
	end := min(len(r.src), r.pos+4)
	n, err := strconv.ParseUint(r.src[r.pos:end], 16, 16)
	if err != nil || end-r.pos < 4 {
		return 0, r.fail("Invalid Unicode escape sequence: \\u%s.", r.src[r.pos:end])
	}
	r.pos = end
	return rune(n), nil
}

// members collects the pairs of an object: of equal keys the first gives place and spelling, the last the value.
type members struct {
	pairs []Pair
	index map[string]int
}

func (m *members) set(key string, v Value) {
	if i := m.find(key); i >= 0 {
		m.pairs[i].Value = v
		return
	}
	m.pairs = append(m.pairs, Pair{key, v})
	if m.index != nil {
		m.index[foldKey(key)] = len(m.pairs) - 1
	}
}

func (m *members) find(key string) int {
	if len(m.pairs) < indexFrom {
		return findPair(m.pairs, key)
	}
	if m.index == nil {
		m.index = make(map[string]int, 2*len(m.pairs))
		for i, p := range m.pairs {
			m.index[foldKey(p.Key)] = i
		}
	}
	if i, ok := m.index[foldKey(key)]; ok {
		return i
	}
	return -1
}

func (m *members) object() Value {
	g := &group{pairs: m.pairs}
	if m.index != nil {
		g.index.Store(&m.index)
	}
	return Value{code: codeObject, group: g}
}
