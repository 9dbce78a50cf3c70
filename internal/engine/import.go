package engine

import (
	"context"
	"fmt"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// Import takes a run that was kept elsewhere (the history of local runs) into the store, as it is, with its ID. It is an
// error if the store does not give that ID next: see Options.FirstRun.
func (e *Engine) Import(ctx context.Context, run *ci.Run) error {
	ended := make(chan error, 1)
	begin := func(id ci.RunID, plan *ci.Plan) (store.Save, error) {
		if id != run.ID {
			return store.Save{}, fmt.Errorf("the next run is %d", id)
		}
		copied := *run
		copied.Plan = plan
		return store.Save{Run: &copied, Claims: copied.Claims()}, nil
	}
	e.store.Create(run.Plan, begin, func(s store.Save, err error) {
		if err == nil {
			e.adopt(s.Run)
		}
		ended <- err
	})
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("import run %d: %w", run.ID, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("import run %d: %w", run.ID, context.Cause(ctx))
	}
}
