package cli

import (
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/layer"
)

// states keep what failed steps need to be opened again, or gone on from.
type states struct {
	runner string // the name of the one whose disks these are
	blobs  blob.Store
	layers *layer.Store
}

// SaveState keeps what a failed step needs to be opened again (job.StateStore).
func (s *states) SaveState(ctx context.Context, key string, data []byte, keep ...layer.ID) error {
	if len(keep) > 0 {
		if err := s.layers.SetRef("run/"+strings.TrimPrefix(key, "runs/"), keep...); err != nil {
			return err
		}
	}
	_, err := s.blobs.Put(ctx, key, bytes.NewReader(data))
	return err
}

// LoadState reads what SaveState kept.
func (s *states) LoadState(_ context.Context, key string) ([]byte, error) {
	return blob.ReadAll(s.blobs, key, maxState)
}

// maxState bounds a kept state, bytes.
const maxState = 64 << 20

// keepDisks holds on to the disks that penstock shell and --resume may want, and lets all others of the run go.
func (s *states) keepDisks(r *ci.Run) error {
	var ids []layer.ID
	for _, j := range r.Jobs {
		if at := job.ResumeAt(r, j); at != nil && at.Runner == s.runner {
			ids = append(ids, layer.ID(at.Snapshot))
		}
	}
	return s.layers.SetRef(layerRef(r.ID), ids...)
}

// keptDisks is of how many runs a server keeps the disks of failed steps.
const keptDisks = 50

// forgetDisks lets go of the disks of all but the newest runs that have any.
func (s *states) forgetDisks() error {
	refs, err := s.layers.Refs("run/")
	if err != nil {
		return err
	}
	runs := map[ci.RunID][]string{}
	for _, ref := range refs {
		number, _, _ := strings.Cut(strings.TrimPrefix(ref, "run/"), "/")
		id, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			continue // none of ours
		}
		runs[ci.RunID(id)] = append(runs[ci.RunID(id)], ref)
	}
	for range len(runs) - keptDisks {
		oldest := ci.RunID(0)
		for id := range runs {
			if oldest == 0 || id < oldest {
				oldest = id
			}
		}
		for _, ref := range runs[oldest] {
			if err := s.layers.SetRef(ref); err != nil {
				return err
			}
		}
		delete(runs, oldest)
	}
	return nil
}
