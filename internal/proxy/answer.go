package proxy

import (
	"errors"
	"fmt"
	"html"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fail answers a request itself: status, and why in plain words. cause is for the log alone.
func (x *exchange) fail(status int, why string, cause error) {
	x.err = cause
	if cause == nil {
		x.err = errors.New(why)
	}
	if x.wrote {
		panic(errAbort)
	}
	if x.route != nil && x.route.GRPC && x.r.isGRPC() {
		x.failGRPC(status, why)
		return
	}
	text := fmt.Sprintf("%d %s\n\n%s.\nRequest %s\n", status, http.StatusText(status), why, x.head.id)
	kind := "text/plain; charset=utf-8"
	if strings.Contains(x.r.header.get("Accept"), "text/html") {
		kind = "text/html; charset=utf-8"
		title := fmt.Sprintf("%d %s", status, http.StatusText(status))
		text = fmt.Sprintf("<!doctype html>\n<title>%s</title>\n<style>body{font:1rem/1.5 system-ui;margin:15vh auto;max-width:34rem;padding:0 1rem}small{color:#666}</style>\n<h1>%s</h1>\n<p>%s.</p>\n<small>Request %s</small>\n",
			title, title, html.EscapeString(why), html.EscapeString(x.head.id))
	}
	body := x.r.method != http.MethodHead
	x.begin(&reply{status: status, length: int64(len(text)), body: body, header: append(x.own,
		field{"Content-Type", kind}, field{"Cache-Control", "no-store"}, field{"X-Content-Type-Options", "nosniff"}, field{"X-Request-Id", x.head.id})})
	if body {
		n := copy(x.w.room(), text)
		x.sent = int64(n)
		if err := x.w.sent(n); err != nil {
			x.gone(err)
		}
	}
	x.done(nil)
}

// failGRPC says it as gRPC's clients expect (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Responses").
func (x *exchange) failGRPC(status int, why string) {
	code := "14" // UNAVAILABLE
	switch status {
	case http.StatusGatewayTimeout:
		code = "4" // DEADLINE_EXCEEDED
	case http.StatusRequestEntityTooLarge:
		code = "8" // RESOURCE_EXHAUSTED
	}
	x.begin(&reply{status: http.StatusOK, length: -1, header: append(x.own,
		field{"Content-Type", "application/grpc"}, field{"Grpc-Status", code}, field{"Grpc-Message", fmt.Sprintf("%s (%d, request %s)", why, status, x.head.id)})})
	x.status = status
	x.done(nil)
}

// gone ends a request whose client did not wait for the end of its answer.
func (x *exchange) gone(err error) {
	if !x.wrote {
		x.status, x.wrote = statusGone, true
	}
	x.err = fmt.Errorf("the client went away: %w", err)
	panic(errAbort)
}

// badBody answers a request whose body cannot be had.
func (x *exchange) badBody(err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		x.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes, which is the most that is taken here", tooLarge.Limit), nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.fail(http.StatusRequestTimeout, "the body of the request did not come in time", nil)
	case x.w.gone():
		x.gone(err)
	default:
		x.fail(http.StatusBadRequest, "the body of the request is broken", err)
	}
}

// broken answers a request that a backend did not answer.
func (x *exchange) broken(answered bool, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		timeout := orDefault(x.route.ResponseTimeout, x.p.o.ResponseTimeout)
		x.fail(http.StatusGatewayTimeout, "the service did not begin to answer within "+timeout.Round(time.Millisecond).String(), err)
		return
	}
	x.pool.counters.resets.Add(1)
	why := "the service closed the connection without an answer"
	switch {
	case errors.Is(err, errHeadTooLarge):
		why = "the head of the service's answer is too large"
	case answered && !errors.Is(err, syscall.ECONNRESET):
		why = "what the service answered is not HTTP"
	}
	x.fail(http.StatusBadGateway, why, err)
}

func (x *exchange) setCookie(value string) {
	s := x.route.Sticky
	c := http.Cookie{Name: s.Cookie, Value: value, Path: "/", MaxAge: int(s.MaxAge / time.Second), HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: x.r.tls}
	x.own = header{{"Set-Cookie", c.String()}}
}

// passed keeps, in place, of a backend's headers what is not for one hop alone, and not said anew for the next.
func passed(h header) header {
	connection := h.hopByHop()
	return h.without(func(name string) bool {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Content-Length", "Upgrade", "Trailer", "Te", "Proxy-Authenticate", "Proxy-Authorization":
			return true
		}
		return slices.Contains(connection, name)
	})
}
