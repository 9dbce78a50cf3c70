package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// transport is net/http's, over the backend's connections: for HTTP/2 in the clear, and for copies of requests, whose
// speed matters less.
func (b *backend) transport(http2 bool) *http.Transport {
	at := 0
	if http2 {
		at = 1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.transports[at] == nil {
		var protocols http.Protocols
		protocols.SetHTTP1(!http2)
		protocols.SetUnencryptedHTTP2(http2)
		b.transports[at] = &http.Transport{
			Protocols:          &protocols,
			DisableCompression: true,
			IdleConnTimeout:    upstreamIdle,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := b.dial(ctx)
				if err != nil {
					return nil, &connectError{err}
				}
				return c, nil
			},
			MaxResponseHeaderBytes: maxResponseHead,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		}
	}
	return b.transports[at]
}

type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// forwardHTTP2 is attempt for backends that speak HTTP/2 in the clear.
func (x *exchange) forwardHTTP2(b *backend) (retry bool, err error) {
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	stop := x.onGone(func() { cancel(context.Canceled) })
	defer stop()
	r, body, err := x.requestHTTP2(ctx)
	if err != nil {
		x.fail(http.StatusBadRequest, "the request cannot be sent on", err)
		return false, nil
	}
	if body != nil {
		defer func() { x.in = body.end() }()
		if x.r.ProtoMajor == 1 {
			_ = x.rc.EnableFullDuplex()
			x.w.Header()["Connection"] = closeHeader
		}
	}
	timeout := orDefault(x.route.ResponseTimeout, x.p.o.ResponseTimeout)
	timer := time.AfterFunc(timeout, func() { cancel(os.ErrDeadlineExceeded) })
	if x.route.ResponseTimeout == 0 && isGRPC(x.r) {
		timer.Stop() // a call has a deadline of its own, and a stream may begin with silence
	}
	res, err := b.transport(true).RoundTrip(r)
	timer.Stop()
	if err != nil {
		var failed *connectError
		var bad *bodyError
		switch {
		case x.hasGone():
			x.gone(err)
		case errors.As(err, &bad):
			x.badBody(bad.err)
		case errors.As(err, &failed):
			x.pool.counters.connectFailures.Add(1)
			return true, err
		case context.Cause(ctx) != nil:
			x.broken(false, context.Cause(ctx))
		default:
			x.broken(false, err)
		}
		return false, nil
	}
	defer res.Body.Close()
	x.answer(res, nil)
	return false, nil
}

func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

func (x *exchange) requestHTTP2(ctx context.Context) (_ *http.Request, body *sentBody, _ error) {
	target, err := url.ParseRequestURI(targetOf(x.r, x.route))
	if err != nil {
		return nil, nil, err
	}
	target.Scheme, target.Host = "http", "backend" // whatever it is, the connection goes to the backend
	r := &http.Request{Method: x.r.Method, URL: target, Host: x.r.Host, Header: http.Header{}, ContentLength: x.r.ContentLength, Trailer: x.r.Trailer}
	connection := connectionHeaders(x.r.Header)
	for name, values := range x.r.Header {
		if copied(name, connection) {
			r.Header[name] = values
		}
	}
	x.head.forwarded(x.r, func(name, value string) { r.Header[name] = append(r.Header[name], value) })
	if acceptsTrailers(x.r.Header) {
		r.Header["Te"] = []string{"trailers"}
	}
	for name, values := range r.Header {
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !plainValue(v) {
				return nil, nil, fmt.Errorf("header %q", name)
			}
		}
	}
	if len(r.Header["User-Agent"]) == 0 {
		r.Header["User-Agent"] = []string{""} // not net/http's
	}
	if x.r.Body != nil && x.r.Body != http.NoBody {
		body = &sentBody{p: x.p, body: x.r.Body, rc: x.rc, limit: orDefault(x.route.MaxBody, x.p.o.MaxBody), copy: x.copy}
		if !isGRPC(x.r) {
			body.stall = x.p.o.StallTimeout
		}
		r.Body = body
	}
	return r.WithContext(ctx), body, nil
}

// sentBody is a request's body as net/http's transport reads it, which may be for a while after the request has ended.
type sentBody struct {
	p     *Proxy
	body  io.Reader
	rc    *http.ResponseController
	limit int64
	stall time.Duration // that the client may be silent; 0 is for ever, as a call's stream may be
	copy  *mirrorCopy

	mu    sync.Mutex
	ended bool
	n     int64
}

// bodyError is an error that the client brought about.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.stall > 0 && !b.ended {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.stall))
	}
	b.mu.Unlock()
	n, err := b.body.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, io.ErrUnexpectedEOF
	}
	if b.n += int64(n); b.n > b.limit {
		return 0, &bodyError{&http.MaxBytesError{Limit: b.limit}}
	}
	if b.copy != nil {
		b.copy.add(p[:n])
	}
	switch {
	case err == io.EOF && b.copy != nil:
		b.p.mirror(b.copy)
		b.copy = nil
	case err != nil && err != io.EOF:
		err = &bodyError{err}
	}
	return n, err
}

// Close is the transport's. The body is closed by the server that it comes of.
func (b *sentBody) Close() error { return nil }

// end takes the body away from the transport and gives how much of it was read.
func (b *sentBody) end() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	return b.n
}
