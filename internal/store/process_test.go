package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/ci"
)

// This test binary starts itself again with one of these set, to be another process.
const (
	holdEnv = "PENSTOCK_STORE_HOLD" // URL of a store to hold open until stdin ends
	fillEnv = "PENSTOCK_STORE_FILL" // directory on a small disk to be
	loadEnv = "PENSTOCK_STORE_LOAD" // URL of a store to write to until killed
)

func TestMain(m *testing.M) {
	if url := os.Getenv(holdEnv); url != "" {
		hold(url)
		return
	}
	status := m.Run()
	if server.made != nil {
		if err := server.made.Close(); err != nil {
			fmt.Println(err)
		}
	}
	os.Exit(status)
}

func hold(url string) {
	if _, err := Open(context.Background(), url); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
}

func TestTwoProcesses(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "p.db")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), holdEnv+"="+url)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || answer != "open\n" {
		t.Fatalf("the other process says %q, %v", answer, err)
	}
	_, err = Open(t.Context(), url)
	if want := fmt.Sprintf("the database is in use by process %d: stop it, or use another database", child.Process.Pid); !errors.Is(err, ErrInUse) ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("Open of a database in use = %v, want %q", err, want)
	}
	openStore(t, url+"?mode=ro")
	stdin.Close()
	child.Wait()
	s := openStore(t, url)
	if _, err := Open(t.Context(), url); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open in one process = %v, want ErrInUse", err)
	}
	create(t, s, plan(t, twoCells, nil))
}

// The test of the full disk runs in a process of its own on a small disk: a tmpfs where the system allows the mount,
// else a limit on the size of files.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fillEnv); dir != "" {
		fill(t, dir)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	child.Env = append(os.Environ(), fillEnv+"="+t.TempDir())
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestFullDisk") {
		t.Errorf("on a full disk: %v\n%s", err, out)
	}
}

func fill(t *testing.T, dir string) {
	makeSmall(t, dir)
	url := "sqlite:" + filepath.Join(dir, "p.db")
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("# a comment that takes room\n", 2000)
	bigPlan := releasePlan("production", "web")
	bigPlan.Reason = big
	begun := []*cd.Release{beginRelease(t, s, bigPlan)}
	var acknowledged []*ci.Run
	for n := range 1000 {
		var run *ci.Run
		if run, err = tryCreate(s, plan(t, twoCells+fmt.Sprint("# ", n, "\n")+big, nil)); err != nil {
			break
		}
		acknowledged = append(acknowledged, run)
	}
	if err == nil || !strings.Contains(err.Error(), "disk that holds "+dir) {
		t.Fatalf("error on a full disk = %v, want it to name the disk of %s", err, dir)
	}
	t.Logf("after %d runs: %v", len(acknowledged), err)
	if len(acknowledged) < 3 {
		t.Fatalf("only %d runs fitted", len(acknowledged))
	}
	for err = nil; err == nil; {
		var r *cd.Release
		if r, err = tryBeginRelease(t, s, bigPlan, nil); err == nil {
			begun = append(begun, r)
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("releases on a full disk: %v after %d, want ErrFull", err, len(begun))
	}
	check := func(s *Store) {
		if list := must(s.Releases(t.Context(), ReleaseFilter{}))(t); len(list) != len(begun) {
			t.Errorf("%d releases are stored, want %d", len(list), len(begun))
		}
		for _, r := range begun {
			wantSameRelease(t, must(s.Release(t.Context(), r.ID))(t).Release, r)
		}
		wantGaplessReleases(t, s)
		for _, run := range acknowledged {
			wantSame(t, load(t, s, run.ID), run)
		}
		list, err := s.Runs(t.Context(), Filter{Limit: 10_000})
		if err != nil || len(list) != len(acknowledged) {
			t.Errorf("%d runs are stored (%v), want %d", len(list), err, len(acknowledged))
		}
		wantGapless(t, s)
	}
	check(s) // it can still be read
	if err := s.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	if s, err = Open(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check(s)
}

// makeSmall makes a directory a disk of 2 MB, or lets this process write no file larger than that.
func makeSmall(t *testing.T, dir string) {
	const size = 2 << 20
	if mountSmall(dir, size) == nil {
		t.Cleanup(func() { syscall.Unmount(dir, 0) })
		return
	}
	limit := syscall.Rlimit{Cur: size, Max: size}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}

// A server that is killed in the middle of its writes leaves nothing half done, and the others go on at once.
func TestKilledServer(t *testing.T) {
	if url := os.Getenv(loadEnv); url != "" {
		keepWriting(t, url)
		return
	}
	url := postgres(t).Database(t)
	s := openStore(t, url)
	acknowledged := map[ci.RunID]bool{}
	for range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledServer$")
		child.Env = append(os.Environ(), loadEnv+"="+url)
		stdout, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for n := 0; n < 30 && lines.Scan(); n++ {
			if n%10 == 0 { // both write
				acknowledged[create(t, s, plan(t, twoCells, nil)).ID] = true
			}
			var id ci.RunID
			if _, err := fmt.Sscanf(lines.Text(), "run %d", &id); err != nil {
				t.Fatalf("the other server says %q", lines.Text())
			}
			acknowledged[id] = true
		}
		child.Process.Kill()
		for lines.Scan() {
			var id ci.RunID
			if _, err := fmt.Sscanf(lines.Text(), "run %d", &id); err == nil {
				acknowledged[id] = true
			}
		}
		child.Wait()
		acknowledged[create(t, s, plan(t, twoCells, nil)).ID] = true
	}
	list, err := s.Runs(t.Context(), Filter{Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range list {
		if r.ID != ci.RunID(len(list)-i) {
			t.Fatalf("run %d is at place %d of %d: there is a gap", r.ID, i, len(list))
		}
		delete(acknowledged, r.ID)
		wantReplay(t, s, r.ID)
	}
	if len(acknowledged) > 0 {
		t.Errorf("runs %v were acknowledged and are not stored", acknowledged)
	}
	wantGapless(t, s)
}

// keepWriting creates runs, several at once, and says which were acknowledged, until the process is killed.
func keepWriting(t *testing.T, url string) {
	s, err := Open(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, twoCells, nil)
	for !t.Failed() {
		var all sync.WaitGroup
		for range 8 {
			all.Add(1)
			s.Create(p, func(id ci.RunID, p *ci.Plan) (Save, error) {
				run, events := ci.New(id, p, noon)
				return Save{Run: run, Events: events}, nil
			}, func(step Save, err error) {
				defer all.Done()
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Println("run", step.Run.ID)
			})
		}
		all.Wait()
	}
}
