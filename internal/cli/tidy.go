package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

const (
	// tidyEvery is how often one looks for what nobody needs any more.
	tidyEvery = time.Hour
	// tidyFor bounds how long it looks; what is left is found the next time.
	tidyFor = 2 * time.Second
)

// layerRef is what keeps the disks of a run's failed steps.
func layerRef(id ci.RunID) string { return fmt.Sprintf("run/%d", id) }

// tidy removes, now and then, the oldest runs with their logs, artifacts and disks, caches that were not used for long,
// and layers that nothing refers to. A failure to tidy fails no run.
func (l *local) tidy(ctx context.Context) error {
	stamp := filepath.Join(l.data, "tidied")
	if info, err := os.Stat(stamp); err == nil && time.Since(info.ModTime()) < tidyEvery {
		return nil
	}
	if err := os.WriteFile(stamp, nil, 0o600); err != nil {
		return err
	}
	ctx, done := context.WithTimeout(ctx, tidyFor)
	defer done()
	return errors.Join(l.forgetRuns(), l.executor.Host.Cache.Trim(ctx), l.executor.Host.Artifacts.Sweep(ctx), l.layers.Collect(ctx))
}

// forgetRuns removes all but the newest runs from the history.
func (l *local) forgetRuns() error {
	ids, err := l.history.ids()
	if err != nil || len(ids) <= keptRuns {
		return err
	}
	var errs []error
	for _, id := range slices.Clone(ids[:len(ids)-keptRuns]) {
		refs, err := l.layers.Refs(layerRef(id) + "/")
		errs = append(errs, err)
		for _, ref := range append(refs, layerRef(id)) {
			errs = append(errs, l.layers.SetRef(ref))
		}
		for _, prefix := range []string{fmt.Sprintf("logs/%d/", id), fmt.Sprintf("runs/%d/", id)} {
			infos, err := l.history.blobs.List(prefix)
			errs = append(errs, err)
			for _, info := range infos {
				errs = append(errs, l.history.blobs.Delete(info.Key))
			}
		}
		errs = append(errs, os.RemoveAll(filepath.Join(l.history.dir, "runs", fmt.Sprint(id))))
	}
	return errors.Join(errs...)
}
