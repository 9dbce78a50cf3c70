package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

const (
	// machineHelper as the first argument makes this program measure machines as the user it runs as.
	machineHelper = "measure-machines"
	// neighbours run while a machine is measured.
	neighbours = 20
	// ordinaryUser is an id that owns nothing.
	ordinaryUser = 61_234
)

// machineTimes are the medians that a helper tells.
type machineTimes struct {
	Machine, Spawn time.Duration
}

// measureMachine: opening a machine, running one command and closing it, over running the command, as root and as an
// ordinary user, while others run. Each user is a process of its own, since a process can not change sides.
func measureMachine(ctx context.Context, b *bench) error {
	for _, user := range []struct {
		name  string
		id    int
		limit time.Duration
	}{
		{"root", 0, 15 * time.Millisecond},
		{"an ordinary user", ordinaryUser, 25 * time.Millisecond},
	} {
		if os.Getuid() != 0 && user.id != 0 {
			user.id = os.Getuid()
		}
		got, err := b.machinesAs(ctx, user.id)
		if err != nil {
			return fmt.Errorf("as %s: %w", user.name, err)
		}
		b.over(fmt.Sprintf("open and close a machine as %s, beside %d others", user.name, neighbours),
			sample{wall: got.Machine}, sample{wall: got.Spawn}, 1, "spawn of bash", user.limit)
	}
	return nil
}

// machinesAs starts this program as a user to measure there.
func (b *bench) machinesAs(ctx context.Context, id int) (machineTimes, error) {
	var times machineTimes
	if os.Getuid() != 0 && id != os.Getuid() {
		return times, errors.New("only root can measure that")
	}
	dir := filepath.Join(b.dir, "machines-"+strconv.Itoa(id))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return times, err
	}
	if err := errors.Join(os.Chmod(b.dir, 0o755), os.Chown(dir, id, id)); err != nil {
		return times, err
	}
	self, err := b.copyOfSelf()
	if err != nil {
		return times, err
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, machineHelper, dir, strconv.Itoa(4*b.runs))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.Dir = dir
	if id != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return times, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	return times, json.Unmarshal(out, &times)
}

// copyOfSelf is this program where every user may run it.
func (b *bench) copyOfSelf() (string, error) {
	target := filepath.Join(b.dir, "bench")
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	in, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return target, errors.Join(err, out.Close())
}

// measureMachinesHere is the helper: it measures as the user of this process, in a directory, and prints what it found.
func measureMachinesHere(ctx context.Context, dir string, runs int) (err error) {
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		return err
	}
	defer layers.Close()
	host, err := sandbox.NewHost(layers, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()

	for n := range neighbours {
		m, err := host.Open(ctx, sandbox.Spec{Name: fmt.Sprintf("neighbour-%d", n), Repo: "bench"})
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = m.Exec(ctx, sandbox.Command{Args: []string{"sleep", "600"}, Env: os.Environ()}) // ends with the machine
		}()
		defer func() {
			err = errors.Join(err, m.Close(ctx))
			<-ended
		}()
	}

	b := bench{runs: runs}
	got, err := b.interleave(ctx,
		contestant{name: "machine", run: func(ctx context.Context) (sample, error) { return openAndClose(ctx, host) }},
		contestant{name: "spawn", run: func(ctx context.Context) (sample, error) { return b.spawn(ctx, dir, nil, "bash", "-c", ":") }},
	)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(machineTimes{got[0].wall, got[1].wall})
}

func openAndClose(ctx context.Context, p sandbox.Provider) (sample, error) {
	start := time.Now()
	m, err := p.Open(ctx, sandbox.Spec{Name: "bench", Repo: "bench"})
	if err != nil {
		return sample{}, err
	}
	err = m.Exec(ctx, sandbox.Command{Args: []string{"bash", "-c", ":"}, Env: os.Environ()})
	if err := errors.Join(err, m.Close(ctx)); err != nil {
		return sample{}, err
	}
	return sample{wall: time.Since(start)}, nil
}
