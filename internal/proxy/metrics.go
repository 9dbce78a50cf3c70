package proxy

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// LatencyBounds are the upper bounds, in milliseconds, of the buckets of PoolStats.Latency: two for each doubling, from
// half a millisecond to more than a minute. The last bucket, beyond them, is of all that took longer.
var LatencyBounds = [...]float64{
	0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16, 22, 32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896,
	4096, 5793, 8192, 11585, 16384, 23170, 32768, 46341, 65536,
}

// keepCounters is how long the counters of a pool are kept that is in no table.
const keepCounters = 15 * time.Minute

type counterName struct{ route, pool string }

// counters are a pool's, for as long as tables have it under its name.
type counters struct {
	requests                                              [6]atomic.Uint64 // by the first digit of the status
	gone, connectFailures, resets, retries, mirrored, out atomic.Uint64
	in                                                    atomic.Uint64
	latency                                               [len(LatencyBounds) + 1]atomic.Uint64
	latencySum                                            atomic.Int64
	inFlight                                              atomic.Int64
	left                                                  time.Time // when it went from the table; under Proxy.mu
}

// PoolStats are counts since the pool first came into a table.
type PoolStats struct {
	Route, Pool string // Pool is empty for requests that came to no pool: paused, or nothing to take them
	// Requests by the first digit of the status that the client got: Requests[5] are 5xx. Those of a mirror are those that
	// its pool answered to copies, which are counted in Mirrored too. Clients that went away before an answer are in Gone
	// alone, tunnels (101) in Requests[1].
	Requests [6]uint64
	Gone     uint64
	// ConnectFailures are tries, so that a request may have several. Resets are answers that were broken off, or none, or
	// not HTTP.
	ConnectFailures, Resets uint64
	Retries                 uint64
	Mirrored                uint64
	InFlight                int64  // requests, and tunnels
	BytesIn, BytesOut       uint64 // of bodies and tunnels
	// Latency counts requests by how long they took to the end of the answer, by LatencyBounds; of tunnels, to their begin.
	Latency    [len(LatencyBounds) + 1]uint64
	LatencySum time.Duration
	Backends   []BackendStats // empty if the table has the pool no more
}

// BackendStats is what the proxy knows of a backend by its traffic.
type BackendStats struct {
	Addr     string
	Ejected  bool // for some seconds, since it could not be connected to
	Failures int  // to connect, since the last time that it worked
	InFlight int64
}

// observe counts an answer.
func (c *counters) observe(status int, took time.Duration) {
	if status == statusGone {
		c.gone.Add(1)
		return
	}
	c.requests[min(max(status/100, 1), 5)].Add(1)
	ms := float64(took) / float64(time.Millisecond)
	i, _ := slices.BinarySearch(LatencyBounds[:], ms)
	c.latency[i].Add(1)
	c.latencySum.Add(int64(took))
}

// countersOf gives the counters under a name, with p.mu held.
func (p *Proxy) countersOf(route, pool string) *counters {
	name := counterName{route, pool}
	c := p.counters[name]
	if c == nil {
		c = new(counters)
		p.counters[name] = c
	}
	return c
}

// Collect gives the counts of all pools that are, or were a few minutes ago, in the table, by route and pool.
func (p *Proxy) Collect() []PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]PoolStats, 0, len(p.counters))
	at := map[counterName]int{}
	for name, c := range p.counters {
		s := PoolStats{
			Route: name.route, Pool: name.pool, Gone: c.gone.Load(), ConnectFailures: c.connectFailures.Load(), Resets: c.resets.Load(),
			Retries: c.retries.Load(), Mirrored: c.mirrored.Load(), InFlight: c.inFlight.Load(), BytesIn: c.in.Load(), BytesOut: c.out.Load(),
			LatencySum: time.Duration(c.latencySum.Load()),
		}
		for i := range s.Requests {
			s.Requests[i] = c.requests[i].Load()
		}
		for i := range s.Latency {
			s.Latency[i] = c.latency[i].Load()
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b PoolStats) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Pool, b.Pool))
	})
	for i, s := range all {
		at[counterName{s.Route, s.Pool}] = i
	}
	now := time.Now()
	for _, r := range p.table.Load().routes {
		for _, pl := range r.pools {
			s := &all[at[counterName{r.Name, pl.Name}]]
			for _, b := range pl.backends {
				if slices.ContainsFunc(s.Backends, func(o BackendStats) bool { return o.Addr == b.addr }) {
					continue
				}
				s.Backends = append(s.Backends, BackendStats{b.addr, !b.healthy(now), int(b.failures.Load()), b.inFlight.Load()})
			}
		}
	}
	return all
}

// Collector gives Collect's counts to Prometheus.
func (p *Proxy) Collector() prometheus.Collector { return collector{p} }

type collector struct{ p *Proxy }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("penstock_proxy_"+name, help, append([]string{"route", "pool"}, labels...), nil)
}

var (
	descRequests = describe("requests_total", "Requests by the first digit of the status.", "class")
	descGone     = describe("requests_gone_total", "Requests whose client went away before an answer.")
	descErrors   = describe("errors_total", "What went wrong with backends.", "kind")
	descRetries  = describe("retries_total", "Tries after the first.")
	descMirrored = describe("mirrored_total", "Copies of requests sent.")
	descInFlight = describe("requests_in_flight", "Requests and tunnels under way.")
	descBytes    = describe("bytes_total", "Bytes of bodies and tunnels.", "direction")
	descDuration = describe("request_duration_seconds", "Time to the end of the answer.")
	descEjected  = describe("backend_ejected", "Whether a backend gets nothing for some seconds.", "backend")
	descConns    = prometheus.NewDesc("penstock_proxy_connections", "Clients' connections: busy, or idle for a while.", []string{"state"}, nil)
	descDropped  = prometheus.NewDesc("penstock_proxy_access_log_dropped_total", "Lines of the access log that its writer was too slow for.", nil, nil)
)

func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRequests, descGone, descErrors, descRetries, descMirrored, descInFlight, descBytes, descDuration, descEjected, descConns, descDropped} {
		to <- d
	}
}

func (c collector) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, s := range c.p.Collect() {
		for digit := 1; digit <= 5; digit++ {
			count(descRequests, s.Requests[digit], s.Route, s.Pool, string(rune('0'+digit))+"xx")
		}
		count(descGone, s.Gone, s.Route, s.Pool)
		count(descErrors, s.ConnectFailures, s.Route, s.Pool, "connect")
		count(descErrors, s.Resets, s.Route, s.Pool, "reset")
		count(descRetries, s.Retries, s.Route, s.Pool)
		count(descMirrored, s.Mirrored, s.Route, s.Pool)
		count(descBytes, s.BytesIn, s.Route, s.Pool, "in")
		count(descBytes, s.BytesOut, s.Route, s.Pool, "out")
		to <- prometheus.MustNewConstMetric(descInFlight, prometheus.GaugeValue, float64(s.InFlight), s.Route, s.Pool)
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, bound := range LatencyBounds {
			sum += s.Latency[i]
			buckets[bound/1000] = sum
		}
		sum += s.Latency[len(LatencyBounds)]
		to <- prometheus.MustNewConstHistogram(descDuration, sum, s.LatencySum.Seconds(), buckets, s.Route, s.Pool)
		for _, b := range s.Backends {
			ejected := 0.0
			if b.Ejected {
				ejected = 1
			}
			to <- prometheus.MustNewConstMetric(descEjected, prometheus.GaugeValue, ejected, s.Route, s.Pool, b.Addr)
		}
	}
	idle := c.p.parked.Load()
	to <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(max(c.p.open.Load()-idle, 0)), "busy")
	to <- prometheus.MustNewConstMetric(descConns, prometheus.GaugeValue, float64(idle), "idle")
	to <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(c.p.log.droppedLines()))
}
