package series

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/penstock-ci/penstock/internal/proxy"
)

// maxExport bounds what Import reads: it is more than maxPools busy pools are.
const maxExport = 1 << 30

// exported is a Series on its way to another process.
type exported struct {
	Version int            `json:"version"`
	Bounds  []float64      `json:"bounds"`
	Last    int64          `json:"last"`
	Pools   []exportedPool `json:"pools"`
}

type exportedPool struct {
	Route  string   `json:"route"`
	Pool   string   `json:"pool"`
	Chunks []*chunk `json:"chunks"`
	Raw    row      `json:"raw"`
	Row    row      `json:"row"`
}

const exportVersion = 1

// Export writes all samples, for Import.
func (s *Series) Export(w io.Writer) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := exported{Version: exportVersion, Bounds: proxy.LatencyBounds[:], Last: s.last, Pools: []exportedPool{}}
	for _, h := range s.sorted() {
		out.Pools = append(out.Pools, exportedPool{h.name.route, h.name.pool, h.chunks, h.raw, h.row})
	}
	return json.NewEncoder(w).Encode(out)
}

// Import takes over what Export wrote, in place of what there is, so that counters go on from there. The error says why it
// cannot be; then nothing is taken over.
func (s *Series) Import(r io.Reader) error {
	var in exported
	if err := json.NewDecoder(io.LimitReader(r, maxExport)).Decode(&in); err != nil {
		return fmt.Errorf("read series: %w", err)
	}
	if in.Version != exportVersion || !slices.Equal(in.Bounds, proxy.LatencyBounds[:]) {
		return errors.New("read series: they are of another version, with other buckets")
	}
	if len(in.Pools) > maxPools {
		return fmt.Errorf("read series: %d pools; at most %d can be", len(in.Pools), maxPools)
	}
	pools := map[name]*history{}
	for _, p := range in.Pools {
		h := &history{name: name{p.Route, p.Pool}, chunks: p.Chunks, raw: p.Raw, row: p.Row}
		if err := h.check(in.Last); err != nil {
			return fmt.Errorf("read series: pool %s of %s: %w", p.Pool, p.Route, err)
		}
		pools[h.name] = h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools, s.last = pools, in.Last
	return nil
}

// check says whether a history is one that Record could have made.
func (h *history) check(last int64) error {
	if len(h.chunks) == 0 || slices.Min(h.row[:]) < 0 || slices.Min(h.raw[:]) < 0 {
		return errors.New("it has no samples")
	}
	size, before := 0, int64(math.MinInt64)
	for _, c := range h.chunks {
		if c == nil || c.First < before || c.Last < c.First || c.Last > last || c.Ended != 0 && (c.Ended < c.Last || c.Ended > last) {
			return errors.New("its times do not ascend")
		}
		n, at := 0, c.First
		if !c.rows(func(t int64, r *row) bool {
			at = t
			n++
			return slices.Min(r[:]) >= 0
		}) || n != c.N || at != c.Last {
			return errors.New("its samples cannot be read")
		}
		if size += len(c.Data); size > 2*maxHistory {
			return errors.New("it is too long")
		}
		before = c.Last
	}
	return nil
}
