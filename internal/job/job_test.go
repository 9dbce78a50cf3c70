package job

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
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
	x := &Executor{Pick: func([]string) (Place, error) { return Place{Provider: machines}, nil }}
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

// ACTIONS_STEP_DEBUG, as a secret or a variable, shows debug lines and commands.
func TestDebug(t *testing.T) {
	const text = `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - run: echo "::debug::a%0Ab"; echo "::group::c"; echo "debug=[$RUNNER_DEBUG]"
      - if: runner.debug == '1'
        run: echo "the context says so"
`
	for _, test := range []struct {
		name    string
		secrets map[string]string
		vars    expr.Value
		want    bool
	}{
		{"neither", nil, expr.Object(), false},
		{"a secret", map[string]string{"ACTIONS_STEP_DEBUG": "true"}, expr.Object(), true},
		{"a variable", nil, expr.Object(expr.Pair{Key: "ACTIONS_STEP_DEBUG", Value: expr.String("true")}), true},
		{"something else", map[string]string{"ACTIONS_STEP_DEBUG": "no"}, expr.Object(), false},
	} {
		rec := &recorder{}
		res := play(t.Context(), t, text, rec, func(_ *Executor, task *ci.Task) { task.Secrets, task.Vars = test.secrets, test.vars })
		log := rec.log.String()
		for _, line := range []string{"\n##[debug]a\n##[debug]b\n", "\n::group::c\n##[group]c\n", "\ndebug=[1]\n", "\nthe context says so\n"} {
			if got := strings.Contains(log, line); got != test.want {
				t.Errorf("%s: %q is there: %t, want %t\n%s", test.name, line, got, test.want, log)
			}
		}
		if res.Conclusion != ci.Success {
			t.Errorf("%s: got %s", test.name, res.Conclusion)
		}
	}
}

// Wherever a secret comes up, nobody is told: log, step names, annotations, summaries, outputs, reasons.
func TestSecretsAreNotTold(t *testing.T) {
	const secret = "s3cr3t-välue"
	rec := &recorder{}
	res := play(t.Context(), t, `
on: push
jobs:
  a:
    runs-on: x
    env: {TOKEN: '${{ secrets.TOKEN }}'}
    environment: {name: e, url: 'https://x/${{ env.TOKEN }}'}
    outputs:
      plain: ${{ steps.s.outputs.plain }}
      bare: ${{ steps.s.outputs.bare }}
      within: ${{ steps.s.outputs.within }}
      json: ${{ toJSON(secrets) }}
    steps:
      - name: step ${{ env.TOKEN }}
        id: s
        run: |
          echo "$TOKEN" "$TOKEN"
          printf '%s' "$TOKEN" | base64
          printf 'xx%syy' "$TOKEN" | base64
          python3 -c 'import json,os,urllib.parse; t = os.environ["TOKEN"]; print(json.dumps({"a": t})); print(urllib.parse.quote(t))'
          echo "::error file=$TOKEN,title=$TOKEN::$TOKEN"
          echo "::group::$TOKEN"
          echo "::set-output name=plain::plain"
          echo "bare=$TOKEN" >> "$GITHUB_OUTPUT"
          echo "within=a${TOKEN}b" >> "$GITHUB_OUTPUT"
          echo "# $TOKEN" >> "$GITHUB_STEP_SUMMARY"
          echo "no format $TOKEN" >> "$GITHUB_ENV"
      - if: always() && fromJSON(env.TOKEN)
        run: echo
      - if: always()
        working-directory: nowhere/${{ env.TOKEN }}
        run: echo
      - if: always()
        uses: ./nowhere
        with: {token: '${{ env.TOKEN }}'}
`, rec, func(_ *Executor, task *ci.Task) { task.Secrets = map[string]string{"TOKEN": secret} })
	told := fmt.Sprintf("%s\n%+v\n%+v\n%+v", rec.log.String(), rec.steps, rec.annotations, res)
	for _, shape := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), "s3cr3t-v", "dsOkbHV"} {
		if at := strings.Index(told, shape); at >= 0 {
			t.Errorf("%q is told: ...%s", shape, told[max(at-60, 0):min(at+60, len(told))])
		}
	}
	if want := map[string]string{"plain": "plain"}; !maps.Equal(res.Outputs, want) {
		t.Errorf("outputs: got %q, want %q", res.Outputs, want)
	}
	if want := "step ***"; rec.steps[1].Name != want {
		t.Errorf("got the step %q, want %q", rec.steps[1].Name, want)
	}
	if want := "https://x/***"; res.EnvironmentURL != want {
		t.Errorf("got the address %q, want %q", res.EnvironmentURL, want)
	}
}

// The steps context: outputs, their filter, names without case, the newest value of a name.
func TestStepsContext(t *testing.T) {
	rec := &recorder{}
	res := play(t.Context(), t, `
on: push
jobs:
  a:
    runs-on: x
    outputs: {all: '${{ join(steps.*.outputs.out) }}'}
    steps:
      - id: One
        run: printf 'out=1\nOUT=2\nother=x\n' >> "$GITHUB_OUTPUT"
      - run: echo out=nobody >> "$GITHUB_OUTPUT"
      - id: two
        run: echo "out=3" >> "$GITHUB_OUTPUT"; echo "::set-output name=out::4"
      - id: failed
        continue-on-error: true
        run: echo out=5 >> "$GITHUB_OUTPUT"; exit 1
      - run: |
          echo 'all ${{ join(steps.*.outputs.out) }}, one ${{ steps.ONE.outputs.Out }}, by index ${{ steps['one']['outputs']['out'] }}'
          echo 'conclusions ${{ join(steps.*.conclusion) }}, outcomes ${{ join(steps.*.outcome) }}'
          echo 'this step has none yet [${{ steps.last.outcome }}], none such [${{ steps.nowhere.outputs.x }}]'
        id: last
`, rec, nil)
	log := rec.log.String()
	for _, want := range []string{"\nall 2,3,5, one 2, by index 2\n", "\nconclusions success,success,success, outcomes success,success,failure\n", "\nthis step has none yet [], none such []\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if want := map[string]string{"all": "2,3,5"}; res.Conclusion != ci.Success || !maps.Equal(res.Outputs, want) {
		t.Errorf("got %s, outputs %q, want %q", res.Conclusion, res.Outputs, want)
	}
}
