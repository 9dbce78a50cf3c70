package job

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The first rows are the runner's own (actions/runner src/Test/L0/Worker/SetEnvFileCommandL0.cs, SetOutputFileCommandL0.cs,
// SaveStateFileCommandL0.cs), which all begin with a byte order mark.
func TestParsePairs(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []pair
		err        string
	}{
		{"empty", "", nil, ""},
		{"simple", "MY_ENV=MY VALUE", []pair{{"MY_ENV", "MY VALUE"}}, ""},
		{"skips empty lines", "\nMY_ENV=my value\n\nMY_ENV_2=my second value\n", []pair{{"MY_ENV", "my value"}, {"MY_ENV_2", "my second value"}}, ""},
		{"empty value", "MY_ENV=", []pair{{"MY_ENV", ""}}, ""},
		{"several", "MY_ENV=my value\nMY_ENV_2=\nMY_ENV_3=my third value", []pair{{"MY_ENV", "my value"}, {"MY_ENV_2", ""}, {"MY_ENV_3", "my third value"}}, ""},
		{"equals signs", "MY_ENV==abc\nMY_ENV_2=def=ghi\nMY_ENV_3=jkl=", []pair{{"MY_ENV", "=abc"}, {"MY_ENV_2", "def=ghi"}, {"MY_ENV_3", "jkl="}}, ""},
		{"block", "MY_ENV<<EOF\nline one\nline two\nline three\nEOF", []pair{{"MY_ENV", "line one\nline two\nline three"}}, ""},
		{"empty block", "MY_ENV<<EOF\nEOF", []pair{{"MY_ENV", ""}}, ""},
		{"blocks between empty lines", "\nMY_ENV<<EOF\nhello\nworld\nEOF\n\nMY_ENV_2<<EOF\nHELLO\nAGAIN\nEOF\n",
			[]pair{{"MY_ENV", "hello\nworld"}, {"MY_ENV_2", "HELLO\nAGAIN"}}, ""},
		{"odd blocks", "MY_ENV<<=EOF\nhello\none\n=EOF\nMY_ENV_2<<<EOF\nhello\ntwo\n<EOF\nMY_ENV_3<<EOF\nhello\n\nthree\n\nEOF\nMY_ENV_4<<EOF\nhello=four\nEOF\nMY_ENV_5<<EOF\n EOF\nEOF",
			[]pair{{"MY_ENV", "hello\none"}, {"MY_ENV_2", "hello\ntwo"}, {"MY_ENV_3", "hello\n\nthree\n"}, {"MY_ENV_4", "hello=four"}, {"MY_ENV_5", " EOF"}}, ""},
		{"no line after the delimiter", "MY_ENV<<EOF line one line two line three EOF", nil, "Invalid value. Matching delimiter not found 'EOF line one line two line three EOF'"},
		{"no line feed before the delimiter", "MY_ENV<<EOF line one\n  line two\n line three EOF", nil, "Invalid value. EOF marker missing new line."},

		{"what came before an error", "A=1\nB<<EOF\n", []pair{{"A", "1"}}, "Invalid value. Matching delimiter not found 'EOF'"},
		{"no assignment", "A=1\nwords", []pair{{"A", "1"}}, "Invalid format 'words'"},
		{"no name before a block", "<<EOF\nx\nEOF", nil, "Invalid format '<<EOF'. Name must not be empty and delimiter must not be empty"},
		{"no delimiter", "A<<\nx", nil, "Invalid format 'A<<'. Name must not be empty and delimiter must not be empty"},
		{"no name", "=x", []pair{{"", "x"}}, ""}, // whoever takes it says so
		{"block marks behind an equals sign", "A=b<<EOF\n", []pair{{"A", "b<<EOF"}}, ""},
		{"equals sign behind block marks", "A<<B=C\nx\nB=C\n", []pair{{"A", "x"}}, ""},
		{"line feeds alone end lines", "A=1\r\nB<<EOF\r\nx\r\nEOF\r\n", []pair{{"A", "1\r"}, {"B", "x\r"}}, ""},
		{"blanks stay", " A = b \n", []pair{{" A ", " b "}}, ""},
		{"a blank line is no assignment", "A=1\n \n", []pair{{"A", "1"}}, "Invalid format ' '"},
		{"the same name again", "A=1\nA=2", []pair{{"A", "1"}, {"A", "2"}}, ""},
		{"the delimiter again", "A<<E\nE\nB=1", []pair{{"A", ""}, {"B", "1"}}, ""},
		{"broken UTF-8", "A=\xff\xfe\nB=\x00", []pair{{"A", "\uFFFD"}, {"B", "\x00"}}, ""},
	} {
		for _, mark := range []string{"", "\uFEFF"} {
			got, err := parsePairs([]byte(mark + test.text))
			message := ""
			if err != nil {
				message = err.Error()
			}
			if !slices.Equal(got, test.want) || message != test.err {
				t.Errorf("%s: got %q %q, want %q %q", test.name, got, message, test.want, test.err)
			}
		}
	}
}

func TestParsePaths(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"/a", []string{"/a"}},
		{"\uFEFF/a\n/b\n", []string{"/a", "/b"}},
		{"/a\r\n\r\n/b\r/c", []string{"/a", "/b", "/c"}},
		{" /a b \n", []string{" /a b "}},
	} {
		if got := parsePaths([]byte(test.text)); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.text, got, test.want)
		}
	}
}

// FuzzParsePairs asks that the toolkit's way of writing any value gives it back, and that nothing is made up.
func FuzzParsePairs(f *testing.F) {
	for _, seed := range []string{"A=1\nB<<EOF\nx\nEOF\n", "A<<B=C\nx\nB=C", "\xef\xbb\xbfA=\r\n", "<<\n=", "A<<E\nE"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pairs, err := parsePairs(data)
		text, size := fileText(data), 0
		for _, p := range pairs {
			size += len(p.name) + len(p.value)
			if strings.ContainsRune(p.name, '\n') || !strings.Contains(text, p.value) {
				t.Fatalf("%q: got %q", data, p)
			}
		}
		if size > len(text) {
			t.Fatalf("%q: %d bytes of names and values", data, size)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "Invalid ") {
			t.Fatal(err)
		}
		if !utf8.Valid(data) {
			return
		}
		const delimiter = "ghadelimiter_0d7d4a3c"
		if strings.Contains(text, delimiter) {
			return
		}
		got, err := parsePairs([]byte("name<<" + delimiter + "\n" + string(data) + "\n" + delimiter + "\n" + "next=1\n"))
		if want := []pair{{"name", string(data)}, {"next", "1"}}; err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %q %v, want %q", got, err, want)
		}
	})
}
