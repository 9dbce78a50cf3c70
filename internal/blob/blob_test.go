package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T) *Dir {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s Store, key, text string) {
	t.Helper()
	size, err := s.Put(context.Background(), key, strings.NewReader(text))
	if err != nil || size != int64(len(text)) {
		t.Fatalf("Put(%s) = %d, %v, want %d bytes", key, size, err, len(text))
	}
}

func content(t *testing.T, s Store, key string) string {
	t.Helper()
	p, err := ReadAll(s, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestPutReplacesTheWhole(t *testing.T) { eachStore(t, testPutReplacesTheWhole) }

func testPutReplacesTheWhole(t *testing.T, s Store) {
	put(t, s, "a/b/c", "first and longer")
	put(t, s, "a/b/c", "second")
	if got := content(t, s, "a/b/c"); got != "second" {
		t.Errorf("content = %q, want %q", got, "second")
	}
	info, err := s.Stat("a/b/c")
	if err != nil || info.Size != 6 {
		t.Errorf("Stat = %+v, %v, want size 6", info, err)
	}
	if _, err := ReadAll(s, "a/b/c", 5); err == nil {
		t.Error("ReadAll gave 6 bytes under a limit of 5")
	}
}

func TestFailedPutChangesNothing(t *testing.T) { eachStore(t, testFailedPutChangesNothing) }

func testFailedPutChangesNothing(t *testing.T, s Store) {
	put(t, s, "k", "old")
	broken := io.MultiReader(strings.NewReader("new"), readerFunc(func([]byte) (int, error) { return 0, errors.New("torn") }))
	if _, err := s.Put(t.Context(), "k", broken); err == nil || !strings.Contains(err.Error(), "torn") {
		t.Errorf("Put of a broken reader = %v, want its error", err)
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := s.Put(ended, "k", strings.NewReader("new")); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("Put under an ended context = %v, want its cause", err)
	}
	if got := content(t, s, "k"); got != "old" {
		t.Errorf("content = %q, want %q", got, "old")
	}
	if d, ok := s.(*Dir); ok {
		if left, _ := os.ReadDir(filepath.Join(d.Path(), tempDir)); len(left) != 0 {
			t.Errorf("temporary files left: %v", left)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestKeys(t *testing.T) { eachStore(t, testKeys) }

func testKeys(t *testing.T, s Store) {
	for _, key := range []string{
		"", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "a/./b", ".tmp/x", ".times/x", ".hidden",
		"a\\b", "a\x00b", "a\nb", "\xff", strings.Repeat("x", maxName+1), strings.Repeat("x/", maxKey/2) + "x",
	} {
		t.Run(fmt.Sprintf("%.20q", key), func(t *testing.T) {
			_, putErr := s.Put(t.Context(), key, strings.NewReader("x"))
			_, openErr := s.Open(key)
			_, statErr := s.Stat(key)
			_, timesErr := s.Times(key)
			for _, err := range []error{putErr, openErr, statErr, timesErr, s.Append(key, 0, []byte("x"), noon), s.Delete(key)} {
				if !errors.Is(err, ErrKey) {
					t.Errorf("error = %v, want ErrKey", err)
				}
			}
		})
	}
	for _, key := range []string{"a", "a.b", "b/.b", "a..b", "ä/ö", strings.Repeat("x", maxName)} {
		put(t, s, "ok/"+key, key)
	}
}

func TestSymbolicLinksDoNotLeadOut(t *testing.T) {
	s := open(t)
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/secret", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, s.Path()+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("link/secret"); err == nil {
		t.Error("Open followed a link out of the store")
	}
	if _, err := s.Put(t.Context(), "link/new", strings.NewReader("x")); err == nil {
		t.Error("Put followed a link out of the store")
	}
	if err := s.Append("link/secret", 1, []byte("x"), noon); err == nil {
		t.Error("Append followed a link out of the store")
	}
}

func TestAbsentBlob(t *testing.T) {
	s := open(t)
	put(t, s, "dir/file", "x")
	for _, key := range []string{"none", "dir", "dir/none", "dir/file/below"} {
		if _, err := s.Open(key); err == nil {
			t.Errorf("Open(%s) found something", key)
		}
		if err := s.Delete(key); err != nil {
			t.Errorf("Delete(%s) = %v, want nil", key, err)
		}
	}
	for _, key := range []string{"dir", "dir/file/below"} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); err == nil {
			t.Errorf("Put(%s) put a blob where a directory is, or into a blob", key)
		}
	}
	if _, err := s.Stat("dir"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of a directory = %v, want fs.ErrNotExist", err)
	}
	if got := content(t, s, "dir/file"); got != "x" {
		t.Errorf("content = %q, want x", got)
	}
}

func TestListAndDelete(t *testing.T) { eachStore(t, testListAndDelete) }

func testListAndDelete(t *testing.T, s Store) {
	for _, key := range []string{"logs/1/1/a.log", "logs/1/2/a.log", "logs/10/1/a.log", "artifacts/1/x"} {
		put(t, s, key, "x")
	}
	if err := s.Append("logs/1/1/b.log", 0, []byte("x"), noon); err != nil {
		t.Fatal(err)
	}
	keys := func(prefix string) (keys []string) {
		list, err := s.List(prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			keys = append(keys, info.Key)
		}
		return keys
	}
	for _, c := range []struct {
		prefix string
		want   []string
	}{
		{"", []string{"artifacts/1/x", "logs/1/1/a.log", "logs/1/1/b.log", "logs/1/2/a.log", "logs/10/1/a.log"}},
		{"logs/1/", []string{"logs/1/1/a.log", "logs/1/1/b.log", "logs/1/2/a.log"}},
		{"logs/1", []string{"logs/1/1/a.log", "logs/1/1/b.log", "logs/1/2/a.log", "logs/10/1/a.log"}},
		{"logs/1/1/b", []string{"logs/1/1/b.log"}},
		{"none/", nil},
		{"none", nil},
	} {
		if got := keys(c.prefix); !slices.Equal(got, c.want) {
			t.Errorf("List(%q) = %v, want %v", c.prefix, got, c.want)
		}
	}
	for _, key := range keys("logs/") {
		if err := s.Delete(key); err != nil {
			t.Errorf("Delete(%s) = %v", key, err)
		}
	}
	if got, want := keys(""), []string{"artifacts/1/x"}; !slices.Equal(got, want) {
		t.Errorf("after Delete: %v, want %v", got, want)
	}
	if marks, err := s.Times("logs/1/1/b.log"); err != nil || marks != nil {
		t.Errorf("times of a deleted blob = %v, %v, want none", marks, err)
	}
	if d, ok := s.(*Dir); ok {
		if _, err := os.Stat(d.Path() + "/logs"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Delete left empty directories: %v", err)
		}
	}
}

func TestAppend(t *testing.T) { eachStore(t, testAppend) }

func testAppend(t *testing.T, s Store) {
	steps := []struct {
		offset int64
		text   string
		want   string
		gap    bool
	}{
		{0, "one\n", "one\n", false},
		{4, "two\n", "one\ntwo\n", false},
		{4, "two\n", "one\ntwo\n", false},               // repeated
		{4, "XXX\nthree\n", "one\ntwo\nthree\n", false}, // what is there stays
		{15, "gap", "one\ntwo\nthree\n", true},
		{14, "", "one\ntwo\nthree\n", false},
		{1 << 62, "gap", "one\ntwo\nthree\n", true},
	}
	for i, c := range steps {
		err := s.Append("log", c.offset, []byte(c.text), noon.Add(time.Duration(i)*time.Second))
		var gap *GapError
		if errors.As(err, &gap) != c.gap || (err != nil) != c.gap {
			t.Fatalf("Append(%d, %q) = %v, want gap %v", c.offset, c.text, err, c.gap)
		}
		if c.gap && gap.Size != int64(len(c.want)) {
			t.Errorf("gap.Size = %d, want %d", gap.Size, len(c.want))
		}
		if got := content(t, s, "log"); got != c.want {
			t.Fatalf("after Append(%d, %q): %q, want %q", c.offset, c.text, got, c.want)
		}
	}
	if err := s.Append("log", -1, []byte("x"), noon); err == nil {
		t.Error("Append at -1 was accepted")
	}
	marks, err := s.Times("log")
	if err != nil {
		t.Fatal(err)
	}
	want := []Mark{{0, noon}, {4, noon.Add(time.Second)}, {8, noon.Add(3 * time.Second)}}
	if !slices.EqualFunc(marks, want, func(a, b Mark) bool { return a.Offset == b.Offset && a.At.Equal(b.At) }) {
		t.Errorf("Times = %v, want %v", marks, want)
	}
	for _, c := range []struct {
		offset int64
		want   time.Time
	}{{0, noon}, {3, noon}, {4, noon.Add(time.Second)}, {100, noon.Add(3 * time.Second)}} {
		if got := At(marks, c.offset); !got.Equal(c.want) {
			t.Errorf("At(%d) = %v, want %v", c.offset, got, c.want)
		}
	}
	if got := At(nil, 7); !got.IsZero() {
		t.Errorf("At without marks = %v, want zero", got)
	}
}

func TestAppendGoesOnAfterSealAndReopen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append("a/b/log", 0, []byte("one"), noon); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal("a/b/log"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(string) error{s.Seal, s.Release} {
		if err := end("never/seen"); err != nil {
			t.Errorf("ending what was never appended to = %v", err)
		}
	}
	if err := s.Append("a/b/log", 3, []byte("two"), noon); err != nil {
		t.Fatal(err)
	}
	if err := s.Release("a/b/log"); err != nil || len(s.logs) != 0 {
		t.Errorf("Release = %v with %d files open, want none", err, len(s.logs))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A torn mark, as a kill in the middle of its write would leave.
	f, err := os.OpenFile(dir+"/.times/a/b/log", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("torn")
	f.Close()
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Append("a/b/log", 6, []byte("three"), noon); err != nil {
		t.Fatal(err)
	}
	if got, want := content(t, s, "a/b/log"), "onetwothree"; got != want {
		t.Errorf("content = %q, want %q", got, want)
	}
	marks, err := s.Times("a/b/log")
	if err != nil || len(marks) != 3 || marks[2].Offset != 6 {
		t.Errorf("Times = %v, %v, want three marks, the last at 6", marks, err)
	}
}

// Many logs at once, more than are kept open, each by several goroutines that repeat each other.
func TestManyAppendersAtOnce(t *testing.T) { eachStore(t, testManyAppendersAtOnce) }

func testManyAppendersAtOnce(t *testing.T, s Store) {
	const logs, lines = maxOpen + 40, 20
	var wg sync.WaitGroup
	for i := range logs {
		wg.Go(func() {
			key := fmt.Sprintf("logs/%d", i)
			for n := range lines {
				if err := s.Append(key, int64(4*n), fmt.Appendf(nil, "%03d\n", n), noon); err != nil {
					t.Error(err)
				}
				if n%7 == i%7 {
					if err := s.Seal(key); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	var want bytes.Buffer
	for n := range lines {
		fmt.Fprintf(&want, "%03d\n", n)
	}
	for i := range logs {
		if got := content(t, s, fmt.Sprintf("logs/%d", i)); got != want.String() {
			t.Fatalf("log %d = %q, want %q", i, got, want.String())
		}
	}
	if d, ok := s.(*Dir); ok && len(d.logs) > maxOpen {
		t.Errorf("%d files are open, want at most %d", len(d.logs), maxOpen)
	}
}

func TestStaleTempsGo(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "young"} {
		if err := os.WriteFile(filepath.Join(dir, tempDir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * staleTemp)
	if err := os.Chtimes(filepath.Join(dir, tempDir, "old"), past, past); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, tempDir))
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("temporary files = %v, %v, want only the young one", left, err)
	}
}

func FuzzKey(f *testing.F) {
	for _, key := range []string{"a/b", "../a", "a/../b", "/a", "a//b", "\x00", "a\\..\\b"} {
		f.Add(key)
	}
	dir := f.TempDir()
	store := filepath.Join(dir, "in", "store")
	s, err := Open(store)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := CheckKey(key)
		if err == nil && !filepath.IsLocal(key) {
			t.Fatalf("CheckKey(%q) = nil, but it leaves the store", key)
		}
		if _, putErr := s.Put(t.Context(), key, strings.NewReader("x")); err != nil && putErr == nil {
			t.Fatalf("Put(%q) took a bad key", key)
		}
		s.Delete(key)
		if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 {
			t.Fatalf("Put(%q) wrote outside: %v", key, left)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	chunk := bytes.Repeat([]byte("a line of a log that is not so long\n"), 1820) // 64 KiB
	b.SetBytes(int64(len(chunk)))
	for i := 0; b.Loop(); i++ {
		if err := s.Append("log", int64(i%3200*len(chunk)), chunk, noon); err != nil {
			b.Fatal(err)
		}
		if i%3200 == 3199 { // 200 MB
			s.Delete("log")
		}
	}
}

func TestConcat(t *testing.T) {
	eachStore(t, testConcat)
	unsynced, err := OpenUnsynced(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer unsynced.Close()
	testConcat(t, unsynced)
}

func testConcat(t *testing.T, s Store) {
	{
		put := func(keys ...string) {
			for _, k := range keys {
				if _, err := s.Put(t.Context(), k, strings.NewReader("<"+k+">")); err != nil {
					t.Fatal(err)
				}
			}
		}
		put("whole", "up/b", "up/a", "up/c")
		size, err := s.Concat("whole", "up/b", "up/a", "up/c")
		text, readErr := ReadAll(s, "whole", 100)
		if err != nil || readErr != nil || size != 18 || string(text) != "<up/b><up/a><up/c>" {
			t.Errorf("%q of %d bytes: %v, %v", text, size, err, readErr)
		}
		if size, err := s.Concat("empty"); err != nil || size != 0 {
			t.Errorf("of nothing: %d bytes, %v", size, err)
		}
		put("up/d")
		if _, err := s.Concat("whole", "up/d", "up/missing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of a part that is not there: %v", err)
		}
		if text, err := ReadAll(s, "whole", 100); err != nil || string(text) != "<up/b><up/a><up/c>" {
			t.Errorf("what was there is %q, %v", text, err)
		}
		if _, err := s.Concat("../out", "up/d"); !errors.Is(err, ErrKey) {
			t.Errorf("a key that leads out: %v", err)
		}
		if left, err := s.List("up/"); err != nil || len(left) > 0 {
			t.Errorf("parts are left: %v, %v", left, err)
		}
	}
}
