package config

import (
	"fmt"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Names are what a query of a metric may ask for, as in Flagger: {{ target }}, {{ variables.NAME }}.
type Names struct {
	Name, Namespace, Target, Service, Ingress, Route string
	Interval                                         time.Duration
	Variables                                        map[string]string
}

// RenderQuery resolves Flagger's template functions in a query of a metric. A query that a Config or Manifest has is resolved
// without an error.
func RenderQuery(query string, names Names) (string, error) {
	text := func(s string) func() string { return func() string { return s } }
	t, err := template.New("query").Option("missingkey=error").Funcs(template.FuncMap{
		"name": text(names.Name), "namespace": text(names.Namespace), "target": text(names.Target),
		"service": text(names.Service), "ingress": text(names.Ingress), "route": text(names.Route),
		"interval":  text(promDuration(names.Interval)),
		"variables": func() map[string]string { return names.Variables },
	}).Parse(query)
	if err != nil {
		return "", fmt.Errorf("the query can not be read: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	if len(t.Templates()) > 1 {
		return "", fmt.Errorf("the query defines a template: write it out")
	}
	if t.Tree != nil {
		if err := plain(t.Root); err != nil {
			return "", err
		}
	}
	var out strings.Builder
	if err := t.Execute(&out, nil); err != nil {
		return "", fmt.Errorf("the query can not be resolved: %s", strings.TrimPrefix(err.Error(), "template: "))
	}
	return out.String(), nil
}

// promDuration is a duration as PromQL has it, without a point; Flagger has none for a metric of a template without one.
func promDuration(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d%time.Second != 0:
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return durationText(d)
}

// queryFunctions are all that a query may call: none of them makes much out of little, so what it takes to resolve one is
// bounded by its length.
var queryFunctions = []string{
	"name", "namespace", "target", "service", "ingress", "route", "interval", "variables",
	"index", "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len",
}

// plain refuses loops and other templates, for the same reason.
func plain(n parse.Node) error {
	var list []parse.Node
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			list = n.Nodes
		}
	case *parse.ActionNode:
		list = []parse.Node{n.Pipe}
	case *parse.IfNode:
		list = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.WithNode:
		list = []parse.Node{n.Pipe, n.List, n.ElseList}
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			list = append(list, c)
		}
	case *parse.CommandNode:
		list = n.Args
	case *parse.ChainNode:
		list = []parse.Node{n.Node}
	case *parse.IdentifierNode:
		if !slices.Contains(queryFunctions, n.Ident) {
			return fmt.Errorf("a query can not call %s: there are %s", n.Ident, strings.Join(queryFunctions, ", "))
		}
	case *parse.TextNode, *parse.CommentNode, *parse.DotNode, *parse.FieldNode, *parse.VariableNode, *parse.StringNode,
		*parse.NumberNode, *parse.BoolNode, *parse.NilNode:
	default:
		return fmt.Errorf("a query can not have %q: write it out", n)
	}
	for _, e := range list {
		if err := plain(e); err != nil {
			return err
		}
	}
	return nil
}

// query reads PromQL.
func (r *reader) query(n *yaml.Node) string {
	text, ok := r.text(n)
	if ok && len(text) > mostQuery {
		r.mistake(n, "the query is longer than %d KiB", mostQuery>>10)
		return ""
	}
	return strings.TrimSpace(text)
}

// rendered says whether the query of m can be resolved, and is PromQL then.
func (r *reader) rendered(n *yaml.Node, m cd.Metric, exact bool) {
	err, strange := checkQuery(m)
	switch {
	case err != nil:
		r.mistake(n, "%v", err)
	case strange != nil && exact: // its metricsServer may understand more
		r.note(n, "%v", strange)
	case strange != nil:
		r.mistake(n, "%v", strange)
	}
}

// checkQuery says why the query of a metric can not be resolved, or why the proxy's own metrics can not be asked by it. Another
// server may understand more: there are dialects of PromQL.
func checkQuery(m cd.Metric) (err, strange error) {
	if m.Query == "" {
		return nil, nil // that was told
	}
	const some = "x" // whatever it is called
	query, err := RenderQuery(m.Query, Names{some, some, some, some, some, some, m.Interval, m.Variables})
	if err != nil {
		return err, nil
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the query is no PromQL: %w", err)
	case expr.Type() != parser.ValueTypeVector && expr.Type() != parser.ValueTypeScalar:
		return nil, fmt.Errorf("the query gives no number for each series but a %s: it needs a function such as rate()", parser.DocumentedType(expr.Type()))
	}
	return nil, nil
}
