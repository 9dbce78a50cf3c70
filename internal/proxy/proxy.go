package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a proxy is made with. The zero value of each field but Key takes what its comment says.
type Options struct {
	// Key makes the places of sticky clients unguessable: random, once for an installation, and the same ever after, since
	// another key gives other places.
	Key uint64
	// Log hears what is wrong with the proxy itself, never with a request; nil is nobody.
	Log *slog.Logger
	// AccessLog gets a line of JSON for each request. It is written by a goroutine of its own; lines that it is too slow for
	// are dropped and counted. nil is no log.
	AccessLog io.Writer
	// Trusted are the peers whose X-Forwarded-For, -Proto and -Host are believed and continued. Those of others are replaced.
	Trusted []netip.Prefix

	MaxBody         int64         // of a request, in bytes, where the route says nothing; 1 GiB
	MaxHeader       int           // of a request, in bytes, about; 64 KiB
	ResponseTimeout time.Duration // until the first byte of an answer, where the route says nothing; 60 s
	PauseLimit      time.Duration // that a request waits at a paused route; 30 s
	HeaderTimeout   time.Duration // for the whole head of a request; 10 s
	StallTimeout    time.Duration // that a client may send nothing of its body, or take nothing of the answer; 60 s
	IdleTimeout     time.Duration // that a client's connection stays open between requests; 75 s
	// MaxConns bounds clients' connections. A client beyond it is told so (503) and its connection closed. 0 is three
	// quarters of the descriptors that the process may have: the rest is for backends, listeners and a hand-over.
	MaxConns int
}

// Proxy carries requests to the backends of its table. It is safe for use by many goroutines.
type Proxy struct {
	o        Options
	table    atomic.Pointer[table]
	http2    http2Server  // connections that turn out to speak HTTP/2; ending them means something else (see Stop)
	late     http2Server  // those that turn out to when http2 has ended already
	open     atomic.Int64 // clients' connections
	parked   atomic.Int64 // of those, for which nothing is held but themselves (see park)
	log      *accessLog
	ending   atomic.Bool
	mirrors  chan *mirrorCopy
	copies   atomic.Int64 // of requests, for mirrors
	waiting  atomic.Int64 // requests at paused routes
	stopping context.CancelFunc
	workers  sync.WaitGroup

	mu        sync.Mutex
	backends  map[string]*backend // of the table, by address
	retired   map[string][]*backend
	counters  map[counterName]*counters
	listeners map[net.Listener]struct{}
	conns     map[*clientConn]struct{}
	noConns   chan struct{} // closed when the proxy is ending, and has neither listeners nor conns any more
}

// New makes a proxy that serves an empty table. Stop ends it.
func New(o Options) *Proxy {
	o.MaxBody = orDefault(o.MaxBody, 1<<30)
	o.MaxHeader = orDefault(o.MaxHeader, 64<<10)
	o.ResponseTimeout = orDefault(o.ResponseTimeout, 60*time.Second)
	o.PauseLimit = orDefault(o.PauseLimit, 30*time.Second)
	o.HeaderTimeout = orDefault(o.HeaderTimeout, 10*time.Second)
	o.StallTimeout = orDefault(o.StallTimeout, 60*time.Second)
	o.IdleTimeout = orDefault(o.IdleTimeout, 75*time.Second)
	if o.MaxConns == 0 {
		o.MaxConns = maxDescriptors() / 4 * 3
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{
		o:         o,
		mirrors:   make(chan *mirrorCopy, maxCopies),
		backends:  map[string]*backend{},
		retired:   map[string][]*backend{},
		counters:  map[counterName]*counters{},
		listeners: map[net.Listener]struct{}{},
		conns:     map[*clientConn]struct{}{},
		noConns:   make(chan struct{}),
	}
	p.table.Store(&table{next: make(chan struct{})})
	var two http.Protocols
	two.SetHTTP2(true)
	two.SetUnencryptedHTTP2(true)
	for _, s := range []*http2Server{&p.http2, &p.late} {
		*s = http2Server{&http.Server{
			Handler:           p,
			Protocols:         &two,
			HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250},
			ReadHeaderTimeout: o.HeaderTimeout,
			IdleTimeout:       o.IdleTimeout,
			MaxHeaderBytes:    o.MaxHeader,
			ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		}, newHandedListener()}
		p.workers.Go(func() { _ = s.Serve(s.handed) })
	}

	ctx, cancel := context.WithCancel(context.Background())
	p.stopping = cancel
	if o.AccessLog != nil {
		p.log = &accessLog{to: o.AccessLog, full: make(chan struct{}, 1)}
		p.workers.Go(func() { p.log.run(ctx) })
	}
	p.workers.Go(func() { p.sweep(ctx) })
	for range maxMirrors {
		p.workers.Go(func() { p.sendMirrors(ctx) })
	}
	return p
}

func orDefault[T int | int64 | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// Set puts a table in place of the one before, in one step. What is under way goes on by the old one. Backends keep their
// connections and health by address, pools their counters by the names of route and pool. The error says all that is
// wrong with the table; then the old one stays.
func (p *Proxy) Set(t Table) error {
	next, err := compile(t)
	if err != nil {
		return fmt.Errorf("table %d: %w", t.Version, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := map[string]*backend{}
	for _, r := range next.routes {
		r.unrouted = p.countersOf(r.Name, "")
		for _, pl := range r.pools {
			pl.point = mix(p.hash(pl.Name))
			pl.counters = p.countersOf(r.Name, pl.Name)
			for _, b := range pl.Backends {
				one := kept[b.Addr]
				if one == nil {
					if one = p.backends[b.Addr]; one == nil {
						one = newBackend(b.Addr)
					}
					kept[b.Addr] = one
				}
				pl.backends = append(pl.backends, one)
			}
		}
	}
	before := p.table.Swap(next)
	close(before.next)
	for addr, b := range p.backends {
		if kept[addr] != b {
			b.retire()
			p.retired[addr] = append(p.retired[addr], b)
		}
	}
	p.backends = kept
	p.forget()
	return nil
}

// Table gives the table that is served.
func (p *Proxy) Table() Table { return p.table.Load().Table }

// forget drops what is of no use any more: backends that have ended, and counters of pools that have been gone for a while.
func (p *Proxy) forget() {
	for addr, list := range p.retired {
		list = slices.DeleteFunc(list, func(b *backend) bool { return isClosed(b.drained) })
		if p.retired[addr] = list; len(list) == 0 {
			delete(p.retired, addr)
		}
	}
	used := map[*counters]bool{}
	for _, r := range p.table.Load().routes {
		used[r.unrouted] = true
		for _, pl := range r.pools {
			used[pl.counters] = true
		}
	}
	now := time.Now()
	for name, c := range p.counters {
		switch {
		case used[c] || c.inFlight.Load() > 0:
			c.left = time.Time{}
		case c.left.IsZero():
			c.left = now
		case now.Sub(c.left) > keepCounters:
			delete(p.counters, name)
		}
	}
}

// Drained waits until the table has no backend at addr and nothing is under way to one that was there. A tunnel, such as
// a WebSocket, is under way until it ends. The error is ctx's, with what was waited for.
func (p *Proxy) Drained(ctx context.Context, addr string) error {
	for {
		p.mu.Lock()
		retired := slices.Clone(p.retired[addr])
		listed := p.backends[addr]
		next := p.table.Load().next
		p.mu.Unlock()
		for _, b := range retired {
			select {
			case <-b.drained:
			case <-ctx.Done():
				return fmt.Errorf("drain %s: %d requests are under way: %w", addr, b.inFlight.Load(), ctx.Err())
			}
		}
		if listed == nil {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("drain %s: it is still in the table: %w", addr, ctx.Err())
		}
	}
}

// Serve takes connections that speak HTTP/1.1, or HTTP/2 in the clear from their first byte on, until ctx or the proxy
// ends, and closes the listener. The connections go on until Stop. The error is the listener's.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error { return p.serve(ctx, l, nil) }

// ServeTLS is Serve for connections with TLS, which choose HTTP/2 or HTTP/1.1 by ALPN. The protocols that conf knows
// already, such as a certificate authority's, stay.
func (p *Proxy) ServeTLS(ctx context.Context, l net.Listener, conf *tls.Config) error {
	conf = conf.Clone()
	for _, proto := range []string{"http/1.1", "h2"} {
		if !slices.Contains(conf.NextProtos, proto) {
			conf.NextProtos = append([]string{proto}, conf.NextProtos...)
		}
	}
	return p.serve(ctx, l, conf)
}

func (p *Proxy) serve(ctx context.Context, l net.Listener, conf *tls.Config) error {
	p.mu.Lock()
	if p.ending.Load() {
		p.mu.Unlock()
		return l.Close()
	}
	p.listeners[l] = struct{}{}
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()

	err := p.accept(l, conf)
	p.mu.Lock()
	delete(p.listeners, l)
	p.settle()
	p.mu.Unlock()
	if errors.Is(err, net.ErrClosed) && (ctx.Err() != nil || p.ending.Load()) {
		return nil
	}
	return err
}

// Stop ends the proxy so that no client loses a request. It closes the listeners. Each HTTP/1.1 connection ends with its
// next answer, which says so, and otherwise when it has been idle for IdleTimeout, as it would have been anyway; HTTP/2
// connections hear GOAWAY at once. When ctx ends before, what is still open is cut off, and the error says how much.
func (p *Proxy) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.ending.Store(true)
	for l := range p.listeners {
		_ = l.Close()
	}
	p.settle()
	p.mu.Unlock()

	goAway := make(chan error, 1)
	go func() { goAway <- p.http2.Shutdown(ctx) }()
	var err error
	select {
	case <-p.noConns:
	case <-ctx.Done():
		p.mu.Lock()
		err = fmt.Errorf("stop the proxy: %d connections were cut off: %w", len(p.conns), ctx.Err())
		for c := range p.conns {
			_ = c.Conn.Close()
		}
		p.mu.Unlock()
		<-p.noConns
	}
	<-goAway
	_ = p.http2.Close()
	_ = p.late.Close()
	p.stopping()
	worked := make(chan struct{})
	go func() {
		p.workers.Wait()
		close(worked)
	}()
	select {
	case <-worked:
	case <-time.After(logLast):
		err = errors.Join(err, errors.New("stop the proxy: the access log takes nothing more"))
	}
	p.mu.Lock()
	for _, b := range p.backends {
		b.retire()
	}
	p.mu.Unlock()
	return err
}

// sweep closes, from time to time, connections to backends that nobody has used for long, and forgets what has gone.
func (p *Proxy) sweep(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			for _, b := range p.backends {
				b.closeIdle(time.Now().Add(-upstreamIdle))
			}
			p.forget()
			p.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
