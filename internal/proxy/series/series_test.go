package series

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

var t0 = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

const route = "acme/shop/production/web"

// traffic is a proxy that counts steadily.
type traffic struct {
	s    *Series
	at   time.Time
	pool map[string]*proxy.PoolStats
}

func newTraffic(labels func(route, pool string) Labels) *traffic {
	return &traffic{s: New(labels), at: t0, pool: map[string]*proxy.PoolStats{}}
}

// latency200 is the bucket of 200 ms: 181 to 256.
const latency200 = 18

// step lets Every go by in which a pool answers.
func (tr *traffic) step(codes map[string]map[int]int64) {
	tr.at = tr.at.Add(Every)
	var all []proxy.PoolStats
	for pool, answers := range codes {
		p := tr.pool[pool]
		if p == nil {
			p = &proxy.PoolStats{Route: route, Pool: pool}
			tr.pool[pool] = p
		}
		for code, n := range answers {
			p.Requests[code/100] += uint64(n)
			p.Latency[latency200] += uint64(n)
			p.LatencySum += time.Duration(n) * 200 * time.Millisecond
		}
		all = append(all, *p)
	}
	tr.s.Record(tr.at, all)
}

func (tr *traffic) number(t *testing.T, query string) float64 {
	t.Helper()
	r, err := tr.s.Query(t.Context(), query, tr.at, Scope{"acme/shop", "production"})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	n, err := r.Number()
	if err != nil {
		t.Fatalf("%s: %v (%+v)", query, err, r)
	}
	return n
}

func sided(route, pool string) Labels {
	l := Named(route, pool)
	l.Side = map[string]string{"1": SideOld, "2": SideNew}[pool]
	return l
}

func TestQueriesOfManifests(t *testing.T) {
	tr := newTraffic(sided)
	for range 30 {
		tr.step(map[string]map[int]int64{"1": {200: 90}, "2": {200: 8, 404: 1, 503: 1}})
	}
	for query, want := range map[string]float64{
		`sum(rate(penstock_proxy_requests_total[1m]))`:                          20,
		`sum(rate(penstock_proxy_requests_total{release="2",code=~"5.."}[1m]))`: 0.2,
		`sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="test",destination_workload=~"web",response_code!~"5.*"}[1m])) / sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="test",destination_workload=~"web"}[1m])) * 100`: 90,
		`sum(rate(istio_requests_total{destination_workload="web-primary"}[1m]))`:                                                                                                                            18,
		`histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload=~"web"}[1m])) by (le))`:                                                    255.25,
		`histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{destination_workload="web",namespace="x"}[10s])) by (le))`:                                                             255.25,
		`sum(rate(nginx_ingress_controller_requests{namespace="test",ingress="web",canary!="",status!~"5.*"}[1m]))`:                                                                                          1.8,
		`sum(rate(nginx_ingress_controller_ingress_upstream_latency_seconds_sum{ingress="web"}[1m])) / sum(rate(nginx_ingress_controller_ingress_upstream_latency_seconds_count{ingress="web"}[1m])) * 1000`: 200,
		`sum(rate(http_request_duration_seconds_count{kubernetes_namespace="test",kubernetes_pod_name=~"web-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)",status!~"5.*"}[1m]))`:                                               1.8,
		`sum(increase(penstock_proxy_request_duration_seconds_count{side="new"}[1m]))`:                                                                                                                       120,
		`scalar(sum(penstock_proxy_requests_total))`: 3000,
	} {
		if got := tr.number(t, query); math.Abs(got-want) > 1e-6 {
			t.Errorf("%s = %v, want %v", query, got, want)
		}
	}
	rate, query, err := tr.s.SuccessRate(t.Context(), Target{Scope{"acme/shop", "production"}, "web", SideNew}, time.Minute, tr.at)
	if err != nil || math.Abs(rate-90) > 1e-9 {
		t.Errorf("success rate %v, %v (%s), want 90", rate, err, query)
	}
	p99, query, err := tr.s.Duration(t.Context(), Target{Scope{"acme/shop", "production"}, "web", SideNew}, time.Minute, tr.at)
	if err != nil || p99 != 255*time.Millisecond {
		t.Errorf("duration %v, %v (%s), want 255ms", p99, err, query)
	}
}

func TestScopeHidesOthers(t *testing.T) {
	tr := newTraffic(nil)
	tr.step(map[string]map[int]int64{"1": {200: 1}})
	for scope, want := range map[Scope]int{{}: 1, {"acme/shop", "production"}: 1, {"acme/shop", "staging"}: 0, {"acme/other", "production"}: 0} {
		r, err := tr.s.Query(t.Context(), requestsTotal, tr.at, scope)
		if err != nil || len(r.Series) != want {
			t.Errorf("scope %+v: %d series, %v; want %d", scope, len(r.Series), err, want)
		}
	}
}

// TestFlaggersEdges: nothing known is no value, nothing but failures is zero, of several series the last counts, and a
// matrix is an error.
func TestFlaggersEdges(t *testing.T) {
	tr := newTraffic(sided)
	web := Target{Scope{"acme/shop", "production"}, "web", SideNew}
	for range 13 {
		tr.step(map[string]map[int]int64{"1": {200: 1}, "2": nil})
	}
	if _, _, err := tr.s.SuccessRate(t.Context(), web, time.Minute, tr.at); !errors.Is(err, ErrNoValues) {
		t.Errorf("success rate without requests: %v, want ErrNoValues", err)
	}
	if _, _, err := tr.s.Duration(t.Context(), web, time.Minute, tr.at); !errors.Is(err, ErrNoValues) {
		t.Errorf("duration without requests: %v, want ErrNoValues", err)
	}
	for range 13 {
		tr.step(map[string]map[int]int64{"1": {200: 1}, "2": {500: 3}})
	}
	if rate, _, err := tr.s.SuccessRate(t.Context(), web, time.Minute, tr.at); err != nil || rate != 0 {
		t.Errorf("success rate of nothing but failures: %v, %v; want 0", rate, err)
	}
	if got := tr.number(t, `sort(vector(1)) or vector(2)`); got != 1 {
		t.Errorf("got %v", got)
	}
	if got := tr.number(t, `label_replace(vector(1), "n", "a", "", "") or label_replace(vector(2), "n", "b", "", "")`); got != 2 {
		t.Errorf("of two series %v was taken, want the last, 2", got)
	}
	r, err := tr.s.Query(t.Context(), requestsTotal+"[1m]", tr.at, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Number(); err == nil || !strings.Contains(err.Error(), "gives a matrix") {
		t.Errorf("number of a matrix: %v", err)
	}
	if _, err := tr.s.Query(t.Context(), "sum(", tr.at, Scope{}); err == nil {
		t.Error("a query that cannot be read had an answer")
	}
}

// TestPromotedPoolChangesItsName: what a pool counted as the new side stays with that name, and rates see no jump.
func TestPromotedPoolChangesItsName(t *testing.T) {
	side := SideNew
	tr := newTraffic(func(route, pool string) Labels { l := Named(route, pool); l.Side = side; return l })
	for range 10 {
		tr.step(map[string]map[int]int64{"2": {200: 5}})
	}
	side = SideOld
	for range 10 {
		tr.step(map[string]map[int]int64{"2": {200: 5}})
	}
	if got := tr.number(t, `sum(increase(penstock_proxy_requests_total{side="old"}[45s]))`); math.Abs(got-45) > 1e-6 {
		t.Errorf("increase since it is old: %v, want 45", got)
	}
	if got := tr.number(t, `count(penstock_proxy_requests_total)`); got != 1 {
		t.Errorf("%v series are there at the end, want 1: the other has ended", got)
	}
	d := tr.s.Delta(route, "2", t0, tr.at)
	if d.Requests != 100 {
		t.Errorf("delta over the promotion: %d requests, want 100", d.Requests)
	}
}

func TestCountersBeginAnew(t *testing.T) {
	tr := newTraffic(nil)
	tr.step(map[string]map[int]int64{"1": {200: 10}})
	tr.pool = map[string]*proxy.PoolStats{} // a new process
	tr.step(map[string]map[int]int64{"1": {200: 4, 500: 1}})
	tr.step(map[string]map[int]int64{}) // the pool is gone
	if r, err := tr.s.Query(t.Context(), requestsTotal, tr.at, Scope{}); err != nil || len(r.Series) != 0 {
		t.Errorf("a pool that is gone: %+v, %v; want nothing", r, err)
	}
	tr.pool = map[string]*proxy.PoolStats{}
	tr.step(map[string]map[int]int64{"1": {200: 7}})
	d := tr.s.Delta(route, "1", t0, tr.at)
	if d.Requests != 22 || d.Errors != 1 || d.Classes[2] != 21 || d.Latency[latency200] != 22 {
		t.Errorf("delta %+v, want 22 requests, 1 of them an error", d)
	}
	if got := tr.number(t, `sum(penstock_proxy_requests_total)`); got != 22 {
		t.Errorf("total %v, want 22", got)
	}
}

func TestDeltaAndRange(t *testing.T) {
	tr := newTraffic(nil)
	for i := range 24 {
		answers := map[string]map[int]int64{"1": {200: 10}}
		if i >= 12 {
			answers["2"] = map[int]int64{200: 5, 500: 5}
		}
		tr.step(answers)
	}
	minute := t0.Add(time.Minute)
	if d := tr.s.Delta(route, "1", minute, tr.at); d.Requests != 120 || d.Errors != 0 {
		t.Errorf("delta of 1: %+v", d)
	}
	// The new pool was not there at the start, and all of it counts.
	if d := tr.s.Delta(route, "2", t0, tr.at); d.Requests != 120 || d.Errors != 60 {
		t.Errorf("delta of 2: %+v", d)
	}
	if d := tr.s.Delta(route, "none", t0, tr.at); d.Requests != 0 || len(d.Latency) != latencyBuckets {
		t.Errorf("delta of none: %+v", d)
	}
	charts, err := tr.s.Range(route, t0, tr.at, 30*time.Second)
	if err != nil || len(charts) != 2 || len(charts[0].Points) != 4 || len(charts[1].Points) != 2 {
		t.Fatalf("charts %+v, %v", charts, err)
	}
	for _, p := range charts[1].Points {
		if p.Rate != 2 || p.ErrorRate != 0.5 || math.Abs(p.P50-218.5) > 1e-9 {
			t.Errorf("point %+v, want 2/s, half of them errors, p50 218.5 ms", p)
		}
	}
	if _, err := tr.s.Range(route, t0, tr.at, time.Millisecond); err == nil {
		t.Error("steps of a millisecond were taken")
	}
}

func TestExportGoesOn(t *testing.T) {
	tr := newTraffic(sided)
	for range 300 { // more than a chunk
		tr.step(map[string]map[int]int64{"1": {200: 9}, "2": {200: 1, 500: 1}})
	}
	var b bytes.Buffer
	if err := tr.s.Export(&b); err != nil {
		t.Fatal(err)
	}
	other := New(sided)
	if err := other.Import(bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	tr.s = other
	for range 12 {
		tr.step(map[string]map[int]int64{"1": {200: 9}, "2": {200: 1, 500: 1}})
	}
	if d := other.Delta(route, "2", t0, tr.at); d.Requests != 624 || d.Errors != 312 {
		t.Errorf("delta %+v, want 624 requests, 312 errors", d)
	}
	if got := tr.number(t, `sum(increase(penstock_proxy_requests_total[20m]))`); math.Abs(got-240*11) > 1e-6 {
		t.Errorf("increase %v, want %v", got, 240*11)
	}
	if err := New(nil).Import(strings.NewReader(strings.Replace(b.String(), "[0.5,", "[0.6,", 1))); err == nil {
		t.Error("series with other buckets were taken over")
	}
}

// FuzzImport: what comes from elsewhere is refused or can be asked.
func FuzzImport(f *testing.F) {
	tr := newTraffic(sided)
	for range 3 {
		tr.step(map[string]map[int]int64{"1": {200: 9}, "2": {500: 1}})
	}
	var b bytes.Buffer
	if err := tr.s.Export(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(sided)
		if s.Import(bytes.NewReader(in)) != nil {
			return
		}
		at := time.UnixMilli(s.last)
		if _, err := s.Range(route, at.Add(-time.Minute), at, time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Query(t.Context(), `sum(rate({__name__=~".+"}[5m]))`, at, Scope{}); err != nil && !strings.Contains(err.Error(), "query: ") {
			t.Fatal(err)
		}
		s.Record(at.Add(Every), []proxy.PoolStats{{Route: route, Pool: "1", Requests: [6]uint64{2: 10, 3: 1}}})
		if err := s.Expose(&b); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAskingOften: samples out of turn are exact while they are the last, and leave no more behind than one in turn.
func TestAskingOften(t *testing.T) {
	s := New(nil)
	at, p := t0, proxy.PoolStats{Route: route, Pool: "1"}
	for range 600 {
		at = at.Add(100 * time.Millisecond)
		p.Requests[2]++
		p.Latency[3]++
		s.Record(at, []proxy.PoolStats{p})
		if d := s.Delta(route, "1", t0, at); d.Requests != int64(p.Requests[2]) {
			t.Fatalf("at %s: %d requests, want %d", at, d.Requests, p.Requests[2])
		}
	}
	n := 0
	for _, c := range s.pools[name{route, "1"}].chunks {
		n += c.N
	}
	if n > 15 {
		t.Errorf("%d samples of a minute are kept, want 12 or a few more", n)
	}
}

// TestSample: samples one after the other add up to what was counted, whoever else asks between, and know the latest of it.
func TestSample(t *testing.T) {
	s := New(nil)
	at, p := t0, proxy.PoolStats{Route: route, Pool: "1"}
	from, sum := t0, int64(0)
	for i := range 1000 {
		at = at.Add(70 * time.Millisecond)
		p.Requests[2]++
		p.Latency[3]++
		s.Record(at, []proxy.PoolStats{p})
		if i%13 != 0 { // somebody else asked
			continue
		}
		to, counts := s.Sample(from, []Pool{{route, "1"}, {route, "none"}})
		sum += counts[0].Requests
		if !to.Equal(at) || sum != int64(p.Requests[2]) || counts[1].Requests != 0 {
			t.Fatalf("at %s: samples until %s have %d requests, want %d; of none: %d", at, to, sum, p.Requests[2], counts[1].Requests)
		}
		from = to
	}
}

// TestBounds: pools, times and bytes are bounded.
func TestBounds(t *testing.T) {
	s := New(nil)
	p := proxy.PoolStats{Route: route, Pool: "1"}
	at := t0
	for i := range uint64(5000) {
		for j := range p.Latency {
			p.Latency[j] += 1 << (10 + i%20) // as many bytes as a very busy pool costs
		}
		at = at.Add(Every)
		s.Record(at, []proxy.PoolStats{p})
	}
	h := s.pools[name{route, "1"}]
	size := 0
	for _, c := range h.chunks {
		size += len(c.Data) + 8*rowWidth
	}
	if size > maxHistory+maxHistory/10 || size < maxHistory/2 {
		t.Errorf("%d bytes are kept, want about %d at most", size, maxHistory)
	}
	if oldest := time.UnixMilli(h.chunks[0].First); at.Sub(oldest) > Keep+chunkSamples*Every {
		t.Errorf("samples of %s are kept at %s", oldest, at)
	}
	many := make([]proxy.PoolStats, maxPools+10)
	for i := range many {
		many[i] = proxy.PoolStats{Route: route, Pool: strconv.Itoa(i)}
	}
	s.Record(at.Add(Every), many)
	if len(s.pools) > maxPools {
		t.Errorf("%d pools are kept, want at most %d", len(s.pools), maxPools)
	}
	if _, err := s.Query(t.Context(), strings.Repeat("1+", maxQuery)+"1", at, Scope{}); err == nil {
		t.Error("a query of 32 kB was taken")
	}
	if _, err := s.Query(t.Context(), `sum(max_over_time(penstock_proxy_request_duration_seconds_bucket[4h:100ms]))`, at.Add(Every), Scope{}); err == nil || !strings.Contains(err.Error(), "2000000 samples") && !strings.Contains(err.Error(), "timed out") {
		t.Errorf("a query of all there is: %v", err)
	}
}

// TestDeltaAgainstModel: whatever comes in whatever order, differences are those of what was counted.
func TestDeltaAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		side := SideNew
		s := New(func(route, pool string) Labels { l := Named(route, pool); l.Side = side; return l })
		type stood struct {
			at    time.Time
			total [6]uint64
		}
		var raw, total [6]uint64
		stands := []stood{{at: t0}}
		at := t0
		for range 1 + r.IntN(400) {
			at = at.Add(time.Duration(1+r.IntN(12_000)) * time.Millisecond)
			switch r.IntN(20) {
			case 0:
				raw = [6]uint64{} // counters begin anew, and it shows
				s.Record(at, []proxy.PoolStats{{Route: route, Pool: "1"}})
				continue
			case 1:
				side = []string{SideNew, SideOld}[r.IntN(2)]
			case 2:
				s.Record(at, nil) // the pool is gone
				raw = [6]uint64{}
				continue
			}
			for class := 1; class <= 5; class++ {
				n := uint64(r.IntN(3)) * uint64(r.IntN(1000))
				raw[class] += n
				total[class] += n
			}
			p := proxy.PoolStats{Route: route, Pool: "1", Requests: raw}
			s.Record(at, []proxy.PoolStats{p})
			stands = append(stands, stood{at, total})
			if d := s.Delta(route, "1", t0.Add(-time.Minute), at); at.Sub(t0) < Keep && d.Errors != int64(total[5]) {
				t.Fatalf("seed %d at %s: %d errors in all, want %d", seed, at.Sub(t0), d.Errors, total[5])
			}
		}
		if s.pools[name{route, "1"}] == nil {
			continue
		}
		var b bytes.Buffer
		if err := s.Export(&b); err != nil {
			t.Fatal(err)
		}
		if err := New(nil).Import(&b); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		end := stands[len(stands)-1]
		if got := s.Delta(route, "1", t0.Add(-time.Minute), end.at).Classes[2]; got != int64(end.total[2]) {
			t.Fatalf("seed %d: %d answers 2xx, want %d", seed, got, end.total[2])
		}
	}
}

// BenchmarkQuery asks as an analysis does, of 50 pools with 4 hours of samples, and tells how much they hold.
func BenchmarkQuery(b *testing.B) {
	s := New(sided)
	stats := make([]proxy.PoolStats, 50)
	at := t0
	r := rand.New(rand.NewPCG(1, 1))
	for i := range stats {
		stats[i].Route, stats[i].Pool = fmt.Sprintf("acme/shop/production/web%d", i/2), strconv.Itoa(1+i%2)
	}
	for range int(Keep / Every) {
		at = at.Add(Every)
		for i := range stats {
			for range 20 {
				stats[i].Latency[int(r.NormFloat64()*3+15+36)%36] += uint64(r.IntN(50))
			}
			stats[i].Requests[2] += 500
			stats[i].Requests[5] += uint64(r.IntN(3))
			stats[i].LatencySum += time.Second
		}
		s.Record(at, stats)
	}
	size := 0
	for _, h := range s.pools {
		for _, c := range h.chunks {
			size += len(c.Data) + 8*rowWidth
		}
	}
	target := Target{Scope{"acme/shop", "production"}, "web3", SideNew}
	b.Run("success-rate-1m", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.SuccessRate(b.Context(), target, time.Minute, at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("duration-1m", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.Duration(b.Context(), target, time.Minute, at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("delta", func(b *testing.B) {
		for b.Loop() {
			s.Delta("acme/shop/production/web3", "2", at.Add(-10*time.Minute), at)
		}
		b.ReportMetric(float64(size)/float64(len(stats)), "B/pool")
	})
	b.Run("record", func(b *testing.B) {
		for b.Loop() {
			at = at.Add(Every)
			s.Record(at, stats)
		}
	})
}
