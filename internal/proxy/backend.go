package proxy

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	upstreamIdle    = 60 * time.Second // that a connection to a backend stays open unused
	maxIdle         = 256              // connections to one backend kept open unused
	ejectAfter      = 3                // connect failures on end
	ejectFor        = 10 * time.Second
	dialTimeout     = 5 * time.Second
	maxResponseHead = 256 << 10 // bytes of the head of an answer, with its interim ones
)

// backend is the state of one address while it is in tables: its connections and its health.
type backend struct {
	addr     string
	inFlight atomic.Int64
	retired  atomic.Bool   // it is in no table any more; set before drained may be closed
	drained  chan struct{} // closed when it is retired and nothing is under way
	once     sync.Once

	failures atomic.Int32 // to connect, since the last time that it worked
	ejected  atomic.Int64 // until when, in nanoseconds of the Unix epoch

	mu         sync.Mutex
	idle       []*upstream        // the one used last is last
	transports [2]*http.Transport // see transport
}

func newBackend(addr string) *backend {
	return &backend{addr: addr, drained: make(chan struct{})}
}

// enter counts a request in, unless the backend is retired: then the caller looks at the newest table. Either Drained
// sees the request or the request sees that the backend is retired, whatever the order.
func (b *backend) enter() bool {
	b.inFlight.Add(1)
	if b.retired.Load() {
		b.leave()
		return false
	}
	return true
}

func (b *backend) leave() {
	if b.inFlight.Add(-1) == 0 && b.retired.Load() {
		b.end()
	}
}

func (b *backend) retire() {
	b.retired.Store(true)
	b.closeIdle(time.Now())
	if b.inFlight.Load() == 0 {
		b.end()
	}
}

func (b *backend) end() {
	b.once.Do(func() {
		b.closeIdle(time.Now())
		b.mu.Lock()
		transports := b.transports
		b.mu.Unlock()
		for _, t := range transports {
			if t != nil {
				t.CloseIdleConnections()
			}
		}
		close(b.drained)
	})
}

// take gives an idle connection that the backend has not closed, or nil.
func (b *backend) take(notBefore time.Time) *upstream {
	for {
		b.mu.Lock()
		n := len(b.idle)
		if n == 0 {
			b.mu.Unlock()
			return nil
		}
		u := b.idle[n-1]
		b.idle[n-1] = nil
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		if u.since.Before(notBefore) || !u.quiet() {
			_ = u.Close()
			continue
		}
		return u
	}
}

func (b *backend) put(u *upstream, now time.Time) {
	u.since = now
	_ = u.SetReadDeadline(time.Time{})
	b.mu.Lock()
	if b.retired.Load() || len(b.idle) >= maxIdle {
		b.mu.Unlock()
		_ = u.Close()
		return
	}
	b.idle = append(b.idle, u)
	b.mu.Unlock()
}

// closeIdle closes the connections that have been idle since before a time.
func (b *backend) closeIdle(before time.Time) {
	b.mu.Lock()
	n := 0
	for n < len(b.idle) && !b.idle[n].since.After(before) {
		n++
	}
	old := slices.Clone(b.idle[:n])
	b.idle = slices.Delete(b.idle, 0, n)
	b.mu.Unlock()
	for _, u := range old {
		_ = u.Close()
	}
}

// dial opens a connection and keeps account of whether that works.
func (b *backend) dial(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := Dial(dialing, b.addr)
	switch {
	case err == nil:
		b.failures.Store(0)
	case ctx.Err() == nil: // not the client's doing
		if b.failures.Add(1) >= ejectAfter {
			b.ejected.Store(time.Now().Add(ejectFor).UnixNano())
		}
	}
	return c, err
}

func (b *backend) healthy(now time.Time) bool {
	until := b.ejected.Load()
	return until == 0 || now.UnixNano() >= until
}

// pick takes the backend with the least in flight, in turn among equals, of those that are not ejected and have not been
// tried; with all of them ejected, of all. It is nil if none is left.
func (p *pool) pick(tried []*backend) *backend {
	n := len(p.backends)
	if n == 1 && len(tried) == 0 {
		return p.backends[0]
	}
	if n == 0 {
		return nil
	}
	now := time.Now()
	start := rand.IntN(n)
	var best, ejected *backend
	for i := range n {
		b := p.backends[(start+i)%n]
		if slices.Contains(tried, b) {
			continue
		}
		if !b.healthy(now) {
			if ejected == nil {
				ejected = b
			}
			continue
		}
		if best == nil || b.inFlight.Load() < best.inFlight.Load() {
			best = b
		}
	}
	if best == nil {
		return ejected
	}
	return best
}
