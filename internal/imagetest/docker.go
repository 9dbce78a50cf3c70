package imagetest

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
	"syscall"
	"time"
)

// Docker is a docker daemon of its own: its socket, its images and all it keeps lie in one directory. It has no
// network, so it runs beside any other one.
type Docker struct {
	Host string // unix:///…, for DOCKER_HOST
	cmd  *exec.Cmd
	dir  string
	done chan error
}

// dockerStart and dockerStop bound how long a daemon may take.
const (
	dockerStart = time.Minute
	dockerStop  = 20 * time.Second
)

// StartDocker starts a daemon that keeps everything in a new directory below dir. It must be root's.
func StartDocker(ctx context.Context, dir string) (*Docker, error) {
	own, err := os.MkdirTemp(dir, "dockerd-")
	if err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	d := &Docker{Host: "unix://" + filepath.Join(own, "s"), dir: own, done: make(chan error, 1)}
	config := filepath.Join(own, "daemon.json") // not that of the machine
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	d.cmd = exec.Command("dockerd", "--config-file", config, "--host", d.Host, "--data-root", filepath.Join(own, "data"),
		"--exec-root", filepath.Join(own, "exec"), "--pidfile", filepath.Join(own, "pid"), "--iptables=false", "--ip6tables=false", "--bridge=none")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := d.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	ready := make(chan error, 1)
	go d.read(log, ready)
	ctx, cancel := context.WithTimeout(ctx, dockerStart)
	defer cancel()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start dockerd: %w", err), d.Close())
	}
	return d, nil
}

// read passes over the daemon's log until its end, and says on ready when it can be called.
func (d *Docker) read(log io.Reader, ready chan<- error) {
	var last string
	for lines := bufio.NewScanner(log); lines.Scan(); {
		last = lines.Text()
		if strings.Contains(last, "API listen on") {
			ready <- nil
			ready = make(chan error, 1) // it has been said
		}
	}
	err := d.cmd.Wait()
	ready <- fmt.Errorf("it ended: %v: %s", err, last)
	d.done <- err
}

// Run calls the docker client and gives what it printed. stdin may be nil.
func (d *Docker) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.Host, "DOCKER_CONFIG="+filepath.Join(d.dir, "client"))
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Close ends the daemon and removes all it kept.
func (d *Docker) Close() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.done:
	case <-time.After(dockerStop):
		if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-d.done
	}
	return os.RemoveAll(d.dir)
}
