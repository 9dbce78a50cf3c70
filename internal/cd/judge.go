package cd

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// alarmAt is the e-value at which errors are told from chance: by Ville's inequality a healthy revision reaches it with a
	// probability of at most 1/alarmAt, however often one looks.
	alarmAt = 20
	// steadyStep bounds what one look adds to steady evidence, as a logarithm: a burst of errors alone is no alarm.
	steadyStep = 2
	// maxBurst is how large bursts of errors may be for which nothing is known yet about how they scatter.
	maxBurst = 5
	// minErrors is how many errors the new revision has to have before they alarm.
	minErrors = 5
	// slowerAlpha is the chance of calling a revision slower that is not, in all looks together.
	slowerAlpha = 0.01
	// slowerEffect is how often a request of the new revision has to be slower than one of the old to matter: 0.5 is never mind.
	slowerEffect = 0.6
	// maxBuckets bounds histograms.
	maxBuckets = 256
)

// ratios are the rates of errors, by that of the old revision, that the e-value looks for.
var ratios = [...]float64{1.5, 2, 4, 10}

// Evidence is what the traffic has shown of one service since the analysis began.
type Evidence struct {
	Service string `json:"service"`
	// New and Old are what was counted since the weight became what it is.
	New Traffics `json:"new"`
	Old Traffics `json:"old"`
	// Requests and Errors are all that were counted, of new and old.
	Requests [2]int64 `json:"requests"`
	Errors   [2]int64 `json:"errors"`
	// Log is how much likelier the errors are at each of the ratios than if both failed alike, as a logarithm. In Steady no
	// look counts for more than steadyStep, so that it takes several.
	Log    [len(ratios)]float64 `json:"log"`
	Steady [len(ratios)]float64 `json:"steady"`
	// Chi and Freedom measure how much more the errors scatter from look to look than independent ones would.
	Chi     float64 `json:"chi,omitempty"`
	Freedom int     `json:"freedom,omitempty"`
	// Shift and Variance are the sums over all looks of Mann-Whitney's U, less what it is expected to be, and of its
	// variance; Pairs is that of all pairs. Looks counts those that had some.
	Shift    float64 `json:"shift,omitempty"`
	Variance float64 `json:"variance,omitempty"`
	Pairs    float64 `json:"pairs,omitempty"`
	Looks    int     `json:"looks,omitempty"`
}

func evidenceOf(all []Evidence, service string) Evidence {
	for _, e := range all {
		if e.Service == service {
			return e
		}
	}
	return Evidence{Service: service}
}

// stepped forgets what was counted at the weight before.
func stepped(all []Evidence) []Evidence {
	out := slices.Clone(all)
	for i := range out {
		out[i].New, out[i].Old = Traffics{}, Traffics{}
	}
	return out
}

// plus is the evidence with what was counted since the last look.
func (e Evidence) plus(s Sample) Evidence {
	e.compareErrors(s.New, s.Old)
	e.compareLatency(s.New, s.Old)
	e.New, e.Old = e.New.plus(s.New), e.Old.plus(s.Old)
	return e
}

// compareErrors is the step of a test by betting: given how many errors there were, it is binomial how many are the new
// revision's. So what makes both fail alike - a dependency, an hour of the day, a changing weight - says nothing.
func (e *Evidence) compareErrors(now, old Traffics) {
	before := *e
	e.Requests[0] += now.Requests
	e.Requests[1] += old.Requests
	e.Errors[0] += now.Errors
	e.Errors[1] += old.Errors
	if now.Requests == 0 || old.Requests == 0 || now.Errors+old.Errors == 0 {
		return
	}
	n, o := float64(now.Requests), float64(old.Requests)
	x, y := float64(now.Errors), float64(old.Errors)
	for i, ratio := range ratios {
		both := math.Log((n + o) / (ratio*n + o))
		more := x*(both+math.Log(ratio)) + y*both
		e.Log[i] += more
		e.Steady[i] += min(more, steadyStep)
	}
	// How the errors scatter round the share that they had until now: bursts that hit one side alone make it more than one.
	// Looks with hardly any errors do not tell.
	if total := float64(before.Errors[0] + before.Errors[1]); total > 0 && before.Requests[0] > 0 && before.Requests[1] > 0 {
		rate := (float64(before.Errors[0]) + 0.5) / float64(before.Requests[0]) / ((float64(before.Errors[1]) + 0.5) / float64(before.Requests[1]))
		p := rate * n / (rate*n + o)
		if k := x + y; k*p*(1-p) >= 0.5 {
			e.Chi += (x - k*p) * (x - k*p) / (k * p * (1 - p))
			e.Freedom++
		}
	}
}

// dispersion is how many times more the errors scatter than independent ones, never less than one.
func (e Evidence) dispersion() float64 {
	return max(1, (e.Chi+priorFreedom)/(float64(e.Freedom)+priorFreedom))
}

// priorFreedom is how many looks that scatter as they should the dispersion starts with.
const priorFreedom = 2

// eValue is how much likelier the errors are if the new revision fails more often than if both fail alike, averaged over
// the ratios. Errors that come in bursts count for less. It is reached by steady evidence, or by so much of it that bursts
// of maxBurst errors would not explain it.
func (e Evidence) eValue() float64 {
	d := e.dispersion()
	return max(mixture(e.Steady, d), mixture(e.Log, max(d, maxBurst)))
}

func mixture(logs [len(ratios)]float64, dispersion float64) float64 {
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(min(l/dispersion, 700))
	}
	return sum / float64(len(logs))
}

// alarms reports whether the new revision fails more than the old one.
func (e Evidence) alarms() bool { return e.Errors[0] >= minErrors && e.eValue() >= alarmAt }

// compareLatency adds Mann-Whitney's U of one look: each look is compared within itself, so that hours of the day and
// changing weights say nothing.
func (e *Evidence) compareLatency(now, old Traffics) {
	if !slices.Equal(now.Bounds, old.Bounds) || len(now.Latency) != len(old.Latency) || len(now.Latency) == 0 {
		return
	}
	var m, n, u, ties, below float64
	for i, c := range now.Latency {
		a, b := float64(c), float64(old.Latency[i])
		u += a * (below + b/2)
		below += b
		m += a
		n += b
		ties += math.Pow(a+b, 3) - (a + b)
	}
	all := m + n
	if m == 0 || n == 0 || all < 2 {
		return
	}
	e.Looks++
	e.Pairs += m * n
	e.Shift += u - m*n/2
	e.Variance += m * n / 12 * (all + 1 - ties/(all*(all-1)))
}

// slower reports whether requests of the new revision are slower, by so much that it matters: effect is the probability that
// one is slower than one of the old, p how probable so much is by chance. The chance of a false alarm is spent over all
// looks, the k-th gets 6/(pi k)^2 of it.
func (e Evidence) slower() (slower bool, effect, p float64) {
	if e.Pairs == 0 || e.Variance <= 0 {
		return false, 0.5, 1
	}
	effect = 0.5 + e.Shift/e.Pairs
	p = math.Erfc(e.Shift/math.Sqrt(e.Variance)/math.Sqrt2) / 2
	k := float64(e.Looks)
	return effect >= slowerEffect && p <= slowerAlpha*6/(math.Pi*math.Pi*k*k), effect, p
}

// plus adds counts. Histograms with other bounds begin anew.
func (t Traffics) plus(u Traffics) Traffics {
	out := Traffics{Requests: t.Requests + u.Requests, Errors: t.Errors + u.Errors, Bounds: u.Bounds, Latency: u.Latency}
	switch {
	case len(u.Latency) == 0:
		out.Bounds, out.Latency = t.Bounds, t.Latency
	case slices.Equal(t.Bounds, u.Bounds) && len(t.Latency) == len(u.Latency):
		out.Latency = slices.Clone(u.Latency)
		for i, n := range t.Latency {
			out.Latency[i] += n
		}
	}
	return out
}

// success is the percentage of requests that did not fail.
func (t Traffics) success() (float64, bool) {
	if t.Requests == 0 {
		return 0, false
	}
	return 100 * float64(t.Requests-t.Errors) / float64(t.Requests), true
}

func (t Traffics) errorRate() (float64, bool) {
	if t.Requests == 0 {
		return 0, false
	}
	return 100 * float64(t.Errors) / float64(t.Requests), true
}

// quantile is interpolated within its bucket, as Prometheus does; in the last it is the last bound.
func (t Traffics) quantile(q float64) (float64, bool) {
	total := int64(0)
	for _, n := range t.Latency {
		total += n
	}
	if total == 0 || len(t.Bounds) == 0 {
		return 0, false
	}
	rank, seen := q*float64(total), 0.0
	for i, n := range t.Latency {
		if seen+float64(n) < rank || n == 0 {
			seen += float64(n)
			continue
		}
		if i >= len(t.Bounds) {
			break
		}
		low := 0.0
		if i > 0 {
			low = t.Bounds[i-1]
		}
		return low + (t.Bounds[i]-low)*(rank-seen)/float64(n), true
	}
	return t.Bounds[len(t.Bounds)-1], true
}

// above counts requests that certainly took longer than a limit, in milliseconds.
func (t Traffics) above(limit float64) int64 {
	n := int64(0)
	for i, c := range t.Latency {
		if i > 0 && i-1 < len(t.Bounds) && t.Bounds[i-1] >= limit {
			n += c
		}
	}
	return n
}

// binomialTail is the probability of at least k of n where each has probability p.
func binomialTail(n, k int64, p float64) float64 {
	switch {
	case k <= 0:
		return 1
	case p <= 0:
		return 0
	case p >= 1:
		return 1
	}
	mean := float64(n) * p
	if float64(k) <= mean {
		return 1
	}
	// From k on the terms fall by a factor of less than one: their sum is soon what it will be.
	logTerm := logChoose(n, k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p)
	term := math.Exp(logTerm)
	sum := 0.0
	for i := k; i <= n && term > sum*1e-12; i++ {
		sum += term
		term *= float64(n-i) / float64(i+1) * p / (1 - p)
	}
	return min(sum, 1)
}

func logChoose(n, k int64) float64 {
	a, _ := math.Lgamma(float64(n) + 1)
	b, _ := math.Lgamma(float64(k) + 1)
	c, _ := math.Lgamma(float64(n-k) + 1)
	return a - b - c
}

// bounds are the least and the greatest value that pass.
func (m Metric) bounds() (least, most *float64) {
	switch {
	case m.Min != nil || m.Max != nil:
		return m.Min, m.Max
	case m.Name == metricSuccess:
		return &m.Threshold, nil
	}
	return nil, &m.Threshold
}

// limit says the bounds.
func (m Metric) limit() string {
	least, most := m.bounds()
	switch {
	case least != nil && most != nil:
		return fmt.Sprintf("%v to %v", *least, *most)
	case least != nil:
		return fmt.Sprintf("at least %v", *least)
	}
	return fmt.Sprintf("at most %v", *most)
}

// outside says how a value is out of bounds, nothing if it is not.
func (m Metric) outside(v float64, unit string) string {
	least, most := m.bounds()
	if unit != "" {
		unit = " " + unit
	}
	switch {
	case least != nil && v < *least:
		return fmt.Sprintf("%.4g%s is below %v%s", v, unit, *least, unit)
	case most != nil && v > *most:
		return fmt.Sprintf("%.4g%s is above %v%s", v, unit, *most, unit)
	}
	return ""
}

// sound reports whether what was measured is within what can be: counts that are not negative, histograms of a size, times
// in order.
func (in Done) sound() bool {
	if len(in.Samples) > 1000 {
		return false
	}
	for _, s := range in.Samples {
		if !s.New.sound() || !s.Old.sound() || s.To.Sub(s.From) < 0 || s.To.Sub(s.From) > 10*365*24*time.Hour {
			return false
		}
	}
	return true
}

// maxCount bounds counts, so that sums of them do not overflow.
const maxCount = 1 << 40

func (t Traffics) sound() bool {
	if t.Requests < 0 || t.Errors < 0 || t.Errors > t.Requests || t.Requests > maxCount || len(t.Latency) > maxBuckets || len(t.Bounds) > maxBuckets {
		return false
	}
	if len(t.Latency) > 0 && len(t.Latency) != len(t.Bounds)+1 || !slices.IsSorted(t.Bounds) {
		return false
	}
	for _, n := range t.Latency {
		if n < 0 || n > maxCount {
			return false
		}
	}
	return !slices.ContainsFunc(t.Bounds, func(b float64) bool { return math.IsNaN(b) || math.IsInf(b, 0) })
}
