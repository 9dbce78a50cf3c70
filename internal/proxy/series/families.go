package series

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/proxy"
)

const (
	requestsTotal   = "penstock_proxy_requests_total"
	durationSeconds = "penstock_proxy_request_duration_seconds"
)

// kind is what a family is made of.
type kind int

const (
	byCode kind = iota // requests by status code
	buckets
	sum
	count
)

// family is one metric name: how a pool's counters are told under it.
type family struct {
	name  string
	kind  kind
	code  string  // label of the status code
	scale float64 // of seconds, for sums and bounds
	// labels are those beside code and le, in pairs of name and value.
	labels func(n name, l Labels) []string
	// foreign families are what other software calls its own: see Scope.
	foreign bool
}

// families are all names under which the series can be asked for: our own, and those that manifests written for a cluster
// ask for (Flagger's own queries and common templates for Istio, ingress-nginx and instrumented applications).
var families = append(append(
	[]family{{name: requestsTotal, kind: byCode, code: "code", labels: ours}},
	histogramOf(family{name: durationSeconds, scale: 1, labels: ours})...), foreign()...)

func histogramOf(f family) []family {
	bucket, total, number := f, f, f
	bucket.name, bucket.kind = f.name+"_bucket", buckets
	total.name, total.kind = f.name+"_sum", sum
	number.name, number.kind = f.name+"_count", count
	return []family{bucket, total, number}
}

func foreign() []family {
	all := []family{
		{name: "istio_requests_total", kind: byCode, code: "response_code", labels: istio},
		{name: "nginx_ingress_controller_requests", kind: byCode, code: "status", labels: nginx},
		{name: "http_requests_total", kind: byCode, code: "status", labels: instrumented},
		{name: "http_request_duration_seconds_count", kind: byCode, code: "status", labels: instrumented},
		{name: "http_request_duration_seconds_bucket", kind: buckets, scale: 1, labels: instrumented},
		{name: "http_request_duration_seconds_sum", kind: sum, scale: 1, labels: instrumented},
	}
	all = append(all, histogramOf(family{name: "istio_request_duration_milliseconds", scale: 1000, labels: istio})...)
	for _, name := range []string{"request_duration", "response_duration", "ingress_upstream_latency"} {
		all = append(all, histogramOf(family{name: "nginx_ingress_controller_" + name + "_seconds", scale: 1, labels: nginx})...)
	}
	for i := range all {
		all[i].foreign = true
	}
	return all
}

func ours(n name, l Labels) []string {
	return []string{"route", n.route, "pool", n.pool, "release", l.Release, "service", l.Service,
		"environment", l.Environment, "repository", l.Repository, "side", l.Side}
}

// workload is a pool's name where Flagger made it: TARGET and TARGET-primary.
func workload(l Labels) string {
	if l.Side == SideOld {
		return l.Service + "-primary"
	}
	return l.Service
}

func istio(n name, l Labels) []string {
	return []string{"route", n.route, "pool", n.pool, "reporter", "destination", "destination_workload", workload(l), "destination_workload_namespace", l.Environment,
		"destination_service_name", l.Service, "destination_service_namespace", l.Environment, "destination_app", workload(l),
		"destination_version", l.Release}
}

func nginx(n name, l Labels) []string {
	canary := ""
	if l.Side == SideNew {
		canary = l.Service + "-canary"
	}
	return []string{"route", n.route, "pool", n.pool, "namespace", l.Environment, "exported_namespace", l.Environment, "ingress", l.Service, "canary", canary,
		"service", workload(l), "exported_service", workload(l)}
}

func instrumented(n name, l Labels) []string {
	// Flagger tells canary and primary by the number of parts that a pod's name has.
	pod := workload(l) + "-" + alphanumeric(l.Release) + "-0"
	return []string{"route", n.route, "pool", n.pool, "kubernetes_namespace", l.Environment, "kubernetes_pod_name", pod, "namespace", l.Environment, "pod", pod,
		"app", workload(l), "service", workload(l)}
}

func alphanumeric(s string) string {
	s = strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return -1
	}, s)
	if s == "" {
		return "0"
	}
	return s
}

// anywhere are the labels whose matchers hold for foreign families whatever they ask for, within a Scope: a proxy is no
// namespace, and reports once.
var anywhere = map[string]bool{
	"namespace": true, "exported_namespace": true, "kubernetes_namespace": true, "destination_workload_namespace": true,
	"destination_service_namespace": true, "reporter": true,
}

// column is one series of a family: its own labels, and its value in a row.
type column struct {
	label, value string // code or le; empty if there is none
	of           func(r *row) float64
}

// columns are the series that each pool has under a family. The proxy tells statuses apart by their first digit; they are
// named by the first of their class, so that a query for 200, 2.. or 5.* finds them.
func (f *family) columns() []column {
	switch f.kind {
	case byCode:
		all := make([]column, 5)
		for i := range all {
			all[i] = column{f.code, strconv.Itoa(100 * (i + 1)), func(r *row) float64 { return float64(r[rowAnswers+1+i]) }}
		}
		return all
	case buckets:
		all := make([]column, latencyBuckets)
		for i := range all {
			le := "+Inf"
			if i < len(proxy.LatencyBounds) {
				le = strconv.FormatFloat(proxy.LatencyBounds[i]*f.scale/1000, 'g', -1, 64)
			}
			all[i] = column{"le", le, func(r *row) float64 { return float64(total(r[rowLatency : rowLatency+1+i])) }}
		}
		return all
	case sum:
		return []column{{of: func(r *row) float64 { return float64(r[rowSum]) / 1e6 * f.scale }}}
	default:
		return []column{{of: func(r *row) float64 { return float64(r.answered()) }}}
	}
}

func total(counts []int64) (n int64) {
	for _, v := range counts {
		n += v
	}
	return n
}

// Expose writes what was counted until the last Record, in the text format of Prometheus, under our own names.
func (s *Series) Expose(w io.Writer) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := bufio.NewWriter(w)
	live := s.sorted()
	for i := range families {
		f := &families[i]
		switch {
		case f.foreign:
			continue
		case f.kind == byCode:
			fmt.Fprintf(out, "# HELP %s Requests answered, by pool and by class of status: code 500 is 5xx.\n# TYPE %[1]s counter\n", f.name)
		case f.kind == buckets:
			fmt.Fprintf(out, "# HELP %s Time to the end of the answer.\n# TYPE %[1]s histogram\n", durationSeconds)
		}
		for _, h := range live {
			if h.ended() {
				continue
			}
			pairs := f.labels(h.name, h.lastChunk().Labels)
			for _, c := range f.columns() {
				fmt.Fprintf(out, "%s{%s} %s\n", f.name, labelText(append(pairs[:len(pairs):len(pairs)], c.label, c.value)), strconv.FormatFloat(c.of(&h.row), 'f', -1, 64))
			}
		}
	}
	return out.Flush()
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func labelText(pairs []string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "" || pairs[i+1] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i] + `="` + labelEscaper.Replace(strings.ToValidUTF8(pairs[i+1], "\uFFFD")) + `"`)
	}
	return b.String()
}

// Exposes says whether Expose writes a metric of that name.
func Exposes(name string) bool { return name == requestsTotal || name == durationSeconds }
