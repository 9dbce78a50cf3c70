package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/cd"
)

func TestReassure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		end := reassure(&out, "It is prepared")
		time.Sleep(2*sayEvery + time.Second)
		end()
		if got, want := out.String(), "It is prepared (5.0s)\nIt is prepared (10s)\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestPicture holds that a picture is drawn over all that it takes of the terminal, and takes no more than there is.
func TestPicture(t *testing.T) {
	var out bytes.Buffer
	p := &picture{out: &out, size: func() (int, int) { return 10, 6 }}
	wrapped := "\x1b[2m" + strings.Repeat("x", 21) + "\x1b[0m" // three rows
	p.write("", []string{"one", wrapped, "", "no room"})
	if want := "one\n" + wrapped + "\n\n"; out.String() != want {
		t.Errorf("got %q, want %q", &out, want)
	}
	out.Reset()
	p.write("stays\n", []string{strings.Repeat("x", 10)})
	if want := "\x1b[5A\x1b[Jstays\n" + strings.Repeat("x", 10) + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", &out, want)
	}
	out.Reset()
	p.write("", nil)
	p.write("end\n", nil)
	if want := "\x1b[1A\x1b[Jend\n"; out.String() != want {
		t.Errorf("got %q, want %q", &out, want)
	}
}

// TestFollow holds that watching goes on when a stream ends, or the server is away for a moment, and ends when it refuses.
func TestFollow(t *testing.T) {
	asked := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked++; asked {
		case 1:
			fmt.Fprint(w, "retry: 1000\ndata: {\"version\":1}\n\n: still here\n\ndata: {\"version\":2}\n\n")
		case 2, 3: // net/http asks once again by itself
			panic(http.ErrAbortHandler)
		case 4:
			fmt.Fprint(w, "data: {\"version\":3}\n\ndata: {\"vers") // cut off: it comes again
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, `{"message": "no more"}`, http.StatusForbidden)
		}
	}))
	defer web.Close()
	f := &releaseFlags{serverFlags: serverFlags{url: web.URL, token: "t"}, environment: "production", repository: "acme/shop"}
	views := make(chan api.EnvironmentView, 10)
	err := f.follow(t.Context(), views)
	close(views)
	var got []int64
	for v := range views {
		got = append(got, v.Version)
	}
	if fmt.Sprint(got) != "[1 2 3]" || err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("got %v, then %v", got, err)
	}
}

// TestReleaseLinesOfInstances holds what is said of instances that run, and of those that are being stopped.
func TestReleaseLinesOfInstances(t *testing.T) {
	r := api.ReleaseView{Number: 7, Release: &cd.Release{Phase: cd.Reverting, Parts: []cd.Part{
		{Service: "web", Want: 2, Instances: []cd.Instance{{State: cd.Healthy}}},
		{Service: "api", Instances: []cd.Instance{{State: cd.Healthy}, {Index: 1, State: cd.Exited, Reason: "exit code 3"}}},
		{Service: "job"},
	}}}
	want := "● v7 reverting\n    web: 1 of 2 healthy\n    api: stopping, 2 left"
	if got := strings.Join(releaseLines(r, paint{}), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
