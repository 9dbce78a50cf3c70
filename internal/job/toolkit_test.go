package job

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/npmtest"
)

// An action that uses all of npm's @actions/core is understood, in each of its major versions.
func TestToolkit(t *testing.T) {
	dir := npmtest.Install(t, "testdata/toolkit")
	for _, version := range []string{"v1", "v2", "v3"} {
		t.Run(version, func(t *testing.T) {
			rec := &recorder{}
			res := play(t.Context(), t, toolkitWorkflow, rec, func(x *Executor, task *ci.Task) {
				x.Env = map[string]string{"TOOLKIT": dir, "CORE": "core-" + version}
			})
			log := rec.log.String()
			if res.Conclusion != ci.Success {
				t.Errorf("the job's conclusion: got %s\n%s", res.Conclusion, log)
			}
			for _, want := range []string{
				"main: input=some text, flag=true, lines=a|b",
				"##[group]a group\nwithin\n##[endgroup]\n",
				"the secret is ***\n",
				"after: text=two\nlines & 100%, object={\"a\":1}, exported=of\nlines, tool=from the path\n",
				"post: one line, {\"kept\":[1,2]}",
				"##[error]bad\nvery bad, 100%\n",
				"failed.outcome=failure",
				"##[error]it failed: ***\n",
			} {
				if !strings.Contains(log, want) {
					t.Errorf("the log lacks %q:\n%s", want, log)
				}
			}
			for _, never := range []string{"hunter22", "hidden from the log"} {
				if strings.Contains(log, never) {
					t.Errorf("the log holds %q:\n%s", never, log)
				}
			}
			for _, want := range []ci.Annotation{
				{Level: "error", Message: "bad\nvery bad, 100%", Title: "A: title, here", File: "src/a.go", Line: 3, EndLine: 3, Column: 4, EndColumn: 5, Step: 3},
				{Level: "warning", Message: "hm", Step: 3},
				{Level: "notice", Message: "well", File: "src/b.go", Step: 3},
			} {
				if !slices.Contains(rec.annotations, want) {
					t.Errorf("no annotation is %+v: %+v", want, rec.annotations)
				}
			}
			summary := rec.steps[2].Summary
			for _, want := range []string{"<h1>Results</h1>", "<td>x</td>", "hidden: ***"} {
				if !strings.Contains(summary, want) {
					t.Errorf("the summary lacks %q: %s", want, summary)
				}
			}
		})
	}
}

const toolkitWorkflow = `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - run: mkdir act; cp "$TOOLKIT"/*.mjs "$TOOLKIT"/action.yml act; ln -s "$TOOLKIT/node_modules" node_modules
      - id: it
        uses: ./act
        with: {some-input: some text, flag: true, lines: "a\nb\n"}
      - run: |
          echo "after: text=$TEXT, object=$OBJECT, exported=$EXPORTED, tool=$(tool-of-the-action)"
        env:
          TEXT: ${{ steps.it.outputs.text }}
          OBJECT: ${{ steps.it.outputs.object }}
      - id: failed
        uses: ./act
        with: {some-input: fail}
        continue-on-error: true
      - run: echo "failed.outcome=${{ steps.failed.outcome }}"
`
