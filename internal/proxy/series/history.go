package series

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

const (
	// maxPools bounds how many pools are remembered.
	maxPools = 1000
	// chunkSamples is how many samples are forgotten at once: ten minutes.
	chunkSamples = 120
	// maxHistory bounds the bytes of a pool's samples: older ones go first. A sample costs 3 bytes of an idle pool and some
	// 35 of a busy one, so the 2,880 of four hours are 9 kB to 100 kB.
	maxHistory = 512 << 10
)

// The places in a row: counters that only grow.
const (
	rowSum     = iota                            // of durations, microseconds
	rowLatency                                   // buckets, each for itself
	rowAnswers = rowLatency + latencyBuckets - 1 // + first digit of the status
	rowErrors  = rowAnswers + 5
	rowGone    = rowErrors + 1
	rowConnect = rowGone + 1
	rowResets  = rowConnect + 1
	rowRetries = rowResets + 1
	rowWidth   = rowRetries + 1
)

const latencyBuckets = len(proxy.LatencyBounds) + 1

type row [rowWidth]int64

func rowOf(p *proxy.PoolStats) (r row) {
	r[rowSum] = p.LatencySum.Microseconds()
	for i, n := range p.Latency {
		r[rowLatency+i] = int64(n)
	}
	for class := 1; class <= 5; class++ {
		r[rowAnswers+class] = int64(p.Requests[class])
	}
	r[rowGone], r[rowConnect], r[rowResets], r[rowRetries] = int64(p.Gone), int64(p.ConnectFailures), int64(p.Resets), int64(p.Retries)
	return r
}

// answered is how many requests had an answer.
func (r *row) answered() int64 { return total(r[rowLatency : rowLatency+latencyBuckets]) }

// less gives what has been counted since an earlier row.
func (r row) less(earlier *row) row {
	for i, v := range earlier {
		r[i] -= v
	}
	return r
}

// plus gives both together.
func (r row) plus(more row) row {
	for i, v := range more {
		r[i] += v
	}
	return r
}

// history is the samples of one pool.
type history struct {
	name   name
	chunks []*chunk // by time, none empty; the last one is written
	raw    row      // what the proxy counted last
	row    row      // the last row
	firm   firm
}

// firm is how a chunk stood before its last sample, if that one came early after the one before.
type firm struct {
	in   *chunk
	size int
	last int64
	row  row
}

// often is Every in milliseconds, with room for a clock that ticks late.
const often = int64(Every/time.Millisecond) * 11 / 10

// chunk is samples one after the other, under the same labels.
type chunk struct {
	Labels      Labels `json:"labels"`
	First, Last int64  // times of the first and last sample, milliseconds
	Base        row    // the first row
	N           int    // samples
	// Data is the samples after the first, each as uvarints: milliseconds since the one before, then for each counter that
	// has grown how many places it is after the last such, counted from 1, and by how much; then 0.
	Data []byte
	// Ended is when the pool was seen to be gone, or to have other labels; 0 while it goes on.
	Ended int64
}

// record adds a row at now. A pool that was not there at before, when the proxy was asked last, had counted nothing then.
func (h *history) record(before, now int64, labels Labels, raw row) {
	grown := raw.less(&h.raw)
	if slices.Min(grown[:]) < 0 {
		grown = raw
	}
	h.raw = raw
	c := h.lastChunk()
	switch {
	case c == nil || c.Ended != 0 || c.Labels != labels:
		if c != nil && c.Ended == 0 {
			c.Ended = now
		}
		c = h.add(&chunk{Labels: labels, First: before, Last: before, Base: h.row, N: 1})
	case h.firm.in == c && now-h.firm.last < often:
		// The last sample was taken out of turn, for somebody who asked. It makes room, or who asks often would push out what
		// was long ago.
		c.Data, c.Last, c.N = c.Data[:h.firm.size], h.firm.last, c.N-1
		for i := range grown {
			grown[i] += h.row[i] - h.firm.row[i]
		}
		h.row = h.firm.row
	case c.N >= chunkSamples:
		// It begins with the last row of the one before.
		c = h.add(&chunk{Labels: labels, First: c.Last, Last: c.Last, Base: h.row, N: 1})
	}
	h.firm = firm{}
	if now-c.Last < often*9/10 {
		h.firm = firm{in: c, size: len(c.Data), last: c.Last, row: h.row}
	}
	c.append(now, &grown)
	for i, d := range grown {
		h.row[i] += d
	}
}

func (h *history) add(c *chunk) *chunk {
	h.chunks = append(h.chunks, c)
	return c
}

func (h *history) lastChunk() *chunk {
	if len(h.chunks) == 0 {
		return nil
	}
	return h.chunks[len(h.chunks)-1]
}

// lastLabels are those that the pool had before, or those of its names.
func (h *history) lastLabels() Labels {
	if c := h.lastChunk(); c != nil {
		return c.Labels
	}
	return Named(h.name.route, h.name.pool)
}

func (h *history) ended() bool  { c := h.lastChunk(); return c != nil && c.Ended != 0 }
func (h *history) until() int64 { c := h.lastChunk(); return max(c.Last, c.Ended) }

// end says that the pool is gone. Counters of one that comes back begin at zero.
func (h *history) end(now int64) {
	if c := h.lastChunk(); c != nil && c.Ended == 0 {
		c.Ended = now
		h.raw = row{}
	}
}

// forget drops what is older than a time, and the oldest beyond maxHistory.
func (h *history) forget(before int64) {
	size := 0
	for i := len(h.chunks) - 1; i >= 0; i-- {
		c := h.chunks[i]
		size += len(c.Data) + 8*rowWidth
		if max(c.Last, c.Ended) < before || size > maxHistory && i < len(h.chunks)-1 {
			h.chunks = slices.Delete(h.chunks, 0, i+1)
			return
		}
	}
}

func (c *chunk) append(at int64, grown *row) {
	c.Data = binary.AppendUvarint(c.Data, uint64(at-c.Last))
	gap := 1
	for _, d := range grown {
		if d == 0 {
			gap++
			continue
		}
		c.Data = binary.AppendUvarint(c.Data, uint64(gap))
		c.Data = binary.AppendUvarint(c.Data, uint64(d))
		gap = 1
	}
	c.Data = append(c.Data, 0)
	c.Last = at
	c.N++
}

// rows calls yield with each sample's time and row, which is only lent, until it says no. It is false if the chunk is not
// well formed.
func (c *chunk) rows(yield func(at int64, r *row) bool) bool {
	r, at, data := c.Base, c.First, c.Data
	if !yield(at, &r) {
		return true
	}
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			return 0, false
		}
		data = data[n:]
		return v, true
	}
	for len(data) > 0 {
		since, ok := next()
		if !ok || since > 1<<40 {
			return false
		}
		at += int64(since)
		for i := -1; ; {
			gap, ok := next()
			if !ok || gap > uint64(rowWidth) {
				return false
			}
			if gap == 0 {
				break
			}
			by, ok := next()
			if i += int(gap); !ok || i >= rowWidth || by > 1<<60 || r[i] > 1<<60 {
				return false
			}
			r[i] += int64(by)
		}
		if !yield(at, &r) {
			return true
		}
	}
	return true
}
