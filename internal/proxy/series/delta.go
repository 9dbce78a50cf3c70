package series

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// maxPoints bounds what Range gives for a pool.
const maxPoints = 2000

// Counts are what a pool did in a time.
type Counts struct {
	Requests int64         `json:"requests"`
	Errors   int64         `json:"errors"` // answered 5xx, or not at all
	Codes    map[int]int64 `json:"codes,omitempty"`
	// Latency counts requests by Bounds: the upper bounds are in seconds; one bucket more is without bound.
	Latency []int64       `json:"latency,omitempty"`
	Bounds  []float64     `json:"bounds,omitempty"`
	Sum     time.Duration `json:"sum"` // of all durations
}

// Quantile estimates below what duration the share q of the requests stayed, as histogram_quantile does: evenly spread in
// a bucket. It is NaN without requests; in the last bucket, the highest bound.
func (c Counts) Quantile(q float64) float64 {
	var all int64
	for _, n := range c.Latency {
		all += n
	}
	if all == 0 || len(c.Bounds) == 0 {
		return math.NaN()
	}
	rank, below := q*float64(all), int64(0)
	for i, n := range c.Latency {
		if i == len(c.Bounds) {
			break
		}
		if float64(below+n) >= rank && n > 0 {
			lower := 0.0
			if i > 0 {
				lower = c.Bounds[i-1]
			}
			return lower + (c.Bounds[i]-lower)*(rank-float64(below))/float64(n)
		}
		below += n
	}
	return c.Bounds[len(c.Bounds)-1]
}

// Delta tells what a pool did after from, until to: between the last samples at or before these times, so Record just
// before asking makes the end exact. A pool that was not there yet, or of which all is forgotten, did nothing.
func (s *Series) Delta(route, pool string, from, to time.Time) Counts {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h := s.pools[name{route, pool}]
	if h == nil {
		return s.counts(nil, nil, nil)
	}
	rows := h.at(from.UnixMilli(), to.UnixMilli())
	return s.counts(h, rows[0], rows[1])
}

// at gives the rows as they stood at times, which ascend: the last row at or before each, or the first if all are later.
func (h *history) at(times ...int64) [][]int64 {
	out := make([][]int64, len(times))
	i := 0
	var last []int64
	h.rows(func(at int64, row []int64, _ *chunk) bool {
		for i < len(times) && at > times[i] {
			if last == nil {
				last = slices.Clone(row)
			}
			out[i] = slices.Clone(last)
			i++
		}
		last = append(last[:0], row...)
		return i < len(times)
	})
	for ; i < len(times); i++ {
		out[i] = slices.Clone(last)
	}
	return out
}

// rows calls yield with all samples by time, until it says no. Some come twice: a chunk begins with the row before it.
func (h *history) rows(yield func(at int64, row []int64, c *chunk) bool) {
	width, more := 1+h.buckets+len(h.codes), true
	for _, c := range h.chunks {
		c.rows(width, func(at int64, row []int64) bool {
			more = yield(at, row, c)
			return more
		})
		if !more {
			return
		}
	}
}

// counts tells the difference of two rows of h; without rows it is nothing.
func (s *Series) counts(h *history, from, to []int64) Counts {
	c := Counts{Latency: make([]int64, len(s.bounds)+1), Bounds: s.bounds}
	if from == nil || to == nil {
		return c
	}
	c.Sum = time.Duration(to[0]-from[0]) * time.Microsecond
	for i := range c.Latency {
		c.Latency[i] = to[1+i] - from[1+i]
	}
	for i, code := range h.codes {
		n := to[1+h.buckets+i] - from[1+h.buckets+i]
		if n == 0 {
			continue
		}
		if c.Codes == nil {
			c.Codes = map[int]int64{}
		}
		c.Codes[code] = n
		c.Requests += n
		if isError(code) {
			c.Errors += n
		}
	}
	return c
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
	P50       float64   `json:"p50"`        // seconds; 0 without requests, as P99
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
			c := s.counts(h, rows[i-1], rows[i])
			p := Point{At: time.UnixMilli(times[i]).UTC(), Rate: float64(c.Requests) / step.Seconds()}
			if c.Requests > 0 {
				p.ErrorRate = float64(c.Errors) / float64(c.Requests)
				p.P50, p.P99 = finite(c.Quantile(0.5)), finite(c.Quantile(0.99))
			}
			chart.Points = append(chart.Points, p)
		}
		if len(chart.Points) > 0 {
			charts = append(charts, chart)
		}
	}
	return charts, nil
}

func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// isError says whether an answer is a failure of the service: 5xx, or none (0).
func isError(code int) bool { return code == 0 || code >= 500 }
