package deploy

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// maxQuery bounds a query with all resolved, bytes.
const maxQuery = 16 << 10

// Resolve fills in a metric's query as Flagger does: name, namespace, target, service, ingress, route, interval and variables
// are functions of a Go template. https://docs.flagger.app/usage/metrics#custom-metrics
func Resolve(m *cd.Metric, p *cd.Plan, service string) (string, error) {
	of := func(text string) func() string { return func() string { return text } }
	interval := m.Interval
	if interval <= 0 {
		interval = time.Minute
	}
	t, err := template.New("query").Option("missingkey=error").Funcs(template.FuncMap{
		"name": of(service), "target": of(service), "service": of(service), "ingress": of(service), "route": of(service), "namespace": of(p.Environment),
		"interval": of(promDuration(interval)), "variables": func() map[string]string { return m.Variables },
	}).Parse(m.Query)
	if err != nil {
		return "", fmt.Errorf("the query of %s: %w", m.Name, err)
	}
	out := &short{}
	if err := t.Execute(out, nil); err != nil {
		return "", fmt.Errorf("the query of %s: %w", m.Name, err)
	}
	return strings.Join(strings.Fields(out.String()), " "), nil
}

// short is a text that does not grow without end: a template may loop.
type short struct{ strings.Builder }

func (s *short) Write(p []byte) (int, error) {
	if s.Len()+len(p) > maxQuery {
		return 0, errors.New("it is longer than a query may be")
	}
	return s.Builder.Write(p)
}

// promDuration writes a duration as PromQL takes it: 1m30s is 90s.
func promDuration(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}
