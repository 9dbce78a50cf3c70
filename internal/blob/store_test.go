package blob

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/s3test"
)

// eachStore runs a test on each kind of store.
func eachStore(t *testing.T, test func(*testing.T, Store)) {
	t.Run("dir", func(t *testing.T) { test(t, open(t)) })
	t.Run("bucket", func(t *testing.T) { test(t, openBucket(t, s3test.New(t), t.TempDir())) })
}

func openBucket(t *testing.T, server *s3test.Server, spool string) *Bucket {
	t.Helper()
	b, err := OpenBucket(t.Context(), server.URL, spool, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// What is large goes in parts, is read in any order, and is what it was.
func TestLargeBlobs(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		random := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{0, 1, small - 1, small, small + 1, partSize + small + 7} {
			want := make([]byte, size)
			_, _ = random.Read(want)
			if n, err := s.Put(t.Context(), "large", bytes.NewReader(want)); err != nil || n != int64(size) {
				t.Fatalf("Put of %d bytes: %d, %v", size, n, err)
			}
			f, err := s.Open("large")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes read otherwise: %v", size, err)
			}
			for range 3 {
				from := rand.IntN(size + 1)
				part := make([]byte, rand.IntN(3*minRead))
				n, err := f.ReadAt(part, int64(from))
				if n != min(len(part), size-from) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(part[:n], want[from:from+n]) {
					t.Errorf("%d of %d bytes from %d: %d, %v", len(part), size, from, n, err)
				}
				at, err := f.Seek(int64(-from), io.SeekEnd)
				rest, readErr := io.ReadAll(f)
				if err != nil || readErr != nil || at != int64(size-from) || !bytes.Equal(rest, want[size-from:]) {
					t.Errorf("the last %d of %d bytes: at %d, %v, %v", from, size, at, err, readErr)
				}
			}
			if info, err := f.Stat(); err != nil || info.Size() != int64(size) {
				t.Errorf("Stat of %d bytes: %v", size, err)
			}
			f.Close()
		}
	})
}

// Two servers append to one log, repeat each other, seal and go on.
func TestTwoAppend(t *testing.T) {
	server, spool := s3test.New(t), t.TempDir()
	one, two := openBucket(t, server, spool), openBucket(t, server, spool)
	want := ""
	for i, s := range []*Bucket{one, two, two, one, one, two, one, two} {
		for _, again := range []*Bucket{s, one, two} {
			if err := again.Append("logs/a", int64(len(want)), []byte("line\n"), noon.Add(time.Duration(i)*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		want += "line\n"
		if i%3 == 2 {
			if err := s.Seal("logs/a"); err != nil {
				t.Fatal(err)
			}
		}
		for _, reader := range []*Bucket{one, two} {
			if got := content(t, reader, "logs/a"); got != want {
				t.Fatalf("after %d: %q, want %q", i, got, want)
			}
		}
	}
	for _, s := range []*Bucket{one, two} {
		if err := s.Seal("logs/a"); err != nil {
			t.Fatal(err)
		}
	}
	marks, err := two.Times("logs/a")
	if err != nil || len(marks) != 8 || marks[7].Offset != 35 || !marks[7].At.Equal(noon.Add(7*time.Second)) {
		t.Errorf("times: %v, %v", marks, err)
	}
	if left, err := one.spool.List(""); err != nil || len(left) > 0 {
		t.Errorf("in the spool: %v, %v", left, err)
	}
}

// While the store is away logs go on, and get there later; all else says that it is away, and what was there stays.
func TestBucketGoesAway(t *testing.T) {
	server, spool := s3test.New(t), t.TempDir()
	s := openBucket(t, server, spool)
	put(t, s, "here", "as it was")
	if err := s.Append("logs/a", 0, []byte("one\n"), noon); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := s.Append("logs/a", 4, []byte("two\n"), noon); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal("logs/a"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "logs/a"); got != "one\ntwo\n" {
		t.Errorf("log: %q", got)
	}
	if _, err := s.Put(t.Context(), "here", strings.NewReader("new")); err == nil {
		t.Error("put where there is no store")
	}
	if _, err := s.Open("here"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open where there is no store: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "here"); got != "as it was" {
		t.Errorf("content = %q", got)
	}
	if err := s.Seal("logs/a"); err != nil {
		t.Fatal(err)
	}
	if left, err := s.spool.List(""); err != nil || len(left) > 0 {
		t.Errorf("in the spool: %v, %v", left, err)
	}
	if got := content(t, s, "logs/a"); got != "one\ntwo\n" {
		t.Errorf("log: %q", got)
	}
}

func TestOpenBucketSaysWhatIsWrong(t *testing.T) {
	server := s3test.New(t)
	for _, c := range []struct{ address, key, want string }{
		{server.URL, s3test.SecretKey, ""},
		{server.URL, "other", "refuses the credentials"},
		{strings.Replace(server.URL, "penstock", "other", 1), s3test.SecretKey, "no such bucket"},
		{"s3://penstock?endpoint=http://127.0.0.1:1", s3test.SecretKey, "connection refused"},
		{"s3://penstock?endpoint=nowhere", s3test.SecretKey, "the endpoint must be"},
		{"s3://penstock?path=x", s3test.SecretKey, "no parameter path"},
		{"s3://key:secret@penstock", s3test.SecretKey, "credentials come from the environment"},
		{"gs://penstock", s3test.SecretKey, "must be s3://"},
		{"s3://penstock/../x?endpoint=" + server.Endpoint, s3test.SecretKey, "bad blob key"},
	} {
		t.Setenv("AWS_SECRET_ACCESS_KEY", c.key)
		b, err := OpenBucket(t.Context(), c.address, t.TempDir(), slog.New(slog.DiscardHandler))
		if err == nil {
			b.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s with secret %s: %v, want %q", c.address, c.key, err, c.want)
		}
	}
}

func TestBucketReopens(t *testing.T) {
	server, spool := s3test.New(t), t.TempDir()
	s := openBucket(t, server, spool)
	if err := s.Append("logs/a", 0, []byte("one"), noon); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBucket(t, server, spool)
	if err := s.Append("logs/a", 3, []byte("two"), noon); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "logs/a"); got != "onetwo" {
		t.Errorf("content = %q", got)
	}
	list, err := s.List("logs/")
	if err != nil || !slices.EqualFunc(list, []Info{{Key: "logs/a", Size: 6}}, func(a, b Info) bool { return a.Key == b.Key && a.Size == b.Size }) {
		t.Errorf("List = %v, %v", list, err)
	}
}
