package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/cd"
)

// decisionApp answers with what says has, by a status of its own.
const decisionApp = `import http.server, os

status, says = open("says").read().split()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else int(status))
        self.send_header("Content-Length", str(len(says)))
        self.end_headers()
        self.wfile.write(says.encode())
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
`

// decisionRelease looks each second, the least that there is, and takes no step by itself while it is measured.
const decisionRelease = `services:
  web: {command: python3 server.py, port: 8000, health: {path: /health, interval: 100ms}}
environments:
  production:
    hosts: [web.localhost]
    watch: {for: 0s}
    strategy:
      canary: {interval: 1s, threshold: 1, stepWeights: [50, 60], minSample: 20, metrics: [{name: request-success-rate, interval: 10s, thresholdRange: {min: 90}}]}
`

// measureDecision: how long it takes, under the load of users, until all of them are served by the old revision again: after the
// sample that shows that the new one fails, and after somebody has asked for it.
func measureDecision(ctx context.Context, b *bench) (err error) {
	repo, err := b.newRepository(ctx, "decision-repository", map[string]string{"penstock.yaml": decisionRelease, "server.py": decisionApp, "says": "200 old\n"})
	if err != nil {
		return err
	}
	m, _, err := b.serve(ctx, filepath.Join(b.dir, "decision"), "--runners", "0", "--proxy", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() {
		m.stop()
		_, stopped := output(context.WithoutCancel(ctx), b.penstock, "stop", "--data", filepath.Join(b.dir, "decision"))
		err = errors.Join(err, stopped)
	}()
	m.repository = repo
	if err := m.release(ctx, "200 old"); err != nil {
		return err
	}
	if _, err := m.until(ctx, cd.Live); err != nil {
		return err
	}
	users := m.visit(ctx)
	defer users.stop()
	var seen, served, said, aborted []time.Duration
	for range b.size(10, 2) {
		users.forget("new")
		if err := m.release(ctx, "500 new"); err != nil {
			return err
		}
		failed, err := m.until(ctx, cd.Reverting, cd.Failed)
		if err != nil {
			return err
		}
		said = append(said, time.Since(failed.Sampled))
		if _, err := m.until(ctx, cd.Failed); err != nil {
			return err
		}
		first, last := users.heard("new")
		seen, served = append(seen, last.Sub(first)), append(served, last.Sub(failed.Sampled))
	}
	for range b.size(10, 2) {
		if err := m.release(ctx, "200 new"); err != nil {
			return err
		}
		shifting, err := m.until(ctx, cd.Shifting)
		if err != nil {
			return err
		}
		users.forget("new")
		users.await("new")
		asked := time.Now()
		if _, err := m.ask(ctx, "POST", fmt.Sprintf("/api/penstock/repos/bench/bench/releases/%d/abort", shifting.ID), `{}`); err != nil {
			return err
		}
		if _, err := m.until(ctx, cd.Aborted); err != nil {
			return err
		}
		_, last := users.heard("new")
		aborted = append(aborted, last.Sub(asked))
	}
	for _, r := range []struct {
		what  string
		times []time.Duration
		limit time.Duration
	}{
		{"the sample that decides until the last answer of what is taken back", served, time.Second},
		{"the same until the release says so", said, time.Second},
		{"the first answer of a bad canary until the last, looked at each second", seen, 2 * time.Second},
		{"abort until the last answer of what is taken back", aborted, time.Second},
	} {
		slices.Sort(r.times)
		b.atMost(r.what, sample{wall: r.times[len(r.times)/2]}, "", r.limit)
		b.atMost("the same, the slowest of "+fmt.Sprint(len(r.times)), sample{wall: r.times[len(r.times)-1]}, "", r.limit)
	}
	return nil
}

// release pushes what the application is to say and begins a release of it.
func (m *team) release(ctx context.Context, says string) error {
	if err := os.WriteFile(filepath.Join(m.repository.dir, "says"), []byte(says+"\n"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"-c", "user.name=Bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "--allow-empty", "--all", "--message", "again"},
		{"push", "--quiet", m.remote, "main"},
	} {
		if _, err := output(ctx, "git", append([]string{"-C", m.repository.dir}, args...)...); err != nil {
			return err
		}
	}
	text, err := m.ask(ctx, "POST", "/api/penstock/repos/bench/bench/releases", `{"environment":"production"}`)
	if err != nil {
		return err
	}
	var begun api.ReleaseView
	err = json.Unmarshal(text, &begun)
	m.last = begun.ID
	return err
}

// until waits until the release that was begun last is in one of these phases.
func (m *team) until(ctx context.Context, phases ...cd.Phase) (api.ReleaseView, error) {
	for after := int64(-1); ; {
		var v api.EnvironmentView
		var now api.ReleaseView
		if err := m.get(ctx, fmt.Sprintf("environments/production?after=%d", after), &v); err != nil {
			return now, err
		}
		if err := m.get(ctx, fmt.Sprintf("releases/%d", m.last), &now); err != nil {
			return now, err
		}
		switch {
		case slices.Contains(phases, now.Phase):
			return now, nil
		case now.Phase.Over():
			return now, fmt.Errorf("the release is %s: %s", now.Phase, now.Reason)
		}
		after = v.Version
	}
}

func (m *team) get(ctx context.Context, path string, into any) error {
	text, err := m.ask(ctx, "GET", "/api/penstock/repos/bench/bench/"+path, "")
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// visitors are users of web.localhost, all the time.
type visitors struct {
	stop func()

	mu    sync.Mutex
	first map[string]time.Time // when they were answered so first, since that was forgotten
	last  map[string]time.Time
}

func (m *team) visit(ctx context.Context) *visitors {
	ctx, cancel := context.WithCancel(ctx)
	v := &visitors{first: map[string]time.Time{}, last: map[string]time.Time{}}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.proxy+"/", nil)
				if err != nil {
					return
				}
				req.Host = "web.localhost"
				if res, err := http.DefaultClient.Do(req); err == nil {
					said, _ := io.ReadAll(io.LimitReader(res.Body, 100))
					res.Body.Close()
					v.hear(strings.TrimSpace(string(said)))
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	v.stop = func() { cancel(); all.Wait() }
	return v
}

func (v *visitors) hear(said string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last[said] = time.Now()
	if v.first[said].IsZero() {
		v.first[said] = v.last[said]
	}
}

// heard tells when they were answered so first and last.
func (v *visitors) heard(said string) (first, last time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.first[said], v.last[said]
}

func (v *visitors) forget(said string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.first, said)
}

// await waits until they are answered so.
func (v *visitors) await(said string) {
	for first := (time.Time{}); first.IsZero(); first, _ = v.heard(said) {
		time.Sleep(time.Millisecond)
	}
}
