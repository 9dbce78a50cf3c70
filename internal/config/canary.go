package config

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Flagger's defaults (pkg/apis/flagger/v1beta1/canary.go) and its names of the metrics that are built in.
const (
	flaggerInterval      = time.Minute
	flaggerLeastInterval = 10 * time.Second
	flaggerMaxWeight     = 100
	flaggerDeadline      = 600 * time.Second
	flaggerReady         = 100
	flaggerTimeout       = 10 * time.Second
	flaggerCookieAge     = 24 * time.Hour
	flaggerMetric        = time.Minute
	flaggerIterations    = 10 // of provider kubernetes

	successRate = "request-success-rate"
	duration    = "request-duration"
)

// What the native mode has where the file says nothing.
const (
	nativeThreshold  = 3
	nativeStep       = 10
	nativeMaxWeight  = 50 // of the steps that nobody said
	nativeSuccess    = 99.0
	nativeMinSample  = 20
	nativeLeast      = time.Second
	mostInterval     = 24 * time.Hour
	mostCount        = 1_000_000
	mostChecks       = 100 // metrics, webhooks, rules of an analysis
	mostQuery        = 16 << 10
	mostMatchPattern = 1 << 10
)

// templated is a metric whose query is that of a MetricTemplate.
type templated struct {
	Pos
	name, namespace string // namespace may be empty
	metric          cd.Metric
}

// analysis reads what Flagger calls analysis, the fields that both modes have; Exact tells them apart.
type analysis struct {
	cd.Analysis
	templated []templated
}

// canary reads the native mode: `strategy: {canary: ...}`, or the manifests that say it all.
func (r *reader) canary(s *strategy, n *yaml.Node) {
	a := analysis{Analysis: cd.Analysis{
		Interval: flaggerInterval, Threshold: nativeThreshold, MaxWeight: flaggerMaxWeight,
		ProgressDeadline: flaggerDeadline, PrimaryReadyThreshold: flaggerReady, CanaryReadyThreshold: flaggerReady,
		MinSample: nativeMinSample, NoData: cd.Inconclusive,
	}}
	fields := append(a.fields(),
		field{"manifest", func(r *reader, n *yaml.Node) { s.manifest = r.files(n, "k8s/canary.yaml") }},
		field{"templates", func(r *reader, n *yaml.Node) { s.templates = r.files(n, "k8s/metrics.yaml") }},
		field{"skipAnalysis", func(r *reader, n *yaml.Node) { a.SkipAnalysis = r.boolean(n) }},
		field{"progressDeadlineSeconds", func(r *reader, n *yaml.Node) { a.ProgressDeadline = r.seconds(n) }},
		field{"minSample", func(r *reader, n *yaml.Node) {
			a.MinSample = r.integer(n, "a number of requests such as 20", 1, mostCount)
		}},
		field{"noData", func(r *reader, n *yaml.Node) {
			a.NoData = cd.Verdict(r.word(n, string(cd.Inconclusive), string(cd.Pass), string(cd.Fail)))
		}},
		field{"inconclusiveWait", func(r *reader, n *yaml.Node) { a.InconclusiveWait = r.duration(n, 0, 7*24*time.Hour) }},
	)
	at := r.section(n, fields)
	if manifest := at["manifest"]; manifest != nil {
		for _, f := range fields {
			if at[f.key] != nil && f.key != "manifest" {
				r.mistake(at[f.key], "the manifest says how the canary goes: write %s there, or the fields here and no manifest", f.key)
			}
		}
		return
	}
	steps := at["stepWeight"] != nil || at["stepWeights"] != nil
	if !steps && at["iterations"] == nil && !a.SkipAnalysis && at["match"] == nil {
		a.StepWeight = nativeStep
		if at["maxWeight"] == nil {
			a.MaxWeight = nativeMaxWeight
		}
	}
	if at["stepWeight"] != nil && at["stepWeights"] != nil {
		r.mistake(at["stepWeights"], "stepWeight says how traffic moves already: write one of them")
	}
	if at["iterations"] != nil && steps {
		r.mistake(at["iterations"], "traffic moves by steps already: write iterations for a test that does not move it")
	}
	if at["metrics"] == nil && !a.SkipAnalysis {
		least := nativeSuccess
		a.Metrics = []cd.Metric{{Name: successRate, Interval: flaggerMetric, Min: &least}}
	}
	a.check(r, n, at)
	if len(a.templated) > 0 && len(s.templates) == 0 {
		r.at(a.templated[0].Pos, "there is no file with the MetricTemplate '%s': name it under templates", a.templated[0].name)
	}
	s.Analysis, s.templated = &a.Analysis, a.templated
}

// files reads the paths of YAML files of the repository.
func (r *reader) files(n *yaml.Node, like string) []namedFile {
	var all []namedFile
	for _, e := range r.list(n) {
		if name := r.pathAt(e, like); name != "" {
			all = append(all, namedFile{place(e), name})
		}
	}
	if len(all) == 0 && isNull(n) {
		r.mistake(n, "there is no file: write one such as %s", like)
	}
	if len(all) > 20 {
		r.mistake(n, "there are more than 20 files")
		return nil
	}
	return all
}

// fields are those of Flagger's spec.analysis.
func (a *analysis) fields() []field {
	return []field{
		{"interval", func(r *reader, n *yaml.Node) { a.Interval = a.interval(r, n) }},
		{"threshold", func(r *reader, n *yaml.Node) {
			a.Threshold = a.count(r, n, "a number of failed checks such as 5", mostCount)
		}},
		{"maxWeight", func(r *reader, n *yaml.Node) { a.MaxWeight = a.count(r, n, "a weight such as 50", 100) }},
		{"stepWeight", func(r *reader, n *yaml.Node) { a.StepWeight = a.count(r, n, "a weight such as 10", 100) }},
		{"stepWeights", func(r *reader, n *yaml.Node) { a.StepWeights = r.weights(n) }},
		{"stepWeightPromotion", func(r *reader, n *yaml.Node) {
			a.StepWeightPromotion = r.integer(n, "a weight such as 25", 0, 100)
		}},
		{"iterations", func(r *reader, n *yaml.Node) {
			a.Iterations = a.count(r, n, "a number of checks such as 10", mostCount)
		}},
		{"mirror", func(r *reader, n *yaml.Node) { a.Mirror = r.boolean(n) }},
		{"mirrorWeight", func(r *reader, n *yaml.Node) { a.MirrorWeight = r.integer(n, "a share such as 100", 0, 100) }},
		{"match", func(r *reader, n *yaml.Node) { a.Match = r.matches(n) }},
		{"metrics", func(r *reader, n *yaml.Node) { a.metrics(r, n) }},
		{"webhooks", func(r *reader, n *yaml.Node) { a.webhooks(r, n) }},
		{"sessionAffinity", func(r *reader, n *yaml.Node) { a.Affinity = r.affinity(n) }},
		{"primaryReadyThreshold", func(r *reader, n *yaml.Node) {
			a.PrimaryReadyThreshold = r.integer(n, "a share of the instances such as 100", 0, 100)
		}},
		{"canaryReadyThreshold", func(r *reader, n *yaml.Node) {
			a.CanaryReadyThreshold = r.integer(n, "a share of the instances such as 100", 0, 100)
		}},
		{"alerts", func(r *reader, n *yaml.Node) {
			r.note(n, "alerts go to nobody yet: a release tells of itself in its log, on its page and by the commit's status")
		}},
	}
}

// check is what holds of an analysis as a whole.
func (a *analysis) check(r *reader, n *yaml.Node, at map[string]*yaml.Node) {
	switch {
	case len(a.Match) > 0 && a.Iterations == 0 && !a.SkipAnalysis:
		r.mistake(at["match"], "a test of what matches needs iterations, how often it is checked, such as iterations: 10")
	case a.Iterations == 0 && a.StepWeight == 0 && len(a.StepWeights) == 0 && !a.SkipAnalysis:
		r.mistake(n, "neither stepWeight, stepWeights nor iterations is here: the release would never go on; write one, such as stepWeight: 10")
	}
	if a.StepWeight > 0 && len(a.StepWeights) > 0 {
		r.note(at["stepWeights"], "stepWeight counts: stepWeights has no effect beside it")
	}
	if len(a.StepWeights) > 0 && a.StepWeight == 0 && at["maxWeight"] != nil {
		r.note(at["maxWeight"], "stepWeights end with the last of them: maxWeight has no effect beside them")
	}
	if a.Iterations > 0 && (a.StepWeight > 0 || len(a.StepWeights) > 0) {
		r.note(at["iterations"], "iterations counts: traffic does not move by steps beside it")
	}
}

// interval reads how often is checked. Flagger takes what it can not read for a minute, and less than ten seconds for ten.
func (a *analysis) interval(r *reader, n *yaml.Node) time.Duration {
	if !a.Exact {
		return r.duration(n, nativeLeast, mostInterval)
	}
	d, ok := r.flaggerTime(n)
	switch {
	case d > mostInterval:
		r.mistake(n, "'%s' is more than %s", n.Value, durationText(mostInterval))
	case !ok:
		r.note(n, "Flagger takes '%.40s' for %s", n.Value, durationText(flaggerInterval))
		return flaggerInterval
	case d < flaggerLeastInterval:
		r.note(n, "Flagger takes '%s' for %s, the least there is", n.Value, durationText(flaggerLeastInterval))
		return flaggerLeastInterval
	}
	return d
}

// flaggerTimePattern is that of Flagger's CRD.
var flaggerTimePattern = regexp.MustCompile(`^[0-9]+(m|s)`)

// flaggerTime reads a time as Flagger does: ok is false, without a mistake, for what its CRD takes and it can not read.
func (r *reader) flaggerTime(n *yaml.Node) (d time.Duration, ok bool) {
	if !r.scalar(n, "a time such as 30s or 1m") {
		return 0, true
	}
	d, err := time.ParseDuration(n.Value)
	if err == nil && d >= 0 {
		return d, true
	}
	if !flaggerTimePattern.MatchString(n.Value) {
		r.mistake(n, "'%.40s' is no time: write one such as 30s or 1m", n.Value)
		return 0, true
	}
	return 0, false
}

// count reads a number that has to be there: of zero, Flagger makes its default.
func (a *analysis) count(r *reader, n *yaml.Node, what string, most int) int {
	least := 1
	if a.Exact {
		least = 0
	}
	return r.integer(n, what, least, most)
}

func (r *reader) seconds(n *yaml.Node) time.Duration {
	return time.Duration(r.integer(n, "a number of seconds such as 600", 1, 7*24*3600)) * time.Second
}

// weights reads stepWeights.
func (r *reader) weights(n *yaml.Node) []int {
	var all []int
	for _, e := range r.list(n) {
		w := r.integer(e, "a weight such as 10", 1, 100)
		if len(all) > 0 && w <= all[len(all)-1] {
			r.mistake(e, "'%d' is not more than the weight before: each step moves traffic on", w)
		}
		all = append(all, w)
	}
	return all
}

// matches reads the rules of an A/B test. Of Istio's conditions headers are there; what only a mesh knows has no effect.
func (r *reader) matches(n *yaml.Node) []cd.Match {
	var all []cd.Match
	list := r.bounded(n)
	for _, e := range list {
		m := cd.Match{Headers: map[string]cd.StringMatch{}}
		inside := false
		at := r.section(e, []field{
			{"headers", func(r *reader, n *yaml.Node) {
				r.mapping(n, func(key, value *yaml.Node) {
					if !tokenText.MatchString(key.Value) {
						r.mistake(key, "'%.40s' is no name of a header", key.Value)
						return
					}
					m.Headers[strings.ToLower(key.Value)] = r.stringMatch(value)
				})
			}},
			{"sourceLabels", func(r *reader, n *yaml.Node) { inside = true }},
			{"gateways", func(r *reader, n *yaml.Node) { r.note(n, "there are no gateways here: they have no effect") }},
			{"name", func(r *reader, n *yaml.Node) {}},
		})
		switch {
		case inside:
			r.note(at["sourceLabels"], "sourceLabels are of traffic within a mesh, which there is none of: the rule has no effect")
		case len(m.Headers) > 0:
			all = append(all, m)
		case e.Kind == yaml.MappingNode && at["headers"] == nil:
			r.mistake(e, "there are no headers to match: write headers")
		}
	}
	if len(list) > 0 && len(all) == 0 {
		r.mistake(n, "no rule of match is left: the test would have no users")
	}
	return all
}

func (r *reader) stringMatch(n *yaml.Node) cd.StringMatch {
	var m cd.StringMatch
	read := func(to *string) func(r *reader, n *yaml.Node) {
		return func(r *reader, n *yaml.Node) {
			if *to, _ = r.text(n); len(*to) > mostMatchPattern {
				r.mistake(n, "the text is longer than %d bytes", mostMatchPattern)
			}
		}
	}
	at := r.section(n, []field{
		{"exact", read(&m.Exact)}, {"prefix", read(&m.Prefix)}, {"suffix", read(&m.Suffix)}, {"regex", read(&m.Regex)},
	})
	if len(at) != 1 && n.Kind == yaml.MappingNode || isNull(n) {
		r.mistake(n, "a header is compared in one way: write exact, prefix, suffix or regex")
	}
	if _, err := regexp.Compile(m.Regex); err != nil {
		r.mistake(at["regex"], "'%.40s' is no regular expression (RE2): %v", m.Regex, err)
	}
	return m
}

func (r *reader) affinity(n *yaml.Node) *cd.Affinity {
	f := &cd.Affinity{MaxAge: flaggerCookieAge}
	ignored := func(key string) field {
		return field{key, func(r *reader, n *yaml.Node) {
			r.note(n, "%s of the cookie is the proxy's business: it has no effect", key)
		}}
	}
	at := r.section(n, []field{
		{"cookieName", func(r *reader, n *yaml.Node) { f.Cookie = r.token(n) }},
		{"primaryCookieName", func(r *reader, n *yaml.Node) { f.PrimaryCookie = r.token(n) }},
		{"maxAge", func(r *reader, n *yaml.Node) {
			age := r.integer(n, "a number of seconds such as 86400", 0, 400*24*3600)
			f.MaxAge = cmp.Or(time.Duration(age)*time.Second, flaggerCookieAge)
		}},
		ignored("domain"), ignored("httpOnly"), ignored("partitioned"), ignored("path"), ignored("sameSite"), ignored("secure"),
	})
	switch {
	case at["cookieName"] == nil:
		r.mistake(n, "the cookie has no name: write cookieName")
	case f.Cookie != "" && f.Cookie == f.PrimaryCookie:
		r.mistake(at["primaryCookieName"], "both sides have the cookie '%s': give them different names", f.Cookie)
	}
	return f
}

// bounded is a list of checks or rules.
func (r *reader) bounded(n *yaml.Node) []*yaml.Node {
	list := r.list(n)
	if len(list) > mostChecks {
		r.mistake(n, "there are more than %d entries", mostChecks)
		return nil
	}
	return list
}

// metrics reads the checks. As in Flagger, those built in and those with a query of their own come before those of templates.
func (a *analysis) metrics(r *reader, n *yaml.Node) {
	for _, e := range r.bounded(n) {
		var m cd.Metric
		var ref *templated
		at := r.section(e, []field{
			{"name", func(r *reader, n *yaml.Node) { m.Name, _ = r.text(n) }},
			{"interval", func(r *reader, n *yaml.Node) { m.Interval = a.window(r, n) }},
			{"threshold", func(r *reader, n *yaml.Node) { m.Threshold, _ = r.number(n) }},
			{"thresholdRange", func(r *reader, n *yaml.Node) { m.Min, m.Max = r.limits(n) }},
			{"query", func(r *reader, n *yaml.Node) { m.Query = r.query(n) }},
			{"templateRef", func(r *reader, n *yaml.Node) { ref = r.templateRef(n) }},
			{"templateVariables", func(r *reader, n *yaml.Node) { m.Variables = r.texts(n) }},
		})
		if e.Kind != yaml.MappingNode {
			continue
		}
		builtin := m.Name == successRate || m.Name == duration
		switch {
		case at["name"] == nil:
			r.mistake(e, "the metric has no name: write name")
		case !builtin && at["query"] == nil && at["templateRef"] == nil && m.Name != "":
			r.mistake(at["name"], "'%s' is not built in and has no query: write query or templateRef, or one of %s, %s%s", m.Name,
				successRate, duration, didYouMean(m.Name, []string{successRate, duration}))
		case at["threshold"] == nil && at["thresholdRange"] == nil && !a.Exact:
			r.mistake(e, "the metric has no limit: write thresholdRange, such as {min: 99}")
		case at["threshold"] == nil && at["thresholdRange"] == nil && m.Name == successRate:
			r.note(e, "%s has no limit: it passes with any value", m.Name)
		case at["threshold"] == nil && at["thresholdRange"] == nil:
			r.note(e, "'%s' has no limit: to Flagger any value above 0 fails", m.Name)
		}
		if at["threshold"] != nil && at["thresholdRange"] != nil {
			r.note(at["threshold"], "thresholdRange counts: threshold has no effect beside it")
			m.Threshold = 0
		}
		if !a.Exact {
			m.Interval = cmp.Or(m.Interval, flaggerMetric)
		}
		if builtin {
			b := m
			b.Query, b.Interval = "", cmp.Or(b.Interval, flaggerMetric)
			a.Metrics = append(a.Metrics, b)
		}
		if m.Query != "" {
			q := m
			q.Interval = cmp.Or(q.Interval, flaggerMetric)
			r.rendered(at["query"], q, a.Exact)
			a.Metrics = append(a.Metrics, q)
		}
		if ref != nil {
			ref.metric = m
			ref.metric.Query = ""
			a.templated = append(a.templated, *ref)
		}
	}
}

// window reads the interval of a metric.
func (a *analysis) window(r *reader, n *yaml.Node) time.Duration {
	if !a.Exact {
		return r.duration(n, nativeLeast, mostInterval)
	}
	d, ok := r.flaggerTime(n)
	if !ok || d > mostInterval {
		r.mistake(n, "'%.40s' is no time of at most a day: write one such as 1m", n.Value)
	}
	return d
}

// limits reads thresholdRange.
func (r *reader) limits(n *yaml.Node) (least, most *float64) {
	read := func(to **float64) func(r *reader, n *yaml.Node) {
		return func(r *reader, n *yaml.Node) {
			if x, ok := r.number(n); ok {
				*to = &x
			}
		}
	}
	at := r.section(n, []field{{"min", read(&least)}, {"max", read(&most)}})
	switch {
	case len(at) == 0 && (n.Kind == yaml.MappingNode || isNull(n)):
		r.mistake(n, "there is neither min nor max: nothing would be checked")
	case least != nil && most != nil && *least > *most:
		r.mistake(at["min"], "'%v' is more than max: no value would pass", *least)
	}
	return least, most
}

func (r *reader) templateRef(n *yaml.Node) *templated {
	ref := templated{Pos: place(n)}
	at := r.section(n, []field{
		{"name", func(r *reader, n *yaml.Node) { ref.name, _ = r.text(n); ref.Pos = place(n) }},
		{"namespace", func(r *reader, n *yaml.Node) { ref.namespace, _ = r.text(n) }},
		{"apiVersion", func(*reader, *yaml.Node) {}},
		{"kind", func(r *reader, n *yaml.Node) { r.word(n, "MetricTemplate") }},
	})
	if at["name"] == nil {
		r.mistake(n, "templateRef names no MetricTemplate: write name")
	}
	return &ref
}

// texts reads a mapping of texts whose keys are not ours, such as a webhook's metadata.
func (r *reader) texts(n *yaml.Node) map[string]string {
	all := map[string]string{}
	r.entriesOf(n, false, func(key, value *yaml.Node) {
		if r.scalar(value, "text") {
			all[key.Value] = value.Value
		}
	})
	return all
}

var webhookTypes = []string{
	"confirm-rollout", "pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion", "post-rollout", "rollback", "event",
}

func (a *analysis) webhooks(r *reader, n *yaml.Node) {
	for _, e := range r.bounded(n) {
		w := cd.Webhook{Timeout: flaggerTimeout}
		at := r.section(e, []field{
			{"name", func(r *reader, n *yaml.Node) { w.Name, _ = r.text(n) }},
			{"type", func(r *reader, n *yaml.Node) {
				if n.Kind != yaml.ScalarNode || n.Value != "" {
					w.Type = r.word(n, webhookTypes...)
				}
			}},
			{"url", func(r *reader, n *yaml.Node) { w.URL = r.url(n) }},
			{"timeout", func(r *reader, n *yaml.Node) { w.Timeout = r.webhookTimeout(n) }},
			{"retries", func(r *reader, n *yaml.Node) { w.Retries = r.integer(n, "a number of tries such as 2", 0, 100) }},
			{"disableTLS", func(r *reader, n *yaml.Node) { w.DisableTLS = r.boolean(n) }},
			{"muteAlert", func(r *reader, n *yaml.Node) { w.MuteAlert = r.boolean(n) }},
			{"metadata", func(r *reader, n *yaml.Node) { w.Metadata = r.texts(n) }},
		})
		if e.Kind != yaml.MappingNode {
			continue
		}
		for _, key := range []string{"name", "url"} {
			if at[key] == nil {
				r.mistake(e, "the webhook has no %s: write it", key)
			}
		}
		a.Webhooks = append(a.Webhooks, w)
	}
}

func (r *reader) webhookTimeout(n *yaml.Node) time.Duration {
	if n.Kind == yaml.ScalarNode && n.Value == "" {
		return flaggerTimeout
	}
	return r.duration(n, time.Millisecond, time.Hour)
}

func (r *reader) url(n *yaml.Node) string {
	text, ok := r.text(n)
	if !ok {
		return ""
	}
	u, err := url.Parse(text)
	if err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Hostname() == "" {
		r.mistake(n, "'%.80s' is no URL: write one such as http://checks.example.com/", text)
		return ""
	}
	return text
}
