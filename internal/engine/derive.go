package engine

import (
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// finding is what a stored run asks for.
type finding struct {
	run        ci.RunID
	version    int64
	repository string
	completed  bool
	ready      []readyJob
	holdings   []holding
	claims     []ci.Claim
	deadline   time.Time // zero: none
}

// derive finds out what a run asks for. It shares with the run only what does not change.
func (e *Engine) derive(run *ci.Run) finding {
	f := finding{
		run: run.ID, version: run.Version, repository: run.Plan.Repository, completed: run.Status == ci.Completed, claims: run.Claims(),
	}
	if t, ok := run.Deadline(); ok {
		f.deadline = t
	}
	ready := run.Ready()
	f.ready = make([]readyJob, 0, len(ready))
	for i, j := range run.Jobs {
		if len(ready) > 0 && ready[0] == j.ID {
			f.ready = append(f.ready, readyJob{job: j.ID, position: i, since: j.Since, labels: j.Labels, group: j.Group})
			ready = ready[1:]
		}
		if j.Lease != "" && j.Status == ci.InProgress {
			f.holdings = append(f.holdings, holding{job: j.ID, id: j.Lease, attempt: run.Attempt, signal: ci.Signal(j.Stop)})
		}
	}
	return f
}
