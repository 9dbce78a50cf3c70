package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// secret brings a secret into the machine's memory for the time of the step.
func (e *execution) secret(ctx context.Context, o *pb.SecretOpt) (*sandbox.Mount, error) {
	value, ok := e.w.r.Secrets[o.GetID()]
	if !ok {
		if o.GetOptional() {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %s: not found", o.GetID())
	}
	e.w.mu.Lock()
	e.w.places++
	dir := path.Join(e.m.Info().Files, fmt.Sprintf("secret-%d", e.w.places))
	e.w.mu.Unlock()
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err := t.WriteHeader(&tar.Header{Name: "value", Mode: int64(o.Mode & 0o777), Size: int64(len(value)), ModTime: time.Now()})
	if err == nil {
		_, err = t.Write(value)
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return nil, err
	}
	if err := e.m.Put(ctx, dir, &b); err != nil {
		return nil, err
	}
	if o.Uid != 0 || o.Gid != 0 {
		err := e.m.Exec(ctx, sandbox.Command{Args: []string{"chown", fmt.Sprintf("%d:%d", o.Uid, o.Gid), path.Join(dir, "value")}, Env: []string{"PATH=" + e.m.Info().Path}, Dir: "/"})
		if err != nil {
			return nil, fmt.Errorf("give it to user %d: %w", o.Uid, err)
		}
	}
	e.ended = append(e.ended, func() { // it is gone with the machine at the latest
		if d, ok := e.m.(sandbox.Direct); ok && d.Files() != nil {
			_ = d.Files().RemoveAll(path.Base(dir))
		}
	})
	return &sandbox.Mount{Source: path.Join(dir, "value"), ReadOnly: true}, nil
}

// sharedCache is the content of a cache mount in the machine, which several steps of one build may write to at once.
type sharedCache struct {
	at    string
	users int
	ready func(context.Context) error
}

// cacheUse is a cache mount of one step.
type cacheUse struct {
	id      string
	sharing pb.CacheSharingOpt
	shared  *sharedCache
	own     bool // private, while another step has it: nothing of it is kept
	unlock  func()
}

// mountRef is where the content of a cache mount is kept.
func (w *work) mountRef(id string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", w.r.Scope, id))
	return mountRefs + hex.EncodeToString(sum[:])
}

// lockCaches takes the caches that one step at a time may have, always in the same order.
func (e *execution) lockCaches(ctx context.Context) error {
	ids := map[string]pb.CacheSharingOpt{}
	for _, m := range e.op.Mounts {
		if m.MountType == pb.MountType_CACHE {
			id := m.CacheOpt.GetID()
			if s, ok := ids[id]; !ok || s != pb.CacheSharingOpt_LOCKED {
				ids[id] = m.CacheOpt.GetSharing()
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		c := &cacheUse{id: id, sharing: ids[id], unlock: func() {}}
		if c.sharing == pb.CacheSharingOpt_LOCKED {
			unlock, err := e.w.b.lock(ctx, e.w.mountRef(id))
			if err != nil {
				return fmt.Errorf("wait for cache %s: %w", id, err)
			}
			c.unlock = unlock
			e.ended = append(e.ended, unlock)
		}
		e.caches[id] = c
	}
	return nil
}

// cache mounts what earlier steps and builds left in a cache. Steps of one build share it; builds at the same time each
// go on from what was there, and the one that ends last is kept.
func (e *execution) cache(ctx context.Context, m *pb.Mount) (*sandbox.Mount, error) {
	c := e.caches[m.CacheOpt.GetID()]
	if c.shared == nil {
		on, err := e.w.layered(ctx, input(e.inputs, m.Input))
		if err != nil {
			return nil, err
		}
		e.share(c, on)
	}
	if err := c.shared.ready(ctx); err != nil {
		return nil, err
	}
	return &sandbox.Mount{Source: path.Join(c.shared.at, path.Join("/", m.Selector)), ReadOnly: m.Readonly}, nil
}

// share finds out where a cache is in the machine; on is what it begins with.
func (e *execution) share(c *cacheUse, on *result) {
	w := e.w
	at := w.place(e.m)
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.caches[c.id]
	if known != nil && c.sharing == pb.CacheSharingOpt_PRIVATE {
		known, c.own = nil, true
	}
	if known == nil {
		known = &sharedCache{at: at, ready: once(func(ctx context.Context) error {
			ref := w.mountRef(c.id)
			w.b.use(ref)
			ids, err := w.b.Layers.Ref(ref)
			if err != nil || c.own {
				ids = on.layers()
			}
			return e.m.(sandbox.Layered).Mount(ctx, at, ids...)
		})}
		if !c.own {
			w.caches[c.id] = known
		}
	}
	known.users++
	c.shared = known
}

// once is onceWith for what gives nothing but an error.
func once(do func(context.Context) error) func(context.Context) error {
	done := onceWith(func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return func(ctx context.Context) error {
		_, err := done(ctx)
		return err
	}
}

// keep makes the content the next one's, when no other step of the build writes to it any more.
func (c *cacheUse) keep(ctx context.Context, w *work) error {
	if c.shared == nil {
		return nil
	}
	w.mu.Lock()
	c.shared.users--
	last := c.shared.users == 0
	if last && !c.own {
		delete(w.caches, c.id)
	}
	w.mu.Unlock()
	if !last || c.own {
		return nil
	}
	m, err := w.open(ctx)
	if err != nil {
		return err
	}
	var id layer.ID
	if id, err = m.(sandbox.Layered).Capture(ctx, c.shared.at); err == nil {
		err = w.b.Layers.SetRef(w.mountRef(c.id), id)
	}
	if err != nil {
		return fmt.Errorf("keep cache %s: %w", c.id, err)
	}
	return nil
}

// lockPoll is how often a lock that another process has is tried.
const lockPoll = 50 * time.Millisecond

// lock takes a cache for one step alone, in this process and, if there is a directory for that, in all.
func (b *Builder) lock(ctx context.Context, ref string) (unlock func(), err error) {
	b.mu.Lock()
	if b.locks == nil {
		b.locks = map[string]chan struct{}{}
	}
	token := b.locks[ref]
	if token == nil {
		token = make(chan struct{}, 1)
		b.locks[ref] = token
	}
	b.mu.Unlock()
	select {
	case token <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	free := func() { <-token }
	if b.Dir == "" {
		return free, nil
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		free()
		return nil, err
	}
	file := flock.New(filepath.Join(b.Dir, path.Base(ref)))
	if _, err := file.TryLockContext(ctx, lockPoll); err != nil {
		free()
		return nil, err
	}
	return func() {
		_ = file.Close() // the kernel gives it up with the file
		free()
	}, nil
}
