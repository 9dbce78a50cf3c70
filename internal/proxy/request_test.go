package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// readWhole reads a request as the front does.
func readWhole(br *bufio.Reader, limit int) (*request, error) {
	head, err := readBlock(br, &limit, true)
	if err != nil {
		return nil, err
	}
	r := new(request)
	if err := r.parse(head); err != nil {
		return nil, err
	}
	r.readFrom(br)
	return r, nil
}

func TestRequestsOfHTTP2ThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"nothing":      func(*http.Request) {},
		"two lengths":  func(r *http.Request) { r.Header["Content-Length"] = []string{"0", "3"} },
		"two lines":    func(r *http.Request) { r.Header["X-A"] = []string{"b\r\nX: y"} },
		"a name":       func(r *http.Request) { r.Header["X-A: b\r\nX"] = []string{"y"} },
		"a method":     func(r *http.Request) { r.Method = "GET /hidden HTTP/1.1\r\nX:" },
		"an authority": func(r *http.Request) { r.Host = "a\r\nX: y" },
	} {
		from, err := http.NewRequest("GET", "https://a/b", nil)
		if err != nil {
			t.Fatal(err)
		}
		from.RequestURI = "/b"
		change(from)
		if err := new(request).ofHTTP2(from); (err == nil) != (name == "nothing") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzReadRequest holds the reader of requests to net/http's, with what its server asks beyond that: what ours takes,
// theirs takes for the same, with the same body and the same rest, which is the next request.
func FuzzReadRequest(f *testing.F) {
	for _, text := range smuggling {
		f.Add([]byte(text + "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		br := bufio.NewReaderSize(bytes.NewReader(text), 16) // so that heads come in pieces
		got, err := readWhole(br, 1<<20)
		if err != nil {
			var why *badRequest
			if errors.As(err, &why) && (why.status < 400 || why.why == "") {
				t.Fatalf("refused with %+v", why)
			}
			return
		}
		theirs := bufio.NewReaderSize(bytes.NewReader(text), 2*maxTrailers)
		want, err := http.ReadRequest(theirs)
		if err != nil {
			t.Fatalf("net/http says %v of %q", err, text)
		}
		if want.URL.Path == "" {
			want.URL.Path = "/" // as it is sent on
		}
		if got.method != want.Method || got.host != want.Host || got.path != want.URL.Path || got.major != want.ProtoMajor || got.minor != want.ProtoMinor ||
			got.length != want.ContentLength || !got.closes && want.Close {
			t.Fatalf("got %+v, want %+v of %q", got, want, text)
		}
		if got.method != http.MethodConnect && got.target != want.RequestURI && got.target != want.URL.RequestURI() {
			t.Fatalf("got target %q, want %q of %q", got.target, want.RequestURI, text)
		}
		headers := got.header.std()
		host := headers["Host"]
		for _, name := range []string{"Host", "Transfer-Encoding"} {
			headers.Del(name)
		}
		if got.length < 0 {
			headers.Del("Trailer")
			if len(got.header.all("Content-Length")) > 0 {
				t.Fatalf("took a length and a coding of %q", text)
			}
		}
		if len(host) > 1 || len(host) == 0 && got.minor > 0 || !httpguts.ValidHostHeader(got.host) {
			t.Fatalf("took hosts %q of %q", host, text)
		}
		if _, added := headers["Cache-Control"]; !added && want.Header.Get("Pragma") == "no-cache" {
			want.Header.Del("Cache-Control") // which net/http makes up
		}
		if !reflect.DeepEqual(headers, want.Header) {
			t.Fatalf("got %q, want %q of %q", headers, want.Header, text)
		}
		for name, values := range headers {
			for _, v := range values {
				if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
					t.Fatalf("took %q: %q of %q", name, v, text)
				}
			}
		}
		var body []byte
		if got.body != nil {
			body, err = io.ReadAll(got.body)
		}
		wanted, err2 := io.ReadAll(want.Body)
		if err != nil {
			return
		}
		if err2 != nil || !bytes.Equal(body, wanted) {
			t.Fatalf("got body %q, want %q, %v of %q", body, wanted, err2, text)
		}
		for name, values := range want.Trailer {
			if mine := got.trailer().all(name); goodTrailer(name) && !reflect.DeepEqual(mine, values) {
				t.Fatalf("got trailer %s %q, want %q of %q", name, mine, values, text)
			}
		}
		rest, _ := io.ReadAll(br)
		if wantedRest, _ := io.ReadAll(theirs); !bytes.Equal(rest, wantedRest) {
			t.Fatalf("%q is left, want %q of %q", rest, wantedRest, text)
		}
		// And what is sent on for it is one request, which says the same.
		h := (&Proxy{}).newHead(got)
		h.target = targetOf(got, &route{Route: &Route{}})
		if got.method == http.MethodConnect || got.method == http.MethodTrace {
			return
		}
		out := h.append(nil, got)
		onward, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if err != nil {
			t.Fatalf("net/http says %v of %q for %q", err, out, text)
		}
		if onward.Method != got.method || onward.Host != got.host || onward.ContentLength != got.length || onward.URL.Path != got.path {
			t.Fatalf("sent on %q for %q", out, text)
		}
		if n := strings.Count(string(out), "\r\n\r\n"); n != 1 || !bytes.HasSuffix(out, []byte("\r\n\r\n")) {
			t.Fatalf("sent on %q", out)
		}
	})
}

// smuggling are requests of the kinds that suites against smuggling send: lengths and codings that two readers may take for
// two things, ends of lines, folded headers, targets with hosts, and bodies in odd chunks.
var smuggling = func() (all []string) {
	const begin, host = "POST /a?b HTTP/1.1\r\n", "Host: a\r\n"
	for _, coding := range []string{
		"Transfer-Encoding: chunked", "Transfer-Encoding : chunked", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked ", "Transfer-Encoding: Chunked",
		"Transfer-Encoding: xchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "Transfer-Encoding: identity",
		"Transfer-Encoding: identity, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding:\r\n chunked",
		"Transfer-Encoding\r\n : chunked", " Transfer-Encoding: chunked", "X: y\r\n Transfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked", "X: y\nTransfer-Encoding: chunked",
		"Transfer-Encoding: \x00chunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: \x0cchunked", "Transfer-Encoding: \xffchunked", "Transfer-Encoding: ch\x96nked",
		"Transfer_Encoding: chunked", "Transfer-Encoding\x00: chunked", "Transfer-Encoding\t: chunked", "\x00Transfer-Encoding: chunked", "Transfer-Encoding: , chunked", "transfer-encoding: chunked",
		"TRANSFER-ENCODING: CHUNKED", "Transfer-Encoding: chunKed\r\nContent-Length: 5", "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "Foo: bar\r\n\rTransfer-Encoding: chunked", "TE: chunked",
	} {
		all = append(all, begin+host+coding+"\r\n\r\n0\r\n\r\n", begin+host+"Content-Length: 5\r\n"+coding+"\r\n\r\n0\r\n\r\n", begin+coding+"\r\n"+host+"\r\n5\r\nabcde\r\n0\r\n\r\n")
	}
	for _, length := range []string{"5", "05", "+5", "-5", "5 ", " 5", "5,5", "5, 5", "5\r\nContent-Length: 5", "5\r\nContent-Length: 6", "0x5", "5.0", "5e0", "", "5\x00", "\x0b5", "18446744073709551621", "9223372036854775808", "5;", "५"} {
		all = append(all, begin+host+"Content-Length: "+length+"\r\n\r\nabcde", begin+host+"Content-Length:"+length+"\r\n\r\nabcde", begin+host+"content-length : "+length+"\r\n\r\nabcde")
	}
	for _, chunks := range []string{
		"5\r\nabcde\r\n0\r\n\r\n", "05\r\nabcde\r\n0\r\n\r\n", "5;a=b\r\nabcde\r\n0\r\n\r\n", "5 ;a\r\nabcde\r\n0\r\n\r\n", "5\nabcde\n0\n\n", "5\rabcde\r0\r\r", "5\r\nabcdeX\n0\r\n\r\n", "5\r\nabcde0\r\n\r\n", "-5\r\nabcde\r\n0\r\n\r\n",
		"0x5\r\nabcde\r\n0\r\n\r\n", "ffffffffffffffff5\r\nabcde\r\n0\r\n\r\n", "10000000000000005\r\nabcde\r\n0\r\n\r\n", "5;\n\r\nabcde\r\n0\r\n\r\n", "5;a\rb\r\nabcde\r\n0\r\n\r\n", "5;\"\r\n\"\r\nabcde\r\n0\r\n\r\n", "00\r\n\r\n", "0\r\nX-A: b\r\n\r\n",
		"0\r\nContent-Length: 9\r\nHost: b\r\n\r\n", "0\r\nX-A: b\r\n c\r\n\r\n", "0\r\nX-A: b\n\r\n", "0\r\n\n", "0;x\r\n\r\n", "G\r\n\r\n", "\r\n\r\n", "5\r\nabcde\r\n0\r\n",
	} {
		all = append(all, begin+host+"Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n"+chunks)
	}
	for _, line := range []string{
		"GET / HTTP/1.1", "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET\t/\tHTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.1 ", "GET / http/1.1", "GET / HTTP/1.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "GET / HTTP/11", "GET / HTTP/1.1\x00", "GET /", "G{}T / HTTP/1.1",
		"GET http://b/c HTTP/1.1", "GET http://u@b/c HTTP/1.1", "GET //b/c HTTP/1.1", "GET b:80 HTTP/1.1", "GET ftp://b/c HTTP/1.1", "GET ?x HTTP/1.1", "GET * HTTP/1.1", "OPTIONS * HTTP/1.1", "CONNECT b:80 HTTP/1.1", "CONNECT / HTTP/1.1",
		"GET /%zz HTTP/1.1", "GET /%0d%0aX:%20y HTTP/1.1", "GET /a#b HTTP/1.1", "GET /\xff HTTP/1.1", "GET /a\x7f HTTP/1.1", "GET http://b%0d/ HTTP/1.1", "GET http:///c HTTP/1.1", "PRI * HTTP/2.0", "GET /a?b?c#d HTTP/1.1", "GET /a%2fb;c HTTP/1.1",
	} {
		all = append(all, line+"\r\n"+host+"\r\n", line+"\n"+host+"\r\n", "\r\n"+line+"\r\n"+host+"\r\n")
	}
	for _, hosts := range []string{"", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n", "Host : a\r\n", "Host:\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: a@b\r\n", "Host: a:80\r\n", "Host: [::1]:80\r\n", "Host: a\tb\r\n", "Host: a\r\n\tb\r\n", " Host: a\r\n", "Host: a, b\r\n", "Host: \xe2\x80\x8ba\r\n"} {
		all = append(all, "GET / HTTP/1.1\r\n"+hosts+"\r\n", "GET http://c/ HTTP/1.1\r\n"+hosts+"\r\n", "GET / HTTP/1.0\r\n"+hosts+"\r\n")
	}
	for _, field := range []string{"X", ": y", "X:", "X:y", "X: \xff", "X: \x7f", "X: \x00", "X[]: y", "X Y: z", "Expect: 100-continue", "Expect: 100-Continue, x", "Expect: 99", "Connection: close", "Connection: keep-alive, Close", "Connection: X\r\nX: y", "Pragma: no-cache", "Upgrade: h2c", "Trailer: Host", "X: y\r", "X: y\r\r"} {
		all = append(all, "GET / HTTP/1.1\r\n"+host+field+"\r\n\r\n")
	}
	return all
}()
