package job

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// stage is a job in the middle of a step, in a machine of its own.
type stage struct {
	*execution
	run *stepRun
	rec *recorder
}

func newStage(t testing.TB, env map[string]string) *stage {
	sb, err := sandbox.NewNone(t.TempDir()).Open(t.Context(), sandbox.Spec{Name: "stage", Repo: "repo"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close(context.Background()) })
	rec := &recorder{}
	e := &execution{x: &Executor{}, t: &ci.Task{}, rep: rec, mask: newMasker(), counts: map[countKey]int{}, background: map[string]*backgroundStep{},
		actions: map[string]*action{}, status: succeeded, ctx: t.Context(), interrupt: t.Context(), env: map[string]string{}, sb: sb, info: sb.Info()}
	e.log = &jobLog{ctx: e.ctx, rep: rec, mask: e.mask}
	e.root = &scope{inputs: expr.Null(), uses: map[*workflow.Step]*use{}}
	r := e.newRun(&plannedStep{def: &workflow.Step{}, scope: e.root, phase: "main", number: e.beginStep(ci.Step{Name: "stage"}), use: &use{state: map[string]string{}}})
	r.env = env
	r.reader = &lineReader{log: e.log, look: func(line string) func() []byte { return e.outputLine(r, line) }, watching: e.watching}
	return &stage{e, r, rec}
}

// say lets the step print lines, and gives what is logged for them.
func (s *stage) say(lines ...string) string {
	s.rec.log.Reset()
	for _, line := range lines {
		s.run.reader.Write([]byte(line + "\n"))
	}
	return s.rec.log.String()
}

// place writes a file of the workspace.
func (s *stage) place(t testing.TB, name, text string) {
	file := filepath.Join(s.info.Workspace, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// What commands log, and whether they fail the step. The words are the runner's (actions/runner
// src/Runner.Worker/ActionCommandManager.cs, src/Runner.Common/Constants.cs).
func TestCommandsLog(t *testing.T) {
	const unsecure = "ACTIONS_ALLOW_UNSECURE_COMMANDS"
	for _, test := range []struct {
		name    string
		env     map[string]string
		debug   bool
		lines   []string
		want    string
		refused bool
	}{
		{name: "plain text", lines: []string{"a", " b ::c::"}, want: "a\n b ::c::\n"},
		{name: "groups", lines: []string{"::group::a%0Ab", "x", "::endgroup::", "##[group]c", "##[endgroup]"},
			want: "##[group]a\nb\nx\n##[endgroup]\n##[group]c\n##[endgroup]\n"},
		{name: "unknown commands are text", lines: []string{"::nothing::x", "##[nothing]x", "##[section]x"}, want: "::nothing::x\n##[nothing]x\n##[section]x\n"},
		{name: "debug is hidden", lines: []string{"::debug::x", "##[debug]y", "z"}, want: "z\n"},
		{name: "debug is shown when asked for", debug: true, lines: []string{"::debug::x%0Ay"}, want: "##[debug]x\n##[debug]y\n"},
		{name: "annotations", lines: []string{"::error file=a,line=1::bad%0Aworse", "##[warning]hm", "::notice title=T::well"},
			want: "##[error]bad\nworse\n##[warning]hm\n##[notice]well\n"},
		{name: "echo", lines: []string{"::group::a", "::echo::on", "::group::b", "::error::c", "::add-mask::d3d3d3", "::echo::Off   ", "::group::e"},
			want: "##[group]a\n::group::b\n##[group]b\n##[error]c\n::add-mask::***\n::echo::Off   \n##[group]e\n"},
		{name: "echo is on when debugging", debug: true, lines: []string{"::endgroup::"}, want: "::endgroup::\n##[endgroup]\n"},
		{name: "echo of something else", lines: []string{"::echo::invalid"}, refused: true,
			want: "##[error]Unable to process command '::echo::invalid' successfully.\n##[error]Invalid echo command value. Possible values can be: 'on', 'off'. Current value is: 'invalid'.\n"},
		{name: "echo of nothing", lines: []string{"::echo::"}, refused: true,
			want: "##[error]Unable to process command '::echo::' successfully.\n##[error]Value cannot be null. (Parameter 'value')\n"},
		{name: "stop and go", lines: []string{"::stop-commands::stopToken", "::error::x", "##[group]x", "::other::", "::STOPtoken::", "::group::y"},
			want: "::stop-commands::***\n::error::x\n##[group]x\n::other::\n::STOPtoken::\n##[group]y\n"},
		{name: "the old form stops and goes too", lines: []string{"##[stop-commands]stopToken", "##[error]x", "##[stopToken]", "##[group]y"},
			want: "##[stop-commands]***\n##[error]x\n##[***]\n##[group]y\n"},
		{name: "a stop within a stop", lines: []string{"::stop-commands::abc", "::stop-commands::xyz", "::xyz::", "::abc::", "::group::y"},
			want: "::stop-commands::abc\n::stop-commands::xyz\n::xyz::\n::abc::\n##[group]y\n"},
		{name: "the token is no command before and after", lines: []string{"::abc::", "::stop-commands::abc", "::abc::", "::abc::"},
			want: "::abc::\n::stop-commands::abc\n::abc::\n::abc::\n"},
		{name: "tokens that are commands", lines: []string{"::stop-commands::set-env"}, refused: true, want: "##[error]" + sayStopToken + "\n"},
		{name: "a token that is the command itself", lines: []string{"::stop-commands::stop-commands"}, refused: true, want: "##[error]" + sayStopToken + "\n"},
		{name: "no token", lines: []string{"::stop-commands::", "::group::x"}, refused: true, want: "##[error]" + sayStopToken + "\n##[group]x\n"},
		{name: "pause-logging", lines: []string{"::stop-commands::Pause-Logging"}, refused: true, want: "##[error]" + sayStopToken + "\n"},
		{name: "bad tokens on demand", env: map[string]string{"ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS": "1"}, lines: []string{"::stop-commands::set-env", "::group::x"},
			want: "::stop-commands::***\n::group::x\n"},
		{name: "set-env is refused", lines: []string{"::set-env name=A::b"}, refused: true,
			want: "##[error]Unable to process command '::set-env name=A::b' successfully.\n##[error]The `set-env` command is disabled. Please upgrade to using Environment Files or opt into unsecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/\n"},
		{name: "only true allows it", env: map[string]string{unsecure: "1"}, lines: []string{"::add-path::/x"}, refused: true,
			want: "##[error]Unable to process command '::add-path::/x' successfully.\n##[error]The `add-path` command is disabled. Please upgrade to using Environment Files or opt into unsecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/\n"},
		{name: "set-env without a name", env: map[string]string{unsecure: "True "}, lines: []string{"::set-env::b"}, refused: true,
			want: "##[error]Unable to process command '::set-env::b' successfully.\n##[error]Required field 'name' is missing in ##[set-env] command.\n"},
		{name: "set-env of NODE_OPTIONS", env: map[string]string{unsecure: "true"}, lines: []string{"::set-env name=node_options::b"},
			want: "##[error]Can't update NODE_OPTIONS environment variable using ::set-env:: command.\n"},
		{name: "add-path of nothing", env: map[string]string{unsecure: "true"}, lines: []string{"::add-path::"}, refused: true,
			want: "##[error]Unable to process command '::add-path::' successfully.\n##[error]Value cannot be null. (Parameter 'path')\n"},
		{name: "add-mask of nothing", lines: []string{"::add-mask::", "::add-mask::  "},
			want: strings.Repeat("##[warning]Can't add secret mask for empty string in ##[add-mask] command.\n", 2)},
		{name: "add-mask holds from then on", lines: []string{"hunter22", "::add-mask::hunter22", "x hunter22"}, want: "hunter22\nx ***\n"},
		{name: "add-mask of lines", lines: []string{"::add-mask::abc%0Ddef%0Aghi%0D%0Ajkl", "::add-mask:: %0D  %0A   %0D%0A    %0D", "abc def ghi jkl", " ", "    "},
			want: "##[warning]Can't add secret mask for empty string in ##[add-mask] command.\n*** *** *** ***\n \n    \n"},
		{name: "a command does not show the secret it failed with", lines: []string{"::add-mask::hunter22", "::echo::hunter22"}, refused: true,
			want: "##[error]Unable to process command '::echo::***' successfully.\n##[error]Invalid echo command value. Possible values can be: 'on', 'off'. Current value is: '***'.\n"},
		{name: "add-matcher of nothing", lines: []string{"::add-matcher::"}, want: "##[warning]File path must be specified.\n"},
		{name: "add-matcher of no file", lines: []string{"::add-matcher::/nowhere/m.json"}, refused: true,
			want: "##[error]Unable to process command '::add-matcher::/nowhere/m.json' successfully.\n##[error]Could not find file '/nowhere/m.json'.\n"},
		{name: "remove-matcher of nothing", lines: []string{"::remove-matcher::"}, want: "##[warning]Either an owner name or a file path must be specified in ##[remove-matcher] command.\n"},
		{name: "remove-matcher of both", lines: []string{"::remove-matcher owner=a::b"}, want: "##[warning]Either specify an owner name or a file path in ##[remove-matcher] command. Both values cannot be set.\n"},
		{name: "remove-matcher of an unknown owner", lines: []string{"::remove-matcher owner=a::"}, want: ""},
	} {
		s := newStage(t, test.env)
		s.debug = test.debug
		s.run.echo = test.debug
		if got := s.say(test.lines...); got != test.want || s.run.refused != test.refused {
			t.Errorf("%s: got %q, refused %t, want %q, %t", test.name, got, s.run.refused, test.want, test.refused)
		}
	}
}

// What commands set.
func TestCommandsSet(t *testing.T) {
	s := newStage(t, map[string]string{"ACTIONS_ALLOW_UNSECURE_COMMANDS": "true"})
	s.say("::set-env name=A::1%0A2", "::set-env name=A::3", "::set-env name=a::4", "::set-env name=E::",
		"::add-path::/one", "::add-path::/two", "::add-path::/one",
		"::set-output name=Out::1", "::set-output name=out::2", "##[set-output name=old;]%3B%5D",
		"::save-state name=kept::yes")
	if want := map[string]string{"A": "3", "a": "4", "E": ""}; !maps.Equal(s.env, want) {
		t.Errorf("environment: got %q, want %q", s.env, want)
	}
	if want := []string{"/two", "/one"}; !slices.Equal(s.path, want) {
		t.Errorf("path: got %q, want %q", s.path, want)
	}
	if want := map[string]string{"out": "2", "old": ";]"}; !maps.Equal(s.run.outputs, want) {
		t.Errorf("outputs: got %q, want %q", s.run.outputs, want)
	}
	if want := map[string]string{"kept": "yes"}; !maps.Equal(s.run.use.state, want) {
		t.Errorf("state: got %q, want %q", s.run.use.state, want)
	}
	if n := len(s.annotations); n != 4 || !strings.HasPrefix(s.annotations[0].Message, "The `set-output` command is deprecated") {
		t.Errorf("got %d warnings of deprecated commands, want 4: %v", n, s.annotations)
	}
	if s.run.refused {
		t.Error("the step is refused")
	}
	s.say("::set-output::x", "::save-state::x")
	if !s.run.refused {
		t.Error("names may be missing")
	}
}

// The places of annotations (actions/runner src/Test/L0/Worker/ActionCommandManagerL0.cs IssueCommandInvalidColumns).
func TestAnnotationPlaces(t *testing.T) {
	s := newStage(t, nil)
	for _, test := range []struct {
		line string
		want ci.Annotation
	}{
		{"::warning line=1,endLine=2,col=1,endColumn=2::m", ci.Annotation{Line: 1, EndLine: 2}},
		{"::warning col=1,endColumn=2::m", ci.Annotation{}},
		{"::warning endLine=1::m", ci.Annotation{Line: 1, EndLine: 1}},
		{"::warning line=1,endColumn=2::m", ci.Annotation{Line: 1, Column: 2, EndColumn: 2}},
		{"::warning line=,endLine=3::m", ci.Annotation{Line: 3, EndLine: 3}},
		{"::warning line=4,endLine=3::m", ci.Annotation{}},
		{"::warning line=1,endLine=1,col=3,endColumn=2::m", ci.Annotation{Line: 1, EndLine: 1}},
		{"::warning line=1,endLine=1,col=1,endColumn=2::m", ci.Annotation{Line: 1, EndLine: 1, Column: 1, EndColumn: 2}},
		{"::warning line=1,col=1,file=test.txt::m", ci.Annotation{File: "test.txt", Line: 1, Column: 1}},
		{"::warning line=x,col=1::m", ci.Annotation{}},
		{"::warning LINE=1,Title=a%3Ab%2Cc::m", ci.Annotation{Line: 1, Title: "a:b,c"}},
		{"::warning file=" + s.info.Workspace + "/src/a.go::m", ci.Annotation{File: "src/a.go"}},
		{"::warning file=/elsewhere/a.go::m", ci.Annotation{File: "/elsewhere/a.go"}},
		{"##[warning file=a.go;line=7;]m", ci.Annotation{File: "a.go", Line: 7}},
	} {
		s.annotations, s.counts = nil, map[countKey]int{}
		s.say(test.line)
		test.want.Level, test.want.Message, test.want.Step = "warning", "m", 1
		if want := []ci.Annotation{test.want}; !slices.Equal(s.annotations, want) {
			t.Errorf("%s: got %+v, want %+v", test.line, s.annotations, want)
		}
	}
}

// At most ten annotations of a level are kept of a step, each of bounded length, all masked.
func TestAnnotationLimits(t *testing.T) {
	s := newStage(t, nil)
	s.mask.add("hunter22")
	for range 12 {
		s.say("::error title=of hunter22,file=src/hunter22.go::hunter22 "+strings.Repeat("é", 5000), "::warning::w")
	}
	levels := map[string]int{}
	for _, a := range s.annotations {
		levels[a.Level]++
		if a.Level == "error" && (len(a.Message) > maxAnnotation || !strings.HasPrefix(a.Message, "*** é") || a.Title != "of ***" || a.File != "src/***.go") {
			t.Errorf("got %q with %d bytes, title %q, file %q", a.Message[:20], len(a.Message), a.Title, a.File)
		}
	}
	if want := map[string]int{"error": 10, "warning": 10}; !maps.Equal(levels, want) {
		t.Errorf("got %v, want %v", levels, want)
	}
}

// Summaries are bounded each and in number, and masked (actions/runner
// src/Test/L0/Worker/CreateStepSummaryCommandL0.cs).
func TestSummaries(t *testing.T) {
	s := newStage(t, nil)
	s.mask.add("hunter22")
	take := func(text string) string {
		number := s.beginStep(ci.Step{Name: "summary"})
		r := *s.run
		planned := *r.plannedStep
		planned.number = number
		r.plannedStep = &planned
		if err := s.takeFile(&r, "STEP_SUMMARY", []byte(text)); err != nil {
			t.Fatal(err)
		}
		return s.steps[number-1].Summary
	}
	if got, want := take("\uFEFF# A\nhunter22 \xff\n"), "# A\n*** \uFFFD\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := take(strings.Repeat("x", maxSummary+1)); got != "" || !strings.HasPrefix(s.annotations[0].Message, "$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got 1024k.") {
		t.Errorf("got %d bytes, %v", len(got), s.annotations)
	}
	if got := take(strings.Repeat("x", maxSummary)); len(got) != maxSummary {
		t.Errorf("got %d bytes, want %d", len(got), maxSummary)
	}
	kept := 0
	for range 30 {
		if take("one more") != "" {
			kept++
		}
	}
	if want := maxSummaries - 2; kept != want {
		t.Errorf("%d more were kept, want %d", kept, want)
	}
}
