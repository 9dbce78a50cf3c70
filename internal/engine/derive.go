package engine

import (
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// finding is what a stored run asks for. Its jobs are those of the run: a job is never changed in place.
type finding struct {
	run        ci.RunID
	version    int64
	repository string
	attempt    int
	completed  bool
	ready      []readyJob // may be leased
	leased     []*ci.Job
	claims     []ci.Claim
	deadlines  []time.Time
}

// readyJob is a job that may be leased, and its place in the run.
type readyJob struct {
	*ci.Job
	position int
}

// derive finds out what a run asks for.
func (e *Engine) derive(run *ci.Run) finding {
	f := finding{
		run: run.ID, version: run.Version, repository: run.Plan.Repository, attempt: run.Attempt,
		completed: run.Status == ci.Completed, claims: run.Claims(), deadlines: run.Deadlines(),
	}
	ready := run.Ready()
	f.ready = make([]readyJob, 0, len(ready))
	for i, j := range run.Jobs {
		if len(ready) > 0 && ready[0] == j.ID {
			f.ready = append(f.ready, readyJob{j, i})
			ready = ready[1:]
		}
		if j.Lease != "" && j.Status == ci.InProgress {
			f.leased = append(f.leased, j)
		}
	}
	return f
}
