package cd

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// defaultSample is how many requests a check needs that sets no minimum.
const defaultSample = 20

func (a Analysis) minSample() int64 {
	if a.MinSample > 0 {
		return int64(a.MinSample)
	}
	return defaultSample
}

// idle reports whether the new revision takes nothing yet.
func (r *Release) idle() bool { return r.Weight == 0 && !r.Mirrored && r.Iterations == 0 }

// judging is a look at the analysis of the native mode. Three outcomes are kept apart: pass goes on, fail counts against the
// threshold, inconclusive holds.
type judging struct {
	confirming
	checks   []Check
	evidence []Evidence
	sampled  time.Time
	verdict  Verdict
	reason   string // of the first check that does not pass
	alarm    string // takes it back at once
	errors   int    // checks that could not be made
	noData   int
}

// analyse judges the look under way by the answers it has so far.
func (r *Release) analyse() *judging {
	j := &judging{confirming: confirming{asking: asking{r: r}}, evidence: r.Evidence, sampled: r.Sampled}
	for _, i := range r.hooks(hookRollback) {
		if in, ok := j.webhook(i, flaggerProgressing); ok && in.yes() {
			j.alarm = fmt.Sprintf("The webhook %s asks for a rollback", r.analysis().Webhooks[i].Name)
		}
	}
	if r.idle() {
		if !r.Prepared {
			j.webhooks(hookPre)
		}
	} else {
		j.webhooks(hookRollout)
		j.metrics()
	}
	if len(j.asks) > 0 || j.alarm != "" {
		return j
	}
	j.sum()
	if j.verdict == Pass && !r.Paused {
		j.inOrder = true
		kind := hookConfirmIncrease
		if _, _, last := r.next(); last {
			kind = hookConfirmPromotion
		}
		if r.Phase == Shifting && (kind == hookConfirmPromotion || !r.Mirrored) {
			j.all(kind, flaggerProgressing)
		}
	}
	return j
}

// sum makes one verdict of all checks.
func (j *judging) sum() {
	j.verdict = Pass
	for _, c := range j.checks {
		switch {
		case c.Verdict == Fail && j.verdict != Fail:
			j.verdict, j.reason = Fail, c.Name+": "+c.Reason
		case c.Verdict == Inconclusive && j.verdict == Pass:
			j.verdict, j.reason = Inconclusive, c.Name+": "+c.Reason
		}
	}
}

func (j *judging) add(c Check) {
	c.At = j.r.Look.At
	c.Reason = tail(c.Reason)
	j.checks = append(j.checks, c)
}

func (j *judging) webhooks(kind string) {
	for _, i := range j.r.hooks(kind) {
		in, ok := j.webhook(i, flaggerProgressing)
		c := Check{Name: j.r.analysis().Webhooks[i].Name, Verdict: Pass, Limit: "answers 200 to 202"}
		switch {
		case !ok:
			continue
		case in.Error != "":
			// A webhook of this kind is a test: one that can not be run has not passed.
			c.Verdict, c.Reason = Fail, "could not be asked: "+in.Error
		case !in.OK:
			c.Verdict, c.Reason = Fail, "says no: "+in.Message
		}
		j.add(c)
	}
}

// metrics asks what was measured and judges it.
func (j *judging) metrics() {
	r := j.r
	exposed := r.Weight > 0 || r.Mirrored
	var sample Done
	known := true
	if exposed {
		sample, known = j.ask("sample", Task{Kind: TaskSample, From: r.measuredFrom()})
	}
	if exposed && known {
		j.evidence, j.sampled = r.measured(sample)
	}
	for _, s := range r.Plan.Services {
		if s.Before == 0 {
			continue
		}
		e := evidenceOf(j.evidence, s.Name)
		for i, m := range r.analysis().Metrics {
			if s.Unrouted && m.counted() {
				continue
			}
			if exposed && m.counted() {
				if known {
					j.count(s, m, e, sample.Error)
				}
				continue
			}
			if in, ok := j.ask(fmt.Sprintf("query/%s/%d", s.Name, i), Task{Kind: TaskQuery, Service: s.Name, Metric: &m}); ok {
				j.query(s, m, in)
			}
		}
		if exposed && known && sample.Error == "" && !s.Unrouted {
			j.compare(s, e)
		}
	}
}

// measuredFrom is since when the traffic is still to be measured.
func (r *Release) measuredFrom() time.Time {
	if r.Sampled.After(r.Stepped) {
		return r.Sampled
	}
	return r.Stepped
}

// measured is the evidence with what a sample adds, and how far the traffic has been measured then.
func (r *Release) measured(in Done) (evidence []Evidence, to time.Time) {
	if in.Error != "" {
		return r.Evidence, r.Sampled
	}
	for _, s := range r.Plan.Services {
		sample := in.Samples[s.Name]
		evidence = append(evidence, evidenceOf(r.Evidence, s.Name).plus(sample))
		if sample.To.After(to) {
			to = sample.To
		}
	}
	if to.IsZero() {
		to = r.Look.At
	}
	return evidence, to
}

// counted reports whether a metric is judged by the counters of the proxy.
func (m Metric) counted() bool {
	return m.Query == "" && m.Server == "" && (m.Name == metricSuccess || m.Name == metricDuration)
}

// The metrics that are built in.
const (
	metricSuccess  = "request-success-rate"
	metricDuration = "request-duration"
)

// label names a check: with the service, where there are several.
func (j *judging) label(s Service, name string) string {
	if len(j.r.Plan.Services) == 1 {
		return name
	}
	return name + " of " + s.Name
}

// without is the verdict of a check that has no data.
func (j *judging) without(c *Check, reason string) {
	j.noData++
	c.Verdict, c.Reason = Inconclusive, reason
	if v := j.r.analysis().NoData; v != "" {
		c.Verdict = v
	}
}

// count judges a metric that is built in by what the proxy counted since the weight became what it is.
func (j *judging) count(s Service, m Metric, e Evidence, failure string) {
	c := Check{Name: j.label(s, m.Name), Limit: m.limit(), Sample: e.New.Requests,
		Query: fmt.Sprintf("%s of %s, release %d, since %s", m.Name, s.Name, j.r.ID, j.r.Stepped.UTC().Format(time.RFC3339))}
	if failure != "" {
		j.errors++
		c.Verdict, c.Reason = Inconclusive, "could not be measured: "+failure
		j.add(c)
		return
	}
	var value, old float64
	var has bool
	var bad int64     // requests on the wrong side of the limit
	var share float64 // how many of them the limit allows
	unit := "%"
	if m.Name == metricSuccess {
		value, has = e.New.success()
		if v, ok := e.Old.success(); ok {
			old, c.Old = v, &old
		}
		min, _ := m.bounds()
		bad, share = e.New.Errors, 1
		if min != nil {
			share = 1 - *min/100
		}
	} else {
		unit = "ms"
		value, has = e.New.quantile(0.99)
		value = math.Trunc(value)
		if v, ok := e.Old.quantile(0.99); ok {
			old, c.Old = math.Trunc(v), &old
		}
		_, max := m.bounds()
		share = 0.01
		if max != nil {
			bad = e.New.above(*max)
		}
	}
	switch outside := m.outside(value, unit); {
	case !has:
		j.without(&c, "no requests")
	case e.New.Requests < j.r.analysis().minSample():
		c.Value, c.Verdict = &value, Inconclusive
		c.Reason = fmt.Sprintf("only %d of at least %d requests", e.New.Requests, j.r.analysis().minSample())
	case outside == "":
		c.Value, c.Verdict = &value, Pass
	case binomialTail(e.New.Requests, bad, share) > 0.05:
		c.Value, c.Verdict, c.Reason = &value, Inconclusive, outside+", by too few requests to tell"
	default:
		c.Value, c.Verdict, c.Reason = &value, Fail, outside
	}
	j.add(c)
}

// query judges a metric by what its source answered.
func (j *judging) query(s Service, m Metric, in Done) {
	c := Check{Name: j.label(s, m.Name), Limit: m.limit(), Query: in.Query, Value: in.Value, Verdict: Pass}
	switch {
	case in.Error != "":
		j.errors++
		c.Verdict, c.Reason = Inconclusive, "could not be asked: "+in.Error
	case in.Value == nil:
		j.without(&c, "no value")
	default:
		if c.Reason = m.outside(*in.Value, ""); c.Reason != "" {
			c.Verdict = Fail
		}
	}
	j.add(c)
}

// compare judges the new revision against the old one.
func (j *judging) compare(s Service, e Evidence) {
	min := j.r.analysis().minSample()
	c := Check{Name: j.label(s, "errors against before"), Sample: e.New.Requests, Verdict: Pass,
		Limit: fmt.Sprintf("no more than before (e-value below %d)", alarmAt)}
	if v, ok := e.New.errorRate(); ok {
		c.Value = &v
	}
	if v, ok := e.Old.errorRate(); ok {
		c.Old = &v
	}
	switch value := e.eValue(); {
	case e.alarms():
		c.Verdict = Fail
		c.Reason = fmt.Sprintf("%d of %d requests failed, before %d of %d (e-value %.3g)", e.Errors[0], e.Requests[0], e.Errors[1], e.Requests[1], value)
		if j.alarm == "" {
			j.alarm = fmt.Sprintf("%s fails more than before: %s", s.Name, c.Reason)
		}
	case e.Requests[0] == 0:
		j.without(&c, "no requests")
	case e.Requests[1] == 0:
		c.Reason = "nothing to compare with: the revision before has no requests"
	case e.New.Requests < min:
		c.Verdict, c.Reason = Inconclusive, fmt.Sprintf("only %d of at least %d requests", e.New.Requests, min)
	}
	j.add(c)
	j.compareLatency(s, e, min)
}

func (j *judging) compareLatency(s Service, e Evidence, min int64) {
	c := Check{Name: j.label(s, "latency against before"), Sample: e.New.Requests, Verdict: Pass,
		Limit: fmt.Sprintf("no slower than before (rank test, effect below %.2g)", slowerEffect)}
	if v, ok := e.New.quantile(0.5); ok {
		c.Value = &v
	}
	if v, ok := e.Old.quantile(0.5); ok {
		c.Old = &v
	}
	if e.Pairs == 0 || e.Requests[0] < min {
		return // what has no histogram is not compared; too few requests are told by the other checks
	}
	if slower, effect, p := e.slower(); slower {
		c.Verdict = Fail
		c.Reason = fmt.Sprintf("a request is slower than one before with probability %.2f (p-value %.2g)", effect, p)
	}
	j.add(c)
}

// analysed decides what the look has come to.
func (d *decision) analysed() {
	r := d.r
	j := r.analyse()
	c := r.checked()
	c.Checks, c.Evidence, c.Sampled = j.checks, j.evidence, j.sampled
	c.Errors += j.errors
	c.NoData += j.noData
	next := d.now.Add(r.analysis().interval())
	threshold := r.analysis().threshold()
	switch {
	case j.alarm != "":
		c.FailedChecks++
		d.conclude(c, next, true, "Does not pass at weight %d", r.Weight)
		d.fault("%s", j.alarm)
	case j.verdict == Fail:
		c.FailedChecks, c.Undecided = c.FailedChecks+1, time.Time{}
		d.conclude(c, next, true, "Held at weight %d, failed check %d of %d: %s", r.Weight, c.FailedChecks, threshold, j.reason)
		if c.FailedChecks >= threshold {
			d.fault("Checks failed %d times in a row: %s", c.FailedChecks, j.reason)
		}
	case j.verdict == Inconclusive:
		if c.Undecided.IsZero() {
			c.Undecided = r.Look.At
		}
		d.conclude(c, next, false, "Held at weight %d, the checks say neither yes nor no: %s", r.Weight, j.reason)
	default:
		c.FailedChecks, c.Undecided = 0, time.Time{}
		text := fmt.Sprintf("Checks pass at weight %d", r.Weight)
		if r.idle() {
			text = "May take traffic"
		}
		d.conclude(c, next, false, "%s", text)
		d.passed(j)
	}
}

// passed takes the next step, if nothing holds it.
func (d *decision) passed(j *judging) {
	r := d.r
	if r.idle() && !r.Prepared && r.asksHooks(hookPre) {
		d.emit(Event{Type: EventPrepared, Text: "Pre-rollout webhooks have passed"})
	}
	if r.Paused {
		return
	}
	if j.closed.name != "" {
		what := "take more traffic"
		if _, _, last := r.next(); last {
			what = "be promoted"
		}
		d.closed(j.closed, what)
		return
	}
	if r.Gate != nil {
		d.emit(Event{Type: EventOpened, Gate: r.Gate, Text: "The checks pass: goes on"})
	}
	d.advance()
}

// next is the step after the one that is taken: last is promotion.
func (r *Release) next() (weight int, mirrored, last bool) {
	a := r.analysis()
	if a.Iterations > 0 && r.Phase != Promoting {
		weight = 0
		if r.matching() {
			weight = 100
		}
		return weight, a.Mirror && !r.matching(), r.Iterations >= a.Iterations
	}
	if r.Phase == Promoting {
		weight = min(r.Weight+a.StepWeightPromotion, 100)
		return weight, false, weight == 100
	}
	if r.Weight >= a.maxWeight() {
		return 0, false, true
	}
	if a.Mirror && r.Weight == 0 && !r.Mirrored {
		return 0, true, false
	}
	return a.weightAfter(r.Weight), false, false
}

func (a Analysis) maxWeight() int {
	switch n := len(a.StepWeights); {
	case n > 0:
		return min(a.StepWeights[n-1], 100)
	case a.MaxWeight > 0:
		return min(a.MaxWeight, 100)
	}
	return 100
}

// weightAfter is the next weight, never above the highest that is asked for.
func (a Analysis) weightAfter(now int) int {
	if a.StepWeight > 0 {
		return min(now+a.StepWeight, a.maxWeight())
	}
	for _, w := range a.StepWeights {
		if w > now {
			return min(w, a.maxWeight())
		}
	}
	return a.maxWeight()
}

// advance takes the next step.
func (d *decision) advance() {
	r := d.r
	if !r.Ill.IsZero() {
		return
	}
	a := r.analysis()
	weight, mirrored, last := r.next()
	switch {
	case last && r.Phase == Shifting && a.StepWeightPromotion > 0 && r.Weight > 0 && r.Weight < 100:
		d.move(Promoting, "Promotes by steps of %d", a.StepWeightPromotion)
		d.advance()
	case last:
		d.promoted()
	case a.Iterations > 0 && r.Phase == Shifting:
		e := Event{Type: EventTraffic, Weight: weight, Mirrored: mirrored, Step: r.Step + 1, Iterations: r.Iterations + 1}
		e.Text = fmt.Sprintf("Iteration %d of %d", e.Iterations, a.Iterations)
		d.emit(e)
	case mirrored:
		d.traffic(0, true, r.Step+1, "Mirrors traffic to the new revision")
	default:
		d.traffic(weight, false, r.Step+1, fmt.Sprintf("Weight %d", weight))
	}
}

// undecidedDeadline is when a person is asked because checks have said neither yes nor no for long.
func (r *Release) undecidedDeadline() time.Time {
	if wait := r.analysis().InconclusiveWait; wait > 0 && (r.Phase == Shifting || r.Phase == Promoting) && !r.exact() && !r.Undecided.IsZero() && r.Gate == nil && !r.Paused {
		return r.Undecided.Add(wait)
	}
	return time.Time{}
}

func (d *decision) undecided() {
	if due := d.r.undecidedDeadline(); !due.IsZero() && !due.After(d.now) {
		d.gate(Gate{Kind: gateInconclusive, Reason: fmt.Sprintf("The checks have said neither yes nor no for %s: approve takes the next step, and it goes on by itself when they pass", d.r.analysis().InconclusiveWait)})
	}
}

// watchingLook is a look at what is measured after promotion, or while traffic moves by time alone.
type watchingLook struct {
	asking
	evidence []Evidence
	sampled  time.Time
	checks   []Check
	bad      string
}

func (r *Release) watchLook() *watchingLook {
	l := &watchingLook{asking: asking{r: r}, evidence: r.Evidence, sampled: r.Sampled}
	in, ok := l.ask("sample", Task{Kind: TaskSample, From: r.measuredFrom()})
	if !ok || in.Error != "" {
		return l
	}
	l.evidence, l.sampled = r.measured(in)
	for i := range l.evidence {
		if e := &l.evidence[i]; l.service(*e) {
			e.New, e.Old = Traffics{}, Traffics{}
		}
	}
	return l
}

// service judges one service's window and reports whether it had enough to be judged: then the next one begins.
func (l *watchingLook) service(e Evidence) bool {
	w := l.r.Plan.Watch
	need := int64(w.MinSample)
	if need <= 0 {
		need = defaultSample
	}
	decided := true
	add := func(c Check, value float64, outside bool, bad int64, share float64) {
		c.At, c.Value, c.Sample, c.Verdict = l.r.Look.At, &value, e.New.Requests, Pass
		switch {
		case e.New.Requests < need:
			c.Verdict, c.Reason, decided = Inconclusive, fmt.Sprintf("only %d of at least %d requests", e.New.Requests, need), false
		case outside && binomialTail(e.New.Requests, bad, share) > 0.01:
			c.Verdict, c.Reason, decided = Inconclusive, "beyond the limit, by too few requests to tell", false
		case outside:
			c.Verdict, c.Reason = Fail, fmt.Sprintf("%s of %s: %.4g, the limit is %s", c.Name, e.Service, value, c.Limit)
			if l.bad == "" {
				l.bad = c.Reason
			}
		}
		l.checks = append(l.checks, c)
	}
	if rate, ok := e.New.errorRate(); ok && w.Errors > 0 {
		add(Check{Name: "errors", Limit: fmt.Sprintf("at most %v %%", w.Errors)}, rate, rate > w.Errors, e.New.Errors, w.Errors/100)
	}
	if p99, ok := e.New.quantile(0.99); ok && w.Latency > 0 {
		limit := float64(w.Latency) / float64(time.Millisecond)
		add(Check{Name: "latency (p99)", Limit: fmt.Sprintf("at most %v ms", limit)}, p99, p99 > limit, e.New.above(limit), 0.01)
	}
	return decided && e.New.Requests > 0
}

func (d *decision) watched() {
	r := d.r
	l := r.watchLook()
	c := r.checked()
	c.Evidence, c.Sampled = l.evidence, l.sampled
	if len(l.checks) > 0 {
		c.Checks = l.checks
	}
	text := "What is measured is within its limits"
	switch {
	case l.bad != "":
		text = "What is measured is beyond its limits"
	case len(l.checks) == 0:
		text = "Nothing was measured"
	case slices.ContainsFunc(l.checks, func(c Check) bool { return c.Verdict == Inconclusive }):
		text = "Too few requests were measured to tell"
	}
	next := d.now.Add(r.Plan.Watch.interval())
	if until := r.watchedUntil(); !until.IsZero() && next.After(until) {
		next = time.Time{}
	}
	d.conclude(c, next, l.bad != "", "%s", text)
	if l.bad != "" {
		d.alarm("%s", l.bad)
	}
}
