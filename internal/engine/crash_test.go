package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// crashEnv and crashURLEnv name the directory of blobs and the store with which this test binary, started again, works
// until it is killed.
const (
	crashEnv    = "PENSTOCK_ENGINE_CRASH_DIR"
	crashURLEnv = "PENSTOCK_ENGINE_CRASH_URL"
)

func TestMain(m *testing.M) {
	dir, url := os.Getenv(crashEnv), os.Getenv(crashURLEnv)
	var err error
	switch server := os.Getenv(crashServerEnv); {
	case server != "":
		err = releaseUntilKilled(url, server)
	case dir != "":
		err = workUntilKilled(url, dir)
	default:
		os.Exit(m.Run())
	}
	fmt.Println("error", err)
}

// workUntilKilled triggers runs and carries their jobs through, and says on stdout what was acknowledged:
//
//	run ID              a run was triggered
//	begin RUN JOB LEASE a job was started: from here on a real runner would execute
//	log RUN JOB SIZE    so many bytes of a log were taken
//	end RUN JOB         a job was finished with success
func workUntilKilled(url, dir string) error {
	ctx := context.Background()
	st, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		return err
	}
	opt := Options{LeaseFor: 50 * time.Millisecond}
	if st.Shared() {
		opt.LeaseFor = 2 * time.Second // the others are heard in a sixth of it
	}
	e, err := New(ctx, st, blobs, opt)
	if err != nil {
		return err
	}
	go e.Work(ctx)
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	p := &ci.Plan{Event: "push", Repository: "octo/hello"}
	if p, err = ci.NewPlan(ci.File{Path: "ci.yml", Text: buildThenTest}, nil, *p); err != nil {
		return err
	}
	failed := make(chan error)
	for range 4 {
		go func() {
			for {
				id, err := e.Trigger(ctx, p)
				if err != nil {
					failed <- err
					return
				}
				say("run %d", id)
			}
		}()
		go func() {
			for {
				if err := crashJob(ctx, e, say); err != nil && !errors.Is(err, ci.ErrStale) {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

func crashJob(ctx context.Context, e *Engine, say func(string, ...any)) error {
	task, err := e.Lease(ctx, ci.Runner{})
	if err != nil {
		return err
	}
	l := ci.Lease{Run: task.Run, Job: task.Job, ID: task.Lease}
	if err := e.Report(ctx, l, ci.Report{}); err != nil {
		return err
	}
	say("begin %d %s %s", l.Run, l.Job, l.ID)
	text := fmt.Sprintf("%d %s\n", l.Run, l.Job)
	if err := e.Append(ctx, l, 0, []byte(text)); err != nil {
		return err
	}
	say("log %d %s %d", l.Run, l.Job, len(text))
	if err := e.Finish(ctx, l, ci.Result{Conclusion: ci.Success}); err != nil {
		return err
	}
	say("end %d %s", l.Run, l.Job)
	return nil
}

// kill -9, again and again, on one database: what was acknowledged is there, the records have no gaps and make the
// snapshots, and no job has begun twice.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "p.db")
	var said []string
	for range 6 {
		said = append(said, crash(t, url, dir, 100+rand.IntN(300))...)
	}
	open(t, url, filepath.Join(dir, "blobs"), Options{}).wantSaid(t, said)
}

// wantSaid checks that what was acknowledged is stored, and that no job has begun twice.
func (h *house) wantSaid(t *testing.T, said []string) {
	t.Helper()
	h.wantSound(t)
	begun := map[string]int{}
	for _, line := range said {
		var id ci.RunID
		var job ci.JobID
		var size int
		words := strings.Fields(line)
		switch words[0] {
		case "run":
			fmt.Sscan(words[1], &id)
			if _, err := h.Run(t.Context(), id); err != nil {
				t.Errorf("acknowledged: %s, but %v", line, err)
			}
		case "begin":
			begun[words[1]+" "+words[2]]++
		case "log":
			fmt.Sscan(strings.Join(words[1:], " "), &id, &job, &size)
			if info, err := h.blobs.Stat(LogKey(id, 1, job)); err != nil || info.Size < int64(size) {
				t.Errorf("acknowledged: %s, but %+v, %v", line, info, err)
			}
		case "end":
			fmt.Sscan(strings.Join(words[1:], " "), &id, &job)
			if j := h.run(t, id).Job(job); j.Status != ci.Completed || j.Conclusion != ci.Success {
				t.Errorf("acknowledged: %s, but it is %s %s", line, j.Status, j.Conclusion)
			}
		default:
			t.Fatalf("the child says %q", line)
		}
	}
	for name, n := range begun {
		if n > 1 {
			t.Errorf("%s has begun %d times", name, n)
		}
	}
	t.Logf("%d acknowledgements, %d jobs begun", len(said), len(begun))
}

// crash lets a child work, kills it after so many acknowledgements, and gives them.
func crash(t *testing.T, url, dir string, enough int) (said []string) {
	return crashWith(t, enough, crashEnv+"="+dir, crashURLEnv+"="+url)
}

// crashWith does so with a child that is told what to do by its environment.
func crashWith(t *testing.T, enough int, environment ...string) (said []string) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), environment...)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		if err != nil { // what was torn by the kill was not said
			break
		}
		said = append(said, strings.TrimSpace(line))
		if len(said) == enough {
			time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { child.Process.Kill() })
		}
	}
	child.Wait()
	if len(said) < enough {
		t.Errorf("the child ended by itself after %d acknowledgements: %v", len(said), said[max(0, len(said)-1):])
	}
	return said
}
