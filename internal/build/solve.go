package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
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
	id    string     // what it is, among all results of this store: see cachedStep
	base  string     // digest of the image below; empty for none
	below []layer.ID // that image's layers
	above []layer.ID // what was made on it, the lowest first
	files *tree      // instead of all that: what a build context has
}

// nothing is the tree of FROM scratch.
var nothing = result{id: "scratch"}

func (r *result) layers() []layer.ID { return append(slices.Clip(r.below), r.above...) }

// distinct gives the layers of an image each once, the topmost of those that it has several times.
func distinct(ids []layer.ID) []layer.ID {
	var once []layer.ID
	for i, id := range ids {
		if !slices.Contains(ids[i+1:], id) {
			once = append(once, id)
		}
	}
	return once
}

// with gives a tree with one layer more.
func (r *result) with(id layer.ID, as string) *result {
	return &result{id: as, base: r.base, below: r.below, above: append(slices.Clip(r.above), id)}
}

func layerID(id layer.ID) string { return "layer:" + string(id) }

// solve gives the tree that the build is for.
func (w *work) solve(ctx context.Context) (*dockerfile2llb.Result, *result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	meant, definition, err := w.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	w.source = definition.Source
	graph := definition.ToPB()
	root, err := w.load(graph.Def, graph.Metadata)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range w.vertices {
		v.solved = stopping(cancel, v.solved)
	}
	if root.digest == "" {
		return meant, &nothing, nil // FROM scratch and nothing else
	}
	tree, err := w.result(ctx, root)
	if err == nil && tree.files != nil {
		tree, err = w.layered(ctx, tree)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // the first that failed, not one that was stopped for it
	}
	return meant, tree, err
}

// stopping stops the whole build when a step fails.
func stopping(cancel context.CancelCauseFunc, solve func(context.Context) ([]*result, error)) func(context.Context) ([]*result, error) {
	return func(ctx context.Context) ([]*result, error) {
		out, err := solve(ctx)
		if err != nil {
			cancel(err)
		}
		return out, err
	}
}

// load reads a graph and gives what it is for.
func (w *work) load(def [][]byte, metadata map[string]*pb.OpMetadata) (edge, error) {
	if len(def) > maxSteps {
		return edge{}, fmt.Errorf("%s: more than %d steps", w.r.Name, maxSteps)
	}
	if len(def) == 0 {
		return edge{}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var last *vertex
	for _, text := range def {
		var op pb.Op
		if err := op.UnmarshalVT(text); err != nil {
			return edge{}, fmt.Errorf("read the build graph: %w", err)
		}
		v := &vertex{digest: digest.FromBytes(text).String(), op: &op}
		meta := metadata[v.digest]
		v.name, v.fresh = meta.GetDescription()["llb.customname"], meta.GetIgnoreCache()
		for _, in := range op.Inputs {
			v.inputs = append(v.inputs, edge{in.Digest, int(in.Index)})
		}
		v.solved = onceWith(func(ctx context.Context) ([]*result, error) { return w.run(ctx, v) })
		last = v
		if known := w.vertices[v.digest]; known == nil && op.Op != nil {
			w.vertices[v.digest] = v
		}
	}
	if last.op.Op != nil || len(last.inputs) != 1 { // the last names the result, and is nothing itself
		return edge{}, errors.New("read the build graph: it has no result")
	}
	return last.inputs[0], nil
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

func (w *work) result(ctx context.Context, e edge) (*result, error) {
	w.mu.Lock()
	v := w.vertices[e.digest]
	w.mu.Unlock()
	if v == nil {
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
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	out, err := w.carryOut(ctx, v, inputs)
	return out, w.at(v, err)
}

func (w *work) carryOut(ctx context.Context, v *vertex, inputs []*result) ([]*result, error) {
	switch op := v.op.Op.(type) {
	case *pb.Op_Source:
		out, err := w.fetch(ctx, v, op.Source)
		return []*result{out}, err
	case *pb.Op_Merge:
		out, err := w.merge(ctx, inputs)
		return []*result{out}, err
	case *pb.Op_Diff:
		out, err := diff(op.Diff, inputs)
		return []*result{out}, err
	case *pb.Op_File:
		out, err := w.cached(ctx, v, inputs, func(ctx context.Context, step *Step) (layer.ID, error) {
			return w.changeFiles(ctx, op.File, inputs)
		})
		return []*result{out}, err
	case *pb.Op_Exec:
		out, err := w.cached(ctx, v, inputs, func(ctx context.Context, step *Step) (layer.ID, error) {
			return w.exec(ctx, op.Exec, inputs, step)
		})
		return execOutputs(op.Exec, out), err
	}
	return nil, fmt.Errorf("a step of this kind %w", errUnsupported)
}

// execOutputs puts the one tree that RUN makes where the graph looks for it.
func execOutputs(op *pb.ExecOp, out *result) []*result {
	var all []*result
	for _, m := range op.Mounts {
		if m.Output < 0 || m.Output > maxSteps {
			continue
		}
		for len(all) <= int(m.Output) {
			all = append(all, nil)
		}
		if m.Dest == "/" {
			all[m.Output] = out
		}
	}
	return all
}

// merge puts trees on top of each other: the first brings its image, the others what was made on nothing.
func (w *work) merge(ctx context.Context, inputs []*result) (*result, error) {
	var out *result
	for i, in := range inputs {
		in, err := w.layered(ctx, in)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out = in
			continue
		}
		layers := in.layers()
		if slices.ContainsFunc(layers, func(id layer.ID) bool { return slices.Contains(out.layers(), id) }) {
			if out, err = w.copyOnto(ctx, out, in); err != nil { // a stack has no layer twice
				return nil, err
			}
			continue
		}
		out = &result{id: "merge(" + out.id + "," + in.id + ")", base: out.base, below: out.below, above: append(slices.Clip(out.above), layers...)}
	}
	return out, nil
}

// copyOnto gives a tree with a copy of another on top.
func (w *work) copyOnto(ctx context.Context, on, from *result) (*result, error) {
	all := &pb.FileActionCopy{Src: "/", Dest: "/", DirCopyContents: true, CreateDestPath: true, AlwaysReplaceExistingDestPaths: true, Mode: -1, Timestamp: -1}
	op := &pb.FileOp{Actions: []*pb.FileAction{{Input: 0, SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: all}}}}
	id, err := w.changeFiles(ctx, op, []*result{on, from})
	if err != nil {
		return nil, err
	}
	if id, err = w.same(on, id); err != nil {
		return nil, err
	}
	return on.with(id, layerID(id)), w.use(id)
}

// diff gives what the upper tree has on the lower one that it was made of.
func diff(op *pb.DiffOp, inputs []*result) (*result, error) {
	lower, upper := input(inputs, op.GetLower().GetInput()), input(inputs, op.GetUpper().GetInput())
	low, up := lower.layers(), upper.layers()
	if lower.files != nil || upper.files != nil || len(low) > len(up) || !slices.Equal(low, up[:len(low)]) {
		return nil, fmt.Errorf("the difference of trees of which one was not made of the other %w", errUnsupported)
	}
	return &result{id: "diff(" + lower.id + "," + upper.id + ")", above: slices.Clone(up[len(low):])}, nil
}

// input is one of a step's inputs; an index below zero stands for nothing.
func input(inputs []*result, i int64) *result {
	if i < 0 || int(i) >= len(inputs) {
		return &nothing
	}
	return inputs[i]
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
	return input(inputs, at)
}
