package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/pgtest"
)

// cluster is servers of one database and one shared directory.
type cluster struct {
	t        *testing.T
	dir      string
	database string
	members  [3]atomic.Pointer[member]
}

// member is one of them, as its scripts see it.
type member struct {
	ready
	process *exec.Cmd
}

// start starts a server, or starts it again, and waits until it serves.
func (c *cluster) start(n int) {
	c.t.Helper()
	name := fmt.Sprintf("server%d", n)
	file := filepath.Join(c.dir, name+".ready")
	_ = os.Remove(file)
	listen := "127.0.0.1:0"
	if before := c.members[n].Load(); before != nil { // where its clients look for it
		listen = strings.TrimPrefix(before.URL, "http://")
	}
	cmd := exec.Command("penstock", "serve", "--database", c.database, "--shared", filepath.Join(c.dir, "shared"), "--data", filepath.Join(c.dir, name), "--name", name,
		"--listen", listen, "--ready-file", file, "--runners", "2", "--sandbox", "none", "--actions-url", "file:///nowhere")
	cmd.Env = append(os.Environ(), "HOME="+c.dir)
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	m := &member{process: cmd}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			if err := json.Unmarshal(text, &m.ready); err != nil {
				c.t.Fatal(err)
			}
			c.members[n].Store(m)
			return
		}
		if time.Now().After(deadline) {
			m.kill()
			c.t.Fatalf("%s does not come up", name)
		}
	}
}

func (m *member) kill() {
	_ = m.process.Process.Kill()
	_ = m.process.Wait()
}

// call asks a server's API; out may be nil. It gives the status, 0 if nobody answered.
func (m *member) call(ctx context.Context, method, path string, in, out any) int {
	body, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.URL+"/api/v3/repos/acme/shop"+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "token "+m.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || out != nil && json.Unmarshal(text, out) != nil {
		return 0
	}
	return res.StatusCode
}

// TestServersKilled has three servers share a database under load while one after the other is killed at random and started
// again: each job is begun once, each is told what became of it, and what ended well has its whole log, whichever server is asked.
func TestServersKilled(t *testing.T) {
	const jobs, kills = 4, 6
	pg, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	c := &cluster{t: t, dir: t.TempDir(), database: pg.Database(t)}
	t.Cleanup(func() {
		for n := range c.members {
			if m := c.members[n].Load(); m != nil {
				m.kill()
			}
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
			for _, name := range logs {
				text, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", filepath.Base(name), text)
			}
		}
	})
	for n := range c.members {
		c.start(n)
	}
	ran := filepath.Join(c.dir, "ran")
	if err := os.Mkdir(ran, 0o700); err != nil {
		t.Fatal(err)
	}
	c.push(fmt.Sprintf(`on: {workflow_dispatch: {inputs: {n: {}}}}
jobs:
  work:
    strategy: {fail-fast: false, matrix: {k: [1, 2, 3, 4]}}
    runs-on: ubuntu-latest
    steps:
      - run: |
          echo begun >> %s/${{ github.run_id }}-${{ matrix.k }}
          sleep 0.$((RANDOM %% 5))
          echo "the last line of ${{ github.run_id }}-${{ matrix.k }}"
`, ran))

	// A run may have been begun by a server that was killed before it answered.
	done, asked := make(chan struct{}), make(chan int)
	go func() {
		begun := 0
		for n := 0; ; n++ {
			if c.members[n%3].Load().dispatch(t.Context(), n)/100 == 2 {
				begun++
			}
			select {
			case <-time.After(250 * time.Millisecond):
			case <-done:
				asked <- begun
				return
			}
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	for range kills {
		time.Sleep(time.Duration(500+random.IntN(2000)) * time.Millisecond)
		n := random.IntN(3)
		c.members[n].Load().kill()
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		c.start(n)
	}
	close(done)
	runs := <-asked

	lost, number := 0, 1
	for ; ; number++ {
		if status := c.members[0].Load().call(t.Context(), "GET", fmt.Sprintf("/actions/runs/%d", number), nil, nil); status == http.StatusNotFound && number > runs {
			break
		}
		for _, j := range c.ended(number, jobs) {
			_, k, _ := strings.Cut(j.Name, "(")
			id := fmt.Sprintf("%d-%s", number, strings.TrimSuffix(k, ")"))
			began, _ := os.ReadFile(filepath.Join(ran, id))
			times := bytes.Count(began, []byte("begun"))
			log := c.log(number%3, j.ID)
			switch {
			case j.Conclusion == "success" && times == 1 && strings.Contains(log, "the last line of "+id+"\n"):
			case j.Conclusion == "failure" && times <= 1:
				lost++
			default:
				t.Errorf("job %s: %s, begun %d times, log:\n%s", id, j.Conclusion, times, log)
			}
		}
	}
	if lost > 2*kills {
		t.Errorf("%d jobs were lost with %d kills of servers that run 2 at a time", lost, kills)
	}
	t.Logf("%d jobs of %d were lost with %d kills", lost, (number-1)*jobs, kills)
}

// push makes the repository acme/shop with one workflow.
func (c *cluster) push(text string) {
	c.t.Helper()
	dir := filepath.Join(c.dir, "shop")
	file := filepath.Join(dir, ".github/workflows/work.yml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	first := c.members[0].Load()
	to := strings.Replace(first.URL, "://", "://x:"+first.Token+"@", 1) + "/acme/shop"
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=dev", "-c", "user.email=dev@example.com", "commit", "-qm", "work"}, {"push", "-q", to, "main"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

func (m *member) dispatch(ctx context.Context, n int) int {
	return m.call(ctx, "POST", "/actions/workflows/work.yml/dispatches", map[string]any{"ref": "main", "inputs": map[string]any{"n": fmt.Sprint(n)}}, nil)
}

type endedJob struct {
	ID         int64
	Name       string
	Status     string
	Conclusion string
}

// ended waits until all jobs of a run have ended, as any of the servers tells it.
func (c *cluster) ended(run, jobs int) []endedJob {
	c.t.Helper()
	var told struct{ Jobs []endedJob }
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		told.Jobs = nil
		status := c.members[run%3].Load().call(c.t.Context(), "GET", fmt.Sprintf("/actions/runs/%d/jobs", run), nil, &told)
		open := 0
		for _, j := range told.Jobs {
			if j.Status != "completed" {
				open++
			}
		}
		if status == http.StatusOK && len(told.Jobs) == jobs && open == 0 {
			return told.Jobs
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("run %d does not end: %d %+v", run, status, told.Jobs)
		}
	}
}

func (c *cluster) log(server int, job int64) string {
	m := c.members[server].Load()
	req, err := http.NewRequestWithContext(c.t.Context(), "GET", fmt.Sprintf("%s/api/v3/repos/acme/shop/actions/jobs/%d/logs", m.URL, job), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "token "+m.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}
