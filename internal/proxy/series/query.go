package series

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	// maxQuery bounds the text of a query, maxSamples what it holds in memory, queryTime how long it takes, maxResult how
	// many series it gives.
	maxQuery   = 16 << 10
	maxSamples = 2_000_000
	queryTime  = 5 * time.Second
	maxResult  = 10_000
	// maxQueries bounds how many run at a time. Others wait, within queryTime.
	maxQueries = 4
)

// Scope narrows what a query sees to one environment of one repository. The zero value is everything. Within a scope the
// namespaces that queries written for a cluster ask for match whatever they are: an environment is all there is.
type Scope struct {
	Repository  string `json:"repository,omitempty"`
	Environment string `json:"environment,omitempty"`
}

// Result is the answer to a query.
type Result struct {
	Type   string   `json:"type"` // scalar, vector, matrix or string
	Series []Sample `json:"series"`
	Text   string   `json:"text,omitempty"` // of a string
	// Warnings are what the engine finds odd with a query that has an answer.
	Warnings []string `json:"warnings,omitempty"`
}

// Sample is one series of a Result: of a matrix with many points, otherwise with one.
type Sample struct {
	Metric map[string]string `json:"metric,omitempty"`
	Points []Value           `json:"points"`
}

// Value is a number at a time. In JSON it is as in Prometheus' API, [seconds, "number"], for JSON has no NaN.
type Value struct {
	At    time.Time
	Value float64
}

func (v Value) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{float64(v.At.UnixMilli()) / 1000, strconv.FormatFloat(v.Value, 'f', -1, 64)})
}

func (v *Value) UnmarshalJSON(b []byte) error {
	var seconds float64
	var number string
	if err := json.Unmarshal(b, &[]any{&seconds, &number}); err != nil {
		return err
	}
	v.At = time.UnixMilli(int64(math.Round(seconds * 1000)))
	var err error
	v.Value, err = strconv.ParseFloat(number, 64)
	return err
}

// engine is Prometheus', made when it is first asked.
type engine struct {
	once   sync.Once
	promql *promql.Engine
	turns  chan struct{}
}

func (e *engine) start() {
	e.once.Do(func() {
		e.promql = promql.NewEngine(promql.EngineOpts{
			MaxSamples: maxSamples, Timeout: queryTime, LookbackDelta: LookBack, EnableAtModifier: true, EnableNegativeOffset: true,
			NoStepSubqueryIntervalFn: func(int64) int64 { return Every.Milliseconds() },
			Parser:                   parser.NewParser(parser.Options{}),
		})
		e.turns = make(chan struct{}, maxQueries)
	})
}

// Query answers an instant query. The error says what is wrong with it, or what it wanted more of than there may be.
func (s *Series) Query(ctx context.Context, query string, at time.Time, scope Scope) (Result, error) {
	if len(query) > maxQuery {
		return Result{}, fmt.Errorf("the query is %d bytes long; at most %d are taken", len(query), maxQuery)
	}
	s.engine.start()
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	select {
	case s.engine.turns <- struct{}{}:
		defer func() { <-s.engine.turns }()
	case <-ctx.Done():
		return Result{}, fmt.Errorf("query: %d others are being answered: %w", maxQueries, ctx.Err())
	}
	q, err := s.engine.promql.NewInstantQuery(ctx, &queryable{s, scope}, nil, query, at)
	if err != nil {
		return Result{}, fmt.Errorf("query: %w", err)
	}
	defer q.Close()
	answer := q.Exec(ctx)
	var tooMany promql.ErrTooManySamples
	switch {
	case errors.As(answer.Err, &tooMany):
		return Result{}, fmt.Errorf("query: it needs more than %d samples; ask for fewer series or less time", maxSamples)
	case answer.Err != nil:
		return Result{}, fmt.Errorf("query: %w", answer.Err)
	}
	return convert(answer)
}

func convert(answer *promql.Result) (Result, error) {
	r := Result{Type: string(answer.Value.Type()), Series: []Sample{}}
	warnings, infos := answer.Warnings.AsStrings("", 10, 10)
	r.Warnings = append(warnings, infos...)
	point := func(at int64, v float64) Value { return Value{time.UnixMilli(at).UTC(), v} }
	switch v := answer.Value.(type) {
	case promql.Scalar:
		r.Series = append(r.Series, Sample{Points: []Value{point(v.T, v.V)}})
	case promql.String:
		r.Text = v.V
	case promql.Vector:
		for _, one := range v {
			r.Series = append(r.Series, Sample{Metric: one.Metric.Map(), Points: []Value{point(one.T, one.F)}})
		}
	case promql.Matrix:
		for _, one := range v {
			sample := Sample{Metric: one.Metric.Map()}
			for _, p := range one.Floats {
				sample.Points = append(sample.Points, point(p.T, p.F))
			}
			r.Series = append(r.Series, sample)
		}
	}
	if len(r.Series) > maxResult {
		return Result{}, fmt.Errorf("query: the answer has %d series; at most %d are given: aggregate them", len(r.Series), maxResult)
	}
	return r, nil
}

// ErrNoValues is what Number gives for an answer that says nothing.
var ErrNoValues = errors.New("no values found")

// Number takes the one number of an answer as Flagger does: of a vector of many series the last one. No series, or NaN, is
// ErrNoValues; a matrix or text is an error.
func (r Result) Number() (float64, error) {
	if r.Type != "scalar" && r.Type != "vector" {
		return 0, fmt.Errorf("the query gives a %s; it has to give a number: wrap it in rate(), increase() or an aggregation", r.Type)
	}
	if len(r.Series) == 0 {
		return 0, ErrNoValues
	}
	v := r.Series[len(r.Series)-1].Points[0].Value
	if math.IsNaN(v) {
		return 0, ErrNoValues
	}
	return v, nil
}

// Target is what Flagger's own metrics are asked of: one side of a service.
type Target struct {
	Scope
	Service string `json:"service"`
	Side    string `json:"side"` // SideNew or SideOld; empty is both
}

// selector is the label matchers of a target's series.
func (t Target) selector(also ...string) string {
	by := "service=" + strconv.Quote(t.Service)
	if t.Side != "" {
		by += ",side=" + strconv.Quote(t.Side)
	}
	for _, m := range also {
		by += "," + m
	}
	return by
}

// SuccessRate is Flagger's request-success-rate: the percentage of requests, in the interval that ends at a time, that
// were not answered 5xx. ErrNoValues is for no requests at all. It gives the query, as it was asked, in any case.
func (s *Series) SuccessRate(ctx context.Context, t Target, interval time.Duration, at time.Time) (percent float64, query string, err error) {
	over := promDuration(interval)
	// Flagger's own query has no value if nothing succeeded; it is zero.
	query = fmt.Sprintf(`(sum(rate(%[1]s{%[2]s}[%[4]s])) or vector(0)) / sum(rate(%[1]s{%[3]s}[%[4]s])) * 100`,
		requestsTotal, t.selector(`code!~"5.*"`), t.selector(), over)
	percent, err = s.number(ctx, query, at, t.Scope)
	return percent, query, err
}

// Duration is Flagger's request-duration: the 99th percentile in the interval that ends at a time, cut to whole
// milliseconds.
func (s *Series) Duration(ctx context.Context, t Target, interval time.Duration, at time.Time) (p99 time.Duration, query string, err error) {
	query = fmt.Sprintf(`histogram_quantile(0.99, sum(rate(%s_bucket{%s}[%s])) by (le)) * 1000`, durationSeconds, t.selector(), promDuration(interval))
	ms, err := s.number(ctx, query, at, t.Scope)
	return time.Duration(int64(ms)) * time.Millisecond, query, err
}

func (s *Series) number(ctx context.Context, query string, at time.Time, scope Scope) (float64, error) {
	r, err := s.Query(ctx, query, at, scope)
	if err != nil {
		return 0, err
	}
	return r.Number()
}

// promDuration writes a duration as PromQL reads it: whole milliseconds, at least one.
func promDuration(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + "ms"
}
