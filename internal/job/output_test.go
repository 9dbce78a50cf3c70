package job

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

// reading gives a reader whose lines that begin with "::" are commands: they log "<TEXT>" in their place.
func reading(t testing.TB, rec *recorder, secrets ...string) *lineReader {
	m := newMasker()
	for _, s := range secrets {
		m.add(s)
	}
	r := &lineReader{log: &jobLog{ctx: t.Context(), rep: rec, mask: m}, watching: func() bool { return false }}
	r.look = func(line string) func() []byte {
		text, ok := strings.CutPrefix(line, "::")
		if !ok {
			return nil
		}
		return func() []byte {
			if value, ok := strings.CutPrefix(text, "mask "); ok {
				m.add(value)
				return nil
			}
			return []byte("<" + text + ">\n")
		}
	}
	return r
}

func TestLines(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"plain", "a\nb\n", "a\nb\n"},
		{"no newline at the end", "a\nb", "a\nb\n"},
		{"CR LF", "a\r\n::b\r\nc\r\n", "a\n<b>\nc\n"},
		{"CR alone ends a line too", "10%\r20%\r::b\rc\n", "10%\n20%\n<b>\nc\n"},
		{"empty lines", "\n\r\n\r\r\n", "\n\n\n\n"},
		{"order round commands", "a\n::b\nc\n::d\n", "a\n<b>\nc\n<d>\n"},
		{"command as the last line", "a\n::b", "a\n<b>\n"},
		{"marks within lines", "std::x ::y\na##[b\n  :: z\n", "std::x ::y\na##[b\n  :: z\n"},
		{"mask before the secret, in one chunk", "hunter22\n::mask hunter22\nhunter22\n", "hunter22\n***\n"},
		{"broken UTF-8 and NUL", "a\xff\xfeb\x00c\xc3\nd\xe2\x82\n", "a\uFFFD\uFFFDb\x00c\uFFFD\nd\uFFFD\uFFFD\n"},
		{"secret", "x s3cr3t-value y\n", "x *** y\n"},
		{"nothing", "", ""},
	} {
		for size := 1; size < 9; size++ {
			rec := &recorder{}
			r := reading(t, rec, "s3cr3t-value")
			for rest := []byte(test.in); len(rest) > 0; {
				n := min(size, len(rest))
				r.Write(bytes.Clone(rest[:n]))
				rest = rest[n:]
			}
			r.close()
			if got := rec.log.String(); got != test.want {
				t.Errorf("%s, %d bytes at once: got %q, want %q", test.name, size, got, test.want)
			}
		}
		if rec := (&recorder{}); true {
			r := reading(t, rec, "s3cr3t-value")
			r.Write([]byte(test.in))
			r.close()
			r.Write([]byte("too late\n"))
			if got := rec.log.String(); got != test.want {
				t.Errorf("%s: got %q, want %q", test.name, got, test.want)
			}
		}
	}
}

// A line of 100 MB without an end is passed on in pieces: it takes no 100 MB, and secrets and characters that its
// cuts fall into are whole.
func TestEndlessLine(t *testing.T) {
	const secret = "s3cr3t-välue"
	unit := []byte("é" + secret + strings.Repeat("ü.", 500) + "x")
	const total = 100 << 20
	rep := &counting{unit: append([]byte("é***"), unit[len("é"+secret):]...)}
	r := reading(t, nil, secret)
	r.log.rep = rep
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	chunk := bytes.Repeat(unit, 70)
	written := 0
	for written < total {
		n := 1 + (written*31)%len(chunk)
		// Go on in the middle of a unit where the last chunk ended.
		from := written % len(unit)
		n = min(n, len(chunk)-from)
		r.Write(chunk[from : from+n])
		written += n
		if written%(8<<20) < n {
			runtime.ReadMemStats(&now)
			if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); grown > 40<<20 {
				t.Fatalf("after %d bytes %d bytes are held", written, grown)
			}
		}
	}
	r.close()
	if rep.wrong != "" {
		t.Error(rep.wrong)
	}
	if want := int64(written / len(unit) * len(rep.unit)); rep.bytes < want {
		t.Errorf("got %d bytes, want at least %d", rep.bytes, want)
	}
}

// counting is a Reporter that checks a log which is one text over and over.
type counting struct {
	discard
	unit  []byte
	wrong string
}

func (c *counting) Append(_ context.Context, p []byte) error {
	for len(p) > 0 {
		at := int(c.bytes % int64(len(c.unit)))
		n := min(len(p), len(c.unit)-at)
		if c.wrong == "" && !bytes.Equal(p[:n], c.unit[at:at+n]) && !bytes.Equal(p, []byte("\n")) && len(p) >= len(c.unit) {
			c.wrong = fmt.Sprintf("at byte %d: got %q, want %q", c.bytes, p[:n], c.unit[at:at+n])
		}
		c.bytes += int64(n)
		p = p[n:]
	}
	return nil
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\n::b\nsecret-value\rc"), uint64(1))
	f.Add([]byte("x secret-value y\n::secret-value\nsecret-\rvalue"), uint64(3))
	f.Add([]byte("::mask x\n\xc3\xa9\xff::y\n"), uint64(2))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		whole, pieces := &recorder{}, &recorder{}
		r := reading(t, whole, "secret-value")
		r.Write(bytes.Clone(in))
		r.close()
		r = reading(t, pieces, "secret-value")
		random := rand.New(rand.NewPCG(seed, 0))
		for rest := in; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			r.Write(bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		r.close()
		if whole.log.String() != pieces.log.String() {
			t.Fatalf("whole %q, in pieces %q", whole.log.String(), pieces.log.String())
		}
		if strings.Contains(whole.log.String(), "secret-value") {
			t.Fatalf("told: %q", whole.log.String())
		}
		if !utf8.Valid(whole.log.Bytes()) {
			t.Fatalf("not UTF-8: %q", whole.log.String())
		}
	})
}
