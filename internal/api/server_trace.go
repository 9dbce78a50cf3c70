package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstock-ci/penstock/internal/ci"
)

// traceStop is how long the last traces may take to be delivered when a server stops.
const traceStop = 5 * time.Second

// Traces gives an OpenTelemetry collector a trace of each run attempt that has ended: the run, its jobs, their steps. Names
// are those of the semantic conventions for CI/CD. A run that is told twice, after a crash, has the same IDs both times.
// https://opentelemetry.io/docs/specs/semconv/cicd/cicd-spans/
type Traces struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// OpenTraces reads OpenTelemetry's variables of the environment. Without OTEL_EXPORTER_OTLP_ENDPOINT (or the one for traces)
// it gives nil, which traces nothing.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func OpenTraces(ctx context.Context) (*Traces, error) {
	if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("trace runs: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("penstock")), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("trace runs: %w", err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about), sdk.WithIDGenerator(namedIDs{}), sdk.WithSampler(sdk.AlwaysSample()))
	return &Traces{p, p.Tracer("github.com/penstock-ci/penstock")}, nil
}

// Close delivers what is left, for traceStop at most.
func (t *Traces) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceStop)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// run traces an attempt that has ended. numbers are those by which the pages name its jobs.
func (t *Traces) run(origin string, run *ci.Run, numbers map[ci.JobID]int64) {
	if t == nil {
		return
	}
	github := run.Plan.GitHub
	page := fmt.Sprintf("%s/%s/actions/runs/%d/attempts/%d", origin, run.Plan.Repository, run.ID, run.Attempt)
	id := fmt.Sprint(origin, " ", run.ID, " ", run.Attempt)
	whole := span{id, github.Property("workflow").Text(), cmp.Or(run.Started, run.Created), run.Completed, run.Conclusion, run.Reason}
	ctx := t.span(context.Background(), whole, trace.SpanKindServer,
		semconv.CICDPipelineActionNameRun, semconv.CICDPipelineName(github.Property("workflow").Text()), semconv.CICDPipelineRunID(strconv.FormatInt(int64(run.ID), 10)),
		semconv.CICDPipelineRunURLFull(page), semconv.CICDPipelineResultKey.String(resultOf(run.Conclusion)), semconv.VCSRepositoryURLFull(origin+"/"+run.Plan.Repository),
		semconv.VCSRefHeadName(github.Property("ref_name").Text()), semconv.VCSRefHeadRevision(github.Property("sha").Text()),
		attribute.String("penstock.event", run.Plan.Event), attribute.Int("penstock.attempt", run.Attempt))
	for _, j := range run.Jobs {
		if j.Call || j.Expanded || j.Attempt != run.Attempt || j.Started.IsZero() {
			continue
		}
		job := fmt.Sprint(id, " ", j.ID)
		in := t.span(ctx, span{job, j.Name, j.Started, j.Completed, j.Conclusion, j.Reason}, trace.SpanKindInternal,
			semconv.CICDPipelineTaskName(j.Name), semconv.CICDPipelineTaskRunID(strconv.FormatInt(numbers[j.ID], 10)),
			semconv.CICDPipelineTaskRunURLFull(fmt.Sprintf("%s/job/%d", page, numbers[j.ID])), semconv.CICDPipelineTaskRunResultKey.String(resultOf(j.Conclusion)),
			semconv.CICDWorkerName(j.Runner))
		for _, s := range j.Steps {
			if !s.Started.IsZero() {
				t.span(in, span{fmt.Sprint(job, " ", s.Number), s.Name, s.Started, s.Completed, s.Conclusion, ""}, trace.SpanKindInternal,
					semconv.CICDPipelineTaskRunResultKey.String(resultOf(s.Conclusion)))
			}
		}
	}
}

type span struct {
	id, name   string
	from, to   time.Time
	conclusion ci.Conclusion
	reason     string
}

// span tells of one span, and gives the context of those in it.
func (t *Traces) span(ctx context.Context, s span, kind trace.SpanKind, attributes ...attribute.KeyValue) context.Context {
	ctx, told := t.tracer.Start(context.WithValue(ctx, spanName{}, s.id), s.name, trace.WithTimestamp(s.from), trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	if s.conclusion == ci.Failure {
		told.SetStatus(codes.Error, s.reason)
	}
	told.End(trace.WithTimestamp(cmp.Or(s.to, s.from)))
	return ctx
}

// resultOf is a conclusion as the conventions name it.
func resultOf(c ci.Conclusion) string {
	switch c {
	case ci.Cancelled:
		return "cancellation"
	case ci.Skipped:
		return "skip"
	}
	return string(c)
}

// namedIDs makes IDs of what is traced instead of at random.
type namedIDs struct{}

type spanName struct{}

func (namedIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	name, _ := ctx.Value(spanName{}).(string)
	sum := sha256.Sum256([]byte(name))
	return trace.TraceID(sum[:16]), trace.SpanID(sum[16:24])
}

func (g namedIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, id := g.NewIDs(ctx)
	return id
}
