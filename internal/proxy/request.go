package proxy

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// request is what a client asks for, by whichever version of HTTP.
type request struct {
	method string
	target string // path and query, or * of OPTIONS, as it came
	path   string // without escapes
	host   string
	major  int
	minor  int
	header header
	length int64      // of the body; negative if it is not known
	body   bodyReader // nil if there is none
	tls    bool
	client string // the peer's address without its port
	closes bool   // the connection ends with the answer

	announced []string // trailers that are to follow the body
	in        body     // of HTTP/1
	two       *http.Request
}

type bodyReader interface{ Read([]byte) (int, error) }

// badRequest is why a request is not taken.
type badRequest struct {
	status int
	why    string
}

func (e *badRequest) Error() string { return e.why }

func bad(format string, args ...any) error {
	return &badRequest{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// parse takes the head of a request in HTTP/1.0 or 1.1, up to and with the end of its last header. It takes less than
// RFC 9112 allows: nothing of which two readers might find two ends, or two meanings. What it takes, net/http takes for
// the same.
func (r *request) parse(head string) error {
	line, lines := cutLine(head)
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok || !httpguts.ValidHeaderFieldName(method):
		return bad("the request's first line is %.100q", line)
	case version == "HTTP/1.1":
		r.major, r.minor = 1, 1
	case version == "HTTP/1.0":
		r.major, r.minor = 1, 0
	case len(version) == len("HTTP/1.1") && strings.HasPrefix(version, "HTTP/") && version[6] == '.':
		return &badRequest{http.StatusHTTPVersionNotSupported, "this proxy speaks HTTP/1.0, HTTP/1.1 and HTTP/2"}
	default:
		return bad("the request's first line is %.100q", line)
	}
	r.method = method
	var err error
	if r.header, err = r.header.parse(lines); err != nil {
		if err == errHeadTooLarge {
			return &badRequest{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request has more than %d headers", maxFields)}
		}
		return bad("%v", err)
	}
	host, hosts := r.header.only("Host")
	if hosts > 1 || hosts == 0 && r.minor > 0 || !httpguts.ValidHostHeader(host) {
		return bad("the request names %d hosts, where it has to name one", hosts)
	}
	r.host = host
	if err := r.parseTarget(target); err != nil {
		return err
	}
	return r.frame()
}

func (r *request) parseTarget(target string) error {
	r.target = target
	if n := plainPath(target); n > 0 {
		r.path = target[:n]
		return nil
	}
	text := target
	if r.method == http.MethodConnect && !strings.HasPrefix(target, "/") {
		text = "http://" + target
	}
	u, err := url.ParseRequestURI(text)
	switch {
	case err != nil:
		return bad("the request's target is %.100q", target)
	case strings.HasPrefix(target, "/"), target == "*" && r.method == http.MethodOptions:
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || !httpguts.ValidHostHeader(u.Host):
		return bad("the request's target is %.100q", target)
	default:
		// A host in the target counts, whatever the header says (RFC 9112, section 3.2.2).
		r.host, r.target = u.Host, u.RequestURI()
	}
	r.path = u.Path
	if r.path == "" {
		r.path = "/"
	}
	return nil
}

// plainPath gives how much of a target is its path, or 0 if that takes a closer look.
func plainPath(target string) int {
	if target == "" || target[0] != '/' {
		return 0
	}
	path := -1
	for i := range len(target) {
		switch c := target[i]; {
		case c < ' ' || c == 0x7f:
			return 0
		case path >= 0:
		case c == '?':
			path = i
		case c == '%' || c >= 0x80:
			return 0
		}
	}
	if path < 0 {
		return len(target)
	}
	return path
}

// frame finds out where the body ends, without having begun to read it.
func (r *request) frame() error {
	coding, codings := r.header.only("Transfer-Encoding")
	length, lengths := r.header.only("Content-Length")
	r.closes = r.minor == 0 || r.header.lists("Connection", "close")
	switch {
	case codings > 0 && (lengths > 0 || r.minor == 0):
		return bad("the request has a transfer coding, and a length or a version before HTTP/1.1")
	case codings > 1 || codings == 1 && !strings.EqualFold(coding, "chunked"):
		return &badRequest{http.StatusNotImplemented, "this proxy knows no transfer coding but chunked"}
	case codings == 1:
		r.length = -1
	case lengths > 1:
		return bad("the request has %d lengths", lengths)
	case lengths == 1:
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil {
			return bad("the request's length is %.100q", length)
		}
		r.length = int64(n)
	}
	if expect, n := r.header.only("Expect"); n > 0 && !(n == 1 && strings.EqualFold(expect, "100-continue")) {
		return &badRequest{http.StatusExpectationFailed, "this proxy can expect nothing but 100-continue"}
	}
	if codings == 1 {
		for _, names := range r.header.all("Trailer") {
			for name := range strings.SplitSeq(names, ",") {
				switch name = http.CanonicalHeaderKey(trim(name)); name {
				case "Transfer-Encoding", "Content-Length", "Trailer":
					return bad("the request announces the trailer %s", name)
				}
				if goodTrailer(name) && len(r.announced) < maxFields {
					r.announced = append(r.announced, name)
				}
			}
		}
	}
	return nil
}

// readFrom makes the body one that is read off a connection.
func (r *request) readFrom(br *bufio.Reader) {
	r.in = body{r: br, left: max(r.length, 0)}
	if r.length < 0 {
		r.in.inChunks()
	}
	if r.length != 0 {
		r.body = &r.in
	}
}

// ofHTTP2 takes a request from net/http.
func (r *request) ofHTTP2(from *http.Request) error {
	*r = request{
		method: from.Method, target: from.RequestURI, path: from.URL.Path, host: from.Host, major: from.ProtoMajor, minor: from.ProtoMinor,
		header: r.header[:0], length: from.ContentLength, tls: from.TLS != nil, client: withoutPort(from.RemoteAddr), two: from,
	}
	if from.Body != nil && from.Body != http.NoBody {
		r.body = from.Body
	} else {
		r.length = 0
	}
	if !strings.HasPrefix(r.target, "/") {
		r.target = from.URL.RequestURI()
	}
	if len(from.Header["Content-Length"]) > 1 {
		return bad("the request has %d lengths", len(from.Header["Content-Length"]))
	}
	good := httpguts.ValidHeaderFieldName(r.method) && httpguts.ValidHostHeader(r.host)
	for name, values := range from.Header {
		good = good && httpguts.ValidHeaderFieldName(name)
		for _, v := range values {
			good = good && plainValue(v)
			r.header = append(r.header, field{name, v})
		}
	}
	for name := range from.Trailer {
		if goodTrailer(name) {
			r.announced = append(r.announced, name)
		}
	}
	if !good {
		return bad("a header of the request holds characters that none may hold")
	}
	return nil
}

// trailer is what followed the body, once that has been read.
func (r *request) trailer() header {
	if r.two == nil {
		return r.in.trailer
	}
	return trailerOfHTTP2(r.two.Trailer)
}

// expects says whether the client waits to be told to send its body.
func (r *request) expects() bool {
	return r.length != 0 && r.atLeast11() && r.header.lists("Expect", "100-continue")
}

// atLeast11 says whether the request is in HTTP/1.1 or later.
func (r *request) atLeast11() bool { return r.major > 1 || r.minor > 0 }

func withoutPort(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
