package ci

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/workflow"
)

func TestFaultyPlans(t *testing.T) {
	_, mistakes := workflow.ParseWorkflow("bad.yml", []byte("on: push\njobs: {}\nstepz: 1\n"))
	for _, c := range []struct {
		err  error
		line bool
	}{{mistakes, true}, {errors.New("it calls what is not there"), false}} {
		text, err := json.Marshal(NewFaultyPlan("bad.yml", c.err, Plan{Event: "push"}))
		if err != nil {
			t.Fatal(err)
		}
		plan := &Plan{}
		if err := json.Unmarshal(text, plan); err != nil { // as it is stored
			t.Fatal(err)
		}
		run, events := New(1, plan, time.Unix(1e9, 0))
		if len(events) != 2 || run.Status != Completed || run.Conclusion != Failure || run.Name != "bad.yml" || len(run.Jobs) != 0 {
			t.Errorf("%v: %d events, %+v", c.err, len(events), run)
		}
		if len(run.Annotations) == 0 || run.Annotations[0].Title != "Invalid workflow file" || (run.Annotations[0].Line > 0) != c.line {
			t.Errorf("%v: annotations %+v", c.err, run.Annotations)
		}
		if _, err := run.Decide(Rerun{}, time.Unix(1e9, 0)); !errors.Is(err, ErrRefused) {
			t.Errorf("%v: another attempt: %v", c.err, err)
		}
	}
}
