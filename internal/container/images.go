package container

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	units "github.com/docker/go-units"

	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Images are the images of a store, unpacked for machines of this host.
type Images struct{ Store *image.Store }

// progressEvery is how often a pull that lasts is told of.
const progressEvery = 5 * time.Second

// Image gets an image, from a registry if it is not here, and unpacks it. login may be nil. A line on out says what is
// done, and for long work how far it is.
func (s Images) Image(ctx context.Context, ref string, login *image.Credentials, out io.Writer) (Image, error) {
	if login != nil && login.Username == "" && login.Password == "" {
		login = nil
	}
	began := time.Now()
	p := &progress{out: out, ref: ref, last: began}
	img, err := s.Store.Pull(ctx, ref, image.PullOptions{Credentials: login, Progress: p.tell})
	if err != nil {
		return Image{}, err
	}
	layers, err := s.Store.Layers(ctx, img)
	if err != nil {
		return Image{}, err
	}
	how := "is here"
	if p.pulled() {
		how = fmt.Sprintf("pulled in %s", time.Since(began).Round(10*time.Millisecond))
	}
	fmt.Fprintf(out, "%s: %s, %s, %s\n", ref, img.Digest, units.HumanSize(float64(img.Size)), how)
	return Image{Image: sandbox.Image{Ref: img.Name, Layers: layers}, Config: img.Config}, nil
}

// progress tells of a pull now and then.
type progress struct {
	out io.Writer
	ref string

	mu    sync.Mutex
	last  time.Time
	bytes int64
}

func (p *progress) tell(now image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes = max(p.bytes, now.Done)
	if time.Since(p.last) < progressEvery {
		return
	}
	p.last = time.Now()
	if now.Unpacking {
		fmt.Fprintf(p.out, "%s: unpacking (%d of %d layers)\n", p.ref, now.LayersDone, now.Layers)
		return
	}
	fmt.Fprintf(p.out, "%s: %s of %s\n", p.ref, units.HumanSize(float64(now.Done)), units.HumanSize(float64(now.Total)))
}

func (p *progress) pulled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes > 0
}
