package job

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

// hearing is a recorder that calls then, once, when the log has the text.
func hearing(text string, then func()) *recorder {
	rec := &recorder{}
	heard := false
	rec.appended = func() {
		if !heard && strings.Contains(rec.log.String(), text) {
			heard = true
			then()
		}
	}
	return rec
}

// After a cancel, steps whose condition asks for it still run, and a step that holds by always() runs to its end.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	rec := hearing("\nthe step runs\n", func() { cancel(ErrCancel) })
	res := play(ctx, t, `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - id: it
        run: echo the step "runs"; exec sleep 600
      - run: echo must not "run"
      - if: success()
        run: echo must not "run"
      - if: failure()
        run: echo must not "run"
      - if: '!cancelled()'
        run: echo must not "run"
      - if: cancelled()
        run: echo cancelled, it=${{ steps.it.outcome }}/${{ steps.it.conclusion }}, "job=${{ job.status }}"
      - if: always()
        run: echo always; exit "3"
      - if: always()
        run: echo status stays "${{ job.status }}"
`, rec, nil)
	log := rec.log.String()
	if res.Conclusion != ci.Cancelled {
		t.Errorf("got %s, want %s", res.Conclusion, ci.Cancelled)
	}
	for _, want := range []string{"cancelled, it=cancelled/cancelled, job=cancelled\n", "\nalways\n", "status stays cancelled\n", "##[error]The operation was canceled.\n", "##[error]Process completed with exit code 3.\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "\nmust not run\n") {
		t.Error(log)
	}
}

// A step whose condition holds after the cancel too is not stopped by it.
func TestCancelLeavesAlwaysStepsAlone(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	rec := hearing("\nthe step runs\n", func() {
		cancel(ErrCancel)
		go os.WriteFile(gate, []byte("go on\n"), 0)
	})
	res := play(ctx, t, `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - if: always()
        run: echo the step "runs"; read line < "$GATE"; echo "heard $line"
      - run: echo must not "run"
`, rec, func(x *Executor, _ *ci.Task) { x.Env = map[string]string{"GATE": gate} })
	if log := rec.log.String(); res.Conclusion != ci.Cancelled || !strings.Contains(log, "\nheard go on\n") || strings.Contains(log, "\nmust not run\n") {
		t.Errorf("got %s\n%s", res.Conclusion, log)
	}
}

// A job that is killed ends at once: no step runs any more.
func TestKillEndsTheJob(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	rec := hearing("\nthe step runs\n", func() { cancel(ErrKill) })
	res := play(ctx, t, `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - run: echo the step "runs"; exec sleep 600
      - if: always()
        run: echo must not "run"
`, rec, nil)
	if log := rec.log.String(); res.Conclusion != ci.Cancelled || strings.Contains(log, "\nmust not run\n") {
		t.Errorf("got %s\n%s", res.Conclusion, log)
	}
}

// What runs after a cancel has so much time and no more.
func TestCancelHasAnEnd(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	rec := hearing("\nthe step runs\n", func() { cancel(ErrCancel) })
	res := play(ctx, t, `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - run: echo the step "runs"; exec sleep 600
      - if: always()
        run: echo cleaning "up"; exec sleep 600
      - if: always()
        run: echo must not "run"
`, rec, func(_ *Executor, task *ci.Task) { task.CancelTimeout = 3 * time.Second })
	if log := rec.log.String(); res.Conclusion != ci.Cancelled || !strings.Contains(log, "\ncleaning up\n") || strings.Contains(log, "\nmust not run\n") {
		t.Errorf("got %s\n%s", res.Conclusion, log)
	}
	if want := "what runs after a cancel took too long"; res.Reason != want {
		t.Errorf("got the reason %q, want %q", res.Reason, want)
	}
}

// A background step that fails by itself fails the job, though a cancel step names it later.
func TestFailureBeforeACancelStepCounts(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	rec := hearing("##[error]Process completed with exit code 7.\n", func() { go os.WriteFile(gate, []byte("go on\n"), 0) })
	res := play(t.Context(), t, `
on: push
jobs:
  a:
    runs-on: x
    steps:
      - id: flaky
        name: flaky
        background: true
        run: exit 7
      - run: read line < "$GATE"
      - cancel: flaky
      - if: always()
        run: echo "${{ steps.flaky.conclusion }}"
`, rec, func(x *Executor, _ *ci.Task) { x.Env = map[string]string{"GATE": gate} })
	if res.Conclusion != ci.Failure || !strings.Contains(rec.log.String(), "\nfailure\n") {
		t.Errorf("got %s\n%s", res.Conclusion, rec.log.String())
	}
}

// At most ten background steps run at once, and all get their turn.
func TestBackgroundStepsAreBounded(t *testing.T) {
	const steps, most = 13, 10
	dir := t.TempDir()
	var text strings.Builder
	for i := range steps {
		if err := syscall.Mkfifo(filepath.Join(dir, fmt.Sprint(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "      - {id: s%d, background: true, run: 'echo \"began\"; read line < \"$DIR/%d\"; echo \"ended\"'}\n", i, i)
	}
	text.WriteString(strings.Repeat("      - run: 'true'\n", 20))
	fmt.Fprintf(&text, "      - run: for i in $(seq 0 %d); do echo > \"$DIR/$i\" & done; wait\n      - wait-all:\n", steps-1)
	rec := &recorder{}
	res := play(t.Context(), t, "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n"+text.String(), rec,
		func(x *Executor, _ *ci.Task) { x.Env = map[string]string{"DIR": dir} })
	log := rec.log.String()
	running, ended, peak := 0, 0, 0
	for line := range strings.Lines(log) {
		switch line {
		case "began\n":
			running++
		case "ended\n":
			running--
			ended++
		}
		peak = max(peak, running)
	}
	if res.Conclusion != ci.Success || ended != steps || peak != most {
		t.Errorf("got %s, %d of %d steps ended, %d at once, want %d\n%s", res.Conclusion, ended, steps, peak, most, log)
	}
}
