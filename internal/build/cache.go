package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/penstock-ci/penstock/internal/layer"
)

// cachedStep is a step whose result is kept: under the hash of what it does and of what it was made of, its layer. What
// it was made of is told by layers again (layer:ID), by contents (files:HASH, file:HASH, image:DIGEST), or by such put
// together. A step that is made anew is another layer, so nothing is taken that was made of the old one.
type cachedStep struct {
	Op     string   `json:"op"`
	Inputs []string `json:"inputs"`
	Layer  layer.ID `json:"layer"`
	// id is what stands for it among the inputs of others: its layer, of which there is none other on another tree; for one
	// of elsewhere, whose layer may be that of several steps, also what it was made of.
	id string
}

// References in the layer store: steps, the same by their content, build contexts, and cache mounts.
const (
	stepRefs    = "build/step/"
	contentRefs = "build/content/"
	contextRefs = "build/context/"
	mountRefs   = "build/mount/"
)

func (s *cachedStep) ref() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", s.Op)
	for _, in := range s.Inputs {
		fmt.Fprintf(sum, "%s\n", in)
	}
	return stepRefs + hex.EncodeToString(sum.Sum(nil))
}

// earlier completes a step that was made before, here or where an imported cache comes from.
func (w *work) earlier(c *cachedStep) bool {
	ref := c.ref()
	if id, ok := w.kept(ref); ok {
		c.Layer, c.id = id, layerID(id)
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.imported[ref]
	if ok {
		c.Layer, c.id = id, layerID(id)+"/"+strings.TrimPrefix(ref, stepRefs)
	}
	return ok
}

// kept gives the layer that a reference names, if it is there, and keeps it while the build lasts.
func (w *work) kept(ref string) (layer.ID, bool) {
	ids, err := w.b.Layers.Ref(ref)
	if err != nil || len(ids) != 1 || w.use(ids[0]) != nil {
		return "", false
	}
	if _, err := w.b.Layers.Layer(ids[0]); err != nil {
		return "", false
	}
	w.b.use(ref)
	return ids[0], true
}

// cached takes the layer that a step made from an earlier build, or has it made.
func (w *work) cached(ctx context.Context, v *vertex, inputs []*result, do func(ctx context.Context, step *Step) (layer.ID, error)) (*result, error) {
	c, err := w.describe(v, inputs)
	if err != nil {
		return nil, err
	}
	on, err := w.layered(ctx, root(v.op, inputs))
	if err != nil {
		return nil, err
	}
	if !v.fresh {
		if w.earlier(c) {
			w.p.begin(v.name).cached()
			w.noteStep(c)
			return on.with(c.Layer, c.id), nil
		}
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	step := w.p.begin(v.name)
	id, err := do(ctx, step)
	if err == nil && v.op.GetFile() != nil {
		id, err = w.same(on, id)
	}
	if err == nil {
		err = w.b.Layers.SetRef(c.ref(), id)
	}
	if err == nil {
		err = w.use(id)
	}
	switch {
	case err == nil:
		step.done()
	case ctx.Err() != nil:
		step.canceled()
		return nil, err
	default:
		step.fail(err)
		return nil, err
	}
	c.Layer, c.id = id, layerID(id)
	w.noteStep(c)
	return on.with(id, c.id), nil
}

func (w *work) noteStep(c *cachedStep) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, *c)
}

func (w *work) cachedSteps() []cachedStep {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps
}

// describe says what a step's result depends on: what it does, and what it is made of. Of a build context just the
// files count that it may see.
func (w *work) describe(v *vertex, inputs []*result) (*cachedStep, error) {
	op := v.op.CloneVT()
	op.Inputs = nil
	if e := op.GetExec(); e != nil && e.Meta != nil {
		e.Meta.ProxyEnv = nil // the way to the network is not what is made
	}
	text, err := op.MarshalVT()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("penstock build 2\n"), text...))
	c := &cachedStep{Op: hex.EncodeToString(sum[:])}
	for i, in := range inputs {
		id := in.id
		if in.files != nil {
			content, err := in.files.sum(seen(v.op, i))
			if err != nil {
				return nil, err
			}
			id = "files:" + content
		}
		c.Inputs = append(c.Inputs, id)
	}
	return c, nil
}

// seen are the paths of an input that a step looks at; none is all.
func seen(op *pb.Op, input int) (paths []string) {
	switch op := op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			if c := a.GetCopy(); c != nil && int(a.SecondaryInput) == input {
				paths = append(paths, c.Src)
			}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if int(m.Input) == input {
				paths = append(paths, m.Selector)
			}
		}
	}
	return paths
}

// same gives the layer that an earlier copy made on the same tree with the same content, so that what was made on that
// one is found again, or the layer itself. Times do not count, as in BuildKit.
func (w *work) same(on *result, id layer.ID) (layer.ID, error) {
	sum, err := w.b.contentOf(id)
	if err != nil {
		return id, nil // files that only the machine's users may read: it is a layer of its own
	}
	key := sha256.Sum256([]byte(on.id + " " + sum))
	ref := contentRefs + hex.EncodeToString(key[:])
	if old, ok := w.kept(ref); ok {
		return old, nil
	}
	return id, w.b.Layers.SetRef(ref, id)
}

// hashFile is the hash of a regular file's bytes.
func hashFile(root *os.Root, name string) (string, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// openRegular opens a file that must be regular: a pipe that took its place is not waited for.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// PruneOptions say what Prune may remove.
type PruneOptions struct {
	Mounts bool          // the content of cache mounts too
	Unused time.Duration // only what was not used for so long; 0 is everything
}

// Prune removes what earlier builds keep. The space is given back by the layer store's Collect. It gives how many steps,
// contexts and mounts were removed. A build at the same time keeps what it uses.
func (b *Builder) Prune(ctx context.Context, o PruneOptions) (int, error) {
	refs, err := b.Layers.Refs("build/")
	if err != nil {
		return 0, fmt.Errorf("prune builds: %w", err)
	}
	removed := 0
	for _, ref := range refs {
		if err := context.Cause(ctx); err != nil {
			return removed, err
		}
		if strings.HasPrefix(ref, mountRefs) && !o.Mounts || o.Unused > 0 && time.Since(b.lastUsed(ref)) < o.Unused {
			continue
		}
		if err := b.Layers.SetRef(ref); err != nil {
			return removed, fmt.Errorf("prune builds: %w", err)
		}
		if b.Dir != "" {
			_ = os.Remove(b.usedFile(ref)) // it may never have been used again
		}
		removed++
	}
	return removed, nil
}

func (b *Builder) usedFile(ref string) string {
	return filepath.Join(b.Dir, "used", strings.ReplaceAll(strings.TrimPrefix(ref, "build/"), "/", "-"))
}

// use notes that a reference was of use now: its file's time says when.
func (b *Builder) use(ref string) {
	if b.Dir == "" {
		return
	}
	name, now := b.usedFile(ref), time.Now()
	if os.Chtimes(name, now, now) == nil || os.MkdirAll(filepath.Dir(name), 0o700) != nil {
		return
	}
	_ = os.WriteFile(name, nil, 0o600) // if it can not be noted, Prune takes the time when the layer was made
}

// lastUsed is when a reference was of use, or made.
func (b *Builder) lastUsed(ref string) time.Time {
	if b.Dir != "" {
		if info, err := os.Stat(b.usedFile(ref)); err == nil {
			return info.ModTime()
		}
	}
	ids, err := b.Layers.Ref(ref)
	if err != nil || len(ids) == 0 {
		return time.Time{}
	}
	l, err := b.Layers.Layer(ids[len(ids)-1])
	if err != nil {
		return time.Time{}
	}
	return l.Created
}
