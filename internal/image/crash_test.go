package image

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

const killEnv = "PENSTOCK_TEST_KILL"

// TestKilledInTheMiddle kills a process while it unpacks what comes in: nothing of it is an image, and the next pull
// works.
func TestKilledInTheMiddle(t *testing.T) {
	if text := os.Getenv(killEnv); text != "" {
		dir, ref, _ := strings.Cut(text, "|")
		_, err := openStoreAt(t, dir, Options{}).Pull(t.Context(), ref, PullOptions{})
		t.Errorf("not killed: %v", err)
		return
	}
	text := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(text)
	data := tarOf(t, file("a", string(text)), file("b", "2"))
	packed := gzipped(t, data)
	victim := make(chan *os.Process, 1)
	var asked atomic.Int32
	host := newRegistry(t, tamper(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(packed)) || asked.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", "99999999")
		w.Write(packed[:len(packed)/2])
		w.(http.Flusher).Flush()
		(<-victim).Kill()
		<-r.Context().Done()
		return true
	}))
	pushTo(t, host+"/app:1", newImage(t, data))
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledInTheMiddle$")
	child.Env = append(os.Environ(), killEnv+"="+dir+"|"+host+"/app:1")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	victim <- child.Process
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("it ended by itself: %v", err)
	}

	s := openStoreAt(t, dir, Options{})
	if _, err := s.Find(host + "/app:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("half of an image is found: %v", err)
	}
	img, err := s.Pull(t.Context(), host+"/app:1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, s.layerDir(ids[0])); len(got) != 2 || !slices.Contains(got, `b: file 644 0:0 1 "2"`) {
		t.Errorf("got %q", got)
	}
}
