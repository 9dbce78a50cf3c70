package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// home is the directory of an instance.
type home struct {
	dir  string
	spec instanceSpec
}

func (s *instanceSpec) id() instanceID { return instanceID{s.Release, s.Service, s.Index} }

// addr is where the proxy reaches the instance.
func (d *home) addr(s status) string {
	switch {
	case s.Port != 0:
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	case d.spec.Plain != "":
		return "" // its port is not yet known
	}
	return "unix:" + filepath.Join(d.dir, dialSocket)
}

// mark is in the environment of what runs for an instance without isolation.
func mark(dir string) string { return "PENSTOCK_INSTANCE=" + filepath.Base(dir) }

// alive says whether an instance has a keeper.
func alive(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// makeHome makes the directory of a new instance.
func (h *Host) makeHome(spec instanceSpec) (*home, error) {
	d := &home{dir: filepath.Join(h.o.Dir, newDirID()), spec: spec}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if ids := spec.Program.layers(); len(ids) > 0 {
		err = h.o.Layers.SetRef(layerRef+filepath.Base(d.dir), ids...)
	}
	if err == nil {
		err = writeJSON(filepath.Join(d.dir, specFile), spec)
	}
	if err != nil {
		return nil, errors.Join(err, h.discard(d, false))
	}
	return d, nil
}

// keeperWait is how long a keeper may take until it listens.
const keeperWait = 20 * time.Second

// startKeeper starts the keeper of an instance that has none. It begins with the lock, so that there is no moment in which
// nobody could tell that it lives.
func (h *Host) startKeeper(ctx context.Context, d *home, secrets map[string]string) error {
	lock, err := os.OpenFile(filepath.Join(d.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", d.dir, err)
	}
	errs, err := os.OpenFile(filepath.Join(d.dir, errorFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer errs.Close()
	self, err := executable()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: self, Args: []string{"penstock", "instance", d.dir}, Dir: "/", Env: keeperEnv(),
		Stderr: errs, ExtraFiles: []*os.File{lock}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, ours, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	defer out.Close()
	cmd.Stdout = ours
	err = cmd.Start()
	ours.Close()
	if err != nil {
		in.Close()
		return err
	}
	go func() { _ = cmd.Wait() }() // only so that nothing is left of it: it may outlive this process
	defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
	err = json.NewEncoder(in).Encode(secretInput{secrets})
	err = errors.Join(err, in.Close())
	_ = out.SetReadDeadline(time.Now().Add(keeperWait))
	if line, bad := bufio.NewReaderSize(out, 16).ReadString('\n'); line != "ready\n" {
		_ = cmd.Process.Kill()
		return errors.Join(keeperFailed(d.dir), err, bad)
	}
	return nil
}

// errorFile is where a keeper says why it could not go on.
const errorFile = "error"

// keeperFailed is the last that a keeper has said.
func keeperFailed(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, errorFile))
	if err != nil || len(text) == 0 {
		return errors.New("its keeper was killed")
	}
	return errors.New(clip(strings.TrimPrefix(strings.TrimSpace(string(text)), "penstock: "), maxReason))
}

// executable is this program, also when its file has another one in its place by now.
func executable() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

// keeperEnv is the environment of keepers: nothing of the server's that may be secret.
func keeperEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// call asks a keeper something. The answers are read from the decoder; ctx's end closes it.
func (d *home) call(ctx context.Context, r request) (*json.Decoder, func(), error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.dir, controlSocket))
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	if err := json.NewEncoder(c).Encode(r); err != nil {
		stop()
		c.Close()
		return nil, nil, err
	}
	return json.NewDecoder(c), func() { stop(); c.Close() }, nil
}

// ask asks a keeper something that has one answer.
func (d *home) ask(ctx context.Context, r request, answer any) error {
	in, done, err := d.call(ctx, r)
	if err != nil {
		return err
	}
	defer done()
	return in.Decode(answer)
}

// haltWait is how long a keeper may take beyond its program's grace.
const haltWait = 10 * time.Second

// halt ends an instance: it asks the keeper, which asks the program. A keeper that does not answer is killed.
func (h *Host) halt(ctx context.Context, d *home) error {
	asking, cancel := context.WithTimeout(ctx, grace(d.spec.Program.Revision)+haltWait)
	defer cancel()
	for alive(d.dir) {
		if d.ask(asking, request{Op: "stop"}, &status{}) != nil && asking.Err() != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := killKeeper(d.dir); err != nil {
				return err
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil { // it has still to put things away, or has not begun to listen
			return err
		}
	}
	return h.endLeft(d)
}

// endLeft ends what a keeper may have left behind.
func (h *Host) endLeft(d *home) error {
	if d.spec.Plain == "" {
		return nil // the machine ends with its keeper
	}
	return endMarked(mark(d.dir))
}

// killKeeper kills an instance's keeper.
func killKeeper(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("the keeper of %s can not be found", dir)
	}
	if !alive(dir) { // the number may be another's
		return nil
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// pause waits a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// discard removes the directory of an instance that has ended, or keeps its logs.
func (h *Host) discard(d *home, keep bool) error {
	var err error
	name := filepath.Base(d.dir)
	if h.o.Layers != nil {
		err = h.o.Layers.SetRef(layerRef + name)
	}
	if keep {
		for _, f := range []string{dialSocket, controlSocket, stateFile, errorFile, lockFile} {
			_ = os.Remove(filepath.Join(d.dir, f)) // they only take room
		}
		if os.Rename(d.dir, filepath.Join(h.o.Dir, goneDir, name)) == nil {
			now := time.Now()
			_ = os.Chtimes(filepath.Join(h.o.Dir, goneDir, name), now, now) // a wrong time only has it removed sooner
			return errors.Join(err, h.prune())
		}
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// prune removes the logs of the instances that ended first.
func (h *Host) prune() error {
	gone := filepath.Join(h.o.Dir, goneDir)
	entries, err := os.ReadDir(gone)
	if err != nil || len(entries) <= goneKept {
		return err
	}
	var infos []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range infos[min(goneKept, len(infos)):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(gone, info.Name())))
	}
	return err
}

// renewHome changes what an instance without a keeper is.
func (h *Host) renewHome(d *home, spec instanceSpec) error {
	d.spec = spec
	if ids := spec.Program.layers(); len(ids) > 0 {
		if err := h.o.Layers.SetRef(layerRef+filepath.Base(d.dir), ids...); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(d.dir, specFile), spec)
}

// cleanUp lets go of what no instance needs any more.
func (h *Host) cleanUp() {
	h.mu.Lock()
	artifacts := map[string]bool{}
	for _, i := range h.instances {
		if w := i.wanted(); w != nil {
			artifacts[w.Revision.Artifact] = true
		}
	}
	h.mu.Unlock()
	if err := h.dropArtifacts(artifacts); err != nil {
		h.o.Log("forget artifacts: %v", err)
	}
}
