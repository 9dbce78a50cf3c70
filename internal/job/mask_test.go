package job

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
)

// recorder is a Reporter that keeps everything.
type recorder struct {
	mu          sync.Mutex // background steps report at once
	log         bytes.Buffer
	steps       []ci.Step // the last state of each, by number
	annotations []ci.Annotation
	appended    func() // told after each Append
}

func (r *recorder) Report(_ context.Context, rep ci.Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range rep.Steps {
		for len(r.steps) < s.Number {
			r.steps = append(r.steps, ci.Step{})
		}
		r.steps[s.Number-1] = s
	}
	r.annotations = append(r.annotations, rep.Annotations...)
	return nil
}

func (r *recorder) Append(_ context.Context, p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Write(p)
	if r.appended != nil {
		r.appended()
	}
	return nil
}

func TestMaskShapes(t *testing.T) {
	const secret = `p"a'ss<w>&o+r/d é\x`
	m := newMasker()
	m.add(secret)
	for shift := range 3 {
		for _, behind := range []string{"", "z", "zz"} {
			for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
				text := encoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret + behind))
				if got := m.text(text); len(got) > len(text)-len(secret) {
					t.Errorf("base64 with %d bytes before, %q behind: %s", shift, behind, got)
				}
			}
		}
	}
	for _, test := range []struct{ text, want string }{
		{"a " + secret + " b", "a *** b"},
		{base64.StdEncoding.EncodeToString([]byte(secret)), "***"},
		{`{"x":"p\"a'ss<w>&o+r/d é\\x"}`, `{"x":"***"}`},
		{`{"x":"p\"a'ss\u003cw\u003e\u0026o+r/d é\\x"}`, `{"x":"***"}`},
		{`{"x":"p\"a'ss<w>&o+r/d \u00e9\\x"}`, `{"x":"***"}`},
		{`q=p%22a%27ss%3Cw%3E%26o%2Br%2Fd%20%C3%A9%5Cx&r`, `q=***&r`},
		{`q=p%22a%27ss%3Cw%3E%26o%2Br%2Fd+%C3%A9%5Cx&r`, `q=***&r`},
		{`<a>p&quot;a&apos;ss&lt;w&gt;&amp;o+r/d é\x</a>`, `<a>***</a>`},
		{`'p"a''ss<w>&o+r/d é\x'`, `'***'`},
		{`p\"a'ss<w>&o+r/d é\x`, `***`},
		{`red(p"a'ss<w>&)blue(o+r/d é\x)`, `red(***)blue(***)`},
		{secret + secret, "***"},
		{"nothing", "nothing"},
	} {
		if got := m.text(test.text); got != test.want {
			t.Errorf("%s: got %s, want %s", test.text, got, test.want)
		}
	}
}

func TestMaskValues(t *testing.T) {
	for _, test := range []struct {
		values     []string
		text, want string
	}{
		{[]string{"", "  ", "\n"}, "a b  c", "a b  c"},
		{[]string{"x"}, "axb", "a***b"},
		{[]string{"first line\n  second line\r\nthird"}, "first line\nsecond line\nthird\nfourth", "***\n***\n***\nfourth"},
		{[]string{"abc", "bcdef"}, "abcdef", "***"},
		{[]string{"abab"}, "ababab", "***"},
		{[]string{`"quoted secret"`}, "quoted secret", "***"},
		{[]string{"'in quotes'"}, "in quotes", "***"},
		{[]string{"a&b"}, "a&b b", "*** b"},
		{[]string{"part1&+xpart2"}, "part1&+ part2", "*** part2"},
		{[]string{"part1&+xpart22"}, "part22", "***"},
		{[]string{"secret1", "longer-secret-value"}, "secret1longer-secret-valuesecret1", "***"},
	} {
		m := newMasker()
		for _, v := range test.values {
			m.add(v)
		}
		if got := m.text(test.text); got != test.want {
			t.Errorf("%q in %q: got %q, want %q", test.values, test.text, got, test.want)
		}
	}
}

// naive finds what the masker must find, with nothing clever.
func naive(m *masker, line string) string {
	hidden := make([]bool, len(line))
	for pattern := range m.values {
		for i := range len(line) {
			if strings.HasPrefix(line[i:], pattern) {
				for k := range len(pattern) {
					hidden[i+k] = true
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(line) {
		switch {
		case !hidden[i]:
			b.WriteByte(line[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(maskText)
		}
	}
	return b.String()
}

// FuzzMasker compares the masker with the naive one, whole and in pieces.
func FuzzMasker(f *testing.F) {
	f.Add("abc\x00bcdef", "xxabcdefabcab", uint64(1))
	f.Add("secret value\x00s", "the secret value is secret c2VjcmV0IHZhbHVl", uint64(7))
	f.Add("aaa\x00aa", "aaaaaaaa", uint64(3))
	f.Fuzz(func(t *testing.T, secrets, line string, seed uint64) {
		if strings.ContainsAny(line, "\r\n") || len(line) > 1<<12 || len(secrets) > 1<<10 {
			return
		}
		m := newMasker()
		for s := range strings.SplitSeq(secrets, "\x00") {
			m.add(s)
		}
		want := naive(m, line)
		if got := m.text(line); got != want {
			t.Fatalf("whole: got %q, want %q", got, want)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var l maskedLine
		var out, held []byte
		for rest := []byte(line); len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			held = append(held, rest[:n]...)
			rest = rest[n:]
			var left int
			out, left = l.take(m, out, held, false)
			held = slices.Clone(held[len(held)-left:])
		}
		out, _ = l.take(m, out, held, true)
		if string(out) != want {
			t.Fatalf("in pieces: got %q, want %q", out, want)
		}
	})
}

// TestMaskerRandom is the fuzz target over small alphabets, where patterns overlap.
func TestMaskerRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	word := func(most int) string {
		b := make([]byte, 1+random.IntN(most))
		for i := range b {
			b[i] = "abc"[random.IntN(3)]
		}
		return string(b)
	}
	for range 3000 {
		m := newMasker()
		for range 1 + random.IntN(4) {
			m.addShapes(word(24))
		}
		line := word(120)
		want := naive(m, line)
		if got := m.text(line); got != want {
			t.Fatalf("%v in %q: got %q, want %q", m.values, line, got, want)
		}
		var l maskedLine
		var out, held []byte
		for rest := []byte(line); len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 9))
			held = append(held, rest[:n]...)
			rest = rest[n:]
			var left int
			out, left = l.take(m, out, held, false)
			held = slices.Clone(held[len(held)-left:])
		}
		if out, _ = l.take(m, out, held, true); string(out) != want {
			t.Fatalf("%v in %q, in pieces: got %q, want %q", m.values, line, out, want)
		}
	}
}

// discard is a Reporter that only counts.
type discard struct{ bytes int64 }

func (d *discard) Report(context.Context, ci.Report) error { return nil }
func (d *discard) Append(_ context.Context, p []byte) error {
	d.bytes += int64(len(p))
	return nil
}

func BenchmarkOutput(b *testing.B) {
	var chunk bytes.Buffer
	for i := 0; chunk.Len() < 60<<10; i++ {
		fmt.Fprintf(&chunk, "line %d of a log: compiling package/number/%d with the usual flags std::vector ok\n", i, i*7)
		if i%100 == 0 {
			fmt.Fprintf(&chunk, "the token is ghp_0123456789abcdefghij0123456789 here\n")
		}
	}
	m := newMasker()
	for _, s := range []string{"ghp_0123456789abcdefghij0123456789", "hunter2-is-a-password", "correct horse battery staple"} {
		m.add(s)
	}
	log := &jobLog{ctx: b.Context(), rep: &discard{}, mask: m}
	r := &lineReader{log: log, look: func(string) func() []byte { return nil }, watching: func() bool { return false }}
	b.SetBytes(int64(chunk.Len()))
	for b.Loop() {
		r.Write(chunk.Bytes())
	}
}
