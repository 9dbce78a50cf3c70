// Package series keeps what the proxy counts as time series for the last hours, and answers questions about them: PromQL by
// Prometheus' own engine, differences between two times for those who judge releases, and points for charts.
//
// It is in memory and bounded. It never asks the proxy: it is told (Record), at the times it is told.
package series

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

const (
	// Every is how often Record is meant to be called. Two samples fit into ten seconds, the shortest interval of a Flagger
	// analysis, so rate() has an answer in it.
	Every = 5 * time.Second
	// Keep is how far back the series reach.
	Keep = 4 * time.Hour
	// LookBack is how old a sample may be that an instant vector shows, as in Prometheus.
	LookBack = 5 * time.Minute
)

// Labels tell what a pool is, beyond the names of route and pool.
type Labels struct {
	Repository  string `json:"repository,omitempty"` // owner/name
	Environment string `json:"environment,omitempty"`
	Service     string `json:"service,omitempty"`
	Release     string `json:"release,omitempty"`
	Side        string `json:"side,omitempty"` // SideNew or SideOld
}

// The sides of a pool. A manifest knows the old one as TARGET-primary and the new one as TARGET.
const (
	SideNew = "new"
	SideOld = "old"
)

// Series are the time series of a proxy. It is safe for use by many goroutines.
type Series struct {
	labels func(route, pool string) Labels
	engine engine

	mu    sync.RWMutex
	pools map[name]*history
	last  int64 // milliseconds; of the last Record
}

type name struct{ route, pool string }

// New makes Series without samples. labels is asked what a pool is at each Record; of one that it knows nothing of, the
// labels stay, and are else those of the names, as with nil: see Named.
func New(labels func(route, pool string) Labels) *Series {
	if labels == nil {
		labels = Named
	}
	return &Series{labels: labels, pools: map[name]*history{}}
}

// Named takes labels from names: a route is OWNER/NAME/ENVIRONMENT/SERVICE, a pool the release.
func Named(route, pool string) Labels {
	l := Labels{Service: route, Release: pool}
	if parts := strings.Split(route, "/"); len(parts) == 4 {
		l.Repository, l.Environment, l.Service = parts[0]+"/"+parts[1], parts[2], parts[3]
	}
	return l
}

// Record adds what the proxy has counted until at: cumulative counters. What is smaller than before began anew, and is
// added to what there was. A pool that is missing has ended. A call at the time of the last or before it changes nothing.
func (s *Series) Record(at time.Time, stats []proxy.PoolStats) {
	now := at.UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now <= s.last {
		return
	}
	before := s.last
	if before == 0 {
		before = now - Every.Milliseconds()
	}
	seen := map[name]bool{}
	for i := range stats {
		p := &stats[i]
		n := name{p.Route, p.Pool}
		seen[n] = true
		h := s.pools[n]
		if h == nil {
			if len(s.pools) >= maxPools && !s.dropOldest() {
				continue
			}
			h = &history{name: n}
			s.pools[n] = h
		}
		l := s.labels(p.Route, p.Pool)
		if l == (Labels{}) {
			l = h.lastLabels()
		}
		h.record(before, now, l, rowOf(p))
	}
	for n, h := range s.pools {
		if !seen[n] {
			h.end(now)
		}
		h.forget(now - Keep.Milliseconds())
		if len(h.chunks) == 0 {
			delete(s.pools, n)
		}
	}
	s.last = now
}

// dropOldest makes room by forgetting the pool that ended first; false if all are live.
func (s *Series) dropOldest() bool {
	var oldest *history
	for _, h := range s.pools {
		if h.ended() && (oldest == nil || h.until() < oldest.until()) {
			oldest = h
		}
	}
	if oldest == nil {
		return false
	}
	delete(s.pools, oldest.name)
	return true
}

// sorted gives the histories in the order of their names, so that answers are the same each time.
func (s *Series) sorted() []*history {
	return slices.SortedFunc(maps.Values(s.pools), func(a, b *history) int {
		return cmp.Or(cmp.Compare(a.name.route, b.name.route), cmp.Compare(a.name.pool, b.name.pool))
	})
}

// Last is the time of the last Record.
func (s *Series) Last() time.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return time.UnixMilli(s.last)
}
