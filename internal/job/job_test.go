package job

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// play runs the job `a` of a workflow in a machine that isolates nothing. change may adapt what it is given.
func play(ctx context.Context, t testing.TB, workflow string, rec *recorder, change func(x *Executor, task *ci.Task)) ci.Result {
	t.Helper()
	machines := sandbox.NewNone(t.TempDir())
	machines.Ladder = sandbox.Ladder{Interrupt: 200 * time.Millisecond, Terminate: 200 * time.Millisecond}
	x := &Executor{Pick: func([]string) (sandbox.Provider, error) { return machines, nil }}
	empty := expr.Object()
	task := &ci.Task{Name: "a", Repository: "acme/repo", File: ci.File{Path: "ci.yml", Text: workflow}, Def: "a", Attempt: 1, Timeout: time.Hour, CancelTimeout: time.Minute,
		GitHub: empty, Inputs: empty, Vars: empty, Needs: empty, Strategy: empty, Matrix: empty}
	if change != nil {
		change(x, task)
	}
	res := x.Run(ctx, task, rec)
	rec.annotations = append(rec.annotations, res.Annotations...)
	return res
}
