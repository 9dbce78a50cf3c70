package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	maxFields   = 1_000    // headers of one message
	maxTrailers = 64 << 10 // bytes
	readerSize  = 4 << 10  // bytes that are read at once, of a head or of small bodies
)

var (
	errHeadTooLarge = errors.New("the head is too large")
	errBareLF       = errors.New("a line ends in a bare LF")
)

// field is one header: its name in canonical form, and a value of one line. Only readers make fields of what they are
// sent, so nothing that is written on can become two lines.
type field struct{ name, value string }

// header is what a message has, in its order.
type header []field

// get gives the first value of a name in canonical form.
func (h header) get(name string) string {
	for i := range h {
		if h[i].name == name {
			return h[i].value
		}
	}
	return ""
}

// only gives the value of a header that is there once, and how often it is there.
func (h header) only(name string) (value string, n int) {
	for i := range h {
		if h[i].name == name {
			value = h[i].value
			n++
		}
	}
	return value, n
}

// all gives the values of a name in an order that is theirs.
func (h header) all(name string) (values []string) {
	for i := range h {
		if h[i].name == name {
			values = append(values, h[i].value)
		}
	}
	return values
}

// lists says whether a header that is a list of words, such as Connection, has one, in any case.
func (h header) lists(name, word string) bool {
	for i := range h {
		if h[i].name == name && httpguts.HeaderValuesContainsToken([]string{h[i].value}, word) {
			return true
		}
	}
	return false
}

// without drops headers, in place.
func (h header) without(drop func(name string) bool) header {
	kept := h[:0]
	for i := range h {
		if !drop(h[i].name) {
			kept = append(kept, h[i])
		}
	}
	return kept
}

// std gives the headers as net/http has them.
func (h header) std() http.Header {
	m := make(http.Header, len(h))
	for _, f := range h {
		m[f.name] = append(m[f.name], f.value)
	}
	return m
}

// hopByHop are the canonical names that a message's Connection header lists as being for this hop alone.
func (h header) hopByHop() (names []string) {
	for i := range h {
		if h[i].name != "Connection" || h[i].value == "keep-alive" || h[i].value == "close" {
			continue
		}
		for name := range strings.SplitSeq(h[i].value, ",") {
			if len(names) == maxFields {
				return names
			}
			names = append(names, http.CanonicalHeaderKey(trim(name)))
		}
	}
	return names
}

// parse adds the headers that lines hold. It takes no header that two readers might take for two things: no folded one,
// no space before a colon, no control character.
func (h header) parse(lines string) (header, error) {
	for lines != "" {
		var line string
		line, lines = cutLine(lines)
		raw, value, ok := strings.Cut(line, ":")
		if !ok {
			return h, fmt.Errorf("the header %.100q has no colon", line)
		}
		name := commonHeaders[raw]
		if name == "" {
			if !httpguts.ValidHeaderFieldName(raw) {
				return h, fmt.Errorf("the header %.100q has a name that none may have", line)
			}
			name = http.CanonicalHeaderKey(raw)
		}
		value = trim(value)
		if !plainValue(value) {
			return h, fmt.Errorf("the header %s holds characters that none may hold", name)
		}
		if len(h) == maxFields {
			return h, errHeadTooLarge
		}
		h = append(h, field{name, value})
	}
	return h, nil
}

// cutLine gives the first of lines without its end, and the others.
func cutLine(lines string) (line, rest string) {
	line, rest, _ = strings.Cut(lines, "\n")
	return strings.TrimSuffix(line, "\r"), rest
}

// trim drops the white space round a value.
func trim(v string) string {
	for v != "" && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for v != "" && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

// plainValue says whether a value is of one line, and shows what it is.
func plainValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// commonHeaders are names as they mostly come, so that they are not looked at letter by letter for each message.
var commonHeaders = func() map[string]string {
	m := map[string]string{}
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Access-Control-Allow-Origin", "Age", "Authorization", "Cache-Control",
		"Connection", "Content-Encoding", "Content-Language", "Content-Length", "Content-Security-Policy", "Content-Type", "Cookie", "Date", "Etag",
		"Expect", "Expires", "Host", "If-Modified-Since", "If-None-Match", "Keep-Alive", "Last-Modified", "Link", "Location", "Origin", "Pragma",
		"Range", "Referer", "Referrer-Policy", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Server", "Set-Cookie",
		"Strict-Transport-Security", "Traceparent", "Transfer-Encoding", "Upgrade-Insecure-Requests", "User-Agent", "Vary", "X-Content-Type-Options",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Frame-Options", "X-Powered-By", "X-Request-Id",
	} {
		m[name], m[strings.ToLower(name)] = name, name
	}
	m["ETag"] = "Etag"
	return m
}()

// appendField writes a header.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// readBlock reads lines up to an empty one, and gives them without it: a head, or trailers. left is how many bytes it may
// have, and what it has is taken off. In a strict block no line ends in a bare LF.
func readBlock(r *bufio.Reader, left *int, strict bool) (lines string, err error) {
	var held []byte  // what has come of it, if it did not come at once
	at, seen := 0, 0 // the line that is looked at, and what of it has been
	for {
		got, _ := r.Peek(r.Buffered())
		text := got
		if held != nil {
			held = append(held, got...)
			text = held
		}
		for {
			n := bytes.IndexByte(text[seen:], '\n')
			if n < 0 {
				seen = len(text)
				break
			}
			end := seen + n
			bare := end == at || text[end-1] != '\r'
			if strict && bare {
				return "", errBareLF
			}
			if size := end + 1; bare && end == at || !bare && end == at+1 {
				if size > *left {
					return "", errHeadTooLarge
				}
				*left -= size
				_, _ = r.Discard(size - (len(text) - len(got)))
				return string(text[:at]), nil
			}
			at, seen = end+1, end+1
		}
		if len(text) >= *left {
			return "", errHeadTooLarge
		}
		if held == nil && len(got) > 0 {
			held = append(make([]byte, 0, 2*readerSize), got...)
		}
		_, _ = r.Discard(len(got))
		if _, err := r.Peek(1); err != nil {
			if err == io.EOF && len(held) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
	}
}

// body is what follows a head, by one of its fields: in chunks, of a length, or to the end of the connection.
type body struct {
	r       *bufio.Reader
	chunks  io.Reader
	left    int64
	toEnd   bool
	trailer header // that followed the chunks
}

// ended says whether all of it has been read.
func (b *body) ended() bool { return b.chunks == nil && b.left == 0 && !b.toEnd }

func (b *body) Read(p []byte) (n int, err error) {
	switch {
	case b.chunks != nil:
		n, err = b.chunks.Read(p)
		if err == io.EOF {
			if trailing := b.readTrailer(); trailing != nil {
				return n, trailing
			}
			b.chunks = nil
		}
		return n, err
	case b.toEnd:
		return b.r.Read(p)
	case b.left == 0:
		return 0, io.EOF
	}
	n, err = b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readTrailer reads what follows the last chunk.
func (b *body) readTrailer() error {
	left := maxTrailers
	lines, err := readBlock(b.r, &left, true)
	if err == nil {
		b.trailer, err = b.trailer.parse(lines)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.trailer = b.trailer.without(func(name string) bool { return !goodTrailer(name) })
	return err
}

// inChunks makes b a body in chunks.
func (b *body) inChunks() { b.chunks = httputil.NewChunkedReader(b.r) }
