package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
	"github.com/penstock-ci/penstock/internal/proxy/tlsauto"
)

const (
	// maxTable bounds the JSON of a table.
	maxTable = 64 << 20
	// fresh is how old the last sample may be when somebody asks for what was measured until now.
	fresh = 100 * time.Millisecond
)

// Status is what a proxy says of itself.
type Status struct {
	PID       int               `json:"pid"`
	Version   string            `json:"version"`  // of the program
	Build     string            `json:"build"`    // tells one build of it from another
	Settings  string            `json:"settings"` // tells its settings from others
	Began     time.Time         `json:"began"`
	Table     int64             `json:"table"` // version; 0 is none
	Routes    int               `json:"routes"`
	Listeners map[string]string `json:"listeners"` // http, https: the address
	// Draining are processes that have given their place up and finish what is under way.
	Draining []int `json:"draining,omitempty"`
	// TLS tells of the hosts' certificates, Root is the file with the certificate of the own authority.
	TLS  []tlsauto.Host `json:"tls,omitempty"`
	Root string         `json:"root,omitempty"`
	// Trouble is what is not as it should be.
	Trouble []string `json:"trouble,omitempty"`
}

// The questions and answers of the control socket.
type (
	queryRequest struct {
		Query string       `json:"query"`
		At    time.Time    `json:"at"`
		Scope series.Scope `json:"scope"`
	}
	metricRequest struct {
		Target   series.Target `json:"target"`
		Interval time.Duration `json:"interval"`
		At       time.Time     `json:"at"`
	}
	metricAnswer struct {
		Value float64 `json:"value"`
		Query string  `json:"query"`
		None  bool    `json:"none,omitempty"`  // there was no value
		Error string  `json:"error,omitempty"` // why it could not be asked
	}
	rangeRequest struct {
		Route string        `json:"route"`
		From  time.Time     `json:"from"`
		To    time.Time     `json:"to"`
		Step  time.Duration `json:"step,omitempty"`
	}
	sampleRequest struct {
		From  time.Time     `json:"from"`
		Pools []series.Pool `json:"pools"`
	}
	sampleAnswer struct {
		To     time.Time       `json:"to"`
		Counts []series.Counts `json:"counts"`
	}
	problem struct {
		Error string `json:"error"`
		Kind  string `json:"kind,omitempty"`
	}
)

// serveControl answers at the control socket. What waits is sent away when ctx ends.
func (d *daemon) serveControl(ctx context.Context, l *net.UnixListener) *http.Server {
	server := &http.Server{
		Handler: d.controlHandler(), ReadHeaderTimeout: askTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	go func() { _ = server.Serve(sameUser{l, d.log}) }()
	return server
}

func (d *daemon) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, d.status()) })
	mux.HandleFunc("PUT /table", func(w http.ResponseWriter, r *http.Request) {
		var t proxy.Table
		if read(w, r, &t) {
			reply(w, struct{}{}, d.set(r.Context(), t))
		}
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) { answer(w, d.stats()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		if err := d.expose(w); err != nil {
			d.log.Warn("metrics could not be given", "error", err)
		}
	})
	mux.HandleFunc("POST /query", func(w http.ResponseWriter, r *http.Request) {
		var q queryRequest
		if read(w, r, &q) {
			result, err := d.series.Query(r.Context(), q.Query, d.refresh(q.At), q.Scope)
			reply(w, result, err)
		}
	})
	mux.HandleFunc("POST /success-rate", func(w http.ResponseWriter, r *http.Request) {
		d.metric(w, r, func(q metricRequest) (float64, string, error) {
			return d.series.SuccessRate(r.Context(), q.Target, q.Interval, q.At)
		})
	})
	mux.HandleFunc("POST /duration", func(w http.ResponseWriter, r *http.Request) {
		d.metric(w, r, func(q metricRequest) (float64, string, error) {
			took, query, err := d.series.Duration(r.Context(), q.Target, q.Interval, q.At)
			return float64(took.Milliseconds()), query, err
		})
	})
	mux.HandleFunc("POST /sample", func(w http.ResponseWriter, r *http.Request) {
		var q sampleRequest
		if read(w, r, &q) {
			d.record()
			var a sampleAnswer
			a.To, a.Counts = d.series.Sample(q.From, q.Pools)
			answer(w, a)
		}
	})
	mux.HandleFunc("POST /range", func(w http.ResponseWriter, r *http.Request) {
		var q rangeRequest
		if read(w, r, &q) {
			charts, err := d.series.Range(q.Route, q.From, q.To, q.Step)
			reply(w, charts, err)
		}
	})
	mux.HandleFunc("POST /drained", func(w http.ResponseWriter, r *http.Request) {
		addr := r.FormValue("addr")
		err := d.proxy.Drained(r.Context(), addr)
		if err == nil {
			err = d.others.drained(r.Context(), addr)
		}
		if err != nil && d.isHanded() {
			err = errBusy // ask the process that has taken over
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		answer(w, struct{}{})
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		d.log.Info("told to stop")
		if err := os.WriteFile(filepath.Join(d.conf.Dir, stoppedFile), nil, 0o600); err != nil {
			fail(w, fmt.Errorf("the proxy goes on, since it would be started again: %w", err))
			return
		}
		answer(w, struct{}{})
		d.stop()
	})
	mux.HandleFunc("POST /handover", d.giveOver)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.leaving.Load() {
			fail(w, errBusy) // what is asked now is for the process that has taken over
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (d *daemon) status() Status {
	var hosts []tlsauto.Host
	root := ""
	if d.tls != nil {
		hosts, root = d.tls.Status(), d.tls.Root()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return Status{
		TLS: hosts, Root: root,
		PID: os.Getpid(), Version: d.version, Build: d.build, Settings: d.conf.id(), Began: d.began, Table: d.table.Version,
		Routes: len(d.table.Routes), Listeners: d.addresses(), Draining: d.others.pids(), Trouble: d.trouble,
	}
}

// refresh takes a sample if the last one is older than what was asked for would like. It gives the time of the sample for one that
// means now: it was taken a little later, and would not count.
func (d *daemon) refresh(at time.Time) time.Time {
	if time.Since(d.series.Last()) > fresh {
		d.record()
	}
	if last := d.series.Last(); last.After(at) && last.Sub(at) < time.Second {
		return last
	}
	return at
}

func (d *daemon) metric(w http.ResponseWriter, r *http.Request, ask func(metricRequest) (float64, string, error)) {
	var q metricRequest
	if !read(w, r, &q) {
		return
	}
	q.At = d.refresh(q.At)
	value, query, err := ask(q)
	a := metricAnswer{Value: value, Query: query}
	switch {
	case errors.Is(err, series.ErrNoValues):
		a.None = true
	case err != nil:
		a.Error = err.Error()
	}
	answer(w, a)
}

// expose writes all metrics: ours over the series, with what the table says of pools, and what the proxy counts beside them.
func (d *daemon) expose(w io.Writer) error {
	d.refresh(time.Now())
	if err := d.series.Expose(w); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(d.proxy.Collector()); err != nil {
		return err
	}
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if series.Exposes(f.GetName()) {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// read takes a request's JSON, or answers that it can not be read.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTable)).Decode(v); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		answer(w, problem{Error: fmt.Sprintf("read the request: %v", err)})
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, v)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

// kinds are the errors that a client knows again.
var kinds = map[string]error{"stale": ErrStale, "busy": errBusy, "running": ErrRunning}

func fail(w http.ResponseWriter, err error) {
	p := problem{Error: err.Error()}
	status := http.StatusUnprocessableEntity
	for kind, known := range kinds {
		if errors.Is(err, known) {
			p.Kind, status = kind, http.StatusConflict
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	answer(w, p)
}
