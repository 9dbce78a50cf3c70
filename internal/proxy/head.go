package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// head is what is sent on of a request beside its body.
type head struct {
	id          string // X-Request-Id
	traceparent string
	client      string // address without port
	trusted     bool   // the peer's X-Forwarded-* are believed
	upgrade     string // the protocol that the client asks for; "" is none
	target      string
}

// ownHeader says whether a header, by its canonical name, is the connection's or the proxy's own, so that it is not copied.
func ownHeader(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Host", "Content-Length", "Expect", "Http2-Settings",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Request-Id", "Traceparent", mirrorHeader:
		return true
	}
	return false
}

// copied says whether a header of a request is sent on. Applications of the CGI kind take an underscore for a dash, so
// X_Forwarded_For is not to get past us.
func copied(name string, connection []string) bool {
	if ownHeader(name) {
		return false
	}
	if strings.IndexByte(name, '_') >= 0 && ownHeader(http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))) {
		return false
	}
	for _, listed := range connection {
		if listed == name {
			return false
		}
	}
	return true
}

// connectionHeaders are the canonical names that a message's Connection header lists as being for this hop alone.
func connectionHeaders(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		if v == "keep-alive" || v == "close" {
			continue
		}
		for name := range strings.SplitSeq(v, ",") {
			names = append(names, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return names
}

// appendHead writes the head of a request in HTTP/1.1. length is its body's, negative if it is sent in chunks. All that
// it writes of the client's is checked to be of one line, whatever has checked it before.
func (h *head) append(b []byte, r *http.Request, length int64) ([]byte, bool) {
	good := true
	field := func(name, value string) {
		good = good && plainValue(value)
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
		b = append(b, "\r\n"...)
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, h.target...)
	b = append(b, " HTTP/1.1\r\n"...)
	field("Host", r.Host)
	connection := connectionHeaders(r.Header)
	for name, values := range r.Header {
		if !copied(name, connection) {
			continue
		}
		good = good && httpguts.ValidHeaderFieldName(name)
		for _, v := range values {
			field(name, v)
		}
	}
	h.forwarded(r, field)
	switch {
	case length > 0 || length == 0 && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions:
		b = append(b, "Content-Length: "...)
		b = appendInt(b, length)
		b = append(b, "\r\n"...)
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if goodTrailer(name) {
				field("Trailer", name)
			}
		}
	}
	if acceptsTrailers(r.Header) {
		field("Te", "trailers")
	}
	if h.upgrade != "" {
		field("Connection", "Upgrade")
		field("Upgrade", h.upgrade)
	}
	if length != 0 && expectsContinue(r) {
		field("Expect", "100-continue")
	}
	return append(b, "\r\n"...), good
}

// forwarded tells of the client and the request what the backend cannot see.
func (h *head) forwarded(r *http.Request, field func(name, value string)) {
	proto, host, client := "http", r.Host, h.client
	if r.TLS != nil {
		proto = "https"
	}
	if h.trusted {
		if before := r.Header["X-Forwarded-For"]; len(before) > 0 {
			client = strings.Join(before, ", ") + ", " + client
		}
		if v := r.Header.Get("X-Forwarded-Proto"); v != "" {
			proto = v
		}
		if v := r.Header.Get("X-Forwarded-Host"); v != "" {
			host = v
		}
		for _, v := range r.Header["Forwarded"] {
			field("Forwarded", v)
		}
	}
	field("X-Forwarded-For", client)
	field("X-Forwarded-Proto", proto)
	field("X-Forwarded-Host", host)
	field("X-Request-Id", h.id)
	field("Traceparent", h.traceparent)
}

func plainValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func acceptsTrailers(h http.Header) bool {
	return len(h["Te"]) > 0 && httpguts.HeaderValuesContainsToken(h["Te"], "trailers")
}

func expectsContinue(r *http.Request) bool {
	return len(r.Header["Expect"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue")
}

func goodTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(name) && !ownHeader(http.CanonicalHeaderKey(name))
}

// upgradeOf is the protocol that a request asks for. HTTP/2 is never taken this way: who begins to speak it inside a
// connection would get past everything that is said here.
func upgradeOf(r *http.Request) string {
	if len(r.Header["Upgrade"]) != 1 || r.ProtoMajor != 1 || !r.ProtoAtLeast(1, 1) || !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	v := r.Header["Upgrade"][0]
	if low := strings.ToLower(v); !plainValue(v) || strings.Contains(low, "h2") || strings.Contains(low, "http") {
		return ""
	}
	return v
}

// targetOf is what is asked for in the request line: as it came, but for what may not stand there, and for the prefix that
// a route strips.
func targetOf(r *http.Request, rt *route) string {
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") { // with a scheme and host
		target = r.URL.RequestURI()
	}
	if rt.Strip && rt.Path != "" {
		if rest, ok := strings.CutPrefix(target, rt.Path); ok && cleanPath(r.URL.Path) == r.URL.Path && (rest == "" || rest[0] == '/' || rest[0] == '?') {
			target = rest
		} else {
			u := url.URL{Path: strings.TrimPrefix(cleanPath(r.URL.Path), rt.Path), RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
			target = u.RequestURI()
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return escapeTarget(target)
		}
	}
	return target
}

func escapeTarget(target string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// newHead looks at a request.
func (p *Proxy) newHead(r *http.Request) head {
	h := head{client: r.RemoteAddr, upgrade: upgradeOf(r)}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h.client = host
	}
	if len(p.o.Trusted) > 0 {
		if a, err := netip.ParseAddr(h.client); err == nil {
			for _, prefix := range p.o.Trusted {
				h.trusted = h.trusted || prefix.Contains(a.Unmap())
			}
		}
	}
	if v := r.Header["Traceparent"]; len(v) == 1 && goodTraceparent(v[0]) {
		h.traceparent = v[0]
	}
	if v := r.Header["X-Request-Id"]; len(v) == 1 && goodRequestID(v[0]) {
		h.id = v[0]
	}
	if h.id != "" && h.traceparent != "" {
		return h
	}
	trace := newTrace()
	if h.traceparent == "" {
		h.traceparent = trace
	}
	if h.id == "" {
		h.id = h.traceparent[3:35] // so that either leads to the other
	}
	return h
}

func goodRequestID(v string) bool {
	if v == "" || len(v) > 128 {
		return false
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] >= 0x7f || v[i] == '"' || v[i] == '<' || v[i] == '>' {
			return false
		}
	}
	return true
}

// goodTraceparent takes what https://www.w3.org/TR/trace-context/#traceparent-header describes.
func goodTraceparent(v string) bool {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" || v[:2] == "00" && len(v) != 55 || len(v) > 255 || len(v) > 55 && v[55] != '-' {
		return false
	}
	isHex := func(s string) bool {
		zero := true
		for i := range len(s) {
			if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
				return false
			} else if c != '0' {
				zero = false
			}
		}
		return !zero || len(s) == 2
	}
	return isHex(v[:2]) && isHex(v[3:35]) && isHex(v[36:52]) && isHex(v[53:55])
}
