package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstock-ci/penstock/internal/ci"
)

// metrics are what operators watch. They have no names of repositories or users: whoever reaches the server may read them.
type metrics struct {
	handler  http.Handler
	requests *prometheus.HistogramVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "penstock_http_request_duration_seconds", Help: "Time to answer requests, by what they ask for.", Buckets: []float64{.005, .02, .05, .1, .25, 1, 5, 30},
	}, []string{"kind", "status"})}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &jobsCollector{s: s})
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

// jobsCollector counts runs and jobs that have not ended, when somebody asks.
type jobsCollector struct{ s *Server }

var (
	runsDesc = prometheus.NewDesc("penstock_runs", "Runs that have not ended, by status.", []string{"status"}, nil)
	jobsDesc = prometheus.NewDesc("penstock_jobs", "Jobs of those runs, by status.", []string{"status"}, nil)
	idleDesc = prometheus.NewDesc("penstock_runners_waiting", "Runners that wait for a job at this server.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *jobsCollector) Describe(to chan<- *prometheus.Desc) {
	to <- runsDesc
	to <- jobsDesc
	to <- idleDesc
}

// Collect implements prometheus.Collector.
func (c *jobsCollector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(idleDesc, prometheus.GaugeValue, float64(c.s.Engine.Waiting()))
	runs, jobs := c.s.Engine.Load()
	for _, status := range []ci.Status{ci.Queued, ci.Pending, ci.Waiting, ci.InProgress} {
		to <- prometheus.MustNewConstMetric(runsDesc, prometheus.GaugeValue, float64(runs[status]), string(status))
		to <- prometheus.MustNewConstMetric(jobsDesc, prometheus.GaugeValue, float64(jobs[status]), string(status))
	}
}

// watched serves a request and measures it. Streams are left out: they last as long as their readers.
func (m *metrics) watched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := kindOf(r.URL.Path)
		if kind == "" || strings.HasSuffix(r.URL.Path, "/events") || r.URL.Query().Has("follow") {
			next.ServeHTTP(w, r)
			return
		}
		began, seen := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		m.requests.WithLabelValues(kind, strconv.Itoa(seen.status/100)+"xx").Observe(time.Since(began).Seconds())
	})
}

// kindOf is what a path is for; "" for what is not measured.
func kindOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/api/v3"):
		return "api"
	case strings.HasSuffix(path, "/info/refs") || strings.HasSuffix(path, "/git-upload-pack") || strings.HasSuffix(path, "/git-receive-pack"):
		return "git"
	case strings.HasPrefix(path, pagePath+"/runner/"):
		return "" // they wait for jobs
	case strings.HasPrefix(path, pagePath+"/"):
		return "pages"
	case isRuntime(path):
		return "runtime"
	}
	return ""
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what is inside.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
