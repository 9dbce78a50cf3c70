package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/penstock-ci/penstock/internal/layer"
)

// vertex is one step of the build graph.
type vertex struct {
	digest string
	op     *pb.Op
	name   string // as the Dockerfile has it: [2/4] RUN make
	fresh  bool   // nothing of an earlier build is taken
	inputs []edge
	solved func(ctx context.Context) ([]*result, error)
}

// edge is one output of a vertex.
type edge struct {
	digest string
	output int
}

// result is a file tree.
type result struct {
	key   string      // what it was made of
	base  string      // digest of the image below; empty for none
	below []layer.ID  // that image's layers
	above []layer.ID  // what was made on it, the lowest first
	local *contextDir // instead of all that: a build context
}

func (r *result) layers() []layer.ID { return append(slices.Clip(r.below), r.above...) }

// on gives a tree with one layer more.
func (r *result) on(key string, id layer.ID) *result {
	return &result{key: key, base: r.base, below: r.below, above: append(slices.Clip(r.above), id)}
}

// load reads the graph.
func (w *work) load(d *llb.Definition) error {
	if len(d.Def) > maxSteps {
		return fmt.Errorf("%s: more than %d steps", w.r.Name, maxSteps)
	}
	parallel := w.b.Parallel
	if parallel <= 0 {
		parallel = runtime.NumCPU()
	}
	w.slots = make(chan struct{}, parallel)
	w.ops, w.source = map[string]*vertex{}, d.Source
	for _, text := range d.Def {
		var op pb.Op
		if err := op.UnmarshalVT(text); err != nil {
			return fmt.Errorf("read the build graph: %w", err)
		}
		id := digest.FromBytes(text)
		v := &vertex{digest: string(id), op: &op}
		meta := d.Metadata[id]
		v.name, v.fresh = meta.Description["llb.customname"], meta.IgnoreCache || w.r.NoCache || w.stale(meta.Description["com.docker.dockerfile.v1.command"], meta.Description["llb.customname"])
		for _, in := range op.Inputs {
			v.inputs = append(v.inputs, edge{in.Digest, int(in.Index)})
		}
		w.ops[v.digest] = v
		w.order = append(w.order, v)
	}
	if len(w.order) == 0 {
		return nil // FROM scratch and nothing else
	}
	last := w.order[len(w.order)-1] // names the result, and is nothing itself
	if last.op.Op != nil || len(last.inputs) != 1 {
		return errors.New("read the build graph: it has no result")
	}
	w.root = last.inputs[0]
	w.order = w.order[:len(w.order)-1]
	for _, v := range w.order {
		v.solved = onceWith(func(ctx context.Context) ([]*result, error) { return w.run(ctx, v) })
	}
	return nil
}

// stale says whether a step belongs to a stage that is to be built anew: [stage 2/4] RUN ...
func (w *work) stale(_, name string) bool {
	return slices.ContainsFunc(w.r.Stale, func(stage string) bool { return strings.HasPrefix(name, "["+stage+" ") })
}

// onceWith runs do once, for whoever asks first; all get what it gave.
func onceWith[T any](do func(ctx context.Context) (T, error)) func(ctx context.Context) (T, error) {
	var once sync.Once
	var v T
	var err error
	return func(ctx context.Context) (T, error) {
		once.Do(func() { v, err = do(ctx) })
		return v, err
	}
}

// solve gives the tree that the build is for.
func (w *work) solve(ctx context.Context) (*result, error) {
	if w.root.digest == "" {
		return &result{key: "scratch"}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return w.result(ctx, w.root)
}

func (w *work) result(ctx context.Context, e edge) (*result, error) {
	v := w.ops[e.digest]
	if v == nil || v.solved == nil {
		return nil, errors.New("the build graph names a step that it does not have")
	}
	out, err := v.solved(ctx)
	if err != nil {
		return nil, err
	}
	if e.output < 0 || e.output >= len(out) || out[e.output] == nil {
		return nil, fmt.Errorf("%s: it has no output %d", v.name, e.output)
	}
	return out[e.output], nil
}

// run carries a step out once its inputs are there; those are made at the same time.
func (w *work) run(ctx context.Context, v *vertex) ([]*result, error) {
	inputs := make([]*result, len(v.inputs))
	errs := make([]error, len(v.inputs))
	var all sync.WaitGroup
	for i, e := range v.inputs {
		all.Go(func() { inputs[i], errs[i] = w.result(ctx, e) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err // the first says why; the others may only have been stopped
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	switch op := v.op.Op.(type) {
	case *pb.Op_Source:
		out, err := w.fetch(ctx, v, op.Source)
		return []*result{out}, w.at(v, err)
	case *pb.Op_Merge:
		return []*result{merge(inputs)}, nil
	case *pb.Op_Diff:
		out, err := diff(op.Diff, inputs)
		return []*result{out}, w.at(v, err)
	case *pb.Op_File:
		out, err := w.cached(ctx, v, inputs, func(ctx context.Context, step *Step) (*result, layer.ID, error) {
			return w.changeFiles(ctx, op.File, inputs)
		})
		return []*result{out}, w.at(v, err)
	case *pb.Op_Exec:
		out, err := w.cached(ctx, v, inputs, func(ctx context.Context, step *Step) (*result, layer.ID, error) {
			return w.exec(ctx, op.Exec, inputs, step)
		})
		return execOutputs(op.Exec, out), w.at(v, err)
	}
	return nil, w.at(v, fmt.Errorf("a step of this kind %w", errUnsupported))
}

// merge puts trees on top of each other: the first brings its image, the others what was made on nothing.
func merge(inputs []*result) *result {
	sum := sha256.New()
	out := &result{}
	for i, in := range inputs {
		fmt.Fprintf(sum, "merge %s\n", in.key)
		if i == 0 {
			out.base, out.below, out.above = in.base, in.below, slices.Clone(in.above)
			continue
		}
		out.above = append(out.above, in.layers()...)
	}
	out.key = hex.EncodeToString(sum.Sum(nil))
	return out
}

// diff gives what the upper tree has on the lower one that it was made of.
func diff(op *pb.DiffOp, inputs []*result) (*result, error) {
	pick := func(i int64) *result {
		if i < 0 || int(i) >= len(inputs) {
			return &result{key: "scratch"}
		}
		return inputs[i]
	}
	lower, upper := pick(op.GetLower().GetInput()), pick(op.GetUpper().GetInput())
	low, up := lower.layers(), upper.layers()
	if len(low) > len(up) || !slices.Equal(low, up[:len(low)]) {
		return nil, fmt.Errorf("the difference of trees of which one was not made of the other %w", errUnsupported)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "diff %s %s", lower.key, upper.key))
	return &result{key: hex.EncodeToString(sum[:]), above: slices.Clone(up[len(low):])}, nil
}

// cached takes the layer that a step made from an earlier build, or has it made. do gives the tree that the layer lies on.
func (w *work) cached(ctx context.Context, v *vertex, inputs []*result, do func(ctx context.Context, step *Step) (on *result, id layer.ID, err error)) (*result, error) {
	key, err := w.key(v, inputs)
	if err != nil {
		return nil, err
	}
	step := w.p.begin(v.name)
	on := root(v.op, inputs)
	if ids, err := w.b.Layers.Ref(cacheName(key)); err == nil && len(ids) == 1 && !v.fresh {
		if _, err := w.b.Layers.Layer(ids[0]); err == nil {
			step.cached()
			return on.on(key, ids[0]), nil
		}
	}
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	on, id, err := do(ctx, step)
	if err == nil {
		err = w.b.Layers.SetRef(cacheName(key), id)
	}
	if err != nil {
		step.fail(err)
		return nil, err
	}
	step.done()
	return on.on(key, id), nil
}

// key names what a step makes: by the step and by what it is made of. Of a build context just the files count that it
// may see, by their content.
func (w *work) key(v *vertex, inputs []*result) (string, error) {
	sum := sha256.New()
	op := v.op.CloneVT()
	op.Inputs = nil
	text, err := op.MarshalVT()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(sum, "penstock build 1\n%d\n", len(text))
	sum.Write(text)
	for i, in := range inputs {
		key := in.key
		if in.local != nil {
			if key, err = in.local.sum(seen(v.op, i)); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(sum, "input %s\n", key)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
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

// root is the tree that a step changes.
func root(op *pb.Op, inputs []*result) *result {
	at := int64(-1)
	switch op := op.Op.(type) {
	case *pb.Op_File:
		if len(op.File.Actions) > 0 {
			at = op.File.Actions[0].Input
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.Dest == "/" {
				at = m.Input
			}
		}
	}
	if at < 0 || int(at) >= len(inputs) {
		return &result{key: "scratch"}
	}
	return inputs[at]
}
