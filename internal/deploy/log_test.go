package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func openTestLog(t *testing.T, dir string, size int64, secrets map[string]string) *log {
	t.Helper()
	l, err := openLog(dir, size, secrets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func tailOf(t *testing.T, dir string, lines int) (string, *logReader) {
	t.Helper()
	var b strings.Builder
	r, err := readTail(dir, lines, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), r
}

// TestLogRotates writes more than is kept, in pieces of all sizes, with a reader that follows and a keeper that is replaced.
func TestLogRotates(t *testing.T) {
	dir := t.TempDir()
	const size = 1000
	l := openTestLog(t, dir, size, nil)
	_, r := tailOf(t, dir, 0)
	var all, followed bytes.Buffer
	for i := range 3000 {
		line := fmt.Sprintf("line %d%s\n", i, strings.Repeat(".", i%50))
		all.WriteString(line)
		for piece := range slices.Chunk([]byte(line), i%7+1) {
			if n, err := l.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		if i%10 == 0 {
			if _, err := r.more(&followed); err != nil {
				t.Fatal(err)
			}
		}
		if i%500 == 0 {
			l.close()
			l = openTestLog(t, dir, size, nil)
		}
	}
	for {
		came, err := r.more(&followed)
		if err != nil {
			t.Fatal(err)
		}
		if !came {
			break
		}
	}
	if followed.String() != all.String() {
		t.Errorf("who follows missed something: %d of %d bytes", followed.Len(), all.Len())
	}
	files, err := logsOf(dir)
	if err != nil || len(files) > logFiles {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if f.size > size {
			t.Errorf("%s has %d bytes", f.name, f.size)
		}
	}
	for _, n := range []int{0, 1, 2, 40} {
		want := all.Bytes()
		lines := bytes.SplitAfter(want, []byte("\n"))
		lines = lines[:len(lines)-1]
		if got, _ := tailOf(t, dir, n); got != string(bytes.Join(lines[len(lines)-n:], nil)) {
			t.Errorf("the last %d lines: %q", n, got)
		}
	}
	if got, _ := tailOf(t, dir, 1_000_000); !strings.HasSuffix(all.String(), got) || len(got) < size {
		t.Errorf("all that is kept is no end of what was written: %d bytes", len(got))
	}
}

// TestLogReaderFallsBehind goes on with what is there when it comes back too late.
func TestLogReaderFallsBehind(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 100, nil)
	fmt.Fprintln(l, "first")
	_, r := tailOf(t, dir, 0)
	for i := range 200 {
		fmt.Fprintln(l, "line", i)
	}
	var b strings.Builder
	if _, err := r.more(&b); err != nil || !strings.HasSuffix(b.String(), "line 199\n") || strings.Contains(b.String(), "line 1\n") || !strings.HasPrefix(b.String(), "line ") {
		t.Errorf("got %q, %v", b.String(), err)
	}
}

func TestLogHides(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 10_000, map[string]string{"A": "secret", "B": "secret-and-more", "C": "two\nlines\n", "D": "", "E": " "})
	fmt.Fprint(l, "a sec")
	fmt.Fprint(l, "ret and secret-and-more, ")
	fmt.Fprint(l, "two words\r\nlines")
	l.end()
	if got, _ := tailOf(t, dir, 10); got != "a *** and ***, *** words\n***\n" {
		t.Errorf("got %q", got)
	}
	if got := strings.Join(l.tail(), "|"); got != "a *** and ***, *** words|***" {
		t.Errorf("remembered %q", got)
	}
}

func TestLogLongLine(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir, 10_000, nil)
	fmt.Fprintln(l, strings.Repeat("x", 3*maxLogLine/2))
	if got, _ := tailOf(t, dir, 10); got != strings.Repeat("x", maxLogLine/2)+"\n" && got != strings.Repeat("x", maxLogLine)+"\n"+strings.Repeat("x", maxLogLine/2)+"\n" {
		t.Errorf("got %d bytes", len(got))
	}
}

// TestLogOfOthers is a directory with names that are none of ours.
func TestLogOfOthers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"log-", "log-x", "log--5", "instance.json", "log-99999999999999999999999"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("no log\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := tailOf(t, dir, 10); got != "" {
		t.Errorf("got %q", got)
	}
}

// FuzzLog writes any bytes in any pieces: what is read is what was written, line by line.
func FuzzLog(f *testing.F) {
	f.Add([]byte("one\ntwo\r\nthree"), 3, 20)
	f.Add([]byte("\n\n\x00\xff\n"), 1, 5)
	f.Fuzz(func(t *testing.T, text []byte, piece, size int) {
		dir := t.TempDir()
		l, err := openLog(dir, int64(max(size, 1)), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		_, r := tailOf(t, dir, 0)
		var got, want bytes.Buffer
		for part := range slices.Chunk(text, max(piece, 1)) {
			if n, err := l.Write(part); n != len(part) || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			if _, err := r.more(&got); err != nil {
				t.Fatal(err)
			}
		}
		l.end()
		if _, err := r.more(&got); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			want.Write(bytes.TrimRight(line, "\r\n"))
			want.WriteByte('\n')
		}
		if len(text) < maxLogLine && len(text) < max(size, 1)*logFiles/2 && got.String() != want.String() {
			t.Errorf("got %q, want %q", got.String(), want.String())
		}
	})
}
