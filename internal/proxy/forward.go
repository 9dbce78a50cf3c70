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
	w       client
	ctx     context.Context
	r       request
	began   time.Time
	head    head
	route   *route
	pool    *pool
	backend *backend

	out       []byte // the head that is sent on, and a small body
	headBytes int    // of out
	streams   bool   // the body is not in out but sent as it comes
	send      *sender
	copy      *mirrorCopy

	own      header // of the answer, beside the backend's
	status   int
	wrote    bool // the head of the answer
	in, sent int64
	err      error // why the proxy, or what it talks to, failed the request
	upgraded bool

	due    time.Time   // when the backend's silence is too long
	unheed func() bool // ends watching whether the client is still there
}

// client is who asked: by HTTP/1 the front (see front.go), by HTTP/2 net/http's server.
type client interface {
	// begin gives the head of an answer: any number of interim ones, each sent at once, and then the one that counts.
	begin(a *reply) error
	// room is where the next part of the body is to be put, whose length sent takes.
	room() []byte
	sent(n int) error
	flush() error
	// done ends the answer, with what follows a body in chunks.
	done(trailer header) error

	SetReadDeadline(t time.Time) error // of the request's body
	onGone(f func()) (stop func() bool)
	gone() bool
}

// reply is the head of an answer as a client gets it.
type reply struct {
	status    int
	header    header
	length    int64 // of the body; negative if it is not known, or not to be told
	body      bool  // one follows
	announced []string
	closes    bool // the connection ends with it
	unread    bool // the request has not been read to its end
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// buffers are for copying bodies.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ServeHTTP carries a request. The proxy's own servers of HTTP/2 call it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	c := &http2Client{w: w, ResponseController: http.NewResponseController(w), ctx: r.Context()}
	x.p, x.w, x.ctx, x.began = p, c, r.Context(), time.Now()
	whole := x.run(x.r.ofHTTP2(r))
	c.release()
	if !whole {
		panic(http.ErrAbortHandler)
	}
}

// errAbort ends a request whose answer has begun and cannot be brought to its end.
var errAbort = errors.New("the answer is broken off")

// run carries the request, unless it is refused. It is false if the answer has not come to its end: the client is to see
// that something is missing.
func (x *exchange) run(refused error) (whole bool) {
	defer x.end(&whole)
	x.head = x.p.newHead(&x.r)
	if refused != nil {
		why := refused.(*badRequest)
		x.fail(why.status, why.why, nil)
		return
	}
	x.serve()
	return
}

func (x *exchange) end(whole *bool) {
	broken := recover()
	*whole = broken == nil
	if broken != nil && broken != errAbort {
		x.p.o.Log.Error("a request made the proxy panic", "panic", broken, "request_id", x.head.id, "stack", string(debug.Stack()))
		if x.status == 0 {
			x.status = http.StatusInternalServerError
		}
	}
	took := time.Since(x.began)
	if !x.upgraded {
		x.count(took)
	}
	x.finish(took)
	x.copy.abandon()
	if cap(x.out) > 16<<10 {
		x.out = nil
	}
	clear(x.r.header)
	*x = exchange{out: x.out[:0], r: request{header: x.r.header[:0]}}
	exchanges.Put(x)
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
func (x *exchange) finish(took time.Duration) {
	if c := x.counters(); c != nil {
		c.in.Add(uint64(x.in))
		c.out.Add(uint64(x.sent))
	}
	if x.p.log != nil {
		x.p.log.record(x, took)
	}
}

// heed has f called if the client goes away before ignore is called.
func (x *exchange) heed(f func()) {
	if x.unheed == nil {
		x.unheed = x.w.onGone(f)
	}
}

// ignore ends heed. It is false if the client has gone.
func (x *exchange) ignore() bool {
	there := x.unheed == nil || x.unheed()
	x.unheed = nil
	return there
}

func (x *exchange) serve() {
	r := &x.r
	if r.method == http.MethodConnect || r.method == http.MethodTrace {
		x.own = header{{"Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}}
		x.fail(http.StatusMethodNotAllowed, "this proxy does not carry "+r.method+" requests", nil)
		return
	}
	for {
		t := x.p.table.Load()
		x.route = t.match(r.host, r.path)
		if x.route == nil {
			x.fail(http.StatusNotFound, "nothing is served at "+cleanHost(r.host)+" under this path", nil)
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
	x.heed(func() { close(gone) })
	defer x.ignore()
	select {
	case <-next:
		return true
	case <-gone:
		x.gone(errors.New("it was waiting at a paused route"))
	case <-timer.C:
		x.own = header{{"Retry-After", "5"}}
		x.fail(http.StatusServiceUnavailable, "this service is paused, and the request has waited as long as it may", nil)
	}
	return false
}

// forward sends the request to a backend of the pool and its answer to the client. It is false, and nothing has been done,
// if the table has changed meanwhile.
func (x *exchange) forward(t *table, setCookie string) bool {
	if limit := orDefault(x.route.MaxBody, x.p.o.MaxBody); x.r.length > limit {
		x.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes; at most %d are taken here", x.r.length, limit), nil)
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
	if x.p.table.Load() != t {
		x.own = nil
		return false
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
	repeatable := !x.streams && idempotent(x.r.method)
	u, err := b.connect(x.ctx, x.began, repeatable)
	for {
		if err != nil {
			if x.w.gone() {
				x.gone(err)
			}
			x.pool.counters.connectFailures.Add(1)
			return true, err
		}
		if stale := x.exchangeOver(b, u, repeatable); !stale {
			return false, nil
		}
		x.pool.counters.retries.Add(1)
		u, err = b.connectAnew(x.ctx)
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
	x.head.target = targetOf(&x.r, x.route)
	var small []byte
	if x.headBytes > 0 {
		small = slices.Clone(x.out[x.headBytes:])
	}
	x.out = x.head.append(x.out[:0], &x.r)
	x.headBytes = len(x.out)
	length := x.r.length
	switch {
	case length == 0:
		return true
	case length < 0 || length > smallBody || x.r.expects():
		x.streams = true
		return true
	case len(small) > 0:
		x.out = append(x.out, small...)
		return true
	}
	_ = x.w.SetReadDeadline(time.Now().Add(x.p.o.StallTimeout))
	x.out = append(x.out, make([]byte, length)...)
	n, err := io.ReadFull(x.r.body, x.out[x.headBytes:])
	x.in = int64(n)
	if err != nil {
		x.badBody(err)
		return false
	}
	if x.r.two != nil {
		_, _ = x.r.body.Read(x.out[len(x.out):]) // its end
	}
	_ = x.w.SetReadDeadline(time.Time{})
	return true
}

// exchangeOver sends the request over a connection and the answer to the client. It is true if the backend had closed the
// connection before the request came, and it is to be sent again over another.
func (x *exchange) exchangeOver(b *backend, u *upstream, repeatable bool) (stale bool) {
	keep := false
	defer func() {
		u.waits = nil
		if x.send != nil {
			if !x.send.finished() {
				keep = false
				_ = u.Close()
				_ = x.w.SetReadDeadline(time.Unix(1, 0)) // it may be reading the client's body
				<-x.send.done
			}
			if x.send.unheed != nil && !x.send.unheed() {
				keep = false
			}
		}
		if !x.ignore() || !keep || u.br.Buffered() > 0 {
			_ = u.Close()
			return
		}
		b.put(u, time.Now())
	}()

	u.begin()
	timeout := orDefault(x.route.ResponseTimeout, x.p.o.ResponseTimeout)
	now := time.Now()
	_ = u.SetWriteDeadline(now.Add(timeout))
	if x.streams {
		x.heed(u.abort)
		_ = u.SetReadDeadline(time.Time{})
	} else {
		x.await(u, now, now.Add(timeout))
	}
	_, err := u.Write(x.out)
	if err == nil && x.streams && (!x.r.expects() || x.toldToContinue(u, timeout)) {
		x.startSender(u, timeout)
	}
	var res *response
	if err == nil {
		res, err = x.readAnswer(u, timeout)
	}
	if err != nil {
		if x.send != nil {
			if x.w.gone() {
				<-x.send.done // it reads nothing more; perhaps what it read last is why
			}
			if bodyErr := x.send.body.Load(); bodyErr != nil {
				<-x.send.done
				x.badBody(*bodyErr)
				return false
			}
		}
		if x.w.gone() {
			x.gone(err)
		}
		if u.reused && !u.answered && repeatable && !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		x.broken(u.answered, err)
		return false
	}
	switch {
	case x.send != nil:
		x.send.headSeen()
	case res.body == nil: // there is nothing more to wait for
	case x.streams:
		_ = u.SetReadDeadline(time.Time{})
	default:
		x.await(u, now, time.Time{})
	}
	if res.status == http.StatusSwitchingProtocols {
		x.tunnel(u, res)
		return false
	}
	whole := x.answer(res, u.br)
	keep = whole && !res.closes && x.head.upgrade == "" && (!x.streams || x.send != nil && x.send.finished() && x.send.broken == nil)
	return false
}

// await has the backend answer until due, if that is not zero. As long as it has not been silent for a moment, nobody looks
// whether the client is still there.
func (x *exchange) await(u *upstream, now, due time.Time) {
	x.due = due
	soon := now.Add(watchAfter)
	if x.unheed != nil || !due.IsZero() && due.Before(soon) {
		soon = due
	} else {
		u.waits = x
	}
	_ = u.SetReadDeadline(soon)
}

// waitsLong is called when the moment has passed.
func (x *exchange) waitsLong(u *upstream) {
	x.heed(u.abort)
	_ = u.SetReadDeadline(x.due)
}

// readAnswer reads the answer that counts, and passes on the interim ones before it.
func (x *exchange) readAnswer(u *upstream, timeout time.Duration) (*response, error) {
	for range maxInterim {
		res, err := u.readHead(x.r.method)
		if err != nil {
			return nil, err
		}
		switch {
		case res.status == http.StatusSwitchingProtocols || res.status >= 200:
			return res, nil
		case res.status == http.StatusContinue:
			if x.streams && x.send == nil {
				x.startSender(u, timeout)
			}
		case x.r.atLeast11():
			if err := x.w.begin(&reply{status: res.status, header: passed(res.header), length: -1}); err != nil {
				x.gone(err)
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
	read   atomic.Bool           // all of the body has been read
	unheed func() bool           // see exchange.heed: the client is there to be watched since its body has come
}

func (s *sender) finished() bool { return isClosed(s.done) }

// headSeen lifts the limit for the first byte of the answer, which the sender sets when the body has been sent.
func (s *sender) headSeen() {
	s.head.Store(true)
	_ = s.u.SetReadDeadline(time.Time{})
}

func (x *exchange) startSender(u *upstream, timeout time.Duration) {
	if x.r.major == 1 && x.r.expects() {
		if err := x.w.begin(&reply{status: http.StatusContinue, length: -1}); err != nil {
			x.gone(err)
		}
	}
	s := &sender{done: make(chan struct{}), u: u}
	x.send = s
	_ = u.SetReadDeadline(time.Time{})
	go func() {
		defer close(s.done)
		clients, err := x.sendBody(s, timeout)
		s.broken = err
		if clients {
			s.body.Store(&err)
			_ = u.Close() // whoever waits for the answer need not
			return
		}
		if err == nil {
			s.unheed = x.w.onGone(u.abort)
		}
		_ = u.SetReadDeadline(time.Now().Add(timeout))
		if s.head.Load() {
			_ = u.SetReadDeadline(time.Time{})
		}
	}()
}

// sendBody copies the request's body to the backend. clients says whose an error is.
func (x *exchange) sendBody(s *sender, timeout time.Duration) (clients bool, err error) {
	u := s.u
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	chunked := x.r.length < 0
	limit := orDefault(x.route.MaxBody, x.p.o.MaxBody)
	const front = 8 // room for the length of a chunk
	for {
		_ = x.w.SetReadDeadline(x.bodyDue())
		n, err := x.r.body.Read(buf[front : len(buf)-2])
		if err != nil && err != io.EOF {
			return true, err
		}
		if err == io.EOF { // said before the backend has all, since it may answer then
			s.read.Store(true)
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
	_ = x.w.SetReadDeadline(time.Time{})
	if x.copy != nil {
		x.p.mirror(x.copy)
	}
	if !chunked {
		return false, nil
	}
	last := append(buf[:0], "0\r\n"...)
	for _, f := range x.r.trailer() {
		if len(last)+len(f.name)+len(f.value)+6 <= len(buf) {
			last = appendField(last, f.name, f.value)
		}
	}
	last = append(last, "\r\n"...)
	_, err = u.Write(last)
	return false, err
}

// bodyDue is until when more of the body is to come. A body whose length is known does not come at a trickle either.
func (x *exchange) bodyDue() time.Time {
	due := time.Now().Add(x.p.o.StallTimeout)
	if x.r.length > 0 {
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
func (x *exchange) answer(res *response, more *bufio.Reader) (whole bool) {
	h := passed(res.header)
	if h.get("X-Request-Id") == "" {
		h = append(h, field{"X-Request-Id", x.head.id})
	}
	a := &reply{status: res.status, header: append(h, x.own...), length: res.length, body: res.body != nil, announced: res.announced}
	x.begin(a)
	if res.body == nil {
		x.done(nil)
		return true
	}
	held, waits := 0, true // bytes that have not been sent, and whether anything has not
	for {
		if waits && (res.length < 0 || held > readerSize) && (more == nil || more.Buffered() == 0) {
			if err := x.w.flush(); err != nil {
				x.gone(err)
			}
			held, waits = 0, false
		}
		n, err := res.body.Read(x.w.room())
		x.sent += int64(n)
		held, waits = held+n, waits || n > 0
		if err := x.w.sent(n); err != nil {
			x.gone(err)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if x.w.gone() {
				x.gone(err)
			}
			_ = x.w.flush()
			x.err = fmt.Errorf("the answer broke off: %w", err)
			x.pool.counters.resets.Add(1)
			panic(errAbort)
		}
	}
	x.done(res.trailer())
	return true
}

// begin sends the head of the answer that counts.
func (x *exchange) begin(a *reply) {
	switch {
	case x.send != nil:
		a.unread = !x.send.read.Load()
	case x.streams:
		a.unread = true
	default:
		a.unread = !x.r.in.ended()
	}
	a.closes = a.unread || x.r.closes || x.p.ending.Load()
	x.status, x.wrote = a.status, true
	if err := x.w.begin(a); err != nil {
		x.gone(err)
	}
}

func (x *exchange) done(trailer header) {
	if err := x.w.done(trailer); err != nil {
		x.gone(err)
	}
}
