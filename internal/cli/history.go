package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
)

// keptRuns is how many local runs are kept; the oldest go first, with their logs and their disks.
const keptRuns = 50

// history is what local runs leave behind: blobs under runs/ID, one JSON document a run.
type history struct {
	states        // its layers are nil where no disk is kept
	dir    string // of the blobs
}

// past is one run of the history. It holds no secrets: a Plan never does, and a Run's outputs are masked.
type past struct {
	Dir  string   `json:"dir"` // the repository's root
	Run  *ci.Run  `json:"run"`
	Plan *ci.Plan `json:"plan"`
}

func openHistory(data string) (*history, error) {
	dir := filepath.Join(data, "blobs")
	blobs, err := blob.OpenUnsynced(dir) // read knows a damaged run from a sound one
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	return &history{dir: dir, states: states{runner: hostName(), blobs: blobs}}, nil
}

// allocate takes n run numbers in a row and gives the first. Runs that start at once get numbers of their own: a
// directory is made only once.
func (h *history) allocate(n int) (ci.RunID, error) {
	parent := filepath.Join(h.dir, "runs")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return 0, fmt.Errorf("open history: %w", err)
	}
	ids, err := h.ids()
	if err != nil {
		return 0, err
	}
	var first ci.RunID = 1
	if len(ids) > 0 {
		first = ids[len(ids)-1] + 1
	}
	for next := first; next < first+ci.RunID(n); next++ {
		err := os.Mkdir(filepath.Join(parent, strconv.FormatInt(int64(next), 10)), 0o700)
		if errors.Is(err, fs.ErrExist) {
			first = next + 1
		} else if err != nil {
			return 0, fmt.Errorf("open history: %w", err)
		}
	}
	return first, nil
}

// ids are the runs there are, in order.
func (h *history) ids() ([]ci.RunID, error) {
	entries, err := os.ReadDir(filepath.Join(h.dir, "runs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	var ids []ci.RunID
	for _, e := range entries {
		if n, err := strconv.ParseInt(e.Name(), 10, 64); err == nil && n > 0 {
			ids = append(ids, ci.RunID(n))
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func runKey(id ci.RunID) string { return fmt.Sprintf("runs/%d/run.json", id) }

// save keeps the run as it is now.
func (h *history) save(ctx context.Context, dir string, r *ci.Run) error {
	data, err := json.Marshal(past{dir, r, r.Plan})
	if err != nil {
		return fmt.Errorf("save run %d: %w", r.ID, err)
	}
	if _, err := h.blobs.Put(ctx, runKey(r.ID), bytes.NewReader(data)); err != nil {
		return fmt.Errorf("save run %d: %w", r.ID, err)
	}
	return nil
}

// load reads one run; id 0 is the last one of the repository at dir, or of any if dir is empty.
func (h *history) load(id ci.RunID, dir string) (*past, error) {
	if id != 0 {
		return h.read(id)
	}
	ids, err := h.ids()
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Backward(ids) {
		if p, err := h.read(id); err == nil && (dir == "" || p.Dir == dir) {
			return p, nil
		}
	}
	return nil, withHint(errors.New("no run of this repository is in the history"), "penstock run makes one")
}

func (h *history) read(id ci.RunID) (*past, error) {
	f, err := h.blobs.Open(runKey(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("no run %d in the history", id), "penstock runs lists them")
	}
	if err != nil {
		return nil, fmt.Errorf("read run %d: %w", id, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read run %d: %w", id, err)
	}
	p := &past{Run: &ci.Run{}, Plan: &ci.Plan{}}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("read run %d: %w", id, err)
	}
	p.Run.Plan = p.Plan
	return p, nil
}

// list reads the runs, the newest first, at most limit.
func (h *history) list(limit int) ([]*past, error) {
	ids, err := h.ids()
	if err != nil {
		return nil, err
	}
	var out []*past
	for _, id := range slices.Backward(ids) {
		if len(out) == limit {
			break
		}
		if p, err := h.read(id); err == nil { // a run that is being written, or that was killed before its first save
			out = append(out, p)
		}
	}
	return out, nil
}

// parseRunID reads a run number as a user types it.
func parseRunID(s string) (ci.RunID, error) {
	n, err := strconv.ParseInt(strings.TrimPrefix(s, "#"), 10, 64)
	if err != nil || n < 1 {
		return 0, withHint(fmt.Errorf("'%s' is not a run number", s), "penstock runs lists them")
	}
	return ci.RunID(n), nil
}
