package job

import (
	"maps"
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

// Actions that set tools up, with npm's @actions/tool-cache, exec, io and glob in two versions each; their hash of files is
// that of hashFiles().
func TestToolkitTools(t *testing.T) {
	dir := npmtest.Install(t, "testdata/toolkit")
	for _, versions := range []map[string]string{
		{"TOOL_CACHE": "tool-cache-v2", "GLOB": "glob-v4", "EXEC": "exec-v1", "IO": "io-v1"},
		{"TOOL_CACHE": "tool-cache-v4", "GLOB": "glob-v7", "EXEC": "exec-v3", "IO": "io-v3"},
	} {
		t.Run(versions["TOOL_CACHE"], func(t *testing.T) {
			rec := &recorder{}
			res := play(t.Context(), t, toolsWorkflow, rec, func(x *Executor, _ *ci.Task) {
				x.Env = maps.Clone(versions)
				x.Env["TOOLKIT"] = dir
			})
			log := rec.log.String()
			if res.Conclusion != ci.Success {
				t.Errorf("the job's conclusion: got %s\n%s", res.Conclusion, log)
			}
			for _, want := range []string{
				"kept: true, below the tool cache: true, versions: 1.2.3\n", "exec: 0 hello world\n", "fails: 3\n", "refused: true\n", "io: one sh\n",
				"glob: a.txt,deep/c.txt,two words.txt\n",
			} {
				if !strings.Contains(log, want) {
					t.Errorf("the log lacks %q:\n%s", want, log)
				}
			}
			_, theirs, _ := strings.Cut(log, "\nhash: ")
			_, ours, _ := strings.Cut(log, "\nours: ")
			if len(theirs) < 64 || len(ours) < 64 || theirs[:64] != ours[:64] {
				t.Errorf("the hash of files: theirs %.64s, ours %.64s", theirs, ours)
			}
		})
	}
}

const toolsWorkflow = `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - run: |
          mkdir act; cp "$TOOLKIT"/tools/* act; ln -s "$TOOLKIT/node_modules" ../node_modules
          printf one > a.txt; printf two > 'two words.txt'; printf no > ignored.txt
      - uses: ./act
      - run: |
          echo "ours: ${{ hashFiles('**/*.txt') }}"
`
