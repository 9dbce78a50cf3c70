package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/penstock-ci/penstock/internal/ci"
)

// jsonView writes one JSON object a line: the events as they are recorded, the log lines, the end.
type jsonView struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func newJSONView(out io.Writer) *jsonView {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return &jsonView{enc: enc}
}

func (v *jsonView) write(o any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_ = v.enc.Encode(o) // a reader that has gone does not stop the run
}

func (v *jsonView) begin(r *ci.Run) {
	v.write(map[string]any{"type": "run", "run": r.ID, "attempt": r.Attempt, "name": r.Name, "workflow": r.Plan.Workflow, "event": r.Plan.Event})
}

func (v *jsonView) event(r *ci.Run, e ci.Event) {
	v.write(struct {
		Run ci.RunID `json:"run"`
		ci.Event
	}{r.ID, e})
}

func (v *jsonView) log(r *ci.Run, j *ci.Job, lines []byte) {
	for line := range bytes.Lines(lines) {
		v.write(struct {
			Type string   `json:"type"`
			Run  ci.RunID `json:"run"`
			Job  ci.JobID `json:"job"`
			Text string   `json:"text"`
		}{"log", r.ID, j.ID, strings.TrimRight(string(line), "\r\n")})
	}
}

func (v *jsonView) end(runs []*ci.Run) {
	v.write(map[string]any{"type": "end", "conclusion": conclusionOf(runs)})
}
