package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// HostOptions are what the target of this host works with.
type HostOptions struct {
	Options
	// Dir holds a directory for each instance. It is one target's at a time, and short: sockets are in it.
	Dir string
	// Layers are those that machines show, Images come from here.
	Layers *layer.Store
	Images container.Images
	// Provider opens the machines of Run. Instances run in machines of the same kind: in plain processes if it is a
	// *sandbox.None, else isolated.
	Provider sandbox.Provider
	// Plain is the directory for the files of plain processes.
	Plain string
	// Listen is the address of this machine at which others reach instances; without one they are reached by sockets in Dir. Who
	// may connect is said by Admit.
	Listen netip.Addr
	// Fetch, if not nil, gets images that are not here. Where it can not, their registry is asked.
	Fetch func(ctx context.Context, images *image.Store, ref string) error
	// Log is told what a person may want to know and nobody waits for.
	Log func(format string, args ...any)

	logFile int64  // bytes; 0 takes the usual
	boot    string // tells one run of this machine from the next; "" asks the kernel
}

// Host runs instances on this machine: each in a machine of its own, below a keeper process of its own, so that they go
// on while the server is restarted. See Keep.
type Host struct {
	o    HostOptions
	lock *os.File

	ctx     context.Context // of all the work in the background
	end     context.CancelFunc
	working sync.WaitGroup
	telling *teller

	mu        sync.Mutex
	instances map[instanceID]*instance
	spare     *recruit // started in advance; nil if there is none
	closed    bool

	preparing sync.Mutex // of artifacts
}

// instanceID tells instances apart.
type instanceID struct {
	release cd.ReleaseID
	service string
	index   int
}

// goneDir keeps the logs of instances that have ended, the latest.
const (
	goneDir  = "gone"
	goneKept = 50
)

// maxSocketPath is how long the path of a socket may be.
const maxSocketPath = 107

// NewHost opens the target of this host and finds what runs of an earlier one; what becomes of it is up to the first
// Ensure. It waits, as long as ctx allows, for another target of the same directory to let go.
func NewHost(ctx context.Context, o HostOptions) (_ *Host, err error) {
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.logFile == 0 {
		o.logFile = logFileSize
	}
	if o.boot == "" {
		o.boot = bootID()
	}
	if longest := filepath.Join(o.Dir, newDirID(), controlSocket); len(longest) > maxSocketPath {
		return nil, fmt.Errorf("%s is too long a path to run instances in: sockets are made there, and %d bytes is the most it may have", o.Dir, maxSocketPath-len(longest)+len(o.Dir))
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, goneDir), 0o700); err != nil {
		return nil, err
	}
	h := &Host{o: o, instances: map[instanceID]*instance{}}
	if h.lock, err = lockDir(ctx, o.Dir); err != nil {
		return nil, err
	}
	h.ctx, h.end = context.WithCancel(context.Background())
	h.telling = newTeller(o.Seen)
	if err := h.adopt(); err != nil {
		h.end()
		h.lock.Close()
		return nil, err
	}
	h.working.Go(func() { h.telling.run(h.ctx) })
	return h, nil
}

// bootID is the kernel's name for this run of the machine, "" where it has none.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// lockDir waits for the lock of a directory.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another server looks after the instances in %s: %w", dir, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// newDirID gives a name for an instance's directory.
func newDirID() string { return strings.ToLower(rand.Text()[:10]) }

// plain says that instances are plain processes of this user.
func (h *Host) plain() bool {
	_, ok := h.o.Provider.(*sandbox.None)
	return ok
}

// adopt finds the instances of an earlier target. What was made halfway is removed.
func (h *Host) adopt() error {
	entries, err := os.ReadDir(h.o.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == goneDir {
			continue
		}
		d := &home{dir: filepath.Join(h.o.Dir, e.Name())}
		if err := readJSON(filepath.Join(d.dir, specFile), &d.spec); err != nil {
			if err := h.discard(d, false); err != nil {
				h.o.Log("remove what is left of an instance: %v", err)
			}
			continue
		}
		id := d.spec.id()
		if other := h.instances[id]; other != nil { // its successor was made, and it was not yet removed
			if alive(d.dir) && !alive(other.home.dir) {
				other.home, d = d, other.home
			}
			h.working.Go(func() { h.removeSpare(d) })
			continue
		}
		h.instances[id] = newInstance(h, id, d)
	}
	return h.keepLayers()
}

// removeSpare ends an instance that is there twice.
func (h *Host) removeSpare(d *home) {
	err := h.halt(h.ctx, d)
	if err == nil {
		err = h.discard(d, false)
	}
	if err != nil {
		h.o.Log("remove an instance that is there twice: %v", err)
	}
}

// layerRef is what keeps an instance's layers: this, and the name of its directory.
const layerRef = "deploy/instance/"

// keepLayers forgets references of instances that are no more.
func (h *Host) keepLayers() error {
	if h.o.Layers == nil {
		return nil
	}
	names, err := h.o.Layers.Refs(layerRef)
	if err != nil {
		return err
	}
	for _, name := range names {
		_, err := os.Stat(filepath.Join(h.o.Dir, strings.TrimPrefix(name, layerRef)))
		if errors.Is(err, fs.ErrNotExist) {
			err = h.o.Layers.SetRef(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Ensure implements Target.
func (h *Host) Ensure(wanted []Wanted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	want := map[instanceID]*Wanted{}
	for _, w := range wanted {
		for _, id := range w.left() {
			if h.instances[id] == nil {
				h.telling.tell(id, cd.Instance{Index: id.index, State: cd.Stopped})
			}
		}
		w.Known = nil // no reason to try again what has just failed
		for _, id := range w.instances() {
			want[id] = &w
		}
	}
	for id, i := range h.instances {
		i.set(want[id])
	}
	for id, w := range want {
		if h.instances[id] == nil {
			h.instances[id] = newInstance(h, id, nil)
			h.instances[id].set(w)
		}
	}
	for _, i := range h.instances {
		if !i.tended {
			i.tended = true
			h.working.Go(func() { i.run(h.ctx) })
		}
	}
}

// forget lets go of an instance that has ended, unless it is wanted again.
func (h *Host) forget(i *instance) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i.wanted() != nil {
		return false
	}
	delete(h.instances, i.id)
	return true
}

// Admit says from which addresses instances may be connected to at the address of Listen, from now on; before the first call
// it is as the target before has said.
func (h *Host) Admit(from []netip.Addr) error {
	return writeJSON(filepath.Join(h.o.Dir, admitFile), from)
}

// Close implements Target.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.end()
	h.working.Wait()
	h.dropSpare()
	return h.lock.Close()
}

// Run implements Target.
func (h *Host) Run(ctx context.Context, w Wanted, command []string, output io.Writer) error {
	w.Revision.Command = command
	p, err := h.prepare(ctx, w.Revision, output)
	if err != nil {
		return err
	}
	secrets, err := h.secrets(ctx, w)
	if err != nil {
		return err
	}
	s, err := openStand(ctx, h.o.Provider, p, hostName(w.Service, 0))
	if err != nil {
		return err
	}
	out := &hidingWriter{to: output, hide: hider(secrets)}
	err = s.exec(ctx, command, s.environ(secrets, w.Revision.Port), out)
	return errors.Join(err, out.end(), s.close())
}

// secrets resolves the secrets of a revision.
func (h *Host) secrets(ctx context.Context, w Wanted) (map[string]string, error) {
	if len(w.Revision.Secrets) == 0 {
		return nil, nil
	}
	values, err := h.o.Secrets(ctx, w.Release, w.Service)
	if err != nil {
		return nil, fmt.Errorf("resolve the secrets of %s: %w", w.Service, err)
	}
	return values, nil
}

// followEvery is how often who follows a log looks for more.
const followEvery = 100 * time.Millisecond

// Logs implements Target. Of an instance that has ended they are there for a while.
func (h *Host) Logs(ctx context.Context, w Wanted, index int, lines int, follow bool, out io.Writer) error {
	id := instanceID{w.Release, w.Service, index}
	dir := h.logDir(id)
	if dir == "" {
		return fmt.Errorf("logs of %s %d of release %d: %w", w.Service, index, w.Release, fs.ErrNotExist)
	}
	r, err := readTail(dir, lines, out)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for err == nil && follow {
		over := filepath.Dir(r.dir) != h.o.Dir // nothing comes any more
		came, bad := r.more(out)
		if errors.Is(bad, fs.ErrNotExist) { // it was just moved away
			bad = nil
		}
		if err = bad; err != nil || over {
			break
		}
		if now := h.logDir(id); now != r.dir { // it has ended, or was made anew
			r.dir = now
			continue
		}
		if came {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return err
}

// logDir is where the log of an instance is; empty if there is none.
func (h *Host) logDir(id instanceID) string {
	h.mu.Lock()
	i := h.instances[id]
	h.mu.Unlock()
	if i != nil {
		if d := i.homeNow(); d != nil {
			return d.dir
		}
	}
	gone, latest, dir := filepath.Join(h.o.Dir, goneDir), time.Time{}, ""
	entries, err := os.ReadDir(gone)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		var spec instanceSpec
		info, err := e.Info()
		if err == nil && info.ModTime().After(latest) && readJSON(filepath.Join(gone, e.Name(), specFile), &spec) == nil && spec.id() == id {
			latest, dir = info.ModTime(), filepath.Join(gone, e.Name())
		}
	}
	return dir
}

// Running is how many instances there are.
func (h *Host) Running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, i := range h.instances {
		if i.homeNow() != nil {
			n++
		}
	}
	return n
}

// emptyEvery is how often Empty looks.
const emptyEvery = 20 * time.Millisecond

// Empty waits until no instance is left: after an Ensure of none. The error is why ctx has ended.
func (h *Host) Empty(ctx context.Context) error {
	tick := time.NewTicker(emptyEvery)
	defer tick.Stop()
	for {
		h.mu.Lock()
		left := len(h.instances)
		h.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d instances still run: %w", left, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
