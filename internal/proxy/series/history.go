package series

import (
	"encoding/binary"
	"maps"
	"slices"
)

const (
	// maxPools bounds how many pools are remembered.
	maxPools = 1000
	// maxCodes bounds how many status codes of a pool are told apart; a further one is counted as the first of its class.
	maxCodes = 40
	// chunkSamples is how many samples are forgotten at once: ten minutes.
	chunkSamples = 120
	// maxHistory bounds the bytes of a pool's samples: older ones go first. A sample costs 2 bytes of an idle pool and about
	// 100 of a busy one, so four hours of 2,880 samples are 6 kB to 300 kB.
	maxHistory = 512 << 10
)

// history is the samples of one pool. A sample is a row of counters that only grow: the sum of durations in microseconds,
// the latency buckets (each for itself, not cumulated), then the codes in the order in which they were first seen.
type history struct {
	name    name
	buckets int
	codes   []int
	chunks  []*chunk // by time, none empty; the last one is written
	raw     []int64  // what the proxy counted last
	row     []int64  // the last row
}

// chunk is samples one after the other, under the same labels.
type chunk struct {
	Labels      Labels  `json:"labels"`
	First, Last int64   // times of the first and last sample, milliseconds
	Base        []int64 // the first row
	N           int     // samples
	// Data is the samples after the first, each as uvarints: milliseconds since the one before, then for each counter that
	// has grown how many places it is after the last such, counted from 1, and by how much; then 0.
	Data []byte
	// Ended is when the pool was seen to be gone, or to have other labels; 0 while it goes on.
	Ended int64
}

// record adds a row at now. A pool that was not there at before, when the proxy was asked last, had counted nothing then.
func (h *history) record(before, now int64, labels Labels, p *PoolStats) {
	raw := h.rawRow(p)
	if h.row == nil {
		h.row = make([]int64, len(raw))
		h.raw = make([]int64, len(raw))
	}
	for len(h.row) < len(raw) {
		h.row, h.raw = append(h.row, 0), append(h.raw, 0)
	}
	anew := false
	for i, v := range raw {
		anew = anew || v < h.raw[i]
	}
	grown := make([]int64, len(raw))
	for i, v := range raw {
		if anew {
			grown[i] = v
		} else {
			grown[i] = v - h.raw[i]
		}
	}
	h.raw = raw

	last := h.lastChunk()
	if last == nil || last.Ended != 0 || last.Labels != labels {
		if last != nil && last.Ended == 0 {
			last.Ended = now
		}
		h.chunks = append(h.chunks, &chunk{Labels: labels, First: before, Last: before, Base: slices.Clone(h.row), N: 1})
	} else if last.N >= chunkSamples {
		// The first row of the new chunk is the last one of the old.
		h.chunks = append(h.chunks, &chunk{Labels: labels, First: last.Last, Last: last.Last, Base: slices.Clone(h.row), N: 1})
	}
	h.lastChunk().append(now, grown)
	for i, d := range grown {
		h.row[i] += d
	}
}

func (h *history) rawRow(p *PoolStats) []int64 {
	row := make([]int64, 1+h.buckets+len(h.codes), 1+h.buckets+len(h.codes)+4)
	row[0] = p.Sum.Microseconds()
	copy(row[1:1+h.buckets], p.Latency)
	for _, code := range slices.Sorted(maps.Keys(p.Codes)) {
		as := code
		if len(h.codes) >= maxCodes && !slices.Contains(h.codes, code) {
			as = code / 100 * 100
		}
		i := slices.Index(h.codes, as)
		if i < 0 {
			i = len(h.codes)
			h.codes = append(h.codes, as)
			row = append(row, 0)
		}
		row[1+h.buckets+i] += p.Codes[code]
	}
	return row
}

func (h *history) lastChunk() *chunk {
	if len(h.chunks) == 0 {
		return nil
	}
	return h.chunks[len(h.chunks)-1]
}

func (h *history) ended() bool  { c := h.lastChunk(); return c != nil && c.Ended != 0 }
func (h *history) until() int64 { c := h.lastChunk(); return max(c.Last, c.Ended) }

// end says that the pool is gone. Counters of one that comes back begin at zero.
func (h *history) end(now int64) {
	if c := h.lastChunk(); c != nil && c.Ended == 0 {
		c.Ended = now
		clear(h.raw)
	}
}

// forget drops what is older than a time, and the oldest beyond maxHistory.
func (h *history) forget(before int64) {
	size := 0
	for i := len(h.chunks) - 1; i >= 0; i-- {
		c := h.chunks[i]
		size += len(c.Data) + 8*len(c.Base)
		if max(c.Last, c.Ended) < before || size > maxHistory && i < len(h.chunks)-1 {
			h.chunks = slices.Delete(h.chunks, 0, i+1)
			return
		}
	}
}

func (c *chunk) append(at int64, grown []int64) {
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

// rows calls yield with each sample's time and row, which is only lent, until it returns false. width is how long rows are
// made: counters that were first seen later are 0. It is false if the chunk is not well formed.
func (c *chunk) rows(width int, yield func(at int64, row []int64) bool) bool {
	if len(c.Base) > width {
		return false
	}
	row := make([]int64, width)
	copy(row, c.Base)
	at, data := c.First, c.Data
	if !yield(at, row) {
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
			if !ok || gap > uint64(width) {
				return false
			}
			if gap == 0 {
				break
			}
			by, ok := next()
			if i += int(gap); !ok || i >= width || by > 1<<62 || row[i] > 1<<62-int64(by) {
				return false
			}
			row[i] += int64(by)
		}
		if !yield(at, row) {
			return true
		}
	}
	return true
}
