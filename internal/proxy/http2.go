package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// trailerOfHTTP2 is what net/http says that followed a body.
func trailerOfHTTP2(from http.Header) (h header) {
	for name, values := range from {
		for _, v := range values {
			if goodTrailer(name) && plainValue(v) {
				h = append(h, field{name, v})
			}
		}
	}
	return h
}

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
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	x.heed(func() { cancel(context.Canceled) })
	defer x.ignore()
	r, body, err := x.requestHTTP2(ctx)
	if err != nil {
		x.fail(http.StatusBadRequest, "the request cannot be sent on", err)
		return false, nil
	}
	if body != nil {
		defer func() { x.in = body.end() }()
		body.gone = func() { cancel(context.Canceled) }
		x.streams = true // it is for the transport to read
		if x.r.major == 1 && x.r.expects() {
			if err := x.w.begin(&reply{status: http.StatusContinue, length: -1}); err != nil {
				x.gone(err)
			}
		}
	}
	timeout := orDefault(x.route.ResponseTimeout, x.p.o.ResponseTimeout)
	timer := time.AfterFunc(timeout, func() { cancel(os.ErrDeadlineExceeded) })
	if x.route.ResponseTimeout == 0 && x.r.isGRPC() {
		timer.Stop() // a call has a deadline of its own, and a stream may begin with silence
	}
	res, err := b.transport(true).RoundTrip(r)
	timer.Stop()
	if err != nil {
		var failed *connectError
		var bad *bodyError
		switch {
		case x.w.gone():
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
	var answer response
	answer.ofHTTP2(res)
	x.answer(&answer, nil)
	return false, nil
}

func (r *request) isGRPC() bool {
	return strings.HasPrefix(r.header.get("Content-Type"), "application/grpc")
}

// onward are the headers that are sent on, as net/http has them.
func (x *exchange) onward() http.Header {
	connection := x.r.header.hopByHop()
	h := http.Header{}
	add := func(name, value string) { h[name] = append(h[name], value) }
	for _, f := range x.r.header {
		if copied(f.name, connection) {
			add(f.name, f.value)
		}
	}
	x.head.forwarded(&x.r, add)
	if len(h["User-Agent"]) == 0 {
		h["User-Agent"] = []string{""} // not net/http's
	}
	return h
}

func (x *exchange) requestHTTP2(ctx context.Context) (_ *http.Request, body *sentBody, _ error) {
	target, err := url.ParseRequestURI(targetOf(&x.r, x.route))
	if err != nil {
		return nil, nil, err
	}
	target.Scheme, target.Host = "http", "backend" // whatever it is, the connection goes to the backend
	r := &http.Request{Method: x.r.method, URL: target, Host: x.r.host, Header: x.onward(), ContentLength: x.r.length}
	if x.r.header.lists("Te", "trailers") {
		r.Header["Te"] = []string{"trailers"}
	}
	if x.r.body != nil {
		r.Trailer = http.Header{}
		for _, name := range x.r.announced {
			r.Trailer[name] = nil
		}
		body = &sentBody{p: x.p, r: &x.r, trailer: r.Trailer, w: x.w, limit: orDefault(x.route.MaxBody, x.p.o.MaxBody), copy: x.copy}
		if !x.r.isGRPC() {
			body.stall = x.p.o.StallTimeout
		}
		r.Body = body
	}
	return r.WithContext(ctx), body, nil
}

// sentBody is a request's body as net/http's transport reads it, which it might do when the request has ended.
type sentBody struct {
	p       *Proxy
	r       *request
	trailer http.Header // gets what follows the body
	w       client
	limit   int64
	stall   time.Duration // that the client may be silent; 0 is for ever, as a call's stream may be
	copy    *mirrorCopy
	gone    func() // called if the client goes away when all of the body has come

	reading sync.Mutex // held while it is read
	unheed  func() bool
	ended   atomic.Bool
	n       int64
}

// bodyError is an error that the client brought about.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }

func (b *sentBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.stall > 0 && !b.ended.Load() {
		_ = b.w.SetReadDeadline(time.Now().Add(b.stall))
	}
	if b.ended.Load() { // asked after the deadline was set: end sets it the other way round
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.r.body.Read(p)
	if b.n += int64(n); b.n > b.limit {
		return 0, &bodyError{&http.MaxBytesError{Limit: b.limit}}
	}
	if b.copy != nil {
		b.copy.add(p[:n])
	}
	switch {
	case err == io.EOF:
		if b.copy != nil {
			b.p.mirror(b.copy)
			b.copy = nil
		}
		b.unheed = b.w.onGone(b.gone)
		for _, f := range b.r.trailer() {
			b.trailer[f.name] = append(b.trailer[f.name], f.value)
		}
	case err != nil:
		err = &bodyError{err}
	}
	return n, err
}

// Close is the transport's. The body is closed by the server that it comes of.
func (b *sentBody) Close() error { return nil }

// end takes the body away from the transport and gives how much of it was read.
func (b *sentBody) end() int64 {
	b.ended.Store(true)
	if !b.reading.TryLock() {
		_ = b.w.SetReadDeadline(time.Unix(1, 0))
		b.reading.Lock()
	}
	defer b.reading.Unlock()
	if b.unheed != nil {
		b.unheed()
	}
	return b.n
}

// http2Client is a client whose request came from net/http.
type http2Client struct {
	w http.ResponseWriter
	*http.ResponseController
	ctx    context.Context
	buffer *[32 << 10]byte
}

func (c *http2Client) begin(a *reply) error {
	h := c.w.Header()
	for _, f := range a.header {
		h[f.name] = append(h[f.name], f.value)
	}
	if a.length >= 0 && bodyFollows(a.status) {
		h["Content-Length"] = []string{string(appendInt(nil, a.length))}
	}
	if len(a.announced) > 0 {
		h["Trailer"] = a.announced
	}
	c.w.WriteHeader(a.status)
	if a.status < 200 {
		clear(h)
	}
	return nil
}

func (c *http2Client) room() []byte {
	if c.buffer == nil {
		c.buffer = buffers.Get().(*[32 << 10]byte)
	}
	return c.buffer[:]
}

func (c *http2Client) sent(n int) error {
	if n == 0 {
		return nil
	}
	_, err := c.w.Write(c.buffer[:n])
	return err
}

func (c *http2Client) flush() error { return c.Flush() }

func (c *http2Client) done(trailer header) error {
	h := c.w.Header()
	for _, f := range trailer {
		name := f.name
		if !slices.Contains(h["Trailer"], name) {
			name = http.TrailerPrefix + name
		}
		h[name] = append(h[name], f.value)
	}
	return nil
}

func (c *http2Client) onGone(f func()) (stop func() bool) { return context.AfterFunc(c.ctx, f) }

func (c *http2Client) gone() bool { return c.ctx.Err() != nil }

func (c *http2Client) release() {
	if c.buffer != nil {
		buffers.Put(c.buffer)
	}
}
