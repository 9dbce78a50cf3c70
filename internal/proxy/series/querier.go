package series

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// queryable is Series as Prometheus' engine reads them.
type queryable struct {
	s     *Series
	scope Scope
}

func (q *queryable) Querier(from, to int64) (storage.Querier, error) {
	return &querier{q, from, to}, nil
}

type querier struct {
	*queryable
	from, to int64
}

func (q *querier) Close() error { return nil }

func (q *querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil // no instant query asks
}

func (q *querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil // no instant query asks
}

func (q *querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	from, to := q.from, q.to
	if hints != nil {
		from, to = hints.Start, hints.End
	}
	q.s.mu.RLock()
	defer q.s.mu.RUnlock()
	all := q.s.sorted()
	var found []*listed
	held := 0
	for i := range families {
		f := &families[i]
		if !matches(matchers, model.MetricNameLabel, f.name) {
			continue
		}
		for _, h := range all {
			for _, one := range q.selectPool(f, h, from, to, matchers) {
				if held += len(one.samples); held > maxSamples {
					return storage.ErrSeriesSet(promql.ErrTooManySamples("select"))
				}
				found = append(found, one)
			}
			if ctx.Err() != nil {
				return storage.ErrSeriesSet(ctx.Err())
			}
		}
	}
	if sorted {
		slices.SortFunc(found, func(a, b *listed) int { return labels.Compare(a.labels, b.labels) })
	}
	return &seriesSet{found: found, at: -1}
}

// selectPool gives the series of one pool under one name, with their samples in the time.
func (q *querier) selectPool(f *family, h *history, from, to int64, matchers []*labels.Matcher) []*listed {
	// What a pool was called changes when it is promoted: then its series end, and others begin.
	type run struct {
		series []*listed // by column; nil where it does not match
		own    row       // what was counted under these labels
		last   int64
	}
	runs := map[Labels]*run{}
	var order []*run
	columns := f.columns()
	for _, c := range h.chunks {
		if runs[c.Labels] == nil {
			if r := (&run{series: q.name(f, h, c.Labels, columns, matchers), last: math.MinInt64}); r.series != nil {
				runs[c.Labels] = r
				order = append(order, r)
			}
		}
	}
	if len(order) == 0 {
		return nil
	}
	add := func(r *run, at int64, v func(column) float64) {
		r.last = at
		if at < from || at > to {
			return
		}
		for i, one := range r.series {
			if one != nil {
				one.samples = append(one.samples, sample{at, v(columns[i])})
			}
		}
	}
	for i, c := range h.chunks {
		in := runs[c.Labels]
		if in == nil {
			continue
		}
		if i == 0 {
			in.own = c.Base
		}
		// A chunk begins with what the one before ended with.
		after := &h.row
		if i+1 < len(h.chunks) {
			after = &h.chunks[i+1].Base
		}
		began := in.own
		if c.Last >= from && c.First <= to {
			c.rows(func(at int64, r *row) bool {
				if at > in.last {
					in.own = began.plus(r.less(&c.Base))
					add(in, at, func(c column) float64 { return c.of(&in.own) })
				}
				return at <= to
			})
		}
		in.own = began.plus(after.less(&c.Base))
		in.last = c.Last
		if c.Ended > in.last {
			add(in, c.Ended, func(column) float64 { return math.Float64frombits(value.StaleNaN) })
		}
	}
	var out []*listed
	for _, r := range order {
		for i, one := range r.series {
			// A class of statuses that never came is not there.
			if one != nil && len(one.samples) > 0 && (f.kind != byCode || columns[i].of(&r.own) > 0) {
				out = append(out, one)
			}
		}
	}
	return out
}

// name gives a series without samples for each column that matches, nil for the others, and nil if none does.
func (q *querier) name(f *family, h *history, l Labels, columns []column, matchers []*labels.Matcher) []*listed {
	if q.scope != (Scope{}) && q.scope != (Scope{l.Repository, l.Environment}) {
		return nil
	}
	pairs := f.labels(h.name, l)
	var out []*listed
	for i, c := range columns {
		own := append(pairs[:len(pairs):len(pairs)], model.MetricNameLabel, f.name, c.label, c.value)
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
			free := f.foreign && q.scope != (Scope{}) && anywhere[m.Name]
			return !free && !m.Matches(valueOf(own, m.Name))
		}) {
			continue
		}
		builder := labels.NewScratchBuilder(len(own) / 2)
		for i := 0; i < len(own); i += 2 {
			if own[i+1] != "" {
				builder.Add(own[i], strings.ToValidUTF8(own[i+1], "\uFFFD"))
			}
		}
		builder.Sort()
		if out == nil {
			out = make([]*listed, len(columns))
		}
		out[i] = &listed{labels: builder.Labels()}
	}
	return out
}

func valueOf(pairs []string, label string) string {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == label {
			return pairs[i+1]
		}
	}
	return ""
}

func matches(matchers []*labels.Matcher, label, value string) bool {
	return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return m.Name == label && !m.Matches(value) })
}

type seriesSet struct {
	found []*listed
	at    int
}

func (s *seriesSet) Next() bool                        { s.at++; return s.at < len(s.found) }
func (s *seriesSet) At() storage.Series                { return s.found[s.at] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// listed is a series with its samples.
type listed struct {
	labels  labels.Labels
	samples []sample
}

func (l *listed) Labels() labels.Labels { return l.labels }
func (l *listed) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	return storage.NewListSeriesIterator(l)
}
func (l *listed) Get(i int) chunks.Sample { return l.samples[i] }
func (l *listed) Len() int                { return len(l.samples) }

type sample struct {
	at int64
	v  float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
