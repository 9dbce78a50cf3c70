package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
)

// CacheSource is a cache that WriteCache wrote, on this machine or another.
type CacheSource struct {
	Name string // for messages
	// Open gives the archive. A cache that can not be read is told as a note: a build goes on without it.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// cacheLabel is where the image that a cache travels as says what its layers are: cachedSteps as JSON, each step's layer
// by its index. An input that is a step's layer is step:INDEX.
const cacheLabel = "penstock.build.cache"

// layerMention finds layers in what a step was made of.
var layerMention = regexp.MustCompile(`layer:[0-9a-f]+(/[0-9a-f]+)?`)

// stepMention finds what those became on the way.
var stepMention = regexp.MustCompile(`step:[0-9]+`)

// WriteCache writes the steps of a build as an archive: an image (as Store.Save writes it) of their layers, which a build
// elsewhere takes with CacheFrom. It is a format of our own; the archive's own layout is OCI's.
func (b *Builder) WriteCache(ctx context.Context, r *Result, out io.Writer) error {
	var layers []layer.ID
	index := map[string]string{}
	steps := make([]cachedStep, 0, len(r.steps))
	for i, s := range r.steps { // a step comes after those that it was made of
		s.Inputs = slices.Clone(s.Inputs)
		for j, in := range s.Inputs {
			s.Inputs[j] = layerMention.ReplaceAllStringFunc(in, func(mention string) string {
				if step, ok := index[mention]; ok {
					return step
				}
				return mention // of a step that is not among these, which no other store has
			})
		}
		if _, ok := index[s.id]; !ok {
			index[s.id] = fmt.Sprintf("step:%d", i)
		}
		at := slices.Index(layers, s.Layer)
		if at < 0 {
			at, layers = len(layers), append(layers, s.Layer)
		}
		s.Layer = layer.ID(strconv.Itoa(at))
		steps = append(steps, s)
	}
	text, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("write the build cache: %w", err)
	}
	config := v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Labels: map[string]string{cacheLabel: string(text)}}}
	img, err := b.Images.Commit(ctx, image.Commit{Config: config, Layers: layers, Created: time.Unix(0, 0).UTC()})
	if err == nil {
		err = b.Images.Save(ctx, out, img.Digest)
	}
	if err != nil {
		return fmt.Errorf("write the build cache: %w", err)
	}
	return nil
}

// takeCache reads a cache. It counts for this build alone: who wrote it may say that a step's result is anything, which
// other builds must not be told.
func (w *work) takeCache(ctx context.Context, from CacheSource) {
	step := w.p.begin("importing cache from " + from.Name)
	n, err := w.readCache(ctx, from)
	if err != nil {
		step.say("not taken: %v", err)
	} else {
		step.say("%d steps", n)
	}
	step.done()
}

func (w *work) readCache(ctx context.Context, from CacheSource) (int, error) {
	in, err := from.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	images, err := w.b.Images.Load(ctx, in)
	if err != nil {
		return 0, err
	}
	taken := 0
	for _, img := range images {
		var steps []cachedStep
		if err := json.Unmarshal([]byte(img.Config.Labels[cacheLabel]), &steps); err != nil {
			return taken, fmt.Errorf("it is no build cache of penstock: %w", err)
		}
		layers, err := w.b.Images.Layers(ctx, img)
		if err != nil {
			return taken, err
		}
		if err := w.use(layers...); err != nil {
			return taken, err
		}
		n, err := w.takeSteps(steps, layers)
		taken += n
		if err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// takeSteps notes steps of elsewhere under what this store knows them by. What it has of its own goes before.
func (w *work) takeSteps(steps []cachedStep, layers []layer.ID) (int, error) {
	here := make([]string, len(steps))
	for i, s := range steps {
		at, err := strconv.Atoi(string(s.Layer))
		if err != nil || at < 0 || at >= len(layers) {
			return i, fmt.Errorf("its step %d has no layer", i)
		}
		for j, in := range s.Inputs {
			s.Inputs[j] = stepMention.ReplaceAllStringFunc(in, func(mention string) string {
				if n, err := strconv.Atoi(mention[len("step:"):]); err == nil && n < i {
					return here[n]
				}
				return mention
			})
		}
		w.mu.Lock()
		if ref := s.ref(); w.imported[ref] == "" {
			w.imported[ref] = layers[at]
		}
		w.mu.Unlock()
		if !w.earlier(&s) {
			return i, fmt.Errorf("its step %d is not known", i)
		}
		here[i] = s.id
	}
	return len(steps), nil
}
