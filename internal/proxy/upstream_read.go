package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxTrailers bounds the trailers of an answer, in bytes.
const maxTrailers = 64 << 10

// readHead reads an answer in HTTP/1.0 or 1.1 up to its body. It takes what RFC 9112 says an answer is, and lines of the
// head that end in a bare LF besides, but nothing that two readers might take for two things: a length and a coding at
// once, a list of lengths, a folded header, a space before a colon, a control character. The answer is good until the
// next is read.
func (u *upstream) readHead(method string) (*http.Response, error) {
	res, err := u.parseHead(method)
	if err != nil && u.headLeft == 0 {
		err = errHeadTooLarge // whatever became of that
	}
	return res, err
}

func (u *upstream) parseHead(method string) (*http.Response, error) {
	line, err := u.line()
	if err != nil {
		return nil, err
	}
	res := &u.res
	*res = http.Response{ProtoMajor: 1, Header: u.header, ContentLength: -1}
	clear(u.header)
	u.body = upstreamBody{u: u}
	rest, ok := bytes.CutPrefix(line, []byte("HTTP/1."))
	if !ok || len(rest) < 5 || rest[0] > '1' || rest[0] < '0' || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return nil, fmt.Errorf("its first line is %.100q", line)
	}
	res.ProtoMinor = int(rest[0] - '0')
	for _, c := range rest[2:5] {
		if c < '0' || c > '9' {
			return nil, fmt.Errorf("its first line is %.100q", line)
		}
		res.StatusCode = 10*res.StatusCode + int(c-'0')
	}
	if res.StatusCode < 100 {
		return nil, fmt.Errorf("its status is %d", res.StatusCode)
	}
	if err := u.fields(res.Header); err != nil {
		return nil, err
	}
	return res, u.frame(method)
}

// line gives the next line without its end. It is good until the next read.
func (u *upstream) line() ([]byte, error) {
	line, err := u.br.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := slices.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = u.br.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	if err != nil {
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	line = line[:len(line)-1]
	n := len(line)
	if n > 0 && line[n-1] == '\r' {
		return line[:n-1], nil
	}
	if u.trailing {
		return nil, errors.New("a line among its chunks ends in a bare LF")
	}
	return line, nil
}

// fields reads headers or trailers up to the empty line.
func (u *upstream) fields(into http.Header) error {
	var spare []string // for the values of single headers, made at once
	for {
		line, err := u.line()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if len(line) == 0 {
			return nil
		}
		raw, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return fmt.Errorf("its header %.100q has no colon", line)
		}
		name := commonHeaders[string(raw)]
		if name == "" {
			if name = string(raw); !httpguts.ValidHeaderFieldName(name) {
				return fmt.Errorf("its header %.100q has a name that none may have", line)
			}
			name = http.CanonicalHeaderKey(name)
		}
		v := string(bytes.Trim(value, " \t"))
		if !plainValue(v) {
			return fmt.Errorf("its header %s holds characters that none may hold", name)
		}
		if before := into[name]; before != nil {
			into[name] = append(before, v)
			continue
		}
		if len(spare) == 0 {
			spare = make([]string, 8)
		}
		spare[0] = v
		into[name] = spare[:1:1]
		spare = spare[1:]
	}
}

// commonHeaders are names as they mostly come, so that they are not made anew for each answer.
var commonHeaders = func() map[string]string {
	m := map[string]string{}
	for _, name := range []string{
		"Accept-Ranges", "Access-Control-Allow-Origin", "Age", "Cache-Control", "Connection", "Content-Encoding", "Content-Language", "Content-Length",
		"Content-Security-Policy", "Content-Type", "Date", "Etag", "Expires", "Keep-Alive", "Last-Modified", "Link", "Location", "Pragma", "Referrer-Policy",
		"Server", "Set-Cookie", "Strict-Transport-Security", "Transfer-Encoding", "Vary", "X-Content-Type-Options", "X-Frame-Options", "X-Powered-By",
	} {
		m[name], m[strings.ToLower(name)] = name, name
	}
	m["ETag"] = "Etag"
	return m
}()

// frame finds out where the body ends.
func (u *upstream) frame(method string) error {
	res, h := &u.res, u.header
	coding, lengths := h["Transfer-Encoding"], h["Content-Length"]
	res.Close = res.ProtoMinor == 0 && !httpguts.HeaderValuesContainsToken(h["Connection"], "keep-alive") || httpguts.HeaderValuesContainsToken(h["Connection"], "close")
	switch {
	case len(coding) > 0 && len(lengths) > 0:
		return errors.New("it has a length and a transfer coding")
	case len(coding) > 0 && (len(coding) > 1 || res.ProtoMinor == 0 || !strings.EqualFold(coding[0], "chunked")):
		return fmt.Errorf("its transfer coding is %.100q", coding)
	case len(lengths) > 0:
		for _, l := range lengths {
			if l != lengths[0] {
				return fmt.Errorf("it has lengths %.100q", lengths)
			}
		}
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		if err != nil {
			return fmt.Errorf("its length is %.100q", lengths[0])
		}
		h["Content-Length"] = lengths[:1]
		res.ContentLength = int64(n)
	}
	for _, names := range h["Trailer"] {
		for name := range strings.SplitSeq(names, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); goodTrailer(name) {
				if res.Trailer == nil {
					res.Trailer = http.Header{}
				}
				res.Trailer[name] = nil
			}
		}
	}
	delete(h, "Transfer-Encoding")
	delete(h, "Trailer")
	switch {
	case method == http.MethodHead || res.StatusCode < 200 || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified:
		res.Body, res.Trailer = http.NoBody, nil
	case len(coding) > 0:
		u.body.chunks = httputil.NewChunkedReader(u.br)
		res.Body = &u.body
	case res.ContentLength == 0:
		res.Body = http.NoBody
	case res.ContentLength > 0:
		u.body.left = res.ContentLength
		res.Body = &u.body
	default:
		u.body.toEnd = true
		res.Body, res.Close = &u.body, true
	}
	return nil
}

// upstreamBody is the body of an answer, by one of its fields: in chunks, of a length, or to the end of the connection.
type upstreamBody struct {
	u      *upstream
	chunks io.Reader
	left   int64
	toEnd  bool
}

func (b *upstreamBody) Read(p []byte) (n int, err error) {
	switch {
	case b.chunks != nil:
		n, err = b.chunks.Read(p)
		if err == io.EOF {
			b.chunks = nil
			if trailing := b.trailers(); trailing != nil {
				err = trailing
			}
		}
		return n, err
	case b.toEnd:
		return b.u.br.Read(p)
	case b.left == 0:
		return 0, io.EOF
	}
	n, err = b.u.br.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close has nothing to do: whoever has the connection closes it.
func (b *upstreamBody) Close() error { return nil }

// trailers reads what follows the last chunk.
func (b *upstreamBody) trailers() error {
	b.u.headLeft, b.u.trailing = maxTrailers, true
	into := http.Header{}
	if err := b.u.fields(into); err != nil {
		return err
	}
	b.u.headLeft = -1
	for name, values := range into {
		if goodTrailer(name) {
			if b.u.res.Trailer == nil {
				b.u.res.Trailer = http.Header{}
			}
			b.u.res.Trailer[name] = values
		}
	}
	return nil
}
