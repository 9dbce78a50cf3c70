package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// guide is the Canary as guides have it: its file names neither steps of its own nor what is Penstock's.
const guide = `# k8s/deployment.yaml
apiVersion: flagger.app/v1beta1
kind: Canary
metadata:
  name: prompt-stack
spec:
  targetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: prompt-stack
  service:
    port: 8000
  analysis:
    interval: 1m
    threshold: 10
    maxWeight: 50
    stepWeight: 10
    metrics:
    - name: request-success-rate
      thresholdRange:
        min: 99
      interval: 1m
    - name: request-duration
      thresholdRange:
        max: 500
      interval: 1m
    webhooks:
    - name: load-test
      url: http://flagger-loadtester.test/
      timeout: 5s
      metadata:
        cmd: "hey -z 1m -q 10 -c 2 http://prompt-stack.prod:8000/"
`

// everything has every field of Flagger's that has an effect, and most of those that have none.
const everything = `apiVersion: apps/v1
kind: Deployment
metadata: {name: podinfo}
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: not-found, namespace: flagger}
spec:
  provider: {type: prometheus, address: http://prometheus.test:9090}
  query: |
    100 - sum(rate(http_requests_total{namespace="{{ namespace }}", app="{{ target }}", status!="404",
    zone="{{ variables.zone }}"}[{{ interval }}])) * 100
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: own}
spec:
  provider: {type: prometheus, region: eu, insecureSkipVerify: false}
  query: sum(rate(x{service="{{ service }}"}[{{ interval }}]))
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: podinfo, namespace: test, labels: {a: b}}
spec:
  provider: istio
  metricsServer: https://prometheus.example
  progressDeadlineSeconds: 60
  skipAnalysis: false
  suspend: true
  revertOnDeletion: true
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: podinfo}
  autoscalerRef: {apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, name: podinfo}
  ingressRef: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: front}
  service:
    name: podinfo-svc
    port: 80
    targetPort: http
    gateways: [mesh]
    match: [{uri: {prefix: /}}]
  analysis:
    interval: 5s
    threshold: 0
    iterations: 10
    mirror: true
    mirrorWeight: 20
    stepWeightPromotion: 25
    primaryReadyThreshold: 50
    canaryReadyThreshold: 0
    match:
    - headers:
        Cookie: {regex: "^(.*?;)?(type=insider)(;.*)?$"}
        x-canary: {exact: always}
    - sourceLabels: {app: other}
    metrics:
    - name: not-found
      templateRef: {name: not-found, namespace: flagger}
      thresholdRange: {max: 5}
      interval: 90s
      templateVariables: {zone: a}
    - name: request-duration
      threshold: 500
    - name: own
      templateRef: {name: own}
      interval: 30s
      thresholdRange: {min: 1, max: 2.5}
    - name: inline
      query: sum(rate(y[{{ interval }}]))
      threshold: 2
    webhooks:
    - {name: gate, type: confirm-promotion, url: https://gate.test/, retries: 3, disableTLS: true, muteAlert: true}
    - {name: load, type: "", url: http://load.test/, timeout: 30s, metadata: {a: 1, A: x}}
    alerts: [{name: on-call, severity: error, providerRef: {name: slack}}]
    sessionAffinity: {cookieName: flagger-cookie, maxAge: 100, secure: true}
status: {phase: Succeeded}
`

func number(x float64) *float64 { return &x }

func TestManifest(t *testing.T) {
	got, err := ParseManifest(File{"k8s/deployment.yaml", []byte(guide)})
	if err != nil {
		t.Fatal(err)
	}
	minute := time.Minute
	want := &Manifest{
		Pos: Pos{2, 1}, Name: "prompt-stack", Namespace: "default", Target: "prompt-stack", Port: 8000,
		Analysis: cd.Analysis{
			Exact: true, Interval: minute, Threshold: 10, MaxWeight: 50, StepWeight: 10,
			Metrics: []cd.Metric{
				{Name: "request-success-rate", Interval: minute, Min: number(99)},
				{Name: "request-duration", Interval: minute, Max: number(500)},
			},
			Webhooks: []cd.Webhook{{
				Name: "load-test", URL: "http://flagger-loadtester.test/", Timeout: 5 * time.Second,
				Metadata: map[string]string{"cmd": "hey -z 1m -q 10 -c 2 http://prompt-stack.prod:8000/"},
			}},
			ProgressDeadline: 600 * time.Second, PrimaryReadyThreshold: 100, CanaryReadyThreshold: 100,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestManifestWithEverything(t *testing.T) {
	got, err := ParseManifest(File{"c.yaml", []byte(everything)})
	if err != nil {
		t.Fatal(err)
	}
	minute := time.Minute
	want := cd.Analysis{
		Exact: true, Interval: 10 * time.Second, Threshold: 1, MaxWeight: 100, Iterations: 10, Mirror: true, MirrorWeight: 20,
		StepWeightPromotion: 25, PrimaryReadyThreshold: 50, CanaryReadyThreshold: 0, ProgressDeadline: minute, Suspend: true,
		Match: []cd.Match{{Headers: map[string]cd.StringMatch{
			"cookie": {Regex: "^(.*?;)?(type=insider)(;.*)?$"}, "x-canary": {Exact: "always"},
		}}},
		Metrics: []cd.Metric{ // those built in and with queries of their own, then those of templates
			{Name: "request-duration", Interval: minute, Threshold: 500},
			{Name: "inline", Interval: minute, Threshold: 2, Query: "sum(rate(y[1m]))", Server: "https://prometheus.example"},
			{Name: "not-found", Interval: 90 * time.Second, Template: true, Max: number(5), Variables: map[string]string{"zone": "a"}, Server: "http://prometheus.test:9090",
				Query: "100 - sum(rate(http_requests_total{namespace=\"test\", app=\"podinfo\", status!=\"404\",\nzone=\"a\"}[1m30s])) * 100"},
			{Name: "own", Interval: 30 * time.Second, Template: true, Min: number(1), Max: number(2.5), Query: `sum(rate(x{service="{{ service }}"}[{{ interval }}]))`},
		},
		Webhooks: []cd.Webhook{
			{Name: "gate", Type: "confirm-promotion", URL: "https://gate.test/", Timeout: 10 * time.Second, Retries: 3, DisableTLS: true, MuteAlert: true},
			{Name: "load", URL: "http://load.test/", Timeout: 30 * time.Second, Metadata: map[string]string{"a": "1", "A": "x"}},
		},
		Affinity: &cd.Affinity{Cookie: "flagger-cookie", MaxAge: 100 * time.Second},
	}
	if !reflect.DeepEqual(got.Analysis, want) {
		t.Errorf("got  %+v\nwant %+v", got.Analysis, want)
	}
	if got.Name != "podinfo" || got.Namespace != "test" || got.Target != "podinfo" || got.Service != "podinfo-svc" || got.Port != 80 || got.Ingress != "front" {
		t.Errorf("got %+v", got)
	}
	var notes []string
	for _, n := range got.Notes {
		notes = append(notes, fmt.Sprintf("%d:%d: %s", n.Line, n.Column, n.Message))
	}
	wantNotes := []string{
		"1:1: Deployment is nothing that Penstock reads: it has no effect",
		"18:40: region has no effect: a Prometheus has none",
		"25:13: provider has no effect on how traffic is carried: Penstock's own proxy does it",
		"26:18: request-duration is not asked of metricsServer: Penstock's proxy measures it",
		"30:21: revertOnDeletion has no effect: nothing is changed that could be put back",
		"32:18: autoscalerRef has no effect: penstock.yaml says how many instances there are",
		"33:15: ingressRef has no effect: Penstock's own proxy carries traffic",
		"37:17: service.targetPort has no effect: penstock.yaml says how traffic comes to a service",
		"38:15: service.gateways has no effect: penstock.yaml says how traffic comes to a service",
		"39:12: service.match has no effect: penstock.yaml says how traffic comes to a service",
		"41:15: Flagger takes '5s' for 10s, the least there is",
		"53:21: sourceLabels are of traffic within a mesh, which there is none of: the rule has no effect",
		"72:13: alerts go to nobody yet: a release tells of itself in its log, on its page and by the commit's status",
		"73:72: secure of the cookie is the proxy's business: it has no effect",
	}
	if got, want := strings.Join(notes, "\n"), strings.Join(wantNotes, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// What is asked of the proxy is resolved when it is asked, by the service's names.
	query, err := RenderQuery(got.Analysis.Metrics[3].Query, Names{Service: "web", Interval: 1500 * time.Millisecond})
	if want := `sum(rate(x{service="web"}[1500ms]))`; query != want || err != nil {
		t.Errorf("got %s, %v, want %s", query, err, want)
	}
}

// canaryOf is a Canary with an analysis and more of its spec.
func canaryOf(analysis, spec string) string {
	return "apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: a}\nspec:\n  targetRef: {kind: Deployment, name: a}\n" +
		"  service: {port: 80}\n  analysis: " + analysis + "\n" + spec
}

// TestFlaggersDefaults are those of pkg/apis/flagger/v1beta1/canary.go.
func TestFlaggersDefaults(t *testing.T) {
	base := cd.Analysis{
		Exact: true, Interval: time.Minute, Threshold: 1, MaxWeight: 100, StepWeight: 5,
		ProgressDeadline: 600 * time.Second, PrimaryReadyThreshold: 100, CanaryReadyThreshold: 100,
	}
	for _, c := range []struct {
		text string
		want func(a *cd.Analysis)
	}{
		{canaryOf("{stepWeight: 5}", ""), func(a *cd.Analysis) {}},
		{canaryOf("{stepWeight: 5, threshold: 0, maxWeight: 0}", ""), func(a *cd.Analysis) {}},
		{canaryOf("{stepWeight: 5, interval: 1s}", ""), func(a *cd.Analysis) { a.Interval = 10 * time.Second }},
		{canaryOf("{stepWeight: 5, interval: 1h}", ""), func(a *cd.Analysis) { a.Interval = time.Hour }},
		{canaryOf("{stepWeight: 5, interval: 1minute}", ""), func(a *cd.Analysis) {}}, // its CRD takes it, its parser does not
		{canaryOf("{stepWeight: 5, webhooks: [{name: a, url: http://x, timeout: ''}]}", ""), func(a *cd.Analysis) {
			a.Webhooks = []cd.Webhook{{Name: "a", URL: "http://x", Timeout: 10 * time.Second}}
		}},
		{canaryOf("{stepWeight: 5, sessionAffinity: {cookieName: c, maxAge: 0}}", ""), func(a *cd.Analysis) {
			a.Affinity = &cd.Affinity{Cookie: "c", MaxAge: 24 * time.Hour}
		}},
		{canaryOf("{stepWeight: 5, metrics: [{name: request-success-rate}]}", ""), func(a *cd.Analysis) {
			a.Metrics = []cd.Metric{{Name: "request-success-rate", Interval: time.Minute}}
		}},
		// A name that is built in beside a query of its own is two checks.
		{canaryOf("{stepWeight: 5, metrics: [{name: request-duration, query: q, threshold: 1, interval: 30s}]}", ""), func(a *cd.Analysis) {
			a.Metrics = []cd.Metric{
				{Name: "request-duration", Interval: 30 * time.Second, Threshold: 1},
				{Name: "request-duration", Interval: 30 * time.Second, Threshold: 1, Query: "q"},
			}
		}},
		{canaryOf("", "  skipAnalysis: false\n"), func(a *cd.Analysis) { a.StepWeight, a.SkipAnalysis = 0, true }},
		{canaryOf("{interval: 30s}", "  skipAnalysis: true\n"), func(a *cd.Analysis) { a.StepWeight, a.SkipAnalysis, a.Interval = 0, true, 30*time.Second }},
		{strings.Replace(canaryOf("{stepWeight: 5}", ""), "analysis:", "canaryAnalysis:", 1), func(a *cd.Analysis) {}},
		{canaryOf("{stepWeight: 5}", "  canaryAnalysis: {stepWeight: 6}\n"), func(a *cd.Analysis) {}},
		{canaryOf("{stepWeights: [1, 2, 100]}", ""), func(a *cd.Analysis) { a.StepWeight, a.StepWeights = 0, []int{1, 2, 100} }},
		{canaryOf("{match: [{headers: {a: {exact: b}}}]}", "  provider: kubernetes\n"), func(a *cd.Analysis) { a.StepWeight, a.Iterations = 0, 10 }},
		{canaryOf("{iterations: 3}", "  provider: kubernetes\n"), func(a *cd.Analysis) { a.StepWeight, a.Iterations = 0, 3 }},
	} {
		got, err := ParseManifest(File{"c.yaml", []byte(c.text)})
		if err != nil {
			t.Errorf("%s\n%v", c.text, err)
			continue
		}
		want := base
		c.want(&want)
		if got := got.Analysis; !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", c.text, got, want)
		}
	}
}

func TestManifestMistakes(t *testing.T) {
	template := func(spec string) string {
		return "apiVersion: flagger.app/v1beta1\nkind: MetricTemplate\nmetadata: {name: t}\nspec: " + spec + "\n---\n" +
			canaryOf("{stepWeight: 5, metrics: [{name: m, threshold: 1, templateRef: {name: t}}]}", "")
	}
	for _, c := range []struct{ text, want string }{
		{"", "0:0: there is no Canary in the file"},
		{"kind: Service\n", "0:0: there is no Canary in the file"},
		{"- a\n", "1:1: A mapping was expected"},
		{"a: b\n", "1:1: this is no object of Kubernetes': it has no kind"},
		{"a: b: c\n", "1:5: this is no YAML: mapping values are not allowed in this context"},
		{"kind: Canary\n", "1:1: there is no apiVersion: write flagger.app/v1beta1"},
		{"apiVersion: flagger.app/v1alpha3\nkind: Canary\n", "1:13: 'flagger.app/v1alpha3' is not what is read: write flagger.app/v1beta1"},
		{"apiVersion: flagger.app/v1beta1\nkind: Cannary\n", "2:7: 'Cannary' is no kind of Flagger's; did you mean 'Canary'?"},
		{canaryOf("{stepWeight: 5}", "") + "kind: x\n", "8:1: 'kind' is already defined"},
		{canaryOf("{stepWeight: 5, interval: 25h}", ""), "7:39: '25h' is more than 24h"},
		{"apiVersion: flagger.app/v1beta1\nkind: Canary\n", "1:1: the object has no name: write metadata.name\n1:1: there is no spec"},
		{"apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: a}\nspec: {}\n", "1:1: spec has no targetRef: write it"},
		{canaryOf("{}", ""), "7:13: neither stepWeight, stepWeights nor iterations is here: the release would never go on; write one, such as stepWeight: 10"},
		{canaryOf("{stepWeight: 5, match: [{headers: {a: {exact: b}}}]}", ""), "7:36: a test of what matches needs iterations, how often it is checked, such as iterations: 10"},
		{canaryOf("{iterations: 5, match: [{sourceLabels: {a: b}}]}", ""), "7:36: no rule of match is left: the test would have no users"},
		{canaryOf("{stepWeight: 5, interval: 90}", ""), "7:39: '90' is no time: write one such as 30s or 1m"},
		{canaryOf("{stepWeight: 5, maxWeight: 150}", ""), "7:40: '150' is not between 0 and 100"},
		{canaryOf("{stepWeight: 5, stepweights: [1]}", ""), "7:29: Unexpected value 'stepweights'; did you mean 'stepWeights'?"},
		{canaryOf("{stepWeight: 5, metrics: [{name: succes-rate}]}", ""), "7:46: 'succes-rate' is not built in and has no query: write query or templateRef, or one of request-success-rate, request-duration"},
		{canaryOf("{stepWeight: 5, metrics: [{name: m, interval: 2x, query: q, threshold: 1}]}", ""), "7:59: '2x' is no time: write one such as 30s or 1m"},
		{canaryOf("{stepWeight: 5, metrics: [{name: m, threshold: 1, templateRef: {name: tt}}]}", ""), "7:83: there is no MetricTemplate 'tt': put it in one of the files that are named"},
		{canaryOf("{stepWeight: 5}", "---\n"+canaryOf("{stepWeight: 5}", "")), "9:1: a second Canary begins here: an environment has one, put each in a file of its own"},
		{canaryOf("{stepWeight: 5}", "  targetref: {}\n"), "8:3: 'targetref' is already defined"},
		{canaryOf("{stepWeight: 5}", "  skipAnalisis: true\n"), "8:3: Unexpected value 'skipAnalisis'; did you mean 'skipAnalysis'?"},
		{strings.Replace(canaryOf("{stepWeight: 5}", ""), "kind: Deployment, name: a", "kind: Pod", 1), "5:14: targetRef has no name: write it\n5:21: 'Pod' is none of Deployment, DaemonSet, Service"},
		{strings.Replace(canaryOf("{stepWeight: 5}", ""), "{port: 80}", "{name: x}", 1), "6:12: service has no port: write it"},
		{template("{provider: {type: prometheus}, query: 'x{{ range 3 }}y{{ end }}'}"), `12:83: MetricTemplate 't': a query can not have "{{range 3}}y{{end}}": write it out`},
		{template("{provider: {type: prometheus}, query: '{{ unknown }}'}"), `12:83: MetricTemplate 't': the query can not be read: query:1: function "unknown" not defined`},
		{template("{provider: {type: prometheus}, query: '{{ printf \"%1000000d\" 1 }}'}"), "12:83: MetricTemplate 't': a query can not call printf: there are name, namespace, target, service, ingress, route, interval, variables, index, and, or, not, eq, ne, lt, le, gt, ge, len"},
		{template("{provider: {type: prometheus}, query: '{{ define \"a\" }}{{ end }}b'}"), "12:83: MetricTemplate 't': the query defines a template: write it out"},
		{template("{provider: {type: prometheus}, query: 'sum(x'}"), "12:83: MetricTemplate 't': the query is no PromQL: 1:6: parse error: unclosed left parenthesis"},
		{template("{provider: {type: prometheus}, query: 'x[{{ interval }}]'}"), "12:83: MetricTemplate 't' asks for the interval, and 'm' has none: write interval"},
		{template("{provider: {type: datadog}, query: q}"), "4:25: 'datadog' can not be asked: there is only prometheus"},
		{template("{provider: {type: prometheus, secretRef: {name: s}, insecureSkipVerify: true}, query: q}"),
			"4:48: a Prometheus is asked without credentials and its certificate is checked: secretRef can not be had\n4:79: a Prometheus is asked without credentials and its certificate is checked: insecureSkipVerify can not be had"},
		{template("{provider: {}}"), "4:7: the template has no query: write it\n4:18: the provider has no type: write prometheus"},
		{template("{}"), "4:7: the template has no query: write it\n4:7: the template has no provider: write {type: prometheus}"},
		{strings.Repeat("a: 1\n---\n", maxDocuments+2), "200:1: the file has more than 100 documents"},
	} {
		_, err := ParseManifest(File{"c.yaml", []byte(c.text)})
		var lines []string
		var found Errors
		if errors.As(err, &found) {
			for _, f := range found {
				lines = append(lines, fmt.Sprintf("%d:%d: %s", f.Line, f.Column, f.Message))
			}
		}
		if got := strings.Join(lines, "\n"); got != c.want {
			t.Errorf("%.300s\ngot  %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestManifestOfAnEnvironment(t *testing.T) {
	files := map[string]string{"k8s/canary.yaml": guide, "k8s/metrics.yaml": strings.SplitN(everything, "---\n", 4)[2], "wrong.yaml": canaryOf("{}", "")}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		if name == "locked.yaml" {
			return nil, os.ErrPermission
		}
		return nil, fs.ErrNotExist
	}
	least := 99.0
	native := cd.Analysis{
		Interval: time.Minute, Threshold: 3, MaxWeight: 50, StepWeight: 10, ProgressDeadline: 600 * time.Second,
		PrimaryReadyThreshold: 100, CanaryReadyThreshold: 100, MinSample: 20, NoData: cd.Inconclusive,
		Metrics: []cd.Metric{{Name: "request-success-rate", Interval: time.Minute, Min: &least}},
	}
	with := func(change func(a *cd.Analysis)) *cd.Analysis {
		a := native
		change(&a)
		return &a
	}
	manifest, err := ParseManifest(File{"c.yaml", []byte(guide)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		strategy string
		want     *cd.Analysis
		err      string
	}{
		{"canary", &native, ""},
		{"{canary: }", &native, ""},
		{"{canary: {manifest: k8s/canary.yaml}}", &manifest.Analysis, ""},
		{"{canary: {manifest: [k8s/metrics.yaml, ./k8s/canary.yaml]}}", &manifest.Analysis, ""},
		{"{canary: {interval: 2s, stepWeights: [1, 50], metrics: [], minSample: 7, noData: fail, inconclusiveWait: 1h}}", with(func(a *cd.Analysis) {
			a.Interval, a.StepWeight, a.StepWeights, a.MaxWeight, a.Metrics = 2*time.Second, 0, []int{1, 50}, 100, nil
			a.MinSample, a.NoData, a.InconclusiveWait = 7, cd.Fail, time.Hour
		}), ""},
		{"{canary: {skipAnalysis: true}}", with(func(a *cd.Analysis) { a.SkipAnalysis, a.StepWeight, a.MaxWeight, a.Metrics = true, 0, 100, nil }), ""},
		{"{canary: {templates: k8s/metrics.yaml, metrics: [{name: m, templateRef: {name: own}, threshold: 1}]}}", with(func(a *cd.Analysis) {
			a.Metrics = []cd.Metric{{Name: "m", Interval: time.Minute, Template: true, Threshold: 1, Query: `sum(rate(x{service="{{ service }}"}[{{ interval }}]))`}}
		}), ""},
		{"{canary: {templates: k8s/metrics.yaml, metrics: [{name: m, templateRef: {name: oen}, threshold: 1}]}}", nil,
			"penstock.yaml (Line: 2, Col: 109): there is no MetricTemplate 'oen'; did you mean 'own'?"},
		{"{canary: {manifest: wrong.yaml}}", nil, "wrong.yaml (Line: 7, Col: 13): neither stepWeight, stepWeights nor iterations is here: the release would never go on; write one, such as stepWeight: 10"},
		{"{canary: {manifest: none.yaml}}", nil, "penstock.yaml (Line: 2, Col: 50): there is no file 'none.yaml' in the repository"},
		{"{canary: {manifest: locked.yaml}}", nil, "penstock.yaml (Line: 2, Col: 50): 'locked.yaml' can not be read: permission denied"},
	} {
		config, err := Parse(Name, []byte(of(c.strategy)))
		if err != nil {
			t.Errorf("%s: %v", c.strategy, err)
			continue
		}
		for range 2 { // asked again, it is the same
			got, _, err := config.Environments[0].Strategy(read)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("%s: got %v, want %s", c.strategy, err, c.err)
				}
			} else if err != nil || !reflect.DeepEqual(got, cd.Strategy{Kind: cd.Canary, Analysis: c.want}) {
				t.Errorf("%s:\ngot  %+v, %v\nwant %+v", c.strategy, got.Analysis, err, c.want)
			}
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(guide))
	f.Add([]byte(everything))
	f.Add([]byte(canaryOf("{}", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(File{"c.yaml", data})
		var found Errors
		if (m == nil) == (err == nil) || err != nil && (!errors.As(err, &found) || len(found) == 0) {
			t.Fatalf("got %v, %v", m, err)
		}
		if err != nil {
			return
		}
		a := m.Analysis
		if a.Interval < flaggerLeastInterval || a.Threshold < 1 || a.MaxWeight < 1 || a.MaxWeight > 100 {
			t.Errorf("got %+v", a)
		}
		if !a.SkipAnalysis && a.Iterations == 0 && a.StepWeight == 0 && len(a.StepWeights) == 0 {
			t.Errorf("the release would never go on: %+v", a)
		}
		for _, metric := range a.Metrics {
			if _, err := RenderQuery(metric.Query, Names{Interval: metric.Interval, Variables: metric.Variables}); err != nil {
				t.Errorf("%s: %v", metric.Query, err)
			}
		}
	})
}
