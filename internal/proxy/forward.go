package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	smallBody    = 64 << 10 // bytes: a body that is read whole before a backend is asked for
	maxInterim   = 8        // 1xx answers before the one that counts
	maxWaiting   = 4_096    // requests that wait at paused routes
	continueWait = time.Second
	slowestBody  = 1 << 10 // bytes per second on the average, of a body whose length is known
	statusGone   = 499     // in metrics and logs: the client did not wait for its answer
)

// exchange is one request and its answer.
type exchange struct {
	p       *Proxy
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	conn    *clientConn // if it is for us to see whether the client is still there; else the request's context tells
	began   time.Time
	head    head
	route   *route
	pool    *pool
	backend *backend

	out       []byte // the head that is sent on, and a small body
	headBytes int    // of out
	streams   bool   // the body is not in out but sent as it comes
	copy      *mirrorCopy

	status   int
	wrote    bool // the head of the answer
	in, sent int64
	err      error // why the proxy, or what it talks to, failed the request
	upgraded bool
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// buffers are for copying bodies.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ServeHTTP carries a request. The proxy's own servers call it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "PRI" && r.RequestURI == "*" && r.ProtoMajor == 2 {
		p.serveClearHTTP2(w)
		return
	}
	x := exchanges.Get().(*exchange)
	out := x.out[:0]
	*x = exchange{p: p, w: w, r: r, began: time.Now(), out: out}
	x.rc = http.NewResponseController(w)
	if c, ok := r.Context().Value(clientConnKey{}).(*clientConn); ok {
		if r.Body == http.NoBody {
			x.conn = c
		} else {
			c.reads.Store(true) // net/http looks when the body has been read, or finds out by reading
		}
	}
	defer x.end()
	x.head = p.newHead(r)
	if p.ending.Load() || r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
		// The proxy is going; or the message might be framed in two ways, which net/http does not tell, so that what
		// follows on the connection is not trusted (RFC 9112, section 6.1).
		w.Header()["Connection"] = closeHeader
	}
	x.serve()
}

var closeHeader = []string{"close"}

// errAbort ends a request whose answer has begun and cannot be brought to its end.
var errAbort = http.ErrAbortHandler

func (x *exchange) end() {
	broken := recover()
	if broken != nil && broken != errAbort {
		x.p.o.Log.Error("a request made the proxy panic", "panic", broken, "request_id", x.head.id, "stack", string(debug.Stack()))
		if x.status == 0 {
			x.status = http.StatusInternalServerError
		}
		broken = errAbort
	}
	if !x.upgraded {
		x.count(time.Since(x.began))
	}
	x.finish()
	x.copy.abandon()
	if cap(x.out) > 16<<10 {
		x.out = nil
	}
	*x = exchange{out: x.out}
	exchanges.Put(x)
	if broken != nil {
		panic(broken)
	}
}

// count counts the answer.
func (x *exchange) count(took time.Duration) {
	if c := x.counters(); c != nil {
		c.observe(x.status, took)
	}
}

func (x *exchange) counters() *counters {
	switch {
	case x.pool != nil:
		return x.pool.counters
	case x.route != nil:
		return x.route.unrouted
	}
	return nil
}

// finish counts and logs what is known when all has been sent.
func (x *exchange) finish() {
	if c := x.counters(); c != nil {
		c.in.Add(uint64(x.in))
		c.out.Add(uint64(x.sent))
	}
	if x.p.log != nil {
		x.p.log.record(x, time.Since(x.began))
	}
}

// onGone calls f if the client goes away before stop is called, which is false if f has been called.
func (x *exchange) onGone(f func()) (stop func() bool) {
	if x.conn != nil {
		return x.conn.watch(f)
	}
	return context.AfterFunc(x.r.Context(), f)
}

func (x *exchange) hasGone() bool {
	return x.r.Context().Err() != nil || x.conn != nil && x.conn.gone.Load()
}

func (x *exchange) serve() {
	r := x.r
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		x.w.Header()["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
		x.fail(http.StatusMethodNotAllowed, "this proxy does not carry "+r.Method+" requests", nil)
		return
	}
	for {
		t := x.p.table.Load()
		x.route = t.match(r.Host, r.URL.Path)
		if x.route == nil {
			x.fail(http.StatusNotFound, "nothing is served at "+cleanHost(r.Host)+" under this path", nil)
			return
		}
		if x.route.Paused {
			if !x.wait(t.next) {
				return
			}
			continue
		}
		pl, setCookie := x.p.choose(x.route, r)
		if pl == nil {
			x.fail(http.StatusServiceUnavailable, "no revision of this service takes traffic at the moment", nil)
			return
		}
		x.pool = pl
		if x.forward(t, setCookie) {
			return
		}
		// The table has changed and its backends are gone: look again.
		x.pool, x.backend = nil, nil
	}
}

// wait lets a request wait at a paused route until another table comes. It answers the request itself if that takes too
// long.
func (x *exchange) wait(next <-chan struct{}) bool {
	left := x.p.o.PauseLimit - time.Since(x.began)
	if x.p.waiting.Add(1) > maxWaiting {
		left = 0
	}
	defer x.p.waiting.Add(-1)
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-next:
		return true
	default:
	}
	gone := make(chan struct{})
	stop := x.onGone(func() { close(gone) })
	defer stop()
	select {
	case <-next:
		return true
	case <-gone:
		x.gone(errors.New("it was waiting at a paused route"))
	case <-timer.C:
		x.w.Header()["Retry-After"] = []string{"5"}
		x.fail(http.StatusServiceUnavailable, "this service is paused, and the request has waited as long as it may", nil)
	}
	return false
}

// forward sends the request to a backend of the pool and its answer to the client. It is false, and nothing has been done,
// if the table has changed meanwhile.
func (x *exchange) forward(t *table, setCookie string) bool {
	if limit := orDefault(x.route.MaxBody, x.p.o.MaxBody); x.r.ContentLength > limit {
		x.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes; at most %d are taken here", x.r.ContentLength, limit), nil)
		return true
	}
	x.pool.counters.inFlight.Add(1)
	defer x.pool.counters.inFlight.Add(-1)
	if !x.route.GRPC && !x.prepare() {
		return true
	}
	if setCookie != "" {
		x.setCookie(setCookie)
	}
	x.beginMirror()

	var tried []*backend
	var last error
	for range maxTries {
		b := x.pool.pick(tried)
		if b == nil {
			break
		}
		if !b.enter() {
			if x.p.table.Load() != t && len(tried) == 0 {
				x.w.Header().Del("Set-Cookie")
				return false
			}
			tried = append(tried, b)
			continue
		}
		if last != nil {
			x.pool.counters.retries.Add(1)
		}
		retry, err := x.attempt(b)
		if !retry {
			return true
		}
		last = err
		tried = append(tried, b)
	}
	if last == nil {
		x.fail(http.StatusServiceUnavailable, "no instance of this service is running at the moment", nil)
		return true
	}
	x.fail(http.StatusBadGateway, "no instance of this service can be connected to", last)
	return true
}

// maxTries bounds the backends that are tried for one request.
const maxTries = 3

// attempt makes one try with a backend. With retry the backend could not be connected to, and nothing has been sent.
func (x *exchange) attempt(b *backend) (retry bool, err error) {
	defer b.leave()
	x.backend = b
	if x.route.GRPC {
		return x.forwardHTTP2(b)
	}
	repeatable := !x.streams && idempotent(x.r.Method)
	u, err := b.connect(x.r.Context(), repeatable)
	for {
		if err != nil {
			if x.hasGone() {
				x.gone(err)
			}
			x.pool.counters.connectFailures.Add(1)
			return true, err
		}
		if stale := x.exchangeOver(b, u, repeatable); !stale {
			return false, nil
		}
		x.pool.counters.retries.Add(1)
		u, err = b.connectAnew(x.r.Context())
	}
}

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// prepare writes the request as it is sent on, and reads a small body, if that has not been done by a table before.
func (x *exchange) prepare() bool {
	x.head.target = targetOf(x.r, x.route)
	length := x.r.ContentLength
	if x.r.Body == nil || x.r.Body == http.NoBody {
		length = 0
	}
	body := slices.Clone(x.out[x.headBytes:])
	var good bool
	if x.out, good = x.head.append(x.out[:0], x.r, length); !good {
		x.fail(http.StatusBadRequest, "a header of the request holds characters that none may hold", nil)
		return false
	}
	x.headBytes = len(x.out)
	switch {
	case length == 0:
		return true
	case length < 0 || length > smallBody || expectsContinue(x.r):
		x.streams = true
		return true
	case len(body) > 0:
		x.out = append(x.out, body...)
		return true
	}
	_ = x.rc.SetReadDeadline(time.Now().Add(x.p.o.StallTimeout))
	x.out = append(x.out, make([]byte, length)...)
	n, err := io.ReadFull(x.r.Body, x.out[x.headBytes:])
	x.in = int64(n)
	if err != nil {
		x.badBody(err)
		return false
	}
	_, _ = x.r.Body.Read(x.out[len(x.out):]) // the end: from here on net/http looks whether the client is still there
	_ = x.rc.SetReadDeadline(time.Time{})
	return true
}

// exchangeOver sends the request over a connection and the answer to the client. It is true if the backend had closed the
// connection before the request came, and it is to be sent again over another.
func (x *exchange) exchangeOver(b *backend, u *upstream, repeatable bool) (stale bool) {
	keep := false
	var send *sender
	stop := x.onGone(u.abort)
	defer func() {
		if send != nil && !send.finished() {
			keep = false
			_ = u.Close()
			_ = x.rc.SetReadDeadline(time.Unix(1, 0)) // it may be reading the client's body
			<-send.done
		}
		if !stop() || !keep || u.br.Buffered() > 0 {
			_ = u.Close()
			return
		}
		b.put(u)
	}()

	u.begin()
	timeout := orDefault(x.route.ResponseTimeout, x.p.o.ResponseTimeout)
	deadline := time.Now().Add(timeout)
	if x.streams {
		_ = u.SetReadDeadline(time.Time{})
		_ = u.SetWriteDeadline(deadline)
	} else {
		_ = u.SetDeadline(deadline)
	}
	_, err := u.Write(x.out)
	if err == nil && x.streams {
		if x.r.ProtoMajor == 1 {
			_ = x.rc.EnableFullDuplex()
		}
		if !expectsContinue(x.r) || x.toldToContinue(u, timeout) {
			send = x.startSender(u, timeout)
		}
	}
	var res *http.Response
	if err == nil {
		res, err = x.readAnswer(u, &send, timeout)
	}
	if err != nil {
		if send != nil {
			if x.hasGone() {
				<-send.done // it reads nothing more; perhaps what it read last is why
			}
			if bodyErr := send.body.Load(); bodyErr != nil {
				<-send.done
				x.badBody(*bodyErr)
				return false
			}
		}
		if x.hasGone() {
			x.gone(err)
		}
		if u.reused && !u.answered && repeatable && !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		x.broken(u.answered, err)
		return false
	}
	if send != nil {
		send.headSeen()
	} else {
		_ = u.SetReadDeadline(time.Time{})
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.tunnel(u, res, stop)
		return false
	}
	u.headLeft = -1
	if x.r.ProtoMajor == 1 && (send == nil && x.streams || send != nil && !send.finished()) {
		x.w.Header()["Connection"] = closeHeader // what is left of the body is not read
	}
	whole := x.answer(res, u.br)
	keep = whole && !res.Close && x.head.upgrade == "" && (!x.streams || send != nil && send.finished() && send.broken == nil)
	return false
}

// readAnswer reads the answer that counts, and passes on the interim ones before it.
func (x *exchange) readAnswer(u *upstream, send **sender, timeout time.Duration) (*http.Response, error) {
	for range maxInterim {
		res, err := u.readHead(x.r.Method)
		if err != nil {
			return nil, err
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols || res.StatusCode >= 200:
			return res, nil
		case res.StatusCode == http.StatusContinue:
			if x.streams && *send == nil {
				*send = x.startSender(u, timeout)
			}
		case x.r.ProtoAtLeast(1, 1):
			kept := x.w.Header().Clone()
			copyHeader(x.w.Header(), res.Header)
			x.w.WriteHeader(res.StatusCode)
			clear(x.w.Header())
			for name, values := range kept {
				x.w.Header()[name] = values
			}
		}
	}
	return nil, fmt.Errorf("more than %d interim answers", maxInterim)
}

// toldToContinue waits a moment for a backend to say whether it wants the body. It is false if there is an answer to read,
// be it that one.
func (x *exchange) toldToContinue(u *upstream, timeout time.Duration) bool {
	_ = u.SetReadDeadline(time.Now().Add(continueWait))
	_, err := u.br.Peek(1)
	_ = u.SetReadDeadline(time.Now().Add(timeout))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// sender sends a body while the answer may be coming already.
type sender struct {
	u      *upstream
	done   chan struct{}
	broken error                 // to the backend; set before done is closed
	body   atomic.Pointer[error] // of the client; set before the connection to the backend is closed for it
	head   atomic.Bool           // the answer has begun
}

func (s *sender) finished() bool { return isClosed(s.done) }

// headSeen lifts the limit for the first byte of the answer, which the sender sets when the body has been sent.
func (s *sender) headSeen() {
	s.head.Store(true)
	_ = s.u.SetReadDeadline(time.Time{})
}

func (x *exchange) startSender(u *upstream, timeout time.Duration) *sender {
	s := &sender{done: make(chan struct{}), u: u}
	_ = u.SetReadDeadline(time.Time{})
	go func() {
		defer close(s.done)
		clients, err := x.send(u, timeout)
		s.broken = err
		if clients {
			s.body.Store(&err)
			_ = u.Close() // whoever waits for the answer need not
			return
		}
		_ = u.SetReadDeadline(time.Now().Add(timeout))
		if s.head.Load() {
			_ = u.SetReadDeadline(time.Time{})
		}
	}()
	return s
}

// send copies the request's body to the backend. clients says whose an error is.
func (x *exchange) send(u *upstream, timeout time.Duration) (clients bool, err error) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	chunked := x.r.ContentLength < 0
	limit := orDefault(x.route.MaxBody, x.p.o.MaxBody)
	const front = 8 // room for the length of a chunk
	for {
		_ = x.rc.SetReadDeadline(x.bodyDue())
		n, err := x.r.Body.Read(buf[front : len(buf)-2])
		if err != nil && err != io.EOF {
			return true, err
		}
		if n > 0 {
			if x.in += int64(n); x.in > limit {
				return true, &http.MaxBytesError{Limit: limit}
			}
			from, to := front, front+n
			if chunked {
				size := appendHex(buf[:0:front], n)
				from = front - len(size)
				copy(buf[from:], size)
				to += copy(buf[to:], "\r\n")
			}
			if x.copy != nil {
				x.copy.add(buf[front : front+n])
			}
			_ = u.SetWriteDeadline(time.Now().Add(timeout))
			if _, err := u.Write(buf[from:to]); err != nil {
				return false, err
			}
		}
		if err == io.EOF {
			break
		}
	}
	_ = x.rc.SetReadDeadline(time.Time{})
	if x.copy != nil {
		x.p.mirror(x.copy)
	}
	if !chunked {
		return false, nil
	}
	last := append(buf[:0], "0\r\n"...)
	for name, values := range x.r.Trailer {
		for _, v := range values {
			if !goodTrailer(name) || !plainValue(v) || len(last)+len(name)+len(v)+6 > len(buf) {
				continue
			}
			last = append(last, name...)
			last = append(last, ": "...)
			last = append(last, v...)
			last = append(last, "\r\n"...)
		}
	}
	last = append(last, "\r\n"...)
	_, err = u.Write(last)
	return false, err
}

// bodyDue is until when more of the body is to come. A body whose length is known does not come at a trickle either.
func (x *exchange) bodyDue() time.Time {
	due := time.Now().Add(x.p.o.StallTimeout)
	if x.r.ContentLength > 0 {
		if slowest := x.began.Add(x.p.o.StallTimeout + time.Duration(x.in/slowestBody)*time.Second); slowest.Before(due) {
			return slowest
		}
	}
	return due
}

// appendHex writes the length of a chunk and the end of its line.
func appendHex(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	shift := 12
	for shift > 0 && n>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return append(b, "\r\n"...)
}

// answer sends an answer to the client. more says how much of it has come already. It is true if all of it has been sent.
func (x *exchange) answer(res *http.Response, more *bufio.Reader) (whole bool) {
	h := x.w.Header()
	copyHeader(h, res.Header)
	if res.ContentLength >= 0 && len(res.Header["Content-Length"]) == 0 && x.r.Method != http.MethodHead && res.StatusCode >= 200 && res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusNotModified {
		h["Content-Length"] = []string{string(appendInt(nil, res.ContentLength))}
	}
	if len(h["X-Request-Id"]) == 0 {
		h["X-Request-Id"] = []string{x.head.id}
	}
	for name := range res.Trailer {
		if goodTrailer(name) {
			h.Add("Trailer", name)
		}
	}
	x.status, x.wrote = res.StatusCode, true
	x.w.WriteHeader(res.StatusCode)
	if res.Body == http.NoBody || x.r.Method == http.MethodHead {
		return true
	}
	streams := res.ContentLength < 0
	held := true // something has been written that may not have been sent
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		if streams && held && (more == nil || more.Buffered() == 0) {
			if err := x.rc.Flush(); err != nil {
				x.gone(err)
			}
			held = false
		}
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			x.sent += int64(n)
			if _, err := x.w.Write(buf[:n]); err != nil {
				x.gone(err)
			}
			held = true
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if x.hasGone() {
				x.gone(err)
			}
			x.err = fmt.Errorf("the answer broke off: %w", err)
			x.pool.counters.resets.Add(1)
			panic(errAbort) // the client is to see that something is missing
		}
	}
	for name, values := range res.Trailer {
		if !goodTrailer(name) {
			continue
		}
		if !slices.Contains(h["Trailer"], name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return true
}
