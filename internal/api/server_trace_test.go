package api

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-ci/penstock/internal/ci"
)

// TestServerTraces has a collector receive the trace of a run, twice: as after a crash.
func TestServerTraces(t *testing.T) {
	var mu sync.Mutex
	var got []*otlp.Span
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		var in collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(text, &in) != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v %q", r.URL, err, text)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, of := range in.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				got = append(got, scope.Spans...)
			}
		}
	}))
	defer web.Close()
	if none, err := OpenTraces(t.Context()); none != nil || err != nil {
		t.Fatalf("without an endpoint: %v, %v", none, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", web.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	traces, err := OpenTraces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := newTeam(t)
	m.s.Traces = traces // before anything runs
	m.push("main", "-- .github/workflows/ci.yml --\nname: CI\non: push"+doesNothing)
	m.await("a trace", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 2 })
	run, err := m.s.Engine.Run(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	traces.run(m.s.URL, run, map[ci.JobID]int64{"a": 1})
	if err := traces.Close(); err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 {
		t.Fatalf("got %d spans", len(got))
	}
	whole := got[0]
	for _, s := range got {
		if len(s.ParentSpanId) == 0 {
			whole = s
		}
	}
	if whole.Name != "CI" || whole.StartTimeUnixNano == 0 || whole.EndTimeUnixNano < whole.StartTimeUnixNano {
		t.Errorf("the run is %v", whole)
	}
	told := map[string]string{}
	for _, a := range whole.Attributes {
		told[a.Key] = a.Value.GetStringValue()
	}
	if told["cicd.pipeline.result"] != "success" || !strings.HasSuffix(told["cicd.pipeline.run.url.full"], "/acme/shop/actions/runs/1/attempts/1") || told["vcs.ref.head.name"] != "main" {
		t.Errorf("it has %q", told)
	}
	ids := map[string]string{}
	for _, s := range got {
		id := hex.EncodeToString(s.TraceId) + hex.EncodeToString(s.SpanId)
		if before := ids[s.Name]; before != "" && before != id {
			t.Errorf("%s is told as %s and as %s", s.Name, before, id)
		}
		ids[s.Name] = id
	}
	if len(ids) != 2 || ids["a"][:32] != ids["CI"][:32] {
		t.Errorf("the spans are %q", ids)
	}
}
