// Package runner takes tasks from a queue, here or over HTTP, and gives them to the job room, keeping each lease
// alive and each log delivered. It never sees the store.
package runner

import (
	"context"

	"github.com/penstock-ci/penstock/internal/ci"
)

// Queue is where tasks come from and results go: *engine.Engine in the process, a client of the API elsewhere.
type Queue interface {
	// Lease waits until there is a task for the runner, or ctx ends.
	Lease(ctx context.Context, r Runner) (*ci.Task, error)
	// Renew keeps the lease alive. It returns when there is a signal for the job, or in time for the next call.
	// ci.ErrStale says that the lease is lost: the job must stop and report nothing more.
	Renew(ctx context.Context, l Lease) (Signal, error)
	// Report tells what the job's steps are doing.
	Report(ctx context.Context, l Lease, r ci.Report) error
	// Append adds bytes to the job's log at an offset; bytes already there are ignored, a gap is an error.
	Append(ctx context.Context, l Lease, offset int64, p []byte) error
	// Finish tells how the job ended and gives the lease back.
	Finish(ctx context.Context, l Lease, res ci.Result) error
}

// Runner says what a runner offers; Lease names a hold on a job; Signal is what the queue wants of a running job. They
// belong to ci, so that a queue need not know this room.
type (
	Runner = ci.Runner
	Lease  = ci.Lease
	Signal = ci.Signal
)

const (
	Continue = ci.SignalNone
	Cancel   = ci.SignalCancel
	Kill     = ci.SignalKill
)
