package ci

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
)

// BenchmarkJobs takes one job of a 50-cell matrix through all that an engine does with it short of the disk: four inputs
// decided and applied, their events and the changed rows of the snapshot encoded, readiness, claims and deadline asked
// after each, and its task built. Each 50 jobs begin a run.
func BenchmarkJobs(b *testing.B) { benchmarkJobs(b, 50, 1) }

// BenchmarkJobsOfLargeRun is the same with runs of 5,000 jobs in 100 matrices.
func BenchmarkJobsOfLargeRun(b *testing.B) { benchmarkJobs(b, 50, 100) }

func benchmarkJobs(b *testing.B, cells, matrices int) {
	plan := benchPlan(b, cells, matrices)
	b.ReportAllocs()
	done := 0
	for done < b.N {
		now := epoch
		run, events := New(1, plan, now)
		encode(b, run, events)
		for ready := run.Ready(); len(ready) > 0 && done < b.N; ready = run.Ready() {
			for _, id := range ready {
				now = now.Add(time.Second)
				benchJob(b, run, id, now)
				if done++; done == b.N {
					break
				}
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func benchPlan(b *testing.B, cells, matrices int) *Plan {
	var text strings.Builder
	text.WriteString("on: push\njobs:\n")
	for m := range matrices {
		var list []string
		for i := range cells {
			list = append(list, fmt.Sprint(i))
		}
		fmt.Fprintf(&text, "  test%d:\n    strategy: { fail-fast: false, matrix: { shard: [%s] } }\n", m, strings.Join(list, ", "))
		text.WriteString("    runs-on: ubuntu-latest\n    timeout-minutes: 10\n    outputs: { o: '${{ steps.x.outputs.o }}' }\n    steps: [{ id: x, run: echo }]\n")
	}
	github := []expr.Pair{{Key: "run_attempt", Value: expr.String("1")}}
	for i := range 40 {
		github = append(github, expr.Pair{Key: fmt.Sprintf("key%d", i), Value: expr.String("value")})
	}
	plan, err := NewPlan(File{Path: "ci.yml", Text: text.String()}, nil, Plan{Event: "push", GitHub: expr.Object(github...)})
	if err != nil {
		b.Fatal(err)
	}
	return plan
}

func benchJob(b *testing.B, run *Run, id JobID, now time.Time) {
	lease := LeaseID("lease-" + id)
	steps := []Step{{Number: 1, Name: "Set up job", Status: Completed, Conclusion: Success, Started: now}, {Number: 2, Name: "Run echo", Status: InProgress, Started: now}}
	for i, in := range []Input{
		Leased{Job: id, Lease: lease, Runner: "r1", Until: now.Add(time.Minute)},
		Started{Job: id, Lease: lease},
		Reported{Job: id, Lease: lease, Report: Report{Steps: steps}},
		Finished{Job: id, Lease: lease, Result: Result{Conclusion: Success, Outputs: map[string]string{"o": "1"}}},
	} {
		events, err := run.Decide(in, now)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range events {
			run.Apply(e)
		}
		encode(b, run, events)
		run.Ready()
		run.Claims()
		run.Deadlines()
		if i == 0 {
			if _, err := run.Task(id); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// encode encodes what the store writes: the events, the run without its jobs, and the jobs that the events changed.
func encode(b *testing.B, run *Run, events []Event) {
	alone := *run
	alone.Jobs = nil
	values := []any{alone}
	all, changed := false, map[JobID]bool{}
	for _, e := range events {
		values = append(values, e)
		all = all || e.Job == ""
		changed[e.Job] = true
	}
	for id := range changed {
		if !all {
			values = append(values, run.Job(id))
		}
	}
	for _, j := range run.Jobs {
		if !all {
			break
		}
		values = append(values, j)
	}
	for _, v := range values {
		if _, err := json.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}
