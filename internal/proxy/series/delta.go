package series

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

// maxPoints bounds what Range gives for a pool.
const maxPoints = 2000

// Counts are what a pool did in a time.
type Counts struct {
	Requests int64 `json:"requests"` // that had an answer
	Errors   int64 `json:"errors"`   // 5xx of them
	// Classes counts them by the first digit of the status.
	Classes [6]int64 `json:"classes"`
	// Latency counts them by how long they took: see proxy.LatencyBounds.
	Latency []int64       `json:"latency"`
	Sum     time.Duration `json:"sum"` // of how long they took
	Gone    int64         `json:"gone"`
	// ConnectFailures and Resets are tries that failed, of which some were answered after all by another backend.
	ConnectFailures int64 `json:"connect_failures"`
	Resets          int64 `json:"resets"`
}

func countsOf(r row) Counts {
	c := Counts{
		Requests: r.answered(), Errors: r[rowErrors], Latency: slices.Clone(r[rowLatency : rowLatency+latencyBuckets]),
		Sum: time.Duration(r[rowSum]) * time.Microsecond, Gone: r[rowGone], ConnectFailures: r[rowConnect], Resets: r[rowResets],
	}
	copy(c.Classes[1:], r[rowAnswers+1:rowErrors+1])
	return c
}

// Quantile estimates below how many milliseconds the share q of the requests stayed, as histogram_quantile does: evenly
// spread in a bucket. It is NaN without requests; in the last bucket, the highest bound.
func (c Counts) Quantile(q float64) float64 {
	all := total(c.Latency)
	if all == 0 {
		return math.NaN()
	}
	rank, below := q*float64(all), int64(0)
	for i, upper := range proxy.LatencyBounds {
		n := c.Latency[i]
		if float64(below+n) >= rank && n > 0 {
			lower := 0.0
			if i > 0 {
				lower = proxy.LatencyBounds[i-1]
			}
			return lower + (upper-lower)*(rank-float64(below))/float64(n)
		}
		below += n
	}
	return proxy.LatencyBounds[len(proxy.LatencyBounds)-1]
}

// Delta tells what a pool did after from, until to: between the last samples at or before these times, so Record just
// before asking makes the end exact. A pool that was not there yet, or of which all is forgotten, did nothing.
func (s *Series) Delta(route, pool string, from, to time.Time) Counts {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.delta(name{route, pool}, from, to)
}

func (s *Series) delta(n name, from, to time.Time) Counts {
	h := s.pools[n]
	if h == nil {
		return countsOf(row{})
	}
	rows := h.at(from.UnixMilli(), to.UnixMilli())
	return countsOf(rows[1].less(&rows[0]))
}

// Pool names a pool of a route.
type Pool struct {
	Route string `json:"route"`
	Pool  string `json:"pool"`
}

// Sample is Delta for several pools until the last Record, the time of which it gives. That Record is kept for them as one in turn
// is: a Sample from there on misses nothing and counts nothing twice.
func (s *Series) Sample(from time.Time, pools []Pool) (to time.Time, counts []Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to = time.UnixMilli(s.last).UTC()
	if to.Before(from) {
		to = from
	}
	for _, p := range pools {
		n := name{p.Route, p.Pool}
		counts = append(counts, s.delta(n, from, to))
		if h := s.pools[n]; h != nil {
			h.firm = firm{}
		}
	}
	return to, counts
}

// at gives the rows as they stood at times, which ascend: the last row at or before each, or the first if all are later.
func (h *history) at(times ...int64) []row {
	out := make([]row, 0, len(times))
	last := h.chunks[0].Base
	begin := 0
	for i, c := range h.chunks {
		if c.First <= times[0] {
			begin = i
		}
	}
	h.rows(begin, func(at int64, r *row, _ *chunk) bool {
		for len(out) < len(times) && at > times[len(out)] {
			out = append(out, last)
		}
		last = *r
		return len(out) < len(times)
	})
	for len(out) < len(times) {
		out = append(out, last)
	}
	return out
}

// rows calls yield with all samples by time, from a chunk on, until it says no. Some come twice: a chunk begins with the row
// before it.
func (h *history) rows(begin int, yield func(at int64, r *row, c *chunk) bool) {
	more := true
	for _, c := range h.chunks[begin:] {
		c.rows(func(at int64, r *row) bool {
			more = yield(at, r, c)
			return more
		})
		if !more {
			return
		}
	}
}

// Chart is a pool's points, for people.
type Chart struct {
	Pool   string  `json:"pool"`
	Labels Labels  `json:"labels"` // as they were last
	Points []Point `json:"points"` // without those in which nothing is known of the pool
}

// Point is what a pool did in the step that ends At.
type Point struct {
	At        time.Time `json:"at"`
	Rate      float64   `json:"rate"`       // requests a second
	ErrorRate float64   `json:"error_rate"` // share of them, 0 to 1
	P50       float64   `json:"p50"`        // milliseconds; 0 without requests, as P99
	P99       float64   `json:"p99"`
}

// Range gives the charts of a route's pools, by name: points after from, until to, at multiples of step. The error says
// what is wrong with what was asked: at most 2,000 points, and steps of at least a second.
func (s *Series) Range(route string, from, to time.Time, step time.Duration) ([]Chart, error) {
	if step < time.Second || to.Sub(from)/step > maxPoints || to.Before(from) {
		return nil, fmt.Errorf("charts from %s to %s in steps of %s: at most %d steps of at least a second can be had", from.Format(time.RFC3339), to.Format(time.RFC3339), step, maxPoints)
	}
	var times []int64
	for t := from.Truncate(step); !t.After(to); t = t.Add(step) {
		times = append(times, t.UnixMilli())
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	charts := []Chart{}
	for _, h := range s.sorted() {
		if h.name.route != route {
			continue
		}
		first, until := h.chunks[0].First, h.until()
		chart := Chart{Pool: h.name.pool, Labels: h.lastChunk().Labels, Points: []Point{}}
		rows := h.at(times...)
		for i := 1; i < len(times); i++ {
			if times[i] <= first || times[i-1] >= until {
				continue
			}
			c := countsOf(rows[i].less(&rows[i-1]))
			p := Point{At: time.UnixMilli(times[i]).UTC(), Rate: float64(c.Requests) / step.Seconds()}
			if c.Requests > 0 {
				p.ErrorRate = float64(c.Errors) / float64(c.Requests)
				p.P50, p.P99 = c.Quantile(0.5), c.Quantile(0.99)
			}
			chart.Points = append(chart.Points, p)
		}
		if len(chart.Points) > 0 {
			charts = append(charts, chart)
		}
	}
	return charts, nil
}
