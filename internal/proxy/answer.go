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
	x.status, x.wrote = status, true
	if x.route != nil && x.route.GRPC && isGRPC(x.r) {
		x.failGRPC(status, why)
		return
	}
	text := fmt.Sprintf("%d %s\n\n%s.\nRequest %s\n", status, http.StatusText(status), why, x.head.id)
	kind := "text/plain; charset=utf-8"
	if strings.Contains(x.r.Header.Get("Accept"), "text/html") {
		kind = "text/html; charset=utf-8"
		title := fmt.Sprintf("%d %s", status, http.StatusText(status))
		text = fmt.Sprintf("<!doctype html>\n<title>%s</title>\n<style>body{font:1rem/1.5 system-ui;margin:15vh auto;max-width:34rem;padding:0 1rem}small{color:#666}</style>\n<h1>%s</h1>\n<p>%s.</p>\n<small>Request %s</small>\n",
			title, title, html.EscapeString(why), html.EscapeString(x.head.id))
	}
	h := x.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", fmt.Sprint(len(text)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Request-Id", x.head.id)
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		n, _ := x.w.Write([]byte(text))
		x.sent = int64(n)
	}
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
	h := x.w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", code)
	h.Set("Grpc-Message", fmt.Sprintf("%s (%d, request %s)", why, status, x.head.id))
	x.w.WriteHeader(http.StatusOK)
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
	if x.r.ProtoMajor == 1 {
		x.w.Header()["Connection"] = closeHeader
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		x.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes, which is the most that is taken here", tooLarge.Limit), nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.fail(http.StatusRequestTimeout, "the body of the request did not come in time", nil)
	case x.hasGone():
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
	c := http.Cookie{Name: s.Cookie, Value: value, Path: "/", MaxAge: int(s.MaxAge / time.Second), HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: x.r.TLS != nil}
	x.w.Header()["Set-Cookie"] = []string{c.String()}
}

// copyHeader copies what is not for one hop alone. What is there already stays beside it.
func copyHeader(to, from http.Header) {
	connection := connectionHeaders(from)
	for name, values := range from {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "Trailer", "Te", "Proxy-Authenticate", "Proxy-Authorization":
			continue
		}
		if len(connection) > 0 && slices.Contains(connection, name) {
			continue
		}
		if before := to[name]; len(before) > 0 && name == "Set-Cookie" {
			values = append(before[:len(before):len(before)], values...)
		}
		to[name] = values
	}
}
