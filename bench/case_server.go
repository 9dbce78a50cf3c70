package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
)

// team is a server that is measured, and its one repository.
type team struct {
	cmd        *exec.Cmd
	url, token string
	proxy      string       // URL, with --proxy
	last       cd.ReleaseID // that was begun
	repository repository
	remote     string
}

// serve starts a server on a directory and says how long it took to serve.
func (b *bench) serve(ctx context.Context, dir string, args ...string) (*team, time.Duration, error) {
	ready := dir + ".ready"
	_ = os.Remove(ready)
	m := &team{cmd: exec.CommandContext(ctx, b.penstock, append([]string{"serve", "--data", dir, "--listen", "127.0.0.1:0", "--ready-file", ready, "--drain", "1s"}, args...)...)}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	m.cmd.Stderr = log
	began := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, 0, err
	}
	for {
		text, err := os.ReadFile(ready)
		if err == nil {
			took := time.Since(began)
			var told struct {
				URL, Token string
				Proxy      string `json:"proxy_url"`
			}
			if err := json.Unmarshal(text, &told); err != nil {
				return nil, 0, err
			}
			m.url, m.token, m.proxy = told.URL, told.Token, told.Proxy
			m.remote = strings.Replace(m.url, "://", "://x:"+m.token+"@", 1) + "/bench/bench"
			return m, took, nil
		}
		if time.Since(began) > time.Minute {
			m.stop()
			return nil, 0, fmt.Errorf("the server does not come up: see %s.log", dir)
		}
		time.Sleep(time.Millisecond)
	}
}

func (m *team) stop() {
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	_ = m.cmd.Wait()
}

// ask makes a request and gives the body.
func (m *team) ask(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "token "+m.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	return text, err
}

var runOfPush = regexp.MustCompile(`/actions/runs/(\d+)`)

// push makes an empty commit, pushes it, and gives the time until a reader of the log saw the first step's output, from
// the moment on that the push was acknowledged.
func (m *team) push(ctx context.Context) (time.Duration, error) {
	if _, err := output(ctx, "git", "-C", m.repository.dir, "-c", "user.name=Bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "--allow-empty", "--message", "again"); err != nil {
		return 0, err
	}
	push := exec.CommandContext(ctx, "git", "-C", m.repository.dir, "push", m.remote, "main")
	var said bytes.Buffer
	push.Stderr = &said
	if err := push.Run(); err != nil {
		return 0, fmt.Errorf("git push: %w: %s", err, said.String())
	}
	acknowledged := time.Now()
	run := runOfPush.FindStringSubmatch(said.String())
	if run == nil {
		return 0, fmt.Errorf("the push began no run: %s", said.String())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/api/penstock/repos/bench/bench/runs/"+run[1]+"/jobs/a/log?follow=1", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "token "+m.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() == "here it is" {
			return time.Since(acknowledged), nil
		}
	}
	return 0, fmt.Errorf("run %s printed nothing", run[1])
}

const serverWorkflow = `on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps: [run: echo here it is]
`

const manyWorkflow = `on: workflow_dispatch
jobs:
  a:
    runs-on: nowhere
    strategy:
      matrix: {a: [0,1,2,3,4,5,6,7,8,9], b: [0,1,2,3,4,5,6,7,8,9], c: [0,1]}
    steps: [run: "true"]
`

// measureServer: what a team waits for, and what a server costs that does nothing.
func measureServer(ctx context.Context, b *bench) error {
	repo, err := b.newRepository(ctx, "server-repository", map[string]string{".github/workflows/ci.yml": serverWorkflow, ".github/workflows/many.yml": manyWorkflow})
	if err != nil {
		return err
	}
	m, _, err := b.serve(ctx, filepath.Join(b.dir, "server"))
	if err != nil {
		return err
	}
	defer m.stop()
	m.repository = repo
	if err := b.pushes(ctx, m); err != nil {
		return err
	}
	if err := b.queued(ctx, m); err != nil {
		return err
	}
	if err := b.idle(m); err != nil {
		return err
	}
	if err := b.idleRunners(ctx, m); err != nil {
		return err
	}
	var starts []time.Duration
	for range b.runs {
		m.stop()
		again, took, err := b.serve(ctx, filepath.Join(b.dir, "server"))
		if err != nil {
			return err
		}
		m.cmd = again.cmd
		starts = append(starts, took)
	}
	slices.Sort(starts)
	b.atMost("start of a server until it serves", sample{wall: starts[len(starts)/2]}, "", 300*time.Millisecond)
	return nil
}

func (b *bench) pushes(ctx context.Context, m *team) error {
	var times []time.Duration
	for i := range b.size(40, 3) + 1 {
		t, err := m.push(ctx)
		if err != nil {
			return err
		}
		if i > 0 {
			times = append(times, t)
		}
	}
	slices.Sort(times)
	b.atMost("push acknowledged until the first step's output is seen, p50", sample{wall: times[len(times)/2]}, "", 150*time.Millisecond)
	b.atMost("the same, p99", sample{wall: times[len(times)*99/100]}, "", 500*time.Millisecond)
	return nil
}

// nothing is a job that does nothing.
type nothing struct{ done *atomic.Int64 }

func (n nothing) Run(context.Context, *ci.Task, job.Reporter) ci.Result {
	n.done.Add(1)
	return ci.Result{Conclusion: ci.Success}
}

// queued has runners elsewhere, of which each job does nothing, carry queued jobs through the server over HTTP, while
// somebody reads the API.
func (b *bench) queued(ctx context.Context, m *team) error {
	runs := b.size(5, 1)
	for range runs {
		if _, err := m.ask(ctx, "POST", "/api/v3/repos/bench/bench/actions/workflows/many.yml/dispatches", `{"ref":"main"}`); err != nil {
			return err
		}
	}
	jobs := int64(runs) * 200
	grant, err := m.registrationToken(ctx)
	if err != nil {
		return err
	}
	joined, err := runner.Join(ctx, m.url, runner.Joining{Token: grant, Name: "bench", Labels: []string{"nowhere"}})
	if err != nil {
		return err
	}
	var done atomic.Int64
	var reads []time.Duration
	working, stop := context.WithCancel(ctx)
	defer stop()
	began := time.Now()
	var all sync.WaitGroup
	all.Go(func() {
		_ = runner.Work(working, runner.NewRemote(m.url, joined.Token), runner.Runner{Name: "bench"}, 4*runtime.NumCPU(), nothing{&done})
	})
	for done.Load() < jobs && ctx.Err() == nil {
		asked := time.Now()
		if _, err := m.ask(ctx, "GET", "/api/v3/repos/bench/bench/actions/runs?per_page=25", ""); err != nil {
			return err
		}
		reads = append(reads, time.Since(asked))
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(began)
	stop()
	all.Wait()
	speed := float64(jobs) / took.Seconds()
	slices.Sort(reads)
	b.rows = append(b.rows, row{
		fmt.Sprintf("%d queued jobs that do nothing, by a runner elsewhere", jobs), fmt.Sprintf("%.0f jobs/s", speed), "", fmt.Sprintf("%.1fx the target", speed/100), "at least 100 jobs/s", speed >= 100,
	})
	b.atMost("the list of runs under that load, p99", sample{wall: reads[len(reads)*99/100]}, "", 50*time.Millisecond)
	return nil
}

// proc is a file in which the system tells of the server.
func (m *team) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.cmd.Process.Pid), name)
}

// ticks is the server's processor time in hundredths of a second.
func (m *team) ticks() (int, error) {
	text, err := os.ReadFile(m.proc("stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system, nil
}

// idle looks at what a server takes of the machine while nothing happens.
func (b *bench) idle(m *team) error {
	time.Sleep(2 * time.Second) // what was begun ends
	before, err := m.ticks()
	if err != nil {
		return nil // not this system's way
	}
	window := time.Duration(b.size(10, 1)) * time.Second
	time.Sleep(window)
	after, err := m.ticks()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(m.proc("status"))
	if err != nil {
		return err
	}
	resident := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(text)
	if resident == nil {
		return fmt.Errorf("the system does not say what the server has in memory")
	}
	kib, _ := strconv.Atoi(string(resident[1]))
	const limit = 80
	b.rows = append(b.rows, row{"memory of an idle server, after the above", fmt.Sprintf("%d MB", kib/1024), "", fmt.Sprintf("%.2f of the limit", float64(kib)/1024/limit), "under 80 MB", kib/1024 < limit})
	share := float64(after-before) / 100 / window.Seconds() * 100
	b.rows = append(b.rows, row{"its processor time", fmt.Sprintf("%.1f %% of a core", share), "", "", "not measurable", share < 1})
	return nil
}
