package job

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func knowsOne(name string) bool { return name == "do-something" }

// The first rows are the runner's own (actions/runner src/Test/L0/Worker/ActionCommandL0.cs).
func TestParseCommand(t *testing.T) {
	props := func(pairs ...string) map[string]string {
		out := map[string]string{}
		for pair := range slices.Chunk(pairs, 2) {
			out[pair[0]] = pair[1]
		}
		return out
	}
	for _, test := range []struct {
		line  string
		props map[string]string // nil: no command
		data  string
	}{
		{"##[do-something k1=v1;]msg", props("k1", "v1"), "msg"},
		{"##[do-something]", props(), ""},
		{"##[do-something k1=%3B=%0D=%0A=%5D;]%3B-%0D-%0A-%5D", props("k1", ";=\r=\n=]"), ";-\r-\n-]"},
		{"##[do-something k1=%253B=%250D=%250A=%255D;]%253B-%250D-%250A-%255D", props("k1", "%3B=%0D=%0A=%5D"), "%3B-%0D-%0A-%5D"},
		{"##[do-something k1=;k2=;]", props(), ""},
		{">>>   ##[do-something k1=v1;]msg", props("k1", "v1"), "msg"},
		{"::do-something k1=v1,::msg", props("k1", "v1"), "msg"},
		{"::do-something::", props(), ""},
		{"::do-something k1=;=%2C=%0D=%0A=]=%3A,::;-%0D-%0A-]-:-,", props("k1", ";=,=\r=\n=]=:"), ";-\r-\n-]-:-,"},
		{"::do-something k1=;=%252C=%250D=%250A=]=%253A,::;-%250D-%250A-]-:-,", props("k1", ";=%2C=%0D=%0A=]=%3A"), ";-%0D-%0A-]-:-,"},
		{"::do-something k1=,k2=,::", props(), ""},
		{"::do-something k1=v1::", props("k1", "v1"), ""},
		{"   ::do-something k1=v1,::msg", props("k1", "v1"), "msg"},
		{"   >>>   ::do-something k1=v1,::msg", nil, ""},

		{"\t\u00a0::DO-Something::x", props(), "x"},
		{"::do-something::a::b", props(), "a::b"},
		{"::do-something k1=v1,K1=v2::", props("k1", "v2"), ""},
		{"::do-something  k1=a,  k2=b  ::", props("k1", "a", "  k2", "b"), ""},
		{"::do-something k1=%3a%2c::%0a%0d", props("k1", "%3a%2c"), "%0a%0d"}, // escapes are upper case
		{"::do-something k1=a=b=c::", props("k1", "a=b=c"), ""},
		{"::do-something =k1=v1,k2,=,==::", props("k1", "v1"), ""},
		{"::do-something k1=a:b::c", props("k1", "a:b"), "c"},
		{"::do-something ::%25%0A", props(), "%\n"},
		{"::do-something::%250A", props(), "%0A"},
		{"##[do-something]a]b##[do-something]", props(), "a]b##[do-something]"},
		{"##[other]##[do-something]x", nil, ""}, // only the first mark counts
		{"::other::##[do-something]x", props(), "x"},
		{"::do-something", nil, ""},
		{"::do-something:", nil, ""},
		{"##[do-something", nil, ""},
		{":: do-something::x", nil, ""},
		{"::::x", nil, ""},
		{"##[]x", nil, ""},
		{"", nil, ""},
		{"::", nil, ""},
		{"##[", nil, ""},
	} {
		got, ok := parseCommand(test.line, knowsOne)
		switch {
		case ok != (test.props != nil):
			t.Errorf("%q: got a command: %t, want the opposite", test.line, ok)
		case ok && (got.name != "do-something" || got.data != test.data || !maps.Equal(got.props, test.props)):
			t.Errorf("%q: got %q %q %q, want %q %q", test.line, got.name, got.props, got.data, test.props, test.data)
		}
	}
}

// FuzzParseCommand asks that what is found was written, and that a command that is written as the toolkit does is
// found whole.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"::do-something k=v,k2=v2::data", "##[do-something k=v;]data", "x ##[do-something]y", "::do-something::%25%0A%3A"} {
		f.Add(seed)
	}
	escapeData := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	escapeValue := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	f.Fuzz(func(t *testing.T, text string) {
		if c, ok := parseCommand(text, knowsOne); ok {
			if c.name != "do-something" || !strings.Contains(strings.ToLower(text), c.name) {
				t.Fatalf("%q: got the command %q", text, c.name)
			}
			if len(c.data) > len(text) {
				t.Fatalf("%q: %d bytes of data", text, len(c.data))
			}
			for key, value := range c.props {
				if key == "" || value == "" || key != strings.ToLower(key) {
					t.Fatalf("%q: got the property %q=%q", text, key, value)
				}
			}
		}
		if !utf8.ValidString(text) {
			return
		}
		written := "::do-something title=t" + escapeValue.Replace(text) + ",file=x::" + escapeData.Replace(text)
		got, ok := parseCommand(written, knowsOne)
		if !ok || got.data != text || got.props["title"] != "t"+text || got.props["file"] != "x" {
			t.Fatalf("%q: got %q", written, got)
		}
	})
}
