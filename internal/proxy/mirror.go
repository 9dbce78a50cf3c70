package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	maxMirrors    = 32      // copies under way at once
	maxCopies     = 96      // with those that wait, or whose body is coming; of more requests there are none
	maxMirrorBody = 1 << 20 // bytes: a request with more has no copy
	mirrorTime    = 30 * time.Second
	mirrorHeader  = "X-Penstock-Mirror"
)

// mirrorCopy is what a copy of a request is made of, gathered while the request itself is sent.
type mirrorCopy struct {
	pool   *pool
	method string
	url    url.URL
	host   string
	header http.Header
	body   bytes.Buffer
	over   bool // the body is too large
	grpc   bool
	copies *atomic.Int64 // of which this is one
	handed bool          // to whoever sends it; the request's own until then
}

func (c *mirrorCopy) add(p []byte) {
	if c.over = c.over || c.body.Len()+len(p) > maxMirrorBody; c.over {
		c.body = bytes.Buffer{}
		return
	}
	c.body.Write(p)
}

// beginMirror decides whether a request has a copy.
func (x *exchange) beginMirror() {
	rt := x.route
	if rt.mirror == nil || rt.mirror == x.pool || x.head.upgrade != "" || x.copy != nil || x.r.length > maxMirrorBody || rand.Float64()*100 >= rt.MirrorPercent {
		return
	}
	if x.p.copies.Add(1) > maxCopies {
		x.p.copies.Add(-1)
		return
	}
	c := &mirrorCopy{copies: &x.p.copies, pool: rt.mirror, method: x.r.method, host: x.r.host, header: x.onward(), grpc: rt.GRPC}
	target, err := url.ParseRequestURI(targetOf(&x.r, rt))
	if err != nil {
		c.abandon()
		return
	}
	c.url = *target
	c.url.Scheme, c.url.Host = "http", "backend"
	c.header[mirrorHeader] = []string{"true"}
	if !rt.GRPC {
		c.add(x.out[x.headBytes:])
	}
	x.copy = c
	if x.r.body == nil || !rt.GRPC && !x.streams {
		x.p.mirror(c)
	}
}

// mirror hands over a copy whose body is complete. Nobody waits: there is room for all copies that there are.
func (p *Proxy) mirror(c *mirrorCopy) {
	if !c.over {
		c.handed = true
		p.mirrors <- c
	}
}

// abandon gives up the copy of a request that has ended, unless it is being sent.
func (c *mirrorCopy) abandon() {
	if c != nil && !c.handed {
		c.copies.Add(-1)
	}
}

// sendMirrors sends copies until ctx ends.
func (p *Proxy) sendMirrors(ctx context.Context) {
	for {
		select {
		case c := <-p.mirrors:
			c.send(ctx)
			c.copies.Add(-1)
		case <-ctx.Done():
			return
		}
	}
}

// send counts for the pool what its backend answers.
func (c *mirrorCopy) send(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTime)
	defer cancel()
	b := c.pool.pick(nil)
	if b == nil || !b.enter() {
		return
	}
	defer b.leave()
	n := c.pool.counters
	n.inFlight.Add(1)
	defer n.inFlight.Add(-1)
	n.mirrored.Add(1)
	began := time.Now()
	r := (&http.Request{Method: c.method, URL: &c.url, Host: c.host, Header: c.header}).WithContext(ctx)
	if c.body.Len() > 0 {
		r.Body, r.ContentLength = io.NopCloser(&c.body), int64(c.body.Len())
	}
	n.in.Add(uint64(c.body.Len()))
	res, err := b.transport(c.grpc).RoundTrip(r)
	if err != nil {
		var failed *connectError
		if errors.As(err, &failed) {
			n.connectFailures.Add(1)
		} else {
			n.resets.Add(1)
		}
		n.observe(http.StatusBadGateway, time.Since(began))
		return
	}
	read, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxMirrorBody))
	_ = res.Body.Close()
	n.out.Add(uint64(read))
	if err != nil {
		n.resets.Add(1)
	}
	n.observe(res.StatusCode, time.Since(began))
}
