package expr

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// PrettyJSON is the value as toJSON prints it: two spaces an indentation, keys in order, numbers with 15 digits.
// NaN and the infinities stay as they are, so that the text may be no JSON; MarshalJSON gives null for them.
func (v Value) PrettyJSON() string {
	var w jsonWriter
	_ = w.write(v) // an unlimited writer does not fail
	return string(w.text)
}

// jsonWriter writes a value in Newtonsoft's form. A limited one counts memory piece by piece, as GitHub does.
type jsonWriter struct {
	text    []byte
	compact bool
	limited bool
	size    counter
	counted int // length of text that size knows of
}

func (w *jsonWriter) write(v Value) error { return w.value(v, 0) }

func (w *jsonWriter) value(v Value, depth int) error {
	switch {
	case v.code == codeArray && len(v.group.items) > 0:
		return w.array(v.group.items, depth)
	case v.code == codeObject && len(v.group.pairs) > 0:
		return w.object(v.group.pairs, depth)
	case v.code == codeArray:
		w.text = append(w.text, "[]"...)
	case v.code == codeObject:
		w.text = append(w.text, "{}"...)
	case v.code == codeNull:
		w.text = append(w.text, "null"...)
	case v.code == codeString:
		w.text = appendJSONString(w.text, v.text)
	case v.code == codeNumber && w.compact:
		w.text = appendJSONNumber(w.text, v.number)
	default:
		w.text = append(w.text, v.Text()...)
	}
	return w.count()
}

func (w *jsonWriter) array(items []Value, depth int) error {
	w.text = append(w.text, '[')
	if err := w.count(); err != nil {
		return err
	}
	for i, item := range items {
		w.lead(i, depth+1)
		if err := w.value(item, depth+1); err != nil {
			return err
		}
	}
	return w.end(']', depth)
}

func (w *jsonWriter) object(pairs []Pair, depth int) error {
	w.text = append(w.text, '{')
	if err := w.count(); err != nil {
		return err
	}
	for i, p := range pairs {
		w.lead(i, depth+1)
		w.text = appendJSONString(w.text, p.Key)
		if err := w.count(); err != nil {
			return err
		}
		w.text = append(w.text, ':')
		if !w.compact {
			w.text = append(w.text, ' ')
		}
		if err := w.value(p.Value, depth+1); err != nil {
			return err
		}
	}
	return w.end('}', depth)
}

// lead writes what stands before an item: a comma unless it is the first, and its own line.
func (w *jsonWriter) lead(i, depth int) {
	if i > 0 {
		w.text = append(w.text, ',')
	}
	w.newline(depth)
}

func (w *jsonWriter) newline(depth int) {
	if w.compact {
		return
	}
	w.text = append(w.text, '\n')
	for range depth {
		w.text = append(w.text, "  "...)
	}
}

func (w *jsonWriter) end(bracket byte, depth int) error {
	w.newline(depth)
	w.text = append(w.text, bracket)
	return w.count()
}

// count adds what was written since the last count as one more string.
func (w *jsonWriter) count() error {
	if !w.limited {
		return nil
	}
	piece := w.text[w.counted:]
	w.counted = len(w.text)
	return w.size.add(stringOverhead + 2*utf16Len(string(piece)))
}

const hexDigits = "0123456789abcdef"

// appendJSONString quotes a string: control characters, quotes, backslashes and the three line ends beyond ASCII
// are escaped, nothing else. Invalid UTF-8 becomes U+FFFD.
func appendJSONString(to []byte, s string) []byte {
	to = append(to, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			i += size
			switch r {
			case '\u0085':
				to = append(to, `\u0085`...)
			case '\u2028':
				to = append(to, `\u2028`...)
			case '\u2029':
				to = append(to, `\u2029`...)
			default:
				to = utf8.AppendRune(to, r)
			}
			continue
		}
		i++
		switch c {
		case '"', '\\':
			to = append(to, '\\', c)
		case '\b':
			to = append(to, `\b`...)
		case '\t':
			to = append(to, `\t`...)
		case '\n':
			to = append(to, `\n`...)
		case '\f':
			to = append(to, `\f`...)
		case '\r':
			to = append(to, `\r`...)
		default:
			if c < ' ' {
				to = append(to, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			} else {
				to = append(to, c)
			}
		}
	}
	return append(to, '"')
}

// appendJSONNumber keeps all digits of a number; JSON has no word for NaN and the infinities, which become null.
func appendJSONNumber(to []byte, f float64) []byte {
	if f-f != 0 {
		return append(to, "null"...)
	}
	if n := int64(f); float64(n) == f && n > -1e15 && n < 1e15 {
		return strconv.AppendInt(to, n, 10)
	}
	if size := math.Abs(f); size < 1e-6 || size >= 1e21 {
		return strconv.AppendFloat(to, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(to, f, 'f', -1, 64)
}
