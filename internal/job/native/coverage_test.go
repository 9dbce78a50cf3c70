package native

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestParseCoverage(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"go":        {"mode: set\nexample.com/m/a.go:3.5,5.2 2 1\nexample.com/m/a.go:7.1,7.9 1 0\n", "example.com/m/a.go 3/4"},
		"lcov":      {"TN:\nSF:src/a.ts\nDA:1,3\nDA:2,0\nend_of_record\nSF:src\\b.ts\nDA:1,1\nend_of_record\n", "src/a.ts 1/2 src/b.ts 1/1"},
		"cobertura": {`<?xml version="1.0"?><!DOCTYPE coverage SYSTEM "x"><coverage><packages><package><classes><class filename="app/a.py"><lines><line number="1" hits="1"/><line number="2" hits="0"/></lines></class></classes></package></packages></coverage>`, "app/a.py 1/2"},
		"jacoco":    {`<report name="x"><package name="com/a"><sourcefile name="B.java"><line nr="3" mi="0" ci="2"/><line nr="4" mi="2" ci="0"/></sourcefile></package></report>`, "com/a/B.java 1/2"},
		"clover":    {`<coverage generated="1"><project><file name="x.php" path="/src/x.php"><line num="1" type="stmt" count="2"/><line num="2" type="stmt" count="0"/></file></project></coverage>`, "src/x.php 1/2"},
	} {
		c, err := parseCoverage([]byte(test.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, file := range slices.Sorted(maps.Keys(c)) {
			run, all := c.count(file)
			got = append(got, fmt.Sprintf("%s %d/%d", file, run, all))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	for _, bad := range []string{"", "hello", "<html/>", "mode: set\nnonsense", `<!DOCTYPE c [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><coverage><line number="&b;"/></coverage>`} {
		if _, err := parseCoverage([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParseCoverage(f *testing.F) {
	for _, s := range []string{"mode: set\na.go:1.1,2.2 1 1", "SF:a\nDA:1,1", `<coverage><class filename="a"><line number="1" hits="1"/></class></coverage>`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCoverage(text)
		if err != nil {
			return
		}
		if run, all := c.count(""); run > all {
			t.Errorf("%d of %d", run, all)
		}
	})
}

func TestCoverageSummary(t *testing.T) {
	got := coverageSummary("unit", kept{"a": {1, 2}, "b": {2, 2}, "new": {1, 1}}, kept{"a": {2, 2}, "b": {2, 2}})
	for _, want := range []string{"### Coverage: unit", "80.00 % of 5 lines (-20.00 points)", "| `a` | 2 | 50.00 % | -50.00 |", "| `b` | 2 | 100.00 % | ±0 |", "| `new` | 1 | 100.00 % | new |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestScanSecrets(t *testing.T) {
	text := "x = 1\ntoken = \"ghp_" + "1234567890abcdefghijABCDEFGHIJ123456\"\n"
	found := scanSecrets("config.py", []byte(text))
	if len(found) != 1 || found[0].Rule != "github-pat" || found[0].Line != 2 || found[0].Severity != "CRITICAL" {
		t.Errorf("got %+v", found)
	}
	for _, harmless := range []string{"nothing here", "password = os.environ['PASSWORD']", "ghp_ is how tokens begin"} {
		if found := scanSecrets("a.py", []byte(harmless)); len(found) != 0 {
			t.Errorf("%s: %+v", harmless, found)
		}
	}
	if found := scanSecrets("package-lock.json", []byte(text)); len(found) != 0 {
		t.Errorf("a lock file: %+v", found)
	}
}

func TestScanDockerfile(t *testing.T) {
	rules := func(text string) (out []string) {
		for _, p := range scanDockerfile(t.Context(), "Dockerfile", []byte(text)) {
			out = append(out, p.Rule)
		}
		return out
	}
	if got := strings.Join(rules("FROM x\nENV API_TOKEN=abc\nCMD run me\n"), " "); !strings.Contains(got, "SecretsUsedInArgOrEnv") || !strings.Contains(got, "JSONArgsRecommended") || !strings.Contains(got, "DS002") {
		t.Errorf("got %s", got)
	}
	if got := rules("FROM x\nUSER 1000\nCMD [\"run\"]\n"); len(got) != 0 {
		t.Errorf("a good one: %v", got)
	}
	for _, format := range []func([]problem) ([]byte, error){sarifOf, func(p []problem) ([]byte, error) { return jsonOf(".", p) }} {
		text, err := format([]problem{{Kind: "secret", Rule: "r", Severity: "HIGH", Title: "t", File: "f", Line: 3}})
		if err != nil || !json.Valid(text) || !strings.Contains(string(text), "3") {
			t.Errorf("%s, %v", text, err)
		}
	}
}
