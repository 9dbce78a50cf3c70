package engine

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
)

// A run that was kept elsewhere goes on in another store, under the ID it had.
func TestImport(t *testing.T) {
	first := inMemory(t, Options{FirstRun: 41})
	if id := first.trigger(t, buildThenTest); id != 41 {
		t.Errorf("the first run is %d, want 41", id)
	}
	id := first.trigger(t, buildThenTest)
	_, l := first.lease(t)
	first.finish(t, l, ci.Failure)
	_, l = first.lease(t)
	first.finish(t, l, ci.Failure)
	kept := first.run(t, id)

	second := inMemory(t, Options{FirstRun: id})
	if err := second.Import(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(second.run(t, id))
	want, _ := json.Marshal(kept)
	if string(got) != string(want) {
		t.Errorf("imported %s, want %s", got, want)
	}
	if err := second.Update(t.Context(), id, ci.Rerun{By: "mona", Failed: true}); err != nil {
		t.Fatal(err)
	}
	task, l := second.lease(t)
	if task.Job != "build" || task.Run != id || task.Attempt != 2 || task.GitHub.Property("run_attempt").Text() != "2" {
		t.Errorf("leased %s of attempt %d of run %d (run_attempt %s), want build of attempt 2", task.Job, task.Attempt, task.Run,
			task.GitHub.Property("run_attempt").Text())
	}
	second.start(t, l)
	second.finish(t, l, ci.Success)
	if err := second.Import(t.Context(), kept); err == nil || !strings.Contains(err.Error(), "the next run is 43") {
		t.Errorf("importing a run under an ID that is not next = %v", err)
	}
}
