package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	streamJobs  = 64
	streamEvery = 50 * time.Millisecond
	streamPiece = 50_000 // bytes: 1 MB a second
)

const streamWorkflow = `on: workflow_dispatch
jobs:
  s:
    runs-on: stream
    strategy:
      fail-fast: false
      matrix: {a: [0,1,2,3,4,5,6,7], b: [0,1,2,3,4,5,6,7]}
    steps: [run: "true"]
`

// talker is a job that writes 1 MB of log a second.
type talker struct {
	pieces int
	mu     sync.Mutex
	held   []time.Duration // how long the writer was held up, each time
	size   atomic.Int64
}

func (j *talker) Run(ctx context.Context, _ *ci.Task, rep job.Reporter) ci.Result {
	piece := bytes.Repeat([]byte("2026-01-02T03:04:05.0000000Z a line of the log, as long as they are\n"), streamPiece/68)
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for range j.pieces {
		<-tick.C
		began := time.Now()
		if err := rep.Append(ctx, piece); err != nil {
			return ci.Result{Conclusion: ci.Failure, Reason: err.Error()}
		}
		j.size.Add(int64(len(piece)))
		j.mu.Lock()
		j.held = append(j.held, time.Since(began))
		j.mu.Unlock()
	}
	return ci.Result{Conclusion: ci.Success}
}

// measureStreams: many jobs write at once, with nobody and with many who follow.
func measureStreams(ctx context.Context, b *bench) error {
	repo, err := b.newRepository(ctx, "streams-repository", map[string]string{".github/workflows/many.yml": streamWorkflow, ".github/workflows/ci.yml": serverWorkflow})
	if err != nil {
		return err
	}
	m, _, err := b.serve(ctx, filepath.Join(b.dir, "streams"))
	if err != nil {
		return err
	}
	defer func() { m.stop() }()
	m.repository = repo
	if _, err := m.push(ctx); err != nil {
		return err
	}
	grant, err := m.registrationToken(ctx)
	if err != nil {
		return err
	}
	joined, err := runner.Join(ctx, m.url, runner.Joining{Token: grant, Name: "talker", Labels: []string{"stream"}})
	if err != nil {
		return err
	}
	var held [2][]time.Duration
	followers := b.size(200, 8)
	for i, following := range []int{0, followers} {
		j := &talker{pieces: b.size(100, 10)}
		working, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		all.Go(func() {
			_ = runner.Work(working, runner.NewRemote(m.url, joined.Token), runner.Runner{Name: "talker"}, streamJobs, j)
		})
		lost, read, err := m.followed(ctx, int64(i)+2, following)
		stop()
		all.Wait()
		if err != nil {
			return err
		}
		slices.Sort(j.held)
		held[i] = j.held
		if i == 0 {
			continue
		}
		b.rows = append(b.rows, row{
			fmt.Sprintf("%d jobs write 1 MB/s each, %d readers follow: bytes that a reader did not get", streamJobs, following), fmt.Sprint(lost),
			fmt.Sprintf("written %d MB, read %d MB", j.size.Load()>>20, read>>20), "", "none", lost == 0,
		})
	}
	at := func(i int) time.Duration { return held[i][len(held[i])*99/100] }
	b.atMost("a writer is held up there, p99", sample{wall: at(1)}, "nobody follows "+millis(at(0)), streamEvery)
	return b.manyRuns(ctx, m)
}

// followed begins a run of many jobs, follows their logs to the end, and gives how many bytes readers did not get of what there
// was, and how many they got. As many again ask for a log and never read it.
func (m *team) followed(ctx context.Context, id int64, readers int) (lost, read int64, err error) {
	if _, err := m.ask(ctx, "POST", "/api/v3/repos/bench/bench/actions/workflows/many.yml/dispatches", `{"ref":"main"}`); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	open := func(n int, how string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/penstock/repos/bench/bench/runs/%d/jobs/s%%2F%d/log?%s", m.url, id, n%streamJobs, how), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "token "+m.token)
		return http.DefaultClient.Do(req)
	}
	sizes := make([]int64, max(readers, 1))
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	for n := range max(readers, 1) { // one, to see the end
		res, err := open(n, "follow=1")
		if err != nil {
			return 0, 0, err
		}
		all.Go(func() {
			defer res.Body.Close()
			var err error
			if sizes[n], err = io.Copy(io.Discard, res.Body); err != nil {
				failed.Store(&err)
			}
		})
		if readers > 0 && n%10 == 0 {
			stuck, err := open(n, "follow=1")
			if err != nil {
				return 0, 0, err
			}
			defer stuck.Body.Close()
		}
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	for n := range streamJobs {
		res, err := open(n, "follow=1") // all have ended, or end now
		if err != nil {
			return 0, 0, err
		}
		size, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil {
			return 0, 0, err
		}
		for reader := n; reader < readers; reader += streamJobs {
			read += sizes[reader]
			lost += size - sizes[reader]
		}
	}
	return lost, read, nil
}

// manyRuns puts many ended runs into the server's database and starts it anew.
func (b *bench) manyRuns(ctx context.Context, m *team) error {
	m.stop()
	dir := filepath.Join(b.dir, "streams")
	runs := b.size(100_000, 1000)
	if err := fill(ctx, "sqlite:"+filepath.Join(dir, "penstock.db"), runs); err != nil {
		return err
	}
	var starts, lists []time.Duration
	for range b.runs {
		again, took, err := b.serve(ctx, dir)
		if err != nil {
			return err
		}
		m.cmd, m.url = again.cmd, again.url
		m.token = again.token
		starts = append(starts, took)
		for range b.size(50, 3) {
			began := time.Now()
			if _, err := m.ask(ctx, "GET", "/api/v3/repos/bench/bench/actions/runs?per_page=25", ""); err != nil {
				return err
			}
			lists = append(lists, time.Since(began))
		}
		m.stop()
	}
	slices.Sort(starts)
	slices.Sort(lists)
	b.atMost(fmt.Sprintf("start of a server with %d runs until it serves", runs), sample{wall: starts[len(starts)/2]}, "", 300*time.Millisecond)
	b.atMost("its list of runs, p99", sample{wall: lists[len(lists)*99/100]}, "", 50*time.Millisecond)
	return nil
}

// fill stores copies of the first run.
func fill(ctx context.Context, database string, runs int) error {
	s, err := store.Open(ctx, database)
	if err != nil {
		return err
	}
	defer s.Close()
	e, err := engine.New(ctx, s, nil, engine.Options{})
	if err != nil {
		return err
	}
	first, err := e.Run(ctx, 1)
	if err != nil {
		return err
	}
	room := make(chan struct{}, 1000)
	var failed atomic.Pointer[error]
	for range runs {
		room <- struct{}{}
		s.Create(first.Plan, func(id ci.RunID, plan *ci.Plan) (store.Save, error) {
			next := *first
			next.ID, next.Plan = id, plan
			return store.Save{Run: &next}, nil
		}, func(_ store.Save, err error) {
			if err != nil {
				failed.Store(&err)
			}
			<-room
		})
	}
	for range cap(room) {
		room <- struct{}{}
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
