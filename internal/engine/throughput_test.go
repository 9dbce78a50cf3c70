package engine

import (
	"path/filepath"
	"testing"
	"time"
)

const wide = `on: push
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      matrix:
        a: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        b: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    steps:
      - run: echo
`

// BenchmarkJobs puts 10,000 jobs through the machine and the store: 100 runs of 100 jobs, and 10,000 of one.
func BenchmarkJobs(b *testing.B) {
	const one = "on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo\n"
	for _, c := range []struct {
		name, url, workflow string
		runs                int
	}{
		{"memory/100x100", "sqlite::memory:", wide, 100},
		{"file/100x100", "sqlite:FILE", wide, 100},
		{"memory/10000x1", "sqlite::memory:", one, 10_000},
		{"file/10000x1", "sqlite:FILE", one, 10_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			var jobs int
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				url := c.url
				if url == "sqlite:FILE" {
					url = "sqlite:" + filepath.Join(b.TempDir(), "p.db")
				}
				h := open(b, url, b.TempDir(), Options{})
				b.StartTimer()
				n, d, err := h.Throughput(b.Context(), plan(b, c.workflow, nil), c.runs, 64)
				if err != nil {
					b.Fatal(err)
				}
				jobs, took = jobs+n, took+d
			}
			b.ReportMetric(float64(jobs)/took.Seconds(), "jobs/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func TestThroughputCountsJobs(t *testing.T) {
	h := inMemory(t, Options{})
	jobs, took, err := h.Throughput(t.Context(), plan(t, buildThenTest, nil), 5, 3)
	if err != nil || jobs != 15 || took <= 0 {
		t.Errorf("Throughput = %d, %v, %v, want 15 jobs", jobs, took, err)
	}
	h.wantSound(t)
}
