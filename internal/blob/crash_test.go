package blob

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childEnv names the directory in which this test binary, started again, puts blobs until it is killed.
const childEnv = "PENSTOCK_BLOB_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		putForever(dir)
	}
	os.Exit(m.Run())
}

// putForever overwrites a few keys with blobs of one repeated letter, and says on stdout which are done.
func putForever(dir string) {
	s, err := Open(dir)
	if err != nil {
		panic(err)
	}
	for n := 0; ; n++ {
		key, letter := fmt.Sprintf("d%d/k%d", n%3, n%5), byte('a'+n%26)
		body := bytes.Repeat([]byte{letter}, 100_000+n)
		if _, err := s.Put(context.Background(), key, bytes.NewReader(body)); err != nil {
			panic(err)
		}
		fmt.Printf("%s %d %c\n", key, len(body), letter)
	}
}

// kill -9 while blobs are put: each key has nothing or a whole blob, never older than the last one acknowledged.
func TestKillWhilePutting(t *testing.T) {
	for round := range 5 {
		dir := t.TempDir()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		enough := 20 + rand.IntN(60)
		acknowledged := map[string]int{}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var key, letter string
			var size int
			if _, err := fmt.Sscan(lines.Text(), &key, &size, &letter); err != nil {
				break // the line was torn by the kill
			}
			acknowledged[key] = size
			if n == enough {
				time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { child.Process.Kill() })
			}
		}
		child.Wait()

		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.List("")
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, info := range list {
			body := content(t, s, info.Key)
			if body != strings.Repeat(body[:1], len(body)) || len(body) < 100_000 || byte('a'+(len(body)-100_000)%26) != body[0] {
				t.Errorf("round %d: %s is torn", round, info.Key)
			}
			found[info.Key] = len(body)
		}
		for key, size := range acknowledged {
			if found[key] < size {
				t.Errorf("round %d: %s has %d bytes, %d were acknowledged", round, key, found[key], size)
			}
		}
		s.Close()
	}
}
