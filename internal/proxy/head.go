package proxy

import (
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

// append writes the head of a request in HTTP/1.1.
func (h *head) append(b []byte, r *request) []byte {
	b = append(b, r.method...)
	b = append(b, ' ')
	b = append(b, h.target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", r.host)
	connection := r.header.hopByHop()
	for i := range r.header {
		if f := &r.header[i]; copied(f.name, connection) {
			b = appendField(b, f.name, f.value)
		}
	}
	h.forwarded(r, func(name, value string) { b = appendField(b, name, value) })
	switch {
	case r.length > 0 || r.length == 0 && r.method != http.MethodGet && r.method != http.MethodHead && r.method != http.MethodOptions:
		b = append(b, "Content-Length: "...)
		b = appendInt(b, r.length)
		b = append(b, "\r\n"...)
	case r.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for _, name := range r.announced {
			b = appendField(b, "Trailer", name)
		}
	}
	if r.header.lists("Te", "trailers") {
		b = appendField(b, "Te", "trailers")
	}
	if h.upgrade != "" {
		b = appendField(b, "Connection", "Upgrade")
		b = appendField(b, "Upgrade", h.upgrade)
	}
	if r.expects() {
		b = appendField(b, "Expect", "100-continue")
	}
	return append(b, "\r\n"...)
}

// forwarded tells of the client and the request what the backend cannot see.
func (h *head) forwarded(r *request, field func(name, value string)) {
	proto, host, client := "http", r.host, r.client
	if r.tls {
		proto = "https"
	}
	if h.trusted {
		if before := r.header.all("X-Forwarded-For"); len(before) > 0 {
			client = strings.Join(before, ", ") + ", " + client
		}
		if v := r.header.get("X-Forwarded-Proto"); v != "" {
			proto = v
		}
		if v := r.header.get("X-Forwarded-Host"); v != "" {
			host = v
		}
		for _, v := range r.header.all("Forwarded") {
			field("Forwarded", v)
		}
	}
	field("X-Forwarded-For", client)
	field("X-Forwarded-Proto", proto)
	field("X-Forwarded-Host", host)
	field("X-Request-Id", h.id)
	field("Traceparent", h.traceparent)
}

func goodTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(name) && !ownHeader(http.CanonicalHeaderKey(name))
}

// upgradeOf is the protocol that a request asks for. HTTP/2 is never taken this way: who begins to speak it inside a
// connection would get past everything that is said here.
func upgradeOf(r *request) string {
	v, n := r.header.only("Upgrade")
	if n != 1 || r.major != 1 || !r.atLeast11() || !r.header.lists("Connection", "upgrade") {
		return ""
	}
	if low := strings.ToLower(v); strings.Contains(low, "h2") || strings.Contains(low, "http") {
		return ""
	}
	return v
}

// targetOf is what is asked for in the request line: as it came, but for what may not stand there, and for the prefix that
// a route strips.
func targetOf(r *request, rt *route) string {
	target := r.target
	if rt.Strip && rt.Path != "" {
		if rest, ok := strings.CutPrefix(target, rt.Path); ok && cleanPath(r.path) == r.path && (rest == "" || rest[0] == '/' || rest[0] == '?') {
			target = rest
		} else {
			u := url.URL{Path: strings.TrimPrefix(cleanPath(r.path), rt.Path)}
			_, u.RawQuery, u.ForceQuery = strings.Cut(target, "?")
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
func (p *Proxy) newHead(r *request) head {
	h := head{upgrade: upgradeOf(r)}
	if len(p.o.Trusted) > 0 {
		if a, err := netip.ParseAddr(r.client); err == nil {
			for _, prefix := range p.o.Trusted {
				h.trusted = h.trusted || prefix.Contains(a.Unmap())
			}
		}
	}
	if v, n := r.header.only("Traceparent"); n == 1 && goodTraceparent(v) {
		h.traceparent = v
	}
	if v, n := r.header.only("X-Request-Id"); n == 1 && goodRequestID(v) {
		h.id = v
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
