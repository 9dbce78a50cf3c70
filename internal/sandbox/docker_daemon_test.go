//go:build linux

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// dockerSweep kills a process that has a machine, then prepares again.
func dockerSweep(t *testing.T, d *daemon) {
	living := d.provider(t, DockerOptions{})
	kept := dockerOpen(t, living, Spec{Name: "kept", Repo: "repo"})
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDockerOwnerToKill$")
	cmd.Env = append(os.Environ(), "PENSTOCK_TEST_DOCKER="+d.host)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("owner: %q, %v", line, err)
	}
	if left := d.left(t); strings.Count(left, "dies") != 2 {
		t.Errorf("it has no machine: %s", left)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	d.provider(t, DockerOptions{})
	if left := d.left(t); strings.Contains(left, "dies") || !strings.Contains(left, "kept") {
		t.Errorf("after a sweep: %s", left)
	}
	expect(t, kept, "echo alive", "alive\n")
}

// TestDockerOwnerToKill is not a test of its own: the one above runs it in another process and kills it.
func TestDockerOwnerToKill(t *testing.T) {
	host := os.Getenv("PENSTOCK_TEST_DOCKER")
	if host == "" {
		return
	}
	p := (&daemon{host}).provider(t, DockerOptions{})
	if _, err := p.Open(t.Context(), Spec{Name: "dies", Repo: "repo"}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}

// dockerPull has the daemon fetch from a registry that wants a password.
func dockerPull(t *testing.T, d *daemon) {
	registry := httptest.NewServer(oneImage(t, busyBox(t, "bin/sh", "bin/echo", "bin/tail"), "user", "secret"))
	defer registry.Close()
	ref := strings.TrimPrefix(registry.URL, "http://") + "/team/tool:1"
	o := DockerOptions{Network: "none", Image: ref}
	if _, err := d.provider(t, o).Open(t.Context(), Spec{Name: "one", Repo: "repo"}); err == nil || !strings.Contains(err.Error(), ref) {
		t.Errorf("without a password: %v", err)
	}
	var done, total atomic.Int64
	o.Progress = func(_ string, d, n int64) { done.Store(d); total.Store(n) }
	o.Credentials = func(_ context.Context, asked string) (string, string, error) {
		if !strings.HasPrefix(asked, strings.TrimPrefix(registry.URL, "http://")+"/team/") {
			t.Errorf("credentials for %s", asked)
		}
		return "user", "secret", nil
	}
	p := d.provider(t, o)
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo"})
	expectPlain(t, m, "pulled\n", "echo", "pulled")
	if total.Load() == 0 || done.Load() > total.Load() {
		t.Errorf("progress: %d of %d", done.Load(), total.Load())
	}
	if _, err := p.Open(t.Context(), Spec{Name: "one", Repo: "repo", Image: Image{Ref: strings.Replace(ref, "tool", "none", 1)}}); err == nil || !strings.Contains(err.Error(), "team/none") {
		t.Errorf("an image that is not there: %v", err)
	}
	o.Credentials = func(context.Context, string) (string, string, error) { return "", "", errStopped }
	o.Image = strings.Replace(ref, "tool", "other", 1)
	if _, err := d.provider(t, o).Open(t.Context(), Spec{Name: "one", Repo: "repo"}); !errors.Is(err, errStopped) {
		t.Errorf("no credentials: %v", err)
	}
}

// dockerClose closes a provider over its machines.
func dockerClose(t *testing.T, d *daemon) {
	p, err := NewDocker(DockerOptions{Host: d.host, Image: workImage, Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Open(t.Context(), Spec{Name: "one", Repo: "repo"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.(Hosting).Contain(t.Context(), Container{Name: "web", Image: Image{Ref: emptyImage}}); err != nil {
		t.Fatal(err)
	}
	if err := Close(p); err != nil {
		t.Error(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := p.Open(t.Context(), Spec{Name: "one", Repo: "repo"}); err == nil {
		t.Error("a closed provider opens machines")
	}
	if _, err := NewDocker(DockerOptions{Host: "unix://" + filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a daemon that is not there")
	}
}
