package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawBackend records each request that comes, as bytes, and answers it. It believes nothing but what it reads.
type rawBackend struct {
	addr string
	mu   sync.Mutex
	got  []string
}

func (b *rawBackend) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.got...)
}

func startRawBackend(t *testing.T) *rawBackend {
	t.Helper()
	b := &rawBackend{}
	b.addr = serveRaw(t, func(c net.Conn, r *bufio.Reader) error {
		var text strings.Builder
		length, chunked := 0, false
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			text.WriteString(line)
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch {
			case name == "Content-Length":
				if _, err := fmt.Sscan(value, &length); err != nil {
					return err
				}
			case name == "Transfer-Encoding":
				chunked = true
			case line == "\r\n":
				name = ""
			}
			if name == "" {
				break
			}
		}
		for chunked {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			text.WriteString(line)
			n := 0
			if _, err := fmt.Sscanf(line, "%x", &n); err != nil {
				return err
			}
			rest := make([]byte, n+2)
			if _, err := io.ReadFull(r, rest); err != nil {
				return err
			}
			text.Write(rest)
			chunked = n > 0
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		text.Write(body)
		b.mu.Lock()
		b.got = append(b.got, text.String())
		b.mu.Unlock()
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return err
	})
	return b
}

// serveRaw serves connections by calling handle until it gives an error.
func serveRaw(t *testing.T, handle func(c net.Conn, r *bufio.Reader) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); handle(c, r) == nil; {
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// TestFraming sends what two parsers might read differently. What matters is how many requests the backend sees, that a
// hidden one is never among them, and that a connection whose framing is in doubt is not used on.
func TestFraming(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		name, text string
		status     string // of the first answer
		backend    int    // requests that the backend sees
		closes     bool   // what follows is not read
	}{
		{"plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200", 1, false},
		{"two in a pipeline", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", "200", 2, false},
		{"CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400", 0, true},
		{"TE and CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 40\r\n\r\n0\r\n\r\n" + hidden, "400", 0, true},
		{"TE alone", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200", 1, false},
		{"two CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400", 0, true},
		{"a list of CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd", "400", 0, true},
		{"CL with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400", 0, true},
		{"CL in hexadecimal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "400", 0, true},
		{"negative CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nabc", "400", 0, true},
		{"huge CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabc", "400", 0, true},
		{"space before the colon of CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc", "400", 0, true},
		{"space before the colon of TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400", 0, true},
		{"two TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "501", 0, true},
		{"TE of a list", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501", 0, true},
		{"TE misspelt", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501", 0, true},
		{"TE with a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "", 0, true},
		{"TE folded", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hidden, "400", 0, true},
		{"TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400", 0, true},
		{"HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + hidden, "200", 1, true},
		{"a folded header", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", "400", 0, true},
		{"a first header that is folded", "GET / HTTP/1.1\r\n X-A: b\r\nHost: a\r\n\r\n", "400", 0, true},
		{"bare LF", "GET / HTTP/1.1\nHost: a\nX-A: b\n\n", "400", 0, true},
		{"a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rContent-Length: 3\r\n\r\n", "400", 0, true},
		{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x00c\r\n\r\n", "400", 0, true},
		{"no name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400", 0, true},
		{"no colon", "GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n", "400", 0, true},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400", 0, true},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400", 0, true},
		{"a host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400", 0, true},
		{"a target with a space", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400", 0, true},
		{"a chunk's length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", "400", 0, true},
		{"a chunk's length in hexadecimal twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", "400", 0, true},
		{"a chunk that is longer than it says", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "400", 0, true},
		{"a chunk with bare LF", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", "400", 0, true},
		{"GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "200", 1, false},
		{"a trailer that would be a framing header", "POST / HTTP/1.1\r\nHost: a\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", "400", 0, true},
		{"CONNECT", "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", "405", 0, false},
		{"TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405", 0, false},
		{"HTTP/2 by upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "200", 1, false},
		{"HTTP/0.9", "GET /\r\n\r\n", "400", 0, true},
		{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend := startRawBackend(t)
			p := start(t, Options{})
			p.set(t, routeTo(backend.addr))
			got := raw(t, p.addr, c.text+"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			want := c.backend
			if !c.closes {
				want++
			}
			status := ""
			if fields := strings.Fields(got); len(fields) > 1 {
				status = fields[1]
			}
			if c.status != "" && status != c.status || c.status == "" && strings.HasPrefix(status, "2") {
				t.Errorf("got status %q, want %q: %q", status, c.status, got)
			}
			requests := backend.requests()
			if len(requests) != want {
				t.Errorf("the backend saw %d requests, want %d: %q", len(requests), want, requests)
			}
			for _, r := range requests {
				head, _, _ := strings.Cut(r, "\r\n\r\n")
				if strings.Contains(head, "/hidden") || strings.Contains(head, "Content-Length") && strings.Contains(head, "Transfer-Encoding") || strings.Contains(strings.ToLower(head), "upgrade") || strings.Contains(head, "\r\n ") {
					t.Errorf("the backend saw %q", r)
				}
			}
			if n := strings.Count(got, "\r\nX-Request-Id: "); c.closes && n > 1 {
				t.Errorf("%d answers on a connection in doubt: %q", n, got)
			}
		})
	}
}

// TestFramingOfHTTP2 sends by HTTP/2 what would be more than one line, or more than one request, in HTTP/1.1.
func TestFramingOfHTTP2(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []hpack.HeaderField
		body   string
		refuse bool // or else no line may be more than the field's
	}{
		{"plain", nil, "", false},
		{"CR and LF in a value", []hpack.HeaderField{{Name: "x-a", Value: "b\r\nTransfer-Encoding: chunked"}}, "", true},
		{"LF in a value", []hpack.HeaderField{{Name: "x-a", Value: "b\nx: y"}}, "", true},
		{"CR and LF in a name", []hpack.HeaderField{{Name: "x-a: b\r\nx", Value: "y"}}, "", true},
		{"a colon in a name", []hpack.HeaderField{{Name: "x-a:b", Value: "y"}}, "", true},
		{"an upper-case name", []hpack.HeaderField{{Name: "X-A", Value: "y"}}, "", true},
		{"CR and LF in the path", []hpack.HeaderField{{Name: ":path", Value: "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /hidden"}}, "", true},
		{"a space in the path", []hpack.HeaderField{{Name: ":path", Value: "/hidden HTTP/1.1 x"}}, "", false},
		{"CR and LF in the authority", []hpack.HeaderField{{Name: ":authority", Value: "a\r\nx: y"}}, "", true},
		{"CR and LF in the method", []hpack.HeaderField{{Name: ":method", Value: "GET /hidden HTTP/1.1\r\nx: y"}}, "", true},
		{"transfer-encoding", []hpack.HeaderField{{Name: "transfer-encoding", Value: "chunked"}}, "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"content-length that is too small", []hpack.HeaderField{{Name: "content-length", Value: "3"}}, "abcGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"two content-lengths", []hpack.HeaderField{{Name: "content-length", Value: "0"}, {Name: "content-length", Value: "3"}}, "abc", true},
		{"connection", []hpack.HeaderField{{Name: "connection", Value: "keep-alive"}}, "", true},
		{"two hosts", []hpack.HeaderField{{Name: "host", Value: "b"}}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend := startRawBackend(t)
			p := start(t, Options{})
			p.set(t, routeTo(backend.addr))
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, http2.ClientPreface)
			framer := http2.NewFramer(conn, conn)
			_ = framer.WriteSettings()
			var block strings.Builder
			encoder := hpack.NewEncoder(&block)
			method := "GET"
			if c.body != "" {
				method = "POST"
			}
			fields := []hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/"}}
			for _, f := range c.fields {
				replaced := false
				for i := range fields {
					if strings.HasPrefix(f.Name, ":") && fields[i].Name == f.Name {
						fields[i], replaced = f, true
					}
				}
				if !replaced {
					fields = append(fields, f)
				}
			}
			for _, f := range fields {
				_ = encoder.WriteField(f)
			}
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: c.body == ""})
			if c.body != "" {
				_ = framer.WriteData(1, true, []byte(c.body))
			}
			status, ended := "", false
			decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
				if f.Name == ":status" {
					status = f.Value
				}
			})
			for !ended {
				f, err := framer.ReadFrame()
				if err != nil {
					break // the connection ended
				}
				switch f := f.(type) {
				case *http2.HeadersFrame:
					_, _ = decoder.Write(f.HeaderBlockFragment())
					ended = f.StreamEnded()
				case *http2.DataFrame:
					ended = f.StreamEnded()
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					ended = true
				}
			}
			requests := backend.requests()
			if c.refuse != (status != "200") {
				t.Errorf("got status %q; the backend saw %q", status, requests)
			}
			if len(requests) > 1 {
				t.Errorf("the backend saw %q", requests)
			}
			for _, r := range requests {
				head, _, _ := strings.Cut(r, "\r\n\r\n")
				for i, line := range strings.Split(head, "\r\n") {
					if i == 0 && strings.Count(line, " ") != 2 || i > 0 && (!strings.Contains(line, ": ") || strings.HasPrefix(line, "x: ")) || strings.Count(head, "\nHost: ") != 1 {
						t.Errorf("the backend saw %q", r)
					}
				}
			}
		})
	}
}

func TestUnderOneName(t *testing.T) {
	// A request's target may carry a host of its own, which counts (RFC 9112, section 3.2.2).
	backend := startRawBackend(t)
	p := start(t, Options{})
	p.set(t, Route{Name: "a", Hosts: []string{"a.com"}, Path: "/api", Strip: true, Pools: []Pool{pool1("p", 1, backend.addr)}})
	for _, c := range []struct{ line, host, status, sent string }{
		{"GET http://a.com/api/x HTTP/1.1", "b.com", "200", "GET /x HTTP/1.1\r\nHost: a.com\r\n"},
		{"GET http://b.com/api HTTP/1.1", "a.com", "404", ""},
		{"GET /api HTTP/1.1", "a.com", "200", "GET / HTTP/1.1\r\n"},
		{"GET /api?x=%41 HTTP/1.1", "a.com", "200", "GET /?x=%41 HTTP/1.1\r\n"},
		{"GET /api//x HTTP/1.1", "a.com", "200", "GET /x HTTP/1.1\r\n"},
		{"GET /api/a%2Fb HTTP/1.1", "a.com", "200", "GET /a%2Fb HTTP/1.1\r\n"},
		{"GET /%61pi/b HTTP/1.1", "a.com", "200", "GET /b HTTP/1.1\r\n"},
		{"GET /x/../api/b HTTP/1.1", "a.com", "200", "GET /b HTTP/1.1\r\n"},
		{"GET /api/b#c HTTP/1.1", "a.com", "200", "GET /b%23c HTTP/1.1\r\n"},
		{"GET /api/\xc3\xbc?\xc3\xbc HTTP/1.1", "a.com", "200", "GET /%C3%BC?%C3%BC HTTP/1.1\r\n"},
	} {
		before := len(backend.requests())
		got := raw(t, p.addr, c.line+"\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n")
		if fields := strings.Fields(got); len(fields) < 2 || fields[1] != c.status {
			t.Errorf("%s: got %q", c.line, got)
		}
		requests := backend.requests()[before:]
		if c.sent == "" && len(requests) != 0 || c.sent != "" && (len(requests) != 1 || !strings.HasPrefix(requests[0], c.sent)) {
			t.Errorf("%s: the backend saw %q", c.line, requests)
		}
	}
}

// startTLS serves with TLS as well, and gives a client that trusts it.
func (s *served) startTLS(t *testing.T) (string, *http.Transport) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lender := httptest.NewUnstartedServer(nil)
	lender.StartTLS()
	conf := &tls.Config{Certificates: lender.TLS.Certificates}
	transport := lender.Client().Transport.(*http.Transport).Clone()
	lender.Close()
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serving.Go(func() {
		if err := s.ServeTLS(ctx, l, conf); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		serving.Wait()
	})
	u := url.URL{Scheme: "https", Host: l.Addr().String()}
	return u.String(), transport
}
