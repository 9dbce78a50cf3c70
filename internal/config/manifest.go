package config

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// File is a file of the repository.
type File struct {
	Path string
	Data []byte
}

// Manifest is what Flagger's manifests say: one Canary, with the MetricTemplates that it refers to.
type Manifest struct {
	Pos
	Name, Namespace string
	Target          string // name of what is released there; which service it is, penstock.yaml says
	Service         string // name of Kubernetes' service
	Port            int    // 0 without a service
	Ingress         string
	// Analysis is Exact, with Flagger's defaults and limits.
	Analysis cd.Analysis
	// Notes are what was accepted and has no effect here.
	Notes []Finding
}

const maxDocuments = 100

// ParseManifest reads the Canary in files and the MetricTemplates that it refers to; other documents are passed over with a
// note. What Flagger takes is taken and means the same (docs/canary.md), but for what could only go wrong at the first check:
// an analysis that never goes on, metrics that nobody knows, sources that can not be asked. The error is Errors.
func ParseManifest(files ...File) (*Manifest, error) {
	r := &reader{}
	templates, canaries := r.read(files)
	var m *Manifest
	for i, c := range canaries {
		r.path = c.path
		if i > 0 {
			r.mistake(c.root, "a second Canary begins here: an environment has one, put each in a file of its own")
			continue
		}
		m = r.manifest(c.root, templates)
	}
	if len(canaries) == 0 && len(r.found) == 0 {
		r.at(Pos{}, "there is no Canary in the file")
	}
	inOrder := func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Path, b.Path), byPlace(a, b)) }
	slices.SortStableFunc(r.found, inOrder)
	slices.SortStableFunc(r.notes, inOrder)
	if len(r.found) > 0 {
		return nil, r.found
	}
	m.Notes = r.notes
	return m, nil
}

// document is one of a file's.
type document struct {
	path string
	root *yaml.Node
}

// metricTemplate is a MetricTemplate.
type metricTemplate struct{ name, namespace, query, server string }

// templates reads the MetricTemplates of files.
func (r *reader) templates(files []File) []metricTemplate {
	path := r.path
	templates, canaries := r.read(files)
	for _, c := range canaries {
		r.path = c.path
		r.note(c.root, "the Canary has no effect: penstock.yaml says how the release goes")
	}
	r.path = path
	return templates
}

// read reads the documents of files, each of which is one of Kubernetes' objects.
func (r *reader) read(files []File) (templates []metricTemplate, canaries []document) {
	for _, f := range files {
		r.path = f.Path
		for _, root := range r.documents(f.Data) {
			switch kind := r.kind(root); kind {
			case "":
			case "Canary":
				canaries = append(canaries, document{f.Path, root})
			case "MetricTemplate":
				templates = append(templates, r.metricTemplate(root))
			default:
				r.note(root, "%s is nothing that Penstock reads: it has no effect", kind)
			}
		}
	}
	return templates, canaries
}

// documents gives the roots of all documents of a file that are not empty.
func (r *reader) documents(data []byte) []*yaml.Node {
	if !r.readable(data) {
		return nil
	}
	var roots []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots
		}
		if err != nil {
			r.noYAML(err)
			return nil
		}
		if len(doc.Content) > 0 && !isNull(doc.Content[0]) {
			roots = append(roots, doc.Content[0])
		}
		if len(roots) > maxDocuments {
			r.mistake(&doc, "the file has more than %d documents", maxDocuments)
			return nil
		}
	}
}

// kind is that of an object, empty with a mistake if it is none of a kind that is known.
func (r *reader) kind(root *yaml.Node) string {
	if root.Kind != yaml.MappingNode {
		r.mistake(root, "A mapping was expected")
		return ""
	}
	var kind, version *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 { // what is wrong with the keys is told by who reads the object
		switch value := follow(root.Content[i+1]); root.Content[i].Value {
		case "kind":
			kind = cmp.Or(kind, value)
		case "apiVersion":
			version = cmp.Or(version, value)
		}
	}
	if kind == nil || kind.Kind != yaml.ScalarNode || kind.Value == "" {
		r.mistake(root, "this is no object of Kubernetes': it has no kind")
		return ""
	}
	flagger := kind.Value == "Canary" || kind.Value == "MetricTemplate"
	switch {
	case !flagger && version != nil && strings.HasPrefix(version.Value, "flagger.app/") && kind.Value != "AlertProvider":
		r.mistake(kind, "'%s' is no kind of Flagger's%s", kind.Value, suggest(kind.Value, []string{"Canary", "MetricTemplate", "AlertProvider"}))
		return ""
	case flagger && version == nil:
		r.mistake(root, "there is no apiVersion: write flagger.app/v1beta1")
		return ""
	case flagger && version.Value != "flagger.app/v1beta1":
		r.mistake(version, "'%.60s' is not what is read: write flagger.app/v1beta1", version.Value)
		return ""
	}
	return kind.Value
}

// object reads what all of Kubernetes' objects have, and spec.
func (r *reader) object(root *yaml.Node, spec func(r *reader, n *yaml.Node)) (name, namespace string) {
	known := func(*reader, *yaml.Node) {}
	var metadata *yaml.Node
	at := r.section(root, []field{
		{"apiVersion", known}, {"kind", known}, {"status", known},
		{"metadata", func(r *reader, n *yaml.Node) {
			r.mapping(n, func(key, value *yaml.Node) { // labels and the like are nobody's business here
				switch key.Value {
				case "name":
					metadata = value
					name, _ = r.text(value)
				case "namespace":
					namespace, _ = r.text(value)
				}
			})
		}},
		{"spec", spec},
	})
	if metadata == nil {
		r.mistake(cmp.Or(at["metadata"], root), "the object has no name: write metadata.name")
	}
	if at["spec"] == nil {
		r.mistake(root, "there is no spec")
	}
	return name, cmp.Or(namespace, "default")
}

// manifest reads a Canary.
func (r *reader) manifest(root *yaml.Node, templates []metricTemplate) *Manifest {
	m := &Manifest{Pos: place(root)}
	a := analysis{Analysis: cd.Analysis{
		Exact: true, Interval: flaggerInterval, Threshold: 1, MaxWeight: flaggerMaxWeight,
		ProgressDeadline: flaggerDeadline, PrimaryReadyThreshold: flaggerReady, CanaryReadyThreshold: flaggerReady,
	}}
	var spec, at map[string]*yaml.Node
	var older *yaml.Node
	noEffect := func(key, why string) field {
		return field{key, func(r *reader, n *yaml.Node) { r.note(n, "%s has no effect: %s", key, why) }}
	}
	var provider string
	m.Name, m.Namespace = r.object(root, func(r *reader, n *yaml.Node) {
		spec = r.section(n, []field{
			{"targetRef", func(r *reader, n *yaml.Node) { m.Target = r.targetRef(n) }},
			{"service", func(r *reader, n *yaml.Node) { r.kubernetesService(n, m) }},
			{"analysis", func(r *reader, n *yaml.Node) { at = r.section(n, a.fields()) }},
			{"canaryAnalysis", func(r *reader, n *yaml.Node) { older = n }},
			{"progressDeadlineSeconds", func(r *reader, n *yaml.Node) { a.ProgressDeadline = r.seconds(n) }},
			{"skipAnalysis", func(r *reader, n *yaml.Node) { a.SkipAnalysis = r.boolean(n) }},
			{"suspend", func(r *reader, n *yaml.Node) { a.Suspend = r.boolean(n) }},
			{"metricsServer", func(r *reader, n *yaml.Node) { r.url(n) }},
			{"provider", func(r *reader, n *yaml.Node) {
				provider, _ = r.text(n)
				r.note(n, "provider has no effect on how traffic is carried: Penstock's own proxy does it")
			}},
			{"ingressRef", func(r *reader, n *yaml.Node) {
				r.mapping(n, func(key, value *yaml.Node) {
					if key.Value == "name" {
						m.Ingress, _ = r.text(value)
					}
				})
				r.note(n, "ingressRef has no effect: Penstock's own proxy carries traffic")
			}},
			noEffect("autoscalerRef", "penstock.yaml says how many instances there are"),
			noEffect("routeRef", "Penstock's own proxy carries traffic"),
			noEffect("upstreamRef", "Penstock's own proxy carries traffic"),
			noEffect("revertOnDeletion", "nothing is changed that could be put back"),
		})
	})
	switch {
	case older != nil && spec["analysis"] != nil:
		r.note(older, "analysis counts: canaryAnalysis has no effect beside it")
	case older != nil:
		at = r.section(older, a.fields())
		spec["analysis"] = older
	}
	if spec == nil {
		return m
	}
	if spec["targetRef"] == nil {
		r.mistake(root, "spec has no targetRef: write it")
	}
	if spec["analysis"] == nil || isNull(spec["analysis"]) {
		a.SkipAnalysis = true
		r.note(root, "spec has no analysis: a release is promoted as soon as it is healthy")
		m.Analysis = a.Analysis
		return m
	}
	// Flagger's defaults are of the values, not of the fields that are missing.
	a.Threshold, a.MaxWeight = cmp.Or(a.Threshold, 1), cmp.Or(a.MaxWeight, flaggerMaxWeight)
	if provider == "kubernetes" {
		a.kubernetes(r, spec["provider"])
	}
	a.check(r, spec["analysis"], at)
	if server := spec["metricsServer"]; server != nil {
		a.ask(r, server)
	}
	a.Metrics = append(a.Metrics, r.resolve(a.templated, templates)...)
	// A Prometheus elsewhere knows what the manifest calls things. The proxy's own metrics know the services' names, so their
	// queries are resolved when they are asked.
	for i, metric := range a.Metrics {
		if metric.Server != "" {
			a.Metrics[i].Query, _ = RenderQuery(metric.Query, Names{
				Name: m.Name, Namespace: m.Namespace, Target: m.Target, Service: cmp.Or(m.Service, m.Target), Ingress: m.Ingress,
				Interval: metric.Interval, Variables: metric.Variables,
			})
		}
	}
	m.Analysis = a.Analysis
	return m
}

// kubernetes is what Flagger does without anything that could divide traffic.
func (a *analysis) kubernetes(r *reader, n *yaml.Node) {
	if len(a.Match) > 0 {
		a.Match = nil
		r.note(n, "with provider kubernetes Flagger drops match")
	}
	if a.Iterations < 1 {
		a.Iterations = flaggerIterations
		r.note(n, "with provider kubernetes Flagger moves no traffic by steps and takes iterations: %d", flaggerIterations)
	}
}

// ask makes metricsServer what queries are asked of. What is built in, the proxy measures itself.
func (a *analysis) ask(r *reader, server *yaml.Node) {
	for i, m := range a.Metrics {
		if m.Query != "" {
			a.Metrics[i].Server = server.Value
		} else {
			r.note(server, "%s is not asked of metricsServer: Penstock's proxy measures it", m.Name)
		}
	}
}

func (r *reader) targetRef(n *yaml.Node) (name string) {
	at := r.section(n, []field{
		{"apiVersion", func(r *reader, n *yaml.Node) { r.text(n) }},
		{"kind", func(r *reader, n *yaml.Node) { r.word(n, "Deployment", "DaemonSet", "Service") }},
		{"name", func(r *reader, n *yaml.Node) { name, _ = r.text(n) }},
	})
	for _, key := range []string{"kind", "name"} {
		if at[key] == nil && n.Kind == yaml.MappingNode {
			r.mistake(n, "targetRef has no %s: write it", key)
		}
	}
	return name
}

// kubernetesService reads spec.service. How traffic is carried, penstock.yaml says.
func (r *reader) kubernetesService(n *yaml.Node, m *Manifest) {
	fields := []field{
		{"name", func(r *reader, n *yaml.Node) { m.Service, _ = r.text(n) }},
		{"port", func(r *reader, n *yaml.Node) { m.Port = r.integer(n, "a port such as 8000", 1, 65535) }},
	}
	for _, key := range []string{
		"portName", "targetPort", "portDiscovery", "appProtocol", "trafficDistribution", "headless", "timeout", "backendTimeout",
		"gateways", "gatewayRefs", "hosts", "delegation", "trafficPolicy", "match", "rewrite", "retries", "headers", "mirror",
		"corsPolicy", "meshName", "backends", "apex", "primary", "canary", "unmanagedMetadata",
	} {
		fields = append(fields, field{key, func(r *reader, n *yaml.Node) {
			r.note(n, "service.%s has no effect: penstock.yaml says how traffic comes to a service", key)
		}})
	}
	if at := r.section(n, fields); at["port"] == nil && n.Kind == yaml.MappingNode {
		r.mistake(n, "service has no port: write it")
	}
}

// metricTemplate reads a MetricTemplate.
func (r *reader) metricTemplate(root *yaml.Node) metricTemplate {
	var t metricTemplate
	t.name, t.namespace = r.object(root, func(r *reader, n *yaml.Node) {
		at := r.section(n, []field{
			{"provider", func(r *reader, n *yaml.Node) { t.server = r.provider(n) }},
			{"query", func(r *reader, n *yaml.Node) { t.query = r.query(n) }},
		})
		if at["query"] == nil {
			r.mistake(n, "the template has no query: write it")
		}
		if at["provider"] == nil {
			r.mistake(n, "the template has no provider: write {type: prometheus}")
		}
	})
	return t
}

// provider reads where a template's query is asked: of a Prometheus, of the proxy's own metrics without an address.
func (r *reader) provider(n *yaml.Node) (server string) {
	refuse := func(key string) field {
		return field{key, func(r *reader, n *yaml.Node) {
			if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Value != "false" {
				r.mistake(n, "a Prometheus is asked without credentials and its certificate is checked: %s can not be had", key)
			}
		}}
	}
	at := r.section(n, []field{
		{"type", func(r *reader, n *yaml.Node) {
			if text, ok := r.text(n); ok && text != "prometheus" {
				r.mistake(n, "'%.40s' can not be asked: there is only prometheus", text)
			}
		}},
		{"address", func(r *reader, n *yaml.Node) { server = r.url(n) }},
		refuse("headers"), refuse("secretRef"), refuse("insecureSkipVerify"),
		{"region", func(r *reader, n *yaml.Node) { r.note(n, "region has no effect: a Prometheus has none") }},
	})
	if at["type"] == nil && n.Kind == yaml.MappingNode {
		r.mistake(n, "the provider has no type: write prometheus")
	}
	return server
}

// resolve gives the metrics whose queries are those of templates.
func (r *reader) resolve(refs []templated, templates []metricTemplate) []cd.Metric {
	var all []cd.Metric
	var names []string
	for _, t := range templates {
		names = append(names, t.name)
	}
	for _, ref := range refs {
		i := slices.IndexFunc(templates, func(t metricTemplate) bool {
			return t.name == ref.name && (ref.namespace == "" || ref.namespace == t.namespace)
		})
		if i < 0 {
			hint := ": put it in one of the files that are named"
			if len(names) > 0 {
				hint = suggest(ref.name, names)
			}
			r.at(ref.Pos, "there is no MetricTemplate '%s'%s", ref.name, hint)
			continue
		}
		m := ref.metric
		m.Query, m.Server, m.Template = templates[i].query, templates[i].server, true
		switch err, strange := checkQuery(m); {
		case m.Interval == 0 && strings.Contains(m.Query, "interval"):
			r.at(ref.Pos, "MetricTemplate '%s' asks for the interval, and '%s' has none: write interval", ref.name, m.Name)
		case err != nil:
			r.at(ref.Pos, "MetricTemplate '%s': %v", ref.name, err)
		case strange != nil && m.Server != "":
			r.noteAt(ref.Pos, "MetricTemplate '%s': %v", ref.name, strange)
		case strange != nil:
			r.at(ref.Pos, "MetricTemplate '%s': %v", ref.name, strange)
		}
		all = append(all, m)
	}
	return all
}
