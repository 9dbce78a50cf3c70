package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// response is the answer of a backend.
type response struct {
	status  int
	header  header
	length  int64     // of the body as it is said to be; negative if it is not
	body    io.Reader // nil if there is none
	closes  bool      // the connection ends with it
	minor   int
	upgrade string

	announced []string // trailers that are to follow the body
	in        body     // of HTTP/1
	two       *http.Response
}

// readHead reads an answer in HTTP/1.0 or 1.1 up to its body. It takes what RFC 9112 says an answer is, and lines of the
// head that end in a bare LF besides, but nothing that two readers might take for two things: a length and a coding at
// once, a list of lengths, and what header.parse does not take. The answer is good until the next is read.
func (u *upstream) readHead(method string) (*response, error) {
	head, err := readBlock(u.br, &u.headLeft, false)
	if err != nil {
		return nil, err
	}
	res := &u.res
	clear(res.header)
	*res = response{header: res.header[:0], length: -1}
	line, lines := cutLine(head)
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || rest[0] > '1' || rest[0] < '0' || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return nil, fmt.Errorf("its first line is %.100q", line)
	}
	res.minor = int(rest[0] - '0')
	for _, c := range []byte(rest[2:5]) {
		if c < '0' || c > '9' {
			return nil, fmt.Errorf("its first line is %.100q", line)
		}
		res.status = 10*res.status + int(c-'0')
	}
	if res.status < 100 {
		return nil, fmt.Errorf("its status is %d", res.status)
	}
	if res.header, err = res.header.parse(lines); err != nil {
		return nil, err
	}
	return res, u.frame(method)
}

// frame finds out where the body ends, and takes what tells it from the headers.
func (u *upstream) frame(method string) error {
	res := &u.res
	coding, codings := res.header.only("Transfer-Encoding")
	length, lengths := res.header.only("Content-Length")
	res.closes = res.minor == 0 && !res.header.lists("Connection", "keep-alive") || res.header.lists("Connection", "close")
	switch {
	case codings > 0 && lengths > 0:
		return errors.New("it has a length and a transfer coding")
	case codings > 0 && (codings > 1 || res.minor == 0 || !strings.EqualFold(coding, "chunked")):
		return fmt.Errorf("its transfer coding is %.100q", coding)
	case lengths > 0:
		for _, l := range res.header.all("Content-Length") {
			if l != length {
				return fmt.Errorf("it has lengths %.100q and %.100q", l, length)
			}
		}
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil {
			return fmt.Errorf("its length is %.100q", length)
		}
		res.length = int64(n)
	}
	if res.status == http.StatusSwitchingProtocols {
		res.upgrade = res.header.get("Upgrade")
	}
	u.res.in = body{r: u.br}
	switch {
	case method == http.MethodHead || !bodyFollows(res.status):
		return nil
	case codings > 0:
		for _, names := range res.header.all("Trailer") {
			for name := range strings.SplitSeq(names, ",") {
				if name = http.CanonicalHeaderKey(trim(name)); goodTrailer(name) {
					res.announced = append(res.announced, name)
				}
			}
		}
		res.in.inChunks()
	case res.length == 0:
		return nil
	case res.length > 0:
		res.in.left = res.length
	default:
		res.in.toEnd, res.closes = true, true
	}
	res.body = &res.in
	return nil
}

// bodyFollows says whether an answer with a status may have a body.
func bodyFollows(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// trailer is what followed the body, once that has been read.
func (res *response) trailer() header {
	if res.two == nil {
		return res.in.trailer
	}
	return trailerOfHTTP2(res.two.Trailer)
}

// ofHTTP2 takes an answer from net/http.
func (res *response) ofHTTP2(from *http.Response) {
	*res = response{status: from.StatusCode, length: from.ContentLength, two: from}
	if from.Body != http.NoBody && bodyFollows(from.StatusCode) && from.Request.Method != http.MethodHead {
		res.body = from.Body
	}
	for name, values := range from.Header {
		for _, v := range values {
			if plainValue(v) {
				res.header = append(res.header, field{name, v})
			}
		}
	}
	for name := range from.Trailer {
		if goodTrailer(name) {
			res.announced = append(res.announced, name)
		}
	}
}
