package job

import (
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

// How steps end, as outcome or outcome/conclusion, and the job with them. A step is "ok" or "fail", tolerated with a
// question mark, then its condition. Most rows are the runner's own (actions/runner src/Test/L0/Worker/StepsRunnerL0.cs).
func TestResults(t *testing.T) {
	for _, test := range []struct{ steps, want, job string }{
		{"ok success(); ok success()", "success success", "success"},
		{"ok success(); ok success() || failure()", "success success", "success"},
		{"ok success(); ok always()", "success success", "success"},
		{"fail? success(); ok success()", "failure/success success", "success"},
		{"fail? success(); ok success() || failure()", "failure/success success", "success"},
		{"fail? success(); fail? success()", "failure/success failure/success", "success"},
		{"fail? success(); fail? always()", "failure/success failure/success", "success"},
		{"fail? success(); fail success()", "failure/success failure", "failure"},
		{"fail success(); ok success()", "failure skipped", "failure"},
		{"fail success(); ok success() || failure()", "failure success", "failure"},
		{"fail success(); ok always()", "failure success", "failure"},
		{"ok success(); fail always()", "success failure", "failure"},
		{"ok success(); fail? always()", "success failure/success", "success"},
		{"ok success(); fail success()", "success failure", "failure"},
		{"ok fromJson('not json')", "failure", "failure"},
		{"ok? fromJson('not json'); ok", "failure skipped", "failure"}, // a condition is not tolerated
		{"ok; fail? steps.s0.outcome == 'success'; ok steps.s0.outcome == 'success' && steps.s1.outcome == 'failure'", "success failure/success success", "success"},
		{"ok false; fail? steps.s0.conclusion == 'skipped'; ok steps.s0.outcome == 'skipped' && steps.s1.conclusion == 'success'", "skipped failure/success success", "success"},
		{"fail; ok steps.s0.outcome == 'failure'; ok failure() && steps.s1.outcome == 'skipped'", "failure skipped success", "failure"},
		{"fail; ok ${{ failure() }}; ok ${{ job.status == 'failure' && always() }}", "failure success success", "failure"},
		{"ok cancelled(); ok ${{ !cancelled() }}; ok ${{ !success() }}", "skipped success skipped", "success"},
		{"ok 0; ok null; ok ''; ok 'false'; ok ${{ false }}", "skipped skipped skipped success skipped", "success"},
	} {
		var text strings.Builder
		text.WriteString("on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n")
		for i, step := range strings.Split(test.steps, "; ") {
			kind, condition, has := strings.Cut(step, " ")
			result, tolerated := strings.CutSuffix(kind, "?")
			fmt.Fprintf(&text, "      - id: s%d\n        shell: sh -e {0}\n        run: %q\n        continue-on-error: %t\n", i, map[string]string{"ok": ":", "fail": "exit 1"}[result], tolerated)
			if has {
				fmt.Fprintf(&text, "        if: %q\n", condition)
			}
		}
		rec := &recorder{}
		res := play(t.Context(), t, text.String(), rec, nil)
		var got []string
		for _, s := range rec.steps[1 : len(rec.steps)-1] { // without set-up and completion
			one := string(s.Outcome)
			if s.Conclusion != s.Outcome {
				one += "/" + string(s.Conclusion)
			}
			got = append(got, one)
		}
		if strings.Join(got, " ") != test.want || string(res.Conclusion) != test.job {
			t.Errorf("%s: got %s, the job %s, want %s, the job %s\n%s", test.steps, strings.Join(got, " "), res.Conclusion, test.want, test.job, rec.log.String())
		}
	}
}

// What the list shows for steps. Most rows are the runner's own (actions/runner src/Test/L0/Worker/ActionRunnerL0.cs).
func TestStepNames(t *testing.T) {
	rec := &recorder{}
	play(t.Context(), t, `
on: push
jobs:
  a:
    runs-on: x
    env: {LATER: no}
    steps:
      - run: echo hello world
      - name: node ${{ matrix.node }}
        run: ":"
      - run: ${{ matrix.script }}
      - run: |2

          echo first
          echo second
      - {uses: ./, if: false}
      - {uses: ./.github/actions/my-action, if: false}
      - {name: "", run: "echo empty name"}
      - run: echo LATER=yes >> "$GITHUB_ENV"
      - {name: "later: ${{ env.LATER }}", run: ":"}
      - {name: "broken ${{ fromJSON('{') }}", run: ":"}
      - {name: "two\nlines", run: ":"}
      - {id: b, background: true, run: ":"}
      - wait: [b]
      - wait-all:
      - cancel: b
      - parallel: [{run: ":"}]
`, rec, func(_ *Executor, task *ci.Task) {
		task.Matrix = expr.Object(expr.Pair{Key: "node", Value: expr.Number(8)}, expr.Pair{Key: "script", Value: expr.String("echo 8\necho 9")})
	})
	var got []string
	for _, s := range rec.steps {
		got = append(got, s.Name)
	}
	want := []string{"Set up job", "Run echo hello world", "node 8", "Run echo 8", "Run echo first", "Run ./", "Run ./.github/actions/my-action", "Run echo empty name",
		`Run echo LATER=yes >> "$GITHUB_ENV"`, "later: yes", "broken ${{ fromJSON('{') }}", "two", "Run :", "Wait", "Wait for all background steps", "Cancel b", "Parallel", "Run :", "Complete job"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), rec.log.String())
	}
}
