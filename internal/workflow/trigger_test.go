package workflow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/expr"
)

func parseOn(t testing.TB, on string) *Workflow {
	t.Helper()
	w, err := ParseWorkflow("ci.yml", []byte("on: "+on+"\njobs: {a: {runs-on: x}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestMatches(t *testing.T) {
	main, dev := Event{Name: "push", Ref: "refs/heads/main"}, Event{Name: "push", Ref: "refs/heads/dev/x"}
	tag := Event{Name: "push", Ref: "refs/tags/v1.2"}
	changed := func(ev Event, paths ...string) Event {
		ev.Paths, ev.PathsKnown = paths, true
		return ev
	}
	pull := func(action, base string) Event {
		return Event{Name: "pull_request", Action: action, Ref: "refs/pull/1/merge", BaseRef: base, HeadRef: "topic"}
	}
	for _, test := range []struct {
		on    string
		event Event
		want  string // the reason, empty if it runs
	}{
		{"push", main, ""},
		{"push", tag, ""},
		{"[pull_request]", main, "it does not run on 'push'"},
		{"{push: {branches: [main]}}", main, ""},
		{"{push: {branches: [main]}}", dev, "branch 'dev/x' does not match main"},
		{"{push: {branches: ['**', '!dev/**']}}", dev, "branch 'dev/x' does not match **, !dev/**"},
		{"{push: {branches-ignore: ['dev/**']}}", dev, "branch 'dev/x' is ignored by dev/**"},
		{"{push: {branches-ignore: ['dev/**']}}", main, ""},
		{"{push: {branches: []}}", main, ""},
		{"{push: {branches: [main]}}", tag, "'v1.2' is a tag and it runs on branches only"},
		{"{push: {tags: ['v*']}}", main, "'main' is a branch and it runs on tags only"},
		{"{push: {tags: ['v*']}}", tag, ""},
		{"{push: {tags-ignore: ['v*']}}", tag, "tag 'v1.2' is ignored by v*"},
		{"{push: {tags-ignore: ['v*']}}", main, "'main' is a branch and it runs on tags only"},
		{"{push: {branches: [main], tags: ['v*']}}", main, ""},
		{"{push: {branches: [main], tags: ['v*']}}", tag, ""},
		{"{push: {paths: ['**.go']}}", changed(main, "a/b.go", "x.txt"), ""},
		{"{push: {paths: ['**.go']}}", changed(main, "x.txt"), "no changed file matches **.go"},
		{"{push: {paths: ['**.go', '!gen/**']}}", changed(main, "gen/x.go"), "no changed file matches **.go, !gen/**"},
		{"{push: {paths: ['**.go']}}", changed(main), "no changed file matches **.go"},
		{"{push: {paths: ['**.go']}}", main, ""},
		{"{push: {paths: ['**.go']}}", changed(tag, "x.txt"), ""},
		{"{push: {paths: ['**.go']}}", changed(main, slices.Repeat([]string{"x.txt"}, 301)...), ""},
		{"{push: {paths: ['**.go']}}", changed(main, slices.Repeat([]string{"x.txt"}, 300)...), "no changed file matches **.go"},
		{"{push: {paths-ignore: [docs/**]}}", changed(main, "docs/a", "docs/b"), "all changed files are ignored by docs/**"},
		{"{push: {paths-ignore: [docs/**]}}", changed(main, "docs/a", "b"), ""},
		{"{push: {paths-ignore: [docs/**]}}", changed(main), ""},
		{"{push: {branches: [main], paths: [a]}}", changed(main, "b"), "no changed file matches a"},
		{"{push: {branches: [main], paths: [a]}}", changed(dev, "a"), "branch 'dev/x' does not match main"},
		{"push", Event{Name: "push", Ref: "refs/heads/main", CommitMessage: "fix [skip ci]"}, "the commit message asks to skip it"},
		{"pull_request", Event{Name: "pull_request", Action: "opened", CommitMessage: "fix [skip ci]"}, "the commit message asks to skip it"},
		{"workflow_dispatch", Event{Name: "workflow_dispatch", CommitMessage: "fix [skip ci]"}, ""},
		{"pull_request", pull("opened", "main"), ""},
		{"pull_request", pull("synchronize", "main"), ""},
		{"pull_request", pull("closed", "main"), "type 'closed' is not one of opened, synchronize, reopened"},
		{"{pull_request: {types: [closed]}}", pull("closed", "main"), ""},
		{"{pull_request: {types: closed}}", pull("opened", "main"), "type 'opened' is not one of closed"},
		{"{pull_request: {branches: [main]}}", pull("opened", "dev"), "base branch 'dev' does not match main"},
		{"{pull_request: {branches: [main]}}", pull("opened", "refs/heads/main"), ""},
		{"{pull_request: {paths: [a]}}", changed(pull("opened", "main"), "b"), "no changed file matches a"},
		{"{pull_request_target: }", Event{Name: "pull_request_target", Action: "labeled"}, "type 'labeled' is not one of opened, synchronize, reopened"},
		{"{merge_group: {branches: [main]}}", Event{Name: "merge_group", Action: "checks_requested", BaseRef: "refs/heads/dev"}, "base branch 'dev' does not match main"},
		{"issues", Event{Name: "issues", Action: "pinned"}, ""},
		{"{issues: {types: [opened]}}", Event{Name: "issues", Action: "pinned"}, "type 'pinned' is not one of opened"},
		{"{repository_dispatch: {types: [go]}}", Event{Name: "repository_dispatch", Action: "stop"}, "type 'stop' is not one of go"},
		{"{workflow_run: {workflows: [CI]}}", Event{Name: "workflow_run", Action: "completed", Workflow: "CI", Branch: "x"}, ""},
		{"{workflow_run: {workflows: [CI]}}", Event{Name: "workflow_run", Workflow: "Other"}, "workflow 'Other' is not one of CI"},
		{"{workflow_run: {workflows: [CI], branches: [main]}}", Event{Name: "workflow_run", Workflow: "CI", Branch: "dev"}, "branch 'dev' does not match main"},
		{"{schedule: [{cron: '0 5 * * *'}]}", Event{Name: "schedule", Schedule: "0 5 * * *"}, ""},
		{"{schedule: [{cron: '0 5 * * *'}]}", Event{Name: "schedule", Schedule: "0 6 * * *"}, "it has no schedule '0 6 * * *'"},
		{"{schedule: [{cron: '0 5 * * *'}]}", Event{Name: "schedule"}, ""},
		{"{image_version: {names: [a*], versions: 1.*}}", Event{Name: "image_version", Payload: imageVersion("abc", "1.2")}, ""},
		{"{image_version: {names: [a*], versions: 1.*}}", Event{Name: "image_version", Payload: imageVersion("abc", "2.0")}, "version '2.0' does not match 1.*"},
		{"{image_version: {names: [a*]}}", Event{Name: "image_version", Payload: imageVersion("b", "2.0")}, "image 'b' does not match a*"},
	} {
		ok, reason := parseOn(t, test.on).Matches(test.event)
		if reason != test.want || ok != (test.want == "") {
			t.Errorf("%s with %s %s %s: got %t %q, want %q", test.on, test.event.Name, test.event.Ref, test.event.Action, ok, reason, test.want)
		}
	}
}

func imageVersion(name, version string) expr.Value {
	return expr.Object(expr.Pair{Key: "image_version", Value: expr.FromStrings(map[string]string{"name": name, "version": version})})
}

func TestShouldSkip(t *testing.T) {
	for message, want := range map[string]bool{
		"fix":                            false,
		"fix [skip ci]":                  true,
		"[CI Skip] fix":                  true,
		"fix\n\nlong\n[no ci]\n":         true,
		"[skip actions]":                 true,
		"[actions skip]":                 true,
		"skip ci":                        false,
		"[skipci]":                       false,
		"fix\n\nskip-checks: true":       true,
		"fix\n\nskip-checks:true\n":      true,
		"fix\r\n\r\nSkip-Checks: true":   true,
		"fix\n\n\nskip-checks: true":     true,
		"fix\n\nA: b\nskip-checks: true": true,
		"fix\nskip-checks: true":         false,
		"skip-checks: true":              false,
		"fix\n\nskip-checks: false":      false,
		"fix\n\nskip-checks: true\n\nx":  false,
	} {
		if got := ShouldSkip(message); got != want {
			t.Errorf("%q: got %t", message, got)
		}
	}
}

func TestCron(t *testing.T) {
	for line, gap := range map[string]int{
		"* * * * *": 1, "0 0 * * *": 60, "*/5 * * * *": 5, "0,30 1-5 1 JAN-mar sun,MON": 30, "10-50/20 * 31 12 6": 20, "59 23 * * 0": 60,
		"0-59/15 * * * *": 15, "50/5 * * * *": 5, "0,58 * * * *": 2, "*/40 * * * *": 20, "1,2,3 */2 * * *": 1, "0  0  *  *  *": 60,
	} {
		if !isCron(line) {
			t.Errorf("%q is refused", line)
		} else if got := minuteGap(line); got != gap {
			t.Errorf("%q: got %d minutes between runs, want %d", line, got, gap)
		}
	}
	for _, line := range []string{
		"", "*", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 7",
		"*/0 * * * *", "*/x * * * *", "5-1 * * * *", "1- * * * *", "-1 * * * *", "1,,2 * * * *", ", * * * *", "1/2/3 * * * *", "1-2-3 * * * *",
		"a * * * *", "* * * jan-x *", "@daily", " * * * * *", "* * * * * ", "+1 * * * *", "1.5 * * * *", "99999 * * * *", "*-5 * * * *", "/5 * * * *", "5/ * * * *",
	} {
		if isCron(line) {
			t.Errorf("%q is taken", line)
		}
	}
}

func TestDispatchInputs(t *testing.T) {
	w := parseOn(t, `
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [low, high], default: low}
      where: {required: true}
      dry: {type: boolean}
      loud: {type: boolean, default: true}
      count: {type: number, default: 2}
      ratio: {type: number}
      target: {type: environment}
      note: {default: hello}`)
	for _, test := range []struct {
		given          map[string]string
		typed, strings string
		err            string
	}{
		{map[string]string{"where": "here"},
			`{"level":"low","where":"here","dry":false,"loud":true,"count":2,"ratio":0,"target":"","note":"hello"}`,
			`{"level":"low","where":"here","dry":"false","loud":"true","count":"2","ratio":"","target":"","note":"hello"}`, ""},
		{map[string]string{"WHERE": "x", "level": "high", "dry": "TRUE", "loud": "false", "count": "1e1", "ratio": "0.5", "target": "prod", "note": ""},
			`{"level":"high","where":"x","dry":true,"loud":false,"count":10,"ratio":0.5,"target":"prod","note":""}`,
			`{"level":"high","where":"x","dry":"true","loud":"false","count":"1e1","ratio":"0.5","target":"prod","note":""}`, ""},
		{map[string]string{"level": "middle", "dry": "yes", "count": "many", "zone": "a"}, "", "", `Provided value 'middle' for input 'level' not in the list of allowed values: low, high
Required input 'where' not provided
Provided value 'yes' for input 'dry' is not a boolean: it must be true or false
Provided value 'many' for input 'count' is not a number
Unexpected inputs provided: ["zone"]`},
		{map[string]string{"where": ""}, "", "", "Required input 'where' not provided"},
	} {
		typed, asStrings, err := w.DispatchInputs(test.given)
		if fmt.Sprint(err) != test.err && !(err == nil && test.err == "") {
			t.Errorf("%v: got error %v\nwant %s", test.given, err, test.err)
			continue
		}
		if err != nil {
			continue
		}
		if got := jsonOf(t, typed); got != test.typed {
			t.Errorf("%v: got %s\nwant %s", test.given, got, test.typed)
		}
		if got := jsonOf(t, asStrings); got != test.strings {
			t.Errorf("%v: got %s\nwant %s", test.given, got, test.strings)
		}
	}
	if _, _, err := parseOn(t, "push").DispatchInputs(nil); err == nil {
		t.Error("a workflow without the trigger was dispatched")
	}
	typed, asStrings, err := parseOn(t, "workflow_dispatch").DispatchInputs(nil)
	if err != nil || jsonOf(t, typed)+jsonOf(t, asStrings) != "{}{}" {
		t.Errorf("no inputs: got %v, %v, %v", typed, asStrings, err)
	}
}

func jsonOf(t testing.TB, v expr.Value) string {
	t.Helper()
	data, err := v.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCallInputs(t *testing.T) {
	w := parseOn(t, `
  workflow_call:
    inputs:
      name: {type: string, required: true}
      count: {type: number}
      dry: {type: boolean, default: true}
      ref: {type: string, default: '${{ github.ref }}'}
      size: {type: number, default: '${{ vars.SIZE }}'}`)
	env := expr.Env{Contexts: map[string]expr.Value{
		"github": expr.FromStrings(map[string]string{"ref": "refs/heads/main"}),
		"vars":   expr.Object(expr.Pair{Key: "SIZE", Value: expr.Number(4)}),
	}}
	given := expr.Object(expr.Pair{Key: "NAME", Value: expr.Number(1.5)}, expr.Pair{Key: "dry", Value: expr.Bool(false)})
	v, err := CallInputsIn(w.On.Find("workflow_call"), given, env)
	if want := `{"name":"1.5","count":0,"dry":false,"ref":"refs/heads/main","size":4}`; err != nil || jsonOf(t, v) != want {
		t.Errorf("got %s, %v\nwant %s", jsonOf(t, v), err, want)
	}
	bad := expr.Object(expr.Pair{Key: "count", Value: expr.String("x")}, expr.Pair{Key: "dry", Value: expr.String("true")}, expr.Pair{Key: "more", Value: expr.Null()})
	_, err = CallInputs(w.On.Find("workflow_call"), bad)
	want := `Input name is required, but not provided while calling.
Input count: Unexpected value 'x'
Input dry: Unexpected value 'true'
Input size: Unexpected value ''
Invalid input, more is not defined in the referenced workflow.`
	if fmt.Sprint(err) != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	v, err = CallInputs(parseOn(t, "workflow_call").On.Find("workflow_call"), expr.Null())
	if err != nil || jsonOf(t, v) != "{}" {
		t.Errorf("no inputs: got %v, %v", v, err)
	}
}

func TestFindJobWithoutCase(t *testing.T) {
	w := parseOn(t, "push")
	if w.Job("A") == nil || w.Job("b") != nil {
		t.Error("jobs are not found by their ID without case")
	}
	if w.On.Find("pull_request") != nil || !strings.HasPrefix(w.On.Find("push").Event, "push") {
		t.Error("triggers are not found by their event")
	}
}
