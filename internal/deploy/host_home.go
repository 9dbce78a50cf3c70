package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy/daemon"
)

// home is the directory of an instance.
type home struct {
	dir  string
	spec instanceSpec
}

func (s *instanceSpec) id() instanceID { return instanceID{s.Release, s.Service, s.Index} }

// addr is where the proxy reaches the instance.
func (d *home) addr(s status) string {
	if d.spec.Listen.IsValid() {
		return s.Gate
	}
	return d.own(s)
}

// own is where this machine reaches the instance.
func (d *home) own(s status) string {
	switch {
	case d.spec.Program.Revision.Port == 0:
		return "" // it is not reached
	case s.Port != 0:
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	case d.spec.Plain:
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

// describe stores what an instance is, which makes its directory one that is adopted.
func (h *Host) describe(d *home) error {
	if ids := d.spec.Program.layers(); len(ids) > 0 {
		if err := h.o.Layers.SetRef(layerRef+filepath.Base(d.dir), ids...); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(d.dir, specFile), d.spec)
}

// keeperWait is how long a keeper may take until it listens.
const keeperWait = 20 * time.Second

// recruit is a keeper that was started and waits for orders.
type recruit struct {
	dir  string
	proc *os.Process // nil if it could not be started
	done chan struct{}
	in   io.WriteCloser
	out  *os.File
}

// launch starts a keeper for a directory that has none, and makes the directory if it is missing. The keeper begins with
// the lock, so that there is no moment in which nobody could tell that it lives.
func (h *Host) launch(dir string) (_ *recruit, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	errs, err := os.OpenFile(filepath.Join(dir, errorFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer errs.Close()
	self, err := daemon.Program()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: self, Args: []string{"penstock", "instance", dir}, Dir: "/", Env: keeperEnv(),
		Stderr: errs, ExtraFiles: []*os.File{lock}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	r := &recruit{dir: dir, done: make(chan struct{})}
	if r.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	theirs := (*os.File)(nil)
	if r.out, theirs, err = os.Pipe(); err != nil {
		r.in.Close()
		return nil, err
	}
	defer theirs.Close()
	cmd.Stdout = theirs
	if err := cmd.Start(); err != nil {
		r.dismiss()
		return nil, err
	}
	r.proc = cmd.Process
	go func() { // only so that nothing is left of it: it may outlive this process
		_ = cmd.Wait()
		close(r.done)
	}()
	with := setup{Plain: h.o.Plain}
	if !h.plain() {
		with = setup{Layers: h.o.Layers.Dir()}
	}
	if err := json.NewEncoder(r.in).Encode(with); err != nil {
		r.dismiss()
		return nil, errors.Join(keeperFailed(dir), err)
	}
	return r, nil
}

// begin gives a keeper its orders, and waits until it listens.
func (r *recruit) begin(ctx context.Context, o orders) error {
	defer r.out.Close()
	defer context.AfterFunc(ctx, func() { r.in.Close(); r.out.Close() })()
	err := json.NewEncoder(r.in).Encode(o)
	err = errors.Join(err, r.in.Close())
	_ = r.out.SetReadDeadline(time.Now().Add(keeperWait))
	if line, bad := bufio.NewReaderSize(r.out, 16).ReadString('\n'); line != "ready\n" {
		_ = r.proc.Kill()
		return errors.Join(keeperFailed(r.dir), err, bad)
	}
	return nil
}

// dismiss ends a keeper that was given no orders: the end of its input tells it.
func (r *recruit) dismiss() {
	r.in.Close()
	r.out.Close()
	if r.proc == nil {
		return
	}
	select {
	case <-r.done:
	case <-time.After(haltWait):
		_ = r.proc.Kill()
		<-r.done
	}
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
	if !d.spec.Plain {
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

// refill starts a keeper in advance, which the next instance then need not wait for, unless there is one or nothing runs.
func (h *Host) refill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.spare != nil || !slices.ContainsFunc(slices.Collect(maps.Values(h.instances)), func(i *instance) bool { return i.wanted() != nil }) {
		return
	}
	r, err := h.launch(filepath.Join(h.o.Dir, newDirID()))
	if err != nil {
		h.o.Log("start a keeper in advance: %v", err) // who needs one will hear it too
		return
	}
	h.spare = r
}

// recruit gives a keeper for a new instance.
func (h *Host) recruit() (*recruit, error) {
	h.mu.Lock()
	r := h.spare
	h.spare = nil
	h.mu.Unlock()
	if r != nil && alive(r.dir) {
		return r, nil
	}
	return h.launch(filepath.Join(h.o.Dir, newDirID()))
}

// dropSpare ends the keeper that was started in advance.
func (h *Host) dropSpare() {
	h.mu.Lock()
	r := h.spare
	h.spare = nil
	h.mu.Unlock()
	if r == nil {
		return
	}
	r.dismiss()
	if err := h.discard(&home{dir: r.dir}, false); err != nil {
		h.o.Log("remove the directory of a keeper in advance: %v", err)
	}
}

// cleanUp lets go of what no instance needs any more.
func (h *Host) cleanUp() {
	h.mu.Lock()
	artifacts, idle := map[string]bool{}, true
	for _, i := range h.instances {
		if w := i.wanted(); w != nil {
			artifacts[w.Revision.Artifact], idle = true, false
		}
	}
	h.mu.Unlock()
	if idle {
		h.dropSpare()
	}
	if err := h.dropArtifacts(artifacts); err != nil {
		h.o.Log("forget artifacts: %v", err)
	}
}
