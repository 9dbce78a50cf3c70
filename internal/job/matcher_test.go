package job

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// problemMatcher writes a matcher file of one owner.
func problemMatcher(owner, more string, patterns ...string) string {
	return fmt.Sprintf(`{"problemMatcher":[{"owner":%q,%s"pattern":[%s]}]}`, owner, more, strings.Join(patterns, ","))
}

// Most rows are the runner's own (actions/runner src/Test/L0/Worker/IssueMatcherL0.cs).
func TestParseMatchers(t *testing.T) {
	const message = `{"regexp":"^error: (.+)$","message":1}`
	for _, test := range []struct{ name, text, err string }{
		{"loop of a single pattern", problemMatcher("m", "", `{"regexp":"^error: (.+)$","message":1,"loop":true}`), "Only the last pattern in a multiline matcher may set 'loop'"},
		{"loop of the last pattern", problemMatcher("m", "", `{"regexp":"^file: (.+)$","file":1}`, `{"regexp":"^error: (.+)$","message":1,"loop":true}`), ""},
		{"loop in the middle", problemMatcher("m", "", `{"regexp":"^(error)$","severity":1}`, `{"regexp":"^file: (.+)$","file":1,"loop":true}`, message), "Only the last pattern in a multiline matcher may set 'loop'"},
		{"loop without a message", problemMatcher("m", "", `{"regexp":"^file: (.+)$","message":1}`, `{"regexp":"^file: (.+)$","file":1,"loop":true}`), "The loop pattern must set 'message'"},
		{"message in the first pattern", problemMatcher("m", "", `{"regexp":"^file: (.+)$","message":1}`, `{"regexp":"^error: (.+)$","file":1}`), ""},
		{"no message", problemMatcher("m", "", `{"regexp":"^error: (.+)$","file":1}`), "At least one pattern must set 'message'"},
		{"the same owner in another case", `{"problemMatcher":[{"owner":"my","pattern":[` + message + `]},{"owner":"MY","pattern":[` + message + `]}]}`, "Duplicate owner name 'MY'"},
		{"two owners", `{"problemMatcher":[{"owner":"my","pattern":[` + message + `]},{"owner":"other","pattern":[` + message + `]}]}`, ""},
		{"no owner", problemMatcher("", "", message), "Owner must not be empty"},
		{"no patterns", problemMatcher("m", ""), "Matcher 'm' does not contain any patterns"},
		{"a property twice", problemMatcher("m", "", `{"regexp":"^severity: (.+)$","file":1}`, `{"regexp":"^file: (.+)$","file":1}`, `{"regexp":"^(.+)$","message":1}`), "The property 'file' is set twice"},
		{"a group that is not there", problemMatcher("m", "", `{"regexp":"^(.+)$","message":2}`), "The property 'message' is set to 2 which is out of range"},
		{"a negative group", problemMatcher("m", "", `{"regexp":"^(.+)$","message":-1}`), "The property 'message' is set to -1 which is out of range"},
		{"the whole match", problemMatcher("m", "", `{"regexp":"^(.+)$","message":0}`), ""},
		{"severities", problemMatcher("m", `"severity":"NOTICE",`, message), ""},
		{"an unknown severity", problemMatcher("m", `"severity":"info",`, message), "Matcher 'm' contains unexpected default severity 'info'"},
		{"a bad expression", problemMatcher("m", "", `{"regexp":"(","message":0}`), "matcher 'm': error parsing regexp: missing closing ) in `(`"},
		{"no matchers", `{"problemMatcher":[]}`, ""},
		{"something else", `{}`, ""},
		{"a byte order mark", "\uFEFF" + problemMatcher("m", "", message), ""},
		{"comments and commas", "// of a tool\n" + `{"problemMatcher":[{"owner":"m", /* {"owner": */ "pattern":[{"regexp":"^//,] \"(.+)$","message":1,},],},]} // end`, ""},
		{"an open comment", `{} /* open`, "invalid character '/' after top-level value"},
		{"no JSON", "owner: m", "invalid character 'o' looking for beginning of value"},
		{"a huge file", problemMatcher("m", "", message) + strings.Repeat(" ", maxMatcherFile), "the file has more than 1048576 bytes"},
	} {
		_, err := parseMatchers([]byte(test.text))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.err {
			t.Errorf("%s: got %q, want %q", test.name, got, test.err)
		}
	}
}

// What matchers find in lines: the log, and the annotations as "level file:line:column message". Most rows are the
// runner's own (IssueMatcherL0.cs and OutputManagerL0.cs beside it).
func TestMatchers(t *testing.T) {
	const (
		anyLine = `{"regexp":"^(.+)$","message":1}`
		all     = `{"regexp":"^file:(.+) line:(.+) column:(.+) severity:(.+) message:(.+) fromPath:(.+)$","file":1,"line":2,"column":3,"severity":4,"message":5,"fromPath":6}`
		noPath  = `{"regexp":"^file:(.+) line:(.+) column:(.+) severity:(.+) message:(.+)$","file":1,"line":2,"column":3,"severity":4,"message":5}`
	)
	for _, test := range []struct {
		name     string
		matchers []string
		lines    string
		want     string // the log; nothing where it is the lines
		notes    string
	}{
		{"default severity", []string{problemMatcher("m", `"severity":"warning",`, `{"regexp":"^(ERROR)?(?: )?(.+): (.+)$","severity":1,"code":2,"message":3}`)},
			"ABC: not-working\nERROR ABC: not-working\n", "##[warning]ABC: not-working\n##[error]ERROR ABC: not-working\n", "warning :0:0 not-working\nerror :0:0 not-working\n"},
		{"default severity of several patterns", []string{problemMatcher("m", `"severity":"warning",`, `{"regexp":"^(ERROR)?(?: )?(.+):$","severity":1,"code":2}`, anyLine)},
			"ABC:\nnot-working\nERROR ABC:\nnot-working\n", "ABC:\n##[warning]not-working\nERROR ABC:\n##[error]not-working\n", "warning :0:0 not-working\nerror :0:0 not-working\n"},
		{"notice", []string{problemMatcher("m", `"severity":"notice",`, anyLine)}, "just-a-notice\n", "##[notice]just-a-notice\n", "notice :0:0 just-a-notice\n"},
		{"loop keeps what came before", []string{problemMatcher("m", "", `{"regexp":"^file:(.+)$","file":1}`, `{"regexp":"^code(.+)$","code":1}`, `{"regexp":"^message:(.+)$","message":1,"loop":true}`)},
			"file:one\ncode1\nmessage:1\nmessage:1-2\nabc\nmessage:no\nfile:two\ncode2\nmessage:2\n",
			"file:one\ncode1\n##[error]message:1\n##[error]message:1-2\nabc\nmessage:no\nfile:two\ncode2\n##[error]message:2\n",
			"error one:0:0 1\nerror one:0:0 1-2\nerror two:0:0 2\n"},
		{"a line breaks a loop", []string{problemMatcher("m", "", `{"regexp":"^(.+)$","file":1}`, `{"regexp":"^(.+)$","code":1}`, `{"regexp":"^message:(.+)$","message":1,"loop":true}`)},
			"my-file\nreal-bad\nmessage:not-working\nmessage:problem\nother-file\nmessage:not-good\nmessage:broken\n",
			"my-file\nreal-bad\n##[error]message:not-working\n##[error]message:problem\nother-file\nmessage:not-good\n##[error]message:broken\n",
			"error my-file:0:0 not-working\nerror my-file:0:0 problem\nerror other-file:0:0 broken\n"},
		{"no loop", []string{problemMatcher("m", "", `{"regexp":"^file:(.+)$","file":1}`, `{"regexp":"^message:(.+)$","message":1}`)},
			"file:my-file\nmessage:a\nmessage:b\n", "file:my-file\n##[error]message:a\nmessage:b\n", "error my-file:0:0 a\n"},
		{"a match clears what came before", []string{problemMatcher("m", "", `{"regexp":"^(.+)$","file":1}`, `{"regexp":"^(.+)$","code":1}`, anyLine)},
			"f1\nc1\nm1\nf2\nc2\nm2\n", "f1\nc1\n##[error]m1\nf2\nc2\n##[error]m2\n", "error f1:0:0 m1\nerror f2:0:0 m2\n"},
		{"all properties", []string{problemMatcher("m", "", all)}, "file:f.cs line:12 column:34 severity:Warning message:m fromPath:sub/p.proj\n",
			"##[warning]file:f.cs line:12 column:34 severity:Warning message:m fromPath:sub/p.proj\n", "warning sub/f.cs:12:34 m\n"},
		{"default fromPath", []string{problemMatcher("m", `"fromPath":"sub/p.proj",`, noPath)}, "file:../f.cs line:12 column:34 severity:error message:m\n",
			"##[error]file:../f.cs line:12 column:34 severity:error message:m\n", "error f.cs:12:34 m\n"},
		{"fromPath of a pattern", []string{problemMatcher("m", `"fromPath":"other/p.proj",`, all)}, "file:f.cs line:1 column:2 severity:error message:m fromPath:sub/p.proj\n",
			"##[error]file:f.cs line:1 column:2 severity:error message:m fromPath:sub/p.proj\n", "error sub/f.cs:1:2 m\n"},
		{"numbers that are none", []string{problemMatcher("m", "", `{"regexp":"\\((.+),(.+)\\): (.+)","line":1,"column":2,"message":3}`)},
			"(12,34): a\n(12,thirty-four): b\n(twelve,34): c\n(-1,+2): d\n( 1,2 ): e\n", "##[error](12,34): a\n##[error](12,thirty-four): b\n##[error](twelve,34): c\n##[error](-1,+2): d\n##[error]( 1,2 ): e\n",
			"error :12:34 a\nerror :12:0 b\nerror :0:34 c\nerror :0:0 d\nerror :0:0 e\n"},
		{"severities", []string{problemMatcher("two", "", `{"regexp":"ERROR! (.+)","message":1}`), problemMatcher("one", "", `{"regexp":"(.*): (.+)","severity":1,"message":2}`)},
			"ERRor: real bad\nWARNing: not great\ninfo: hey\n: not working\nERROR! uh oh\n",
			"##[error]ERRor: real bad\n##[warning]WARNing: not great\ninfo: hey\n##[error]: not working\n##[error]ERROR! uh oh\n",
			"error :0:0 real bad\nwarning :0:0 not great\nerror :0:0 not working\nerror :0:0 uh oh\n"},
		{"colours", []string{problemMatcher("m", "", `{"regexp":"^the error: (.+)$","message":1}`)}, "the error: \x1b[31mred, \x1b[1;31mbright red, \x1b[mreset\n",
			"##[error]the error: red, bright red, reset\n", "error :0:0 red, bright red, reset\n"},
		{"a match of one begins the others anew", []string{
			problemMatcher("two", "", `{"regexp":"Matches both line 1: (.+)","code":1}`, `{"regexp":"(.+)","message":1}`),
			problemMatcher("one", "", `{"regexp":"Matches both line 1: .+"}`, `{"regexp":"Matches 1 only line 2: (.+)","message":1}`)},
			"Matches both line 1: hello\nMatches 1 only line 2: it broke\nregular 1\nregular 2\nMatches both line 1: hello again\noh no, another error\n",
			"Matches both line 1: hello\n##[error]Matches 1 only line 2: it broke\nregular 1\nregular 2\nMatches both line 1: hello again\n##[error]oh no, another error\n",
			"error :0:0 it broke\nerror :0:0 oh no, another error\n"},
		{"the newest of an owner", []string{problemMatcher("m", "", `{"regexp":"ERROR: (.+)","message":1}`), problemMatcher("M", "", `{"regexp":"ERROR: (.+) END","message":1}`)},
			"ERROR: a END\nERROR: b\n", "##[error]ERROR: a END\nERROR: b\n", "error :0:0 a\n"},
		{"the newest first", []string{problemMatcher("old", "", `{"regexp":"ERROR: (.+)","message":1}`), problemMatcher("new", "", `{"regexp":"ERROR: (.+) END","message":1}`)},
			"ERROR: a END\nERROR: b\n", "##[error]ERROR: a END\n##[error]ERROR: b\n", "error :0:0 a\nerror :0:0 b\n"},
		{"commands are not looked at", []string{problemMatcher("m", "", `{"regexp":"ERROR: (.+)","message":1}`)},
			"::group::ERROR: a\nx ##[group]ERROR: b\n##[not-command]ERROR: c\n", "##[group]ERROR: a\n##[group]ERROR: b\n##[error]##[not-command]ERROR: c\n", "error :0:0 c\n"},
		{"a blank message is no problem", []string{problemMatcher("m", "", `{"regexp":"^E:(.*)$","message":1}`)}, "E:\nE: \n", "", ""},
		{"files out of the workspace are left out", []string{problemMatcher("m", "", `{"regexp":"^(.+): (.+)$","file":1,"message":2}`)},
			"/etc/passwd: a\n../../x: b\nWORKSPACE/in/../here.c: c\nWORKSPACE: d\n", "##[error]/etc/passwd: a\n##[error]../../x: b\n##[error]WORKSPACE/in/../here.c: c\n##[error]WORKSPACE: d\n",
			"error :0:0 a\nerror :0:0 b\nerror here.c:0:0 c\nerror :0:0 d\n"},
		{"what is found is masked", []string{problemMatcher("m", "", `{"regexp":"^(.+): (.+)$","file":1,"message":2}`)}, "::add-mask::hunter22\nhunter22.c: hunter22\n",
			"##[error]***.c: ***\n", "error ***.c:0:0 ***\n"},
		{"removed by owner", []string{problemMatcher("m", "", anyLine)}, "a\n::remove-matcher owner=M::\nb\n", "##[error]a\nb\n", "error :0:0 a\n"},
		{"removed by file", []string{problemMatcher("m", "", anyLine)}, "a\n::remove-matcher::0.json\nb\n", "##[error]a\nb\n", "error :0:0 a\n"},
	} {
		s := newStage(t, nil)
		for i, m := range test.matchers {
			name := fmt.Sprintf("%d.json", i)
			s.place(t, name, m)
			if got := s.say("::add-matcher::" + name); got != "" {
				t.Fatalf("%s: add: %s", test.name, got)
			}
		}
		here := strings.NewReplacer("WORKSPACE", s.info.Workspace)
		test.lines, test.want = here.Replace(test.lines), here.Replace(test.want)
		if test.want == "" {
			test.want = test.lines
		}
		if got := s.say(strings.Split(strings.TrimSuffix(test.lines, "\n"), "\n")...); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		notes := ""
		for _, a := range s.annotations {
			notes += fmt.Sprintf("%s %s:%d:%d %s\n", a.Level, a.File, a.Line, a.Column, a.Message)
		}
		if notes != test.notes {
			t.Errorf("%s: got %q, want %q", test.name, notes, test.notes)
		}
	}
}

// A matcher whose pattern takes too long is removed, the others stay.
func TestMatcherTakesTooLong(t *testing.T) {
	s := newStage(t, nil)
	s.place(t, "slow.json", problemMatcher("slow", "", `{"regexp":"^(a+)+$","message":0}`))
	s.place(t, "other.json", problemMatcher("other", "", `{"regexp":"ERR: (.+)","message":1}`))
	hostile := strings.Repeat("a", 60) + "!"
	got := s.say("::add-matcher::slow.json", "::add-matcher::other.json", "aaa", hostile, "aaa", "ERR: this")
	want := "##[error]aaa\n##[warning]Removing issue matcher 'slow'. A pattern took too long on a line of output.\n" + hostile + "\naaa\n##[error]ERR: this\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// No job can make the runner watch for any number of owners.
func TestMatchersAreBounded(t *testing.T) {
	s := newStage(t, nil)
	var many []string
	for i := range maxMatchers + 1 {
		many = append(many, fmt.Sprintf(`{"owner":"%d","pattern":[{"regexp":"x","message":0}]}`, i))
	}
	s.place(t, "many.json", `{"problemMatcher":[`+strings.Join(many, ",")+`]}`)
	s.place(t, "huge.json", strings.Repeat(" ", maxMatcherFile+1))
	got := s.say("::add-matcher::many.json", "::add-matcher::huge.json")
	if !strings.Contains(got, "##[error]more than 100 problem matchers\n") || strings.Count(got, "##[error]Unable to process command") != 2 || !s.run.refused {
		t.Errorf("got %q, refused %t", got, s.run.refused)
	}
}

func FuzzMatchers(f *testing.F) {
	f.Add([]byte(problemMatcher("m", `"severity":"warning",`, `{"regexp":"^(.+):(\\d+)$","file":1,"line":2}`, `{"regexp":"(.*)","message":1,"loop":true}`)), "a:1\nb\nc")
	f.Add([]byte(problemMatcher("m", `"fromPath":"a/b",`, `{"regexp":"(x+x+)+y","message":0}`)), "xxxxxxxx")
	f.Add([]byte(`{"problemMatcher":[{"owner":"m","pattern":[{"regexp":"(","message":-9}]}]}`), "")
	f.Add([]byte("// x\n"+`{"problemMatcher":[{"owner":"//\\\"," /* , */,"pattern":[{"regexp":"b","message":0,},],},]}/`), "b")
	f.Fuzz(func(t *testing.T, file []byte, lines string) {
		if json.Valid(file) && !sameJSON(plainJSON(string(file)), file) {
			t.Fatalf("%s: got %s", file, plainJSON(string(file)))
		}
		matchers, err := parseMatchers(file)
		if err != nil {
			return
		}
		for i, m := range matchers {
			if m.owner == "" || len(m.patterns) == 0 || slices.ContainsFunc(matchers[:i], func(o *matcher) bool { return strings.EqualFold(o.owner, m.owner) }) {
				t.Fatalf("%s: got the matcher %+v", file, m)
			}
			if len(file) > 1<<10 || len(lines) > 1<<8 {
				return // a hostile expression takes a second a line
			}
			run := &matching{matcher: m, state: make([]*problem, len(m.patterns)-1)}
			for line := range strings.SplitSeq(lines, "\n") {
				p, err := run.match(line)
				if err != nil {
					break
				}
				if p == nil {
					continue
				}
				a, ok := p.annotation("/work/repo/repo")
				if ok && (strings.TrimSpace(a.Message) == "" || strings.HasPrefix(a.File, "/") || strings.HasPrefix(a.File, "../") || a.Line < 0 || a.Column < 0 ||
					!slices.Contains([]string{"error", "warning", "notice"}, a.Level)) {
					t.Fatalf("%s: got %+v", file, a)
				}
				if utf8.ValidString(line) {
					if _, err := json.Marshal(a); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}

// sameJSON says whether two texts that are JSON have the same value.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
