package job

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Command lines, log lines and scripts of shells (actions/runner src/Runner.Worker/Handlers/ScriptHandler.cs and
// ScriptHandlerHelpers.cs beside it).
func TestShells(t *testing.T) {
	const pwsh = "$ErrorActionPreference = 'stop'\necho hi\nif ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }\n"
	for _, test := range []struct {
		option    string
		command   string // blanks between arguments shown as |
		extension string
		script    string
	}{
		{"", "bash|-e|FILE", ".sh", "echo hi\n"},
		{"bash", "bash|--noprofile|--norc|-e|-o|pipefail|FILE", ".sh", "echo hi\n"},
		{"sh", "sh|-e|FILE", ".sh", "echo hi\n"},
		{"python", "python|FILE", ".py", "echo hi\n"},
		{"pwsh", "pwsh|-command|. 'FILE'", ".ps1", pwsh},
		{"powershell", "powershell|-command|. 'FILE'", ".ps1", pwsh},
		{"bash -x {0}", "bash|-x|FILE", ".sh", "echo hi\n"},
		{"bash  -l   -e {0} ", "bash|-l|-e|FILE", ".sh", "echo hi\n"},
		{"bash ", "bash|--noprofile|--norc|-e|-o|pipefail|FILE", ".sh", "echo hi\n"},
		{"Bash", "Bash|--noprofile|--norc|-e|-o|pipefail|FILE", ".sh", "echo hi\n"},
		{"pwsh -NoLogo -File {0}", "pwsh|-NoLogo|-File|FILE", ".ps1", pwsh},
		{"perl {0} {0}", "perl|FILE|FILE", "", "echo hi\n"},
		{`env "A B=c d" x {0}`, "env|A B=c d|x|FILE", "", "echo hi\n"},
		{"/usr/bin/env bash -e {0}", "/usr/bin/env|bash|-e|FILE", "", "echo hi\n"},
		{"awk {{print}} {0}", "awk|{print}|FILE", "", "echo hi\n"},
		{"x {1} {{0}} {0}", "x|{1}|{0}|FILE", "", "echo hi\n"}, // GitHub refuses {1}
		{"script={0}", "", "", ""},
		{"perl", "", "", ""},
		{"perl -e", "", "", ""},
		{"bash -x", "", "", ""},
		{"cmd", "", "", ""}, // GitHub has it on Windows alone
		{" bash", "", "", ""},
	} {
		s := newStage(t, nil)
		sh, err := s.shellFor(test.option)
		if test.command == "" {
			if err != errShell {
				t.Errorf("%q: got %v, want %v", test.option, err, errShell)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.option, err)
			continue
		}
		if got := strings.Join(sh.command("FILE"), "|"); got != test.command {
			t.Errorf("%q: got %s, want %s", test.option, got, test.command)
		}
		if got := shellExtensions[strings.ToLower(sh.name)]; got != test.extension {
			t.Errorf("%q: got a script ending in %q, want %q", test.option, got, test.extension)
		}
		if got := sh.fixUp("echo hi"); got != test.script {
			t.Errorf("%q: got the script %q, want %q", test.option, got, test.script)
		}
		if got := sh.fixUp("echo hi\n"); strings.HasSuffix(got, "\n\n") {
			t.Errorf("%q: got the script %q", test.option, got)
		}
	}
}

// Without bash in the PATH the default is sh; a directory that a step has put in front counts.
func TestDefaultShell(t *testing.T) {
	dir := t.TempDir()
	program := func(name string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	program("plain/sh", 0o755)
	program("plain/bash", 0o644) // can not be executed
	program("first/bash", 0o755)
	program("second/bash", 0o755)
	s := newStage(t, nil)
	s.info.Path = filepath.Join(dir, "plain")
	if sh, err := s.shellFor(""); err != nil || sh.program != "sh" || !slices.Equal(sh.command("F"), []string{"sh", "-e", "F"}) {
		t.Errorf("without bash: got %v %v", sh, err)
	}
	s.addPaths(s.run, filepath.Join(dir, "first"), filepath.Join(dir, "second"))
	if sh, err := s.shellFor(""); err != nil || sh.program != "bash" {
		t.Errorf("with bash: got %v %v", sh, err)
	}
	if got, want := s.lookUp("bash"), filepath.Join(dir, "second/bash"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := s.lookUp("nothing"); got != "" {
		t.Errorf("got %s, want nothing", got)
	}
}

func TestSplitArguments(t *testing.T) {
	for _, test := range []struct {
		line string
		want []string
	}{
		{"", nil},
		{"  a\t b ", []string{"a", "b"}},
		{`"a b" c`, []string{"a b", "c"}},
		{`a" b"c`, []string{"a bc"}},
		{`""`, []string{""}},
		{`a "" b`, []string{"a", "", "b"}},
		{`'a b'`, []string{"'a", "b'"}},
		{`a\"b`, []string{`a"b`}},
		{`"a\"b c"`, []string{`a"b c`}},
		{`a\b \\x`, []string{`a\b`, `\\x`}},
		{`"a\\" b`, []string{`a\`, "b"}},
		{`"a\\\"b"`, []string{`a\"b`}},
		{`"a""b"`, []string{`a"b`}},
		{`\`, []string{`\`}},
		{`"open end`, []string{"open end"}},
	} {
		if got := splitArguments(test.line); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.line, got, test.want)
		}
	}
}

// FuzzSplitArguments asks that arguments which are quoted come out again.
func FuzzSplitArguments(f *testing.F) {
	f.Add(`a b`, `c\"d`)
	f.Add(`\\`, ``)
	f.Fuzz(func(t *testing.T, first, second string) {
		splitArguments(first)
		if got, want := splitArguments(quoteArgument(first)+" "+quoteArgument(second)), []string{first, second}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// quoteArgument quotes as .NET and Windows programs read it: backslashes double before a double quote.
func quoteArgument(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for i := range len(text) {
		switch text[i] {
		case '\\':
			slashes++
			continue
		case '"':
			slashes = 2*slashes + 1
		}
		b.WriteString(strings.Repeat(`\`, slashes))
		slashes = 0
		b.WriteByte(text[i])
	}
	b.WriteString(strings.Repeat(`\`, 2*slashes))
	b.WriteByte('"')
	return b.String()
}
