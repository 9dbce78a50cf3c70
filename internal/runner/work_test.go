package runner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

var _ runner.Executor = (*job.Executor)(nil)

const cells = `on: push
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      fail-fast: false
      matrix:
        n: [%s]
    steps:
      - run: echo
`

// executor is an Executor made of a function.
type executor func(ctx context.Context, t *ci.Task, rep job.Reporter) ci.Result

func (x executor) Run(ctx context.Context, t *ci.Task, rep job.Reporter) ci.Result {
	return x(ctx, t, rep)
}

var succeeded = ci.Result{Conclusion: ci.Success}

// bench is a queue with a run of so many jobs in it.
type bench struct {
	*engine.Engine
	queue runner.Queue // the engine's
	store *store.Store
	blobs blob.Store
	run   ci.RunID

	token string // of a runner elsewhere, and its way there
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
}

// opener makes a bench with a run of so many jobs.
type opener func(t *testing.T, jobs int) *bench

// everyQueue tests with the queue of an engine in the process, and with the one that a server has for runners elsewhere.
func everyQueue(t *testing.T, test func(t *testing.T, newBench opener)) {
	t.Run("engine", func(t *testing.T) { test(t, inProcess) })
	t.Run("http", func(t *testing.T) { test(t, overHTTP) })
}

func inProcess(t *testing.T, jobs int) *bench {
	t.Helper()
	st, blobs := openStores(t)
	e, err := engine.New(t.Context(), st, blobs, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Engine: e, queue: e, store: st, blobs: blobs}
	b.trigger(t, jobs)
	return b
}

func openStores(t *testing.T) (*store.Store, blob.Store) {
	t.Helper()
	st, err := store.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	blobs, err := blob.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	return st, blobs
}

// trigger begins the run.
func (b *bench) trigger(t *testing.T, jobs int) {
	t.Helper()
	var list []string
	for n := range jobs {
		list = append(list, fmt.Sprint(n))
	}
	text := fmt.Sprintf(cells, strings.Join(list, ", "))
	p, err := ci.NewPlan(ci.File{Path: "ci.yml", Text: text}, nil, ci.Plan{Event: "push", Repository: "octo/hello"})
	if err != nil {
		t.Fatal(err)
	}
	if b.run, err = b.Trigger(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// work lets a runner work on a queue until the run is completed, and gives the run.
func (b *bench) work(t *testing.T, q runner.Queue, slots int, x runner.Executor) *ci.Run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := runner.Work(ctx, q, ci.Runner{Name: "r"}, slots, x); err != nil {
			t.Error(err)
		}
	})
	for r, err := range b.Tail(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Event.Type == ci.EventRunCompleted {
			break
		}
	}
	cancel()
	ended.Wait()
	return b.stored(t)
}

func (b *bench) stored(t *testing.T) *ci.Run {
	t.Helper()
	run, err := b.Run(t.Context(), b.run)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func (b *bench) log(t *testing.T, id ci.JobID) []byte {
	t.Helper()
	p, err := blob.ReadAll(b.blobs, engine.LogKey(b.run, 1, id), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSlots(t *testing.T) { everyQueue(t, testSlots) }

func testSlots(t *testing.T, newBench opener) {
	b := newBench(t, 20)
	var now, most, all atomic.Int64
	run := b.work(t, b.queue, 3, executor(func(_ context.Context, t *ci.Task, rep job.Reporter) ci.Result {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		all.Add(1)
		rep.Append(context.Background(), []byte(t.Name+"\n"))
		return succeeded
	}))
	if run.Conclusion != ci.Success || all.Load() != 20 || most.Load() > 3 {
		t.Errorf("%d jobs ran, up to %d at once, the run is %s: want 20, at most 3, success", all.Load(), most.Load(), run.Conclusion)
	}
	for n := range 20 {
		if got, want := string(b.log(t, ci.JobID(fmt.Sprint("test/", n)))), fmt.Sprintf("test (%d)\n", n); got != want {
			t.Errorf("log of %d = %q, want %q", n, got, want)
		}
	}
	if err := runner.Work(t.Context(), b.queue, ci.Runner{}, 0, nil); err == nil {
		t.Error("a runner without slots works")
	}
}

func TestSignalsReachTheJob(t *testing.T) { everyQueue(t, testSignalsReachTheJob) }

func testSignalsReachTheJob(t *testing.T, newBench opener) {
	for _, c := range []struct {
		name  string
		force []bool // of each Cancel
		want  error
	}{{"cancel", []bool{false}, job.ErrCancel}, {"kill", []bool{true}, job.ErrKill}, {"cancel, then kill", []bool{false, true}, job.ErrCancel}} {
		b := newBench(t, 1)
		var cause error
		run := b.work(t, b.queue, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
			killed := rep.(interface{ Killed() <-chan struct{} }).Killed()
			for _, force := range c.force {
				if err := b.Cancel(t.Context(), b.run, "mona", force); err != nil {
					t.Error(err)
				}
				<-ctx.Done()
				if force {
					<-killed
				}
			}
			select {
			case <-killed:
				if !c.force[len(c.force)-1] {
					t.Error("killed without force")
				}
			default:
			}
			cause = context.Cause(ctx)
			return ci.Result{Conclusion: ci.Cancelled}
		}))
		if !errors.Is(cause, c.want) || run.Conclusion != ci.Cancelled {
			t.Errorf("%s: the job ended by %v, the run is %s, want %v, cancelled", c.name, cause, run.Conclusion, c.want)
		}
	}
}

func TestPanicFailsOneJob(t *testing.T) { everyQueue(t, testPanicFailsOneJob) }

func testPanicFailsOneJob(t *testing.T, newBench opener) {
	b := newBench(t, 3)
	run := b.work(t, b.queue, 1, executor(func(_ context.Context, t *ci.Task, _ job.Reporter) ci.Result {
		if t.Job == "test/1" {
			panic("a fault of ours")
		}
		return succeeded
	}))
	for _, c := range []struct {
		job        ci.JobID
		conclusion ci.Conclusion
		reason     string
	}{{"test/0", ci.Success, ""}, {"test/1", ci.Failure, "Penstock itself failed in this job: a fault of ours"}, {"test/2", ci.Success, ""}} {
		if j := run.Job(c.job); j.Conclusion != c.conclusion || j.Reason != c.reason {
			t.Errorf("%s is %s %q, want %s %q", c.job, j.Conclusion, j.Reason, c.conclusion, c.reason)
		}
	}
}

// spy is a queue whose calls can be watched, delayed and failed.
type spy struct {
	runner.Queue
	onReport func(ci.Report) error
	onAppend func(offset int64, p []byte) error
	onFinish func(ci.Result) error
}

func (s *spy) Report(ctx context.Context, l ci.Lease, r ci.Report) error {
	if s.onReport != nil {
		if err := s.onReport(r); err != nil {
			return err
		}
	}
	return s.Queue.Report(ctx, l, r)
}

func (s *spy) Append(ctx context.Context, l ci.Lease, offset int64, p []byte) error {
	if s.onAppend != nil {
		if err := s.onAppend(offset, p); err != nil {
			return err
		}
	}
	return s.Queue.Append(ctx, l, offset, p)
}

func (s *spy) Finish(ctx context.Context, l ci.Lease, r ci.Result) error {
	if s.onFinish != nil {
		if err := s.onFinish(r); err != nil {
			return err
		}
	}
	return s.Queue.Finish(ctx, l, r)
}

// A job that writes faster than the queue takes is held up: what is under way never is more than a few megabytes.
func TestLogIsHeldUp(t *testing.T) { everyQueue(t, testLogIsHeldUp) }

func testLogIsHeldUp(t *testing.T, newBench opener) {
	b := newBench(t, 1)
	const size = 30 << 20
	var written, taken, most atomic.Int64
	q := &spy{Queue: b.queue, onAppend: func(offset int64, p []byte) error {
		most.Store(max(most.Load(), written.Load()-offset))
		taken.Store(offset + int64(len(p)))
		return nil
	}}
	line := bytes.Repeat([]byte("0123456789abcde\n"), 1000)
	b.work(t, q, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
		for written.Load() < size {
			if err := rep.Append(ctx, line); err != nil {
				t.Error(err)
			}
			written.Add(int64(len(line)))
		}
		return succeeded
	}))
	if got := b.log(t, "test/0"); int64(len(got)) != written.Load() || !bytes.Equal(got, bytes.Repeat(line, len(got)/len(line))) {
		t.Errorf("the log has %d bytes, want the %d that were written", len(got), written.Load())
	}
	if most.Load() > 5<<20 {
		t.Errorf("up to %d bytes were under way", most.Load())
	}
}

func TestLogIsLive(t *testing.T) { everyQueue(t, testLogIsLive) }

func testLogIsLive(t *testing.T, newBench opener) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		var appends int
		q := &spy{Queue: b.queue, onAppend: func(int64, []byte) error { appends++; return nil }}
		b.work(t, q, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
			for n := range 1000 {
				rep.Append(ctx, []byte("x"))
				time.Sleep(time.Millisecond)
				if n%100 == 99 {
					time.Sleep(50 * time.Millisecond)
					synctest.Wait()
					if got := len(b.log(t, "test/0")); got != n+1 {
						t.Errorf("50 ms after byte %d the log has %d", n+1, got)
					}
				}
			}
			return succeeded
		}))
		if appends > 50 {
			t.Errorf("1000 single bytes in 1.5 s were appended in %d pieces", appends)
		}
	})
}

func TestReportsAreJoined(t *testing.T) { everyQueue(t, testReportsAreJoined) }

func testReportsAreJoined(t *testing.T, newBench opener) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		var reports int
		q := &spy{Queue: b.queue, onReport: func(ci.Report) error {
			reports++
			if reports == 3 {
				return errors.New("the line is busy")
			}
			return nil
		}}
		run := b.work(t, q, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
			var steps []ci.Step
			for n := range 200 {
				step := ci.Step{Number: n + 1, Name: fmt.Sprint("step ", n+1), Status: ci.InProgress}
				rep.Report(ctx, ci.Report{Steps: []ci.Step{step}})
				time.Sleep(time.Millisecond)
				step.Status, step.Conclusion = ci.Completed, ci.Success
				rep.Report(ctx, ci.Report{Steps: []ci.Step{step}, Annotations: []ci.Annotation{{Level: "notice", Message: step.Name}}})
				steps = append(steps, step)
				if n == 100 {
					time.Sleep(time.Second)
					synctest.Wait()
					stored := b.stored(t).Job("test/0")
					if len(stored.Steps) != 101 || stored.Steps[100].Status != ci.Completed || len(stored.Annotations) != 101 {
						t.Errorf("a second later %d steps and %d annotations are stored, want 101", len(stored.Steps), len(stored.Annotations))
					}
				}
			}
			return ci.Result{Conclusion: ci.Success, Steps: steps}
		}))
		job := run.Job("test/0")
		if len(job.Steps) != 200 || len(job.Annotations) != 200 {
			t.Errorf("%d steps and %d annotations are stored, want 200 each", len(job.Steps), len(job.Annotations))
		}
		for n, a := range job.Annotations {
			if want := fmt.Sprint("step ", n+1); a.Message != want {
				t.Errorf("annotation %d is %q, want %q", n, a.Message, want)
			}
		}
		if reports > 10 {
			t.Errorf("400 reports in 0.2 s were sent as %d", reports)
		}
	})
}

func TestQueueThatFailsForAWhile(t *testing.T) { everyQueue(t, testQueueThatFailsForAWhile) }

func testQueueThatFailsForAWhile(t *testing.T, newBench opener) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		fails := map[string]int{}
		flaky := func(name string) error {
			if fails[name]++; fails[name] < 5 {
				return errors.New("the line is busy")
			}
			return nil
		}
		q := &spy{
			Queue:    b.queue,
			onReport: func(ci.Report) error { return flaky("report") },
			onAppend: func(int64, []byte) error { return flaky("append") },
			onFinish: func(ci.Result) error { return flaky("finish") },
		}
		run := b.work(t, q, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
			rep.Append(ctx, []byte("hello"))
			return succeeded
		}))
		if run.Conclusion != ci.Success || string(b.log(t, "test/0")) != "hello" {
			t.Errorf("the run is %s with log %q, want success with hello", run.Conclusion, b.log(t, "test/0"))
		}
	})
}

func TestLogThatCanNotBeStored(t *testing.T) { everyQueue(t, testLogThatCanNotBeStored) }

func testLogThatCanNotBeStored(t *testing.T, newBench opener) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		q := &spy{Queue: b.queue, onAppend: func(int64, []byte) error { return errors.New("no space left on the disk") }}
		run := b.work(t, q, 1, executor(func(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
			for rep.Append(ctx, make([]byte, 100_000)) == nil {
			}
			<-ctx.Done()
			return ci.Result{Conclusion: ci.Cancelled}
		}))
		j := run.Job("test/0")
		if want := "the log of the job can not be stored: no space left on the disk"; j.Conclusion != ci.Failure || j.Reason != want {
			t.Errorf("the job is %s %q, want failure %q", j.Conclusion, j.Reason, want)
		}
	})
}

// A lease that is lost while the job runs: the job ends, and nothing more of it is stored.
func TestLostLease(t *testing.T) { everyQueue(t, testLostLease) }

func testLostLease(t *testing.T, newBench opener) {
	b := newBench(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	err := runner.Work(ctx, b.queue, ci.Runner{Name: "r"}, 1, executor(func(ctx context.Context, task *ci.Task, rep job.Reporter) ci.Result {
		if err := b.Update(t.Context(), task.Run, ci.Lost{Job: task.Job, Lease: task.Lease, Reason: "gone"}); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		if cause := context.Cause(ctx); errors.Is(cause, job.ErrCancel) {
			t.Errorf("the job ended by %v, which lets steps go on", cause)
		}
		cancel()
		return succeeded
	}))
	if err != nil {
		t.Error(err)
	}
	if j := b.stored(t).Job("test/0"); j.Conclusion != ci.Failure || j.Reason != "gone" {
		t.Errorf("the job is %s %q, want failure, gone", j.Conclusion, j.Reason)
	}
}

func TestNothingRunsBeforeTheStartIsKnown(t *testing.T) {
	everyQueue(t, testNothingRunsBeforeTheStartIsKnown)
}

func testNothingRunsBeforeTheStartIsKnown(t *testing.T, newBench opener) {
	b := newBench(t, 2)
	q := &spy{Queue: b.queue}
	lost := false
	q.onReport = func(ci.Report) error {
		if lost {
			return nil
		}
		lost = true
		j := b.stored(t).Job("test/0")
		return b.Update(t.Context(), b.run, ci.Lost{Job: j.ID, Lease: j.Lease, Reason: "too slow"})
	}
	ran := map[ci.JobID]int{}
	b.work(t, q, 1, executor(func(_ context.Context, task *ci.Task, _ job.Reporter) ci.Result {
		ran[task.Job]++
		return succeeded
	}))
	if len(ran) != 2 || ran["test/0"] != 1 || ran["test/1"] != 1 {
		t.Errorf("jobs ran %v, want each once", ran)
	}
}
