package ci

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const oneJob = "on: push\njobs: { a: { runs-on: x, steps: [{ run: a }] } }\n"

func mustPlan(t testing.TB, root string, calls ...File) *Plan {
	t.Helper()
	p, err := NewPlan(File{Path: "ci.yml", Text: root}, calls, Plan{Event: "push", GitHub: expr.FromStrings(map[string]string{"ref": "refs/heads/main"})})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// running is a machine whose job a runs.
func running(t testing.TB) *machine {
	m := newMachine(t, mustPlan(t, oneJob))
	for _, err := range []error{m.lease("a"), m.tell(Started{"a", m.leaseOf("a")})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestCalls(t *testing.T) {
	w, err := workflow.ParseWorkflow("ci.yml", []byte(`on: push
jobs:
  a: { uses: ./.github/workflows/x.yml }
  b: { uses: ./.github/workflows/x.yml }
  c: { uses: acme/shared/.github/workflows/y.yml@v1 }
`))
	if err != nil {
		t.Fatal(err)
	}
	remote := "acme/shared/.github/workflows/y.yml@v1"
	for _, tt := range []struct {
		caller string
		want   []string
	}{
		{"", []string{"./.github/workflows/x.yml", remote}},
		{"./.github/workflows/z.yml", []string{"./.github/workflows/x.yml", remote}},
		{"other/repo/.github/workflows/z.yml@0123abc", []string{"other/repo/.github/workflows/x.yml@0123abc", remote}},
		{"nonsense", []string{"./.github/workflows/x.yml", remote}},
	} {
		if got := Calls(tt.caller, w); !slices.Equal(got, tt.want) {
			t.Errorf("Calls(%q): got %q, want %q", tt.caller, got, tt.want)
		}
	}
}

// callChain is files of which each calls the next.
func callChain(n int) []File {
	var files []File
	for i := 1; i <= n; i++ {
		text := "on: workflow_call\njobs: { a: { runs-on: x, steps: [{ run: a }] } }\n"
		if i < n {
			text = fmt.Sprintf("on: workflow_call\njobs: { a: { uses: ./.github/workflows/%d.yml } }\n", i+1)
		}
		files = append(files, File{Uses: fmt.Sprintf("./.github/workflows/%d.yml", i), Path: fmt.Sprintf(".github/workflows/%d.yml", i), Text: text})
	}
	return files
}

func TestTenLevelsOfCalls(t *testing.T) {
	root := File{Path: "ci.yml", Text: "on: push\njobs: { a: { uses: ./.github/workflows/1.yml } }\n"}
	plan, err := NewPlan(root, callChain(9), Plan{})
	if err != nil {
		t.Fatal(err)
	}
	run, _ := New(1, plan, epoch)
	if got, want := run.Ready(), []JobID{"a:a:a:a:a:a:a:a:a:a"}; !slices.Equal(got, want) {
		t.Errorf("ready: got %v, want %v", got, want)
	}
	_, err = NewPlan(root, callChain(10), Plan{})
	want := ".github/workflows/9.yml (Line: 2, Col: 20): Nested reusable workflow depth exceeded 9."
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTooManyCalledFiles(t *testing.T) {
	text := "on: push\njobs:\n"
	var calls []File
	for i := range maxCalled + 1 {
		uses := fmt.Sprintf("./.github/workflows/%d.yml", i)
		text += fmt.Sprintf("  j%d: { uses: %s }\n", i, uses)
		calls = append(calls, File{Uses: uses, Path: uses[2:], Text: "on: workflow_call\njobs: { a: { runs-on: x, steps: [{ run: a }] } }\n"})
	}
	_, err := NewPlan(File{Path: "ci.yml", Text: text}, calls, Plan{})
	if err == nil || !strings.Contains(err.Error(), "at most 50 others") {
		t.Errorf("got %v", err)
	}
}

func TestBadCalledFileIsReportedWhole(t *testing.T) {
	_, err := NewPlan(File{Path: "ci.yml", Text: "on: push\njobs: { a: { uses: ./.github/workflows/x.yml } }\n"},
		[]File{{Uses: "./.github/workflows/x.yml", Path: ".github/workflows/x.yml", Text: "on: workflow_call\njobs: { a: { runs-on: x, needs: b, steps: [] , odd: 1 } }\n"}}, Plan{})
	var faults workflow.Errors
	if !errors.As(err, &faults) || len(faults) == 0 || faults[0].Path != ".github/workflows/x.yml" {
		t.Errorf("got %v", err)
	}
}

// TestStoredPlanRuns: a plan is stored as its sources and parsed again.
func TestStoredPlanRuns(t *testing.T) {
	stored := mustJSON(t, mustPlan(t, oneJob))
	loaded := &Plan{}
	unmarshal(t, stored, loaded)
	if got := mustJSON(t, loaded); got != stored {
		t.Errorf("got %s, want %s", got, stored)
	}
	run, _ := New(1, loaded, epoch)
	if loaded.Root().Path != "ci.yml" || loaded.Job("", "A") == nil || loaded.Job("", "b") != nil || loaded.Job("x", "a") != nil || len(run.Ready()) != 1 {
		t.Error("the loaded plan does not run")
	}
	for _, bad := range []string{`{"workflow":"ci.yml","files":[]}`, `{"files":[{"path":"ci.yml","text":"jobs: 1"}]}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &Plan{}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// TestTaskIsACopy: what a runner does to its task reaches neither the run nor the plan, and a task that has travelled
// finds its job again.
func TestTaskIsACopy(t *testing.T) {
	m := running(t)
	before := mustJSON(t, m.run)
	task, err := m.run.Task("a")
	if err != nil {
		t.Fatal(err)
	}
	task.Labels[0] = "changed"
	task.Secrets = map[string]string{"A": "secret"}
	if got := mustJSON(t, m.run); got != before {
		t.Errorf("the run has changed: %s", got)
	}
	travelled := &Task{}
	unmarshal(t, mustJSON(t, task), travelled)
	if _, j, err := travelled.Workflow(); err != nil || j.ID != "a" {
		t.Errorf("got %v, %v", j, err)
	}
	travelled.Def = "b"
	if _, _, err := travelled.Workflow(); err == nil {
		t.Error("no error for a job that does not exist")
	}
	for id, want := range map[JobID]error{"b": ErrUnknownJob, "a": nil} {
		if _, err := m.run.Task(id); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", id, err, want)
		}
	}
}

func TestOutputLimits(t *testing.T) {
	m := running(t)
	large := map[string]string{"o": strings.Repeat("x", maxJobOutputs)}
	if err := m.tell(Finished{"a", m.leaseOf("a"), Result{Conclusion: Success, Outputs: large}}); err != nil {
		t.Fatal(err)
	}
	j := m.run.Job("a")
	if j.Outputs != nil || len(j.Annotations) != 1 || j.Conclusion != Success {
		t.Errorf("got outputs %v, annotations %v", j.Outputs, j.Annotations)
	}
	d := &decision{run: &Run{OutputBytes: maxRunOutputs}}
	if out, note := d.outputs(j, map[string]string{"o": "x"}); out != nil || !strings.Contains(note, "50 MB") {
		t.Errorf("got %v, %q", out, note)
	}
}

// TestReportLimits: a runner that reports without end fills nothing.
func TestReportLimits(t *testing.T) {
	m := running(t)
	report := Report{}
	for i := range 2 * maxSteps {
		report.Steps = append(report.Steps, Step{Number: 2*maxSteps - i, Status: InProgress})
		report.Annotations = append(report.Annotations, Annotation{Level: "notice"})
	}
	if err := m.tell(Reported{"a", m.leaseOf("a"), report}); err != nil {
		t.Fatal(err)
	}
	j := m.run.Job("a")
	sorted := slices.IsSortedFunc(j.Steps, func(a, b Step) int { return a.Number - b.Number })
	if len(j.Steps) != maxSteps || len(j.Annotations) != maxJobAnnotations || !sorted {
		t.Errorf("got %d steps (sorted: %v), %d annotations", len(j.Steps), sorted, len(j.Annotations))
	}
}

func TestFinishWithOddConclusion(t *testing.T) {
	m := running(t)
	if err := m.tell(Finished{"a", m.leaseOf("a"), Result{Conclusion: "great"}}); err != nil {
		t.Fatal(err)
	}
	if j := m.run.Job("a"); j.Conclusion != Failure || !strings.Contains(j.Reason, "great") {
		t.Errorf("got %s: %s", j.Conclusion, j.Reason)
	}
}

// TestRepeatedInputsChangeNothing: a runner may say again what it has said.
func TestRepeatedInputsChangeNothing(t *testing.T) {
	m := running(t)
	for _, in := range []Input{Started{"a", m.leaseOf("a")}, Renewed{"a", m.leaseOf("a"), m.now.Add(time.Hour)}, Tick{m.now}, Reported{"a", m.leaseOf("a"), Report{}}} {
		if events, err := m.run.Decide(in, m.now); err != nil || len(events) > 0 {
			t.Errorf("%#v: got %v, %v", in, events, err)
		}
	}
}

func TestRenewBeforeStart(t *testing.T) {
	m := newMachine(t, mustPlan(t, oneJob))
	if err := m.lease("a"); err != nil {
		t.Fatal(err)
	}
	until := m.now.Add(time.Hour)
	if err := m.tell(Renewed{"a", m.leaseOf("a"), until}); err != nil {
		t.Fatal(err)
	}
	if got := m.run.Job("a").Deadline; !got.Equal(until) {
		t.Errorf("got %s, want %s", got, until)
	}
	if all := m.run.Deadlines(); len(all) > 0 {
		t.Errorf("the end of a lease is told by Lost, the run has deadlines at %s", all)
	}
}

func TestRerunLimits(t *testing.T) {
	m := running(t)
	if err := m.tell(Finished{"a", m.leaseOf("a"), Result{Conclusion: Failure}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.run.Decide(Rerun{}, m.run.Created.Add(maxRerunAge+time.Second)); !errors.Is(err, ErrRefused) {
		t.Errorf("after 30 days: got %v", err)
	}
	m.run.Attempt, m.replay.Attempt = maxAttempts, maxAttempts
	if err := m.tell(Rerun{}); !errors.Is(err, ErrRefused) {
		t.Errorf("attempt 51: got %v", err)
	}
}

// TestTooManyJobs: calls of matrices of calls end at a limit, and each that is beyond it fails with a word.
func TestTooManyJobs(t *testing.T) {
	var list []string
	for i := range maxCells {
		list = append(list, fmt.Sprint(i))
	}
	cells := strings.Join(list, ", ")
	one := "./.github/workflows/one.yml"
	root := fmt.Sprintf("on: push\njobs: { a: { strategy: { matrix: { v: [%s] } }, uses: %s } }\n", cells, one)
	called := fmt.Sprintf("on: workflow_call\njobs: { b: { strategy: { matrix: { w: [%s] } }, runs-on: x, steps: [{ run: b }] } }\n", cells)
	run, _ := New(1, mustPlan(t, root, File{Uses: one, Path: one[2:], Text: called}), epoch)
	if len(run.Jobs) > maxJobs || len(run.Jobs) < maxJobs/2 {
		t.Errorf("%d jobs", len(run.Jobs))
	}
	if !slices.ContainsFunc(run.Jobs, func(j *Job) bool { return j.Reason == tooManyJobs && j.Conclusion == Failure }) {
		t.Error("no job says why it failed")
	}
	if !strings.Contains(tooManyJobs, fmt.Sprint(maxJobs)) {
		t.Errorf("%q does not name the limit %d", tooManyJobs, maxJobs)
	}
}

// TestLongChainFails: one failure skips thousands of jobs in one decision.
func TestLongChainFails(t *testing.T) {
	text := strings.Builder{}
	text.WriteString("on: push\njobs:\n  j0: { runs-on: x, steps: [{ run: a }] }\n")
	const n = 3000
	for i := 1; i < n; i++ {
		fmt.Fprintf(&text, "  j%d: { needs: j%d, runs-on: x, steps: [{ run: a }] }\n", i, i-1)
	}
	m := newMachine(t, mustPlan(t, text.String()))
	if err := m.lease("j0"); err != nil {
		t.Fatal(err)
	}
	events, err := m.run.Decide(Finished{"j0", m.leaseOf("j0"), Result{Conclusion: Failure}}, m.now)
	if err != nil || len(events) != n+1 {
		t.Fatalf("%d events, %v", len(events), err)
	}
}

// TestLoadedRunDecidesAlike: a run that comes from the store, without its index, gives the same events.
func TestLoadedRunDecidesAlike(t *testing.T) {
	m := running(t)
	loaded := &Run{Plan: m.plan}
	unmarshal(t, mustJSON(t, m.run), loaded)
	in := Finished{"a", m.leaseOf("a"), Result{Conclusion: Success}}
	got, err := loaded.Decide(in, m.now)
	want, err2 := m.run.Decide(in, m.now)
	if err != nil || err2 != nil || mustJSON(t, got) != mustJSON(t, want) {
		t.Errorf("got %v %v, want %v %v", got, err, want, err2)
	}
	for _, e := range got {
		loaded.Apply(e)
	}
	if loaded.Status != Completed || loaded.Job("a").Conclusion != Success || loaded.Job("b") != nil {
		t.Errorf("got %s", mustJSON(t, loaded))
	}
}

func TestIndex(t *testing.T) {
	var x index
	var jobs []*Job
	add := func(at int, ids ...JobID) {
		var more []*Job
		for _, id := range ids {
			more = append(more, &Job{ID: id})
		}
		jobs = slices.Insert(jobs, at, more...)
		x.insert(jobs, at, more)
	}
	x.build(nil)
	for i := range 600 {
		add((i*7919)%(len(jobs)+1), JobID(fmt.Sprint(i)), JobID(fmt.Sprintf("%d/0", i)))
		for _, id := range []int{0, i / 2, i} {
			want := slices.IndexFunc(jobs, func(j *Job) bool { return j.ID == JobID(fmt.Sprint(id)) })
			if got := x.find(jobs, JobID(fmt.Sprint(id))); got != want {
				t.Fatalf("after %d: %d is found at %d, it is at %d", i, id, got, want)
			}
		}
	}
	if got := x.find(jobs, "nobody"); got != -1 {
		t.Errorf("got %d", got)
	}
}
